//! When a certificate ends: the second time of its validity (RFC 5280 4.1). Nothing else of it is read here; what it is
//! worth, the TLS library judges.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate in DER; `None` when it is none.
pub(super) fn of(certificate: &[u8]) -> Option<Timestamp> {
    let (signed, _) = value(SEQUENCE, certificate)?;
    let (mut fields, _) = value(SEQUENCE, signed)?;
    if let Some((_, behind)) = value(VERSION, fields) {
        fields = behind;
    }
    let (_serial, fields) = value(INTEGER, fields)?;
    let (_algorithm, fields) = value(SEQUENCE, fields)?;
    let (_issuer, fields) = value(SEQUENCE, fields)?;
    let (validity, _) = value(SEQUENCE, fields)?;
    let (_, not_before_length) = element(validity)?;
    time(validity.get(not_before_length..)?)
}

/// The value of the element that begins here, which must have this tag, and what is behind it.
fn value(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, length) = element(bytes)?;
    if bytes.first() == Some(&tag) { Some((content, bytes.get(length..)?)) } else { None }
}

/// The value of the element that begins here, and the length of the whole element.
fn element(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let first = usize::from(*bytes.get(1)?);
    let (begin, length) = if first < 0x80 {
        (2, first)
    } else {
        let octets = first & 0x7f;
        let written = bytes.get(2..2 + octets)?;
        if octets > 4 {
            return None;
        }
        (2 + octets, written.iter().fold(0, |length, octet| (length << 8) | usize::from(*octet)))
    };
    let end = begin.checked_add(length)?;
    Some((bytes.get(begin..end)?, end))
}

/// `YYMMDDhhmmssZ` with years from 1950 to 2049, or `YYYYMMDDhhmmssZ`.
fn time(bytes: &[u8]) -> Option<Timestamp> {
    let (text, _) = element(bytes)?;
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match *bytes.first()? {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let mut parts = (0..5).map(|part| rest.get(part * 2..part * 2 + 2)?.parse::<i8>().ok());
    let mut next = || parts.next().flatten();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    let at = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    TimeZone::UTC.to_timestamp(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(not_after: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82, length[0], length[1]], content].concat()
        };
        let not_before = wrap(UTC_TIME, b"240101000000Z");
        let validity = wrap(SEQUENCE, &[not_before, not_after.to_vec()].concat());
        let fields = [
            wrap(VERSION, &[INTEGER, 1, 2]),
            wrap(INTEGER, &[7; 20]),
            wrap(SEQUENCE, b""),
            wrap(SEQUENCE, &[0; 300]),
            validity,
        ];
        wrap(SEQUENCE, &wrap(SEQUENCE, &fields.concat()))
    }

    #[test]
    fn the_end_is_read_in_both_forms_and_nothing_else_is_one() {
        for (not_after, end) in [
            (&b"\x17\x0d491231235959Z"[..], Some("2049-12-31T23:59:59Z")),
            (b"\x17\x0d500101000000Z", Some("1950-01-01T00:00:00Z")),
            (b"\x18\x0f20991231235959Z", Some("2099-12-31T23:59:59Z")),
            (b"\x18\x0f20991331235959Z", None),
            (b"\x17\x0d49123123595+Z", None),
            (b"\x17\x7f49", None),
            (b"", None),
        ] {
            let read = of(&certificate(not_after)).map(|end| end.to_string());
            assert_eq!(read.as_deref(), end, "{}", not_after.escape_ascii());
        }
        let whole = certificate(b"\x17\x0d491231235959Z");
        assert!((0..whole.len() - 15).all(|length| of(&whole[..length]).is_none()), "cut short");
    }
}

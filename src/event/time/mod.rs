//! Time fields: lenient parsing, one output format (processor.md 3.3).
//!
//! In: texts as SDKs and people write them ([`Moment::parse`]). Out: RFC 3339 with exactly three fractional
//! digits and the zone of the input ([`Moment::to_text`]). Digits below the millisecond are cut off when a
//! moment is written, not before, so that differences stay exact.
//!
//! [`iso`] holds the fast path, [`written`] everything that people write.

mod iso;
mod written;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::Offset;

/// A point in time together with the offset from UTC in which it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    timestamp: Timestamp,
    offset: Offset,
}

impl Moment {
    /// This point in time, in UTC.
    pub fn utc(timestamp: Timestamp) -> Moment {
        Moment { timestamp, offset: Offset::UTC }
    }

    /// This many milliseconds after the Unix epoch, in UTC; times beyond the calendar become the epoch.
    pub fn from_ms(milliseconds: i64) -> Moment {
        Moment::utc(Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::UNIX_EPOCH))
    }

    /// Parses RFC 3339 and nothing else: `2006-01-02T15:04:05`, any fraction, `Z` or `±hh:mm`.
    pub fn parse_rfc3339(text: &str) -> Option<Moment> {
        iso::parse(text.as_bytes())
    }

    /// Parses leniently; `None` when the text is no date in any of the accepted forms (processor.md 3.3).
    pub fn parse(text: &str) -> Option<Moment> {
        iso::parse(text.as_bytes()).or_else(|| written::parse(text))
    }

    /// The point in time.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_ms(&self) -> i64 {
        self.timestamp.as_millisecond()
    }

    /// This moment moved back by `later - earlier`, in its own zone; unmoved when the result cannot be written
    /// (years 0 to 9999).
    pub fn minus_span(&self, later: &Moment, earlier: &Moment) -> Moment {
        let span = later.timestamp.duration_since(earlier.timestamp);
        let moved = span.checked_neg().and_then(|back| self.timestamp.checked_add(back).ok());
        match moved.map(|timestamp| Moment { timestamp, offset: self.offset }) {
            Some(moved) if (0..=9_999).contains(&moved.offset.to_datetime(moved.timestamp).year()) => moved,
            _ => *self,
        }
    }

    /// `2006-01-02T15:04:05.000Z`, or `±hh:mm` instead of `Z`.
    pub fn to_text(&self) -> String {
        let local = self.offset.to_datetime(self.timestamp);
        let mut text = String::with_capacity(29);
        // Years before the common era cannot be written in RFC 3339; they become year 0.
        push_digits(&mut text, u32::from(local.year().max(0).unsigned_abs()), 4);
        for (separator, part) in [
            ('-', local.month()),
            ('-', local.day()),
            ('T', local.hour()),
            (':', local.minute()),
            (':', local.second()),
        ] {
            text.push(separator);
            push_digits(&mut text, u32::from(part.unsigned_abs()), 2);
        }
        text.push('.');
        push_digits(&mut text, local.subsec_nanosecond().unsigned_abs() / 1_000_000, 3);
        let minutes = self.offset.seconds() / 60;
        if minutes == 0 {
            text.push('Z');
        } else {
            text.push(if minutes < 0 { '-' } else { '+' });
            push_digits(&mut text, minutes.unsigned_abs() / 60, 2);
            text.push(':');
            push_digits(&mut text, minutes.unsigned_abs() % 60, 2);
        }
        text
    }

    /// From the parts of a written date; `None` when there is no such day, hour or offset.
    fn from_parts(parts: &Parts, offset_seconds: i32) -> Option<Moment> {
        let date = Date::new(parts.year, parts.month, parts.day).ok()?;
        // A leap second counts as the second before it.
        let second = if parts.second == 60 { 59 } else { parts.second };
        let local: DateTime =
            date.to_datetime(jiff::civil::Time::new(parts.hour, parts.minute, second, parts.nanosecond).ok()?);
        let offset = Offset::from_seconds(offset_seconds).ok()?;
        Some(Moment { timestamp: offset.to_timestamp(local).ok()?, offset })
    }

    /// Nanoseconds since the epoch, in UTC.
    fn from_epoch_nanoseconds(nanoseconds: i128) -> Option<Moment> {
        Timestamp::from_nanosecond(nanoseconds).ok().map(Moment::utc)
    }
}

/// Whether the text is already what [`Moment::to_text`] gives for a moment in UTC, so that it can be kept.
pub fn is_canonical_utc(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 24 && bytes.get(10) == Some(&b'T') && bytes.get(19) == Some(&b'.') && bytes.get(23) == Some(&b'Z')
}

/// A date and time as written, before it is known to exist.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    nanosecond: i32,
}

fn push_digits(text: &mut String, number: u32, width: u32) {
    for place in (0..width).rev() {
        let digit = number / 10_u32.pow(place) % 10;
        text.push(char::from_digit(digit, 10).unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(input: &str) -> Option<String> {
        Moment::parse(input).map(|moment| moment.to_text())
    }

    #[test]
    fn every_accepted_form_has_one_meaning() {
        let table = [
            // RFC 3339 and its neighbours keep their zone; digits below the millisecond are cut off.
            ("2025-03-10T09:59:00.000Z", "2025-03-10T09:59:00.000Z"),
            ("2025-03-10T09:59:00Z", "2025-03-10T09:59:00.000Z"),
            ("2025-03-10t09:59:00z", "2025-03-10T09:59:00.000Z"),
            ("2025-03-10T12:00:00.123999Z", "2025-03-10T12:00:00.123Z"),
            ("2025-03-10T12:00:00.123456789Z", "2025-03-10T12:00:00.123Z"),
            ("2025-03-10T12:00:00.1234567891234Z", "2025-03-10T12:00:00.123Z"),
            ("2025-03-10T12:00:00.5Z", "2025-03-10T12:00:00.500Z"),
            ("2025-03-10T17:29:00.000+05:30", "2025-03-10T17:29:00.000+05:30"),
            ("2025-03-10T17:29:00+0530", "2025-03-10T17:29:00.000+05:30"),
            ("2025-03-10T17:29:00-08", "2025-03-10T17:29:00.000-08:00"),
            ("2025-03-10T17:29:00-00:00", "2025-03-10T17:29:00.000Z"),
            ("2025-03-10 17:29:00.25-03:30", "2025-03-10T17:29:00.250-03:30"),
            ("2025-03-10 17:29:00 +0100", "2025-03-10T17:29:00.000+01:00"),
            ("2025-03-10 17:29:00 +0000 UTC", "2025-03-10T17:29:00.000Z"),
            ("2025-06-30T23:59:60Z", "2025-06-30T23:59:59.000Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
            // No zone means UTC.
            ("2025-03-10T17:29:00", "2025-03-10T17:29:00.000Z"),
            ("2025-03-10 17:29:00.123", "2025-03-10T17:29:00.123Z"),
            ("2025-03-10 17:29:00,123", "2025-03-10T17:29:00.123Z"),
            ("2025-03-10 17:29", "2025-03-10T17:29:00.000Z"),
            ("2024-03-05", "2024-03-05T00:00:00.000Z"),
            ("2024-3-5", "2024-03-05T00:00:00.000Z"),
            ("2024/03/05", "2024-03-05T00:00:00.000Z"),
            ("2024/03/05 10:11:12", "2024-03-05T10:11:12.000Z"),
            ("2024/03/05T10:11:12", "2024-03-05T10:11:12.000Z"),
            ("03/05/2024", "2024-03-05T00:00:00.000Z"),
            ("3/5/2024 7:08", "2024-03-05T07:08:00.000Z"),
            ("03/05/2024 07:08:09 PM", "2024-03-05T19:08:09.000Z"),
            ("3/5/14", "2014-03-05T00:00:00.000Z"),
            // As people and programs write it.
            ("May 8, 2009 5:57:51 PM", "2009-05-08T17:57:51.000Z"),
            ("May 8, 2009 12:05 AM", "2009-05-08T00:05:00.000Z"),
            ("October 7, 1970", "1970-10-07T00:00:00.000Z"),
            ("12 Feb 2006, 19:17", "2006-02-12T19:17:00.000Z"),
            ("7 oct 1970", "1970-10-07T00:00:00.000Z"),
            ("Mon Jan 2 15:04:05 2006", "2006-01-02T15:04:05.000Z"),
            ("Mon Jan  2 15:04:05 MST 2006", "2006-01-02T15:04:05.000-07:00"),
            ("Mon, 02 Jan 2006 15:04:05 MST", "2006-01-02T15:04:05.000-07:00"),
            ("Mon, 02 Jan 2006 15:04:05 GMT", "2006-01-02T15:04:05.000Z"),
            ("Mon, 02 Jan 2006 15:04:05 -0700", "2006-01-02T15:04:05.000-07:00"),
            ("Monday, 02-Jan-06 15:04:05 UTC", "2006-01-02T15:04:05.000Z"),
            ("Tue Mar 05 2024 10:20:30 GMT+0100 (Central European Standard Time)", "2024-03-05T10:20:30.000+01:00"),
            // Digits only.
            ("1735689600", "2025-01-01T00:00:00.000Z"),
            ("1735689600123", "2025-01-01T00:00:00.123Z"),
            ("1735689600123456", "2025-01-01T00:00:00.123Z"),
            ("1735689600123456789", "2025-01-01T00:00:00.123Z"),
            ("20240305", "2024-03-05T00:00:00.000Z"),
            ("20240305153000", "2024-03-05T15:30:00.000Z"),
            // Blanks around it.
            (" 2024-03-05T00:00:00Z ", "2024-03-05T00:00:00.000Z"),
        ];
        for (input, expected) in table {
            assert_eq!(text(input).as_deref(), Some(expected), "{input}");
        }
    }

    #[test]
    fn what_is_no_date_does_not_parse() {
        let table = [
            "",
            " ",
            "yesterday",
            "now",
            "null",
            "May",
            "May 2009 bananas",
            "2025-13-01",
            "2025-02-30",
            "2025-03-10T25:00:00Z",
            "2025-03-10T10:61:00Z",
            "2025-03-10T10:00:00+99:00",
            "12",
            "123456",
            "99999999999999999999",
            "20241399",
            "10:20:30",
            "2025-03-10T",
            "1.5",
            "-1735689600",
            "Mon",
            "Z",
            "+01:00",
            "5 PM",
            "2024-03-05 extra words",
            "1/2/3/4",
        ];
        for input in table {
            assert_eq!(text(input), None, "{input}");
        }
    }

    #[test]
    fn strict_parsing_takes_only_rfc_3339() {
        assert!(Moment::parse_rfc3339("2025-03-10T09:59:00.000Z").is_some());
        assert!(Moment::parse_rfc3339("2025-03-10T09:59:00+05:30").is_some());
        for input in ["2025-03-10", "1735689600", "2025-03-10T09:59:00", "May 8, 2009", ""] {
            assert!(Moment::parse_rfc3339(input).is_none(), "{input}");
        }
    }

    #[test]
    fn a_span_is_taken_away_exactly() {
        let at = |text: &str| Moment::parse(text).unwrap();
        let received = at("2025-03-10T12:00:10.000+01:00");
        let result = received.minus_span(&at("2025-03-10T10:00:00.0004Z"), &at("2025-03-10T09:59:00.000Z"));
        assert_eq!(result.to_text(), "2025-03-10T11:59:09.999+01:00");
        let first = Moment::utc(Timestamp::MIN);
        assert_eq!(first.minus_span(&Moment::utc(Timestamp::MAX), &first), first);
        let [last, sent] = [at("9999-01-01T00:00:00Z"), at("2025-01-01T00:00:00Z")];
        assert_eq!(sent.minus_span(&last, &sent), sent);
    }

    #[test]
    fn a_canonical_text_is_what_would_be_written() {
        assert!(is_canonical_utc("2025-03-10T09:59:00.000Z"));
        assert!(!is_canonical_utc("2025-03-10T09:59:00Z"));
        assert!(!is_canonical_utc("2025-03-10 09:59:00.000Z"));
        assert!(!is_canonical_utc("2025-03-10T09:59:00+05:30"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(input in "\\PC*") {
            let _parsed = Moment::parse(&input).map(|moment| moment.to_text());
        }

        #[test]
        fn no_likely_text_makes_the_parser_panic(input in "[0-9TZ:+\\-./, apmAPMonJ()GUTC]{0,40}") {
            let _parsed = Moment::parse(&input).map(|moment| moment.to_text());
        }

        #[test]
        fn what_is_written_reads_back(ms in -62_000_000_000_000_i64..253_000_000_000_000, quarter in -50_i32..56) {
            let offset = Offset::from_seconds(quarter * 900).unwrap();
            let moment = Moment { timestamp: Timestamp::from_millisecond(ms).unwrap(), offset };
            let written = moment.to_text();
            prop_assert_eq!(Moment::parse_rfc3339(&written).unwrap(), moment);
            prop_assert_eq!(Moment::parse(&written).unwrap().to_text(), written);
        }
    }
}

//! Which texts are points in time, and their normal form (warehouse.md 4.2).
//!
//! `YYYY-MM-DD`, alone or followed by `T` or one blank, `HH:MM`, optionally `:SS` and a fraction, optionally a zone:
//! `Z`, `z`, `+HH`, `+HHMM` or `+HH:MM`. No zone means UTC. Between the years 1 and 9999. A day that the month does
//! not have rolls over into the next one. Years with a sign name no instant.

use std::borrow::Cow;

use jiff::ToSpan;
use jiff::civil::{Date, DateTime, Time};

/// Longer texts are never points in time.
const LONGEST: usize = 39;

/// Days that even February has.
const EVERY_MONTH_HAS: i16 = 28;

/// The point in time as `YYYY-MM-DDTHH:MM:SS.mmmZ`, further digits cut off; `None` when the text is none.
pub fn normal_form(text: &str) -> Option<Cow<'_, str>> {
    let bytes = text.as_bytes();
    // Nearly every other string ends here.
    if !(10..=LONGEST).contains(&bytes.len()) || bytes.get(4) != Some(&b'-') {
        return None;
    }
    let mut reader = Reader(bytes);
    let year = reader.number(4, 9_999)?;
    reader.expect(b'-')?;
    let month = reader.number(2, 12)?;
    reader.expect(b'-')?;
    let day = reader.number(2, 31)?;
    if year == 0 || month == 0 || day == 0 {
        return None;
    }
    let (time, offset_seconds) = reader.time_and_zone()?;
    let is_normal = bytes.len() == 24 && bytes.get(10) == Some(&b'T') && bytes.get(23) == Some(&b'Z');
    if is_normal && day <= EVERY_MONTH_HAS {
        return Some(Cow::Borrowed(text));
    }
    let first = Date::new(year, i8::try_from(month).ok()?, 1).ok()?;
    let local = first.checked_add((i64::from(day) - 1).days()).ok()?.to_datetime(time);
    let utc = local.checked_sub(i64::from(offset_seconds).seconds()).ok()?;
    if utc.year() < 1 {
        return None;
    }
    let rolled_over = local.month() != i8::try_from(month).ok()?;
    Some(if is_normal && !rolled_over { Cow::Borrowed(text) } else { Cow::Owned(written(utc)) })
}

fn written(utc: DateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        utc.year(),
        utc.month(),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.subsec_nanosecond() / 1_000_000
    )
}

struct Reader<'t>(&'t [u8]);

impl Reader<'_> {
    fn next_is(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        match self.0.split_first() {
            Some((byte, rest)) if wanted(*byte) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.next_is(|next| next == byte).then_some(())
    }

    /// A number of exactly so many digits.
    fn number(&mut self, digits: usize, most: i16) -> Option<i16> {
        let (number, rest) = self.0.split_at_checked(digits)?;
        let mut value = 0_i16;
        for digit in number {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value * 10 + i16::from(digit - b'0');
        }
        self.0 = rest;
        (value <= most).then_some(value)
    }

    fn small_number(&mut self, most: i16) -> Option<i8> {
        self.number(2, most).and_then(|number| i8::try_from(number).ok())
    }

    /// What follows the date, up to the end; midnight UTC when nothing does.
    fn time_and_zone(&mut self) -> Option<(Time, i32)> {
        if self.0.is_empty() {
            return Some((Time::midnight(), 0));
        }
        if !self.next_is(|byte| byte == b'T' || byte.is_ascii_whitespace() || byte == 0x0b) {
            return None;
        }
        let hour = self.small_number(23)?;
        self.expect(b':')?;
        let minute = self.small_number(59)?;
        let mut second = 0;
        let mut nanosecond = 0;
        if self.next_is(|byte| byte == b':') {
            second = self.small_number(59)?;
            if self.next_is(|byte| byte == b'.') {
                nanosecond = self.fraction()?;
            }
        }
        let offset_seconds = self.zone()?;
        self.0.is_empty().then_some((Time::new(hour, minute, second, nanosecond).ok()?, offset_seconds))
    }

    /// The digits behind the point in nanoseconds, what is below a nanosecond cut off.
    fn fraction(&mut self) -> Option<i32> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (fraction, rest) = self.0.split_at_checked(digits)?;
        if fraction.is_empty() {
            return None;
        }
        self.0 = rest;
        let digit = |place: usize| fraction.get(place).map_or(0, |byte| i32::from(byte - b'0'));
        Some((0..9).fold(0, |nanoseconds, place| nanoseconds * 10 + digit(place)))
    }

    fn zone(&mut self) -> Option<i32> {
        if self.0.is_empty() || self.next_is(|byte| byte == b'Z' || byte == b'z') {
            return Some(0);
        }
        let sign = if self.next_is(|byte| byte == b'-') {
            -1
        } else {
            self.expect(b'+')?;
            1
        };
        let hours = i32::from(self.small_number(23)?);
        let has_colon = self.next_is(|byte| byte == b':');
        let minutes = if self.0.is_empty() && !has_colon { 0 } else { i32::from(self.small_number(59)?) };
        Some(sign * (hours * 3_600 + minutes * 60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn points_in_time_have_one_normal_form() {
        let table = [
            ("2030-05-06", "2030-05-06T00:00:00.000Z"),
            ("2030-05-06 07:08", "2030-05-06T07:08:00.000Z"),
            ("2030-05-06T07:08:09", "2030-05-06T07:08:09.000Z"),
            ("2030-05-06\t07:08:09.5", "2030-05-06T07:08:09.500Z"),
            ("2030-05-06T07:08:09.999999999z", "2030-05-06T07:08:09.999Z"),
            ("2030-05-06T07:08:09.1234567890123Z", "2030-05-06T07:08:09.123Z"),
            ("2030-05-06T07:08:09.120Z", "2030-05-06T07:08:09.120Z"),
            ("2030-05-06T07:08+02", "2030-05-06T05:08:00.000Z"),
            ("2030-05-06T07:08:09-0130", "2030-05-06T08:38:09.000Z"),
            ("2030-05-06T00:00:00+05:30", "2030-05-05T18:30:00.000Z"),
            ("2030-02-30", "2030-03-02T00:00:00.000Z"),
            ("2030-02-31T01:02:03.004Z", "2030-03-03T01:02:03.004Z"),
            ("2032-02-29", "2032-02-29T00:00:00.000Z"),
            ("0001-01-01", "0001-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ];
        for (input, expected) in table {
            assert_eq!(normal_form(input).as_deref(), Some(expected), "{input}");
        }
    }

    #[test]
    fn everything_else_is_only_text() {
        let table = [
            "",
            "2030",
            "2030-05",
            "2030-5-6",
            "2030/05/06",
            "06-05-2030",
            "2030-13-01",
            "2030-00-01",
            "2030-05-32",
            "2030-05-00",
            "0000-05-06",
            "+2030-05-06",
            "-2030-05-06",
            "2030-05-06T",
            "2030-05-06T07",
            "2030-05-06t07:08",
            "2030-05-06T07:08:",
            "2030-05-06T07:08:60Z",
            "2030-05-06T24:00:00Z",
            "2030-05-06T07:60",
            "2030-05-06T7:08",
            "2030-05-06T07:08:09.",
            "2030-05-06T07:08:09.Z",
            "2030-05-06T07:08:09 Z",
            "2030-05-06T07:08:09+5",
            "2030-05-06T07:08:09+05:",
            "2030-05-06T07:08:09+24:00",
            "2030-05-06T07:08:09Zulu",
            " 2030-05-06",
            "2030-05-06 ",
            "2030-05-06  07:08",
            "2030-W18-1",
            "20300506",
            "1893456000",
            "May 6, 2030",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "2030-05-06T07:08:09.00000000000000000000Z",
            "2030-05-06T07:08:0\u{e9}",
        ];
        for input in table {
            assert_eq!(normal_form(input), None, "{input}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own_and_no_text_panics(text in "[0-9]{4}-[01][0-9]-[0-3][0-9][T ]?[0-9:.Z+-]{0,20}") {
            if let Some(normal) = normal_form(&text) {
                let again = normal_form(&normal);
                prop_assert_eq!(again.as_deref(), Some(&*normal));
            }
        }
    }
}

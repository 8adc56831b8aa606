//! Dates as people and programs write them: by blanks and commas into words, each word by its shape.
//!
//! The meaning of a word does not depend on its place, except for bare numbers: the first short one is the
//! day, a four-digit one the year. A word without meaning makes the whole text no date.

use super::iso::nanoseconds;
use super::{Moment, Parts};

/// No date is longer than this; longer texts are not looked at.
const LONGEST: usize = 128;

/// Parses anything but the strict form of [`super::iso`].
pub(super) fn parse(text: &str) -> Option<Moment> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits_only(text);
    }
    let mut reading = Reading::default();
    let mut rest = text;
    while !rest.is_empty() {
        // A comment in parentheses is the name of the zone in words.
        if rest.starts_with('(') {
            let end = rest.find(')')?;
            rest = rest.get(end + 1..)?.trim_start_matches([' ', ',']);
            continue;
        }
        let end = rest.find([' ', ',', '(']).unwrap_or(rest.len());
        // `17:29:00,123`: a comma between digits of a time is a decimal point.
        let end = if rest.get(end..=end) == Some(",") && is_decimal_comma(rest, end) {
            rest.get(end + 1..)?.find([' ', ',', '(']).map_or(rest.len(), |more| end + 1 + more)
        } else {
            end
        };
        reading.word(rest.get(..end)?)?;
        rest = rest.get(end..)?.trim_start_matches([' ', ',']);
    }
    reading.finish()
}

fn is_decimal_comma(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    let after = text.get(at + 1..).unwrap_or_default();
    before.contains(':')
        && before.ends_with(|c: char| c.is_ascii_digit())
        && after.starts_with(|c: char| c.is_ascii_digit())
}

/// `20240305`, `20240305153000`, and epochs in seconds, milliseconds, microseconds, nanoseconds.
fn digits_only(text: &str) -> Option<Moment> {
    let number: i128 = text.parse().ok()?;
    match text.len() {
        10 => Moment::from_epoch_nanoseconds(number * 1_000_000_000),
        13 => Moment::from_epoch_nanoseconds(number * 1_000_000),
        16 => Moment::from_epoch_nanoseconds(number * 1_000),
        19 => Moment::from_epoch_nanoseconds(number),
        8 | 14 => {
            let part = |from: usize, to: usize| text.get(from..to).map_or(Some(0), |digits| digits.parse::<i8>().ok());
            let parts = Parts {
                year: text.get(..4)?.parse().ok()?,
                month: part(4, 6)?,
                day: part(6, 8)?,
                hour: part(8, 10)?,
                minute: part(10, 12)?,
                second: part(12, 14)?,
                nanosecond: 0,
            };
            Moment::from_parts(&parts, 0)
        }
        _ => None,
    }
}

/// What the words so far have said.
#[derive(Debug, Default)]
struct Reading {
    year: Option<i16>,
    month: Option<i8>,
    day: Option<i8>,
    time: Option<Time>,
    afternoon: Option<bool>,
    offset_seconds: Option<i32>,
    zone_named: bool,
}

#[derive(Clone, Copy, Debug)]
struct Time {
    hour: i8,
    minute: i8,
    second: i8,
    nanosecond: i32,
}

impl Reading {
    fn word(&mut self, word: &str) -> Option<()> {
        let first = word.chars().next()?;
        if first.is_ascii_digit() {
            return self.word_of_digits(word);
        }
        if first == '+' || first == '-' {
            return set(&mut self.offset_seconds, offset(word)?);
        }
        let lower = word.trim_end_matches('.').to_ascii_lowercase();
        if let Some(month) = month(&lower) {
            return set(&mut self.month, month);
        }
        match lower.as_str() {
            "am" => return set(&mut self.afternoon, false),
            "pm" => return set(&mut self.afternoon, true),
            "at" => return Some(()),
            _ => {}
        }
        if is_weekday(&lower) {
            return Some(());
        }
        self.zone(&lower)
    }

    /// A zone's name, alone or with an offset (`gmt+0100`). An offset that stands beside it wins.
    fn zone(&mut self, lower: &str) -> Option<()> {
        if self.zone_named {
            return None;
        }
        self.zone_named = true;
        let name_end = lower.find(['+', '-']).unwrap_or(lower.len());
        let hours = zone_hours(lower.get(..name_end)?)?;
        let beside = lower.get(name_end..)?;
        if !beside.is_empty() {
            return set(&mut self.offset_seconds, offset(beside)?);
        }
        self.offset_seconds.get_or_insert(hours * 3_600);
        Some(())
    }

    fn word_of_digits(&mut self, word: &str) -> Option<()> {
        // `2024-03-05T10:11:12Z` and `2024/03/05t10:11` are a date and a time in one word.
        if let Some(at) = word.find(['T', 't'])
            && word.get(at + 1..)?.starts_with(|c: char| c.is_ascii_digit())
        {
            self.date(word.get(..at)?)?;
            return self.time_and_zone(word.get(at + 1..)?);
        }
        if word.contains(':') {
            return self.time_and_zone(word);
        }
        if word.contains(['-', '/']) {
            return self.date(word);
        }
        let lower = word.to_ascii_lowercase();
        let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
        let (number, ending) = lower.split_at_checked(digits)?;
        match (number.len(), ending) {
            (4, "") => set(&mut self.year, number.parse().ok()?),
            (1 | 2, "") if self.day.is_some() => set(&mut self.year, full_year(number)?),
            (1 | 2, "" | "st" | "nd" | "rd" | "th") => set(&mut self.day, number.parse().ok()?),
            (1 | 2, "am" | "pm") => {
                set(&mut self.time, Time { hour: number.parse().ok()?, minute: 0, second: 0, nanosecond: 0 })?;
                set(&mut self.afternoon, ending == "pm")
            }
            _ => None,
        }
    }

    /// `2024-3-5`, `2024/03/05`, `03/05/2024`, `3/5/14`, `02-Jan-06`.
    fn date(&mut self, word: &str) -> Option<()> {
        let separator = if word.contains('/') { '/' } else { '-' };
        let mut parts = word.split(separator);
        let (first, second, third) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let (year, month_text, day) = if first.len() == 4 {
            (number(first)?, second, third)
        } else if separator == '/' {
            (full_year(third)?, first, second)
        } else {
            (full_year(third)?, second, first)
        };
        let month = match month(&month_text.to_ascii_lowercase()) {
            Some(named) => named,
            // `02-01-06` could be two dates: only a named month may stand in the middle.
            None if first.len() != 4 && separator == '-' => return None,
            None => short_number(month_text)?,
        };
        set(&mut self.year, year)?;
        set(&mut self.month, month)?;
        set(&mut self.day, short_number(day)?)
    }

    /// `10:11`, `10:11:12`, `10:11:12.5`, each with `am`, `pm`, `Z` or an offset behind it.
    fn time_and_zone(&mut self, word: &str) -> Option<()> {
        let end = word.find(|c: char| !c.is_ascii_digit() && !matches!(c, ':' | '.' | ',')).unwrap_or(word.len());
        let (clock, behind) = word.split_at_checked(end)?;
        let (clock, fraction) = match clock.find(['.', ',']) {
            Some(at) => (clock.get(..at)?, clock.get(at + 1..)),
            None => (clock, None),
        };
        let mut parts = clock.split(':');
        let time = Time {
            hour: short_number(parts.next()?)?,
            minute: short_number(parts.next()?)?,
            second: match parts.next() {
                Some(second) => short_number(second)?,
                None => 0,
            },
            nanosecond: match fraction {
                Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => nanoseconds(digits.as_bytes())?,
                Some(_) => return None,
                None => 0,
            },
        };
        if parts.next().is_some() {
            return None;
        }
        set(&mut self.time, time)?;
        match behind.to_ascii_lowercase().as_str() {
            "" => Some(()),
            "am" => set(&mut self.afternoon, false),
            "pm" => set(&mut self.afternoon, true),
            zone if zone.starts_with(['+', '-']) => set(&mut self.offset_seconds, offset(zone)?),
            zone => self.zone(zone),
        }
    }

    fn finish(self) -> Option<Moment> {
        let mut time = match self.time {
            Some(time) => time,
            None if self.afternoon.is_some() || self.offset_seconds.is_some() => return None,
            None => Time { hour: 0, minute: 0, second: 0, nanosecond: 0 },
        };
        if let Some(afternoon) = self.afternoon {
            if !(1..=12).contains(&time.hour) {
                return None;
            }
            time.hour = time.hour % 12 + if afternoon { 12 } else { 0 };
        }
        let parts = Parts {
            year: self.year?,
            month: self.month?,
            day: self.day?,
            hour: time.hour,
            minute: time.minute,
            second: time.second,
            nanosecond: time.nanosecond,
        };
        Moment::from_parts(&parts, self.offset_seconds.unwrap_or(0))
    }
}

/// Says a thing once; twice is no date.
fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    if slot.is_some() {
        return None;
    }
    *slot = Some(value);
    Some(())
}

fn number(text: &str) -> Option<i16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) { None } else { text.parse().ok() }
}

fn short_number(text: &str) -> Option<i8> {
    if text.len() > 2 { None } else { i8::try_from(number(text)?).ok() }
}

/// Two digits mean 1969 to 2068.
fn full_year(text: &str) -> Option<i16> {
    let year = number(text)?;
    match text.len() {
        4 => Some(year),
        2 if year >= 69 => Some(1900 + year),
        2 => Some(2000 + year),
        _ => None,
    }
}

/// Seconds of `+01:00`, `+0100`, `+01`.
fn offset(text: &str) -> Option<i32> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..)?;
    let (hours, minutes) = match (digits.split_once(':'), digits.len()) {
        (Some(pair), _) => pair,
        (None, 4) => digits.split_at_checked(2)?,
        (None, _) => (digits, "0"),
    };
    let (hours, minutes) = (i32::from(short_number(hours)?), i32::from(short_number(minutes)?));
    if hours > 23 || minutes > 59 { None } else { Some(sign * (hours * 3_600 + minutes * 60)) }
}

fn month(lower: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let is_named =
        |name: &&str| **name == *lower || name.get(..3) == Some(lower) || (lower == "sept" && name.starts_with("sept"));
    let at = MONTHS.iter().position(is_named)?;
    i8::try_from(at + 1).ok()
}

fn is_weekday(lower: &str) -> bool {
    const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    matches!(lower, "tues" | "thur" | "thurs") || DAYS.iter().any(|day| *day == lower || day.get(..3) == Some(lower))
}

/// The zones that mail headers may name (RFC 2822), and those that mean UTC.
fn zone_hours(lower: &str) -> Option<i32> {
    match lower {
        "z" | "utc" | "gmt" | "ut" => Some(0),
        "edt" => Some(-4),
        "est" | "cdt" => Some(-5),
        "cst" | "mdt" => Some(-6),
        "mst" | "pdt" => Some(-7),
        "pst" => Some(-8),
        "cet" => Some(1),
        "cest" => Some(2),
        _ => None,
    }
}

//! Formats of texts that the hosted validator reads differently from the library: here they are as users know them.

use jsonschema::ValidationOptions;

/// Adds the formats to a validator in the making.
pub(super) fn register(options: ValidationOptions<'_>) -> ValidationOptions<'_> {
    options
        .with_format("email", is_email)
        .with_format("date", is_date)
        .with_format("time", |text| is_time(text, true))
        .with_format("date-time", |text| is_date_time(text, true))
        .with_format("iso-time", |text| is_time(text, false))
        .with_format("iso-date-time", |text| is_date_time(text, false))
        .with_format("uuid", is_uuid)
}

/// `local@domain`, the domain with at least one dot.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return false };
    let is_atom = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&byte))
    };
    let is_label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    local.split('.').all(is_atom) && domain.contains('.') && domain.split('.').all(is_label)
}

/// The number that exactly `length` digits are.
fn digits(text: &str, length: usize) -> Option<u32> {
    let all_digits = text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

/// `YYYY-MM-DD`, a day that exists.
fn is_date(text: &str) -> bool {
    let mut parts = text.split('-');
    let (Some(year), Some(month), Some(day), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Some(year), Some(month), Some(day)) = (digits(year, 4), digits(month, 2), digits(day, 2)) else {
        return false;
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => 0,
    };
    day >= 1 && day <= days
}

/// `hh:mm:ss[.fraction][zone]`; the zone is `Z`, `±hh`, `±hhmm` or `±hh:mm`.
fn is_time(text: &str, needs_zone: bool) -> bool {
    let (Some(hour), Some(minute), Some(second)) = (text.get(0..2), text.get(3..5), text.get(6..8)) else {
        return false;
    };
    if text.get(2..3) != Some(":") || text.get(5..6) != Some(":") {
        return false;
    }
    let (Some(hour), Some(minute), Some(second)) = (digits(hour, 2), digits(minute, 2), digits(second, 2)) else {
        return false;
    };
    let mut rest = text.get(8..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit()).unwrap_or(fraction.len());
        if end == 0 {
            return false;
        }
        rest = fraction.get(end..).unwrap_or_default();
    }
    let (sign, zone_hour, zone_minute) = match rest {
        "" if needs_zone => return false,
        "" | "Z" | "z" => (1, 0, 0),
        zone => {
            let (sign, zone) = match (zone.strip_prefix('+'), zone.strip_prefix('-')) {
                (Some(zone), _) => (1, zone),
                (_, Some(zone)) => (-1, zone),
                _ => return false,
            };
            let Some(zone_hour) = zone.get(..2).and_then(|hour| digits(hour, 2)) else { return false };
            let rest = zone.get(2..).unwrap_or_default();
            let rest = rest.strip_prefix(':').filter(|rest| !rest.is_empty()).unwrap_or(rest);
            let zone_minute = if rest.is_empty() { Some(0) } else { digits(rest, 2) };
            let Some(zone_minute) = zone_minute else { return false };
            (sign, zone_hour, zone_minute)
        }
    };
    if zone_hour > 23 || zone_minute > 59 || hour > 23 || minute > 59 {
        return false;
    }
    if second < 60 {
        return true;
    }
    // A leap second is the last one of a day in UTC.
    let minutes =
        i64::from(hour) * 60 + i64::from(minute) - sign * (i64::from(zone_hour) * 60 + i64::from(zone_minute));
    second == 60 && minutes.rem_euclid(24 * 60) == 24 * 60 - 1
}

/// A date and a time, with `T` or a blank between them.
fn is_date_time(text: &str, needs_zone: bool) -> bool {
    let mut parts = text.split(|c: char| c == 'T' || c == 't' || c.is_whitespace());
    match (parts.next(), parts.next(), parts.next()) {
        (Some(date), Some(time), None) => is_date(date) && is_time(time, needs_zone),
        _ => false,
    }
}

/// With or without `urn:uuid:`.
fn is_uuid(text: &str) -> bool {
    let begins = text.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("urn:uuid:"));
    let text = if begins { text.get(9..).unwrap_or_default() } else { text };
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_as_users_know_them() {
        let date_time: fn(&str) -> bool = |text| is_date_time(text, true);
        let time: fn(&str) -> bool = |text| is_time(text, true);
        let iso_time: fn(&str) -> bool = |text| is_time(text, false);
        let table: [(fn(&str) -> bool, &str, bool); 30] = [
            (is_email, "a.b+c@x.example", true),
            (is_email, "a@localhost", false),
            (is_email, "a@@b.c", false),
            (is_email, "a..b@c.d", false),
            (is_email, "a@-b.c", false),
            (is_email, "not-an-email", false),
            (is_date, "2024-02-29", true),
            (is_date, "2023-02-29", false),
            (is_date, "2024-13-01", false),
            (is_date, "2024-1-01", false),
            (is_date, "+024-01-01", false),
            (time, "10:00:00Z", true),
            (time, "10:00:00.5+01:30", true),
            (time, "10:00:00+0130", true),
            (time, "10:00:00+01", true),
            (time, "10:00:00+01:", false),
            (time, "10:00:00", false),
            (time, "10:00:00.Z", false),
            (time, "24:00:00Z", false),
            (time, "23:59:60Z", true),
            (time, "22:59:60Z", false),
            (time, "00:59:60+01:00", true),
            (iso_time, "10:00:00", true),
            (date_time, "2024-01-01T10:00:00Z", true),
            (date_time, "2024-01-01 10:00:00z", true),
            (date_time, "2024-01-01T10:00:00", false),
            (date_time, "2024-01-01", false),
            (is_uuid, "URN:uuid:00000000-0000-0000-0000-0000000000fF", true),
            (is_uuid, "00000000-0000-0000-0000-00000000000", false),
            (is_uuid, "00000000000000000000000000000000", false),
        ];
        for (check, text, expected) in table {
            assert_eq!(check(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_a_format_panic(text in "\\PC{0,30}") {
            let _read = (is_email(&text), is_date(&text), is_time(&text, true), is_date_time(&text, false), is_uuid(&text));
        }
    }
}

//! Bytes and times as people read them.

use std::time::Duration;

/// `1.5 KiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut size = count as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS {
        unit = next;
        if size < 1024.0 {
            break;
        }
        if next != "PiB" {
            size /= 1024.0;
        }
    }
    if size < 10.0 { format!("{size:.1} {unit}") } else { format!("{size:.0} {unit}") }
}

/// `2 d 3 h`, `5 min`, `12 s`: the two greatest units.
pub(super) fn age(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// How long ago a time was, both in milliseconds since the epoch.
pub(super) fn since(then_ms: i64, now_ms: i64) -> String {
    age(u64::try_from(now_ms.saturating_sub(then_ms) / 1000).unwrap_or_default())
}

/// A point in time, UTC.
pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| "-".to_owned(), |at| at.strftime("%F %T UTC").to_string())
}

/// Reads `90s`, `2h`, `1h30m`, `3d`.
pub(super) fn parse_span(text: &str) -> Result<Duration, String> {
    let hours = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()).and_then(|days| days.checked_mul(24));
    let text = hours.map_or_else(|| text.to_owned(), |hours| format!("{hours}h"));
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    parsed.filter(|span| span.as_secs() > 0).ok_or_else(|| "write a time such as 90s, 30m, 2h or 3d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_ages_are_short() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(age(seconds), text);
        }
        assert_eq!(since(5_000, 1_000), "0 s");
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        assert_eq!(parse_span("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(parse_span("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("3d"), Ok(Duration::from_secs(259_200)));
        for wrong in ["", "soon", "0s", "-2h", "5"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }
}

//! Time fields: the four times of an event, in one format, corrected for the device's clock
//! (processor.md 3.3).

use std::borrow::Cow;

use crate::destination::Message;
use crate::event::time::{Moment, is_canonical_utc};

/// When a gateway job was received, parsed and written once for all its events.
#[derive(Clone, Debug)]
pub struct Received {
    moment: Moment,
    json: String,
}

impl Received {
    /// From the `receivedAt` of a gateway job; `None` unless it is RFC 3339.
    pub fn parse(text: &str) -> Option<Received> {
        let moment = Moment::parse_rfc3339(text)?;
        Some(Received { moment, json: format!("\"{}\"", moment.to_text()) })
    }

    /// As parameters and events carry it.
    pub fn text(&self) -> &str {
        self.json.trim_matches('"')
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_ms(&self) -> i64 {
        self.moment.as_ms()
    }
}

/// Sets `receivedAt`, `originalTimestamp`, `sentAt` and `timestamp`. A time that is already written as it
/// should be stays the slice it is.
pub fn set(event: &mut Message<'_>, received: &Received) {
    let original = read(event, "originalTimestamp");
    let sent = read(event, "sentAt");
    let explicit = read(event, "timestamp");
    let original_moment = original.map_or(received.moment, |read| read.moment);
    let sent_moment = sent.map_or(received.moment, |read| read.moment);

    event.set("receivedAt", received.json.clone());
    write(event, "originalTimestamp", original, original_moment);
    write(event, "sentAt", sent, sent_moment);
    match explicit {
        Some(read) => write(event, "timestamp", explicit, read.moment),
        None => write(event, "timestamp", None, received.moment.minus_span(&sent_moment, &original_moment)),
    }
}

#[derive(Clone, Copy, Debug)]
struct Read {
    moment: Moment,
    /// The text in the event is what would be written.
    stays: bool,
}

/// Only strings are times.
fn read(event: &Message<'_>, key: &str) -> Option<Read> {
    let text: Cow<'_, str> = event.text(key)?;
    let moment = Moment::parse(&text)?;
    Some(Read { moment, stays: matches!(text, Cow::Borrowed(_)) && is_canonical_utc(&text) })
}

fn write(event: &mut Message<'_>, key: &'static str, read: Option<Read>, moment: Moment) {
    if !read.is_some_and(|read| read.stays) {
        event.set(key, format!("\"{}\"", moment.to_text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(received: &str, event: &str) -> [String; 4] {
        let mut event = Message::parse(event).unwrap();
        set(&mut event, &Received::parse(received).unwrap());
        ["receivedAt", "originalTimestamp", "sentAt", "timestamp"].map(|key| event.text(key).unwrap().into_owned())
    }

    #[test]
    fn the_device_clock_is_corrected_by_the_time_of_sending() {
        let table = [
            (
                r#"{"originalTimestamp":"2025-03-10T09:59:00.000Z","sentAt":"2025-03-10T10:00:00.000Z"}"#,
                "2025-03-10T11:59:10.000Z",
            ),
            (r#"{"originalTimestamp":"2025-03-10T11:00:00.500Z"}"#, "2025-03-10T11:00:00.500Z"),
            (r#"{"sentAt":"2025-03-10T12:00:05.000Z"}"#, "2025-03-10T12:00:15.000Z"),
            (r#"{"timestamp":"2024-12-31T23:59:59.123456Z"}"#, "2024-12-31T23:59:59.123Z"),
            (r#"{"timestamp":1735689600}"#, "2025-03-10T12:00:10.000Z"),
            (r#"{"timestamp":"\u0032025-01-02"}"#, "2025-01-02T00:00:00.000Z"),
            ("{}", "2025-03-10T12:00:10.000Z"),
        ];
        for (event, expected) in table {
            let [received, .., timestamp] = times("2025-03-10T12:00:10.000Z", event);
            assert_eq!((received.as_str(), timestamp.as_str()), ("2025-03-10T12:00:10.000Z", expected), "{event}");
        }
    }

    #[test]
    fn a_time_that_is_written_right_keeps_its_place_and_text() {
        let text = r#"{"sentAt":"2025-03-10T10:00:00.000Z","type":"track"}"#;
        let mut event = Message::parse(text).unwrap();
        set(&mut event, &Received::parse("2025-03-10T12:00:10.000Z").unwrap());
        assert!(event.to_json().starts_with(r#"{"sentAt":"2025-03-10T10:00:00.000Z","type":"track","receivedAt":"#));
    }
}

//! Where the events of a body are, and where in them the fields that ingestion reads.

use super::scan::{Scanner, Text};
use super::text::decode_string;
use super::{Invalid, Span};

/// What kind of value stands where an event should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event.
    Object,
    /// Never an event.
    Array,
    /// String, number, boolean or null.
    Scalar,
}

/// One event, as ranges of the scanned text.
#[derive(Clone, Copy, Debug)]
pub struct EventScan {
    /// The whole value.
    pub value: Span,
    /// What it is.
    pub kind: Kind,
    /// It must go through [`super::normalise`] before it is stored.
    pub dirty: bool,
    /// It has no members.
    pub empty: bool,
    /// Its fields; of a dirty event only those of the normalised text count.
    pub fields: Fields,
}

/// Values of an event that ingestion reads. Absent ones are the absent span.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "each is the value of the member that it is named after")]
pub struct Fields {
    pub kind: Span,
    pub user_id: Span,
    pub anonymous_id: Span,
    pub message_id: Span,
    pub rudder_id: Span,
    pub received_at: Span,
    pub request_ip: Span,
    pub event: Span,
    pub user_agent: Span,
    pub job_run_id: Span,
    pub task_run_id: Span,
    pub library_name: Span,
    pub library_version: Span,
}

/// A body that is one event.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    /// The event, possibly not an object.
    pub event: EventScan,
    /// `writeKey` of the body, as Segment's browser SDK sends it.
    pub write_key: Span,
}

/// Scans a body that is one event.
///
/// # Errors
/// The body is not one JSON value.
pub fn scan_single(text: &[u8], max_depth: usize) -> Result<Single, Invalid> {
    let mut scanner = Scanner::new(text, max_depth)?;
    scanner.blanks();
    let mut write_key = Span::default();
    let event = event(&mut scanner, &mut write_key)?;
    scanner.finish()?;
    Ok(Single { event, write_key })
}

/// Scans the text of one event, as [`super::normalise`] returned it.
///
/// # Errors
/// The text is not one JSON value.
pub fn scan_event(text: &[u8], max_depth: usize) -> Result<EventScan, Invalid> {
    scan_single(text, max_depth).map(|single| single.event)
}

/// Scans a body `{"batch": [event, ...]}` and hands over each event in order. A `batch` that is no array is one
/// event, `null` and an absent one are none, and so is a body that is no object. Returns the body's `writeKey`.
///
/// Events are handed over before the rest of the body is known to be valid.
///
/// # Errors
/// The body is not one JSON value.
pub fn scan_batch(text: &[u8], max_depth: usize, mut on_event: impl FnMut(EventScan)) -> Result<Span, Invalid> {
    let mut scanner = Scanner::new(text, max_depth)?;
    let mut write_key = Span::default();
    scanner.blanks();
    if scanner.peek() == Some(b'{') {
        let mut seen = false;
        scanner.object(|scanner, key| {
            let first = !seen && is_key(scanner, key, "batch");
            if !first {
                if !write_key.is_present() && is_key(scanner, key, "writeKey") {
                    write_key = capture(scanner)?;
                    return Ok(());
                }
                return scanner.skip_value();
            }
            seen = true;
            let mut inner = Span::default();
            match scanner.peek() {
                Some(b'[') => scanner.array(|scanner| {
                    on_event(event(scanner, &mut inner)?);
                    Ok(())
                }),
                Some(b'n') => scanner.literal(b"null"),
                _ => {
                    on_event(event(scanner, &mut inner)?);
                    Ok(())
                }
            }
        })?;
    } else {
        scanner.skip_value()?;
    }
    scanner.finish()?;
    Ok(write_key)
}

/// Whether the key, escapes resolved, is this name.
fn is_key(scanner: &Scanner<'_>, key: Text, name: &str) -> bool {
    let raw = scanner.text.get(key.start..key.end).unwrap_or_default();
    if key.escaped { decode_string(raw) == name } else { raw == name.as_bytes() }
}

fn capture(scanner: &mut Scanner<'_>) -> Result<Span, Invalid> {
    let start = scanner.position;
    scanner.skip_value()?;
    Ok(Span::new(start, scanner.position))
}

/// Takes one event. Keys with escapes make it dirty, so here only plain ones matter.
fn event(scanner: &mut Scanner<'_>, write_key: &mut Span) -> Result<EventScan, Invalid> {
    let start = scanner.position;
    scanner.dirty = false;
    let mut fields = Fields::default();
    let mut empty = true;
    let kind = match scanner.peek() {
        Some(b'{') => {
            scanner.object(|scanner, key| {
                empty = false;
                let slot = match scanner.text.get(key.start..key.end).unwrap_or_default() {
                    b"type" => &mut fields.kind,
                    b"userId" => &mut fields.user_id,
                    b"anonymousId" => &mut fields.anonymous_id,
                    b"messageId" => &mut fields.message_id,
                    b"rudderId" => &mut fields.rudder_id,
                    b"receivedAt" => &mut fields.received_at,
                    b"request_ip" => &mut fields.request_ip,
                    b"event" => &mut fields.event,
                    b"writeKey" => &mut *write_key,
                    b"context" if scanner.peek() == Some(b'{') => return context(scanner, &mut fields),
                    _ => return scanner.skip_value(),
                };
                *slot = capture(scanner)?;
                Ok(())
            })?;
            Kind::Object
        }
        Some(b'[') => {
            scanner.skip_value()?;
            Kind::Array
        }
        _ => {
            scanner.skip_value()?;
            Kind::Scalar
        }
    };
    let value = Span::new(start, scanner.position);
    Ok(EventScan { value, kind, dirty: scanner.dirty, empty, fields })
}

fn context(scanner: &mut Scanner<'_>, fields: &mut Fields) -> Result<(), Invalid> {
    scanner.object(|scanner, key| {
        let is_object = scanner.peek() == Some(b'{');
        match scanner.text.get(key.start..key.end).unwrap_or_default() {
            b"userAgent" => fields.user_agent = capture(scanner)?,
            b"library" if is_object => {
                return two(scanner, (b"name", &mut fields.library_name), (b"version", &mut fields.library_version));
            }
            b"sources" if is_object => {
                return two(
                    scanner,
                    (b"job_run_id", &mut fields.job_run_id),
                    (b"task_run_id", &mut fields.task_run_id),
                );
            }
            _ => scanner.skip_value()?,
        }
        Ok(())
    })
}

/// Takes an object and keeps two of its members.
fn two(scanner: &mut Scanner<'_>, first: (&[u8], &mut Span), second: (&[u8], &mut Span)) -> Result<(), Invalid> {
    scanner.object(|scanner, key| {
        let name = scanner.text.get(key.start..key.end).unwrap_or_default();
        let value = capture(scanner)?;
        if name == first.0 {
            *first.1 = value;
        } else if name == second.0 {
            *second.1 = value;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(body: &str) -> Result<Vec<(String, Kind, bool)>, Invalid> {
        let mut events = Vec::new();
        scan_batch(body.as_bytes(), 1200, |event| {
            let text = String::from_utf8_lossy(event.value.of(body.as_bytes())).into_owned();
            events.push((text, event.kind, event.dirty));
        })?;
        Ok(events)
    }

    #[test]
    fn the_elements_of_a_batch_are_found_with_their_kind() {
        let found = batch(r#" {"x":[1],"batch": [ {"a":1} , [2], 3,null ],"sentAt":"now"} "#).unwrap();
        let expected =
            [(r#"{"a":1}"#, Kind::Object), ("[2]", Kind::Array), ("3", Kind::Scalar), ("null", Kind::Scalar)];
        assert_eq!(found.len(), 4);
        for ((text, kind, dirty), (want, want_kind)) in found.iter().zip(expected) {
            assert_eq!((text.as_str(), *kind, *dirty), (want, want_kind, false));
        }
    }

    #[test]
    fn a_batch_that_is_no_array_is_one_event_and_none_is_none() {
        assert_eq!(batch(r#"{"batch":{"userId":"u"}}"#).unwrap().len(), 1);
        assert_eq!(batch(r#"{"batch":"x"}"#).unwrap().len(), 1);
        for none in ["{}", r#"{"batch":null}"#, r#"{"batch":[]}"#, "[{}]", "7", "null"] {
            assert_eq!(batch(none).unwrap(), [], "{none}");
        }
        assert_eq!(batch(r#"{"batch":[1],"batch":[2,3]}"#).unwrap().len(), 1, "the first key wins");
        assert_eq!(batch(r#"{"b\u0061tch":[1,2]}"#).unwrap().len(), 2);
        assert_eq!(batch(r#"{"batch":[1]} x"#), Err(Invalid));
    }

    #[test]
    fn fields_are_found_at_their_places_only() {
        let text = br#"{"userId":"u","properties":{"anonymousId":"no"},"context":{"userAgent":"ua","library":{"name":"n","version":"1.0.0"},"sources":{"job_run_id":"j","task_run_id":"t"}}}"#;
        let event = scan_event(text, 1200).unwrap();
        assert!(!event.dirty);
        assert_eq!(event.fields.user_id.of(text), br#""u""#);
        assert!(!event.fields.anonymous_id.is_present());
        assert_eq!(event.fields.user_agent.of(text), br#""ua""#);
        assert_eq!(event.fields.job_run_id.of(text), br#""j""#);
        assert_eq!(event.fields.task_run_id.of(text), br#""t""#);
        assert_eq!(event.fields.library_name.of(text), br#""n""#);
        assert_eq!(event.fields.library_version.of(text), br#""1.0.0""#);
    }

    #[test]
    fn only_what_needs_it_is_marked_for_normalising() {
        let cases: &[(&[u8], bool)] = &[
            (br#"{"a":1,"b":-7,"c":1.5,"d":"x\n\u00e9","e":[true,null]}"#, false),
            (br#"{"a":0.8234567890123456}"#, false),
            (br#"{"a":9223372036854775807,"b":18446744073709551615,"c":-9223372036854775808}"#, false),
            ("{\"a\":\"é\u{1f600}\"}".as_bytes(), false),
            (br#"{"a":"\ud83d\ude00"}"#, false),
            (br#"{"a":1.0}"#, true),
            (br#"{"a":1e3}"#, true),
            (br#"{"a":1.5E1}"#, true),
            (br#"{"a":18446744073709551616}"#, true),
            (br#"{"a":9007199254740993.5}"#, true),
            (br#"{"a":"\u0000"}"#, true),
            (br#"{"a":"\ud83d"}"#, true),
            (br#"{"a":"\ude00"}"#, true),
            (b"{\"a\":\"\xff\"}", true),
            (br#"{"a":{"b":1,"b":2}}"#, true),
            (br#"{"\u0061":1}"#, true),
        ];
        for (text, dirty) in cases {
            assert_eq!(scan_event(text, 1200).unwrap().dirty, *dirty, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn nesting_is_bounded_and_costs_no_stack() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(scan_event(nested(1200).as_bytes(), 1200).is_ok());
        assert!(scan_event(nested(1201).as_bytes(), 1200).is_err());
        assert!(scan_event("[".repeat(2_000_000).as_bytes(), 1200).is_err());
    }
}

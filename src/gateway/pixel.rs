//! Events in a query string, answered by an image whatever becomes of them (gateway.md 7.4).

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Map, Value};

use super::answer::{self, Answer};
use super::credentials::{query_parameters, query_write_key};
use super::ingest::{self, Client};
use super::routes::Call;
use super::server::Shared;

/// A transparent image of one pixel.
const GIF: [u8; 43] = *b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x21\xf9\x04\x01\x00\x00\x00\x00\
    \x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02\x44\x01\x00\x3b";
/// Parameters beyond this many are ignored.
const MOST_PARAMETERS: usize = 1000;
/// Parameters whose path is longer are ignored.
const DEEPEST_PATH: usize = 64;
/// Greatest index that makes an array; a greater one is a key.
const GREATEST_INDEX: usize = 100;

/// Stores the event, if there is one, and answers the image.
pub(super) async fn answer(shared: &Shared, client: &Client<'_>, call: Call) -> Answer {
    let query = client.parts.uri.query().unwrap_or_default();
    let now = shared.clock.now().to_string();
    if let (Ok(write_key), Some(event)) = (query_write_key(Some(query)), event(query, call, &now)) {
        ingest::event(shared, client, call, &write_key, event.to_string().as_bytes()).await;
    }
    answer::with_body(StatusCode::OK, HeaderValue::from_static("image/gif"), Bytes::from_static(&GIF))
}

/// The event that the parameters describe; `None` when it is to be dropped.
fn event(query: &str, call: Call, now: &str) -> Option<Value> {
    let mut event = Value::Object(Map::new());
    for (name, value) in [("channel", "web"), ("originalTimestamp", now), ("sentAt", now)] {
        set(&mut event, &[Segment::Name(name.to_owned())], Value::from(value));
    }
    set(&mut event, &["integrations", "All"].map(|name| Segment::Name(name.to_owned())), Value::from(true));
    let mut seen = std::collections::HashSet::new();
    for (name, mut value) in query_parameters(query).take(MOST_PARAMETERS) {
        if name == "writeKey" || !seen.insert(name.clone()) {
            continue;
        }
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        if let Some(inner) = quoted.filter(|_| name == "anonymousId").map(str::to_owned) {
            value = inner;
        }
        match (call, name.as_str(), value.is_empty()) {
            (Call::Page, "name", true) => "Unknown Page".clone_into(&mut value),
            (Call::Track, "event", true) => return None,
            _ => {}
        }
        if let Some(path) = path(&name) {
            set(&mut event, &path, Value::from(value));
        }
    }
    Some(event)
}

/// One step of a path.
#[derive(Debug, PartialEq)]
enum Segment {
    /// A key, or an index where an array is or can be.
    Index(usize, String),
    /// A key.
    Name(String),
}

/// Splits a parameter's name at its dots; `None` when it is ignored.
fn path(name: &str) -> Option<Vec<Segment>> {
    if name.is_empty() || name.contains(['|', '#', '@', '*', '?']) || name.split('.').nth(DEEPEST_PATH).is_some() {
        return None;
    }
    let mut texts = vec![String::new()];
    let mut characters = name.chars();
    while let Some(character) = characters.next() {
        let last = texts.last_mut()?;
        match character {
            '\\' => last.extend(characters.next()),
            '.' => texts.push(String::new()),
            other => last.push(other),
        }
    }
    let segment = |text: String| {
        if let Some(literal) = text.strip_prefix(':') {
            return Segment::Name(literal.to_owned());
        }
        match text.parse() {
            Ok(index) if index <= GREATEST_INDEX && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Segment::Index(index, text)
            }
            _ => Segment::Name(text),
        }
    };
    Some(texts.into_iter().map(segment).collect())
}

/// Sets the value at the path and makes what is missing on the way.
fn set(root: &mut Value, path: &[Segment], value: Value) {
    let mut place = root;
    for segment in path {
        place = match (segment, place) {
            (Segment::Index(index, _), Value::Array(items)) => {
                if items.len() <= *index {
                    items.resize(index + 1, Value::Null);
                }
                match items.get_mut(*index) {
                    Some(item) => item,
                    None => return,
                }
            }
            (Segment::Index(_, key) | Segment::Name(key), Value::Object(members)) => {
                members.entry(key.clone()).or_insert(Value::Null)
            }
            (Segment::Index(index, _), place) => {
                *place = Value::Array(vec![Value::Null; index + 1]);
                match place.get_mut(*index) {
                    Some(item) => item,
                    None => return,
                }
            }
            (Segment::Name(key), place) => {
                *place = Value::Object(Map::new());
                match place.as_object_mut() {
                    Some(members) => members.entry(key.clone()).or_insert(Value::Null),
                    None => return,
                }
            }
        };
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn built(query: &str, call: Call) -> Option<Value> {
        let mut event = event(query, call, "now")?;
        for name in ["originalTimestamp", "sentAt"] {
            assert_eq!(event.as_object_mut().unwrap().remove(name), Some(json!("now")));
        }
        Some(event)
    }

    #[test]
    fn parameters_become_strings_at_their_paths() {
        let query = "writeKey=k&anonymousId=%22a1%22&event=E&context.page.url=u&a.1=x&b.999999999=y&c.:0=z&d%5C.e=w&event=second&x%23y=1&channel=mobile";
        assert_eq!(
            built(query, Call::Track).unwrap(),
            json!({
                "channel": "mobile", "integrations": {"All": true}, "anonymousId": "a1", "event": "E",
                "context": {"page": {"url": "u"}}, "a": [null, "x"], "b": {"999999999": "y"}, "c": {"0": "z"}, "d.e": "w",
            })
        );
    }

    #[test]
    fn empty_names_have_their_rules() {
        assert_eq!(built("name=", Call::Page).unwrap()["name"], "Unknown Page");
        assert_eq!(built("event=", Call::Track), None);
        assert!(built("anonymousId=a", Call::Track).is_some());
    }

    #[test]
    fn deep_paths_are_ignored() {
        let name = format!("a{}", ".a".repeat(20_000));
        assert_eq!(
            built(&format!("{name}=1"), Call::Track).unwrap(),
            json!({"channel": "web", "integrations": {"All": true}})
        );
        let name = format!("a{}", ".a".repeat(63));
        assert!(built(&format!("{name}=1"), Call::Track).unwrap().get("a").is_some());
    }

    #[test]
    fn the_image_is_the_documented_one() {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(GIF);
        assert_eq!(text, "R0lGODlhAQABAIAAAAAAAAAAACH5BAEAAAAALAAAAAABAAEAAAICRAEAOw==");
    }
}

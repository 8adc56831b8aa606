//! A message: an event as slices of its stored text, with changed members laid over them.
//!
//! The gateway stores events validated and normalised (gateway.md 6.1: no duplicate keys, integral numbers as
//! integers, no lone surrogates), so a member that no rule changes goes out as the bytes that came in. One
//! scan finds the top-level members; nothing deeper is looked at until someone asks.
//!
//! Allocations per message: one for the list of members, one for each changed value.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Deeper values than the gateway accepts (`Gateway.maxJsonDepth` is 1 200) are never made into trees.
const DEEPEST_TREE: usize = 1_400;

/// Members that most events fit in.
const USUAL_MEMBERS: usize = 24;

/// Members from which on duplicate keys are found by hash.
const LARGE: usize = 64;

/// The text is no JSON object, or holds a value that cannot be made into a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a readable JSON object: {0}")]
pub struct Unreadable(String);

/// A JSON object whose members are texts: slices of a longer text, or own ones where they were changed.
#[derive(Clone, Debug, Default)]
pub struct Message<'t> {
    members: Vec<Member<'t>>,
}

#[derive(Clone, Debug)]
struct Member<'t> {
    key: Cow<'t, str>,
    /// JSON text, without blanks around it.
    value: Cow<'t, str>,
}

impl<'t> Message<'t> {
    /// Scans a JSON object. Of two members with one key the last counts.
    ///
    /// # Errors
    /// [`Unreadable`] for anything but one JSON object.
    pub fn parse(text: &'t str) -> Result<Message<'t>, Unreadable> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer.disable_recursion_limit();
        let message = Message::deserialize(&mut deserializer).map_err(|error| Unreadable(error.to_string()))?;
        deserializer.end().map_err(|error| Unreadable(error.to_string()))?;
        Ok(message)
    }

    /// The JSON text of a member.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.members.iter().find(|member| member.key == key).map(|member| &*member.value)
    }

    /// The JSON text of a member that is neither missing nor `null`.
    pub fn get_present(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|json| *json != "null")
    }

    /// A member that is a string, decoded.
    pub fn text(&self, key: &str) -> Option<Cow<'_, str>> {
        self.get(key).and_then(text_of)
    }

    /// A member that is an object, scanned.
    pub fn object(&self, key: &str) -> Option<Message<'_>> {
        let json = self.get(key)?;
        if json.starts_with('{') { Message::parse(json).ok() } else { None }
    }

    /// Keys and JSON texts, in order.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members.iter().map(|member| (&*member.key, &*member.value))
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Puts a JSON text in a member's place, or adds the member at the end.
    pub fn set(&mut self, key: &'static str, json: impl Into<Cow<'t, str>>) {
        let value = json.into();
        match self.members.iter_mut().find(|member| member.key == key) {
            Some(member) => member.value = value,
            None => self.members.push(Member { key: Cow::Borrowed(key), value }),
        }
    }

    /// Takes a member away.
    pub fn remove(&mut self, key: &str) {
        self.members.retain(|member| member.key != key);
    }

    /// Appends the object as JSON.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.write_where(out, |_, _| true);
    }

    /// Appends the object as JSON, with the members that `keep` chooses by key and JSON text.
    pub fn write_where(&self, out: &mut Vec<u8>, keep: impl Fn(&str, &str) -> bool) {
        out.push(b'{');
        let mut first = true;
        for member in self.members.iter().filter(|member| keep(&member.key, &member.value)) {
            if !first {
                out.push(b',');
            }
            first = false;
            push_json_string(out, &member.key);
            out.push(b':');
            out.extend_from_slice(member.value.as_bytes());
        }
        out.push(b'}');
    }

    /// The object as JSON.
    pub fn to_json(&self) -> String {
        let mut out =
            Vec::with_capacity(self.members.iter().map(|member| member.key.len() + member.value.len() + 4).sum());
        self.write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// The object as a tree, for rules that need one.
    ///
    /// # Errors
    /// [`Unreadable`] when it is nested deeper than the gateway accepts.
    pub fn to_tree(&self) -> Result<Value, Unreadable> {
        tree_of(&self.to_json())
    }
}

impl<'de: 't, 't> Deserialize<'de> for Message<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message<'t>, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Message<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'de>, A::Error> {
                let mut members: Vec<Member<'de>> = Vec::with_capacity(USUAL_MEMBERS);
                // Places by key, kept only for objects so large that looking through them would be felt.
                let mut places: HashMap<Cow<'de, str>, usize> = HashMap::new();
                while let Some(Key(key)) = map.next_key()? {
                    let value: &'de RawValue = map.next_value()?;
                    let value = Cow::Borrowed(value.get());
                    if members.len() == LARGE {
                        places = members.iter().enumerate().map(|(at, member)| (member.key.clone(), at)).collect();
                    }
                    let known = if members.len() < LARGE {
                        members.iter_mut().find(|member| member.key == key)
                    } else {
                        places.get(&key).and_then(|at| members.get_mut(*at))
                    };
                    match known {
                        Some(member) => member.value = value,
                        None => {
                            if members.len() >= LARGE {
                                places.insert(key.clone(), members.len());
                            }
                            members.push(Member { key, value });
                        }
                    }
                }
                Ok(Message { members })
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A key, borrowed unless it holds escapes.
struct Key<'t>(Cow<'t, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<'de>, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// The string that a JSON text is, decoded; `None` for other values.
pub(super) fn text_of(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str::<String>(json).ok().map(Cow::Owned)
}

/// A string as it is, any other value as its compact JSON text.
pub(super) fn text_or_json(json: &str) -> Cow<'_, str> {
    text_of(json).unwrap_or_else(|| compact(json))
}

/// The JSON text without blanks between its parts.
fn compact(json: &str) -> Cow<'_, str> {
    if !json.starts_with(['{', '[']) {
        return Cow::Borrowed(json);
    }
    tree_of(json).map_or(Cow::Borrowed(json), |tree| Cow::Owned(tree.to_string()))
}

/// Whether a JSON text counts as true where it is asked: not `null`, `false`, `0` or `""`.
pub(super) fn is_truthy(json: &str) -> bool {
    !matches!(json, "null" | "false" | "\"\"" | "0" | "-0" | "0.0" | "-0.0")
}

/// Whether an object's JSON text may have this key (with its quotes), at any depth. `false` is certain, and
/// cheaper than a scan.
pub fn may_hold_key(json: &str, quoted_key: &str) -> bool {
    // A key may be written with escapes.
    memchr::memmem::find(json.as_bytes(), quoted_key.as_bytes()).is_some()
        || memchr::memchr(b'\\', json.as_bytes()).is_some()
}

/// A JSON text as a tree.
///
/// # Errors
/// [`Unreadable`] when it is nested deeper than the gateway accepts, or no JSON.
pub(super) fn tree_of(json: &str) -> Result<Value, Unreadable> {
    if is_deeper_than(json, DEEPEST_TREE) {
        return Err(Unreadable(format!("nested deeper than {DEEPEST_TREE} levels")));
    }
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.disable_recursion_limit();
    Value::deserialize(&mut deserializer).map_err(|error| Unreadable(error.to_string()))
}

/// Counts brackets, those in strings too: more than there are levels, never fewer.
fn is_deeper_than(json: &str, levels: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > levels {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Appends a text as a JSON string.
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        let quoted = Value::from(text).to_string();
        out.extend_from_slice(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().as_bytes());
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(text: &str) -> Message<'_> {
        Message::parse(text).unwrap()
    }

    #[test]
    fn untouched_members_go_out_as_they_came_in() {
        let text = r#"{"b":1.50,"a":{ "x" : [1, 2] },"c":"\u00e9\n","":null}"#;
        assert_eq!(message(text).to_json(), text);
        assert_eq!(message(" { \"b\" : 1 , \"a\" : [ ] } ").to_json(), r#"{"b":1,"a":[ ]}"#);
        assert_eq!(message("{}").to_json(), "{}");
    }

    #[test]
    fn a_member_is_replaced_in_its_place_or_added_at_the_end() {
        let mut event = message(r#"{"a":1,"b":2}"#);
        event.set("a", "\"x\"".to_owned());
        event.set("c", "3");
        event.remove("b");
        assert_eq!(event.to_json(), r#"{"a":"x","c":3}"#);
    }

    #[test]
    fn of_two_members_with_one_key_the_last_counts() {
        assert_eq!(message(r#"{"a":1,"b":2,"a":3}"#).to_json(), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn duplicate_keys_are_found_in_large_objects_too() {
        let mut members: Vec<String> = (0..1_000).map(|n| format!("\"k{n}\":{n}")).collect();
        members.extend((0..1_000).map(|n| format!("\"k{n}\":\"{n}\"")));
        let text = format!("{{{}}}", members.join(","));
        let event = message(&text);
        assert_eq!(event.members().count(), 1_000);
        assert!(event.members().all(|(key, json)| json == format!("\"{}\"", &key[1..])));
    }

    #[test]
    fn an_object_of_very_many_members_is_read_in_proportion() {
        let members: Vec<String> = (0..300_000).map(|n| format!("\"{n}\":1")).collect();
        assert_eq!(message(&format!("{{{}}}", members.join(","))).members().count(), 300_000);
    }

    #[test]
    fn keys_with_escapes_are_found_and_written_back() {
        let event = message(r#"{"a\"b":1,"\u0041":2}"#);
        assert_eq!(event.get("a\"b"), Some("1"));
        assert_eq!(event.get("A"), Some("2"));
        assert_eq!(event.to_json(), r#"{"a\"b":1,"A":2}"#);
    }

    #[test]
    fn only_strings_are_texts() {
        let event = message(r#"{"s":"a\u0041","n":5,"z":null,"o":{"k":true}}"#);
        assert_eq!(event.text("s").as_deref(), Some("aA"));
        assert_eq!(event.text("n"), None);
        assert_eq!(event.get_present("z"), None);
        assert_eq!(event.object("o").and_then(|object| object.get("k").map(str::to_owned)).as_deref(), Some("true"));
        assert!(event.object("n").is_none());
    }

    #[test]
    fn a_key_that_may_be_there_is_never_overlooked() {
        assert!(may_hold_key(r#"{"a":{"ip":1}}"#, "\"ip\""));
        assert!(may_hold_key(r#"{"\u0069p":1}"#, "\"ip\""));
        assert!(!may_hold_key(r#"{"zip":1}"#, "\"ip\""));
    }

    #[test]
    fn anything_but_one_object_is_unreadable() {
        for text in ["", "[]", "1", "{\"a\":}", "{\"a\":1", "{\"a\":1}x", "{\"a\":01}", "{\"a\" 1}", "null", "{1:2}"] {
            assert!(Message::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_deepest_event_that_the_gateway_accepts_is_read_and_deeper_ones_end_in_an_error() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let deepest = nested(1_200);
        assert!(message(&deepest).to_tree().is_ok());
        let bottomless = nested(100_000);
        assert!(message(&bottomless).to_tree().is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_scan_panic(text in "[\\[\\]{}:,\"\\\\a1 .eE+-]{0,60}") {
            if let Ok(event) = Message::parse(&text) {
                let tree: Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(event.to_tree().unwrap(), tree);
            }
        }
    }
}

//! Where in a JSON text a value stands, so that an error can say line and column.
//!
//! Parsed values do not know their place. Only when there is something to report is the text walked again,
//! along the path of the value, without parsing what lies beside it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into the member with this key, as written.
    Key(String),
    /// Into the element with this index.
    Index(usize),
}

/// A path as people write it: `sources[0].destinations[1].enabled`.
pub(super) fn path_text(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => {
                text.push('[');
                text.push_str(&index.to_string());
                text.push(']');
            }
        }
    }
    text
}

/// Line and column, from 1, of the value at the end of the path, or of the last part of the path that exists.
pub(super) fn locate(text: &str, steps: &[Step]) -> (usize, usize) {
    let start = text.find(|c: char| !c.is_whitespace()).unwrap_or(0);
    let mut part = text.get(start..).unwrap_or_default();
    for step in steps {
        let next = match step {
            Step::Key(wanted) => {
                serde_json::from_str::<Members<'_>>(part).ok().and_then(|members| members.find(wanted))
            }
            Step::Index(index) => {
                serde_json::from_str::<Elements<'_>>(part).ok().and_then(|elements| elements.0.get(*index).copied())
            }
        };
        match next {
            Some(value) => part = value.get(),
            None => break,
        }
    }
    // Every part is a slice of the text, so the distance of their beginnings is the offset.
    line_and_column(text, part.as_ptr().addr().saturating_sub(text.as_ptr().addr()))
}

/// Line and column, from 1, of a byte offset.
pub(super) fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

struct Members<'a>(Vec<(String, &'a RawValue)>);
struct Elements<'a>(Vec<&'a RawValue>);

impl<'a> Members<'a> {
    /// The last member with this key, or else with this key but for case.
    fn find(&self, wanted: &str) -> Option<&'a RawValue> {
        let exact = self.0.iter().rev().find(|(key, _)| key == wanted);
        exact.or_else(|| self.0.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(wanted))).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementsVisitor;
        impl<'de> Visitor<'de> for ElementsVisitor {
            type Value = Elements<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path_and_a_missing_one_by_its_nearest_parent() {
        let text = "{\n  \"a\": [1, {\"ü\": \"x\", \"b\\u0063\": true}],\n  \"a2\": {}\n}";
        let key = |key: &str| Step::Key(key.to_owned());
        for (steps, place) in [
            (vec![], (1, 1)),
            (vec![key("a")], (2, 8)),
            (vec![key("a"), Step::Index(1), key("bc")], (2, 34)),
            (vec![key("a"), Step::Index(7)], (2, 8)),
            (vec![key("a2"), key("none")], (3, 9)),
        ] {
            assert_eq!(locate(text, &steps), place, "{}", path_text(&steps));
        }
    }

    #[test]
    fn paths_read_like_code() {
        let steps = [Step::Key("sources".to_owned()), Step::Index(2), Step::Key("enabled".to_owned())];
        assert_eq!(path_text(&steps), "sources[2].enabled");
    }
}

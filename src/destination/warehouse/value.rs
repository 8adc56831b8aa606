//! JSON values that borrow from the text of the event.
//!
//! Only the members that are flattened become trees. Texts without escapes stay slices, so that a tree costs its
//! nodes and no copy of what the event holds.

use std::borrow::Cow;

use serde_json::Number;

use super::reader;
use super::refused::Refused;
use crate::event::json::push_string;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json<'t> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number; integral ones that fit are integers.
    Number(Number),
    /// A string, decoded.
    Text(Cow<'t, str>),
    /// An array.
    Array(Vec<Json<'t>>),
    /// An object.
    Object(Members<'t>),
}

/// The members of an object, in the order of the text. Of two with one key the last counts.
pub type Members<'t> = Vec<(Cow<'t, str>, Json<'t>)>;

impl<'t> Json<'t> {
    /// Reads one JSON value.
    ///
    /// # Errors
    /// [`Refused::Unreadable`] for a text that is no JSON or is nested deeper than the gateway accepts.
    pub fn parse(text: &'t str) -> Result<Json<'t>, Refused> {
        reader::read(text).ok_or(Refused::Unreadable)
    }

    /// A member of an object.
    pub fn get(&self, key: &str) -> Option<&Json<'t>> {
        match self {
            Json::Object(members) => members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Whether the value makes no column (warehouse.md 2.2).
    pub(super) fn is_blank(&self) -> bool {
        match self {
            Json::Null => true,
            Json::Text(text) => text.is_empty(),
            Json::Array(items) => match items.as_slice() {
                [] => true,
                [Json::Null] => false,
                [only] => only.is_blank(),
                _ => false,
            },
            Json::Bool(_) | Json::Number(_) | Json::Object(_) => false,
        }
    }

    /// Whether the value is an object or an array.
    pub(super) fn is_container(&self) -> bool {
        matches!(self, Json::Array(_) | Json::Object(_))
    }

    /// The value as text: a string as it is, `null` as nothing, anything else as JSON.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Json::Null => Cow::Borrowed(""),
            Json::Text(text) => Cow::Borrowed(text),
            _ => Cow::Owned(self.to_json()),
        }
    }

    /// The value as JSON without blanks.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        self.write(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Appends the value as JSON without blanks.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(true) => out.extend_from_slice(b"true"),
            Json::Bool(false) => out.extend_from_slice(b"false"),
            Json::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Json::Text(text) => push_string(out, text),
            Json::Array(items) => {
                out.push(b'[');
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Json::Object(members) => {
                out.push(b'{');
                for (place, (key, value)) in members.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    push_string(out, key);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_but_for_blanks_and_integral_numbers() {
        let table = [
            ("null", "null"),
            (r#" [ 1 , -2.50 , true , "a\"b\u00e9" ] "#, "[1,-2.5,true,\"a\\\"b\u{e9}\"]"),
            (r#"{"b":{},"a":[],"":"\n"}"#, r#"{"b":{},"a":[],"":"\n"}"#),
            ("18446744073709551615", "18446744073709551615"),
            ("3.0", "3"),
            ("-0.0", "0"),
            ("12e2", "1200"),
            ("1e21", "1e+21"),
        ];
        for (text, expected) in table {
            assert_eq!(Json::parse(text).unwrap().to_json(), expected);
        }
        assert!(Json::parse("{").is_err() && Json::parse("1 2").is_err() && Json::parse("").is_err());
    }

    #[test]
    fn texts_without_escapes_are_slices() {
        let value = Json::parse(r#"{"a":"b"}"#).unwrap();
        let Json::Object(members) = value else { unreachable!() };
        assert!(matches!(&members[0], (Cow::Borrowed("a"), Json::Text(Cow::Borrowed("b")))));
    }

    #[test]
    fn blank_is_what_makes_no_column() {
        for (text, is_blank) in [
            ("null", true),
            ("\"\"", true),
            ("[]", true),
            ("[\"\"]", true),
            ("[[]]", true),
            ("[[[\"\"]]]", true),
            ("[null]", false),
            ("[[null]]", false),
            ("[\"\",\"\"]", false),
            ("[{}]", false),
            ("\" \"", false),
            ("{}", false),
            ("0", false),
            ("false", false),
        ] {
            assert_eq!(Json::parse(text).unwrap().is_blank(), is_blank, "{text}");
        }
    }

    #[test]
    fn of_two_members_with_one_key_the_last_counts() {
        let value = Json::parse(r#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(value.get("a").map(Json::to_json).as_deref(), Some("2"));
    }

    #[test]
    fn the_deepest_event_is_read_and_a_bottomless_one_refused() {
        let nested = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert!(Json::parse(&nested(1_200)).is_ok());
        let bottomless = nested(100_000);
        assert!(matches!(Json::parse(&bottomless), Err(Refused::Unreadable)));
    }
}

//! Reading JSON into values that borrow from it.
//!
//! The text was scanned when the message was, so this is lenient where a wrong text would do no harm. What is open is
//! kept in a list, not on the thread's stack: deep events need no more of it than flat ones.

use std::borrow::Cow;

use serde_json::Number;

use super::value::{Json, Members};
use crate::event::json::decode_string;

/// Deeper values than the gateway accepts (`Gateway.maxJsonDepth` is 1 200) are not read.
const DEEPEST: usize = 1_400;

/// Floats up to here hold integers exactly: 2^53.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads the one JSON value that the text is.
pub(super) fn read(text: &str) -> Option<Json<'_>> {
    let mut reader = Reader { text, at: 0 };
    let mut open: Vec<Open<'_>> = Vec::new();
    loop {
        let mut value = match reader.begin()? {
            Begun::Value(value) => value,
            Begun::Open(_) if open.len() >= DEEPEST => return None,
            Begun::Open(container) => {
                open.push(container);
                continue;
            }
        };
        // The value may end the containers around it.
        loop {
            let Some(container) = open.last_mut() else {
                return reader.peek().is_none().then_some(value);
            };
            container.add(value);
            match (reader.next()?, &mut *container) {
                (b',', Open::Array(_)) => break,
                (b',', Open::Object(_, key)) => {
                    *key = reader.key()?;
                    break;
                }
                (b']', Open::Array(items)) => value = Json::Array(std::mem::take(items)),
                (b'}', Open::Object(members, _)) => value = Json::Object(std::mem::take(members)),
                _ => return None,
            }
            open.pop();
        }
    }
}

/// A container that is not read to its end.
enum Open<'t> {
    Array(Vec<Json<'t>>),
    /// With the key of the member that is being read.
    Object(Members<'t>, Cow<'t, str>),
}

impl<'t> Open<'t> {
    fn add(&mut self, value: Json<'t>) {
        match self {
            Open::Array(items) => items.push(value),
            Open::Object(members, key) => members.push((std::mem::take(key), value)),
        }
    }
}

enum Begun<'t> {
    Value(Json<'t>),
    Open(Open<'t>),
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
        self.at += blanks;
        rest.get(blanks).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// A value without members, or the beginning of one with members.
    fn begin(&mut self) -> Option<Begun<'t>> {
        let value = match self.peek()? {
            b'{' => {
                self.at += 1;
                if self.peek()? != b'}' {
                    return Some(Begun::Open(Open::Object(Vec::new(), self.key()?)));
                }
                self.at += 1;
                Json::Object(Vec::new())
            }
            b'[' => {
                self.at += 1;
                if self.peek()? != b']' {
                    return Some(Begun::Open(Open::Array(Vec::new())));
                }
                self.at += 1;
                Json::Array(Vec::new())
            }
            b'"' => Json::Text(self.string()?),
            b't' => self.literal("true", Json::Bool(true))?,
            b'f' => self.literal("false", Json::Bool(false))?,
            b'n' => self.literal("null", Json::Null)?,
            _ => self.number()?,
        };
        Some(Begun::Value(value))
    }

    fn key(&mut self) -> Option<Cow<'t, str>> {
        self.peek().filter(|byte| *byte == b'"')?;
        let key = self.string()?;
        self.next().filter(|byte| *byte == b':')?;
        Some(key)
    }

    /// A string, from its first quote on.
    fn string(&mut self) -> Option<Cow<'t, str>> {
        let start = self.at + 1;
        let rest = self.text.as_bytes().get(start..)?;
        let mut length = memchr::memchr2(b'"', b'\\', rest)?;
        let is_plain = rest.get(length) == Some(&b'"');
        while rest.get(length)? == &b'\\' {
            // Behind the escaped byte, which may be a quote.
            let behind = length + 2;
            length = behind + memchr::memchr2(b'"', b'\\', rest.get(behind..)?)?;
        }
        self.at = start + length + 1;
        let raw = self.text.get(start..start + length)?;
        Some(if is_plain { Cow::Borrowed(raw) } else { Cow::Owned(decode_string(raw.as_bytes()).into_owned()) })
    }

    fn literal(&mut self, written: &str, value: Json<'t>) -> Option<Json<'t>> {
        self.text.get(self.at..)?.starts_with(written).then(|| self.at += written.len())?;
        Some(value)
    }

    /// A number. Integers of 64 bits stay exact; others that are integral become integers, as columns of integers
    /// need them, unless their digits would be made up.
    fn number(&mut self) -> Option<Json<'t>> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let length =
            rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count();
        let written = self.text.get(self.at..self.at + length)?;
        self.at += length;
        if let Ok(integer) = written.parse::<i64>() {
            return Some(Json::Number(integer.into()));
        }
        if let Ok(integer) = written.parse::<u64>() {
            return Some(Json::Number(integer.into()));
        }
        let float: f64 = written.parse().ok()?;
        let integer = if float.fract() == 0.0 && float.abs() <= LARGEST_EXACT {
            // A cast would be lossy for other floats; this is rare enough to go by way of text.
            format!("{float:.0}").parse::<i64>().ok().map(Number::from)
        } else {
            None
        };
        integer.or_else(|| Number::from_f64(float)).map(Json::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_json_is_not_read() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "}",
            "[1",
            "[1,",
            "[1}",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "\"",
            "\"\\",
            "\"\\\"",
            "1 2",
            "nul",
            "tru",
            "-",
            "e",
            "1e999",
            "[] []",
            "\u{e9}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_whatever_is_json_is_read(text in "[\\[\\]{}:,\"\\\\nul1 .eE+-]{0,40}") {
            let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
            prop_assert!(read(&text).is_some() || !is_json);
        }

        #[test]
        fn values_that_were_written_are_read(list in proptest::collection::vec(("\\PC{0,8}", any::<i64>(), any::<bool>()), 0..5)) {
            let document = serde_json::json!({ "list": list, "empty": [{}, [], ""] });
            for text in [document.to_string(), serde_json::to_string_pretty(&document).unwrap()] {
                let written: serde_json::Value = serde_json::from_str(&read(&text).unwrap().to_json()).unwrap();
                prop_assert_eq!(&written, &document);
            }
        }
    }
}

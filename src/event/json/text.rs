//! Strings of JSON: decoding, writing, and the compact form of a value.

use std::borrow::Cow;

use super::Invalid;
use super::scan::Scanner;

/// Resolves the escapes of a string that a scanner accepted, given without its quotes. Lone surrogates and
/// invalid UTF-8 become U+FFFD; `\u0000` is dropped.
pub fn decode_string(raw: &[u8]) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', raw) else {
        return String::from_utf8_lossy(raw);
    };
    let (plain, mut rest) = raw.split_at(first);
    let mut text = String::from_utf8_lossy(plain).into_owned();
    text.reserve(rest.len());
    while let Some((_, escape)) = rest.split_first() {
        let (decoded, length) = decode_escape(escape);
        text.extend(decoded);
        rest = escape.get(length..).unwrap_or_default();
        let next = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
        let (plain, behind) = rest.split_at(next);
        text.push_str(&String::from_utf8_lossy(plain));
        rest = behind;
    }
    Cow::Owned(text)
}

/// Decodes what follows a backslash; returns the character and how many bytes it took.
fn decode_escape(escape: &[u8]) -> (Option<char>, usize) {
    let simple = match escape.first() {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return decode_unicode(escape),
        Some(other) => char::from(*other),
        None => return (None, 0),
    };
    (Some(simple), 1)
}

fn decode_unicode(escape: &[u8]) -> (Option<char>, usize) {
    let unit = |from: usize| {
        let digits = escape.get(from..from + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        digits.and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    match unit(1) {
        Some(0) => (None, 5),
        Some(high @ 0xd800..=0xdbff) => match unit(7) {
            Some(low @ 0xdc00..=0xdfff) if escape.get(5..7) == Some(br"\u") => {
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                (char::from_u32(code), 11)
            }
            _ => (Some(char::REPLACEMENT_CHARACTER), 5),
        },
        Some(code) => (Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)), 5),
        None => (None, escape.len().min(5)),
    }
}

/// Appends the text as a JSON string, quotes included.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => br#"\""#,
            b'\\' => br"\\",
            b'\n' => br"\n",
            b'\r' => br"\r",
            b'\t' => br"\t",
            0x8 => br"\b",
            0xc => br"\f",
            0..0x20 => br"\u00",
            _ => continue,
        };
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        out.extend_from_slice(escape);
        if escape.len() == 4 {
            out.push(b'0' + (byte >> 4));
            out.push(
                char::from_digit(u32::from(byte & 15), 16).map_or(b'0', |digit| u8::try_from(digit).unwrap_or(b'0')),
            );
        }
        plain = at + 1;
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

/// The value without blanks between its tokens.
///
/// # Errors
/// The text is not one JSON value.
pub fn compact(value: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut out = Vec::with_capacity(value.len());
    // The text was scanned before, so its depth is bounded already.
    let mut scanner = Scanner::new(value, usize::MAX)?;
    while let Some(byte) = scanner.peek() {
        let start = scanner.position;
        match byte {
            b' ' | b'\n' | b'\r' | b'\t' => {
                scanner.blanks();
                continue;
            }
            b'"' => {
                scanner.string()?;
            }
            _ => scanner.position += 1,
        }
        out.extend_from_slice(value.get(start..scanner.position).unwrap_or_default());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_decode_as_the_gateway_promises() {
        for (raw, text) in [
            (&b"plain"[..], "plain"),
            (br#"a\"b\\c\/d\b\f\n\r\t"#, "a\"b\\c/d\u{8}\u{c}\n\r\t"),
            (br"\u00e9\ud83d\ude00", "\u{e9}\u{1f600}"),
            (br"x\ud83dy", "x\u{fffd}y"),
            (br"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
            (br"\ude00", "\u{fffd}"),
            (br"a\u0000b", "ab"),
            (b"a\xffb", "a\u{fffd}b"),
        ] {
            assert_eq!(decode_string(raw), text);
        }
    }

    #[test]
    fn written_strings_are_read_back_by_anyone() {
        for text in ["", "plain", "q\"b\\s/", "\u{1}\u{1f}\n\r\t\u{8}\u{c}", "é\u{1f600}\u{7f}"] {
            let mut out = Vec::new();
            push_string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn compact_form_keeps_blanks_inside_strings_only() {
        assert_eq!(compact(b"{ \"a b\" : [ 1 , \"x \\\" y\" ] }").unwrap(), br#"{"a b":[1,"x \" y"]}"#);
    }
}

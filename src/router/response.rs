//! What is kept of a destination's answer (router.md 6.6).

/// Bytes of a body that are stored.
pub const STORED_BYTES: usize = 10_240;
/// What stands for a body that no human reads.
const REDACTED: &str = "redacted due to unsupported content-type";
/// Bytes that sniffing looks at.
const SNIFFED_BYTES: usize = 512;

/// The text that is stored of a body: cut, valid UTF-8, or a note when the type is not readable.
///
/// `content_type` is the response header, possibly empty; an empty one is guessed from the body.
pub fn stored_text(content_type: &str, body: &[u8]) -> String {
    let readable = if content_type.trim().is_empty() { looks_like_text(body) } else { is_readable(content_type) };
    let says_nothing = body.is_empty() && content_type.trim().is_empty();
    if !(readable || says_nothing) {
        return REDACTED.to_owned();
    }
    cut(&String::from_utf8_lossy(body.get(..STORED_BYTES).unwrap_or(body)))
}

/// At most [`STORED_BYTES`] bytes of a text.
pub fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(STORED_BYTES)).unwrap_or(text).to_owned()
}

/// Whether humans read the media type: `text/...`, JSON or XML of `application`.
fn is_readable(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type.starts_with("text/") {
        return true;
    }
    let Some((_, subtype)) = media_type.split_once("application/") else {
        return false;
    };
    let ending = subtype.rsplit_once('+').map_or(subtype, |(_, ending)| ending);
    matches!(ending, "json" | "xml")
}

/// Text has no control bytes but blanks and escapes, as in the WHATWG's sniffing rule.
fn looks_like_text(body: &[u8]) -> bool {
    let head = body.get(..SNIFFED_BYTES).unwrap_or(body);
    !head.iter().any(|byte| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readable_bodies_are_stored() {
        for (content_type, readable) in [
            ("text/html; charset=utf-8", true),
            ("TEXT/plain", true),
            ("application/json", true),
            ("application/problem+json", true),
            ("application/xml", true),
            ("application/soap+xml; charset=utf-8", true),
            ("application/octet-stream", false),
            ("application/jsonlines", false),
            ("image/png", false),
            ("image/svg+xml", false),
        ] {
            assert_eq!(stored_text(content_type, b"abc") == "abc", readable, "{content_type}");
        }
        assert_eq!(stored_text("", b"plain"), "plain");
        assert_eq!(stored_text("", &[0, 1, 2]), REDACTED);
        assert_eq!(stored_text("", b""), "");
    }

    #[test]
    fn bodies_are_cut_and_stay_valid_text() {
        assert_eq!(stored_text("text/plain", &vec![b'a'; 20_000]).len(), STORED_BYTES);
        let body = "é".repeat(STORED_BYTES);
        let mut shifted = b"x".to_vec();
        shifted.extend_from_slice(body.as_bytes());
        assert!(stored_text("text/plain", &shifted).len() <= STORED_BYTES);
        assert_eq!(stored_text("text/plain", &[b'a', 0xff]), "a\u{fffd}");
    }
}

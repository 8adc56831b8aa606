//! Who an event is from: cleaned ids, `rudderId`, the job's user id (gateway.md 6.2 to 6.4, security.md 2.1).

use std::borrow::Cow;

use icu_properties::CodePointMapData;
use icu_properties::props::GeneralCategory;
use md5::{Digest, Md5};
use sha2::Sha256;
use uuid::Uuid;

use super::json;

/// Parts of a job's user id that are longer than this many bytes are stored as their hash.
const LONGEST_PART: usize = 1024;

/// The text without invisible characters and without blanks at its ends.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Cow::Borrowed(text.trim_matches(' '));
    }
    if !text.chars().any(is_invisible) {
        return Cow::Borrowed(text.trim_matches(' '));
    }
    let visible: String = text.chars().filter(|c| !is_invisible(*c)).collect();
    Cow::Owned(visible.trim_matches(' ').to_owned())
}

/// Characters that are no letter, mark, number, punctuation, symbol or plain space, and those that only look so.
fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    let drawn_as_nothing = matches!(
        c,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}'
    );
    drawn_as_nothing
        || matches!(
            CodePointMapData::<GeneralCategory>::new().get(c),
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::Unassigned
                | GeneralCategory::Surrogate
                | GeneralCategory::PrivateUse
                | GeneralCategory::SpaceSeparator
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
        )
}

/// The id that a scanned JSON value stands for: a string's text, nothing for `null` and an absent value, the
/// compact text of anything else; cleaned.
pub fn id_of(value: &[u8]) -> Cow<'_, str> {
    match value {
        [] | b"null" => Cow::Borrowed(""),
        [b'"', raw @ .., b'"'] => match json::decode_string(raw) {
            Cow::Borrowed(text) => clean(text),
            Cow::Owned(text) => Cow::Owned(clean(&text).into_owned()),
        },
        other => {
            let compact = json::compact(other).unwrap_or_default();
            Cow::Owned(clean(&String::from_utf8_lossy(&compact)).into_owned())
        }
    }
}

/// The event's `rudderId`: a UUID made of both cleaned ids.
pub fn rudder_id(user_id: &str, anonymous_id: &str) -> Uuid {
    let mut hash = Md5::new();
    hash.update(user_id.as_bytes());
    hash.update(b":");
    hash.update(anonymous_id.as_bytes());
    uuid::Builder::from_md5_bytes(hash.finalize().into()).with_version(uuid::Version::Random).into_uuid()
}

/// The part as it stands in a job's user id: itself, or the hash of a text that is too long to be repeated.
pub fn bounded(part: &str) -> Cow<'_, str> {
    if part.len() <= LONGEST_PART {
        return Cow::Borrowed(part);
    }
    let digest = Sha256::digest(part.as_bytes());
    let mut hex = String::with_capacity(64);
    for byte in digest {
        for nibble in [byte >> 4, byte & 15] {
            hex.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    Cow::Owned(hex)
}

/// Puts a job's user id together: `<AnonymousId header><<>><anonymousId, or userId><<>><userId>`, each part bounded.
/// `header` is already bounded, because one request has many events.
pub fn write_job_user_id(out: &mut String, header: &str, anonymous_id: &str, user_id: &str) {
    let user = bounded(user_id);
    out.clear();
    out.push_str(header);
    out.push_str("<<>>");
    if anonymous_id.is_empty() {
        out.push_str(&user);
    } else {
        out.push_str(&bounded(anonymous_id));
    }
    out.push_str("<<>>");
    out.push_str(&user);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_and_outer_blanks_are_not_part_of_an_id() {
        for (text, cleaned) in [
            ("  a b ", "a b"),
            ("\u{200b}\u{feff}\u{a0}", ""),
            ("a\tb\nc", "abc"),
            ("\u{3000}x\u{2800}\u{3164}y\u{34f}", "xy"),
            ("\u{ad}é\u{1f600}", "é\u{1f600}"),
            ("\u{fffd}", "\u{fffd}"),
            ("", ""),
        ] {
            assert_eq!(clean(text), cleaned);
        }
    }

    #[test]
    fn ids_of_any_json_type_have_a_text() {
        for (value, id) in [
            (&b""[..], ""),
            (b"null", ""),
            (br#""user-1""#, "user-1"),
            (br#""   ""#, ""),
            (br#""\u200b\ufeff\u00a0""#, ""),
            (b"456", "456"),
            (b"false", "false"),
            (b"{ \"id\" : 456 }", r#"{"id":456}"#),
        ] {
            assert_eq!(id_of(value), id);
        }
    }

    #[test]
    fn rudder_ids_are_those_of_the_peer() {
        for (user, anonymous, id) in [
            ("user-1", "anon-1", "8eee6191-bcf5-4249-8ea0-586287986e2a"),
            ("u1", "", "5eff0fc3-0944-48fa-9c04-38f62e3890ca"),
            ("", "a1", "b09c6e0b-7298-4c66-88e1-7af047315456"),
        ] {
            assert_eq!(rudder_id(user, anonymous).to_string(), id);
        }
    }

    #[test]
    fn a_job_user_id_names_header_anonymous_id_and_user() {
        let mut out = String::new();
        for (header, anonymous, user, expected) in [
            ("hdr", "anon", "user", "hdr<<>>anon<<>>user"),
            ("", "anon", "user", "<<>>anon<<>>user"),
            ("", "", "user", "<<>>user<<>>user"),
            ("h", "anon", "", "h<<>>anon<<>>"),
        ] {
            write_job_user_id(&mut out, header, anonymous, user);
            assert_eq!(out, expected);
        }
        write_job_user_id(&mut out, "", "", &"u".repeat(1_000_000));
        assert_eq!(out.len(), 64 * 2 + 8);
    }
}

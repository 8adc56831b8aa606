//! How many distinct object keys enter one call (security.md 2.2): the engine's look-up of names gets slow with
//! names made to collide, and natively parsed text is not under the time limit.

use std::collections::HashSet;

/// Most distinct keys of one call.
pub(super) const MOST_KEYS: usize = 20_000;

/// Whether these texts together have more distinct keys than a call may have. Nearly always decided by their length.
pub(super) fn are_too_many<'t>(texts: impl Iterator<Item = &'t str> + Clone) -> bool {
    // A member takes at least five bytes: `"":0,`.
    if texts.clone().map(str::len).sum::<usize>() / 5 <= MOST_KEYS {
        return false;
    }
    if texts.clone().map(|text| memchr::memchr_iter(b':', text.as_bytes()).count()).sum::<usize>() <= MOST_KEYS {
        return false;
    }
    let mut keys = HashSet::new();
    for text in texts {
        for key in keys_of(text) {
            keys.insert(key);
            if keys.len() > MOST_KEYS {
                return true;
            }
        }
    }
    false
}

/// The keys of all objects in a JSON text, between their quotes. A string is a key when a colon follows.
fn keys_of(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += memchr::memchr(b'"', bytes.get(at..)?)? + 1;
            let begun = at;
            loop {
                at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
                if bytes.get(at) == Some(&b'"') {
                    break;
                }
                at += 2;
            }
            let string = text.get(begun..at)?;
            at += 1;
            let next = bytes.get(at..)?.iter().find(|byte| !byte.is_ascii_whitespace());
            if next == Some(&b':') {
                return Some(string);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_values() {
        let keys: Vec<&str> = keys_of(r#"{"a":"b:c","d\"" : {"e":[{"f":"g"}]},"h":"\\"}"#).collect();
        assert_eq!(keys, ["a", "d\\\"", "e", "f", "h"]);
    }

    #[test]
    fn distinct_keys_count_and_repeated_ones_do_not() {
        let distinct: Vec<String> = (0..=MOST_KEYS).map(|n| format!("\"{n}\":{{}}")).collect();
        let text = format!("{{{}}}", distinct.join(","));
        assert!(are_too_many([text.as_str()].into_iter()));
        let one = "{\"id\":\"x\"}";
        let many = vec![one; MOST_KEYS * 2];
        assert!(!are_too_many(many.into_iter()));
    }
}

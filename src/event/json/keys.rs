//! Whether an object has a key twice, in linear time whoever chose the keys.
//!
//! Small objects compare 8-byte signatures in a row, which is faster than any table; an object that
//! outgrows that moves into one seeded hash set shared by all objects of the text.

use std::collections::HashSet;

/// Objects with more keys than this go to the hash set.
const LINEAR: usize = 32;

struct Entry {
    signature: u64,
    start: u32,
    length: u32,
}

/// An object whose keys are being watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenObject {
    first: usize,
    serial: u32,
}

/// The keys of every object that is open now.
#[derive(Default)]
pub(super) struct KeyWatch<'a> {
    /// Keys of the open objects, outermost first; those of one object are neighbours.
    entries: Vec<Entry>,
    wide: HashSet<(u32, &'a [u8])>,
    serial: u32,
}

impl<'a> KeyWatch<'a> {
    /// An object begins.
    pub(super) fn enter(&mut self) -> OpenObject {
        self.serial = self.serial.wrapping_add(1);
        OpenObject { first: self.entries.len(), serial: self.serial }
    }

    /// The object ends.
    pub(super) fn leave(&mut self, object: OpenObject) {
        self.entries.truncate(object.first);
    }

    /// Notes the key `text[start..end]` and says whether the object had it before.
    pub(super) fn repeats(&mut self, object: OpenObject, text: &'a [u8], start: usize, end: usize) -> bool {
        let key = text.get(start..end).unwrap_or_default();
        let own = self.entries.get(object.first..).unwrap_or_default();
        if own.len() > LINEAR {
            return !self.wide.insert((object.serial, key));
        }
        let signature = signature(text, start, key);
        let same = |entry: &Entry| {
            let from = entry.start as usize;
            entry.signature == signature && text.get(from..from + entry.length as usize) == Some(key)
        };
        if own.iter().any(same) {
            return true;
        }
        if own.len() == LINEAR {
            for entry in own {
                let from = entry.start as usize;
                let earlier = text.get(from..from + entry.length as usize).unwrap_or_default();
                self.wide.insert((object.serial, earlier));
            }
            self.wide.insert((object.serial, key));
        }
        let (start, length) = (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(key.len()).unwrap_or(u32::MAX));
        self.entries.push(Entry { signature, start, length });
        false
    }
}

/// A number that differs for most different keys: their first and last eight bytes and their length.
fn signature(text: &[u8], start: usize, key: &[u8]) -> u64 {
    let word = |from: usize| text.get(from..).and_then(<[u8]>::first_chunk::<8>).copied().map(u64::from_le_bytes);
    let length = key.len() as u64;
    let head = match word(start) {
        Some(head) if key.len() >= 8 => head,
        Some(head) => head & ((1 << (8 * length)) - 1),
        None => key.iter().rev().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    let tail = if key.len() > 8 { word(start + key.len() - 8).unwrap_or_default() } else { 0 };
    head ^ tail.rotate_left(29) ^ length << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_key_is_found_in_small_and_large_objects() {
        for count in [2usize, 31, 32, 33, 34, 500] {
            let names: Vec<String> = (0..count).map(|n| format!("key_number_{n}")).collect();
            let text = names.concat();
            let mut watch = KeyWatch::default();
            let outer = watch.enter();
            let mut at = 0;
            for name in &names {
                assert!(!watch.repeats(outer, text.as_bytes(), at, at + name.len()), "{name} of {count}");
                let inner = watch.enter();
                assert!(!watch.repeats(inner, text.as_bytes(), at, at + name.len()));
                watch.leave(inner);
                at += name.len();
            }
            let mut at = 0;
            for name in &names {
                assert!(watch.repeats(outer, text.as_bytes(), at, at + name.len()), "{name} of {count}");
                at += name.len();
            }
        }
    }
}

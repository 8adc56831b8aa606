//! A Bloom filter of the suppressed users: never misses one, and says "perhaps" of few others (about one in forty at
//! a million entries). Its 1 MiB is taken with the first entry; entries that are cancelled stay in it until the next
//! start, which costs a look into the store and nothing else.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits, a power of two.
const BITS: u64 = 1 << 23;
/// Bits of one entry.
const PROBES: u64 = 4;

#[derive(Default)]
pub(super) struct Filter {
    words: OnceLock<Box<[AtomicU64]>>,
    /// Seeded, so that nobody can choose ids that all look suppressed.
    hasher: RandomState,
}

impl Filter {
    /// Whether nothing was ever added.
    pub(super) fn is_empty(&self) -> bool {
        self.words.get().is_none()
    }

    pub(super) fn add(&self, workspace: &str, user: &str) {
        let words = self.words.get_or_init(|| (0..BITS / 64).map(|_| AtomicU64::new(0)).collect());
        for (word, bit) in self.places(workspace, user) {
            if let Some(word) = words.get(word) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn may_hold(&self, workspace: &str, user: &str) -> bool {
        let Some(words) = self.words.get() else {
            return false;
        };
        self.places(workspace, user)
            .all(|(word, bit)| words.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0))
    }

    fn places(&self, workspace: &str, user: &str) -> impl Iterator<Item = (usize, u64)> {
        let hash = self.hasher.hash_one((workspace, user));
        let (first, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
        (0..PROBES).map(move |probe| {
            let place = (first + probe * step) % BITS;
            (usize::try_from(place / 64).unwrap_or_default(), 1 << (place % 64))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_entry_is_missed_and_few_others_are_suspected() {
        let filter = Filter::default();
        assert!(filter.is_empty() && !filter.may_hold("ws", "user-1"));
        for number in 0..100_000 {
            filter.add("ws", &format!("user-{number}"));
        }
        assert!((0..100_000).all(|number| filter.may_hold("ws", &format!("user-{number}"))));
        let suspected = (0..100_000).filter(|number| filter.may_hold("other", &format!("user-{number}"))).count();
        assert!(suspected < 200, "{suspected} of 100000");
    }
}

//! Deduplication by message id (processor.md 3.7): which keys of a batch are seen for the first time.
//!
//! A key is a duplicate while it is in flight (allowed, its batch not yet committed) and until its window has
//! passed after the commit. The stored windows belong to the store; this is the rule over them.

use std::collections::HashSet;
use std::hash::Hash;

/// Keys that were allowed and whose fate is not yet decided. Shared by all sources.
#[derive(Debug)]
pub struct Dedup<K> {
    in_flight: HashSet<K>,
}

impl<K> Default for Dedup<K> {
    fn default() -> Dedup<K> {
        Dedup { in_flight: HashSet::new() }
    }
}

impl<K: Clone + Eq + Hash> Dedup<K> {
    /// For each key of a batch, in order, whether it is new. `stored_expiry_ms` answers until when the store
    /// remembers a committed key.
    pub fn allowed(
        &mut self,
        keys: &[K],
        now_ms: i64,
        mut stored_expiry_ms: impl FnMut(&K) -> Option<i64>,
    ) -> Vec<bool> {
        keys.iter()
            .map(|key| {
                let is_known =
                    self.in_flight.contains(key) || stored_expiry_ms(key).is_some_and(|expiry| expiry > now_ms);
                !is_known && self.in_flight.insert(key.clone())
            })
            .collect()
    }

    /// The keys are in the store now, or their batch was given back: they are no longer in flight. A duplicate
    /// does not extend a window, so only keys that [`Dedup::allowed`] let through belong here.
    pub fn settle<'k>(&mut self, keys: impl IntoIterator<Item = &'k K>)
    where
        K: 'k,
    {
        for key in keys {
            self.in_flight.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_first_of_a_batch_wins_and_keys_in_flight_are_duplicates() {
        let mut dedup = Dedup::default();
        assert_eq!(dedup.allowed(&["a", "b", "a"], 0, |_| None), [true, true, false]);
        assert_eq!(dedup.allowed(&["a", "c"], 1, |_| None), [false, true]);
        dedup.settle(&["a"]);
        assert_eq!(dedup.allowed(&["a"], 2, |_| None), [true]);
    }

    #[test]
    fn a_stored_key_is_a_duplicate_until_its_window_has_passed() {
        let stored = HashMap::from([("a", 100)]);
        let mut dedup = Dedup::default();
        let lookup = |key: &&str| stored.get(key).copied();
        assert_eq!(dedup.allowed(&["a"], 99, lookup), [false]);
        assert_eq!(dedup.allowed(&["a"], 100, lookup), [true]);
    }
}

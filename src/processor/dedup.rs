//! Deduplication by message id (processor.md 3.7): whether a key is seen for the first time.
//!
//! A key is a duplicate while it is in flight (claimed, the fate of its event not yet decided) and until its
//! window has passed after the commit. The windows belong to the store; this is the rule over them.
//!
//! A claim ends when it is dropped, whatever happened to the event: after a commit the store knows the key,
//! and after a failure, a crash of the thread or a stop the event comes again and must be new.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Keys in flight, shared by all sources.
#[derive(Debug)]
pub struct InFlight<K>(Mutex<HashSet<K>>);

impl<K> Default for InFlight<K> {
    fn default() -> InFlight<K> {
        InFlight(Mutex::new(HashSet::new()))
    }
}

/// Keys that one holder has in flight.
#[derive(Debug)]
pub struct Claims<K: Eq + Hash> {
    in_flight: Arc<InFlight<K>>,
    keys: Vec<K>,
}

impl<K: Clone + Eq + Hash> Claims<K> {
    /// No keys yet.
    pub fn new(in_flight: &Arc<InFlight<K>>) -> Claims<K> {
        Claims { in_flight: Arc::clone(in_flight), keys: Vec::new() }
    }

    /// Claims a key; `false` when it is a duplicate, which changes nothing. `is_stored` answers whether the
    /// store remembers the key.
    ///
    /// # Errors
    /// Those of `is_stored`; the key is then not claimed.
    pub fn claim<E>(&mut self, key: &K, is_stored: impl FnOnce() -> Result<bool, E>) -> Result<bool, E> {
        let mut in_flight = self.in_flight.0.lock();
        // In this order: a key leaves the set only after it is in the store.
        if in_flight.contains(key) || is_stored()? {
            return Ok(false);
        }
        in_flight.insert(key.clone());
        self.keys.push(key.clone());
        Ok(true)
    }

    /// The keys that are claimed.
    pub fn keys(&self) -> &[K] {
        &self.keys
    }

    /// Hands the keys over to a holder of their own.
    pub fn split_off(&mut self) -> Claims<K> {
        Claims { in_flight: Arc::clone(&self.in_flight), keys: std::mem::take(&mut self.keys) }
    }
}

impl<K: Eq + Hash> Drop for Claims<K> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut in_flight = self.in_flight.0.lock();
        for key in &self.keys {
            in_flight.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(claims: &mut Claims<&'static str>, key: &'static str, is_stored: bool) -> bool {
        claims.claim(&key, || Ok::<bool, ()>(is_stored)).unwrap()
    }

    #[test]
    fn the_first_of_two_wins_whoever_holds_it() {
        let in_flight = Arc::new(InFlight::default());
        let (mut one, mut two) = (Claims::new(&in_flight), Claims::new(&in_flight));
        assert!(claim(&mut one, "a", false));
        assert!(!claim(&mut one, "a", false));
        assert!(!claim(&mut two, "a", false));
        assert!(claim(&mut two, "b", false));
        assert_eq!((one.keys(), two.keys()), (["a"].as_slice(), ["b"].as_slice()));
    }

    #[test]
    fn a_stored_key_is_a_duplicate_and_a_failed_look_up_claims_nothing() {
        let in_flight = Arc::new(InFlight::default());
        let mut claims = Claims::new(&in_flight);
        assert!(!claim(&mut claims, "a", true));
        assert_eq!(claims.claim(&"b", || Err("no store")), Err("no store"));
        assert!(claim(&mut claims, "b", false));
    }

    #[test]
    fn a_dropped_claim_makes_the_key_new_again() {
        let in_flight = Arc::new(InFlight::default());
        let mut reader = Claims::new(&in_flight);
        assert!(claim(&mut reader, "a", false));
        let batch = reader.split_off();
        drop(reader);
        let mut again = Claims::new(&in_flight);
        assert!(!claim(&mut again, "a", false));
        drop(batch);
        assert!(claim(&mut again, "a", false));
    }
}

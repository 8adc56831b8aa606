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
        // In this order, and without a lock during the look: a key leaves the set only after it is in the store.
        if !self.hold(key) {
            return Ok(false);
        }
        let stored = is_stored();
        if !matches!(stored, Ok(false)) {
            self.give_back(key);
        }
        stored.map(|is_stored| !is_stored)
    }

    /// Claims a key whatever the store knows; `false` when it is in flight already.
    pub fn hold(&mut self, key: &K) -> bool {
        let is_new = self.in_flight.0.lock().insert(key.clone());
        if is_new {
            self.keys.push(key.clone());
        }
        is_new
    }

    fn give_back(&mut self, key: &K) {
        self.keys.retain(|held| held != key);
        self.in_flight.0.lock().remove(key);
    }

    /// Takes over what another holder has.
    pub fn absorb(&mut self, mut other: Claims<K>) {
        self.keys.append(&mut other.keys);
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
    fn the_store_is_asked_while_others_go_on() {
        let in_flight = Arc::new(InFlight::default());
        let (mut one, mut two) = (Claims::new(&in_flight), Claims::new(&in_flight));
        let in_between = || Ok::<bool, ()>(claim(&mut two, "b", false) && !claim(&mut two, "a", false));
        // What the store knows is given back, so that only the store keeps it.
        assert_eq!(one.claim(&"a", in_between), Ok(false));
        assert!(one.keys().is_empty());
        assert!(claim(&mut one, "a", false));
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

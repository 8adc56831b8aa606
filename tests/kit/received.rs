//! What arrived at the far end of a stream: which events, and in which order those of each user came first.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// Events in the order of their arrival. Shared by whoever reads a stream and whoever checks it.
#[derive(Default)]
pub struct Received(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    arrivals: usize,
    ids: HashSet<String>,
    highest: HashMap<String, i64>,
    violations: Vec<String>,
}

impl Received {
    /// Takes note of an event.
    pub fn note(&self, event: &[u8]) {
        let event: Value = serde_json::from_slice(event).expect("an event is JSON");
        let (user, id) = (event["userId"].as_str().expect("a user"), event["messageId"].as_str().expect("an id"));
        let n = event["properties"]["n"].as_i64().expect("a number");
        let mut seen = self.locked();
        seen.arrivals += 1;
        if !seen.ids.insert(id.to_owned()) {
            return;
        }
        let last = seen.highest.entry(user.to_owned()).or_insert(i64::MIN);
        let highest = *last;
        *last = n.max(highest);
        if n < highest {
            seen.violations.push(format!("user {user}: {n} after {highest}"));
        }
    }

    /// Events, those that came more than once counted once.
    pub fn distinct(&self) -> usize {
        self.locked().ids.len()
    }

    /// Events that came again.
    pub fn repeats(&self) -> usize {
        let seen = self.locked();
        seen.arrivals - seen.ids.len()
    }

    /// Where an event came for the first time after a later one of its user.
    pub fn order_violations(&self) -> Vec<String> {
        self.locked().violations.clone()
    }

    fn locked(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

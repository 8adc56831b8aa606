//! One line of the log per (place, source or destination) and ten seconds (security.md 2.3).
//!
//! Memory is bounded: when too many ids are known, further ones share the entry `other`.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Most ids that are remembered; an id is a source or a destination, so this is far above real use.
const MOST_ENTRIES: usize = 4096;

/// Limits how often something is said, per place and id.
pub struct OncePer {
    period: Duration,
    entries: Mutex<HashMap<(&'static str, String), Entry>>,
}

struct Entry {
    said: Instant,
    silenced: u64,
}

impl OncePer {
    /// Lets one through per `period`.
    pub fn new(period: Duration) -> OncePer {
        OncePer { period, entries: Mutex::new(HashMap::new()) }
    }

    /// `Some(n)` when it may be said now, with the number of times that it was silenced since it was last said.
    pub fn ask(&self, place: &'static str, id: &str) -> Option<u64> {
        self.ask_at(place, id, Instant::now())
    }

    fn ask_at(&self, place: &'static str, id: &str, now: Instant) -> Option<u64> {
        let mut entries = self.entries.lock();
        let mut key = (place, id.to_owned());
        if entries.len() >= MOST_ENTRIES && !entries.contains_key(&key) {
            let period = self.period;
            entries.retain(|_, entry| now.saturating_duration_since(entry.said) < period);
            if entries.len() >= MOST_ENTRIES {
                key = (place, "other".to_owned());
            }
        }
        let Some(entry) = entries.get_mut(&key) else {
            entries.insert(key, Entry { said: now, silenced: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(entry.said) < self.period {
            entry.silenced += 1;
            return None;
        }
        entry.said = now;
        Some(std::mem::take(&mut entry.silenced))
    }
}

/// The limiter of the log: whether the line may be written, and how many like it were not since the last one.
///
/// `place` names the line, `id` the source or destination that it is about (never a user or message id).
pub fn may_log(place: &'static str, id: &str) -> Option<u64> {
    static LIMITER: LazyLock<OncePer> = LazyLock::new(|| OncePer::new(Duration::from_secs(10)));
    LIMITER.ask(place, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_and_id_speaks_once_per_period_and_tells_what_it_kept_back() {
        let limiter = OncePer::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(limiter.ask_at("delivery", "d1", start), Some(0));
        assert_eq!(limiter.ask_at("delivery", "d1", start + Duration::from_secs(9)), None);
        assert_eq!(limiter.ask_at("delivery", "d2", start), Some(0));
        assert_eq!(limiter.ask_at("transform", "d1", start), Some(0));
        assert_eq!(limiter.ask_at("delivery", "d1", start + Duration::from_secs(10)), Some(1));
    }

    #[test]
    fn memory_is_bounded_and_the_overflow_shares_one_entry() {
        let limiter = OncePer::new(Duration::from_secs(10));
        let start = Instant::now();
        for id in 0..2 * MOST_ENTRIES {
            limiter.ask_at("place", &id.to_string(), start);
        }
        assert!(limiter.entries.lock().len() <= MOST_ENTRIES + 1);
        assert_eq!(limiter.ask_at("place", "one more", start), None);
        let later = start + Duration::from_secs(10);
        assert_eq!(limiter.ask_at("place", "one more", later), Some(0));
    }
}

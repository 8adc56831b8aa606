//! Counting without touching memory that other threads write: a tally per thread, added up when somebody scrapes.
//!
//! A counter shared by all threads costs two contended atomic operations each time, and requests move half a dozen
//! of them. A tally that only one thread writes costs a load and a store.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;
use parking_lot::Mutex;

static TALLIES: Mutex<Vec<Known>> = Mutex::new(Vec::new());

struct Known {
    count: Arc<AtomicU64>,
    counter: Counter,
    /// How much of the count the counter has.
    published: u64,
}

/// One thread's share of a counter. It belongs to the thread that made it and does not leave it.
#[derive(Debug)]
pub struct Tally {
    count: Arc<AtomicU64>,
    _stays: PhantomData<*const ()>,
}

impl Tally {
    /// A share of this counter for the calling thread.
    pub fn of(counter: Counter) -> Tally {
        let count = Arc::new(AtomicU64::new(0));
        TALLIES.lock().push(Known { count: Arc::clone(&count), counter, published: 0 });
        Tally { count, _stays: PhantomData }
    }

    /// Adds to it.
    pub fn add(&self, by: u64) {
        // Nobody else writes.
        self.count.store(self.count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Release);
    }
}

/// Raises the counters by what was tallied since the last time, and forgets tallies whose owner is gone.
pub(super) fn publish() {
    TALLIES.lock().retain_mut(|known| {
        // Asked first: what an owner counted before it went is then seen below.
        let is_owned = Arc::strong_count(&known.count) > 1;
        let now = known.count.load(Ordering::Acquire);
        known.counter.increment(now.wrapping_sub(known.published));
        known.published = now;
        is_owned
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[derive(Debug, Default)]
    struct Sum(AtomicU64);

    impl metrics::CounterFn for Sum {
        fn increment(&self, value: u64) {
            self.0.fetch_add(value, Ordering::Relaxed);
        }

        fn absolute(&self, value: u64) {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    #[test]
    fn shares_of_all_threads_are_added_up_once_and_those_of_ended_threads_too() {
        let sum = Arc::new(Sum::default());
        let counter = || Counter::from_arc(Arc::clone(&sum));
        let mine = Tally::of(counter());
        mine.add(2);
        publish();
        publish();
        assert_eq!(sum.0.load(Ordering::Relaxed), 2);
        let other = counter();
        std::thread::spawn(move || Tally::of(other).add(5)).join().unwrap();
        mine.add(1);
        publish();
        publish();
        assert_eq!(sum.0.load(Ordering::Relaxed), 8);
    }
}

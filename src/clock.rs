//! The only reader of the system time, so that tests can move it.
//!
//! Wall-clock questions ("when was this received", "is this retry due") go through [`Clock`].
//! Elapsed time inside one process (timeouts, rates) uses `std::time::Instant` and is not affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A source of wall-clock time: the system's, possibly shifted, or one that stands still until moved.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    /// System time plus an offset in microseconds.
    System(Arc<AtomicI64>),
    /// Microseconds since the epoch, moved by hand.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's time.
    pub fn system() -> Clock {
        Clock(Kind::System(Arc::new(AtomicI64::new(0))))
    }

    /// A clock that stands at `start_ms` (milliseconds since the epoch) until [`Clock::advance`] moves it.
    pub fn manual(start_ms: i64) -> Clock {
        Clock(Kind::Manual(Arc::new(AtomicI64::new(start_ms.saturating_mul(1000)))))
    }

    /// Moves the clock forward; on a system clock this shifts every later reading.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        let (Kind::System(at) | Kind::Manual(at)) = &self.0;
        at.fetch_add(by, Ordering::SeqCst);
    }

    /// Microseconds since the Unix epoch, UTC.
    pub fn now_us(&self) -> i64 {
        match &self.0 {
            Kind::System(offset) => {
                let system = match SystemTime::now().duration_since(UNIX_EPOCH) {
                    Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
                    Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
                };
                system.saturating_add(offset.load(Ordering::Relaxed))
            }
            Kind::Manual(at) => at.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds since the Unix epoch, UTC.
    pub fn now_ms(&self) -> i64 {
        self.now_us().div_euclid(1000)
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.now_us()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(1_000);
        assert_eq!(clock.now_ms(), 1_000);
        clock.advance(Duration::from_millis(5));
        assert_eq!(clock.now_ms(), 1_005);
    }
}

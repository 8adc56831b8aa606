//! The circuit breaker of one destination (router.md 19.6).
//!
//! A run of failed uploads opens it; while it is open nothing is picked up; after a while one trial batch
//! goes out, whose result closes it or keeps it open for another while.

use std::time::{Duration, Instant};

/// What a destination may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Deliver.
    Closed,
    /// Pick up nothing before this time.
    OpenUntil(Instant),
    /// Deliver one batch and wait for its result.
    Trial,
}

/// The breaker.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    last_failure: Option<Instant>,
}

impl Breaker {
    /// Takes note of the result of an upload.
    pub fn record(&mut self, succeeded: bool, now: Instant) {
        if succeeded {
            *self = Breaker::default();
        } else {
            self.failures = self.failures.saturating_add(1);
            self.last_failure = Some(now);
        }
    }

    /// What may be done at `now`, if `threshold` failures open the breaker for `open_for`.
    pub fn pace(&self, threshold: u32, open_for: Duration, now: Instant) -> Pace {
        match self.last_failure {
            Some(last) if self.failures >= threshold => {
                let until = last + open_for;
                if now < until { Pace::OpenUntil(until) } else { Pace::Trial }
            }
            _ => Pace::Closed,
        }
    }

    /// Failed uploads in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Duration = Duration::from_secs(30);

    #[test]
    fn three_failures_in_a_row_open_it_and_one_success_closes_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for (succeeded, open) in [
            (false, false),
            (false, false),
            (true, false),
            (false, false),
            (false, false),
            (false, true),
            (true, false),
        ] {
            breaker.record(succeeded, start);
            assert_eq!(breaker.pace(3, OPEN, start) != Pace::Closed, open);
        }
    }

    #[test]
    fn a_failed_trial_keeps_it_open_for_another_while() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| breaker.record(false, start));
        assert_eq!(breaker.pace(3, OPEN, start), Pace::OpenUntil(start + OPEN));
        assert_eq!(breaker.pace(3, OPEN, start + OPEN), Pace::Trial);
        breaker.record(false, start + OPEN);
        assert_eq!(breaker.pace(3, OPEN, start + OPEN), Pace::OpenUntil(start + OPEN + OPEN));
    }
}

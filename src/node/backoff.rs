//! How long a failed component rests before it is started again.

use std::time::Duration;

/// The first rest.
const FIRST: Duration = Duration::from_secs(1);
/// The longest rest.
const LONGEST: Duration = Duration::from_secs(30);
/// After this long at work a component counts as healthy again.
const HEALTHY: Duration = Duration::from_secs(60);

/// The rests of one component: doubled from one failure to the next, short again after a time of health.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Backoff {
        Backoff { next: FIRST }
    }

    /// The same with another first rest.
    #[cfg(test)]
    pub(super) fn beginning_with(first: Duration) -> Backoff {
        Backoff { next: first }
    }

    /// The rest after a component ended that had been at work for `worked`.
    pub(super) fn after(&mut self, worked: Duration) -> Duration {
        if worked >= HEALTHY {
            self.next = FIRST;
        }
        let rest = self.next;
        self.next = rest.saturating_mul(2).min(LONGEST);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_thirty_seconds_and_are_short_again_after_a_minute_of_health() {
        let mut backoff = Backoff::new();
        let rests: Vec<u64> = (0..7).map(|_| backoff.after(Duration::from_secs(59)).as_secs()).collect();
        assert_eq!(rests, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.after(Duration::from_secs(60)).as_secs(), 1);
        assert_eq!(backoff.after(Duration::ZERO).as_secs(), 2);
    }
}

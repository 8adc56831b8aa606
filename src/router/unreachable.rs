//! The pause of a destination that cannot be reached (router.md 7.7).
//!
//! After ten attempts in a row that reached nobody, only one probe at a time goes out, after 1 s, 2 s, 4 s ... up to
//! a bound; the first answer of any kind ends the pause. A plain state machine over the monotonic clock.

use std::time::{Duration, Instant};

/// Attempts in a row that reach nobody before the pause.
const IN_A_ROW: u32 = 10;
/// Time before the first probe.
const FIRST_PROBE: Duration = Duration::from_secs(1);

/// What may be started now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Anything.
    Open,
    /// One job, as a probe.
    Probe,
    /// Nothing before this moment.
    Closed(Instant),
    /// Nothing before the probe under way has ended.
    Probing,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    since: Instant,
    delay: Duration,
    next: Instant,
    probing: bool,
}

/// Whether one destination can be reached, as far as attempts tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reachability {
    in_a_row: u32,
    pause: Option<Pause>,
}

impl Reachability {
    /// What may be started at `now`.
    pub fn allowance(&self, now: Instant) -> Allowance {
        match self.pause {
            None => Allowance::Open,
            Some(pause) if pause.probing => Allowance::Probing,
            Some(pause) if pause.next > now => Allowance::Closed(pause.next),
            Some(_) => Allowance::Probe,
        }
    }

    /// Since when the destination is paused.
    pub fn paused_since(&self) -> Option<Instant> {
        self.pause.map(|pause| pause.since)
    }

    /// When the next probe may start.
    pub fn next_probe(&self) -> Option<Instant> {
        self.pause.map(|pause| pause.next)
    }

    /// A probe was handed to a worker.
    pub fn probe_started(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.probing = true;
        }
    }

    /// The probe ended without an attempt; another may start.
    pub fn probe_dropped(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.probing = false;
        }
    }

    /// An attempt reached nobody. Whether the pause begins with it.
    pub fn reached_nobody(&mut self, now: Instant, was_probe: bool, longest: Duration) -> bool {
        match &mut self.pause {
            Some(pause) if was_probe => {
                pause.probing = false;
                pause.delay = (pause.delay * 2).min(longest);
                pause.next = now + pause.delay;
                false
            }
            Some(_) => false,
            None => {
                self.in_a_row += 1;
                if self.in_a_row < IN_A_ROW {
                    return false;
                }
                let delay = FIRST_PROBE.min(longest);
                self.pause = Some(Pause { since: now, delay, next: now + delay, probing: false });
                true
            }
        }
    }

    /// The destination answered. Whether that ends a pause.
    pub fn answered(&mut self) -> bool {
        self.in_a_row = 0;
        self.pause.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_ten_attempts_in_a_row_only_probes_go_out_at_growing_distances() {
        let longest = Duration::from_secs(60);
        let mut now = Instant::now();
        let mut reach = Reachability::default();
        for _ in 0..9 {
            assert!(!reach.reached_nobody(now, false, longest));
        }
        assert!(!reach.answered());
        for attempt in 1..=10 {
            assert_eq!(reach.reached_nobody(now, false, longest), attempt == 10);
        }
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let next = now + Duration::from_secs(seconds);
            assert_eq!(reach.allowance(now), Allowance::Closed(next));
            now = next;
            assert_eq!(reach.allowance(now), Allowance::Probe);
            reach.probe_started();
            assert_eq!(reach.allowance(now), Allowance::Probing);
            reach.reached_nobody(now, false, longest);
            assert_eq!(reach.allowance(now), Allowance::Probing);
            reach.reached_nobody(now, true, longest);
        }
        assert!(reach.answered());
        assert_eq!(reach.allowance(now), Allowance::Open);
    }

    #[test]
    fn a_probe_that_was_never_sent_can_be_replaced() {
        let now = Instant::now();
        let mut reach = Reachability::default();
        for _ in 0..10 {
            reach.reached_nobody(now, false, Duration::from_secs(60));
        }
        reach.probe_started();
        reach.probe_dropped();
        assert_eq!(reach.allowance(now + Duration::from_secs(1)), Allowance::Probe);
    }
}

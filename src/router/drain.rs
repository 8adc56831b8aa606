//! Why a job is given up without another attempt (router.md 8.1), and what is stored then (8.3).

use std::time::{Duration, Instant};

/// Code of every drained job.
pub const DRAIN_CODE: i32 = 410;

/// Why a job is drained; the first that holds, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Older than the retention.
    Expired,
    /// Nobody knows the destination.
    UnknownDestination,
    /// The destination is turned off.
    Disabled,
    /// The operator named the destination.
    ToAbort,
    /// The operator cancelled the job's run.
    CancelledRun,
    /// Tried long and often enough.
    RetryLimit,
}

impl Reason {
    /// The text of statuses, metrics and dead letters.
    pub fn text(self) -> &'static str {
        match self {
            Reason::Expired => "job expired",
            Reason::UnknownDestination => "destination is not available in the config",
            Reason::Disabled => "destination is disabled",
            Reason::ToAbort => "destination configured to abort",
            Reason::CancelledRun => "cancelled jobRunID",
            Reason::RetryLimit => "retry limit reached",
        }
    }

    /// Whether the operator asked for it; such jobs leave no dead letter (jobsdb.md 8.1).
    pub fn asked_by_operator(self) -> bool {
        matches!(self, Reason::ToAbort | Reason::CancelledRun)
    }
}

/// What the configuration says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Present and on.
    Enabled,
    /// Present and off.
    Disabled,
    /// Absent.
    Unknown,
}

/// What decides about draining one job, retry limit aside.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Age of the job; `None` while ages cannot be trusted.
    pub age: Option<Duration>,
    /// Longest age.
    pub retention: Duration,
    /// Its destination.
    pub standing: Standing,
    /// The destination is in the operator's list.
    pub to_abort: bool,
    /// The job's run is cancelled.
    pub run_cancelled: bool,
}

/// The reason to drain the job, if any, retry limit aside.
pub fn reason(facts: &Facts) -> Option<Reason> {
    if facts.age.is_some_and(|age| age > facts.retention) {
        return Some(Reason::Expired);
    }
    match facts.standing {
        Standing::Unknown => Some(Reason::UnknownDestination),
        Standing::Disabled => Some(Reason::Disabled),
        Standing::Enabled if facts.to_abort => Some(Reason::ToAbort),
        Standing::Enabled if facts.run_cancelled => Some(Reason::CancelledRun),
        Standing::Enabled => None,
    }
}

/// Forward jumps of the wall clock larger than this make ages meaningless for a while (security.md 8, rule 8).
const JUMP: Duration = Duration::from_secs(3_600);
/// Steady time after which ages count again.
const STEADY: Duration = Duration::from_secs(600);

/// Compares wall time with elapsed time, so that a clock that jumps ahead expires nothing.
#[derive(Debug)]
pub struct ClockWatch {
    wall_ms: i64,
    elapsed: Instant,
    distrusted_since: Option<Instant>,
}

impl ClockWatch {
    /// Starts watching.
    pub fn new(wall_ms: i64, now: Instant) -> ClockWatch {
        ClockWatch { wall_ms, elapsed: now, distrusted_since: None }
    }

    /// Takes a reading of both clocks; whether ages can be trusted now.
    pub fn observe(&mut self, wall_ms: i64, now: Instant) -> bool {
        let moved = Duration::from_millis(u64::try_from(wall_ms.saturating_sub(self.wall_ms)).unwrap_or(0));
        let elapsed = now.saturating_duration_since(self.elapsed);
        if moved.saturating_sub(elapsed) > JUMP {
            self.distrusted_since = Some(now);
        }
        self.wall_ms = wall_ms;
        self.elapsed = now;
        if self.distrusted_since.is_some_and(|since| now.saturating_duration_since(since) >= STEADY) {
            self.distrusted_since = None;
        }
        self.distrusted_since.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_checked_in_the_documented_order() {
        let hour = Duration::from_secs(3_600);
        let facts = Facts {
            age: Some(hour),
            retention: hour,
            standing: Standing::Enabled,
            to_abort: false,
            run_cancelled: false,
        };
        assert_eq!(reason(&facts), None);
        let all =
            Facts { age: Some(hour * 2), standing: Standing::Unknown, to_abort: true, run_cancelled: true, ..facts };
        assert_eq!(reason(&all), Some(Reason::Expired));
        assert_eq!(reason(&Facts { age: None, ..all }), Some(Reason::UnknownDestination));
        let known = Facts { age: Some(hour), standing: Standing::Disabled, ..all };
        assert_eq!(reason(&known), Some(Reason::Disabled));
        let enabled = Facts { standing: Standing::Enabled, ..known };
        assert_eq!(reason(&enabled), Some(Reason::ToAbort));
        assert_eq!(reason(&Facts { to_abort: false, ..enabled }), Some(Reason::CancelledRun));
    }

    #[test]
    fn a_clock_that_jumps_ahead_expires_nothing_until_it_was_steady_for_ten_minutes() {
        let start = Instant::now();
        let mut watch = ClockWatch::new(0, start);
        assert!(watch.observe(1_000, start + Duration::from_secs(1)));
        let day_ms = 86_400_000;
        assert!(!watch.observe(60 * day_ms, start + Duration::from_secs(2)));
        assert!(!watch.observe(60 * day_ms + 60_000, start + Duration::from_secs(62)));
        assert!(!watch.observe(61_000, start + Duration::from_secs(63)));
        assert!(watch.observe(700_000, start + Duration::from_secs(702)));
    }
}

//! Whether a failing job has been tried long and often enough (router.md 7.4).
//!
//! Both must hold: the time window is over and the attempts are used up. Codes that say "not now" (408, 429),
//! codes below 500 and undecodable payloads never count, nor does an attempt that reached nobody (7.7).

use std::time::Duration;

use super::status_table::UNDECODABLE;

/// How long and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Time since the first attempt.
    pub window: Duration,
    /// Attempts.
    pub attempts: u32,
}

/// What the last status says.
#[derive(Clone, Copy, Debug)]
pub struct LastAttempt<'a> {
    /// The stored code, possibly empty.
    pub error_code: &'a str,
    /// Attempts so far.
    pub attempt: u32,
    /// When the first one was, milliseconds since the epoch; `None` counts as now.
    pub first_attempted_ms: Option<i64>,
    /// No connection came about.
    pub unreachable: bool,
}

/// Whether the code takes part in the limit.
pub fn counts(error_code: &str) -> bool {
    error_code.trim().parse::<i32>().is_ok_and(|code| code >= 500 && code != UNDECODABLE)
}

/// Whether the limit is reached at `now_ms`. `unreachable_counts` restores the peer's rule.
pub fn is_reached(last: &LastAttempt<'_>, limit: Limit, now_ms: i64, unreachable_counts: bool) -> bool {
    reached_at_ms(last, limit, unreachable_counts).is_some_and(|at| now_ms >= at)
}

/// The first moment at which the limit is reached if nothing else happens; `None` = never.
pub fn reached_at_ms(last: &LastAttempt<'_>, limit: Limit, unreachable_counts: bool) -> Option<i64> {
    let excused = last.unreachable && !unreachable_counts;
    if excused || last.attempt < limit.attempts || !counts(last.error_code) {
        return None;
    }
    let window = i64::try_from(limit.window.as_millis()).unwrap_or(i64::MAX);
    Some(last.first_attempted_ms?.saturating_add(window).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit { window: Duration::from_secs(180 * 60), attempts: 3 };

    fn reached(error_code: &str, attempt: u32, ago_s: Option<i64>, unreachable: bool) -> bool {
        let now_ms = 1_700_000_000_000;
        let first_attempted_ms = ago_s.map(|ago| now_ms - ago * 1000);
        is_reached(&LastAttempt { error_code, attempt, first_attempted_ms, unreachable }, LIMIT, now_ms, false)
    }

    #[test]
    fn both_the_window_and_the_attempts_must_be_used_up() {
        for (code, attempt, ago, unreachable, expected) in [
            ("500", 3, Some(10_801), false, true),
            ("500", 3, Some(10_800), false, false),
            ("500", 2, Some(10_801), false, false),
            ("600", 3, Some(10_801), false, true),
            ("500", 9, None, false, false),
            ("429", 50, Some(99_999), false, false),
            ("408", 50, Some(99_999), false, false),
            ("404", 50, Some(99_999), false, false),
            ("599", 50, Some(99_999), false, false),
            ("", 50, Some(99_999), false, false),
            ("504", 50, Some(99_999), true, false),
        ] {
            assert_eq!(reached(code, attempt, ago, unreachable), expected, "{code} {attempt} {ago:?} {unreachable}");
        }
    }

    #[test]
    fn the_rule_of_the_peer_counts_unreachable_attempts() {
        let last = LastAttempt { error_code: "504", attempt: 3, first_attempted_ms: Some(0), unreachable: true };
        assert!(is_reached(&last, LIMIT, 10_800_001, true));
    }
}

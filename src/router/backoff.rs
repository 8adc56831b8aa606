//! When a failed job is tried again (router.md 7.3).

use std::time::Duration;

/// The delay after attempt number `attempt` (1 = the first): doubling from `min` up to `max`, without jitter.
pub fn delay(attempt: u32, min: Duration, max: Duration) -> Duration {
    let doublings = attempt.max(1) - 1;
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    min.checked_mul(factor).unwrap_or(max).min(max)
}

/// The delay when the destination named one itself: never shorter than the ordinary one, never above `max`.
pub fn delay_as_asked(ordinary: Duration, retry_after: Option<Duration>, max: Duration) -> Duration {
    ordinary.max(retry_after.unwrap_or_default().min(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound() {
        let seconds = |n| Duration::from_secs(n);
        for (attempt, expected) in [(0, 10), (1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (60, 300)] {
            assert_eq!(delay(attempt, seconds(10), seconds(300)), seconds(expected), "{attempt}");
        }
    }

    #[test]
    fn a_destination_can_ask_for_more_time_but_not_for_ever() {
        let seconds = |n| Duration::from_secs(n);
        assert_eq!(delay_as_asked(seconds(10), None, seconds(300)), seconds(10));
        assert_eq!(delay_as_asked(seconds(10), Some(seconds(60)), seconds(300)), seconds(60));
        assert_eq!(delay_as_asked(seconds(10), Some(seconds(9_999)), seconds(300)), seconds(300));
    }
}

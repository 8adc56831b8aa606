//! How many events a workspace may send (gateway.md 9.1), and how many come through `/internal/v1/batch`
//! (gateway.md 7.7): GCRA, in memory.
//!
//! The map holds one state a workspace of the configuration, and none unless limits are on.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use parking_lot::{Mutex, RwLock};

use super::answer::Refusal;
use crate::settings::{AdmissionSettings, RateLimit};

/// Bounds of `Retry-After`, seconds.
const SOONEST: u64 = 1;
const LATEST: u64 = 30;

/// Every limit in use.
#[derive(Default)]
pub(super) struct RateLimits {
    by_workspace: RwLock<HashMap<String, Option<Arc<Limiter>>>>,
    internal_batch: Mutex<Option<(RateLimit, Arc<Limiter>)>>,
}

/// One limit and what is taken of it.
pub(super) struct Limiter {
    events: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

impl RateLimits {
    /// The limiter of a workspace, made with its settings at the first use; `None` = no limit.
    pub(super) fn of_workspace(&self, id: &str, settings: &AdmissionSettings) -> Option<Arc<Limiter>> {
        if let Some(known) = self.by_workspace.read().get(id) {
            return known.clone();
        }
        let limiter = settings.rate_limit_of(id).and_then(Limiter::new).map(Arc::new);
        self.by_workspace.write().entry(id.to_owned()).or_insert(limiter).clone()
    }

    /// The limiter of internal batches; `None` = no limit.
    pub(super) fn of_internal_batches(&self, settings: &AdmissionSettings) -> Option<Arc<Limiter>> {
        let wanted = settings.internal_batch?;
        let mut current = self.internal_batch.lock();
        match &*current {
            Some((limit, limiter)) if *limit == wanted => Some(Arc::clone(limiter)),
            _ => {
                let limiter = Arc::new(Limiter::new(wanted)?);
                *current = Some((wanted, Arc::clone(&limiter)));
                Some(limiter)
            }
        }
    }
}

impl Limiter {
    /// From idle, one event more than the limit may pass at once.
    fn new(limit: RateLimit) -> Option<Limiter> {
        let burst = NonZeroU32::new(limit.events.saturating_add(1))?;
        let quota = Quota::with_period(limit.window.checked_div(limit.events)?)?.allow_burst(burst);
        Some(Limiter { events: DefaultDirectRateLimiter::direct(quota), clock: DefaultClock::default() })
    }

    /// Takes so many events at once, or none of them.
    ///
    /// # Errors
    /// They are too many now, or too many at any time.
    pub(super) fn take(&self, events: u64) -> Result<(), Refusal> {
        let Some(cost) = NonZeroU32::new(u32::try_from(events).unwrap_or(u32::MAX)) else {
            return Ok(());
        };
        let wait = match self.events.check_n(cost) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_yet)) => not_yet.wait_time_from(self.clock.now()).as_secs_f64().ceil(),
            Err(_never) => f64::INFINITY,
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a saturating cast, then bounded")]
        let seconds = (wait as u64).clamp(SOONEST, LATEST);
        Err(Refusal::RateLimited { retry_after: u8::try_from(seconds).unwrap_or(u8::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_more_than_the_limit_passes_at_once_from_idle() {
        let limiter = Limiter::new(RateLimit { events: 10, window: Duration::from_hours(1) }).unwrap();
        assert_eq!(limiter.take(12), Err(Refusal::RateLimited { retry_after: 30 }), "never");
        assert_eq!(limiter.take(8), Ok(()));
        assert_eq!(limiter.take(4), Err(Refusal::RateLimited { retry_after: 30 }), "not now");
        assert_eq!(limiter.take(3), Ok(()), "what was refused took nothing");
        assert!(limiter.take(1).is_err());
        assert_eq!(limiter.take(0), Ok(()));
    }

    #[test]
    fn the_wait_is_told() {
        let limiter = Limiter::new(RateLimit { events: 10, window: Duration::from_secs(50) }).unwrap();
        limiter.take(11).unwrap();
        assert_eq!(limiter.take(1), Err(Refusal::RateLimited { retry_after: 5 }));
        assert_eq!(limiter.take(2), Err(Refusal::RateLimited { retry_after: 10 }));
    }
}

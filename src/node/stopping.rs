//! The order and the bounds of a stop (gateway.md 8).
//!
//! The gateway answers what is in flight; processor, router and batch router end beside each other, within one
//! bound, as soon as the gateway is done or has had its head start; the admin API answers to the end. A component
//! that is busy at its bound is cut off. Nothing is lost by that: what it had in hand is in the store and is
//! delivered again, so the stop is orderly all the same.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::STOP_BOUND;
use super::supervisor::Supervised;

/// Kept for the final flush of the store.
const CLOSE_RESERVE: Duration = Duration::from_secs(3);
/// Longest wait for all that processes and delivers.
const WORK_BOUND: Duration = Duration::from_secs(8);
/// So long at most they go on for the sake of requests that are still being answered.
const HEAD_START: Duration = Duration::from_secs(3);
/// Longest wait for the admin API.
const ADMIN_BOUND: Duration = Duration::from_secs(1);
/// The gateway ends by itself that long after its own bound at the latest.
const GATEWAY_SLACK: Duration = Duration::from_millis(500);

/// When a component is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// First: nothing new comes in.
    Gateway,
    /// Then what processes and delivers, all at once.
    Work,
    /// Last.
    Admin,
}

/// The longest waits of one stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    gateway: Duration,
    head_start: Duration,
    work: Duration,
    admin: Duration,
}

impl Bounds {
    /// The gateway gets the time that it gives requests in flight, as far as the whole stop has it.
    pub(super) fn new(drain: Duration) -> Bounds {
        let most = STOP_BOUND.saturating_sub(CLOSE_RESERVE).saturating_sub(ADMIN_BOUND);
        Bounds {
            gateway: drain.saturating_add(GATEWAY_SLACK).min(most),
            head_start: HEAD_START,
            work: WORK_BOUND,
            admin: ADMIN_BOUND,
        }
    }
}

/// Stops everything that was started, which began at `began`.
pub(super) async fn stop_all(started: Vec<(Step, Supervised)>, bounds: Bounds, began: Instant) {
    let of_step = |wanted: Step, started: Vec<(Step, Supervised)>| -> (Vec<Supervised>, Vec<(Step, Supervised)>) {
        let (chosen, others): (Vec<_>, Vec<_>) = started.into_iter().partition(|(step, _)| *step == wanted);
        (chosen.into_iter().map(|(_, supervised)| supervised).collect(), others)
    };
    let (gateways, started) = of_step(Step::Gateway, started);
    let (workers, started) = of_step(Step::Work, started);
    let (admins, _) = of_step(Step::Admin, started);

    let drained = CancellationToken::new();
    let gateway = async {
        join_all(gateways.into_iter().map(|gateway| gateway.stop(bounds.gateway))).await;
        drained.cancel();
    };
    let work = async {
        tokio::select! {
            () = drained.cancelled() => {}
            () = tokio::time::sleep_until((began + bounds.head_start).into()) => {}
        }
        join_all(workers.into_iter().map(|worker| worker.stop(bounds.work))).await;
    };
    tokio::join!(gateway, work);
    join_all(admins.into_iter().map(|admin| admin.stop(bounds.admin))).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::supervisor::{Component, Start, Watch};
    use super::*;
    use crate::admin::Components;
    use crate::clock::Clock;

    #[test]
    fn a_stop_fits_into_its_bound_and_lets_the_gateway_drain_as_long_as_it_may() {
        for (drain_s, gateway_ms) in [(2, 2_500), (10, 10_500), (15, 11_000), (600, 11_000)] {
            let bounds = Bounds::new(Duration::from_secs(drain_s));
            assert_eq!(bounds.gateway, Duration::from_millis(gateway_ms));
            let longest = bounds.gateway.max(bounds.head_start + bounds.work) + bounds.admin + CLOSE_RESERVE;
            assert!(longest <= STOP_BOUND, "{longest:?}");
        }
    }

    #[tokio::test]
    async fn components_that_hang_share_one_bound_and_are_cut_off() {
        let watch = Watch {
            components: Arc::new(Components::default()),
            clock: Clock::manual(0),
            store_failure: tokio::sync::watch::Sender::new(None),
        };
        let at_work = Arc::new(tokio::sync::Semaphore::new(0));
        let hanging = |name| {
            let at_work = Arc::clone(&at_work);
            let start: Start = Arc::new(move |_stop| {
                at_work.add_permits(1);
                Box::pin(std::future::pending())
            });
            Supervised::start(Component { name, start }, watch.clone())
        };
        let started = vec![
            (Step::Work, hanging("processor")),
            (Step::Work, hanging("router")),
            (Step::Work, hanging("batch_router")),
            (Step::Gateway, hanging("gateway")),
        ];
        let _all = at_work.acquire_many(4).await.unwrap();
        let bounds = Bounds {
            gateway: Duration::from_millis(400),
            head_start: Duration::from_millis(100),
            work: Duration::from_millis(600),
            admin: Duration::from_millis(100),
        };
        let began = Instant::now();
        stop_all(started, bounds, began).await;
        let took = began.elapsed();
        assert!(took >= bounds.head_start + bounds.work, "{took:?}");
        assert!(took < bounds.gateway + 2 * bounds.work, "one after the other: {took:?}");
    }
}

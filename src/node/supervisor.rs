//! Keeps components at work: one that ends with an error, or panics, rests and is started again; the others
//! never notice (architecture, contract 5). A failure of the store is told to the node instead, which ends.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::events;
use crate::admin::{ComponentState, Components};
use crate::clock::Clock;
use crate::jobsdb::JobsDbError;

/// Why a component ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// In words.
    pub reason: String,
    /// Whether it was the store: then no component can work until the process restarts.
    pub store_failed: bool,
}

impl Ended {
    /// Looks through the causes of an error for a failed store.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Ended {
        let mut reason = error.to_string();
        let mut store_failed = false;
        let mut cause = Some(error);
        while let Some(current) = cause {
            store_failed |= matches!(current.downcast_ref::<JobsDbError>(), Some(JobsDbError::Failed(_)));
            let text = current.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            cause = current.source();
        }
        Ended { reason, store_failed }
    }
}

/// How a component is started, again and again.
pub(super) type Start = Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<(), Ended>> + Send + Sync>;

/// A component to be kept at work.
#[derive(Clone)]
pub(super) struct Component {
    /// Its name in logs and status.
    pub name: &'static str,
    /// How it is started.
    pub start: Start,
}

/// What supervisors share.
#[derive(Clone)]
pub(super) struct Watch {
    /// Where states are shown.
    pub components: Arc<Components>,
    /// The time, for display.
    pub clock: Clock,
    /// Where a failure of the store is told.
    pub store_failure: watch::Sender<Option<String>>,
}

/// A component that is kept at work until it is stopped.
pub(super) struct Supervised {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts a component and keeps it at work.
    pub(super) fn start(component: Component, watch: Watch) -> Supervised {
        Supervised::start_with(component, watch, Backoff::new())
    }

    fn start_with(component: Component, watch: Watch, backoff: Backoff) -> Supervised {
        let stop = CancellationToken::new();
        let name = component.name;
        let task = tokio::spawn(keep_at_work(component, watch, backoff, stop.clone()));
        Supervised { name, stop, task }
    }

    /// Stops it; whether it ended by itself within the bound. One that did not is cut off.
    pub(super) async fn stop(mut self, bound: Duration) -> bool {
        self.stop.cancel();
        let began = Instant::now();
        let ended = tokio::time::timeout(bound, &mut self.task).await.is_ok();
        if !ended {
            self.task.abort();
        }
        events::component_stopped(self.name, began.elapsed(), ended);
        ended
    }
}

/// Aborts the task of a component when its supervisor is given up.
struct AbortOnDrop(JoinHandle<Result<(), Ended>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_at_work(component: Component, watch: Watch, mut backoff: Backoff, stop: CancellationToken) {
    let Component { name, start } = component;
    let note = |state, error| watch.components.note(name, state, error, watch.clock.now_ms());
    while !stop.is_cancelled() {
        note(ComponentState::Running, None);
        let began = Instant::now();
        let mut instance = AbortOnDrop(tokio::spawn(start(stop.child_token())));
        let ended = match (&mut instance.0).await {
            Ok(Ok(())) if stop.is_cancelled() => break,
            Ok(Ok(())) => Ended { reason: "it ended without being told to".to_owned(), store_failed: false },
            Ok(Err(ended)) => ended,
            Err(failure) => Ended { reason: panic_text(failure), store_failed: false },
        };
        if ended.store_failed {
            watch.store_failure.send_replace(Some(ended.reason.clone()));
        }
        if stop.is_cancelled() {
            note(ComponentState::Stopped, Some(ended.reason));
            return;
        }
        let rest = backoff.after(began.elapsed());
        events::component_failed(name, &ended.reason, rest);
        note(ComponentState::Restarting, Some(ended.reason));
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
    note(ComponentState::Stopped, None);
}

fn panic_text(failure: JoinError) -> String {
    match failure.try_into_panic() {
        Ok(payload) => format!("it panicked: {}", message(payload.as_ref())),
        Err(_) => "it was cut short".to_owned(),
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        return text;
    }
    payload.downcast_ref::<String>().map_or("without a message", String::as_str)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn shared() -> (Watch, Arc<Components>, watch::Receiver<Option<String>>) {
        let components = Arc::new(Components::default());
        let (store_failure, failed) = watch::channel(None);
        let watch = Watch { components: Arc::clone(&components), clock: Clock::manual(0), store_failure };
        (watch, components, failed)
    }

    #[tokio::test]
    async fn a_component_that_fails_or_panics_is_started_again_and_the_reason_is_shown() {
        let (watch, components, _failed) = shared();
        let starts = Arc::new(AtomicUsize::new(0));
        let (working, mut at_work) = watch::channel(false);
        let counted = Arc::clone(&starts);
        let start: Start = Arc::new(move |stop: CancellationToken| {
            let (nth, working) = (counted.fetch_add(1, Ordering::SeqCst), working.clone());
            Box::pin(async move {
                match nth {
                    0 => Err(Ended { reason: "no luck".to_owned(), store_failed: false }),
                    1 => panic!("oh no"),
                    _ => {
                        working.send_replace(true);
                        stop.cancelled().await;
                        Ok(())
                    }
                }
            })
        });
        let backoff = Backoff::beginning_with(Duration::from_millis(1));
        let supervised = Supervised::start_with(Component { name: "router", start }, watch, backoff);
        at_work.wait_for(|&working| working).await.unwrap();
        let shown = components.list();
        assert_eq!(shown[0].restarts, 2);
        assert_eq!(shown[0].state, ComponentState::Running);
        assert_eq!(shown[0].last_error.as_deref(), Some("it panicked: oh no"));
        assert!(supervised.stop(Duration::from_secs(1)).await);
        assert_eq!(components.list()[0].state, ComponentState::Stopped);
        assert_eq!(starts.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_component_that_does_not_stop_is_given_up_within_its_bound() {
        let (watch, _components, _failed) = shared();
        let (working, mut at_work) = watch::channel(false);
        let start: Start = Arc::new(move |_stop| {
            working.send_replace(true);
            Box::pin(std::future::pending())
        });
        let supervised = Supervised::start(Component { name: "router", start }, watch);
        at_work.wait_for(|&working| working).await.unwrap();
        assert!(!supervised.stop(Duration::from_millis(20)).await);
    }

    #[tokio::test]
    async fn a_failed_store_is_told_to_the_node() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot hand over")]
        struct HandOver(#[source] JobsDbError);

        let (watch, _components, mut failed) = shared();
        let start: Start = Arc::new(|_stop| {
            Box::pin(async { Err(Ended::of(&HandOver(JobsDbError::Failed("flush failed".to_owned())))) })
        });
        let supervised = Supervised::start(Component { name: "processor", start }, watch);
        let told = failed.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(told.as_deref(), Some("cannot hand over: the store failed: flush failed; restart the node"));
        assert!(supervised.stop(Duration::from_secs(1)).await);
    }
}

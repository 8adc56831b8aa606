//! What the engine counts and logs. The only place that names its metrics.

use metrics::{counter, gauge};

use crate::telemetry::may_log;

/// A thread was given up: code holds it in a native loop.
pub(super) fn thread_lost(version_id: &str, lost: usize) {
    counter!("transform_lost_threads").increment(1);
    gauge!("transform_lost_threads_running").set(lost as f64);
    tracing::warn!(
        version_id,
        lost,
        "a transformation does not end: its events fail, and the thread that it holds is given up"
    );
}

/// A thread that was given up has ended after all.
pub(super) fn thread_back(lost: usize) {
    gauge!("transform_lost_threads_running").set(lost as f64);
}

/// Code is not run for a while because of the threads that it holds.
pub(super) fn code_paused(version_id: &str, seconds: u64) {
    counter!("transform_paused").increment(1);
    tracing::error!(
        version_id,
        "a transformation holds too many threads; its events fail for {seconds} s without being run; correct its code"
    );
}

/// A runtime was thrown away after a batch.
pub(super) fn runtime_replaced() {
    counter!("transform_replaced_runtimes").increment(1);
}

/// A batch made the engine panic.
pub(super) fn batch_panicked(version_id: &str) {
    counter!("transform_panics").increment(1);
    if let Some(silenced) = may_log("transform panic", version_id) {
        tracing::error!(version_id, silenced, "a transformation made its engine fail; its events fail with 500");
    }
}

/// A thread could not be started, or has no runtime.
pub(super) fn no_thread(problem: &str) {
    counter!("transform_unavailable").increment(1);
    if let Some(silenced) = may_log("transform thread", "") {
        tracing::error!(silenced, "transformations cannot run: {problem}");
    }
}

/// Threads that run or wait for transformations.
pub(super) fn threads(count: usize) {
    gauge!("transform_threads").set(count as f64);
}

//! What the node counts and logs about its own life.

use std::time::Duration;

use tracing::{error, info, warn};

/// A component ended with an error and will be started again after `rest`.
pub(super) fn component_failed(name: &'static str, reason: &str, rest: Duration) {
    metrics::counter!("pintle_component_restarts_total", "component" => name).increment(1);
    error!(component = name, reason, rest_s = rest.as_secs(), "a component failed and will be started again");
}

/// A component was told to stop.
pub(super) fn component_stopped(name: &'static str, took: Duration, in_time: bool) {
    let took_ms = took.as_millis();
    if in_time {
        info!(component = name, took_ms, "stopped");
    } else {
        warn!(component = name, took_ms, "did not stop in time and was cut off");
    }
}

/// A probe of the committer or the listener came to nothing.
pub(super) fn stalled(reason: &str) {
    metrics::counter!("pintle_progress_probe_failures_total").increment(1);
    warn!(reason, "the node makes no progress");
}

/// Settings or workspace were read again.
pub(super) fn reloaded(applied: &[String], needs_restart: &[String]) {
    metrics::counter!("pintle_reloads_total", "result" => "applied").increment(1);
    info!(?applied, ?needs_restart, "settings and workspace were read again");
}

/// A reload was refused; what was in force stays in force.
pub(super) fn reload_refused(reason: &str) {
    metrics::counter!("pintle_reloads_total", "result" => "refused").increment(1);
    error!(reason, "the reload was refused; settings and workspace stay as they were");
}

//! What the admin API counts and logs.

use tracing::{debug, info};

/// A request was answered.
pub(super) fn answered(listener: &'static str, status: u16) {
    let class = match status {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    metrics::counter!("pintle_admin_requests_total", "listener" => listener, "class" => class).increment(1);
}

/// A connection was closed at once because there are too many.
pub(super) fn connection_refused() {
    metrics::counter!("pintle_limit_total", "limit" => "admin_connections").increment(1);
}

/// A connection ended with an error; the usual reason is a client that went away.
pub(super) fn connection_failed(error: &hyper::Error) {
    debug!(%error, "an admin connection ended early");
}

/// The audit line of a change: who did what to which object, never values (security.md 3.5).
pub(super) fn changed(who: &str, verb: &'static str, object: &str) {
    metrics::counter!("pintle_admin_changes_total", "verb" => verb).increment(1);
    info!(who, verb, object, "changed by the operator");
}

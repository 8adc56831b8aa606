//! What the admin API counts and logs.

use tracing::{debug, info, warn};

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

/// A condition began or ended.
pub(super) fn alert(alert: &str, subject: &str, state: &'static str, text: &str) {
    let name = alert.to_owned();
    metrics::counter!("pintle_alerts_total", "alert" => name, "state" => state).increment(1);
    match state {
        "raised" => warn!(alert, subject, text, "ALERT raised"),
        _ => info!(alert, subject, "alert cleared"),
    }
}

/// An alert was handed to whoever wants to know, or nobody took it.
pub(super) fn alert_sent(target: &'static str, sent: Result<(), &str>) {
    let outcome = if sent.is_ok() { "ok" } else { "error" };
    metrics::counter!("pintle_alert_messages_total", "target" => target, "outcome" => outcome).increment(1);
    if let Err(error) = sent {
        warn!(target, error, "an alert was not taken and is tried again");
    }
}

/// Age and rate of what waits for a destination.
pub(super) fn backlog(destination_id: &str, age_seconds: f64, done_per_second: f64) {
    let id = destination_id.to_owned();
    metrics::gauge!("pintle_destination_oldest_seconds", "destinationId" => id.clone()).set(age_seconds);
    metrics::gauge!("pintle_destination_done_per_second", "destinationId" => id).set(done_per_second);
}

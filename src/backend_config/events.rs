//! What the configuration counts and logs (gateway.md 14).

use metrics::{counter, gauge, histogram};

use crate::jobsdb::JobsDbError;

/// Another workspace is in force.
pub(super) fn changed(sources: usize, place: &str) {
    tracing::info!(sources, place, "the workspace is in force");
}

/// The workspace could not be used.
pub(super) fn refused(place: &str, error: &str, is_new: bool) {
    counter!("config_backend_errors").increment(1);
    if is_new {
        tracing::error!(place, error, "the workspace is refused; what was in force stays");
    }
}

/// The workspace can be used again.
pub(super) fn mended(place: &str) {
    tracing::info!(place, "the workspace is good again");
}

/// The control plane is asked.
pub(super) fn asked_backend() {
    counter!("backend_config_http_calls").increment(1);
}

/// The control plane sent a document.
pub(super) fn backend_answered(bytes: usize) {
    histogram!("backend_config_http_response_size").record(bytes as f64);
}

/// Whether the node runs on the stored copy.
pub(super) fn from_last_good(yes: bool) {
    gauge!("config_from_cache").set(if yes { 1.0 } else { 0.0 });
}

/// A part of the workspace is off or older than it could be. `line` holds place and reason, never a value.
pub(super) fn limited(line: &str) {
    tracing::error!(part = line, "a part of the workspace does not work as written");
}

/// A stored document cannot be used.
pub(super) fn stored_document_is_bad(which: &str, error: &str) {
    tracing::error!(which, error, "the stored workspace cannot be used");
}

/// The last good document could not be stored; it is tried again.
pub(super) fn not_kept(error: &JobsDbError) {
    if let Some(silenced) = crate::telemetry::may_log("backend_config.last_good", "") {
        tracing::warn!(%error, silenced, "the last good workspace could not be stored");
    }
}

//! What the configuration counts and logs (gateway.md 14).

use std::path::Path;

use metrics::{counter, gauge};

use crate::jobsdb::JobsDbError;

/// Another workspace is in force.
pub(super) fn changed(sources: usize, place: &str) {
    tracing::info!(sources, place, "the workspace is in force");
}

/// The file could not be used.
pub(super) fn refused(path: &Path, error: &str, is_new: bool) {
    counter!("config_backend_errors").increment(1);
    if is_new {
        tracing::error!(path = %path.display(), error, "the workspace file is refused; what was in force stays");
    }
}

/// The file can be used again.
pub(super) fn mended(path: &Path) {
    tracing::info!(path = %path.display(), "the workspace file is good again");
}

/// Whether the node runs on the stored copy.
pub(super) fn from_last_good(yes: bool) {
    gauge!("config_from_cache").set(if yes { 1.0 } else { 0.0 });
}

/// A value could not be had; its text stays as it is. `line` holds place and reason, never a value.
pub(super) fn unresolved(line: &str) {
    tracing::error!(value = line, "a value of the workspace could not be had");
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

//! The process itself: file descriptors, file modes, core dumps (security.md 10).

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit, umask};
use tracing::warn;

/// Fewer descriptors than this make connections fail under load.
const ENOUGH_DESCRIPTORS: u64 = 65_536;

/// Keeps new files to the owner, writes no core dumps (they hold events and secrets), and raises the number of
/// descriptors to what the system allows.
pub(super) fn prepare() -> Vec<String> {
    umask(Mode::from_raw_mode(0o077));
    let mut warnings = Vec::new();
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        warnings.push(format!("core dumps cannot be turned off: {error}"));
    }
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        warnings.push(format!("the limit of open files cannot be raised: {error}"));
    }
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if descriptors < ENOUGH_DESCRIPTORS {
        warnings.push(format!(
            "at most {descriptors} files can be open, fewer than {ENOUGH_DESCRIPTORS}; raise LimitNOFILE or `ulimit -n`"
        ));
    }
    if geteuid().is_root() {
        warnings.push("running as root; use a user of its own, as the package does".to_owned());
    }
    warnings
}

/// Says what [`prepare`] found, once there is a log.
pub(super) fn tell(warnings: &[String]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

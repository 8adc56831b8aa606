//! Where the workspace comes from (gateway.md 11.1, 13).

use std::path::PathBuf;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new("BackendConfig.configJSONPath", Kind::Text, "/etc/pintle/workspaceConfig.json", "The workspace file."),
    Key::new(
        "BackendConfig.pollInterval",
        Kind::Duration(Unit::Second),
        "5s",
        "How often the workspace is looked at without a sign of change.",
    )
    .also(&["BackendConfig.pollIntervalInS"])
    .hot(),
];

/// Settings of the workspace source.
#[derive(Clone, Debug)]
pub struct BackendConfigSettings {
    /// The workspace file.
    pub path: PathBuf,
    /// Whether the path was set by the operator (then a missing file is an error, not a reason for the embedded default).
    pub path_is_set: bool,
    /// Safety tick of the file watcher.
    pub poll_interval: Duration,
}

impl BackendConfigSettings {
    pub(super) fn read(r: &Reader<'_>) -> BackendConfigSettings {
        BackendConfigSettings {
            path: PathBuf::from(r.text("BackendConfig.configJSONPath")),
            path_is_set: r.is_set("BackendConfig.configJSONPath"),
            poll_interval: r.duration("BackendConfig.pollInterval"),
        }
    }
}

//! Where the workspace comes from (gateway.md 11.1, 13).

use std::path::PathBuf;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::elsewhere::VARIABLE_PREFIX;
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "BackendConfig.configFromFile",
        Kind::Bool,
        "true",
        "Read the workspace from a file even when a workspace token is set.",
    ),
    Key::new("BackendConfig.configJSONPath", Kind::Text, "/etc/pintle/workspaceConfig.json", "The workspace file."),
    Key::new(
        "BackendConfig.pollInterval",
        Kind::Duration(Unit::Second),
        "5s",
        "How often the workspace is read without a sign of change.",
    )
    .also(&["BackendConfig.pollIntervalInS"])
    .hot(),
    Key::new(
        "BackendConfig.envReplacementEnabled",
        Kind::Bool,
        "true",
        "Read values of the workspace such as \"env.NAME\" from where they stand.",
    )
    .hot(),
    Key::new(
        "BackendConfig.configEnvReplacer",
        Kind::Text,
        VARIABLE_PREFIX,
        "What a value begins with that names an environment variable.",
    )
    .hot(),
    Key::new(
        "BackendConfig.dbCacheEnabled",
        Kind::Bool,
        "true",
        "Keep the last good workspace in the data directory, for a start without the file.",
    ),
    Key::new(
        "WORKSPACE_TOKEN",
        Kind::Text,
        "",
        "Token of a hosted workspace. This version reads workspaces from files only and refuses it.",
    )
    .also(&["CONFIG_BACKEND_TOKEN"]),
    Key::new("DEPLOYMENT_TYPE", Kind::Text, "DEDICATED", "Accepted for the peer's sake; only DEDICATED is possible."),
];

const LEAST_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Settings of the workspace source.
#[derive(Clone, Debug)]
pub struct BackendConfigSettings {
    /// The workspace file.
    pub path: PathBuf,
    /// Whether the path was set by the operator (then a missing file is an error, not a reason for the embedded default).
    pub path_is_set: bool,
    /// Safety tick of the file watcher.
    pub poll_interval: Duration,
    /// Whether the workspace would come over HTTP: a token is set and file mode is not asked for.
    pub token_is_set: bool,
    /// Whether file mode was asked for by name (then there is no embedded default).
    pub file_is_demanded: bool,
    /// What a value begins with that names an environment variable; `None` = values are taken as written.
    pub variable_prefix: Option<String>,
    /// Whether the last good workspace is kept in the store.
    pub keeps_last_good: bool,
}

impl BackendConfigSettings {
    pub(super) fn read(r: &Reader<'_>) -> BackendConfigSettings {
        let file_is_demanded = r.is_set("BackendConfig.configFromFile") && r.flag("BackendConfig.configFromFile");
        let token = r.text("WORKSPACE_TOKEN");
        let path = r.text("BackendConfig.configJSONPath");
        if path.trim().is_empty() {
            r.reject(
                "BackendConfig.configJSONPath",
                "is empty; give the path of the workspace file or leave the key out",
            );
        }
        let deployment = r.text("DEPLOYMENT_TYPE");
        if !deployment.is_empty() && deployment != "DEDICATED" {
            r.reject(
                "DEPLOYMENT_TYPE",
                format!("{deployment:?} is not possible: one node serves one workspace (DEDICATED)"),
            );
        }
        let poll_interval = r.duration("BackendConfig.pollInterval");
        if poll_interval < LEAST_POLL_INTERVAL {
            r.reject("BackendConfig.pollInterval", "is shorter than 100 ms, which would only burn a core");
        }
        BackendConfigSettings {
            path: PathBuf::from(path),
            path_is_set: r.is_set("BackendConfig.configJSONPath"),
            poll_interval,
            // The peer's sample environment holds this text in place of a token.
            token_is_set: !file_is_demanded && !token.trim().is_empty() && token != "<your_token_here>",
            file_is_demanded,
            variable_prefix: r
                .flag("BackendConfig.envReplacementEnabled")
                .then(|| r.text("BackendConfig.configEnvReplacer")),
            keeps_last_good: r.flag("BackendConfig.dbCacheEnabled"),
        }
    }
}

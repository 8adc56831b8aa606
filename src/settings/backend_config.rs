//! Where the workspace comes from (gateway.md 11.1, 13).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

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
        "Token of a hosted workspace, which is then fetched from CONFIG_BACKEND_URL instead of read from the file.",
    )
    .also(&["CONFIG_BACKEND_TOKEN"]),
    Key::new(
        "CONFIG_BACKEND_URL",
        Kind::Text,
        "https://api.rudderstack.com",
        "The control plane of a hosted workspace.",
    ),
    Key::new("region", Kind::Text, "", "Region that is asked for along with a hosted workspace; empty = none."),
    Key::new(
        "HttpClient.backendConfig.timeout",
        Kind::Duration(Unit::Second),
        "30s",
        "Longest time of one request for a hosted workspace.",
    ),
    Key::new("BackendConfig.maxBytes", Kind::Bytes(1), "64MiB", "Largest hosted workspace that is accepted, unpacked."),
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
    /// The control plane; `None` in file mode (no token, or a file was asked for by name).
    pub hosted: Option<HostedWorkspace>,
    /// Whether file mode was asked for by name (then there is no embedded default).
    pub file_is_demanded: bool,
    /// What a value begins with that names an environment variable; `None` = values are taken as written.
    pub variable_prefix: Option<String>,
    /// Whether the last good workspace is kept in the store.
    pub keeps_last_good: bool,
}

/// A workspace that a control plane holds.
#[derive(Clone, Debug)]
pub struct HostedWorkspace {
    /// Where the control plane is.
    pub url: Url,
    /// The token of the workspace.
    pub token: Token,
    /// The region that is asked for; empty = none.
    pub region: String,
    /// Longest time of one request.
    pub timeout: Duration,
    /// Most bytes of an answer.
    pub most_bytes: u64,
}

/// A secret text. Printed as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token with this text.
    pub fn new(text: impl Into<String>) -> Token {
        Token(text.into())
    }

    /// The text, for the request that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl HostedWorkspace {
    /// The URL for people: without credentials and query.
    pub fn shown_url(&self) -> String {
        format!("{}{}", self.url.origin().ascii_serialization(), self.url.path().trim_end_matches('/'))
    }

    fn read(r: &Reader<'_>) -> Option<HostedWorkspace> {
        let token = r.text("WORKSPACE_TOKEN");
        let token = token.trim();
        // The peer's sample environment holds this text in place of a token.
        if token.is_empty() || token == "<your_token_here>" {
            return None;
        }
        let url = Url::parse(&r.text("CONFIG_BACKEND_URL")).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        });
        let Some(url) = url else {
            r.reject("CONFIG_BACKEND_URL", "is no http or https URL without user and password");
            return None;
        };
        Some(HostedWorkspace {
            url,
            token: Token::new(token),
            region: r.text("region"),
            timeout: r.duration("HttpClient.backendConfig.timeout"),
            most_bytes: r.bytes("BackendConfig.maxBytes"),
        })
    }
}

impl BackendConfigSettings {
    pub(super) fn read(r: &Reader<'_>) -> BackendConfigSettings {
        let file_is_demanded = r.is_set("BackendConfig.configFromFile") && r.flag("BackendConfig.configFromFile");
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
            hosted: if file_is_demanded { None } else { HostedWorkspace::read(r) },
            file_is_demanded,
            variable_prefix: r
                .flag("BackendConfig.envReplacementEnabled")
                .then(|| r.text("BackendConfig.configEnvReplacer")),
            keeps_last_good: r.flag("BackendConfig.dbCacheEnabled"),
        }
    }
}

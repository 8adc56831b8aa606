//! Runs the real SDKs, as `make test-tools` installed them, with the scripts of `tests/sdk`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of the SDKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sdk {
    /// rudder-sdk-python.
    Python,
    /// @rudderstack/rudder-sdk-node.
    Node,
    /// segment-analytics-python.
    SegmentPython,
    /// @segment/analytics-node.
    SegmentNode,
    /// @rudderstack/analytics-js in headless Chromium.
    Browser,
}

/// Where `tests/setup` put the SDKs and other tools.
pub fn tools() -> Option<PathBuf> {
    std::env::var_os("PINTLE_TEST_TOOLS").map(PathBuf::from)
}

/// The browser, as Debian installs it.
fn chromium() -> PathBuf {
    std::env::var_os("PINTLE_TEST_CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk")
}

/// Why this SDK cannot be run here, if it cannot.
pub fn missing_sdk(sdk: Sdk) -> Option<String> {
    let missing = missing_tool(match sdk {
        Sdk::Python | Sdk::SegmentPython => "python/bin/python",
        Sdk::Node => "node/node_modules/@rudderstack/rudder-sdk-node",
        Sdk::SegmentNode => "node/node_modules/@segment/analytics-node",
        Sdk::Browser => "node/node_modules/@rudderstack/analytics-js",
    });
    let no_browser = sdk == Sdk::Browser && !chromium().exists();
    missing.or_else(|| no_browser.then(|| format!("{} is not there; run `make test-tools`", chromium().display())))
}

/// Why the tool with this path cannot be run here, if it cannot.
pub fn missing_tool(path: &str) -> Option<String> {
    let Some(tools) = tools() else {
        return Some("PINTLE_TEST_TOOLS is not set; run the tests with `make test`".to_owned());
    };
    let sign = tools.join(path);
    (!sign.exists()).then(|| format!("{} is not there; run `make test-tools`", sign.display()))
}

impl Sdk {
    /// Sends `events` events of `users` users, numbered from 0 in `properties.n`, and flushes.
    ///
    /// Panics when the SDK reports that anything failed.
    pub fn send(self, node: SocketAddr, write_key: &str, events: usize, users: usize, prefix: &str) {
        let tools = tools().expect("missing_sdk was asked first");
        let python = |maker: &str| {
            let mut command = Command::new(tools.join("python/bin/python"));
            command.arg(scripts().join("python/send.py")).arg(maker);
            command
        };
        let node_js = |script: &str| {
            let mut command = Command::new("node");
            command.arg(scripts().join(script)).arg(tools.join("node"));
            command
        };
        let mut command = match self {
            Sdk::Python => python("rudderstack"),
            Sdk::SegmentPython => python("segment"),
            Sdk::Node => node_js("node/send.js"),
            Sdk::SegmentNode => node_js("node/send_segment.js"),
            Sdk::Browser => node_js("node/send_browser.js"),
        };
        command
            .arg(format!("http://{node}"))
            .args([write_key, &events.to_string(), &users.to_string(), prefix])
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY")
            .env("NO_PROXY", "127.0.0.1");
        let output = command.output().unwrap_or_else(|error| panic!("{self:?}: {error}"));
        assert!(
            output.status.success(),
            "{self:?} SDK: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

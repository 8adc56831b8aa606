//! The node under test: started on a data directory of its own, asked for its counters, stopped or killed.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process::{self, Running};
use crate::wire;

/// Counter of log flushes in the node's metrics.
const FLUSHES: &str = "storage_flushes_total";
/// How a node is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The `pintle` binary.
    pub binary: PathBuf,
    /// Directory that holds data, workspace file and log.
    pub home: PathBuf,
    /// Environment, for settings.
    pub environment: Vec<(String, String)>,
    /// Ingest port; 0 = any.
    pub port: u16,
    /// Write key and webhook addresses of each source.
    pub sources: Vec<(String, Vec<String>)>,
}

impl Setup {
    /// Removes data, workspace and log of a node that is not needed any more.
    pub fn forget(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.home) {
            eprintln!("{} stays: {error}", self.home.display());
        }
    }
}

/// A running node that is ready.
pub struct Node {
    running: Running,
    data: PathBuf,
    admin_socket: PathBuf,
    gateway: SocketAddr,
    /// From start to ready.
    pub ready: Duration,
}

#[derive(Deserialize)]
struct Addresses {
    gateway: Vec<SocketAddr>,
    admin_socket: PathBuf,
}

/// A port that was free a moment ago, for nodes that must come back at the same one.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A workspace with webhook destinations.
fn workspace(sources: &[(String, Vec<String>)]) -> Value {
    let sources: Vec<Value> = sources
        .iter()
        .enumerate()
        .map(|(number, (write_key, urls))| {
            let destinations: Vec<Value> = urls
                .iter()
                .enumerate()
                .map(|(index, url)| {
                    let id = format!("dst-{number}-{index}");
                    json!({
                        "id": id, "name": id, "enabled": true, "workspaceId": "ws-bench", "revisionId": "r1",
                        "isProcessorEnabled": true, "transformations": [],
                        "config": {"webhookUrl": url, "webhookMethod": "POST", "headers": []},
                        "destinationDefinition": {
                            "id": "dd-webhook", "name": "WEBHOOK", "displayName": "Webhook",
                            "config": {"transformAtV1": "processor"}
                        }
                    })
                })
                .collect();
            json!({
                "id": format!("src-{number}"), "name": format!("src-{number}"), "writeKey": write_key, "enabled": true,
                "workspaceId": "ws-bench", "config": {},
                "sourceDefinition": {"id": "sd-http", "name": "HTTP", "category": null, "type": "cloud"},
                "destinations": destinations
            })
        })
        .collect();
    json!({"workspaceId": "ws-bench", "enableMetrics": false, "libraries": [], "sources": sources})
}

impl Node {
    /// Starts a node and waits until it is ready.
    pub fn start(setup: &Setup) -> Result<Node> {
        let data = setup.home.join("data");
        std::fs::create_dir_all(&data)?;
        let workspace_file = setup.home.join("workspace.json");
        std::fs::write(&workspace_file, serde_json::to_vec_pretty(&workspace(&setup.sources))?)?;
        let addresses_file = data.join("tmp/addresses.json");
        if addresses_file.exists() {
            std::fs::remove_file(&addresses_file)?;
        }
        let socket = data.join("admin.sock");
        let mut command = Command::new(&setup.binary);
        command
            .arg("run")
            .arg("--data-dir")
            .arg(&data)
            .arg("--workspace")
            .arg(&workspace_file)
            .args(["--listen", &format!("127.0.0.1:{}", setup.port), "--admin", "127.0.0.1:0", "--admin-socket"])
            .arg(&socket)
            .envs(setup.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let began = Instant::now();
        let log = setup.home.join("node.log");
        let mut running = Running::start("pintle", command, Some(&log))?;
        let until = began + Duration::from_mins(2);
        loop {
            // Written whole or not at all; half a file is read again.
            let found = std::fs::read(&addresses_file).ok();
            if let Some(addresses) = found.and_then(|text| serde_json::from_slice::<Addresses>(&text).ok()) {
                let gateway = addresses.gateway.first().copied().context("the node listens nowhere")?;
                let ready = began.elapsed();
                return Ok(Node { running, data, admin_socket: addresses.admin_socket, gateway, ready });
            }
            if let Some(status) = running.wait(Duration::from_millis(1))? {
                bail!("pintle ended with {status} before it was ready:\n{}", tail(&log));
            }
            if Instant::now() >= until {
                bail!("pintle was not ready within two minutes:\n{}", tail(&log));
            }
        }
    }

    /// Its ingest address.
    pub fn url(&self) -> String {
        format!("http://{}", self.gateway)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Path of its admin socket.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// Size of its data directory.
    pub fn directory_bytes(&self) -> u64 {
        process::directory_bytes(&self.data)
    }

    /// Waits until it takes less than a tenth of a core, or for the given time.
    pub fn wait_until_calm(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        while Instant::now() < until {
            let before = process::cpu_secs(self.pid())?;
            std::thread::sleep(Duration::from_millis(500));
            if process::cpu_secs(self.pid())? - before < 0.05 {
                break;
            }
        }
        Ok(())
    }

    /// Asks it to end, without waiting.
    pub fn ask_to_stop(&self) -> Result<()> {
        self.running.signal(Signal::TERM)
    }

    /// Waits for its end; how long it took. Fails when it took more than a minute or ended badly.
    pub fn wait_for_end(&mut self) -> Result<Duration> {
        let began = Instant::now();
        match self.running.wait(Duration::from_mins(1))? {
            Some(status) if status.success() => Ok(began.elapsed()),
            Some(status) => bail!("pintle ended with {status}"),
            None => bail!("pintle did not stop within a minute"),
        }
    }

    /// An orderly stop.
    pub fn stop(mut self) -> Result<Duration> {
        self.ask_to_stop()?;
        self.wait_for_end()
    }

    /// A stop while a destination holds requests back: any end within the bound will do, and what a bad one says is
    /// given back to be noted.
    pub fn stop_beside_held_requests(mut self) -> Result<Option<String>> {
        self.ask_to_stop()?;
        let began = Instant::now();
        match self.running.wait(Duration::from_secs(60))? {
            Some(status) if status.success() => Ok(None),
            Some(status) => {
                let secs = began.elapsed().as_secs_f64();
                Ok(Some(format!("the stop beside held requests ended with {status} after {secs:.1} s")))
            }
            None => bail!("pintle did not stop within a minute"),
        }
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.running.kill()
    }
}

/// Log flushes so far.
pub fn flushes(admin_socket: &Path) -> Result<f64> {
    let samples = metrics(admin_socket, FLUSHES)?;
    if samples.is_empty() {
        bail!("the node has no metric {FLUSHES}");
    }
    Ok(samples.into_iter().sum())
}

/// Every sample of a metric.
fn metrics(admin_socket: &Path, name: &str) -> Result<Vec<f64>> {
    let text = String::from_utf8(wire::get_unix(admin_socket, "/metrics")?)?;
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.split_once('}') {
            Some((labels, value)) if labels.starts_with('{') => value,
            _ => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse().ok()
    });
    Ok(samples.collect())
}

/// The last lines of the node's log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

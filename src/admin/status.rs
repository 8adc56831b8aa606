//! What the node says about itself: `GET /v1/status`, `pintle status`.
//!
//! Gathered from counters that are kept anyway: no queue is walked. Secrets and write keys are not in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::alerts::ActiveAlert;
use super::components::ComponentStatus;
use super::{Deps, events, socket_path};
use crate::backend_config::Snapshot;
use crate::jobsdb::{ActivePartition, Gate, Queue};
use crate::{batch_router, router, storage};

/// The whole answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Version of the software.
    pub version: String,
    /// When the process was started, milliseconds since the epoch.
    pub started_ms: i64,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// Whether events are accepted.
    pub ready: bool,
    /// `ready`, or why not.
    pub reason: String,
    /// What the disk guard allows: `open`, `ingestClosed`, `processorClosed` or `poisoned`.
    pub gate: String,
    /// The data directory.
    pub data_dir: String,
    /// Where the node listens.
    pub listeners: ListenerStatus,
    /// Space of the data directory's file system.
    pub disk: Option<DiskStatus>,
    /// Memory of the process that is in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// The configuration in force.
    pub configuration: ConfigurationStatus,
    /// Every queue.
    pub queues: Vec<QueueStatus>,
    /// Every destination that is configured or has jobs, sorted by id.
    pub destinations: Vec<DestinationStatus>,
    /// What is wrong, as it was told.
    #[serde(default)]
    pub alerts: Vec<ActiveAlert>,
    /// Every component, in the order of their start.
    pub components: Vec<ComponentStatus>,
}

/// Where the node listens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Addresses of the ingest port; empty until it is open.
    pub gateway: Vec<String>,
    /// The admin socket.
    pub admin_socket: String,
}

/// Space of a file system.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Free for this process, in bytes.
    pub free_bytes: u64,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigurationStatus {
    /// Whether one is known.
    pub known: bool,
    /// When it last changed, milliseconds since the epoch.
    pub changed_ms: i64,
    /// Its workspaces.
    pub workspaces: usize,
    /// Its sources.
    pub sources: usize,
    /// Its destinations.
    pub destinations: usize,
    /// Where it comes from: `JSON` (a file), `API` (a control plane), `EMBEDDED` (the node's own default).
    pub mode: String,
    /// The file that is followed, or the URL that is asked.
    pub path: Option<String>,
    /// Why the workspace cannot be used now.
    pub last_error: Option<String>,
    /// The workspace could not be used since the start; the stored copy is in force.
    pub from_last_good: bool,
    /// What of the workspace in force is off or older than it could be, and why.
    #[serde(default)]
    pub limits: Vec<String>,
}

/// One queue.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Its name.
    pub queue: String,
    /// Jobs without a terminal outcome.
    pub pending: u64,
    /// Payload bytes of those.
    pub pending_bytes: u64,
    /// When the oldest dataset with such jobs was started, milliseconds since the epoch: no job is older.
    pub oldest_ms: Option<i64>,
    /// The id of the newest job.
    pub last_job_id: u64,
    /// Its datasets.
    pub datasets: usize,
}

/// Jobs of one destination in one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Jobs without a terminal outcome.
    pub pending: u64,
    /// Payload bytes of those.
    pub pending_bytes: u64,
    /// Of those, being delivered now.
    pub leased: u64,
    /// Of those, waiting for their retry time.
    pub delayed: u64,
    /// Of those, behind a failed job of the same user.
    pub blocked: u64,
    /// Of those, accepted by a bulk API.
    pub importing: u64,
}

/// One destination.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationStatus {
    /// Its id.
    pub id: String,
    /// Its name; empty when it is no longer configured.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it is turned on.
    pub enabled: bool,
    /// The operator's pause that holds now.
    pub paused: Option<PauseStatus>,
    /// Jobs waiting in real-time delivery.
    pub rt: Waiting,
    /// Jobs waiting for a file.
    pub batch_rt: Waiting,
    /// No event that waits came before, milliseconds since the epoch; from counters, at most twice the true age.
    #[serde(default)]
    pub oldest_ms: Option<i64>,
    /// Events that were done a second, lately.
    #[serde(default)]
    pub done_per_second: f64,
    /// Its real-time delivery, once there was any.
    pub delivery: Option<DeliveryStatus>,
    /// Its delivery in files, once there was any.
    pub files: Option<FilesStatus>,
}

/// A pause by the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseStatus {
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// When it ends by itself, milliseconds since the epoch.
    pub until_ms: Option<i64>,
}

/// The newest error of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorStatus {
    /// HTTP-like code; empty when there is none.
    pub code: String,
    /// What the destination said.
    pub text: String,
    /// When, milliseconds since the epoch.
    pub at_ms: Option<i64>,
}

/// Real-time delivery to one destination since the start of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryStatus {
    /// `running`, `unreachable`, `paused` or `throttled`.
    pub state: String,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// When delivery is tried again, while it is held back.
    pub next_retry_ms: Option<i64>,
    /// Jobs delivered.
    pub delivered: u64,
    /// Jobs filtered.
    pub filtered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Jobs given up.
    pub aborted: u64,
    /// The newest error.
    pub last_error: Option<ErrorStatus>,
}

/// Delivery in files to one destination since the start of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilesStatus {
    /// `closed` (files are delivered), `open` (not for a while) or `trial`.
    pub breaker: String,
    /// Files delivered.
    pub files: u64,
    /// Jobs in those.
    pub jobs: u64,
    /// Where the last file went.
    pub last_location: Option<String>,
    /// When it did, milliseconds since the epoch.
    pub last_upload_ms: Option<i64>,
    /// When the next file is cut, milliseconds since the epoch.
    pub next_cut_ms: Option<i64>,
    /// What went wrong last; gone after the next success.
    pub last_error: Option<ErrorStatus>,
}

/// Gathers the status. Takes locks of the queues: not for tokio workers.
pub(super) fn gather(deps: &Deps) -> NodeStatus {
    let gate = deps.jobs.gate().borrow().clone();
    let readiness = deps.vitals.readiness(&gate, deps.config.current().is_some());
    let snapshot = deps.config.current();
    let gateway = deps.gateway_addresses.get().map(Vec::as_slice).unwrap_or_default();
    let queues = queues(deps);
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_ms: deps.vitals.started_ms(),
        uptime_seconds: deps.vitals.uptime().as_secs(),
        ready: readiness.ready,
        reason: readiness.reason,
        gate: gate_name(&gate).to_owned(),
        data_dir: deps.data_dir.display().to_string(),
        listeners: ListenerStatus {
            gateway: gateway.iter().map(ToString::to_string).collect(),
            admin_socket: socket_path(&deps.settings.load()).display().to_string(),
        },
        disk: disk(deps),
        resident_bytes: resident_bytes(),
        configuration: configuration(deps, snapshot.as_deref()),
        destinations: observed(deps, destinations(deps, snapshot.as_deref()), &queues),
        queues,
        alerts: deps.alerts.active(),
        components: deps.components.list(),
    }
}

/// The destinations with the ages and rates of what waits for them.
fn observed(deps: &Deps, mut destinations: Vec<DestinationStatus>, queues: &[QueueStatus]) -> Vec<DestinationStatus> {
    let now_ms = deps.clock.now_ms();
    let delivering = queues.iter().filter(|queue| [Queue::Rt.name(), Queue::BatchRt.name()].contains(&&*queue.queue));
    let before_ms = delivering.filter_map(|queue| queue.oldest_ms).min().unwrap_or(now_ms);
    deps.backlogs.observe(now_ms, before_ms, &mut destinations);
    for destination in &destinations {
        let age_ms = destination.oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms).max(0));
        events::backlog(&destination.id, age_ms as f64 / 1_000.0, destination.done_per_second);
    }
    destinations
}

fn gate_name(gate: &Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::IngestClosed(_) => "ingestClosed",
        Gate::ProcessorClosed(_) => "processorClosed",
        Gate::Poisoned(_) => "poisoned",
    }
}

fn disk(deps: &Deps) -> Option<DiskStatus> {
    let space = storage::free_space(&deps.data_dir).ok()?;
    Some(DiskStatus { total_bytes: space.total, free_bytes: space.free })
}

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
    kib.checked_mul(1024)
}

fn configuration(deps: &Deps, snapshot: Option<&Snapshot>) -> ConfigurationStatus {
    let state = deps.config.state();
    ConfigurationStatus {
        known: snapshot.is_some(),
        changed_ms: snapshot.map_or(0, |snapshot| snapshot.changed_ms),
        workspaces: snapshot.map_or(0, |snapshot| snapshot.workspaces.len()),
        sources: snapshot.map_or(0, |snapshot| snapshot.source_by_id.len()),
        destinations: snapshot.map_or(0, |snapshot| snapshot.destination_by_id.len()),
        mode: state.mode.name().to_owned(),
        path: state.url.or_else(|| state.path.map(|path| path.display().to_string())),
        last_error: state.last_error,
        from_last_good: state.from_last_good,
        limits: state.limits,
    }
}

fn queues(deps: &Deps) -> Vec<QueueStatus> {
    let stats = deps.jobs.stats();
    stats
        .iter()
        .map(|queue| QueueStatus {
            queue: queue.queue.name().to_owned(),
            pending: queue.pending,
            pending_bytes: queue.pending_bytes,
            oldest_ms: queue.datasets.iter().filter(|set| set.pending > 0).map(|set| set.created_ms).min(),
            last_job_id: queue.last_job_id,
            datasets: queue.datasets.len(),
        })
        .collect()
}

fn destinations(deps: &Deps, snapshot: Option<&Snapshot>) -> Vec<DestinationStatus> {
    let mut by_id: BTreeMap<String, DestinationStatus> = BTreeMap::new();
    let configured = snapshot.iter().flat_map(|snapshot| snapshot.destination_by_id.values());
    for destination in configured.map(Arc::as_ref) {
        by_id.insert(
            destination.id.clone(),
            DestinationStatus {
                id: destination.id.clone(),
                name: destination.name.clone(),
                kind: destination.definition.name.clone(),
                enabled: destination.enabled,
                ..DestinationStatus::default()
            },
        );
    }
    for queue in [Queue::Rt, Queue::BatchRt] {
        for active in deps.jobs.active(queue) {
            let id = &active.partition.destination_id;
            let destination = by_id.entry(id.clone()).or_insert_with(|| DestinationStatus {
                id: id.clone(),
                kind: active.partition.custom_val.clone(),
                ..DestinationStatus::default()
            });
            let waiting = if queue == Queue::Rt { &mut destination.rt } else { &mut destination.batch_rt };
            waiting.add(&active);
        }
    }
    for state in deps.router_board.snapshot() {
        if let Some(destination) = by_id.get_mut(&state.destination_id) {
            destination.delivery = Some(DeliveryStatus::of(state));
        }
    }
    for figures in deps.batch_board.snapshot() {
        if let Some(destination) = by_id.get_mut(&figures.destination_id) {
            destination.files = Some(FilesStatus::of(figures));
        }
    }
    let now_ms = deps.clock.now_ms();
    for destination in by_id.values_mut() {
        let pause = deps.router_board.pause_of(&destination.id, now_ms);
        destination.paused = pause.map(|pause| PauseStatus { since_ms: pause.since_ms, until_ms: pause.until_ms });
    }
    by_id.into_values().collect()
}

impl Waiting {
    /// Adds the figures of one partition.
    fn add(&mut self, active: &ActivePartition) {
        self.pending += active.pending;
        self.pending_bytes += active.pending_bytes;
        self.leased += active.leased;
        self.delayed += active.delayed;
        self.blocked += active.blocked;
        self.importing += active.importing;
    }
}

impl DeliveryStatus {
    fn of(state: router::DestinationState) -> DeliveryStatus {
        DeliveryStatus {
            state: name_of(&state.state),
            since_ms: state.since_ms,
            next_retry_ms: state.next_retry_ms,
            delivered: state.delivered,
            filtered: state.filtered,
            failed: state.failed,
            aborted: state.aborted,
            last_error: state.last_error.map(|error| ErrorStatus {
                code: error.code,
                text: error.text,
                at_ms: Some(error.at_ms),
            }),
        }
    }
}

impl FilesStatus {
    fn of(figures: batch_router::DestinationFigures) -> FilesStatus {
        let at_ms = figures.last_error_ms;
        FilesStatus {
            breaker: name_of(&figures.breaker),
            files: figures.files,
            jobs: figures.jobs,
            last_location: figures.last_location,
            last_upload_ms: figures.last_upload_ms,
            next_cut_ms: figures.next_cut_ms,
            last_error: figures.last_error.map(|text| ErrorStatus { code: String::new(), text, at_ms }),
        }
    }
}

/// The name of a plain enum's value as its owner writes it.
fn name_of<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

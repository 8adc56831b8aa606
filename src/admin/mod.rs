//! The admin HTTP API: health, metrics, status, and the few changes an operator makes to a running node.
//!
//! In: requests on the unix socket (the mode of its file decides who may) and on a loopback TCP port (always
//! with the token of `<data>/admin.token`). Out: JSON, Prometheus text, or one line of text for the health
//! routes. Spec: appliance.md 4, security.md 2.2, 3.2 to 3.4 and 12; the routes are listed in `routes.rs`.
//!
//! Promises: no answer waits for a tokio worker that blocks; a health check does no I/O; an unknown or
//! forbidden request learns nothing about the node; every change leaves an audit line.

pub mod alerts;
mod backlog;
mod backup;
mod components;
mod dead;
mod dead_routes;
mod events;
mod guard;
mod listeners;
mod live;
mod pause;
mod routes;
mod send;
mod server;
mod staging;
mod status;
mod token;
mod trace;
mod vitals;
mod warehouse;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::backend_config::BackendConfig;
use crate::clock::Clock;
use crate::jobsdb::JobsDb;
use crate::settings;
use crate::telemetry::{LiveTaps, Metrics};
use crate::warehouse::Warehouse;
use crate::{batch_router, gateway, router};

pub use alerts::{ActiveAlert, Alerts};
pub use backlog::Backlogs;
pub use backup::{
    BackupError, Extent, Manifest, ManifestFile, QueueCount, copy_to, create_from, list, refuse_non_empty, remove,
    restore, verify_files,
};
pub use components::{ComponentState, ComponentStatus, Components};
pub use dead::{DeadChange, DeadLetter, DeadLetters};
pub use listeners::{AdminError, Listeners, bind, socket_path};
pub use send::Sent;
pub use server::serve;
pub use status::{
    ConfigurationStatus, DeliveryStatus, DestinationStatus, DiskStatus, ErrorStatus, FilesStatus, ListenerStatus,
    NodeStatus, PauseStatus, QueueStatus, Waiting,
};
pub use trace::{Searched, Trace, TraceStep};
pub use vitals::{Phase, Readiness, Vitals};

/// Asks the node to read its settings and its workspace again; the answer says what came of it.
pub type ReloadRequests = mpsc::Sender<oneshot::Sender<Result<Reloaded, String>>>;

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reloaded {
    /// Changed settings that are in force now.
    pub applied: Vec<String>,
    /// Changed settings that take effect at the next start.
    pub needs_restart: Vec<String>,
    /// What the operator should know about the settings.
    pub warnings: Vec<String>,
}

/// What the admin API looks at.
#[derive(Clone)]
pub struct Deps {
    /// The queues.
    pub jobs: JobsDb,
    /// The configuration in force.
    pub config: BackendConfig,
    /// The settings in force.
    pub settings: settings::Live,
    /// The time.
    pub clock: Clock,
    /// Every metric of the process.
    pub metrics: Metrics,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The life of the node.
    pub vitals: Arc<Vitals>,
    /// The states of its components.
    pub components: Arc<Components>,
    /// What the router shows of each destination.
    pub router_board: Arc<router::Board>,
    /// What the batch router shows of each destination.
    pub batch_board: Arc<batch_router::Board>,
    /// Uploads of warehouses; `None` where nothing is loaded.
    pub warehouse: Option<Warehouse>,
    /// What passes, for who watches.
    pub live: LiveTaps,
    /// Where the gateway listens, once it does.
    pub gateway_addresses: Arc<OnceLock<Vec<SocketAddr>>>,
    /// The way to the own ingest port.
    pub own_port: gateway::OwnPort,
    /// Where the internal tree is answered.
    pub internal: gateway::InternalApi,
    /// Ages and rates of what waits for destinations.
    pub backlogs: Arc<Backlogs>,
    /// The alerts that hold.
    pub alerts: Arc<Alerts>,
    /// The way to a reload.
    pub reloads: ReloadRequests,
}

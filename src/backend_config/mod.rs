//! The workspace configuration: sources, destinations and what connects them (gateway.md 11).
//!
//! In: `workspaceConfig.json`, the last good copy in the store, or the embedded default.
//! Out: [`Snapshot`]s, immutable and complete, through [`BackendConfig::subscribe`]. A unit of work
//! takes one snapshot and keeps it to its end. A bad file never replaces a good snapshot.

mod model;

use std::sync::Arc;

use tokio::sync::watch;

pub use model::{
    Connection, Destination, DestinationDefinition, Snapshot, Source, SourceDefinition, Transformation, Workspace,
};

/// The newest snapshot; `None` until one is known. A slow reader skips intermediate ones.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Owner of the configuration in force.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    sender: watch::Sender<Option<Arc<Snapshot>>>,
}

impl BackendConfig {
    /// A configuration that is set by hand, for tests and tools.
    pub fn fixed(snapshot: Snapshot) -> BackendConfig {
        BackendConfig { sender: watch::Sender::new(Some(Arc::new(snapshot))) }
    }

    /// Follows the configuration: the last value at once, then every change.
    pub fn subscribe(&self) -> Snapshots {
        self.sender.subscribe()
    }

    /// The snapshot in force.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.sender.borrow().clone()
    }
}

//! The workspace configuration: sources, destinations and what connects them (gateway.md 11).
//!
//! In: `workspaceConfig.json` or what a control plane answers, code and plans from the folders beside the file, the
//! last good copy in the store, or the embedded default.
//! Out: [`Snapshot`]s, immutable and complete, through [`BackendConfig::subscribe`]. A unit of work
//! takes one snapshot and keeps it to its end. A bad file never replaces a good snapshot.
//!
//! The way of a document: `file` reads it or `hosted` fetches it, `decode` parses it, puts in the values that stand
//! elsewhere (`secrets`) and holds it against its `shape`, `assemble` adds code and plans (`code_files`); `follow`
//! publishes it when it differs from what is in force, and `last_good` keeps its text.

mod assemble;
mod check;
mod code;
mod code_files;
mod decode;
mod embedded;
mod events;
mod file;
mod follow;
mod hosted;
mod last_good;
mod locate;
mod model;
mod poll;
mod replay;
mod scrub;
mod seal;
mod secrets;
mod shape;

#[cfg(test)]
mod code_tests;
#[cfg(test)]
mod start_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use check::{Known, Summary, check_file};
pub use code::{Account, AccountDefinition, Credential, Library, SourceTrackingPlan, TrackingPlan, TransformationCode};
pub use decode::{MOST_DOCUMENT_BYTES, Problem};
pub use embedded::default_document;
pub use last_good::has_last_good;
pub use model::{
    Connection, Destination, DestinationDefinition, Snapshot, Source, SourceDefinition, Transformation, Workspace,
};
pub use scrub::Scrubber;

use crate::clock::Clock;
use crate::jobsdb::{JobsDb, JobsDbError};
use crate::settings::{HostedWorkspace, Live};
use code_files::Texts;
use follow::{Follower, Request};
use hosted::Hosted;
use last_good::{Kept, Shelf};
use poll::Poller;
use seal::SealingKey;

/// The newest snapshot; `None` until one is known. A slow reader skips intermediate ones.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Reloads that may wait for the task; more are told that it is busy by having to wait.
const WAITING_RELOADS: usize = 8;

/// What the configuration works with.
pub struct Deps {
    /// Where the last good document and the embedded default are kept.
    pub jobs: JobsDb,
    /// The settings in force.
    pub settings: Live,
    /// The time of changes.
    pub clock: Clock,
}

/// Where the workspace comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `workspaceConfig.json`.
    File,
    /// A control plane, over HTTP.
    Hosted,
    /// The default that a node without a file makes for itself.
    Embedded,
    /// Set by hand.
    Fixed,
}

impl Mode {
    /// The name that operators see.
    pub fn name(self) -> &'static str {
        match self {
            Mode::File => "JSON",
            Mode::Hosted => "API",
            Mode::Embedded => "EMBEDDED",
            Mode::Fixed => "FIXED",
        }
    }
}

/// How the configuration stands, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the workspace comes from.
    pub mode: Mode,
    /// The file that is followed; in embedded mode it takes over as soon as it exists.
    pub path: Option<PathBuf>,
    /// The control plane that is asked, without credentials; only in HTTP mode.
    pub url: Option<String>,
    /// When the workspace last changed, milliseconds since the epoch.
    pub last_change_ms: Option<i64>,
    /// Why the workspace cannot be used now; never a value of it.
    pub last_error: Option<String>,
    /// The workspace could not be used since the start; the stored copy is in force.
    pub from_last_good: bool,
    /// What of the workspace in force is off or older than it could be, and why; never a value of it.
    pub limits: Vec<String>,
}

/// What a reload did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// Another workspace is in force.
    Changed,
    /// The same workspace is in force.
    Unchanged,
}

/// Why a reload did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The workspace is not good; the one in force stays.
    #[error("the workspace is refused, what was in force stays: {0}")]
    Refused(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Why the configuration could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The control plane cannot be asked at all.
    #[error("the workspace cannot be fetched: {0}")]
    Hosted(String),
    /// The store could not be read or written.
    #[error("the stored workspace: {0}")]
    Store(#[from] JobsDbError),
}

/// Owner of the configuration in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BackendConfig {
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    state: Arc<Mutex<State>>,
    /// `None` when the configuration is set by hand.
    requests: Option<mpsc::Sender<Request>>,
}

impl BackendConfig {
    /// A configuration that is set by hand, for tests and tools.
    pub fn fixed(snapshot: Snapshot) -> BackendConfig {
        let state = State {
            mode: Mode::Fixed,
            path: None,
            url: None,
            last_change_ms: Some(snapshot.changed_ms),
            last_error: None,
            from_last_good: false,
            limits: Vec::new(),
        };
        BackendConfig {
            sender: watch::Sender::new(Some(Arc::new(snapshot))),
            state: Arc::new(Mutex::new(state)),
            requests: None,
        }
    }

    /// Puts the first workspace in force and follows it until `stop` (gateway.md 11.1). With a workspace token it is
    /// the control plane's, else the file's; where that cannot be used the last good one; without a file, a copy and
    /// a path set by the operator the embedded default. Else there is no snapshot until the origin is good.
    ///
    /// # Errors
    /// [`StartError::Hosted`]: a human must decide. [`StartError::Store`]: the store failed.
    pub async fn start(deps: Deps, stop: CancellationToken) -> Result<BackendConfig, StartError> {
        let settings = deps.settings.load();
        let hosted = settings.backend_config.hosted.clone().map(Hosted::new).transpose().map_err(StartError::Hosted)?;
        let shelf = match &settings.backend_config.hosted {
            None => Some(Shelf::File),
            Some(hosted) => SealingKey::of(hosted.token.expose()).map(Shelf::Hosted),
        };
        let shelf = shelf.filter(|_| settings.backend_config.keeps_last_good).map(|shelf| (deps.jobs.clone(), shelf));
        let last_good = match &shelf {
            Some((jobs, shelf)) => shelf.load(jobs).await?,
            None => None,
        };
        drop(settings);
        let (config, mut follower, requests) = BackendConfig::prepare(deps.settings, deps.clock, shelf);
        if let Some(hosted) = hosted {
            let mut poller = Poller::new(follower, hosted);
            poller.begin(last_good).await;
            tokio::spawn(poller.run(requests, stop));
            return Ok(config);
        }
        if !follower.begin(last_good).await {
            let document = BackendConfig::embedded_document(&deps.jobs).await?;
            let kept = Kept { document, code: Texts::new() };
            follower.use_stored(kept, Mode::Embedded, "the embedded default").await;
        }
        tokio::spawn(follower.run(requests, stop));
        Ok(config)
    }

    fn prepare(
        settings: Live,
        clock: Clock,
        shelf: Option<(JobsDb, Shelf)>,
    ) -> (BackendConfig, Follower, mpsc::Receiver<Request>) {
        let loaded = settings.load();
        let hosted = loaded.backend_config.hosted.as_ref();
        let state = State {
            mode: if hosted.is_some() { Mode::Hosted } else { Mode::File },
            path: hosted.is_none().then(|| loaded.backend_config.path.clone()),
            url: hosted.map(HostedWorkspace::shown_url),
            last_change_ms: None,
            last_error: None,
            from_last_good: false,
            limits: Vec::new(),
        };
        let (requests, waiting) = mpsc::channel(WAITING_RELOADS);
        let config = BackendConfig {
            sender: watch::Sender::new(None),
            state: Arc::new(Mutex::new(state)),
            requests: Some(requests),
        };
        drop(loaded);
        let follower = Follower::new(settings, clock, shelf, config.sender.clone(), Arc::clone(&config.state));
        (config, follower, waiting)
    }

    /// The embedded default of this node: made once, then always the same.
    async fn embedded_document(jobs: &JobsDb) -> Result<Vec<u8>, StartError> {
        if let Some(document) = last_good::load(jobs, last_good::EMBEDDED).await? {
            return Ok(document);
        }
        let document = default_document().into_bytes();
        last_good::keep(jobs, last_good::EMBEDDED, document.clone()).await?;
        Ok(document)
    }

    /// Follows the configuration: the last value at once, then every change.
    pub fn subscribe(&self) -> Snapshots {
        self.sender.subscribe()
    }

    /// The snapshot in force.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.sender.borrow().clone()
    }

    /// How the configuration stands.
    pub fn state(&self) -> State {
        self.state.lock().clone()
    }

    /// Reads the file now, for SIGHUP and `pintle reload`.
    ///
    /// # Errors
    /// [`ReloadError::Refused`]: the file is not good, what was in force stays.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let Some(requests) = &self.requests else { return Ok(Reloaded::Unchanged) };
        let (answer, answered) = oneshot::channel();
        requests.send(answer).await.map_err(|_| ReloadError::Stopped)?;
        answered.await.map_err(|_| ReloadError::Stopped)?
    }
}

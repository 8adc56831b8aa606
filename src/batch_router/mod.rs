//! Delivery in files, and the archive of gateway events (router.md 19, 20; jobsdb.md 14).
//!
//! In: jobs of the `batch_rt` queue, one event for one destination each, and of the `arc` queue, one event
//! of one source each. Out: gzip files of JSON lines in object storages or in a local directory.
//!
//! Promises: a line for every job and no job twice, also when the node dies between an upload and the
//! states of its jobs ([`manifest`]); lines in job order; a storage that fails or hangs holds up no other
//! destination ([`breaker`]); nothing that waits is in memory.
//!
//! One worker serves one destination. The way of a batch: [`cut`] says when and how jobs become files,
//! [`object_key`] where they go, [`crate::object_storage`] takes them, [`result`] turns the answer into the states of the
//! jobs. Files of warehouses are [`staging`] files: a record tells the warehouse of each. Types whose servers take whole
//! files of records have a worker of their own ([`record_files`]); others (bulk APIs) are left alone here.

mod archive;
mod batch_file;
mod board;
pub mod breaker;
pub mod cut;
mod dead_letter;
mod drain;
mod events;
pub mod manifest;
pub mod object_key;
mod orders;
mod pickup;
mod record_files;
mod recovery;
pub mod result;
mod sending;
mod staging;
mod target;
mod upload;
mod worker;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::destination::is_warehouse;
use crate::jobsdb::{JobsDb, JobsDbError, JournalRecord, Queue};
use crate::object_storage::{OBJECT_STORAGES, create_directories, remove_if_there};
use crate::settings::Live;

pub use board::{ArchiveFigures, Board, BreakerState, DestinationFigures};

use manifest::Manifest;
use record_files::RecordWorker;
use recovery::Recovery;
use worker::Worker;

/// Folder of files on their way to a storage, below the data directory.
const WORK_FOLDER: &str = "staging/rudder-raw-data-destination-logs";

/// How often destinations are looked for, besides wake-ups.
const SAFETY_TICK: Duration = Duration::from_secs(5);

/// A worker that does not end by itself gets this long after a stop.
const STOP_PATIENCE: Duration = Duration::from_secs(7);

/// How often destinations of types that are not built yet are named in the log.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the batch router works with.
pub struct Deps {
    /// The queues.
    pub jobs: JobsDb,
    /// The workspace configuration.
    pub config: Snapshots,
    /// The settings in force.
    pub settings: Live,
    /// The time.
    pub clock: Clock,
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Where figures for operators are put.
    pub board: Arc<Board>,
    /// Whether destinations are served; the archive always is.
    pub delivers: bool,
}

/// Why the batch router ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchRouterError {
    /// The job store failed.
    #[error("the batch router cannot use the job store: {0}")]
    Jobs(#[from] JobsDbError),
    /// The work folder cannot be used.
    #[error("the batch router cannot use its work folder {folder}: {error}; check owner and free space")]
    WorkFolder {
        /// The folder.
        folder: String,
        /// What the system said.
        error: String,
    },
}

/// What all workers share.
struct Shared {
    jobs: JobsDb,
    config: Snapshots,
    settings: Live,
    clock: Clock,
    data_dir: PathBuf,
    work_folder: PathBuf,
    board: Arc<Board>,
    /// Payload bytes in memory over all destinations, in KiB.
    budget: Arc<Semaphore>,
    budget_kib: u32,
    next_op: AtomicU64,
    uploads: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Shared {
    fn new(deps: Deps) -> Shared {
        let limit_kib = deps.settings.load().batch_router.payload_limit >> 10;
        let budget_kib = u32::try_from(limit_kib).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        Shared {
            jobs: deps.jobs,
            config: deps.config,
            settings: deps.settings,
            clock: deps.clock,
            work_folder: deps.data_dir.join(WORK_FOLDER),
            data_dir: deps.data_dir,
            board: deps.board,
            budget: Arc::new(Semaphore::new(usize::try_from(budget_kib).unwrap_or(1))),
            budget_kib,
            next_op: AtomicU64::new(1),
            uploads: Mutex::new(HashMap::new()),
        }
    }

    /// Room for the payloads of one fetch, and how many KiB it is. Waits for other destinations to finish
    /// writing their files.
    async fn page_budget(&self, waiting_bytes: u64) -> (Option<OwnedSemaphorePermit>, u32) {
        let wanted = u32::try_from(waiting_bytes >> 10).unwrap_or(u32::MAX).saturating_add(1).min(self.budget_kib);
        (Arc::clone(&self.budget).acquire_many_owned(wanted).await.ok(), wanted)
    }

    /// Uploads of the destination type at a time; the first limit that is seen stays.
    fn uploads_of_type(&self, destination_type: &str, limit: usize) -> Arc<Semaphore> {
        let mut uploads = self.uploads.lock();
        Arc::clone(uploads.entry(destination_type.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(limit))))
    }

    fn show_error(&self, destination_id: &str, error: &str) {
        let now_ms = self.clock.now_ms();
        self.board.destination(destination_id, |figures| {
            figures.last_error = Some(error.to_owned());
            figures.last_error_ms = Some(now_ms);
        });
    }

    fn next_op(&self) -> u64 {
        self.next_op.fetch_add(1, Ordering::Relaxed)
    }

    fn work_file(&self, name: &str) -> PathBuf {
        self.work_folder.join(name)
    }

    async fn remove_work_file(&self, name: &str) {
        self.remove_work_path(self.work_file(name)).await;
    }

    async fn remove_work_path(&self, path: PathBuf) {
        let shown = path.display().to_string();
        match tokio::task::spawn_blocking(move || remove_if_there(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(file = shown, %error, "a file stays in the work folder until the next start");
            }
            Err(error) => tracing::error!(file = shown, %error, "cannot remove a file of the work folder"),
        }
    }

    async fn journal(&self) -> Result<Vec<JournalRecord>, JobsDbError> {
        let jobs = self.jobs.clone();
        match tokio::task::spawn_blocking(move || jobs.journal(Queue::BatchRt)).await {
            Ok(records) => records,
            Err(error) => Err(JobsDbError::Failed(error.to_string())),
        }
    }

    /// The open manifests of the destination.
    async fn recovery(&self, destination_id: &str) -> Result<Recovery, JobsDbError> {
        let mut recovery = Recovery::default();
        for record in self.journal().await? {
            if let Some(manifest) = Manifest::of_record(&record).filter(|found| found.destination_id == destination_id)
            {
                recovery.add(self, record.op, record.start_ms, manifest);
            }
        }
        Ok(recovery)
    }
}

/// Delivers and archives until the stop.
///
/// # Errors
/// The job store failed, or the work folder cannot be used.
pub async fn run(deps: Deps, stop: CancellationToken) -> Result<(), BatchRouterError> {
    let delivers = deps.delivers;
    let shared = Arc::new(Shared::new(deps));
    let left_over = prepare(&shared).await?;
    let stop = stop.child_token();
    let (delivered, archived) = tokio::join!(
        async {
            if !delivers {
                return Ok(());
            }
            let result = serve_destinations(&shared, left_over, &stop).await;
            if result.is_err() {
                stop.cancel();
            }
            result
        },
        async {
            let result = archive::run(&shared, &stop).await;
            if result.is_err() {
                stop.cancel();
            }
            result
        }
    );
    delivered.and(archived)
}

/// Reads the journal, numbers new manifests after the old ones, and empties the work folder of what no
/// manifest names. Returns the destinations, with their types, that have open manifests.
async fn prepare(shared: &Arc<Shared>) -> Result<BTreeMap<String, String>, BatchRouterError> {
    let mut destinations = BTreeMap::new();
    let mut kept = HashSet::new();
    for record in shared.journal().await? {
        shared.next_op.fetch_max(record.op.saturating_add(1), Ordering::Relaxed);
        match Manifest::of_record(&record) {
            Some(manifest) => {
                kept.insert(manifest.file);
                destinations.insert(manifest.destination_id, manifest.destination_type);
            }
            None => tracing::error!(
                operation = record.operation,
                op = record.op,
                "an upload record cannot be read; its events may be sent again"
            ),
        }
    }
    let (folder, data_dir) = (shared.work_folder.clone(), shared.data_dir.clone());
    let emptied = tokio::task::spawn_blocking(move || {
        archive::empty_work_folder(&data_dir)?;
        empty_folder(&folder, &kept)
    })
    .await;
    let error = match emptied {
        Ok(Ok(())) => return Ok(destinations),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(BatchRouterError::WorkFolder { folder: shared.work_folder.display().to_string(), error })
}

fn empty_folder(folder: &Path, kept: &HashSet<String>) -> std::io::Result<()> {
    create_directories(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let is_kept = entry.file_name().to_str().is_some_and(|name| kept.contains(name));
        if !is_kept && entry.file_type()?.is_file() {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Keeps one worker for each destination that has jobs or open manifests.
async fn serve_destinations(
    shared: &Arc<Shared>,
    left_over: BTreeMap<String, String>,
    stop: &CancellationToken,
) -> Result<(), BatchRouterError> {
    let appeared = shared.jobs.partition_appeared(Queue::BatchRt);
    let mut workers: JoinSet<Result<(), JobsDbError>> = JoinSet::new();
    let mut serving: HashMap<Id, String> = HashMap::new();
    let mut wanted = left_over;
    let mut warned: Option<Instant> = None;
    loop {
        let mut not_built = BTreeMap::new();
        for active in shared.jobs.active(Queue::BatchRt) {
            let (id, kind) = (&active.partition.destination_id, &active.partition.custom_val);
            let served = OBJECT_STORAGES.contains(&kind.as_str()) || record_files::TYPES.contains(&kind.as_str());
            if served || is_warehouse(kind) {
                wanted.insert(id.clone(), kind.clone());
            } else {
                *not_built.entry((id.clone(), kind.clone())).or_insert(0) += active.pending;
            }
        }
        if !not_built.is_empty() && warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            for ((destination, kind), jobs) in not_built {
                tracing::warn!(
                    destination,
                    kind,
                    jobs,
                    "destinations of this type are not served by this build; their jobs wait"
                );
            }
        }
        for (id, kind) in std::mem::take(&mut wanted) {
            if serving.values().any(|served| *served == id) {
                continue;
            }
            let (shared, stop, worker_id) = (Arc::clone(shared), stop.clone(), id.clone());
            let task = workers.spawn(async move {
                let recovery = shared.recovery(&worker_id).await?;
                if record_files::TYPES.contains(&kind.as_str()) {
                    return RecordWorker::new(&shared, &worker_id, &kind, recovery).run(stop).await;
                }
                Worker::new(&shared, &worker_id, &kind, recovery).run(stop).await
            });
            serving.insert(task.id(), id);
        }
        events::active_destinations(serving.len());
        tokio::select! {
            () = stop.cancelled() => break,
            () = appeared.notified() => {}
            () = tokio::time::sleep(SAFETY_TICK) => {}
            Some(ended) = workers.join_next_with_id() => match ended {
                Ok((id, result)) => {
                    serving.remove(&id);
                    result?;
                }
                Err(error) => {
                    let destination = serving.remove(&error.id()).unwrap_or_default();
                    tracing::error!(destination, %error, "the worker of a destination ended by an internal error and is started again");
                }
            },
        }
    }
    wait_for(workers).await
}

/// Waits for workers that were told to stop, within a bound.
async fn wait_for(mut workers: JoinSet<Result<(), JobsDbError>>) -> Result<(), BatchRouterError> {
    let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
    loop {
        match tokio::time::timeout_at(deadline, workers.join_next()).await {
            Ok(Some(Ok(result))) => result?,
            Ok(Some(Err(error))) => tracing::error!(%error, "a worker ended by an internal error"),
            Ok(None) => return Ok(()),
            Err(_) => {
                workers.shutdown().await;
                return Ok(());
            }
        }
    }
}

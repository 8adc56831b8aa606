//! Loading of warehouses: staging files become tables (warehouse.md 7 to 18, 22).
//!
//! In: records of staging files, which the batch router leaves in [`crate::jobsdb`]. Out: tables in warehouses, or
//! files of data lakes.
//!
//! Promises: every staging file belongs to one upload, and an upload ends in its warehouse or is given up where an
//! operator sees it; a node that dies goes on where it was; what is done twice leaves no row twice where the warehouse
//! can merge; a warehouse that is away for days gets everything afterwards; one that fails holds up no other.
//!
//! | file | what it knows |
//! |---|---|
//! | `schedule`, `make` | when a connection gets its next upload; making it |
//! | `pickup` | which upload is worked on next |
//! | `state`, `upload` | the steps of an upload and what happens in each |
//! | `generate`, `load_files` | staging files become load files |
//! | `schema`, `export` | tables get their columns and rows |
//! | `providers` | the warehouses |
//! | `failure` | when a failed upload is tried again and when it is given up |
//! | `records`, `ledger` | what is stored, and where |
//! | `places`, `connection` | storages, namespaces, configuration |
//! | `retention` | what becomes of old uploads |
//! | `api`, `validation` | what operators see and ask for |

pub mod api;
mod connection;
mod events;
mod export;
mod failure;
mod generate;
mod ledger;
mod load_files;
mod make;
mod pickup;
mod places;
mod providers;
mod records;
mod retention;
mod schedule;
mod schema;
mod state;
mod upload;
mod validation;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::jobsdb::{JobsDb, JobsDbError};
use crate::settings::Live;

pub use providers::QueryRows;

use failure::Failure;
use ledger::Ledger;
use pickup::Running;
use places::Surroundings;

/// Folder of files on their way, below the data directory.
const WORK_FOLDER: &str = "tmp/warehouse";

/// Uploads that do not end by themselves get this long after a stop.
const STOP_PATIENCE: Duration = Duration::from_secs(7);

/// What the warehouse works with.
pub struct Deps {
    /// The queues, and the records of staging files and uploads.
    pub jobs: JobsDb,
    /// The workspace configuration.
    pub config: Snapshots,
    /// The settings in force.
    pub settings: Live,
    /// The time.
    pub clock: Clock,
    /// The node's data directory.
    pub data_dir: PathBuf,
}

/// Why the warehouse ended without being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarehouseError {
    /// The job store failed.
    #[error("the warehouse cannot use the job store: {0}")]
    Jobs(#[from] JobsDbError),
    /// The work folder cannot be used.
    #[error("the warehouse cannot use its work folder {folder}: {error}; check owner and free space")]
    WorkFolder {
        /// The folder.
        folder: String,
        /// What the system said.
        error: String,
    },
}

/// The loading of warehouses: one for the life of a node, also while its task is started again.
#[derive(Clone)]
pub struct Warehouse(Arc<Shared>);

/// A source and a destination.
type Pair = (String, String);

struct Shared {
    ledger: Arc<Ledger>,
    config: Snapshots,
    settings: Live,
    clock: Clock,
    data_dir: PathBuf,
    /// Groups of staging files that become load files at a time, over all uploads.
    group_workers: Semaphore,
    /// Connections that somebody wants an upload for.
    triggers: Mutex<BTreeSet<Pair>>,
    /// Every look makes uploads.
    always: AtomicBool,
    /// When this process last made an upload for a connection.
    made_here: Mutex<HashMap<Pair, i64>>,
    /// Uploads that are worked on.
    working: Mutex<HashSet<u64>>,
    /// Something is to be looked at.
    wake: Notify,
    /// Where the next upload dies.
    #[cfg(test)]
    death: Mutex<Option<Death>>,
}

/// A moment in which a node can die.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The state is stored, and nothing else.
    In(state::State),
    /// Load files are stored, their records are not.
    AfterStoringFiles,
    /// A table has its rows, its record does not say so.
    AfterLoadingATable,
}

impl Warehouse {
    /// Reads what the last run left. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(deps: Deps) -> Result<Warehouse, JobsDbError> {
        let Deps { jobs, config, settings, clock, data_dir } = deps;
        let workers = settings.load().warehouse.load_file_workers;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Warehouse(Arc::new(Shared {
            ledger: Arc::new(Ledger::open(jobs, clock.clone())?),
            config,
            settings,
            clock,
            data_dir,
            group_workers: Semaphore::new(workers.min(processors)),
            triggers: Mutex::default(),
            always: AtomicBool::new(false),
            made_here: Mutex::default(),
            working: Mutex::default(),
            wake: Notify::new(),
            #[cfg(test)]
            death: Mutex::default(),
        })))
    }

    /// Makes uploads and works on them until the stop.
    ///
    /// # Errors
    /// The job store failed, or the work folder cannot be used.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), WarehouseError> {
        let shared = &self.0;
        shared.empty_work_folder().await?;
        shared.working.lock().clear();
        let staged = shared.ledger.jobs().staged();
        let mut running = Running::default();
        let mut archived: Option<Instant> = None;
        loop {
            let settings = shared.settings.load();
            if !settings.warehouse.is_degraded {
                make::due_uploads(shared, &running).await?;
                running.pick_up(shared, &stop);
                if archived.is_none_or(|at| at.elapsed() >= settings.warehouse.archive_every) {
                    archived = Some(Instant::now());
                    retention::pass(shared).await?;
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = staged.notified() => {}
                () = shared.wake.notified() => {}
                Some(ended) = running.ended(shared) => match ended {
                    Ok(()) => {}
                    Err(Failure::Jobs(error)) => return Err(error.into()),
                    Err(error) => tracing::error!(%error, "an upload ended by an internal error and is taken up again"),
                },
                () = tokio::time::sleep(settings.warehouse.main_loop_sleep) => {}
            }
        }
        running.wait(shared, STOP_PATIENCE).await;
        Ok(())
    }
}

#[cfg(test)]
impl Shared {
    /// Never returns if the node is to die in this moment.
    async fn may_die(&self, moment: Death) {
        let dies = {
            let mut death = self.death.lock();
            let dies = *death == Some(moment);
            if dies {
                *death = None;
            }
            dies
        };
        if dies {
            std::future::pending::<()>().await;
        }
    }
}

impl Shared {
    fn around(&self) -> Surroundings {
        let settings = self.settings.load();
        Surroundings {
            data_dir: self.data_dir.clone(),
            timeout: settings.warehouse.storage_timeout,
            region_hint: settings.batch_router.s3_region_hint.clone(),
            block_private_ips: settings.batch_router.block_private_ips,
        }
    }

    fn work_folder(&self) -> PathBuf {
        self.data_dir.join(WORK_FOLDER)
    }

    /// A text from outside, without secrets of the configuration.
    fn scrubbed(&self, text: &str) -> String {
        match self.config.borrow().as_ref() {
            Some(snapshot) => snapshot.scrubber.scrub(text).into_owned(),
            None => text.to_owned(),
        }
    }

    fn is_always(&self) -> bool {
        self.always.load(Ordering::Relaxed)
    }

    /// Whatever lies in the work folder belongs to a process that is gone.
    async fn empty_work_folder(&self) -> Result<(), WarehouseError> {
        let folder = self.work_folder();
        let emptied = match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => tokio::fs::create_dir_all(&folder).await,
        };
        emptied.map_err(|error| WarehouseError::WorkFolder {
            folder: folder.display().to_string(),
            error: error.to_string(),
        })
    }
}

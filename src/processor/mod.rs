//! The processor: events of the `gw` queue become jobs for their destinations (processor.md).
//!
//! In: gateway jobs, leased per source. Out, in one transaction per read: jobs of `rt` and `batch_rt`, copies
//! for the archive (`arc`), dead letters (`proc_error`), and the end of the gateway jobs.
//!
//! Promises: an event reaches every destination that it should, or its dead letter says why not; events of
//! one user reach one destination's queue in the order of arrival; a read whose batch cannot be stored is
//! repeated, never dropped; a failing source holds up no other; a job that makes processing panic is a dead
//! letter and holds up no other job. A read uses one snapshot of the workspace.
//!
//! The stages, in order: [`explode`], [`geo`], [`bots`], [`duplicates`] with the rule of [`dedup`], [`archive`], [`choose`]
//! with [`consent`], [`timefields`], [`tracking_plan`], `user_transform`, [`filter`], then the destination
//! transformation (`destination`).
//! [`pipeline`] calls them, [`handover`] gathers what comes out, [`worker`] reads and stores.
//! Stored numbers are integers where they are integral: the gateway writes them so (processor.md 19.1), and
//! slices keep them.

pub mod accounting;
pub mod archive;
pub mod bots;
pub mod choose;
pub mod consent;
pub mod dedup;
pub mod duplicates;
mod events;
pub mod explode;
pub mod filter;
pub mod geo;
mod geo_file;
mod handover;
mod live;
mod lookups;
mod metadata;
mod parameters;
pub mod pipeline;
mod planned;
mod route;
mod rows;
mod run_tally;
pub mod timefields;
pub mod tracking_plan;
pub mod transform_at;
pub mod transformers;
mod user_transform;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::jobsdb::{JobsDb, JobsDbError, Queue};
use crate::settings::Live;
use crate::telemetry::LiveTaps;
use crate::transform::Engine;
use crate::transformer::Remote;
use worker::Shared;

/// What the processor works with.
#[derive(Clone)]
pub struct Deps {
    /// The queues.
    pub jobs: JobsDb,
    /// The workspace.
    pub config: Snapshots,
    /// The settings in force.
    pub settings: Live,
    /// The time.
    pub clock: Clock,
    /// What passes, for who watches.
    pub live: LiveTaps,
}

/// Why events cannot be processed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// The owner of the configuration is gone before there was one.
    #[error("no workspace configuration will come; the node is stopping")]
    NoConfiguration,
    /// The store refused a read.
    #[error(transparent)]
    Store(#[from] JobsDbError),
    /// A gateway job is not as the gateway writes it.
    #[error(
        "gateway job {job_id} of source \"{source_id}\" has unreadable parameters: {problem}; drop the job to go on"
    )]
    Parameters {
        /// The job.
        job_id: u64,
        /// Its source.
        source_id: String,
        /// What is wrong.
        problem: String,
    },
    /// Too many events wait in memory for an external transformer.
    #[error("too many events wait for the external transformer; those of this source stay in their queue meanwhile")]
    Crowded,
    /// The thread that processed a read ended by a panic.
    #[error("processing ended unexpectedly: {0}")]
    Lost(String),
}

/// Processes events until stopped. Starts when the first workspace configuration is there; returns when
/// everything that was read is stored or given back.
///
/// # Errors
/// [`ProcessorError::NoConfiguration`] when the configuration's owner goes away before there is one.
pub async fn run(deps: Deps, stop: CancellationToken) -> Result<(), ProcessorError> {
    let mut config = deps.config.clone();
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        first = config.wait_for(Option::is_some) => {
            first.map_err(|_gone| ProcessorError::NoConfiguration)?;
        }
    }
    let appeared = deps.jobs.partition_appeared(Queue::Gw);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    // One more than there are cores, so that a read can wait for the store while others use the processor.
    let shared = Arc::new(Shared {
        engine: Engine::new(deps.settings.clone()),
        remote: Remote::new(deps.settings.clone()),
        deps,
        slots: Arc::new(Semaphore::new(cores + 1)),
        aside: Arc::new(Semaphore::new(worker::MOST_ASIDE_KIB)),
        in_flight: Arc::default(),
        lookups: Arc::default(),
    });
    // Ends with this function, also where it is dropped.
    let mut beside = JoinSet::new();
    beside.spawn(geo_file::follow(Arc::clone(&shared.lookups), shared.deps.settings.clone(), stop.clone()));
    beside.spawn(accounting::run_upkeep(shared.deps.clone(), stop.clone()));
    let mut workers = Workers::default();
    loop {
        workers.start_missing(&shared, &stop);
        let tick = shared.deps.settings.load().processor.pinger_sleep;
        tokio::select! {
            () = stop.cancelled() => break,
            () = appeared.notified() => {}
            () = tokio::time::sleep(tick) => {}
            Some(ended) = workers.tasks.join_next_with_id() => workers.forget(ended),
        }
    }
    while let Some(ended) = workers.tasks.join_next_with_id().await {
        workers.forget(ended);
    }
    while let Some(ended) = beside.join_next().await {
        if let Err(lost) = ended {
            events::worker_lost("", &lost.to_string());
        }
    }
    Ok(())
}

/// The running workers, one a source.
#[derive(Default)]
struct Workers {
    tasks: JoinSet<()>,
    source_of: HashMap<Id, String>,
}

impl Workers {
    fn start_missing(&mut self, shared: &Arc<Shared>, stop: &CancellationToken) {
        for active in shared.deps.jobs.active(Queue::Gw) {
            let source_id = &active.partition.source_id;
            if active.pending == 0 || self.source_of.values().any(|working| working == source_id) {
                continue;
            }
            let task = self.tasks.spawn(worker::work(Arc::clone(shared), source_id.clone(), stop.clone()));
            self.source_of.insert(task.id(), source_id.clone());
        }
        events::workers(self.source_of.len());
    }

    fn forget(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        match ended {
            Ok((id, ())) => {
                self.source_of.remove(&id);
            }
            Err(lost) => {
                let source_id = self.source_of.remove(&lost.id()).unwrap_or_default();
                events::worker_lost(&source_id, &lost.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests;

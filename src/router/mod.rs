//! Real-time delivery (router.md): jobs of the `rt` queue become requests to destination APIs.
//!
//! In: jobs, the workspace configuration, settings, orders of the operator. Out: requests, an outcome for every
//! job, dead letters of those that are given up, live figures on the [`Board`].
//!
//! Promises: at least once; in order per user and destination, a retry never overtakes; a destination that fails,
//! hangs or cannot be reached has its own pick-up loop, workers and memory and never slows another; an outage of
//! the network gives nothing up.
//!
//! Where things are: the rules are pure files with table tests ([`status_table`], [`backoff`], [`retry_limit`],
//! [`error_response`], [`drain`], [`barrier`], [`pickup`], [`throttle`], [`unreachable`], [`worker_index`],
//! [`worker_batch`], [`wire`], [`response`]); `partition` runs them for one destination with `walk`, `worker`, `joint`
//! (events that are transformed here) and `status_writer`; [`delivery`] talks HTTP.

mod attempt;
pub mod backoff;
pub mod barrier;
mod board;
pub mod delivery;
pub mod drain;
pub mod error_response;
mod event_origin;
mod events;
mod joint;
mod live;
pub mod outcome;
mod partition;
pub mod pickup;
mod plan;
pub mod response;
pub mod retry_limit;
mod shared;
pub mod status_table;
mod status_writer;
pub mod throttle;
pub mod unreachable;
mod walk;
pub mod wire;
pub mod worker;
pub mod worker_batch;
pub mod worker_index;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::jobsdb::{JobsDb, JobsDbError, Queue};
use crate::settings::Live;
use crate::telemetry::LiveTaps;

pub use board::{Activity, Board, DestinationState, LastError, Pause};
use drain::ClockWatch;
use shared::Common;

/// Safety tick of the search for destinations with jobs.
const TICK: Duration = Duration::from_secs(1);
/// Time between two readings of the operator's orders from the store.
const ORDERS: Duration = Duration::from_secs(10);

/// What the router works with.
pub struct Deps {
    /// The queues.
    pub jobs: JobsDb,
    /// The workspace configuration.
    pub config: Snapshots,
    /// The settings in force.
    pub settings: Live,
    /// The time.
    pub clock: Clock,
    /// What passes, for who watches.
    pub live: LiveTaps,
    /// Live figures and orders of the operator.
    pub board: Arc<Board>,
}

/// Why the router ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// The queue of a destination cannot be read or written any more.
    #[error("destination \"{destination}\": the store failed: {source}; restart the node")]
    Store {
        /// The destination.
        destination: String,
        /// What the store said.
        source: JobsDbError,
    },
    /// The orders of the operator cannot be read.
    #[error("pauses of destinations cannot be read: {0}; restart the node")]
    Orders(#[source] JobsDbError),
    /// A fault of the program.
    #[error("the loop of a destination ended unexpectedly: {0}; restart the node")]
    Fault(#[source] tokio::task::JoinError),
}

/// Delivers until `stop`; then takes nothing new, lets requests under way end, and stores their results.
///
/// # Errors
/// The store failed; what was under way is delivered again after a restart.
pub async fn run(deps: Deps, stop: CancellationToken) -> Result<(), RouterError> {
    let Deps { jobs, mut config, settings, clock, live, board } = deps;
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        known = config.wait_for(Option::is_some) => {
            if known.is_err() {
                return Ok(());
            }
        }
    }
    board.reload(&jobs, clock.now_ms()).await.map_err(RouterError::Orders)?;
    let common = Common {
        jobs: jobs.clone(),
        config: config.clone(),
        settings,
        clock: clock.clone(),
        live,
        board: Arc::clone(&board),
        courier: Arc::default(),
        ages_count: Arc::new(AtomicBool::new(true)),
        partitions: Arc::new(AtomicUsize::new(0)),
    };
    let stop_all = stop.child_token();
    let mut partitions = JoinSet::new();
    let mut started = HashSet::new();
    let mut watch = ClockWatch::new(clock.now_ms(), Instant::now());
    let mut last_orders = Instant::now();
    let mut result = Ok(());
    let appeared = jobs.partition_appeared(Queue::Rt);
    while !stop_all.is_cancelled() {
        common.ages_count.store(watch.observe(clock.now_ms(), Instant::now()), Ordering::Relaxed);
        start_missing(&common, &mut started, &mut partitions, &stop_all);
        if last_orders.elapsed() >= ORDERS {
            last_orders = Instant::now();
            if let Err(error) = board.reload(&jobs, clock.now_ms()).await {
                tracing::warn!(%error, "pauses of destinations could not be read again; the known ones hold");
            }
        }
        tokio::select! {
            () = stop_all.cancelled() => {}
            () = appeared.notified() => {}
            () = tokio::time::sleep(TICK) => {}
            Some(ended) = partitions.join_next(), if !partitions.is_empty() => {
                result = verdict_of(ended);
                stop_all.cancel();
            }
        }
    }
    while let Some(ended) = partitions.join_next().await {
        let ended = verdict_of(ended);
        result = result.and(ended);
    }
    result
}

fn verdict_of(ended: Result<Result<(), RouterError>, tokio::task::JoinError>) -> Result<(), RouterError> {
    ended.map_err(RouterError::Fault).and_then(|ended| ended)
}

/// Starts a loop for every destination that has jobs and none yet.
fn start_missing(
    common: &Common,
    started: &mut HashSet<String>,
    partitions: &mut JoinSet<Result<(), RouterError>>,
    stop: &CancellationToken,
) {
    for active in common.jobs.active(Queue::Rt) {
        let partition = &active.partition;
        if started.contains(&partition.destination_id) {
            continue;
        }
        started.insert(partition.destination_id.clone());
        partitions.spawn(partition::run(
            common.clone(),
            partition.destination_id.clone(),
            partition.custom_val.clone(),
            partition.workspace_id.clone(),
            stop.clone(),
        ));
    }
    common.partitions.store(started.len(), Ordering::Relaxed);
    events::active_partitions(started.len());
}

#[cfg(test)]
mod tests;

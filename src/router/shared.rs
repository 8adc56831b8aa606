//! What the loop, the workers and the writer of one destination have in common, and what all destinations share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::barrier::Barrier;
use super::board::Board;
use super::delivery::Courier;
use super::plan::Plan;
use super::throttle::{Gcra, Seen};
use super::unreachable::Reachability;
use super::worker::{Finished, Held, Worker};
use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::jobsdb::{JobsDb, Lease};
use crate::settings::Live;

/// Endpoint labels with a limiter of their own.
pub(super) const ENDPOINTS: usize = 200;

/// What all destinations share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) jobs: JobsDb,
    pub(super) config: Snapshots,
    pub(super) settings: Live,
    pub(super) clock: Clock,
    pub(super) board: Arc<Board>,
    pub(super) courier: Arc<Courier>,
    /// Whether ages of jobs can be trusted (the clock did not jump).
    pub(super) ages_count: Arc<AtomicBool>,
    /// Destinations that deliver now; they share the memory for payloads.
    pub(super) partitions: Arc<AtomicUsize>,
}

/// What the loop, the workers and the writer of one destination share.
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) jobs: JobsDb,
    pub(super) clock: Clock,
    pub(super) board: Arc<Board>,
    pub(super) courier: Arc<Courier>,
    pub(super) plan: ArcSwap<Plan>,
    pub(super) barrier: Mutex<Barrier>,
    pub(super) workers: Vec<Worker>,
    pub(super) reach: Mutex<Reachability>,
    pub(super) seen: Mutex<Seen>,
    pub(super) endpoint_limiters: Mutex<HashMap<String, Gcra>>,
    pub(super) results: mpsc::Sender<Finished>,
    pub(super) started: Instant,
    pub(super) stop: CancellationToken,
    pub(super) progress: Notify,
    pub(super) worker_idle: AtomicBool,
    pub(super) held_jobs: AtomicUsize,
    pub(super) held_bytes: AtomicU64,
}

impl Shared {
    /// Whether the router is stopping.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Time since the destination started, for rate limits.
    pub(super) fn elapsed_ns(&self) -> i128 {
        i128::try_from(self.started.elapsed().as_nanos()).unwrap_or(i128::MAX / 4)
    }

    /// Gives jobs back to their queue, unchanged.
    pub(super) fn give_back(&self, held: &[Held]) {
        let leases: Vec<Lease> = held.iter().map(|held| held.job.lease).collect();
        self.jobs.release(&leases);
        self.let_go(held);
    }

    /// The jobs are not held any more.
    pub(super) fn let_go(&self, held: &[Held]) {
        let bytes = held.iter().map(Held::bytes).sum();
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.held_jobs.fetch_sub(held.len(), Ordering::Release);
        self.progress.notify_one();
    }

    /// Wakes the loop, which decides whether it is worth a pass.
    pub(super) fn made_progress(&self, worker_is_idle: bool) {
        if worker_is_idle {
            self.worker_idle.store(true, Ordering::Relaxed);
        }
        self.progress.notify_one();
    }

    /// Jobs that wait for a worker.
    pub(super) fn waiting_for_workers(&self) -> usize {
        self.workers.iter().map(Worker::waiting).sum()
    }
}

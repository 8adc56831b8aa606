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
use super::worker::{Finished, Worker};
use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::jobsdb::JobsDb;
use crate::settings::Live;
use crate::telemetry::LiveTaps;

/// Endpoint labels with a limiter of their own.
pub(super) const ENDPOINTS: usize = 200;

/// What all destinations share.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) jobs: JobsDb,
    pub(super) config: Snapshots,
    pub(super) settings: Live,
    pub(super) clock: Clock,
    pub(super) live: LiveTaps,
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
    pub(super) live: LiveTaps,
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
    /// Ends what is under way, when a stop cannot wait any longer.
    pub(super) cut: CancellationToken,
    /// Workers start nothing more.
    pub(super) ending: AtomicBool,
    /// Wakes the loop.
    pub(super) progress: Notify,
    /// The loop waits for progress of workers and writer.
    pub(super) awaits_progress: AtomicBool,
    /// A worker has run out of jobs.
    pub(super) worker_idle: AtomicBool,
    /// Results were stored.
    pub(super) results_stored: AtomicBool,
    /// Jobs went back to the queue, which tells nobody of that.
    pub(super) given_back: AtomicBool,
    /// Jobs that wait for a worker.
    pub(super) waiting: AtomicUsize,
    /// The loop wants to know when so few jobs wait.
    pub(super) refill_mark: AtomicUsize,
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

    /// Whether workers are to start nothing more. Cheaper than asking the token for every job.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// A job is not held any more.
    pub(super) fn let_go(&self, bytes: u64, gave_back: bool) {
        self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let was_last = self.held_jobs.fetch_sub(1, Ordering::AcqRel) == 1;
        if gave_back {
            self.given_back.store(true, Ordering::SeqCst);
        }
        if gave_back || was_last && self.is_ending() {
            self.progress.notify_one();
        }
    }

    /// A worker took a job from its queue.
    pub(super) fn left_queue(&self) {
        let left = self.waiting.fetch_sub(1, Ordering::SeqCst).saturating_sub(1);
        if left == self.refill_mark.load(Ordering::SeqCst) {
            self.tell_of_progress();
        }
    }

    /// A worker has no jobs left.
    pub(super) fn worker_went_idle(&self) {
        self.worker_idle.store(true, Ordering::SeqCst);
        self.tell_of_progress();
    }

    /// A transaction of results is stored.
    pub(super) fn stored_results(&self) {
        self.results_stored.store(true, Ordering::SeqCst);
        self.tell_of_progress();
    }

    /// Wakes the loop if it waits for that.
    fn tell_of_progress(&self) {
        if self.awaits_progress.load(Ordering::SeqCst) {
            self.progress.notify_one();
        }
    }

    /// Ends everything under way; the jobs go back to their queue.
    pub(super) fn cut_off(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.cut.cancel();
        for worker in &self.workers {
            worker.clear();
        }
    }
}

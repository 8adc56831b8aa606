//! The workers of one destination: each a queue of jobs that run one after another (router.md 3.4, 4.3).
//!
//! A worker is a task only while it has jobs; idle ones cost nothing. Jobs of one order key go to one worker, so
//! they run in job id order. Every job ends in a [`Finished`] for the status writer, or goes back to its queue.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::attempt::{attempt, refusal};
use super::barrier::Ended;
use super::drain::{DRAIN_CODE, Reason};
use super::error_response::ErrorAt;
use super::events;
use super::joint;
use super::outcome::{Attempted, Before, JobFacts, Judged, judge, status_after_attempt, status_after_drain};
use super::pickup::{Step, next_step};
use super::plan::Plan;
use super::shared::Shared;
use super::status_table::Verdict;
use crate::jobsdb::{Job, Status};
use crate::settings::RouterTypeSettings;

/// Measurements that a worker's pace is averaged over.
const PACE_SAMPLES: usize = 20;

/// A job that a worker holds, behind a pointer: it goes through queues, futures and sorts.
pub(super) struct Held(Box<HeldJob>);

/// The job itself. Whoever drops it without a decision gives it back to its queue, unchanged.
pub(super) struct HeldJob {
    pub(super) job: Job,
    pub(super) facts: JobFacts,
    pub(super) order_key: String,
    /// The barrier knows it and is told how it ends.
    pub(super) ordered: bool,
    pub(super) aborts: Option<Reason>,
    pub(super) is_probe: bool,
    shared: Arc<Shared>,
    decided: bool,
}

/// What is known of a job before it is decided whether it starts.
pub(super) struct Prepared {
    pub(super) job: Job,
    pub(super) facts: JobFacts,
    pub(super) order_key: String,
    pub(super) aborts: Option<Reason>,
}

impl Held {
    /// Takes responsibility for a leased job.
    pub(super) fn new(shared: &Arc<Shared>, prepared: Prepared, ordered: bool, is_probe: bool) -> Held {
        let Prepared { job, facts, order_key, aborts } = prepared;
        let shared = Arc::clone(shared);
        let held = HeldJob { job, facts, order_key, ordered, aborts, is_probe, shared, decided: false };
        held.shared.held_bytes.fetch_add(held.bytes(), Ordering::Relaxed);
        held.shared.held_jobs.fetch_add(1, Ordering::AcqRel);
        Held(Box::new(held))
    }
}

impl Deref for Held {
    type Target = HeldJob;

    fn deref(&self) -> &HeldJob {
        &self.0
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut HeldJob {
        &mut self.0
    }
}

impl HeldJob {
    /// Says that the outcome of the job is stored, so that its lease has ended.
    pub(super) fn decided(&mut self) {
        self.decided = true;
    }

    /// Whether the job is to be transformed here, with others if there are any.
    fn is_joinable(&self) -> bool {
        self.facts.untransformed && self.aborts.is_none()
    }

    /// Payload bytes that the job keeps in memory.
    fn bytes(&self) -> u64 {
        u64::try_from(self.job.payload.len() + self.job.parameters.len()).unwrap_or(u64::MAX)
    }
}

impl Drop for HeldJob {
    fn drop(&mut self) {
        let shared = &self.shared;
        if !self.decided {
            shared.probe_dropped(self.is_probe);
            if self.ordered {
                shared.barrier.lock().ended(&self.order_key, self.job.id, Ended::Waiting);
            }
            shared.jobs.release(&[self.job.lease]);
        }
        shared.let_go(self.bytes(), !self.decided);
    }
}

/// What stands at the front of a worker's queue.
enum Popped {
    Joinable(Held),
    Other,
    Empty,
}

/// How a job ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) judged: Judged,
    /// The status to store; succeeded and filtered jobs leave none.
    pub(super) status: Option<Status>,
    pub(super) error_text: String,
    pub(super) error_at: Option<ErrorAt>,
    pub(super) code: i32,
    pub(super) at_ms: i64,
}

/// A job and how it ended, on its way to the store.
pub(super) struct Finished {
    pub(super) held: Held,
    pub(super) end: End,
}

#[derive(Default)]
struct WorkerQueue {
    jobs: VecDeque<Held>,
    is_running: bool,
    pace: VecDeque<f64>,
}

/// One worker.
#[derive(Default)]
pub(super) struct Worker {
    queue: Mutex<WorkerQueue>,
    /// Tells a worker that gathers jobs of a new one.
    more: Notify,
}

impl Worker {
    /// Gives back every job that waits for the worker.
    pub(super) fn clear(&self) {
        let jobs = std::mem::take(&mut self.queue.lock().jobs);
        drop(jobs);
    }

    /// Jobs that may still be given to the worker.
    pub(super) fn free_slots(&self, settings: &RouterTypeSettings, page: usize) -> usize {
        let queue = self.queue.lock();
        let pace = queue.pace.iter().sum::<f64>() / queue.pace.len().max(1) as f64;
        buffer_size(settings, pace, page).saturating_sub(queue.jobs.len())
    }

    /// Puts a job at the end of the queue. Whether a task must be started for it.
    fn push(&self, held: Held) -> bool {
        let mut queue = self.queue.lock();
        queue.jobs.push_back(held);
        let was_running = std::mem::replace(&mut queue.is_running, true);
        drop(queue);
        if was_running {
            self.more.notify_one();
        }
        !was_running
    }

    /// The next job, and whether it was the last one; none ends the task.
    fn pop(&self) -> Option<(Held, bool)> {
        let mut queue = self.queue.lock();
        let Some(held) = queue.jobs.pop_front() else {
            queue.is_running = false;
            return None;
        };
        Some((held, queue.jobs.is_empty()))
    }

    /// The next job if it may be transformed together with others.
    fn pop_joinable(&self) -> Popped {
        let mut queue = self.queue.lock();
        match queue.jobs.front() {
            None => Popped::Empty,
            Some(held) if !held.is_joinable() => Popped::Other,
            Some(_) => queue.jobs.pop_front().map_or(Popped::Empty, Popped::Joinable),
        }
    }

    /// Whether no job waits for the worker.
    fn is_empty(&self) -> bool {
        self.queue.lock().jobs.is_empty()
    }

    fn note_pace(&self, took: Duration) {
        let mut queue = self.queue.lock();
        if queue.pace.len() == PACE_SAMPLES {
            queue.pace.pop_front();
        }
        queue.pace.push_back(1.0 / took.as_secs_f64().max(1e-6));
    }
}

/// How many jobs may wait for a worker that finishes `pace` jobs a second; slow ones hold few, because what they
/// hold is repeated after a crash.
pub fn buffer_size(settings: &RouterTypeSettings, pace: f64, page: usize) -> usize {
    let size = if !settings.dynamic_buffer {
        settings.jobs_to_batch_in_a_worker.max(settings.jobs_per_worker)
    } else if pace < 1.0 {
        1
    } else {
        let share = page as f64 / settings.workers.max(1) as f64;
        let wanted = pace.max(share).max(settings.jobs_to_batch_in_a_worker as f64) * settings.dynamic_buffer_factor;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and bounded right after")]
        let wanted = wanted.max(settings.dynamic_buffer_minimum.max(1) as f64).min(1e9).ceil() as usize;
        wanted
    };
    size.clamp(1, settings.max_jobs_per_worker.max(1))
}

/// Gives a job to a worker and starts its task if it has none.
pub(super) fn assign(shared: &Arc<Shared>, worker: usize, held: Held) {
    shared.waiting.fetch_add(1, Ordering::SeqCst);
    let needs_task = shared.workers.get(worker).is_some_and(|worker| worker.push(held));
    if needs_task {
        let shared = Arc::clone(shared);
        tokio::spawn(async move { shared.cut.run_until_cancelled(work(&shared, worker)).await });
    }
}

async fn work(shared: &Arc<Shared>, index: usize) {
    let Some(worker) = shared.workers.get(index) else {
        return;
    };
    while let Some((held, is_last)) = worker.pop() {
        shared.left_queue();
        let plan = shared.plan.load_full();
        if held.is_joinable() && plan.transformation.is_some() {
            let batch = gather(shared, worker, &plan, held).await;
            let started = Instant::now();
            let jobs = batch.len();
            let ended = Box::pin(joint::process(shared, &plan, batch)).await;
            worker.note_pace(started.elapsed() / u32::try_from(jobs.max(1)).unwrap_or(u32::MAX));
            for finished in ended {
                hand_over(shared, finished).await;
            }
            if worker.is_empty() {
                shared.worker_went_idle();
            }
            continue;
        }
        let started = Instant::now();
        match AssertUnwindSafe(process(shared, &plan, &held)).catch_unwind().await {
            Ok(Some(end)) => {
                worker.note_pace(started.elapsed());
                hand_over(shared, Finished { held, end }).await;
            }
            Ok(None) => drop(held),
            Err(_) => {
                events::worker_fault(&plan.labels, held.job.id);
                rest(shared, &plan, held);
            }
        }
        if is_last {
            shared.worker_went_idle();
        }
    }
}

/// Gives a result to the writer, which lives as long as anything is held. A closed channel means that the node is
/// going down; the job goes back to its queue then.
async fn hand_over(shared: &Shared, finished: Finished) {
    if shared.results.send(finished).await.is_err() {
        tracing::trace!(destination = %shared.id, "a result came after the end of its writer");
    }
}

/// Jobs that are transformed together: what stands behind the first one, and, where events share requests, what
/// comes within a while (router.md 5.2). Nobody waits for others to find out whether the destination is there.
async fn gather(shared: &Shared, worker: &Worker, plan: &Plan, first: Held) -> Vec<Held> {
    let most = plan.settings.jobs_to_batch_in_a_worker;
    let joins = plan.transformation.as_ref().is_some_and(|transformation| transformation.joins_events());
    let waits = joins && !first.is_probe;
    let deadline = tokio::time::Instant::now() + plan.settings.jobs_batch_timeout;
    let mut batch = vec![first];
    while batch.len() < most {
        match worker.pop_joinable() {
            Popped::Joinable(held) => {
                batch.push(held);
                shared.left_queue();
                continue;
            }
            Popped::Other => break,
            Popped::Empty => {}
        }
        if !waits || shared.is_ending() {
            break;
        }
        tokio::select! {
            () = shared.stop.cancelled() => break,
            () = tokio::time::sleep_until(deadline) => break,
            () = worker.more.notified() => {}
        }
    }
    batch
}

/// Keeps a job that met a fault of the program as long as a first failure would, so that it is not met again and
/// again without rest; later jobs of its key wait.
fn rest(shared: &Shared, plan: &Plan, held: Held) {
    if held.ordered {
        shared.barrier.lock().failed(&held.order_key, held.job.id, shared.clock.now_ms());
    }
    let (stop, pause) = (shared.stop.clone(), plan.settings.min_retry_backoff);
    tokio::spawn(async move {
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        drop(held);
    });
}

/// Handles one job; `None` when it goes back to its queue.
async fn process(shared: &Shared, plan: &Plan, held: &Held) -> Option<End> {
    if shared.is_ending() || shared.must_hold_back(held) {
        return None;
    }
    let step = {
        let mut barrier = shared.barrier.lock();
        next_step(&mut barrier, &held.order_key, held.job.id, held.ordered, held.aborts.is_some())
    };
    match step {
        Step::Wait => None,
        Step::GiveUp => Some(give_up(shared, held)),
        Step::Attempt => {
            let attempted = AssertUnwindSafe(attempt(shared, plan, held)).catch_unwind().await;
            let attempted = attempted.unwrap_or_else(|_| {
                events::worker_fault(&plan.labels, held.job.id);
                shared.probe_dropped(held.is_probe);
                refusal(500, "internal error", ErrorAt::Delivery)
            });
            Some(finish(shared, plan, held, attempted))
        }
    }
}

pub(super) fn give_up(shared: &Shared, held: &Held) -> End {
    shared.probe_dropped(held.is_probe);
    let at_ms = shared.clock.now_ms();
    let reason = held.aborts.unwrap_or(Reason::RetryLimit);
    let status = status_after_drain(&Before::of(&held.job), reason, at_ms);
    End {
        judged: Judged { verdict: Verdict::Aborted, code: DRAIN_CODE.to_string(), downgraded: false },
        status: Some(status),
        error_text: reason.text().to_owned(),
        error_at: None,
        code: DRAIN_CODE,
        at_ms,
    }
}

pub(super) fn finish(shared: &Shared, plan: &Plan, held: &Held, mut attempted: Attempted) -> End {
    // A destination may repeat what it was sent, and what is stored here is shown.
    if let Cow::Owned(scrubbed) = plan.scrubber.scrub(&attempted.text) {
        attempted.text = scrubbed;
    }
    let now = shared.clock.now();
    let at_ms = now.as_millisecond();
    let judged = judge(attempted.code, plan.keeps_warnings);
    if judged.verdict == Verdict::Failed && held.ordered {
        // Before it is stored, so that no later job of the key starts meanwhile.
        shared.barrier.lock().failed(&held.order_key, held.job.id, at_ms);
    }
    let status = matches!(judged.verdict, Verdict::Failed | Verdict::Aborted).then(|| {
        let before = Before::of(&held.job);
        status_after_attempt(&attempted, &judged, &before, &held.facts.job_run_id, &plan.settings, now)
    });
    let Attempted { text: error_text, error_at, code, .. } = attempted;
    End { judged, status, error_text, error_at, code, at_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn slow_workers_hold_few_jobs() {
        let settings = Settings::defaults().router.of_type("WEBHOOK");
        for (pace, page, expected) in [
            (0.0, 10_000, 1),
            (0.9, 10_000, 1),
            (1.0, 64, 500),
            (400.0, 64, 800),
            (1.0, 64_000, 2_000),
            (1e7, 64, 10_000),
        ] {
            assert_eq!(buffer_size(&settings, pace, page), expected, "{pace} {page}");
        }
        let fixed = RouterTypeSettings { dynamic_buffer: false, ..settings };
        assert_eq!(buffer_size(&fixed, 0.1, 64), 1_000);
    }
}

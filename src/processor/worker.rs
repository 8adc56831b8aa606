//! One worker per source with pending events: read, process, store, again (processor.md 2.2).
//!
//! While one batch is being stored the next is read and processed; it is stored only after the first, so that
//! events of one user stay in order. When a batch cannot be stored, it and the one behind it are given back
//! and read again. A read takes one of a few slots and keeps it until its batch is stored, which bounds the
//! memory of all workers together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::dedup::InFlight;
use super::duplicates::Duplicates;
use super::events::{self, Counts};
use super::handover::{Handover, MessageIds};
use super::pipeline::Pipeline;
use super::{Deps, ProcessorError};
use crate::backend_config::Snapshot;
use crate::event::time::Moment;
use crate::jobsdb::{EncodedJob, Gate, JobsDb, JobsDbError, Lease, Limits, NewJob, Page, Queue, Select};
use crate::settings::Settings;

/// First pause after a failure; it doubles up to `Processor.maxLoopSleep`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What all workers share.
pub(super) struct Shared {
    pub(super) deps: Deps,
    /// How many reads may be in memory at once.
    pub(super) slots: Arc<Semaphore>,
    /// Message ids of events on their way.
    pub(super) in_flight: Arc<InFlight<u128>>,
}

/// A processed read that waits to be stored.
struct Batch {
    handover: Handover,
    counts: Counts,
    _slot: OwnedSemaphorePermit,
}

/// What a look at the queue gave.
enum Look {
    Batch(Box<Batch>),
    Empty,
    /// The disk guard does not let events through.
    Closed,
}

/// Works for one source until it has had nothing to do for a while, or until stopped.
pub(super) async fn work(shared: Arc<Shared>, source_id: String, stop: CancellationToken) {
    let worker = Worker { select: Select::source(&source_id), shared, source_id, stop };
    worker.run().await;
}

struct Worker {
    shared: Arc<Shared>,
    source_id: String,
    select: Select,
    stop: CancellationToken,
}

impl Worker {
    async fn run(&self) {
        // Asked for before the first look, so that nothing falls between look and wait.
        let waker = self.jobs().waker(Queue::Gw, &self.select);
        let mut waiting: Option<Box<Batch>> = None;
        let mut pause = FIRST_PAUSE;
        let mut was_idle = false;
        loop {
            let (stored, look) = tokio::join!(self.store(waiting.take()), self.look());
            let is_well = match (stored, look) {
                (Ok(()), Ok(Look::Batch(batch))) => {
                    waiting = Some(batch);
                    was_idle = false;
                    true
                }
                (Ok(()), Ok(Look::Empty)) => {
                    if self.stop.is_cancelled() || was_idle {
                        return;
                    }
                    was_idle = !self.wait_for_jobs(&waker).await;
                    true
                }
                (Ok(()), Ok(Look::Closed)) => {
                    self.wait_for_gate().await;
                    true
                }
                (Ok(()), Err(error)) => {
                    events::read_failed(&self.source_id, &error);
                    false
                }
                (Err(error), look) => {
                    events::store_failed(&self.source_id, &error);
                    // Behind the failed batch: it must not overtake.
                    if let Ok(Look::Batch(batch)) = look {
                        self.jobs().release(&batch.handover.leases());
                    }
                    false
                }
            };
            if is_well {
                pause = FIRST_PAUSE;
            } else {
                if self.stop.is_cancelled() {
                    return;
                }
                self.rest(pause).await;
                pause = (pause * 2).min(self.settings().processor.max_loop_sleep);
            }
        }
    }

    fn jobs(&self) -> &JobsDb {
        &self.shared.deps.jobs
    }

    fn settings(&self) -> Arc<Settings> {
        self.shared.deps.settings.load()
    }

    /// Stores a batch, part by part. What was not stored is given back.
    async fn store(&self, batch: Option<Box<Batch>>) -> Result<(), JobsDbError> {
        let Some(batch) = batch else { return Ok(()) };
        let Batch { handover, counts, _slot } = *batch;
        let started = Instant::now();
        let mut parts = handover.into_parts();
        while let Some(mut part) = parts.next() {
            let tx = part.take_tx();
            // Without a time limit of its own: the verdict comes from the writer, and until it is there the
            // events may be stored.
            if let Err(error) = self.jobs().commit(tx).await {
                let leases: Vec<Lease> = std::iter::once(part).chain(parts).flat_map(|part| part.leases).collect();
                self.jobs().release(&leases);
                return Err(error);
            }
        }
        events::stored(&self.source_id, started.elapsed());
        counts.publish(&self.source_id, self.shared.deps.clock.now_ms());
        Ok(())
    }

    /// Reads and processes the next jobs of the source.
    async fn look(&self) -> Result<Look, ProcessorError> {
        let slot = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(Look::Empty),
            slot = Arc::clone(&self.shared.slots).acquire_owned() => match slot {
                Ok(slot) => slot,
                Err(_closed) => return Ok(Look::Empty),
            },
        };
        if !self.jobs().gate().borrow().lets_process() {
            return Ok(Look::Closed);
        }
        let settings = self.settings();
        let Some(snapshot) = self.shared.deps.config.borrow().clone() else { return Ok(Look::Empty) };
        let most = settings.processor.max_loop_process_events;
        let limits = Limits { jobs: most, events: most as u64, bytes: settings.processor.payload_limit };
        let started = Instant::now();
        let page = self.jobs().fetch_async(Queue::Gw, &self.select, limits).await?;
        events::read(&self.source_id, page.jobs.len(), started.elapsed());
        if page.jobs.is_empty() {
            return Ok(Look::Empty);
        }
        let leases: Vec<Lease> = page.jobs.iter().map(|job| job.lease).collect();
        let work = Processing {
            jobs: self.jobs().clone(),
            in_flight: Arc::clone(&self.shared.in_flight),
            snapshot,
            settings,
            now: self.shared.deps.clock.now(),
        };
        let processed = match tokio::task::spawn_blocking(move || work.process(&page)).await {
            Ok(processed) => processed,
            Err(lost) => Err(ProcessorError::Lost(lost.to_string())),
        };
        match processed {
            Ok((handover, counts)) => Ok(Look::Batch(Box::new(Batch { handover, counts, _slot: slot }))),
            Err(error) => {
                self.jobs().release(&leases);
                Err(error)
            }
        }
    }

    /// Waits until there may be jobs; `false` when the time ran out.
    async fn wait_for_jobs(&self, waker: &tokio::sync::Notify) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => true,
            () = waker.notified() => true,
            () = tokio::time::sleep(self.settings().processor.max_loop_sleep) => false,
        }
    }

    async fn wait_for_gate(&self) {
        let mut gate = self.jobs().gate();
        tokio::select! {
            () = self.stop.cancelled() => {}
            // A closed channel means that the store is gone; the next look says so.
            _changed = gate.wait_for(Gate::lets_process) => {}
        }
    }

    async fn rest(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What the thread that processes a page works with.
struct Processing {
    jobs: JobsDb,
    in_flight: Arc<InFlight<u128>>,
    snapshot: Arc<Snapshot>,
    settings: Arc<Settings>,
    now: Timestamp,
}

impl Processing {
    /// Sends a page through the pipeline and gathers what comes out. Runs on a thread that may block.
    fn process(&self, page: &Page) -> Result<(Handover, Counts), ProcessorError> {
        let dedup = &self.settings.processor.dedup;
        let duplicates = dedup.enabled.then(|| Duplicates::new(&self.jobs, &self.in_flight, dedup.window));
        let window_ms = i64::try_from(dedup.window.as_millis()).unwrap_or(i64::MAX);
        let expiry_ms = self.now.as_millisecond().saturating_add(window_ms);

        let now = Moment::utc(self.now).to_text();
        let mut pipeline = Pipeline::new(&self.snapshot, &self.settings, now, duplicates);
        let mut handover = Handover::new(self.settings.storage.max_tx_bytes);
        let mut outputs: Vec<(Queue, EncodedJob)> = Vec::new();
        for job in &page.jobs {
            let mut encode = |queue: Queue, new: &NewJob<'_>| outputs.push((queue, self.jobs.encode(queue, new)));
            pipeline.run(job, &mut encode)?;
            let ids = pipeline.duplicates.as_mut().map(|found| MessageIds { claims: found.take_claims(), expiry_ms });
            let bytes = handover.add(job.lease, &mut outputs, ids);
            pipeline.counts.stored_bytes(bytes);
        }
        Ok((handover, pipeline.counts))
    }
}

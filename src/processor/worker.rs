//! One worker per source with pending events: read, process, store, again (processor.md 2.2).
//!
//! While one batch is being stored the next is read and processed; it is stored only after the first, so that
//! events of one user stay in order. When a batch cannot be stored, it and the one behind it are given back
//! and read again. A read takes one of a few slots and keeps it until its batch is stored, which bounds the
//! memory of all workers together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::dedup::InFlight;
use super::duplicates::Duplicates;
use super::events::{self, Counts, Meters};
use super::handover::{Handover, MessageIds};
use super::live;
use super::lookups::Lookups;
use super::pipeline::{Pipeline, Sources};
use super::transformers;
use super::user_transform::{Chunk, Later};
use super::{Deps, ProcessorError, accounting};
use crate::backend_config::Snapshot;
use crate::clock::Clock;
use crate::event::time::Moment;
use crate::jobsdb::{EncodedJob, Gate, Job, JobsDb, JobsDbError, Lease, Limits, NewJob, Queue, Select};
use crate::settings::Settings;
use crate::transform::{Engine, Reply};
use crate::transformer::Remote;

/// A page ends when what came of it is larger than this; its other jobs are read again, next.
const MOST_OUTPUT_BYTES: u64 = 32 << 20;
/// While few jobs come at a time, reads begin at least this far apart: a read costs the same for one job and for
/// fifty, and nobody notices the wait.
const BETWEEN_SMALL_READS: Duration = Duration::from_millis(2);
/// Reads of this many jobs are small. A single job is never kept waiting.
const SMALL_READ: std::ops::Range<usize> = 2..128;
/// Reads that only wait for their transformations are set aside, so that they do not hold a slot, up to this many KiB
/// of events in all.
pub(super) const MOST_ASIDE_KIB: usize = 64 << 10;
/// First pause after a failure; it doubles up to `Processor.maxLoopSleep`.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What all workers share.
pub(super) struct Shared {
    pub(super) deps: Deps,
    /// How many reads may be in memory at once.
    pub(super) slots: Arc<Semaphore>,
    /// Room for reads that are set aside, in KiB.
    pub(super) aside: Arc<Semaphore>,
    /// Runs user transformations.
    pub(super) engine: Engine,
    /// Asks the external transformer.
    pub(super) remote: Remote,
    /// Message ids of events on their way.
    pub(super) in_flight: Arc<InFlight<u128>>,
    /// What events are held against.
    pub(super) lookups: Arc<Lookups>,
}

/// A processed read that waits to be stored.
struct Batch {
    handover: Handover,
    counts: Counts,
    /// Jobs that were read.
    jobs: usize,
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
    let select = Select::source(&source_id);
    let meters = Arc::new(Meters::new(&source_id));
    let worker = Worker { select, meters, known: Arc::default(), shared, source_id, stop };
    worker.run().await;
}

struct Worker {
    shared: Arc<Shared>,
    source_id: String,
    select: Select,
    meters: Arc<Meters>,
    known: Arc<Mutex<KnownSources>>,
    stop: CancellationToken,
}

impl Worker {
    async fn run(&self) {
        // Asked for before the first look, so that nothing falls between look and wait.
        let waker = self.jobs().waker(Queue::Gw, &self.select);
        let mut waiting: Option<Box<Batch>> = None;
        let mut pause = FIRST_PAUSE;
        let mut was_idle = false;
        let mut was_small = false;
        let mut began = Instant::now();
        loop {
            // Before the next read only: what was read is stored at once.
            let wait = if was_small { BETWEEN_SMALL_READS.saturating_sub(began.elapsed()) } else { Duration::ZERO };
            let (stored, look) = tokio::join!(self.store(waiting.take()), async {
                if !wait.is_zero() {
                    self.rest(wait).await;
                }
                began = Instant::now();
                self.look().await
            });
            was_small = matches!(&look, Ok(Look::Batch(batch)) if SMALL_READ.contains(&batch.jobs));
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
        let Batch { handover, counts, jobs: _, _slot } = *batch;
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
        self.meters.stored(started.elapsed());
        counts.publish(&self.meters, self.shared.deps.clock.now_ms());
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
        let read = Read {
            jobs: self.jobs().clone(),
            select: self.select.clone(),
            limits,
            in_flight: Arc::clone(&self.shared.in_flight),
            lookups: Arc::clone(&self.shared.lookups),
            snapshot,
            settings,
            clock: self.shared.deps.clock.clone(),
            meters: Arc::clone(&self.meters),
            known: Arc::clone(&self.known),
            shared: Arc::clone(&self.shared),
            stop: self.stop.clone(),
        };
        // One hop to a thread that may block, for the read and for what comes of it.
        let processed = match tokio::task::spawn_blocking(move || read.perform(slot)).await {
            Ok(processed) => processed?,
            Err(lost) => return Err(ProcessorError::Lost(lost.to_string())),
        };
        Ok(match processed {
            Some(batch) => Look::Batch(Box::new(batch)),
            None => Look::Empty,
        })
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

/// What a worker knows of sources from earlier reads, as long as snapshot and settings are the same.
#[derive(Default)]
struct KnownSources {
    of: Option<(Arc<Snapshot>, Arc<Settings>)>,
    sources: Sources,
}

impl KnownSources {
    /// Lends the sources to a read.
    fn take(&mut self, snapshot: &Arc<Snapshot>, settings: &Arc<Settings>) -> Sources {
        let is_same =
            self.of.as_ref().is_some_and(|(of, with)| Arc::ptr_eq(of, snapshot) && Arc::ptr_eq(with, settings));
        if !is_same {
            self.of = Some((Arc::clone(snapshot), Arc::clone(settings)));
            self.sources.clear();
        }
        std::mem::take(&mut self.sources)
    }
}

/// Leases that are given back when this is dropped, also by a panic.
struct Leased<'a> {
    jobs: &'a JobsDb,
    leases: VecDeque<Lease>,
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        self.jobs.release(self.leases.make_contiguous());
    }
}

/// What the thread that reads and processes works with.
struct Read {
    jobs: JobsDb,
    select: Select,
    limits: Limits,
    in_flight: Arc<InFlight<u128>>,
    lookups: Arc<Lookups>,
    snapshot: Arc<Snapshot>,
    settings: Arc<Settings>,
    clock: Clock,
    meters: Arc<Meters>,
    known: Arc<Mutex<KnownSources>>,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// A gateway job that is handed over when the transformations are done.
struct Waits<'p> {
    job: &'p Job,
    outputs: Vec<(Queue, EncodedJob)>,
    ids: Option<MessageIds>,
}

impl Read {
    /// Reads a page, sends it through the pipeline and gathers what comes out; `None` when there is nothing.
    /// Runs on a thread that may block.
    fn perform(&self, mut slot: OwnedSemaphorePermit) -> Result<Option<Batch>, ProcessorError> {
        let started = Instant::now();
        let page = self.jobs.fetch(Queue::Gw, &self.select, self.limits)?;
        self.meters.read(page.jobs.len(), started.elapsed());
        if page.jobs.is_empty() {
            return Ok(None);
        }
        // In the order of the jobs: what is not handed over goes back.
        let mut leased = Leased { jobs: &self.jobs, leases: page.jobs.iter().map(|job| job.lease).collect() };
        let dedup = &self.settings.processor.dedup;
        let duplicates = dedup.enabled.then(|| Duplicates::new(&self.jobs, &self.in_flight, dedup.window));
        let now = self.clock.now();
        let window_ms = i64::try_from(dedup.window.as_millis()).unwrap_or(i64::MAX);
        let expiry_ms = now.as_millisecond().saturating_add(window_ms);

        let sources = self.known.lock().take(&self.snapshot, &self.settings);
        let minute = accounting::minute_of(now.as_millisecond());
        let now = Moment::utc(now).to_text();
        let mut pipeline = Pipeline::new(&self.snapshot, &self.settings, now, duplicates)
            .with_sources(sources)
            .with_cancelled_runs(self.jobs.cancelled_runs())
            .with_lookups(&self.lookups);
        let mut handover = Handover::new(self.settings.storage.max_tx_bytes);
        let mut outputs: Vec<(Queue, EncodedJob)> = Vec::new();
        let mut output_bytes = 0;
        let mut handed_over = 0;
        let mut waiting: Vec<Waits<'_>> = Vec::new();
        pipeline.look_up(&page.jobs)?;
        for job in &page.jobs {
            let encode = |outputs: &mut Vec<(Queue, EncodedJob)>, queue: Queue, new: &NewJob<'_>| {
                outputs.push((queue, self.jobs.encode(queue, new)));
                self.show(queue, new);
            };
            pipeline.run_guarded(job, &mut outputs, encode, Vec::clear)?;
            let ids = pipeline.duplicates.as_mut().map(|found| MessageIds { claims: found.take_claims(), expiry_ms });
            handed_over += 1;
            if pipeline.gathered.is_empty() {
                let bytes = handover.add(job.lease, &mut outputs, ids, pipeline.take_run());
                pipeline.counts.stored_bytes(bytes);
                output_bytes += bytes;
            } else {
                // Behind a job that waits for its transformation, so that jobs end in their order.
                output_bytes += outputs.iter().map(|(_, output)| output.stored_bytes() as u64).sum::<u64>();
                pipeline.hold_run(job.id);
                waiting.push(Waits { job, outputs: std::mem::take(&mut outputs), ids });
            }
            if output_bytes + pipeline.gathered.bytes() as u64 > MOST_OUTPUT_BYTES {
                break;
            }
        }
        if !waiting.is_empty() {
            let later = Later::of(waiting.iter().map(|waits| waits.job));
            // Twice where a user transformation is followed by a destination transformation elsewhere.
            while !pipeline.gathered.is_empty() {
                let bytes = pipeline.gathered.bytes();
                let chunks = std::mem::take(&mut pipeline.gathered).into_chunks(&self.settings);
                let Some((replies, kept)) = self.transform(&chunks, bytes, slot)? else { return Ok(None) };
                slot = kept;
                for (chunk, reply) in chunks.iter().zip(replies) {
                    pipeline.transformed(chunk, reply, &later, &mut |place, queue, new| {
                        if let Some(waits) = waiting.get_mut(place) {
                            waits.outputs.push((queue, self.jobs.encode(queue, new)));
                            self.show(queue, new);
                        }
                    });
                }
            }
            for mut waits in waiting {
                let run = pipeline.take_held_run(waits.job.id);
                let bytes = handover.add(waits.job.lease, &mut waits.outputs, waits.ids, run);
                pipeline.counts.stored_bytes(bytes);
            }
        }
        drop(leased.leases.drain(..handed_over));
        let (counts, sources) = pipeline.finish();
        self.known.lock().sources = sources;
        if self.settings.processor.reporting.enabled
            && let Some(first) = page.jobs.first()
            && let Some((key, value)) = counts.tally.stored(minute, &first.partition.source_id, first.id)
        {
            handover.add_figures(key, value);
        }
        Ok(Some(Batch { handover, counts, jobs: handed_over, _slot: slot }))
    }

    /// Shows a dead letter to who watches.
    fn show(&self, queue: Queue, new: &NewJob<'_>) {
        let taps = &self.shared.deps.live;
        if queue == Queue::ProcError && taps.is_watched() {
            taps.record([live::record(new, self.clock.now_ms())]);
        }
    }

    /// Has chunks transformed, all of them at the same time as far as there are threads; `None` when the node stops
    /// meanwhile. A read that fits aside does not keep its slot: a slow transformation stalls no other source.
    ///
    /// # Errors
    /// [`ProcessorError::Crowded`]: an external transformer may be away for days, so nothing waits for it on a slot.
    fn transform(
        &self,
        chunks: &[Chunk],
        bytes: usize,
        slot: OwnedSemaphorePermit,
    ) -> Result<Option<(Vec<Reply>, OwnedSemaphorePermit)>, ProcessorError> {
        // A read that is larger than all the room waits until it is alone.
        let kib = u32::try_from((bytes / 1024 + 1).min(MOST_ASIDE_KIB)).unwrap_or(u32::MAX);
        let (mut slot, aside) = match Arc::clone(&self.shared.aside).try_acquire_many_owned(kib) {
            Ok(aside) => {
                drop(slot);
                (None, Some(aside))
            }
            Err(_full) if chunks.iter().any(|chunk| chunk.by.is_elsewhere()) => return Err(ProcessorError::Crowded),
            Err(_full) => (Some(slot), None),
        };
        Ok(tokio::runtime::Handle::current().block_on(async {
            let Shared { engine, remote, .. } = &*self.shared;
            let replies =
                futures_util::future::join_all(chunks.iter().map(|chunk| transformers::run(chunk, engine, remote)));
            let replies = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                replies = replies => replies,
            };
            let slot = match slot.take() {
                Some(slot) => slot,
                None => tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return None,
                    slot = Arc::clone(&self.shared.slots).acquire_owned() => slot.ok()?,
                },
            };
            drop(aside);
            Some((replies, slot))
        }))
    }
}

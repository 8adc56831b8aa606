//! The job queues of the node (jobsdb.md, storage-design.md).
//!
//! In: [`Tx`]s, each an atomic set of new jobs, outcomes of leased jobs, and records of other owners.
//! Out: [`Page`]s of leased jobs in job-id order, per queue and selection.
//!
//! Promises: a transaction is in the store whole or not at all, whatever queues it touches; a
//! [`Durability::Durable`] commit returns only after the flush that covers it; job ids grow in commit
//! order and are never used twice; a fetch costs the same whatever was completed before; a job is leased
//! to at most one holder; a lease that ends without an outcome (release, crash) leaves the job as it was.
//!
//! Inside: [`writer`](self) is the only thread that changes the store; `state` is what memory knows;
//! `fetch` picks; `order` handles users behind a failed job and jobs whose time comes; `datasets` and
//! `upkeep` give disk back; `open` rebuilds memory from the store.

mod api;
mod cancelled;
mod change;
mod datasets;
mod dead_letter;
mod events;
mod fetch;
mod find;
mod keys;
mod open;
mod order;
mod partitions;
mod record;
mod run_book;
mod runs;
mod staging;
mod staging_file;
mod state;
mod upkeep;
mod writer;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

pub use api::{
    ActivePartition, DatasetInfo, Durability, EncodedJob, Gate, Job, JobState, JobsDbError, JournalRecord, LastStatus,
    Lease, Limits, Namespace, NewJob, Outcome, Page, Partition, Queue, QueueStats, Receipt, Select, Status, Tx,
};
pub use cancelled::{CancelError, CancelledRuns};
pub use dead_letter::DeadLetter;
pub use find::StoredJob;
pub use open::inspect;
pub use runs::{FailedRecord, RecordPlace, RunKey, RunOfJob, RunRow, RunStats};
pub use staging_file::{BatchDestination, Named, RowNotes, StagingFile, StagingRecord};

use crate::clock::Clock;
use crate::settings::{JobsDbSettings, Profile, QueueSettings, RunSettings, Settings, StorageSettings};
use crate::storage::{Family, Storage, StorageError, codec};
use cancelled::Cancelled;
use datasets::{DatasetRules, DroppedRange};
use partitions::Partitions;
use run_book::RunBook;
use staging::Staging;
use state::{QueueState, RecentRoom};
use writer::{Permits, Request, Writer};

/// Transactions that may wait for the writer.
const WAITING_TRANSACTIONS: u32 = 4_096;
/// Bytes of one permit of the byte gate.
const PERMIT_BYTES: u64 = 1_024;
/// Seconds of one bucket of the deduplication keys.
const DEDUP_BUCKET_SECONDS: i64 = 900;

/// The queues. Cheap to clone; the last clone stops the threads.
#[derive(Clone)]
pub struct JobsDb(Arc<Handle>);

/// A transaction in the writer's hands.
pub struct Enqueued(oneshot::Receiver<Result<Receipt, JobsDbError>>);

impl Enqueued {
    /// Waits for the outcome. Not waiting changes nothing for the transaction.
    ///
    /// # Errors
    /// [`JobsDbError::Failed`]: the write failed, the store is poisoned.
    pub async fn verdict(self) -> Result<Receipt, JobsDbError> {
        self.0.await.map_err(|_| stopped())?
    }
}

struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    writer: Option<JoinHandle<()>>,
    due: Option<JoinHandle<()>>,
    upkeep: Option<JoinHandle<()>>,
    slow_upkeep: Option<JoinHandle<()>>,
    stop: Vec<Sender<()>>,
}

/// What every part of the queues works on.
struct Shared {
    storage: Storage,
    clock: Clock,
    limits: StorageSettings,
    settings: JobsDbSettings,
    runs: RunSettings,
    cancelled: Cancelled,
    staging: Staging,
    partitions: Partitions,
    queues: [QueueState; 5],
    /// Ranges whose rows were deleted and whose files may go after the next flush.
    dropped: Mutex<Vec<DroppedRange>>,
    requests: Sender<Request>,
    due: Sender<()>,
    /// Room for the bytes of transactions in units of [`PERMIT_BYTES`]. Small ones take a bit more, so that it
    /// bounds their number too.
    room: Arc<Semaphore>,
    room_permits: u32,
    gate: watch::Sender<Gate>,
    is_stopping: AtomicBool,
}

impl JobsDb {
    /// Opens the queues of a store: reads what memory needs, repairs counters, starts the threads.
    ///
    /// # Errors
    /// When a record that everything rests on is damaged, or the system refuses a thread.
    pub fn open(storage: Storage, settings: &Settings, clock: Clock) -> Result<JobsDb, StorageError> {
        // Commits are bounded by permits; an unbounded channel also forgets what nobody will read any more.
        let (requests, incoming) = unbounded();
        let (due, due_signal) = bounded(1);
        let recent_room = Arc::new(RecentRoom::new(match settings.storage.profile {
            Profile::Small => 4 << 20,
            Profile::Default => 16 << 20,
            Profile::Large => 64 << 20,
        }));
        let no_room = Arc::new(RecentRoom::new(0));
        let room_permits = u32::try_from(settings.storage.max_pending_bytes / PERMIT_BYTES).unwrap_or(u32::MAX).max(64);
        let shared = Arc::new(Shared {
            storage,
            clock,
            limits: settings.storage.clone(),
            settings: settings.jobsdb.clone(),
            runs: settings.runs.clone(),
            cancelled: Cancelled::default(),
            staging: Staging::default(),
            partitions: Partitions::default(),
            // Jobs of the other queues rest for a while on purpose.
            queues: Queue::ALL.map(|queue| match queue {
                Queue::Gw | Queue::Rt => QueueState::new(queue, Arc::clone(&recent_room)),
                Queue::BatchRt | Queue::Arc | Queue::ProcError => QueueState::new(queue, Arc::clone(&no_room)),
            }),
            dropped: Mutex::default(),
            requests,
            due,
            room: Arc::new(Semaphore::new(room_permits as usize)),
            room_permits,
            gate: watch::Sender::new(Gate::Open),
            is_stopping: AtomicBool::new(false),
        });
        let stored_partitions = shared.restore()?;
        shared.cancelled.restore(&shared.storage)?;
        shared.staging.restore(&shared.storage)?;
        let runs = RunBook::restore(&shared.storage, &shared.runs)?;
        shared.watch_disk(&mut upkeep::DiskWatch::new(&shared));
        let writer = Writer::new(Arc::clone(&shared), stored_partitions, runs);
        let (stop_due, due_stops) = bounded(1);
        let (stop_upkeep, upkeep_stops) = bounded(1);
        let (stop_slow, slow_stops) = bounded(1);
        let (quick, slow) = (Arc::clone(&shared), Arc::clone(&shared));
        let ending = Arc::clone(&shared);
        let threads = Threads {
            writer: Some(thread("pintle-writer", move || {
                writer.run(&incoming);
                // Who still waits for room will not get any.
                ending.room.close();
            })?),
            due: Some(start_due(&shared, due_signal, due_stops)?),
            upkeep: Some(thread("pintle-upkeep", move || upkeep::run(&quick, &upkeep_stops))?),
            slow_upkeep: Some(thread("pintle-copying", move || upkeep::run_slow(&slow, &slow_stops))?),
            stop: vec![stop_due, stop_upkeep, stop_slow],
        };
        Ok(JobsDb(Arc::new(Handle { shared, threads: Mutex::new(threads) })))
    }

    /// Puts a job into its stored form. Does no I/O; may take a partition number.
    pub fn encode(&self, queue: Queue, job: &NewJob<'_>) -> EncodedJob {
        let shared = &self.0.shared;
        let partition = shared.partitions.intern(job.workspace_id, job.custom_val, job.source_id, job.destination_id);
        let payload: usize = job.payload.iter().map(|piece| piece.len()).sum();
        let payload_bytes = u32::try_from(payload).unwrap_or(u32::MAX);
        let created_us = shared.clock.now_us();
        let order_hash = if shared.queue(queue).is_ordered() {
            record::order_hash(shared.storage.format().salt, job.workspace_id, job.destination_id, job.user_id)
        } else {
            0
        };
        EncodedJob {
            partition: partition.id,
            events: job.event_count.max(1),
            payload_bytes,
            order_hash,
            created_ms: created_us.div_euclid(1_000),
            value: record::encode_job(job, partition.id, created_us, payload_bytes),
        }
    }

    /// Commits a transaction: waits for room in the writer's gate, then for the verdict.
    ///
    /// # Errors
    /// [`JobsDbError::Unavailable`] and [`JobsDbError::TooLarge`]: nothing was queued.
    /// [`JobsDbError::Failed`]: the write failed, the store is poisoned.
    pub async fn commit(&self, tx: Tx) -> Result<Receipt, JobsDbError> {
        self.enqueue(tx).await?.verdict().await
    }

    /// The first half of [`JobsDb::commit`]: waits for room and hands the transaction to the writer.
    /// Transactions are written in the order in which these calls return.
    ///
    /// # Errors
    /// As [`JobsDb::commit`].
    pub async fn enqueue(&self, tx: Tx) -> Result<Enqueued, JobsDbError> {
        let permits = self.0.shared.permits(&tx).await?;
        Ok(Enqueued(self.verdict(tx, permits)?))
    }

    /// [`JobsDb::commit`] within a time: no room in the gate is [`JobsDbError::Unavailable`], no verdict is
    /// [`JobsDbError::Timeout`] (the transaction may still be stored).
    ///
    /// # Errors
    /// As [`JobsDb::commit`], and [`JobsDbError::Timeout`].
    pub async fn commit_within(&self, tx: Tx, wait: Duration) -> Result<Receipt, JobsDbError> {
        let deadline = tokio::time::Instant::now() + wait;
        let enqueued = match tokio::time::timeout_at(deadline, self.enqueue(tx)).await {
            Ok(enqueued) => enqueued?,
            Err(_) => return Err(JobsDbError::Unavailable("the writer has no room".to_owned())),
        };
        tokio::time::timeout_at(deadline, enqueued.verdict()).await.map_err(|_| JobsDbError::Timeout)?
    }

    /// [`JobsDb::commit`] from a thread that may block (never a tokio worker).
    ///
    /// # Errors
    /// As [`JobsDb::commit`].
    pub fn commit_blocking(&self, tx: Tx) -> Result<Receipt, JobsDbError> {
        let permits = futures_util::FutureExt::now_or_never(self.0.shared.permits(&tx));
        let permits = match permits {
            Some(permits) => permits?,
            // The gate is full: wait for it as a task would.
            None => block_on(self.0.shared.permits(&tx))??,
        };
        self.verdict(tx, permits)?.blocking_recv().map_err(|_| stopped())?
    }

    /// Leases the next runnable jobs of the selection, ascending id. Blocks on the store: not for tokio workers.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn fetch(&self, queue: Queue, select: &Select, limits: Limits) -> Result<Page, JobsDbError> {
        self.0.shared.fetch(queue, select, limits)
    }

    /// The same from async code, on a blocking thread.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn fetch_async(&self, queue: Queue, select: &Select, limits: Limits) -> Result<Page, JobsDbError> {
        let (shared, select) = (Arc::clone(&self.0.shared), select.clone());
        let (answer, receiver) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let page = shared.fetch(queue, &select, limits);
            // Nobody waits any more: nobody would decide about these jobs either.
            if let Err(Ok(page)) = answer.send(page) {
                shared.release(&page.jobs.iter().map(|job| job.lease).collect::<Vec<_>>());
            }
        });
        receiver.await.map_err(|_| stopped())?
    }

    /// Gives leased jobs back unchanged (throttled, no slot, shutdown). The next fetch returns them again;
    /// nobody is woken, because the holder knows what it waits for.
    pub fn release(&self, leases: &[Lease]) {
        self.0.shared.release(leases);
    }

    /// Notified (a permit is kept) whenever a job of the selection may have become runnable: stored, due or
    /// unblocked. Ask for it before the first fetch, and keep it.
    pub fn waker(&self, queue: Queue, select: &Select) -> Arc<Notify> {
        self.0.shared.queue(queue).register(select)
    }

    /// Partitions with pending jobs, from counters.
    pub fn active(&self, queue: Queue) -> Vec<ActivePartition> {
        self.partitions(queue).into_iter().filter(|partition| partition.pending > 0).collect()
    }

    /// Notified when a partition that nobody waits for gets a job that can run. One listener per queue.
    pub fn partition_appeared(&self, queue: Queue) -> Arc<Notify> {
        Arc::clone(&self.0.shared.queue(queue).appeared)
    }

    /// What the disk guard allows now, followed as it changes.
    pub fn gate(&self) -> watch::Receiver<Gate> {
        self.0.shared.gate.subscribe()
    }

    /// A record of another owner. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn get(&self, namespace: Namespace, key: &[u8]) -> Result<Option<Vec<u8>>, JobsDbError> {
        let mut full_key = vec![namespace as u8];
        full_key.extend_from_slice(key);
        self.0.shared.storage.get(Family::Records, &full_key).map_err(failed)
    }

    /// Records of another owner whose keys begin with `prefix`, in key order. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn scan(&self, namespace: Namespace, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, JobsDbError> {
        let mut records = Vec::new();
        self.visit(namespace, prefix, |key, value| {
            records.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })?;
        Ok(records)
    }

    /// Shows records of another owner whose keys begin with `prefix`, in key order, one by one until `see` has
    /// enough; for namespaces that may be larger than memory. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn visit(
        &self,
        namespace: Namespace,
        prefix: &[u8],
        mut see: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), JobsDbError> {
        let mut from = vec![namespace as u8];
        from.extend_from_slice(prefix);
        let to = [from.as_slice(), &[0xff; 64]].concat();
        let mut scan = self.0.shared.storage.scan(Family::Records, &from, &to).map_err(failed)?;
        while let Some((key, value)) = scan.next_entry().map_err(failed)? {
            if see(key.get(1..).unwrap_or_default(), value).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The first records of another owner whose keys are at least `from` and less than `to`, in key order. Blocks on
    /// the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn scan_between(
        &self,
        namespace: Namespace,
        from: &[u8],
        to: &[u8],
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, JobsDbError> {
        let full = |key: &[u8]| [&[namespace as u8], key].concat();
        let mut scan = self.0.shared.storage.scan(Family::Records, &full(from), &full(to)).map_err(failed)?;
        let mut records = Vec::new();
        while records.len() < most {
            let Some((key, value)) = scan.next_entry().map_err(failed)? else { break };
            records.push((key.get(1..).unwrap_or_default().to_vec(), value.to_vec()));
        }
        Ok(records)
    }

    /// Journal records of the queue. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read or a record is damaged.
    pub fn journal(&self, queue: Queue) -> Result<Vec<JournalRecord>, JobsDbError> {
        let (from, to) = (keys::journal(queue, 0), keys::journal(queue, u64::MAX));
        let mut scan = self.0.shared.storage.scan(Family::Meta, from.as_ref(), to.as_ref()).map_err(failed)?;
        let mut records = Vec::new();
        while let Some((key, value)) = scan.next_entry().map_err(failed)? {
            let op = key.last_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            records.push(record::decode_journal(op, value).map_err(failed)?);
        }
        Ok(records)
    }

    /// Whether each deduplication key was stored and has not expired. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn dedup_seen(&self, hashes: &[u128], window: Duration) -> Result<Vec<bool>, JobsDbError> {
        let now_ms = self.0.shared.clock.now_ms();
        let latest = now_ms.saturating_add(i64::try_from(window.as_millis()).unwrap_or(i64::MAX));
        let mut seen = vec![false; hashes.len()];
        for bucket in dedup_bucket(now_ms)..=dedup_bucket(latest) {
            for (hash, seen) in hashes.iter().zip(&mut seen) {
                if *seen {
                    continue;
                }
                let stored =
                    self.0.shared.storage.get(Family::Dedup, keys::dedup(bucket, *hash).as_ref()).map_err(failed)?;
                if let Some(bytes) = stored {
                    *seen = codec::decode::<i64>("deduplication key", &bytes).map_err(failed)? > now_ms;
                }
            }
        }
        Ok(seen)
    }

    /// The salt of the store, which seeds hashes of ids.
    pub fn salt(&self) -> u64 {
        self.0.shared.storage.format().salt
    }

    /// Figures of every queue.
    pub fn stats(&self) -> Vec<QueueStats> {
        let queues = self.0.shared.queues.iter().map(|state| QueueStats {
            queue: state.queue,
            pending: state.pending.load(Ordering::Relaxed),
            pending_bytes: state.pending_bytes.load(Ordering::Relaxed),
            last_job_id: state.last_job_id.load(Ordering::Relaxed),
            datasets: state.datasets.lock().infos(),
        });
        queues.collect()
    }

    /// The store beneath, for snapshots and engine figures.
    pub fn storage(&self) -> &Storage {
        &self.0.shared.storage
    }

    /// Sets the gauges of backlog, disk and engine, for a scrape.
    pub fn publish_gauges(&self) {
        events::publish(self);
    }

    /// Stops the threads in order and flushes. Commits after this are refused. Blocks.
    pub fn close(&self) {
        self.0.close();
    }
}

impl JobsDb {
    fn partitions(&self, queue: Queue) -> Vec<ActivePartition> {
        let parts = self.0.shared.queue(queue).parts.read();
        let figures = parts.values().map(|part| {
            let inner = part.inner.lock();
            ActivePartition {
                partition: Arc::clone(&part.partition),
                pending: inner.pending,
                pending_bytes: inner.pending_bytes,
                leased: inner.leased.len() as u64,
                delayed: inner.delayed,
                blocked: inner.blocked,
                importing: inner.importing,
            }
        });
        figures.collect()
    }

    fn verdict(
        &self,
        tx: Tx,
        permits: Permits,
    ) -> Result<oneshot::Receiver<Result<Receipt, JobsDbError>>, JobsDbError> {
        let (verdict, receiver) = oneshot::channel();
        let request = Request::Commit { tx, verdict, permits, sent: Instant::now() };
        // Never waits: the channel has more places than there are permits.
        self.0.shared.requests.send(request).map_err(|_| stopped())?;
        Ok(receiver)
    }
}

impl Handle {
    fn close(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        let mut threads = std::mem::take(&mut *self.threads.lock());
        threads.stop.clear();
        join(threads.due.take());
        join(threads.upkeep.take());
        join(threads.slow_upkeep.take());
        if threads.writer.is_some() {
            self.shared.send(Request::Stop);
        }
        join(threads.writer.take());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub(super) fn queue(&self, queue: Queue) -> &QueueState {
        let [gw, rt, batch_rt, arc, proc_error] = &self.queues;
        match queue {
            Queue::Gw => gw,
            Queue::Rt => rt,
            Queue::BatchRt => batch_rt,
            Queue::Arc => arc,
            Queue::ProcError => proc_error,
        }
    }

    fn queue_settings(&self, queue: Queue) -> &QueueSettings {
        match queue {
            Queue::Gw => &self.settings.gw,
            Queue::Rt => &self.settings.rt,
            Queue::BatchRt => &self.settings.batch_rt,
            Queue::Arc => &self.settings.arc,
            Queue::ProcError => &self.settings.proc_error,
        }
    }

    fn dataset_rules(&self, queue: Queue) -> DatasetRules {
        let settings = self.queue_settings(queue);
        DatasetRules {
            max_rows: settings.max_rows,
            max_bytes: settings.max_bytes,
            max_age_ms: millis(settings.max_age),
            target_bytes: self.limits.dataset_target_bytes.max(1),
            target_age_ms: millis(self.limits.dataset_target_age),
            min_retention_ms: millis(settings.min_retention),
            small: queue != Queue::ProcError,
        }
    }

    async fn permits(&self, tx: &Tx) -> Result<Permits, JobsDbError> {
        let bytes = tx.stored_bytes();
        if bytes > self.limits.max_tx_bytes {
            return Err(JobsDbError::TooLarge { bytes, limit: self.limits.max_tx_bytes });
        }
        if let Some(reason) = self.storage.poisoned() {
            return Err(JobsDbError::Failed(reason));
        }
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(stopped());
        }
        let wanted = u32::try_from(bytes / PERMIT_BYTES + 1).unwrap_or(u32::MAX);
        let wanted = wanted.max(self.room_permits / WAITING_TRANSACTIONS).min(self.room_permits);
        Arc::clone(&self.room).acquire_many_owned(wanted).await.map_err(|_| stopped())
    }

    pub(super) fn send(&self, request: Request) {
        if self.requests.send(request).is_err() {
            tracing::debug!("the writer has stopped");
        }
    }

    /// A job waits for its time, or a user for the jobs behind a failed one.
    pub(super) fn due_changed(&self) {
        // A full channel means that the promotion looks anyway.
        if self.due.try_send(()).is_err() {
            tracing::trace!("the promotion was already told");
        }
    }

    pub(super) fn release(&self, leases: &[Lease]) {
        for lease in leases {
            let Some(part) = self.queue(lease.queue).known_part(lease.partition) else { continue };
            let mut inner = part.inner.lock();
            if let Some(held) = inner.leased.remove(&lease.job_id) {
                if matches!(held.place, keys::Place::Delayed(_)) {
                    self.queue(lease.queue).promoted.fetch_add(1, Ordering::Relaxed);
                }
                inner.returned.insert(lease.job_id, held);
            }
        }
    }

    pub(super) fn poisoned(&self, error: &StorageError) {
        upkeep::ballast(self).release();
        self.gate.send_replace(Gate::Poisoned(error.to_string()));
    }
}

/// The bucket of a deduplication key that expires then.
fn dedup_bucket(expiry_ms: i64) -> u32 {
    u32::try_from(expiry_ms.max(0) / 1_000 / DEDUP_BUCKET_SECONDS).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn failed(error: StorageError) -> JobsDbError {
    JobsDbError::Failed(error.to_string())
}

fn stopped() -> JobsDbError {
    JobsDbError::Unavailable("the node is stopping".to_owned())
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T, JobsDbError> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => Ok(runtime.block_on(future)),
        Err(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            Ok(runtime.map_err(|error| JobsDbError::Unavailable(error.to_string()))?.block_on(future))
        }
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|source| StorageError::File {
        action: "start the thread",
        path: name.into(),
        source,
    })
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread
        && thread.join().is_err()
    {
        tracing::error!("a thread of the queues panicked");
    }
}

/// Longest time between two looks at the delayed jobs while there are any.
const DUE_TICK: Duration = Duration::from_secs(1);

fn start_due(shared: &Arc<Shared>, signal: Receiver<()>, stop: Receiver<()>) -> Result<JoinHandle<()>, StorageError> {
    let shared = Arc::clone(shared);
    thread("pintle-due", move || {
        let mut wait = Some(Duration::ZERO);
        loop {
            let timer = wait.map_or_else(crossbeam::channel::never, crossbeam::channel::after);
            crossbeam::channel::select! {
                recv(stop) -> _ => return,
                recv(signal) -> _ => {}
                recv(timer) -> _ => {}
            }
            let now_ms = u64::try_from(shared.clock.now_ms()).unwrap_or(0);
            let mut next: Option<u64> = None;
            for state in &shared.queues {
                next = next.into_iter().chain(shared.promote(state, now_ms)).min();
                if shared.load_waiting_users(state) {
                    next = Some(next.map_or(u64::MAX, |due| due.min(now_ms + 1_000)));
                }
            }
            wait = next.map(|due| Duration::from_millis(due.saturating_sub(now_ms).max(1)).min(DUE_TICK));
        }
    })
}

#[cfg(test)]
mod tests;

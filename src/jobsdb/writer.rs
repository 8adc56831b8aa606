//! The one thread that writes (storage-design.md 6.1).
//!
//! In: [`Request`]s over a bounded channel. It takes what waits, without a timer, builds one batch, writes
//! it, updates memory, and answers: lazy members at once, durable ones after the flush that covers them.
//! Whoever comes meanwhile shares the next flush, so the groups grow as the disk gets slower. A thread of its own
//! for the flush cost more time per event on two cores, for smaller groups. A batch of lazy members is
//! flushed with the next durable one, or within the lazy interval. No counter moves before the write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::oneshot;
use tracing::error;

use super::Shared;
use super::api::{Durability, EncodedJob, JobState, JobsDbError, Lease, Outcome, Queue, Receipt, Status, Tx};
use super::change::Change;
use super::datasets::DroppedRange;
use super::keys::{self, Place};
use super::record::{self, IndexEntry};
use super::run_book::RunBook;
use super::runs::RunOfJob;
use super::state::{Held, PartState};
use crate::storage::{Batch, Family, StorageError, codec};

/// Where the verdict of a commit goes.
pub(super) type Verdict = oneshot::Sender<Result<Receipt, JobsDbError>>;

/// Room in the writer's gate, given back when the request is answered.
pub(super) type Permits = tokio::sync::OwnedSemaphorePermit;

/// Work for the writer.
pub(super) enum Request {
    /// A caller's transaction.
    Commit { tx: Tx, verdict: Verdict, permits: Permits, sent: Instant },
    /// Jobs of blocked users, met by a fetch, go to the blocked index.
    Block(Vec<BlockedMove>),
    /// Jobs copied out of an old dataset.
    Relocate { moves: Vec<Relocation>, done: crossbeam::channel::Sender<()> },
    /// Seal what is old and drop what is finished.
    Upkeep { done: crossbeam::channel::Sender<()> },
    /// Forget deduplication keys of the buckets below this one.
    ForgetDedup { before: u32 },
    /// Forget runs without news since this time.
    ForgetRuns { before_ms: i64 },
    /// Remove records of other owners, by their whole keys.
    ForgetRecords { keys: Vec<Vec<u8>> },
    /// A value that cannot be read.
    Quarantine { lease: Lease, dataset: u32, value: Vec<u8> },
    /// Last request: mark an orderly stop and end.
    Stop,
}

/// A job that leaves the ready index because an earlier job of its user failed.
pub(super) struct BlockedMove {
    pub queue: Queue,
    pub part: Arc<PartState>,
    pub id: u64,
    pub held: Held,
}

/// A pending job with its values, on its way to the carry-over dataset.
pub(super) struct Relocation {
    pub queue: Queue,
    pub part: Arc<PartState>,
    pub id: u64,
    pub held: Held,
    pub value: Vec<u8>,
}

/// An answer that is due after the write.
struct Answer {
    verdict: Verdict,
    receipt: Receipt,
    permits: Permits,
    durability: Durability,
    sent: Instant,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    changes: Vec<Change>,
    answers: Vec<Answer>,
    /// When what was written without being waited for must be on the disk.
    flush_by: Option<Instant>,
    /// Who waits for the batch without a verdict.
    waiting: Vec<crossbeam::channel::Sender<()>>,
    /// What the batch drops, and whether a dataset finished in it.
    dropped: Vec<DroppedRange>,
    something_finished: bool,
    /// Whether the batch stores staging files.
    has_staged: bool,
    /// Jobs whose index entry this batch changed, for relocations that were read before.
    changed: FxHashSet<(Queue, u64)>,
    /// Pending jobs that were copied out since the store was opened, and where to: a lease or a move may have
    /// been taken before the copy and name the old dataset.
    carried: FxHashMap<(Queue, u64), u32>,
    touched_datasets: BTreeSet<(Queue, u32)>,
    touched_queues: BTreeSet<Queue>,
    stored_partitions: BTreeSet<u32>,
    runs: RunBook,
    /// Partitions met so far, so that a job costs one look-up.
    parts: FxHashMap<(Queue, u32), Arc<PartState>>,
    /// Reused for the bytes of index entries.
    scratch: Vec<u8>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, stored_partitions: BTreeSet<u32>, runs: RunBook) -> Writer {
        Writer {
            shared,
            changes: Vec::new(),
            answers: Vec::new(),
            flush_by: None,
            waiting: Vec::new(),
            dropped: Vec::new(),
            something_finished: false,
            has_staged: false,
            changed: FxHashSet::default(),
            carried: FxHashMap::default(),
            touched_datasets: BTreeSet::new(),
            touched_queues: BTreeSet::new(),
            stored_partitions,
            runs,
            parts: FxHashMap::default(),
            scratch: Vec::with_capacity(64),
        }
    }

    /// Runs until [`Request::Stop`] or until nobody can send any more.
    pub fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let first = match self.flush_by {
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => requests.recv_deadline(deadline),
            };
            let first = match first {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    // A failure is logged and closes the gate; nobody waits for this flush.
                    let _poisoned = self.flush();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let shared = Arc::clone(&self.shared);
            let mut batch = shared.storage.batch(64 << 10);
            let mut is_last = self.stage(first, &mut batch);
            let mut members = 1;
            while !is_last
                && members < shared.limits.max_batch_tx
                && (batch.bytes() as u64) < shared.limits.max_batch_bytes
                && let Ok(next) = requests.try_recv()
            {
                is_last = self.stage(next, &mut batch);
                members += 1;
            }
            self.commit(batch, members);
            if is_last {
                break;
            }
        }
        if self.flush_by.is_some() {
            let _poisoned = self.flush();
        }
    }

    /// Waits for the disk, and says why it failed.
    fn flush(&mut self) -> Result<(), JobsDbError> {
        self.flush_by = None;
        self.shared.storage.flush().map_err(|error| {
            self.shared.poisoned(&error);
            JobsDbError::Failed(error.to_string())
        })
    }

    /// Adds one request to the batch. True for the last one.
    fn stage(&mut self, request: Request, batch: &mut Batch<'_>) -> bool {
        match request {
            Request::Commit { tx, verdict, permits, sent } => {
                let durability = tx.durability;
                let receipt = self.stage_tx(tx, batch);
                self.answers.push(Answer { verdict, receipt, permits, durability, sent });
            }
            Request::Block(moves) => {
                for blocked in moves {
                    self.stage_blocked(blocked, batch);
                }
            }
            Request::Relocate { moves, done } => {
                for relocation in moves {
                    self.stage_relocation(relocation, batch);
                }
                self.waiting.push(done);
            }
            Request::Upkeep { done } => {
                self.stage_seals();
                self.something_finished = true;
                self.waiting.push(done);
            }
            Request::ForgetDedup { before } => {
                let (from, to) = (keys::dedup(0, 0), keys::dedup(before, 0));
                batch.delete_range(Family::Dedup, from.as_ref(), to.as_ref());
            }
            Request::ForgetRuns { before_ms } => self.runs.forget_older(before_ms, batch),
            Request::ForgetRecords { keys } => {
                for key in keys {
                    batch.delete(Family::Records, &key);
                }
            }
            Request::Quarantine { lease, dataset, value } => self.stage_quarantine(lease, dataset, &value, batch),
            Request::Stop => {
                batch.put(Family::Meta, &keys::CLEAN_STOP, &codec::encode(&self.shared.clock.now_ms()));
                return true;
            }
        }
        false
    }

    fn stage_tx(&mut self, tx: Tx, batch: &mut Batch<'_>) -> Receipt {
        let mut receipt = Receipt { job_ids: Vec::with_capacity(tx.appends.len()), stale: 0 };
        for (queue, job) in tx.appends {
            receipt.job_ids.push(self.stage_append(queue, job, batch));
        }
        let succeeded = tx.succeeded.into_iter().map(|lease| (lease, Outcome::Succeeded, None));
        for (lease, outcome, run) in succeeded.chain(tx.outcomes) {
            if !self.stage_outcome(lease, outcome, run, batch) {
                receipt.stale += 1;
            }
        }
        if !tx.runs.is_empty() {
            let now_ms = self.shared.clock.now_ms();
            for change in tx.runs {
                self.runs.take(change, now_ms, batch);
            }
        }
        for (namespace, key, value) in tx.records {
            let mut full_key = Vec::with_capacity(key.len() + 1);
            full_key.push(namespace as u8);
            full_key.extend_from_slice(&key);
            match value {
                Some(value) => batch.put(Family::Records, &full_key, &value),
                None => batch.delete(Family::Records, &full_key),
            }
        }
        if let Some(id) = tx.staged {
            self.shared.staging.stage(id, batch);
            self.has_staged = true;
        }
        for (queue, op, record) in tx.journal {
            match record {
                Some(record) => {
                    batch.put(Family::Meta, keys::journal(queue, op).as_ref(), &record::encode_journal(&record));
                }
                None => batch.delete(Family::Meta, keys::journal(queue, op).as_ref()),
            }
        }
        for (hash, expiry_ms) in tx.dedup {
            let bucket = super::dedup_bucket(expiry_ms);
            batch.put(Family::Dedup, keys::dedup(bucket, hash).as_ref(), &codec::encode(&expiry_ms));
        }
        receipt
    }

    fn stage_append(&mut self, queue: Queue, job: EncodedJob, batch: &mut Batch<'_>) -> u64 {
        let shared = Arc::clone(&self.shared);
        let state = shared.queue(queue);
        let id = state.last_job_id.load(Ordering::Relaxed) + 1;
        state.last_job_id.store(id, Ordering::Relaxed);
        let part = self.part(queue, job.partition, id, batch);
        let dataset = self.open_dataset(queue, id, &job);
        let entry = IndexEntry {
            dataset,
            events: job.events,
            bytes: job.payload_bytes,
            order_hash: job.order_hash,
            created_ms: job.created_ms,
            attempt: 0,
        };
        batch.put(Family::Jobs, keys::job(queue, dataset, id).as_ref(), &job.value);
        let index = keys::index(queue, job.partition, id, job.order_hash, Place::Ready);
        self.scratch.clear();
        codec::encode_into(&mut self.scratch, &entry);
        batch.put(Family::Index, index.as_ref(), &self.scratch);
        if let Some(part) = part {
            self.changes.push(Change::Stored { queue, part, id, entry, value: job.value });
        }
        id
    }

    /// The state of a job's partition; a partition that is new to the store is stored with the job.
    fn part(&mut self, queue: Queue, partition: u32, id: u64, batch: &mut Batch<'_>) -> Option<Arc<PartState>> {
        if let Some(part) = self.parts.get(&(queue, partition)) {
            return Some(Arc::clone(part));
        }
        // A job is encoded with a number that the dictionary gave out, so it is always found.
        let known = self.shared.partitions.get(partition)?;
        if self.stored_partitions.insert(partition) {
            batch.put(Family::Meta, keys::partition(partition).as_ref(), &record::encode_partition(&known));
        }
        let part = self.shared.queue(queue).part(&known, id);
        self.parts.insert((queue, partition), Arc::clone(&part));
        Some(part)
    }

    /// The dataset that takes the next job; the open one is sealed first when it is full (8.1).
    fn open_dataset(&mut self, queue: Queue, id: u64, job: &EncodedJob) -> u32 {
        let shared = Arc::clone(&self.shared);
        let state = shared.queue(queue);
        let mut datasets = state.datasets.lock();
        let now_ms = job.created_ms;
        if let Some(sealed) =
            datasets.seal_if_full(shared.dataset_rules(queue), state.pending_bytes.load(Ordering::Relaxed), now_ms)
        {
            self.touched_datasets.insert((queue, sealed));
        }
        let number = datasets.store(id, u64::from(job.payload_bytes), now_ms);
        self.touched_datasets.insert((queue, number));
        self.touched_queues.insert(queue);
        number
    }

    fn stage_outcome(
        &mut self,
        lease: Lease,
        outcome: Outcome,
        run: Option<Box<RunOfJob>>,
        batch: &mut Batch<'_>,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        let queue = lease.queue;
        let part = shared.queue(queue).known_part(lease.partition);
        let taken = part.and_then(|part| {
            let held = part.inner.lock().leased.remove(&lease.job_id);
            held.map(|held| (part, held))
        });
        let Some((part, mut held)) = taken else {
            super::events::stale_status(queue);
            return false;
        };
        self.correct(queue, lease.job_id, &mut held);
        self.changed.insert((queue, lease.job_id));
        let job_key = keys::job(queue, held.entry.dataset, lease.job_id);
        let index_key = keys::index(queue, lease.partition, lease.job_id, held.entry.order_hash, held.place);
        batch.delete(Family::Index, index_key.as_ref());
        part.meters.updated(&outcome);
        if let Some(run) = run {
            self.runs.ended(&run, &outcome, shared.clock.now_ms(), batch);
        }
        match outcome {
            Outcome::Succeeded | Outcome::Filtered => self.stage_end(queue, part, lease.job_id, held),
            Outcome::Aborted { status, dead_letter } => {
                if shared.limits.keep_aborted {
                    batch.put(Family::Status, job_key.as_ref(), &record::encode_status(JobState::Aborted, &status));
                }
                if let Some(job) = dead_letter {
                    self.stage_append(Queue::ProcError, job, batch);
                }
                self.stage_end(queue, part, lease.job_id, held);
            }
            Outcome::Failed { status, blocks_user } => {
                let place = Place::Delayed(u64::try_from(status.retry_ms).unwrap_or(0));
                let blocks_user = blocks_user && shared.queue(queue).is_ordered();
                self.stage_move(queue, part, lease.job_id, held, place, JobState::Failed, &status, blocks_user, batch);
            }
            Outcome::Importing { status } => {
                self.stage_move(
                    queue,
                    part,
                    lease.job_id,
                    held,
                    Place::Importing,
                    JobState::Importing,
                    &status,
                    false,
                    batch,
                );
            }
        }
        true
    }

    fn stage_end(&mut self, queue: Queue, part: Arc<PartState>, id: u64, held: Held) {
        self.carried.remove(&(queue, id));
        let finished = self.shared.queue(queue).datasets.lock().ended(held.entry.dataset, u64::from(held.entry.bytes));
        self.something_finished |= finished;
        self.touched_datasets.insert((queue, held.entry.dataset));
        self.changes.push(Change::Ended { queue, part, id, held });
    }

    #[allow(clippy::too_many_arguments, reason = "one transition, each part of it named")]
    fn stage_move(
        &mut self,
        queue: Queue,
        part: Arc<PartState>,
        id: u64,
        from: Held,
        place: Place,
        state: JobState,
        status: &Status,
        blocks_user: bool,
        batch: &mut Batch<'_>,
    ) {
        let entry = IndexEntry { attempt: status.attempt.max(1), ..from.entry };
        batch.put(Family::Status, keys::job(queue, entry.dataset, id).as_ref(), &record::encode_status(state, status));
        let key = keys::index(queue, part.partition.id, id, entry.order_hash, place);
        batch.put(Family::Index, key.as_ref(), &codec::encode(&entry));
        self.changes.push(Change::Moved { queue, part, id, from, to: Held { place, entry }, blocks_user });
    }

    fn stage_blocked(&mut self, blocked: BlockedMove, batch: &mut Batch<'_>) {
        let BlockedMove { queue, part, id, mut held } = blocked;
        self.correct(queue, id, &mut held);
        self.changed.insert((queue, id));
        let shared = Arc::clone(&self.shared);
        let still = shared
            .queue(queue)
            .users
            .lock()
            .get(&held.entry.order_hash)
            .is_some_and(|user| user.blocks(id, held.place));
        if !still {
            self.changes.push(Change::Unblocked { queue, part, id, held });
            return;
        }
        let hash = held.entry.order_hash;
        batch.delete(Family::Index, keys::index(queue, part.partition.id, id, hash, held.place).as_ref());
        let key = keys::index(queue, part.partition.id, id, hash, Place::Blocked);
        batch.put(Family::Index, key.as_ref(), &codec::encode(&held.entry));
        self.changes.push(Change::Blocked { queue, part, id, from: held });
    }

    /// A lease or a move taken before its job was copied out names the old dataset; the writer knows better.
    fn correct(&self, queue: Queue, id: u64, held: &mut Held) {
        if let Some(&dataset) = self.carried.get(&(queue, id)) {
            held.entry.dataset = dataset;
        }
    }

    /// Copies a job into the open carry-over dataset, unless it ended or moved meanwhile (8.4).
    fn stage_relocation(&mut self, relocation: Relocation, batch: &mut Batch<'_>) {
        let Relocation { queue, part, id, held, value } = relocation;
        let shared = Arc::clone(&self.shared);
        // What an earlier member of this batch changed is not in the store yet.
        if self.changed.contains(&(queue, id)) {
            return;
        }
        let index_key = keys::index(queue, part.partition.id, id, held.entry.order_hash, held.place);
        let current = match shared.storage.get(Family::Index, index_key.as_ref()) {
            Ok(Some(bytes)) => codec::decode::<IndexEntry>("index entry", &bytes).ok(),
            _ => None,
        };
        if current != Some(held.entry) {
            return;
        }
        let old_key = keys::job(queue, held.entry.dataset, id);
        let status = if held.entry.attempt > 0 {
            match shared.storage.get(Family::Status, old_key.as_ref()) {
                Ok(status) => status,
                Err(_) => return,
            }
        } else {
            None
        };
        self.changed.insert((queue, id));
        let state = shared.queue(queue);
        let mut datasets = state.datasets.lock();
        let bytes = u64::from(held.entry.bytes);
        let (number, sealed) = datasets.carry_over(id, bytes, shared.clock.now_ms(), shared.dataset_rules(queue));
        let finished = datasets.ended(held.entry.dataset, bytes);
        drop(datasets);
        self.something_finished |= finished;
        self.carried.insert((queue, id), number);
        self.touched_datasets.extend(sealed.map(|sealed| (queue, sealed)));
        self.touched_datasets.insert((queue, number));
        self.touched_datasets.insert((queue, held.entry.dataset));
        self.touched_queues.insert(queue);
        let key = keys::job(queue, number, id);
        batch.put(Family::Jobs, key.as_ref(), &value);
        if let Some(status) = status {
            batch.put(Family::Status, key.as_ref(), &status);
        }
        let entry = IndexEntry { dataset: number, ..held.entry };
        batch.put(Family::Index, index_key.as_ref(), &codec::encode(&entry));
        self.changes.push(Change::Relocated { part, id, dataset: number });
    }

    fn stage_seals(&mut self) {
        let now_ms = self.shared.clock.now_ms();
        for state in &self.shared.queues {
            for sealed in state.datasets.lock().seal_old(self.shared.dataset_rules(state.queue), now_ms) {
                self.touched_datasets.insert((state.queue, sealed));
            }
        }
    }

    /// Removes finished datasets in the batch that finishes them: while their bytes are still in memory they
    /// then never reach a file (8.1).
    fn stage_drops(&mut self, batch: &mut Batch<'_>) {
        let shared = Arc::clone(&self.shared);
        let now_ms = shared.clock.now_ms();
        for state in &shared.queues {
            let queue = state.queue;
            for range in state.datasets.lock().drop_finished(queue, shared.dataset_rules(queue), now_ms) {
                let (from, to) = keys::dataset_range(queue, range.first, range.last);
                batch.delete_range(Family::Jobs, from.as_ref(), to.as_ref());
                batch.delete_range(Family::Status, from.as_ref(), to.as_ref());
                for number in &range.numbers {
                    batch.delete(Family::Meta, keys::dataset(queue, *number).as_ref());
                    self.touched_datasets.remove(&(queue, *number));
                }
                self.dropped.push(range);
            }
        }
    }

    fn stage_quarantine(&mut self, lease: Lease, dataset: u32, value: &[u8], batch: &mut Batch<'_>) {
        let job_key = keys::job(lease.queue, dataset, lease.job_id);
        let mut key = vec![super::api::Namespace::Quarantine as u8];
        key.extend_from_slice(job_key.as_ref());
        batch.put(Family::Records, &key, value);
        let now_ms = self.shared.clock.now_ms();
        let status = Status {
            exec_ms: now_ms,
            retry_ms: now_ms,
            error_response: br#"{"reason":"storage corruption"}"#.to_vec(),
            parameters: b"{}".to_vec(),
            ..Status::default()
        };
        self.stage_outcome(lease, Outcome::Aborted { status, dead_letter: None }, None, batch);
    }

    /// Writes the batch, then tells memory and callers.
    fn commit(&mut self, mut batch: Batch<'_>, members: usize) {
        let shared = Arc::clone(&self.shared);
        if std::mem::take(&mut self.something_finished) {
            self.stage_drops(&mut batch);
        }
        self.changed.clear();
        self.runs.write(&mut batch);
        for queue in std::mem::take(&mut self.touched_queues) {
            let state = shared.queue(queue);
            let datasets = state.datasets.lock();
            let record = record::QueueRecord {
                last_job_id: state.last_job_id.load(Ordering::Relaxed),
                next_dataset: datasets.next,
                next_carry_over: datasets.next_carry_over,
            };
            batch.put(Family::Meta, keys::queue(queue).as_ref(), &codec::encode(&record));
        }
        for (queue, number) in std::mem::take(&mut self.touched_datasets) {
            if let Some(dataset) = shared.queue(queue).datasets.lock().all.get(&number) {
                batch.put(Family::Meta, keys::dataset(queue, number).as_ref(), &codec::encode(dataset));
            }
        }
        let (bytes, is_empty) = (batch.bytes(), batch.is_empty());
        if !is_empty && let Err(error) = shared.storage.write(batch) {
            self.fail(&error);
            return;
        }
        super::events::batch_written(members, bytes);
        if !self.dropped.is_empty() {
            super::events::datasets_dropped(&self.dropped);
            shared.dropped.lock().append(&mut self.dropped);
        }
        self.apply_changes(&shared);
        if std::mem::take(&mut self.has_staged) {
            shared.staging.wake();
        }
        let is_lazy = |answer: &mut Answer| answer.durability == Durability::Lazy;
        for answer in self.answers.extract_if(.., is_lazy) {
            drop(answer.permits);
            answer_to(answer.verdict, Ok(answer.receipt));
        }
        for done in self.waiting.drain(..) {
            if done.send(()).is_err() {
                tracing::debug!("nobody waits for the batch any more");
            }
        }
        if let Some(longest_wait) = self.answers.first().map(|answer| answer.sent) {
            let flushed = self.flush();
            super::events::acknowledged(longest_wait.elapsed());
            for answer in self.answers.drain(..) {
                drop(answer.permits);
                answer_to(answer.verdict, flushed.clone().map(|()| answer.receipt));
            }
        } else if !is_empty {
            self.flush_by = self.flush_by.or_else(|| Some(Instant::now() + shared.limits.lazy_flush_interval));
        }
    }

    /// Tells memory what was written, and wakes once per partition who waits for it.
    fn apply_changes(&mut self, shared: &Arc<Shared>) {
        let mut stored: BTreeMap<(Queue, u32), Arc<PartState>> = BTreeMap::new();
        let mut last = None;
        for change in self.changes.drain(..) {
            if let Change::Stored { queue, part, .. } = &change
                && last != Some((*queue, part.partition.id))
            {
                last = Some((*queue, part.partition.id));
                stored.insert((*queue, part.partition.id), Arc::clone(part));
            }
            shared.apply(change);
        }
        for ((queue, _), part) in stored {
            // Somebody who waits for all partitions hears of those that nobody works on yet.
            if !part.wake() {
                shared.queue(queue).appeared.notify_one();
            }
        }
    }

    /// Nothing of the batch is acknowledged; the store is poisoned and the node will restart.
    fn fail(&mut self, error: &StorageError) {
        error!(%error, members = self.answers.len(), "a batch could not be written");
        self.changes.clear();
        for answer in self.answers.drain(..) {
            drop(answer.permits);
            answer_to(answer.verdict, Err(JobsDbError::Failed(error.to_string())));
        }
        self.waiting.clear();
        self.dropped.clear();
        self.shared.poisoned(error);
    }
}

/// A caller that no longer waits (a client that went away) is not an error.
fn answer_to(verdict: Verdict, answer: Result<Receipt, JobsDbError>) {
    if verdict.send(answer).is_err() {
        tracing::trace!("the caller of a commit no longer waits");
    }
}

//! What the queues do by themselves: give back disk, keep ages, watch free space (storage-design.md 8, 12).
//!
//! One thread, one look a second from counters in memory; an idle node writes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use tracing::{error, info, warn};

use super::api::{Durability, Gate, JobsDbError, Lease, Outcome, Queue, Select, Status, Tx};
use super::keys::{self, Place};
use super::record::{self, IndexEntry};
use super::runs::RunOfJob;
use super::state::{Held, QueueState};
use super::writer::{Relocation, Request};
use super::{Shared, failed, millis};
use crate::storage::{self, Ballast, Family, Storage, StorageError, codec};

const LOOK: Duration = Duration::from_secs(1);
const AGE_CHECK: Duration = Duration::from_secs(3_600);
const DEAD_LETTER_CHECK: Duration = Duration::from_secs(30);
/// Datasets copied out in one round.
const COPIES_PER_ROUND: usize = 10;
/// Bytes of one copy, and of copies per second, so that copying never competes with ingestion.
const COPY_BYTES: usize = 1 << 20;
const COPY_BYTES_PER_SECOND: u64 = 4 << 20;
/// Jobs that one batch gives up for their age.
const EXPIRED_AT_ONCE: usize = 1_000;
/// Difference of wall clock and steady clock between two looks above which ages are not trusted.
const MOST_JUMP_MS: i64 = 3_600_000;
/// Bytes of log above which an idle store is worth shortening, and how long it must have been idle.
const WORTH_SHORTENING: u64 = 16 << 20;
const QUIET: Duration = Duration::from_secs(5);
/// Longest wait for the writer.
const WRITER_WAIT: Duration = Duration::from_secs(60);

/// Disk guard, seals and drops: quick looks that nothing may hold up.
pub(super) fn run(shared: &Arc<Shared>, stop: &Receiver<()>) {
    let mut disk = DiskWatch::new(shared);
    while waits(stop, LOOK) {
        shared.watch_disk(&mut disk);
        shared.seal_and_drop();
        shared.drop_files();
        disk.shorten_log(&shared.storage);
    }
}

/// Copies, ages and evictions, which take their time.
pub(super) fn run_slow(shared: &Arc<Shared>, stop: &Receiver<()>) {
    let mut stragglers = shared.queues.each_ref().map(|_| Instant::now());
    let mut ages = Instant::now();
    let mut clock_at_ages = shared.clock.now_ms();
    let mut dead_letters = Instant::now();
    let mut runs = Instant::now();
    while waits(stop, LOOK) {
        for (state, last) in shared.queues.iter().zip(&mut stragglers) {
            let settings = shared.queue_settings(state.queue);
            if state.queue != Queue::ProcError && last.elapsed() >= settings.straggler_interval {
                *last = Instant::now();
                report(shared.copy_out(state, stop), "copying stragglers out");
            }
        }
        if ages.elapsed() >= AGE_CHECK {
            let (steady, now_ms) = (millis(ages.elapsed()), shared.clock.now_ms());
            let jump = now_ms.saturating_sub(clock_at_ages).saturating_sub(steady).abs();
            (ages, clock_at_ages) = (Instant::now(), now_ms);
            if jump > MOST_JUMP_MS {
                warn!(jump_ms = jump, "the clock jumped: no job is given up for its age until the next look");
            } else {
                report(shared.expire_old_jobs(), "giving up old jobs");
                shared.send(Request::ForgetDedup { before: super::dedup_bucket(now_ms) });
            }
        }
        if runs.elapsed() >= shared.runs.cleanup_interval {
            runs = Instant::now();
            shared.tidy_runs();
        }
        if dead_letters.elapsed() >= DEAD_LETTER_CHECK {
            dead_letters = Instant::now();
            report(shared.bound_dead_letters(), "bounding dead letters");
        }
    }
}

/// Waits; false when it is time to stop.
fn waits(stop: &Receiver<()>, time: Duration) -> bool {
    matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
}

fn report(outcome: Result<(), JobsDbError>, what: &str) {
    if let Err(error) = outcome {
        warn!(%error, "{what} failed; it is tried again later");
    }
}

impl Shared {
    /// Has the writer seal what is old and drop what is finished.
    pub(super) fn seal_and_drop(&self) {
        let now_ms = self.clock.now_ms();
        let is_due = |state: &QueueState| state.datasets.lock().needs_upkeep(self.dataset_rules(state.queue), now_ms);
        if self.storage.poisoned().is_some() || !self.queues.iter().any(is_due) {
            return;
        }
        let (done, answer) = bounded(1);
        self.send(Request::Upkeep { done });
        if answer.recv_timeout(WRITER_WAIT).is_err() {
            error!("the writer does not answer");
        }
    }

    /// Removes the files of dropped datasets. The flush first: dropping files is durable at once, and a power
    /// cut must not lose the outcomes that made the datasets finished (8.3).
    pub(super) fn drop_files(&self) {
        let dropped = std::mem::take(&mut *self.dropped.lock());
        if dropped.is_empty() {
            return;
        }
        let drop_all = || -> Result<(), StorageError> {
            self.storage.flush()?;
            for range in &dropped {
                let (from, to) = keys::dataset_range(range.queue, range.first, range.last);
                for family in [Family::Jobs, Family::Status] {
                    self.storage.drop_files(family, from.as_ref(), to.as_ref())?;
                }
            }
            Ok(())
        };
        if let Err(error) = drop_all() {
            warn!(%error, "files of finished datasets stay until the next compaction");
        }
    }

    /// Copies the few pending jobs of old datasets into the carry-over dataset, so that the old ones can go.
    pub(super) fn copy_out(&self, state: &QueueState, stop: &Receiver<()>) -> Result<(), JobsDbError> {
        let settings = self.queue_settings(state.queue);
        let candidates: BTreeSet<u32> = state
            .datasets
            .lock()
            .with_stragglers(
                self.dataset_rules(state.queue),
                millis(settings.straggler_min_age),
                settings.straggler_share,
                self.clock.now_ms(),
                COPIES_PER_ROUND,
            )
            .into_iter()
            .collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let stragglers = self.pending_in(state, &candidates).map_err(failed)?;
        let total = stragglers.len();
        let mut moves = Vec::new();
        let mut bytes = 0;
        for (partition, id, held) in stragglers {
            let Some(part) = state.known_part(partition) else { continue };
            let key = keys::job(state.queue, held.entry.dataset, id);
            let Some(value) = self.storage.get(Family::Jobs, key.as_ref()).map_err(failed)? else { continue };
            bytes += value.len();
            moves.push(Relocation { queue: state.queue, part, id, held, value });
            if bytes >= COPY_BYTES {
                self.relocate(std::mem::take(&mut moves))?;
                let pause = Duration::from_millis(bytes as u64 * 1_000 / COPY_BYTES_PER_SECOND);
                bytes = 0;
                if !matches!(stop.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                    return Ok(());
                }
            }
        }
        if !moves.is_empty() {
            self.relocate(moves)?;
        }
        super::events::carried_over(state.queue, total);
        Ok(())
    }

    fn relocate(&self, moves: Vec<Relocation>) -> Result<(), JobsDbError> {
        let (done, answer) = bounded(1);
        self.send(Request::Relocate { moves, done });
        answer.recv_timeout(WRITER_WAIT).map_err(|_| JobsDbError::Timeout)
    }

    /// Pending jobs of some datasets, by their index entries.
    fn pending_in(&self, state: &QueueState, datasets: &BTreeSet<u32>) -> Result<Vec<(u32, u64, Held)>, StorageError> {
        let mut found = Vec::new();
        let (first, last) = {
            let all = &state.datasets.lock().all;
            let records = datasets.iter().filter_map(|number| all.get(number));
            records.fold((u64::MAX, 0), |(first, last), record| {
                (first.min(record.first_job_id), last.max(record.last_job_id))
            })
        };
        let partitions: Vec<u32> = state.parts.read().keys().copied().collect();
        let mut ranges: Vec<(keys::Key, keys::Key)> = partitions
            .into_iter()
            .map(|partition| keys::ready_range(state.queue, partition, first, last.saturating_add(1)))
            .collect();
        ranges.extend(
            [Place::Delayed(0), Place::Blocked, Place::Importing].map(|place| keys::kind_range(state.queue, place)),
        );
        for (from, to) in ranges {
            let mut scan = self.storage.scan(Family::Index, from.as_ref(), to.as_ref())?;
            while let Some((key, value)) = scan.next_entry()? {
                let Some(position) = keys::parse_index(key) else { continue };
                let entry: IndexEntry = codec::decode("index entry", value)?;
                if datasets.contains(&entry.dataset) {
                    found.push((position.partition, position.id, Held { place: position.place, entry }));
                }
            }
        }
        Ok(found)
    }

    /// Gives up runnable jobs that are older than their queue keeps them.
    pub(super) fn expire_old_jobs(self: &Arc<Self>) -> Result<(), JobsDbError> {
        for state in &self.queues {
            let now_ms = self.clock.now_ms();
            let cutoff = now_ms.saturating_sub(millis(self.queue_settings(state.queue).job_max_age));
            let status = Status {
                exec_ms: now_ms,
                retry_ms: now_ms,
                error_response: br#"{"reason": "job max age exceeded"}"#.to_vec(),
                parameters: b"{}".to_vec(),
                ..Status::default()
            };
            let is_dead_letter = state.queue == Queue::ProcError;
            let mut expired = 0;
            loop {
                let leases = self.lease_older(state.queue, &Select::default(), EXPIRED_AT_ONCE, cutoff)?;
                let count = leases.len();
                let outcome = || {
                    if is_dead_letter {
                        Outcome::Succeeded
                    } else {
                        Outcome::Aborted { status: status.clone(), dead_letter: None }
                    }
                };
                self.finish_all(leases, outcome, |lease| self.run_of(lease))?;
                expired += count;
                if count < EXPIRED_AT_ONCE {
                    break;
                }
            }
            if expired > 0 {
                warn!(queue = state.queue.name(), jobs = expired, "jobs older than jobMaxAge were given up");
            }
        }
        Ok(())
    }

    /// Pushes out the oldest dead letters while they take more than `JobsDB.proc_error.maxBytes`.
    pub(super) fn bound_dead_letters(self: &Arc<Self>) -> Result<(), JobsDbError> {
        let state = self.queue(Queue::ProcError);
        let bytes = || state.pending_bytes.load(std::sync::atomic::Ordering::Relaxed);
        let mut pushed_out = 0;
        while bytes() > self.settings.dead_letter_max_bytes {
            let leases = self.lease_older(Queue::ProcError, &Select::default(), EXPIRED_AT_ONCE, i64::MAX)?;
            if leases.is_empty() {
                break;
            }
            pushed_out += leases.len();
            self.finish_all(leases, || Outcome::Succeeded, |_| None)?;
        }
        if pushed_out > 0 {
            super::events::dead_letters_pushed_out(pushed_out);
            warn!(jobs = pushed_out, "the oldest dead letters were pushed out by JobsDB.proc_error.maxBytes");
        }
        Ok(())
    }

    /// What the end of a leased job counts for, from the job as it is stored.
    fn run_of(&self, lease: Lease) -> Option<RunOfJob> {
        let part = self.queue(lease.queue).known_part(lease.partition)?;
        let dataset = part.inner.lock().leased.get(&lease.job_id)?.entry.dataset;
        let value = self.storage.get(Family::Jobs, keys::job(lease.queue, dataset, lease.job_id).as_ref()).ok()??;
        let (head, _) = record::decode_job(&value).ok()?;
        RunOfJob::read(lease.queue, head.parameters, &part.partition.source_id, &part.partition.destination_id)
    }

    fn finish_all(
        &self,
        leases: Vec<(Lease, u64)>,
        outcome: impl Fn() -> Outcome,
        run: impl Fn(Lease) -> Option<RunOfJob>,
    ) -> Result<(), JobsDbError> {
        if leases.is_empty() {
            return Ok(());
        }
        let mut tx = Tx::new(Durability::Lazy);
        for (lease, _) in leases {
            tx.finish_of_run(lease, outcome(), run(lease));
        }
        let permits = super::block_on(self.permits(&tx))??;
        let (verdict, receiver) = tokio::sync::oneshot::channel();
        self.send(Request::Commit { tx, verdict, permits, sent: Instant::now() });
        receiver.blocking_recv().map_err(|_| super::stopped())?.map(|_| ())
    }

    /// Looks at the free space and opens or closes the gate.
    pub(super) fn watch_disk(&self, disk: &mut DiskWatch) {
        if let Some(reason) = self.storage.poisoned() {
            let is_new = self.gate.send_if_modified(|gate| {
                let is_new = !matches!(gate, Gate::Poisoned(_));
                if is_new {
                    *gate = Gate::Poisoned(reason.clone());
                }
                is_new
            });
            if is_new {
                ballast(self).release();
            }
            return;
        }
        let space = match storage::free_space(self.storage.directory()) {
            Ok(space) => space,
            Err(error) => {
                warn!(%error, "free space is unknown");
                return;
            }
        };
        let waiting =
            u64::from(self.room_permits).saturating_sub(self.room.available_permits() as u64) * super::PERMIT_BYTES;
        let free = space.free.saturating_sub(waiting);
        let (soft, hard) = storage::limits_for(space.total, self.limits.soft_free, self.limits.hard_free);
        let before = self.gate.borrow().clone();
        let gate = gate_for(&before, free, soft, hard);
        if gate != before {
            match &gate {
                Gate::Open => info!(free, "there is room again: events are accepted"),
                Gate::IngestClosed(reason) | Gate::ProcessorClosed(reason) | Gate::Poisoned(reason) => {
                    warn!(reason, "events are refused");
                }
            }
            self.gate.send_if_modified(|current| {
                // A store that failed meanwhile stays failed.
                let may_change = !matches!(current, Gate::Poisoned(_));
                if may_change {
                    *current = gate.clone();
                }
                may_change
            });
        }
        disk.keep_ballast(free, soft);
    }
}

/// The gate by free bytes; it opens again only with half as much more room than it closed at.
fn gate_for(before: &Gate, free: u64, soft: u64, hard: u64) -> Gate {
    let describe =
        |limit: u64, what: &str| format!("{free} bytes are free on the data disk, {what} pauses below {limit}");
    let was_closed = !before.accepts_events();
    let processor_was_closed = !before.lets_process();
    if free < hard || (processor_was_closed && free < hard.saturating_add(hard / 2)) {
        Gate::ProcessorClosed(describe(hard, "processing"))
    } else if free < soft {
        Gate::IngestClosed(describe(soft, "ingestion"))
    } else if was_closed && free <= soft.saturating_add(soft / 2) {
        match before {
            Gate::IngestClosed(reason) => Gate::IngestClosed(reason.clone()),
            _ => Gate::IngestClosed(describe(soft, "ingestion")),
        }
    } else {
        Gate::Open
    }
}

pub(super) fn ballast(shared: &Shared) -> Ballast {
    Ballast::new(shared.storage.directory(), shared.limits.ballast)
}

/// What the disk guard remembers between looks.
pub(super) struct DiskWatch {
    ballast: Ballast,
    bytes: u64,
    has_warned: bool,
    /// Bytes written when the log was last shortened, and at the last look.
    shortened_at: u64,
    written: u64,
    quiet_since: Instant,
}

impl DiskWatch {
    pub fn new(shared: &Shared) -> DiskWatch {
        DiskWatch {
            ballast: ballast(shared),
            bytes: shared.limits.ballast,
            has_warned: false,
            shortened_at: 0,
            written: 0,
            quiet_since: Instant::now(),
        }
    }

    /// Gives back the log of a busy time once it is quiet: most of what it holds is finished.
    fn shorten_log(&mut self, storage: &Storage) {
        let written = storage.written();
        if written != self.written {
            self.written = written;
            self.quiet_since = Instant::now();
        }
        if written.saturating_sub(self.shortened_at) < WORTH_SHORTENING || self.quiet_since.elapsed() < QUIET {
            return;
        }
        self.shortened_at = written;
        if let Err(error) = storage.compact_log() {
            warn!(%error, "the log of the store stays as long as it is");
        }
    }

    /// Puts the reserve in place while there is plenty of room.
    fn keep_ballast(&mut self, free: u64, soft: u64) {
        if self.ballast.is_there() || free < soft.saturating_mul(2).saturating_add(self.bytes) {
            return;
        }
        if let Err(error) = self.ballast.fill()
            && !self.has_warned
        {
            self.has_warned = true;
            warn!(%error, "there is no reserve for a full disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_closes_in_two_steps_and_opens_with_room_to_spare() {
        let at = |before: &Gate, free| gate_for(before, free, 100, 50);
        let open = Gate::Open;
        assert_eq!(at(&open, 100), Gate::Open);
        let closed = at(&open, 99);
        assert!(matches!(closed, Gate::IngestClosed(_)));
        assert!(matches!(at(&closed, 150), Gate::IngestClosed(_)));
        assert_eq!(at(&closed, 151), Gate::Open);
        let all_closed = at(&closed, 49);
        assert!(matches!(all_closed, Gate::ProcessorClosed(_)));
        assert!(matches!(at(&all_closed, 74), Gate::ProcessorClosed(_)));
        assert!(matches!(at(&all_closed, 76), Gate::IngestClosed(_)));
        assert_eq!(at(&all_closed, 200), Gate::Open);
    }
}

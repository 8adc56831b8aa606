//! Picking jobs: which are next, and their values (storage-design.md 7.2).
//!
//! Cost is that of the jobs returned, whatever was completed before and however many partitions or
//! datasets there are: every partition is read from its cursor on, and blocked, delayed and leased jobs
//! are not in the way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::MutexGuard;
use tracing::error;
use uuid::Uuid;

use super::Shared;
use super::api::{Job, JobsDbError, LastStatus, Lease, Limits, Page, Queue, Select};
use super::keys::{self, Place};
use super::record::{self, IndexEntry};
use super::state::{Held, PartInner, PartState, QueueState};
use super::writer::{BlockedMove, Request};
use crate::storage::{Family, Scan, StorageError, codec};

/// Jobs of blocked users that one fetch moves out of the way at most.
const MOST_MOVES: usize = 10_000;

/// A chosen job.
struct Choice {
    part: Arc<PartState>,
    id: u64,
    held: Held,
    /// Its value, if memory still has it.
    value: Option<Bytes>,
}

/// What choosing found.
#[derive(Default)]
struct Choices {
    jobs: Vec<Choice>,
    limits_reached: bool,
    keys_touched: u64,
    moves: Vec<BlockedMove>,
    /// Why choosing ended early; what was chosen before is leased and stays good.
    failure: Option<StorageError>,
}

impl Shared {
    /// Leases and loads the next runnable jobs.
    pub(super) fn fetch(self: &Arc<Self>, queue: Queue, select: &Select, limits: Limits) -> Result<Page, JobsDbError> {
        let state = self.queue(queue);
        let mut chosen = self.choose(state, select, limits, i64::MAX);
        self.move_blocked(std::mem::take(&mut chosen.moves));
        if chosen.jobs.is_empty()
            && let Some(error) = chosen.failure
        {
            return Err(failed(error));
        }
        let mut page =
            Page { jobs: Vec::new(), limits_reached: chosen.limits_reached, keys_touched: chosen.keys_touched };
        self.load(state, chosen.jobs, &mut page)?;
        Ok(page)
    }

    /// Leases jobs created before `created_before_ms` without loading them, for age limits and evictions.
    pub(super) fn lease_older(
        self: &Arc<Self>,
        queue: Queue,
        select: &Select,
        jobs: usize,
        created_before_ms: i64,
    ) -> Result<Vec<(Lease, u64)>, JobsDbError> {
        let limits = Limits { jobs, events: 0, bytes: 0 };
        let mut chosen = self.choose(self.queue(queue), select, limits, created_before_ms);
        self.move_blocked(std::mem::take(&mut chosen.moves));
        if chosen.jobs.is_empty()
            && let Some(error) = chosen.failure
        {
            return Err(failed(error));
        }
        let leases = chosen.jobs.iter().map(|choice| {
            let lease = Lease { queue, partition: choice.part.partition.id, job_id: choice.id };
            (lease, u64::from(choice.held.entry.bytes))
        });
        Ok(leases.collect())
    }

    fn move_blocked(&self, moves: Vec<BlockedMove>) {
        if !moves.is_empty() {
            self.send(Request::Block(moves));
        }
    }

    fn choose(&self, state: &QueueState, select: &Select, limits: Limits, created_before_ms: i64) -> Choices {
        let mut found = Choices::default();
        if limits.jobs == 0 {
            return found;
        }
        let parts = state.chosen(select);
        // Users first, then partitions in ascending order: the lock order of `state`.
        // Without any blocked user the lock is given back at once; a user who gets blocked meanwhile is held
        // by the router's barrier, which hears of a failure before it is stored.
        let mut users = state.is_ordered().then(|| state.users.lock()).filter(|users| !users.is_empty());
        let mut heads: Vec<Head<'_>> = parts
            .iter()
            .map(|part| Head { part, inner: part.inner.lock(), scan: None, scan_end: 0, next_ready: None })
            .collect();
        let (mut events, mut bytes) = (0_u64, 0_u64);
        loop {
            let (index, id) = match next_of(&mut heads, self, state.queue, &mut found.keys_touched) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    found.failure = Some(error);
                    break;
                }
            };
            let Some(head) = heads.get_mut(index) else { break };
            let Some(held) = head.held(id) else { break };
            if held.entry.created_ms >= created_before_ms {
                break;
            }
            if let Some(users) = users.as_mut()
                && held.entry.order_hash != 0
                && let Some(user) = users.get_mut(&held.entry.order_hash)
                && user.blocks(id, held.place)
            {
                head.take(state, id);
                match held.place {
                    // On disk it is in the blocked index already: forget it until the user is free.
                    Place::Blocked => user.unload(id),
                    _ => {
                        user.moving.insert(id);
                        found.moves.push(BlockedMove { queue: state.queue, part: Arc::clone(head.part), id, held });
                    }
                }
                if found.moves.len() >= MOST_MOVES {
                    found.limits_reached = true;
                    break;
                }
                continue;
            }
            let more_events = events + u64::from(held.entry.events);
            let more_bytes = bytes + u64::from(held.entry.bytes);
            let is_first = found.jobs.is_empty();
            let over =
                (limits.events > 0 && more_events > limits.events) || (limits.bytes > 0 && more_bytes > limits.bytes);
            if over && !is_first {
                found.limits_reached = true;
                break;
            }
            (events, bytes) = (more_events, more_bytes);
            let value = head.take(state, id);
            head.inner.leased.insert(id, held);
            found.jobs.push(Choice { part: Arc::clone(head.part), id, held, value });
            if found.jobs.len() >= limits.jobs
                || (limits.events > 0 && events >= limits.events)
                || (limits.bytes > 0 && bytes >= limits.bytes)
            {
                found.limits_reached = true;
                break;
            }
        }
        found
    }

    /// Reads the values of leased jobs. A damaged value is put aside and its job aborted; a job that cannot
    /// be read now is given back for a later fetch.
    fn load(
        self: &Arc<Self>,
        state: &QueueState,
        mut choices: Vec<Choice>,
        page: &mut Page,
    ) -> Result<(), JobsDbError> {
        let queue = state.queue;
        let mut values = self.values(queue, &mut choices);
        page.jobs.reserve(choices.len());
        let mut unreadable = None;
        for (mut choice, value) in choices.into_iter().zip(values.drain(..)) {
            let lease = Lease { queue, partition: choice.part.partition.id, job_id: choice.id };
            let value = match value {
                Ok(None) => self.read_again(queue, &mut choice),
                other => other,
            };
            match value {
                Ok(Some(value)) => match self.job(queue, &mut choice, lease, value) {
                    Ok(job) => page.jobs.push(job),
                    Err((value, problem)) if problem.is_damage() => {
                        self.quarantine(lease, &choice, value, &problem.to_string());
                    }
                    Err((_, problem)) => {
                        self.release(&[lease]);
                        unreadable = Some(problem);
                    }
                },
                Ok(None) => self.quarantine(lease, &choice, Vec::new(), "the job's value is missing"),
                Err(problem) if problem.is_damage() => {
                    self.quarantine(lease, &choice, Vec::new(), &problem.to_string());
                }
                Err(problem) => {
                    self.release(&[lease]);
                    unreadable = Some(problem);
                }
            }
        }
        match unreadable {
            Some(problem) if page.jobs.is_empty() => Err(failed(problem)),
            Some(problem) => {
                error!(queue = queue.name(), %problem, "some jobs cannot be read now; they are tried again");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The values of chosen jobs, in their order: those that memory still has, the others in one sorted read.
    fn values(&self, queue: Queue, choices: &mut [Choice]) -> Vec<Result<Option<Bytes>, StorageError>> {
        let mut values: Vec<Result<Option<Bytes>, StorageError>> = Vec::with_capacity(choices.len());
        let mut missing: Vec<(usize, keys::Key)> = Vec::new();
        for (index, choice) in choices.iter_mut().enumerate() {
            let value = choice.value.take();
            if value.is_none() {
                missing.push((index, keys::job(queue, choice.held.entry.dataset, choice.id)));
            }
            values.push(Ok(value));
        }
        if missing.is_empty() {
            return values;
        }
        missing.sort_by(|a, b| a.1.as_ref().cmp(b.1.as_ref()));
        let sorted: Vec<keys::Key> = missing.iter().map(|(_, key)| *key).collect();
        match self.storage.get_sorted(Family::Jobs, &sorted) {
            Ok(loaded) => {
                for ((index, _), value) in missing.into_iter().zip(loaded) {
                    if let Some(slot) = values.get_mut(index) {
                        *slot = Ok(value.map(Bytes::from));
                    }
                }
            }
            // One unreadable block fails them all together: read one by one, so that only its jobs suffer.
            Err(_) => {
                for (index, key) in missing {
                    if let Some(slot) = values.get_mut(index) {
                        *slot = self.storage.get(Family::Jobs, key.as_ref()).map(|value| value.map(Bytes::from));
                    }
                }
            }
        }
        values
    }

    /// The job was copied out between choosing and loading: its index entry names the new place.
    fn read_again(&self, queue: Queue, choice: &mut Choice) -> Result<Option<Bytes>, StorageError> {
        let partition = choice.part.partition.id;
        let key = keys::index(queue, partition, choice.id, choice.held.entry.order_hash, choice.held.place);
        let Some(bytes) = self.storage.get(Family::Index, key.as_ref())? else { return Ok(None) };
        let entry: IndexEntry = codec::decode("index entry", &bytes)?;
        choice.held.entry.dataset = entry.dataset;
        let value = self.storage.get(Family::Jobs, keys::job(queue, entry.dataset, choice.id).as_ref())?;
        Ok(value.map(Bytes::from))
    }

    fn job(
        &self,
        queue: Queue,
        choice: &mut Choice,
        lease: Lease,
        value: Bytes,
    ) -> Result<Job, (Vec<u8>, StorageError)> {
        let last = match self.last_status(queue, choice) {
            Ok(last) => last,
            Err(problem) => return Err((value.to_vec(), problem)),
        };
        let read = || -> Result<Job, StorageError> {
            let (head, payload_at) = record::decode_job(&value)?;
            Ok(Job {
                id: choice.id,
                lease,
                partition: Arc::clone(&choice.part.partition),
                uuid: Uuid::from_bytes(head.uuid),
                created_us: head.created_us,
                event_count: head.event_count,
                user_id: head.user_id.to_owned(),
                parameters: value.slice_ref(head.parameters),
                payload: value.slice(payload_at..),
                last,
            })
        };
        read().map_err(|problem| (value.to_vec(), problem))
    }

    fn last_status(&self, queue: Queue, choice: &mut Choice) -> Result<Option<LastStatus>, StorageError> {
        if choice.held.entry.attempt == 0 {
            return Ok(None);
        }
        let read = |dataset: u32| self.storage.get(Family::Status, keys::job(queue, dataset, choice.id).as_ref());
        let mut bytes = read(choice.held.entry.dataset)?;
        if bytes.is_none() {
            // Copied out meanwhile: the status went along.
            let key = keys::index(
                queue,
                choice.part.partition.id,
                choice.id,
                choice.held.entry.order_hash,
                choice.held.place,
            );
            if let Some(entry) = self.storage.get(Family::Index, key.as_ref())? {
                let entry: IndexEntry = codec::decode("index entry", &entry)?;
                bytes = read(entry.dataset)?;
                choice.held.entry.dataset = entry.dataset;
            }
        }
        bytes.map(|bytes| record::decode_status(&bytes)).transpose()
    }

    fn quarantine(&self, lease: Lease, choice: &Choice, value: Vec<u8>, problem: &str) {
        error!(
            queue = lease.queue.name(),
            job_id = lease.job_id,
            dataset = choice.held.entry.dataset,
            problem,
            "a stored job cannot be read; its bytes are kept in quarantine and the job is aborted"
        );
        super::events::quarantined(lease.queue);
        self.send(Request::Quarantine { lease, dataset: choice.held.entry.dataset, value });
    }
}

/// The partition with the smallest next id, and that id.
fn next_of<'a>(
    heads: &mut [Head<'a>],
    shared: &'a Shared,
    queue: Queue,
    touched: &mut u64,
) -> Result<Option<(usize, u64)>, StorageError> {
    let mut best: Option<(usize, u64)> = None;
    for (index, head) in heads.iter_mut().enumerate() {
        if let Some(id) = head.peek(shared, queue, touched)?
            && best.is_none_or(|(_, least)| id < least)
        {
            best = Some((index, id));
        }
    }
    Ok(best)
}

/// The next jobs of one partition, locked while a fetch chooses.
struct Head<'a> {
    part: &'a Arc<PartState>,
    inner: MutexGuard<'a, PartInner>,
    scan: Option<Scan<'a>>,
    /// The scan covers ids below this one.
    scan_end: u64,
    next_ready: Option<(u64, IndexEntry)>,
}

impl<'a> Head<'a> {
    /// The smallest id that is next here.
    fn peek(&mut self, shared: &'a Shared, queue: Queue, touched: &mut u64) -> Result<Option<u64>, StorageError> {
        if self.next_ready.is_none() {
            self.next_ready = self.read_ready(shared, queue, touched)?;
        }
        let returned = self.inner.returned.first_key_value().map(|(id, _)| *id);
        let ready = self.next_ready.map(|(id, _)| id);
        Ok(match (returned, ready) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    fn held(&self, id: u64) -> Option<Held> {
        match self.next_ready {
            Some((ready, entry)) if ready == id => Some(Held { place: Place::Ready, entry }),
            _ => self.inner.returned.get(&id).copied(),
        }
    }

    /// Steps over the job that was peeked.
    fn take(&mut self, state: &QueueState, id: u64) -> Option<Bytes> {
        if self.next_ready.is_some_and(|(ready, _)| ready == id) {
            self.next_ready = None;
            self.inner.cursor = id + 1;
            return self.inner.take_recent(id);
        }
        if let Some(held) = self.inner.returned.remove(&id)
            && matches!(held.place, Place::Delayed(_))
        {
            state.promoted.fetch_sub(1, Ordering::Relaxed);
        }
        None
    }

    fn read_ready(
        &mut self,
        shared: &'a Shared,
        queue: Queue,
        touched: &mut u64,
    ) -> Result<Option<(u64, IndexEntry)>, StorageError> {
        loop {
            let inner = &mut *self.inner;
            if inner.cursor > inner.newest {
                if inner.recent_from == u64::MAX {
                    inner.caught_up();
                }
                return Ok(None);
            }
            if inner.cursor >= inner.recent_from {
                if let Some(passed) = inner.cursor.checked_sub(1) {
                    inner.take_recent(passed);
                }
                // The entry stays in front until the cursor has passed it.
                *touched += 1;
                return match inner.recent.front() {
                    Some(front) => Ok(Some((front.id, front.entry))),
                    None => {
                        inner.caught_up();
                        Ok(None)
                    }
                };
            }
            if self.scan.is_none() {
                self.scan_end = inner.recent_from.min(inner.newest.saturating_add(1));
                let (from, to) = keys::ready_range(queue, self.part.partition.id, inner.cursor, self.scan_end);
                self.scan = Some(shared.storage.scan(Family::Index, from.as_ref(), to.as_ref())?);
            }
            let Some(scan) = self.scan.as_mut() else { return Ok(None) };
            *touched += 1;
            if let Some((key, value)) = scan.next_entry()? {
                let Some(position) = keys::parse_index(key) else { continue };
                let entry: IndexEntry = codec::decode("index entry", value)?;
                return Ok(Some((position.id, entry)));
            }
            self.scan = None;
            if inner.recent_from == u64::MAX {
                inner.caught_up();
                return Ok(None);
            }
            inner.cursor = inner.cursor.max(self.scan_end);
        }
    }
}

/// A read that failed is no reason to stop the node: it is tried again.
fn failed(error: StorageError) -> JobsDbError {
    JobsDbError::Unavailable(error.to_string())
}

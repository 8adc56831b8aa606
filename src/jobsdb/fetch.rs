//! Picking jobs: which are next, and their values (storage-design.md 7.2).
//!
//! Cost is that of the jobs returned, whatever was completed before and however many partitions or
//! datasets there are: every partition is read from its cursor on, and blocked, delayed and leased jobs
//! are not in the way.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;
use tracing::error;
use uuid::Uuid;

use super::Shared;
use super::api::{Job, JobsDbError, Lease, Limits, Page, Queue, Select};
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
                head.take(id);
                match held.place {
                    // On disk it is in the blocked index already: forget it until the user is free.
                    Place::Blocked => {
                        user.loaded = user.loaded.saturating_sub(1);
                        user.has_more = true;
                    }
                    _ => found.moves.push(BlockedMove { queue: state.queue, part: Arc::clone(head.part), id, held }),
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
            head.take(id);
            head.inner.leased.insert(id, held);
            found.jobs.push(Choice { part: Arc::clone(head.part), id, held });
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

    /// Reads the values of leased jobs. A value that cannot be read is put aside and its job aborted.
    fn load(self: &Arc<Self>, state: &QueueState, choices: Vec<Choice>, page: &mut Page) -> Result<(), JobsDbError> {
        let queue = state.queue;
        let mut keys: Vec<(usize, keys::Key)> = choices
            .iter()
            .enumerate()
            .map(|(index, choice)| (index, keys::job(queue, choice.held.entry.dataset, choice.id)))
            .collect();
        keys.sort_by(|a, b| a.1.as_ref().cmp(b.1.as_ref()));
        let sorted: Vec<keys::Key> = keys.iter().map(|(_, key)| *key).collect();
        let loaded = self.storage.get_sorted(Family::Jobs, &sorted);
        let loaded = match loaded {
            Ok(values) => values,
            Err(error) => {
                // Give everything back: a later fetch tries again, one by one if need be.
                self.release_choices(queue, &choices);
                return Err(failed(error));
            }
        };
        let mut values: Vec<Option<Vec<u8>>> = Vec::new();
        values.resize_with(choices.len(), || None);
        for ((index, _), value) in keys.into_iter().zip(loaded) {
            if let Some(slot) = values.get_mut(index) {
                *slot = value;
            }
        }
        page.jobs.reserve(choices.len());
        for (choice, value) in choices.into_iter().zip(values) {
            let value = match value {
                Some(value) => Some(value),
                None => self.read_again(queue, &choice).map_err(failed)?,
            };
            let lease = Lease { queue, partition: choice.part.partition.id, job_id: choice.id };
            let Some(value) = value else {
                self.quarantine(lease, &choice, None, "the job's value is missing");
                continue;
            };
            match self.job(queue, &choice, lease, value) {
                Ok(job) => page.jobs.push(job),
                Err((value, problem)) => self.quarantine(lease, &choice, Some(value), &problem.to_string()),
            }
        }
        Ok(())
    }

    fn release_choices(&self, queue: Queue, choices: &[Choice]) {
        let leases: Vec<Lease> = choices
            .iter()
            .map(|choice| Lease { queue, partition: choice.part.partition.id, job_id: choice.id })
            .collect();
        self.release(&leases);
    }

    /// The job was copied out between choosing and loading: its index entry names the new place.
    fn read_again(&self, queue: Queue, choice: &Choice) -> Result<Option<Vec<u8>>, StorageError> {
        let partition = choice.part.partition.id;
        let key = keys::index(queue, partition, choice.id, choice.held.entry.order_hash, choice.held.place);
        let Some(bytes) = self.storage.get(Family::Index, key.as_ref())? else { return Ok(None) };
        let entry: IndexEntry = codec::decode("index entry", &bytes)?;
        self.storage.get(Family::Jobs, keys::job(queue, entry.dataset, choice.id).as_ref())
    }

    fn job(&self, queue: Queue, choice: &Choice, lease: Lease, value: Vec<u8>) -> Result<Job, (Vec<u8>, StorageError)> {
        let value = Bytes::from(value);
        let read = || -> Result<Job, StorageError> {
            let (head, payload_at) = record::decode_job(&value)?;
            let last = if choice.held.entry.attempt == 0 {
                None
            } else {
                let key = keys::job(queue, choice.held.entry.dataset, choice.id);
                match self.storage.get(Family::Status, key.as_ref())? {
                    Some(bytes) => Some(record::decode_status(&bytes)?),
                    None => None,
                }
            };
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

    fn quarantine(&self, lease: Lease, choice: &Choice, value: Option<Vec<u8>>, problem: &str) {
        error!(
            queue = lease.queue.name(),
            job_id = lease.job_id,
            dataset = choice.held.entry.dataset,
            problem,
            "a stored job cannot be read; its bytes are kept in quarantine and the job is aborted"
        );
        super::events::quarantined(lease.queue);
        self.send(Request::Quarantine { lease, dataset: choice.held.entry.dataset, value: value.unwrap_or_default() });
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
    fn take(&mut self, id: u64) {
        if self.next_ready.is_some_and(|(ready, _)| ready == id) {
            self.next_ready = None;
            self.inner.cursor = id + 1;
        } else {
            self.inner.returned.remove(&id);
        }
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
                while inner.recent.front().is_some_and(|(id, _)| *id < inner.cursor) {
                    inner.recent.pop_front();
                }
                // The entry stays in front until the cursor has passed it.
                *touched += 1;
                return match inner.recent.front() {
                    Some(front) => Ok(Some(*front)),
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

fn failed(error: StorageError) -> JobsDbError {
    JobsDbError::Failed(error.to_string())
}

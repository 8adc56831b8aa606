//! What the queues keep in memory: per partition the cursor, the leases and the counters; per queue the
//! users that wait for a failed job, and who wants to be woken (storage-design.md 7.1, 7.4).
//!
//! Lock order: `delayed`, then `users`, then one partition (several only in ascending number).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::api::{Partition, Queue, Select};
use super::events::Meters;
use super::keys::Place;
use super::record::{DatasetRecord, IndexEntry};

/// Ready entries of a partition that are kept in memory so that a short queue is read without the store.
const RECENT: usize = 4_096;

/// Room for values of recent jobs, shared by all queues: a job that is picked soon after it was stored needs
/// no read at all.
#[derive(Debug)]
pub(super) struct RecentRoom {
    used: AtomicUsize,
    most: usize,
}

impl RecentRoom {
    pub fn new(most: usize) -> RecentRoom {
        RecentRoom { used: AtomicUsize::new(0), most }
    }

    /// The value, if there is room to keep it.
    fn keep(&self, value: Bytes) -> Option<Bytes> {
        if self.used.load(Ordering::Relaxed) + value.len() > self.most {
            return None;
        }
        self.used.fetch_add(value.len(), Ordering::Relaxed);
        Some(value)
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A ready job that was stored a moment ago.
#[derive(Debug)]
pub(super) struct Recent {
    pub id: u64,
    pub entry: IndexEntry,
    /// Its value as stored, while there is room.
    value: Option<Bytes>,
}

/// A pending job as memory knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub place: Place,
    pub entry: IndexEntry,
}

/// One partition of one queue.
pub(super) struct PartState {
    pub partition: Arc<Partition>,
    pub inner: Mutex<PartInner>,
    /// Who waits for jobs of this partition.
    pub wakers: Mutex<Vec<Weak<Notify>>>,
    pub meters: Meters,
}

/// The part of a partition that changes.
pub(super) struct PartInner {
    /// The next ready job id to look at; everything below is finished, leased or in `returned`.
    pub cursor: u64,
    /// The newest job id of the partition.
    pub newest: u64,
    /// Ready entries with ids from `recent_from` on, complete; `u64::MAX` = not kept now.
    pub recent: VecDeque<Recent>,
    pub recent_from: u64,
    room: Arc<RecentRoom>,
    /// Runnable jobs below the cursor: released, due, or no longer blocked.
    pub returned: BTreeMap<u64, Held>,
    /// Jobs in the hands of a holder.
    pub leased: FxHashMap<u64, Held>,
    pub pending: u64,
    pub pending_bytes: u64,
    pub delayed: u64,
    pub blocked: u64,
    pub importing: u64,
}

impl PartInner {
    fn new(cursor: u64, room: Arc<RecentRoom>) -> PartInner {
        PartInner {
            cursor,
            newest: cursor.saturating_sub(1),
            recent: VecDeque::new(),
            recent_from: cursor,
            room,
            returned: BTreeMap::new(),
            leased: FxHashMap::default(),
            pending: 0,
            pending_bytes: 0,
            delayed: 0,
            blocked: 0,
            importing: 0,
        }
    }

    /// A job was stored behind all others.
    pub fn stored(&mut self, id: u64, entry: IndexEntry, value: Vec<u8>) {
        self.newest = id;
        self.pending += 1;
        self.pending_bytes += u64::from(entry.bytes);
        if self.recent_from == u64::MAX {
            return;
        }
        if self.recent.len() < RECENT {
            let value = self.room.keep(Bytes::from(value));
            self.recent.push_back(Recent { id, entry, value });
        } else {
            self.forget_recent();
            self.recent_from = u64::MAX;
        }
    }

    /// The next recent job, which the cursor passes now, and its value if that was kept.
    pub fn take_recent(&mut self, id: u64) -> Option<Bytes> {
        while let Some(front) = self.recent.front() {
            if front.id > id {
                return None;
            }
            let is_it = front.id == id;
            let value = self.recent.pop_front().and_then(|recent| recent.value);
            if let Some(value) = &value {
                self.room.give_back(value.len());
            }
            if is_it {
                return value;
            }
        }
        None
    }

    pub fn forget_recent(&mut self) {
        let bytes = self.recent.iter().filter_map(|recent| recent.value.as_ref()).map(Bytes::len).sum();
        self.room.give_back(bytes);
        self.recent = VecDeque::new();
    }

    /// Every ready job up to the newest was looked at: memory may be complete again.
    pub fn caught_up(&mut self) {
        self.cursor = self.newest + 1;
        self.forget_recent();
        self.recent_from = self.cursor;
    }

    /// A job got its terminal outcome.
    pub fn ended(&mut self, held: &Held) {
        self.pending = self.pending.saturating_sub(1);
        self.pending_bytes = self.pending_bytes.saturating_sub(u64::from(held.entry.bytes));
        self.left(held.place);
    }

    /// A job left an index kind.
    pub fn left(&mut self, place: Place) {
        match place {
            Place::Ready => {}
            Place::Delayed(_) => self.delayed = self.delayed.saturating_sub(1),
            Place::Blocked => self.blocked = self.blocked.saturating_sub(1),
            Place::Importing => self.importing = self.importing.saturating_sub(1),
        }
    }

    /// A job entered an index kind.
    pub fn entered(&mut self, place: Place) {
        match place {
            Place::Ready => {}
            Place::Delayed(_) => self.delayed += 1,
            Place::Blocked => self.blocked += 1,
            Place::Importing => self.importing += 1,
        }
    }

    /// Whether memory already answers for the job.
    pub fn knows(&self, id: u64) -> bool {
        self.leased.contains_key(&id) || self.returned.contains_key(&id)
    }
}

/// A user and destination with failed jobs, or with jobs that waited behind one.
#[derive(Debug, Default)]
pub(super) struct User {
    /// Failed jobs that block later ones.
    pub failed: BTreeSet<u64>,
    /// Jobs that a fetch met behind a failed one and that are on their way to the blocked index: neither
    /// runnable nor loadable for a moment, so nothing of the user may pass them.
    pub moving: BTreeSet<u64>,
    /// Jobs of the blocked index that are in memory (returned or leased).
    pub loaded: usize,
    /// The blocked index may hold jobs from this id on that are not in memory.
    pub more_from: Option<u64>,
}

impl User {
    /// Whether this job may not run now.
    pub fn blocks(&self, id: u64, place: Place) -> bool {
        let behind_a_failed_one = self.failed.first().is_some_and(|&failed| failed < id) && !self.failed.contains(&id);
        let behind_a_moving_one = self.moving.first().is_some_and(|&moving| moving < id);
        let behind_an_unloaded_one = place == Place::Ready && self.more_from.is_some_and(|from| id >= from);
        behind_a_failed_one || behind_a_moving_one || behind_an_unloaded_one
    }

    /// A job of the blocked index left memory without an outcome.
    pub fn unload(&mut self, id: u64) {
        self.loaded = self.loaded.saturating_sub(1);
        self.more_from = Some(self.more_from.map_or(id, |from| from.min(id)));
    }

    /// Whether jobs of a free user wait on disk and none of them is in memory.
    pub fn wants_loading(&self) -> bool {
        self.failed.is_empty() && self.moving.is_empty() && self.loaded == 0 && self.more_from.is_some()
    }

    /// Whether nothing is left to remember.
    pub fn is_done(&self) -> bool {
        self.failed.is_empty() && self.moving.is_empty() && self.loaded == 0 && self.more_from.is_none()
    }
}

/// Progress of the promotion of due jobs.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    /// Index keys below this one were promoted; empty = none.
    pub mark: Vec<u8>,
}

/// Every dataset of a queue.
#[derive(Debug, Default)]
pub(super) struct Datasets {
    pub all: BTreeMap<u32, DatasetRecord>,
    /// The dataset that takes new jobs.
    pub open: Option<u32>,
    /// The dataset that takes stragglers.
    pub open_carry_over: Option<u32>,
    pub next: u32,
    pub next_carry_over: u32,
    /// Size at which the open dataset is sealed now.
    pub target_bytes: u64,
}

/// One queue.
pub(super) struct QueueState {
    pub queue: Queue,
    room: Arc<RecentRoom>,
    pub parts: RwLock<BTreeMap<u32, Arc<PartState>>>,
    wakers: Mutex<Vec<(Select, Weak<Notify>)>>,
    pub appeared: Arc<Notify>,
    pub users: Mutex<HashMap<u64, User>>,
    /// Free users whose waiting jobs are to be taken into memory.
    pub to_load: Mutex<BTreeSet<u64>>,
    /// Delayed jobs that are in memory because their time has come.
    pub promoted: AtomicUsize,
    pub delayed: Mutex<Delayed>,
    pub datasets: Mutex<Datasets>,
    pub last_job_id: AtomicU64,
    pub pending: AtomicU64,
    pub pending_bytes: AtomicU64,
}

impl QueueState {
    pub fn new(queue: Queue, room: Arc<RecentRoom>) -> QueueState {
        QueueState {
            queue,
            room,
            parts: RwLock::default(),
            wakers: Mutex::default(),
            appeared: Arc::new(Notify::new()),
            users: Mutex::default(),
            to_load: Mutex::default(),
            promoted: AtomicUsize::new(0),
            delayed: Mutex::default(),
            datasets: Mutex::default(),
            last_job_id: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            pending_bytes: AtomicU64::new(0),
        }
    }

    /// Whether jobs of one user and destination keep their order in this queue.
    pub fn is_ordered(&self) -> bool {
        self.queue == Queue::Rt
    }

    /// The state of a partition, made on first use. `next_id` is the id that its first job will have at least.
    pub fn part(&self, partition: &Arc<Partition>, next_id: u64) -> Arc<PartState> {
        if let Some(found) = self.parts.read().get(&partition.id) {
            return Arc::clone(found);
        }
        let mut parts = self.parts.write();
        let part = parts.entry(partition.id).or_insert_with(|| {
            let wakers = self.wakers.lock();
            let chosen = wakers.iter().filter(|(select, _)| select.matches(partition)).map(|(_, waker)| waker.clone());
            Arc::new(PartState {
                partition: Arc::clone(partition),
                inner: Mutex::new(PartInner::new(next_id, Arc::clone(&self.room))),
                wakers: Mutex::new(chosen.collect()),
                meters: Meters::new(self.queue, partition),
            })
        });
        Arc::clone(part)
    }

    /// The state of a known partition.
    pub fn known_part(&self, id: u32) -> Option<Arc<PartState>> {
        self.parts.read().get(&id).cloned()
    }

    /// Partitions of a selection, ascending by number.
    pub fn chosen(&self, select: &Select) -> Vec<Arc<PartState>> {
        self.parts.read().values().filter(|part| select.matches(&part.partition)).cloned().collect()
    }

    /// Registers a waker for a selection.
    pub fn register(&self, select: &Select) -> Arc<Notify> {
        let waker = Arc::new(Notify::new());
        // Taken while the wakers' lock is held: a partition made meanwhile sees the waker in the list.
        let parts = self.parts.read();
        let mut wakers = self.wakers.lock();
        wakers.retain(|(_, waker)| waker.strong_count() > 0);
        wakers.push((select.clone(), Arc::downgrade(&waker)));
        for part in parts.values().filter(|part| select.matches(&part.partition)) {
            let mut of_part = part.wakers.lock();
            of_part.retain(|waker| waker.strong_count() > 0);
            of_part.push(Arc::downgrade(&waker));
        }
        waker
    }

    pub fn add_pending(&self, jobs: u64, bytes: u64) {
        self.pending.fetch_add(jobs, Ordering::Relaxed);
        self.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn remove_pending(&self, jobs: u64, bytes: u64) {
        // Only the writer changes these, so reading and writing need not be one step.
        self.pending.store(self.pending.load(Ordering::Relaxed).saturating_sub(jobs), Ordering::Relaxed);
        self.pending_bytes.store(self.pending_bytes.load(Ordering::Relaxed).saturating_sub(bytes), Ordering::Relaxed);
    }
}

impl PartState {
    /// Wakes everybody who waits for jobs of this partition. False when nobody does.
    pub fn wake(&self) -> bool {
        let mut somebody = false;
        for waker in self.wakers.lock().iter().filter_map(Weak::upgrade) {
            waker.notify_one();
            somebody = true;
        }
        somebody
    }
}

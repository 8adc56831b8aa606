//! Users that wait for a failed job, and jobs that wait for their time (storage-design.md 7.3, 7.4).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use tracing::error;

use super::Shared;
use super::api::Queue;
use super::keys::{self, Place};
use super::record::IndexEntry;
use super::state::{Held, PartState, QueueState, User};
use crate::storage::{Family, StorageError, codec};

/// Jobs of one user that are taken into memory at a time once the user is free.
const LOAD_AT_ONCE: usize = 1_000;
/// Due jobs of one queue that wait in memory at most; the others stay in the index until these are taken.
const MOST_PROMOTED: usize = 10_000;
/// Milliseconds until the next look when that many wait, and after a read that failed.
const FULL_MS: u64 = 200;
const RETRY_MS: u64 = 1_000;

impl Shared {
    /// A job of an ordered queue left its place: it `failed` and blocks its user, or it no longer does.
    pub(super) fn user_moves_on(&self, queue: Queue, id: u64, from: &Held, failed: Option<u64>) {
        let state = self.queue(queue);
        let hash = from.entry.order_hash;
        if !state.is_ordered() || hash == 0 {
            return;
        }
        let mut users = state.users.lock();
        if failed.is_some() {
            users.entry(hash).or_default();
        }
        let Some(user) = users.get_mut(&hash) else { return };
        if from.place == Place::Blocked {
            user.loaded = user.loaded.saturating_sub(1);
        }
        if let Some(failed) = failed {
            user.failed.insert(failed);
            return;
        }
        if user.failed.remove(&id) && user.failed.is_empty() {
            // Jobs may wait in the blocked index, and only a look at it tells.
            user.more_from = Some(0);
        }
        self.settle(state, users, hash);
    }

    /// A job that was met behind a failed one arrived in the blocked index, or turned back.
    pub(super) fn user_moved(&self, queue: Queue, id: u64, from: &Held, is_blocked: bool) {
        let state = self.queue(queue);
        let mut users = state.users.lock();
        let Some(user) = users.get_mut(&from.entry.order_hash) else { return };
        user.moving.remove(&id);
        if is_blocked {
            user.more_from = Some(user.more_from.map_or(id, |more| more.min(id)));
        }
        self.settle(state, users, from.entry.order_hash);
    }

    /// Forgets a user with nothing left, or has the next waiting jobs taken into memory by the thread that
    /// reads: the writer does not wait for that.
    fn settle(&self, state: &QueueState, mut users: MutexGuard<'_, HashMap<u64, User>>, hash: u64) {
        let Some(user) = users.get(&hash) else { return };
        if user.is_done() {
            users.remove(&hash);
        } else if user.wants_loading() {
            drop(users);
            state.to_load.lock().insert(hash);
            self.due_changed();
        }
    }

    /// Takes the next jobs of free users out of the blocked index into memory. On disk they stay there until
    /// they finish. True when a read failed and it must be tried again.
    pub(super) fn load_waiting_users(&self, state: &QueueState) -> bool {
        let hashes = std::mem::take(&mut *state.to_load.lock());
        let mut must_repeat = false;
        for hash in hashes {
            let mut users = state.users.lock();
            let Some(user) = users.get_mut(&hash) else { continue };
            if !user.wants_loading() {
                continue;
            }
            match self.load_waiting(state, hash, user) {
                Ok(parts) => {
                    if user.is_done() {
                        users.remove(&hash);
                    }
                    drop(users);
                    for part in parts.values() {
                        if !part.wake() {
                            state.appeared.notify_one();
                        }
                    }
                }
                Err(error) => {
                    error!(%error, queue = state.queue.name(), "jobs behind a failed one cannot be read; it is tried again");
                    drop(users);
                    state.to_load.lock().insert(hash);
                    must_repeat = true;
                }
            }
        }
        must_repeat
    }

    fn load_waiting(
        &self,
        state: &QueueState,
        hash: u64,
        user: &mut User,
    ) -> Result<BTreeMap<u32, Arc<PartState>>, StorageError> {
        let mut parts = BTreeMap::new();
        let (from, to) = keys::blocked_range(state.queue, hash, 0);
        let mut scan = self.storage.scan(Family::Index, from.as_ref(), to.as_ref())?;
        let mut loaded = 0;
        let mut more_from = None;
        while let Some((key, value)) = scan.next_entry()? {
            let Some(position) = keys::parse_index(key) else { continue };
            if loaded == LOAD_AT_ONCE {
                more_from = Some(position.id);
                break;
            }
            let Some(part) = state.known_part(position.partition) else { continue };
            let entry: IndexEntry = codec::decode("index entry", value)?;
            let mut inner = part.inner.lock();
            if !inner.knows(position.id) {
                inner.returned.insert(position.id, Held { place: Place::Blocked, entry });
            }
            drop(inner);
            loaded += 1;
            parts.insert(position.partition, part);
        }
        user.loaded = loaded;
        user.more_from = more_from;
        Ok(parts)
    }

    /// A job was put into the delayed index; it is runnable at once when the promotion has passed its time.
    pub(super) fn delay(&self, queue: Queue, part: &Arc<PartState>, id: u64, held: Held, due_ms: u64) {
        let state = self.queue(queue);
        let delayed = state.delayed.lock();
        let key = keys::delayed(queue, due_ms, part.partition.id, id);
        if key.as_ref() >= delayed.mark.as_slice() {
            drop(delayed);
            self.due_changed();
            return;
        }
        let mut inner = part.inner.lock();
        if !inner.knows(id) {
            inner.returned.insert(id, held);
            state.promoted.fetch_add(1, Ordering::Relaxed);
        }
        drop(inner);
        drop(delayed);
        part.wake();
    }

    /// Makes the due jobs of a queue runnable. Returns when to look again, if ever.
    pub(super) fn promote(&self, state: &QueueState, now_ms: u64) -> Option<u64> {
        let mut delayed = state.delayed.lock();
        let mut woken: BTreeMap<u32, Arc<PartState>> = BTreeMap::new();
        let next = match self.promote_from(state, &mut delayed.mark, now_ms, &mut woken) {
            Ok(next) => next,
            Err(error) => {
                error!(%error, queue = state.queue.name(), "due jobs cannot be read; it is tried again");
                Some(now_ms + RETRY_MS)
            }
        };
        drop(delayed);
        for part in woken.values() {
            if !part.wake() {
                state.appeared.notify_one();
            }
        }
        next
    }

    fn promote_from(
        &self,
        state: &QueueState,
        mark: &mut Vec<u8>,
        now_ms: u64,
        woken: &mut BTreeMap<u32, Arc<PartState>>,
    ) -> Result<Option<u64>, StorageError> {
        let queue = state.queue;
        let (start, end) = keys::kind_range(queue, Place::Delayed(0));
        let from = if mark.is_empty() { start.as_ref().to_vec() } else { mark.clone() };
        let mut scan = self.storage.scan(Family::Index, &from, end.as_ref())?;
        while let Some((key, value)) = scan.next_entry()? {
            let Some(position) = keys::parse_index(key) else { continue };
            let Place::Delayed(due_ms) = position.place else { continue };
            if due_ms > now_ms {
                *mark = keys::delayed(queue, now_ms.saturating_add(1), 0, 0).as_ref().to_vec();
                return Ok(Some(due_ms));
            }
            if state.promoted.load(Ordering::Relaxed) >= MOST_PROMOTED {
                return Ok(Some(now_ms + FULL_MS));
            }
            let entry: IndexEntry = codec::decode("index entry", value)?;
            if let Some(part) = state.known_part(position.partition) {
                let mut inner = part.inner.lock();
                // A job that is still in its holder's hands comes through `delay` when it is given back.
                if !inner.knows(position.id) {
                    inner.returned.insert(position.id, Held { place: position.place, entry });
                    state.promoted.fetch_add(1, Ordering::Relaxed);
                }
                drop(inner);
                woken.insert(position.partition, part);
            }
            // The mark follows each entry, so that a failed read later never promotes one twice.
            *mark = [key, &[0]].concat();
        }
        let passed = keys::delayed(queue, now_ms.saturating_add(1), 0, 0);
        if passed.as_ref() > mark.as_slice() {
            *mark = passed.as_ref().to_vec();
        }
        Ok(None)
    }
}

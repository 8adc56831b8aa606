//! Users that wait for a failed job, and jobs that wait for their time (storage-design.md 7.3, 7.4).

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::error;

use super::Shared;
use super::api::Queue;
use super::keys::{self, Place};
use super::record::IndexEntry;
use super::state::{Held, PartState, QueueState, User};
use crate::storage::{Family, StorageError, codec};

/// Jobs of one user that are taken into memory at a time once the user is free.
const LOAD_AT_ONCE: usize = 1_000;
/// Due jobs that one promotion takes into memory at most.
const PROMOTE_AT_ONCE: usize = 10_000;

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
        let was_blocked = user.failed.remove(&id);
        if !user.failed.is_empty() {
            return;
        }
        if was_blocked || (user.loaded == 0 && user.has_more) {
            self.load_waiting(state, hash, user);
        }
        if user.loaded == 0 && !user.has_more {
            users.remove(&hash);
        }
    }

    /// Takes the next jobs of a free user out of the blocked index into memory. On disk they stay there
    /// until they finish.
    pub(super) fn load_waiting(&self, state: &QueueState, hash: u64, user: &mut User) {
        match self.try_load_waiting(state, hash, user) {
            Ok(parts) => parts.values().for_each(|part| part.wake()),
            Err(error) => error!(%error, queue = state.queue.name(), "jobs behind a failed one cannot be read"),
        }
    }

    fn try_load_waiting(
        &self,
        state: &QueueState,
        hash: u64,
        user: &mut User,
    ) -> Result<BTreeMap<u32, Arc<PartState>>, StorageError> {
        let mut parts = BTreeMap::new();
        let (from, to) = keys::blocked_range(state.queue, hash, 0);
        let mut scan = self.storage.scan(Family::Index, from.as_ref(), to.as_ref())?;
        let mut loaded = 0;
        user.has_more = false;
        while let Some((key, value)) = scan.next_entry()? {
            if loaded == LOAD_AT_ONCE {
                user.has_more = true;
                break;
            }
            let Some(position) = keys::parse_index(key) else { continue };
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
        Ok(parts)
    }

    /// A job was put into the delayed index; it is runnable at once when the promotion has passed its time.
    pub(super) fn delay(&self, queue: Queue, part: &Arc<PartState>, id: u64, held: Held, due_ms: u64) {
        let state = self.queue(queue);
        let delayed = state.delayed.lock();
        let key = keys::delayed(queue, due_ms, part.partition.id, id);
        if key.as_ref() >= delayed.mark.as_slice() {
            drop(delayed);
            self.due_changed(due_ms);
            return;
        }
        let mut inner = part.inner.lock();
        if !inner.knows(id) {
            inner.returned.insert(id, held);
        }
        drop(inner);
        drop(delayed);
        part.wake();
    }

    /// Makes the due jobs of a queue runnable. Returns the time of the next one, if any.
    pub(super) fn promote(&self, state: &QueueState, now_ms: u64) -> Result<Option<u64>, StorageError> {
        let queue = state.queue;
        let mut delayed = state.delayed.lock();
        let (start, end) = keys::kind_range(queue, Place::Delayed(0));
        let from = if delayed.mark.is_empty() { start.as_ref().to_vec() } else { delayed.mark.clone() };
        let due = keys::delayed(queue, now_ms.saturating_add(1), 0, 0);
        let mut scan = self.storage.scan(Family::Index, &from, end.as_ref())?;
        let mut woken: BTreeMap<u32, Arc<PartState>> = BTreeMap::new();
        let mut next_due = None;
        let mut promoted = 0;
        let mut mark = due.as_ref().to_vec();
        while let Some((key, value)) = scan.next_entry()? {
            let Some(position) = keys::parse_index(key) else { continue };
            let Place::Delayed(due_ms) = position.place else { continue };
            if due_ms > now_ms {
                next_due = Some(due_ms);
                break;
            }
            if promoted == PROMOTE_AT_ONCE {
                mark = key.to_vec();
                next_due = Some(now_ms);
                break;
            }
            promoted += 1;
            let Some(part) = state.known_part(position.partition) else { continue };
            let entry: IndexEntry = codec::decode("index entry", value)?;
            let mut inner = part.inner.lock();
            // A job that is still in its holder's hands comes through `delay` when it is given back.
            if !inner.knows(position.id) {
                inner.returned.insert(position.id, Held { place: position.place, entry });
            }
            drop(inner);
            woken.insert(position.partition, part);
        }
        if mark > delayed.mark {
            delayed.mark = mark;
        }
        drop(delayed);
        for part in woken.values() {
            part.wake();
        }
        Ok(next_due)
    }
}

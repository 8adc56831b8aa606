//! What memory learns after a batch is written: cursors, counters, leases, users, wake-ups.

use std::sync::Arc;

use super::Shared;
use super::api::Queue;
use super::keys::Place;
use super::record::IndexEntry;
use super::state::{Held, PartState};

/// What memory learns after a batch is written.
pub(super) enum Change {
    Stored { queue: Queue, part: Arc<PartState>, id: u64, entry: IndexEntry, value: Vec<u8> },
    Ended { queue: Queue, part: Arc<PartState>, id: u64, held: Held },
    Moved { queue: Queue, part: Arc<PartState>, id: u64, from: Held, to: Held, blocks_user: bool },
    Blocked { queue: Queue, part: Arc<PartState>, id: u64, from: Held },
    Unblocked { queue: Queue, part: Arc<PartState>, id: u64, held: Held },
    Relocated { part: Arc<PartState>, id: u64, dataset: u32 },
}

impl Shared {
    pub(super) fn apply(&self, change: Change) {
        match change {
            Change::Stored { queue, part, id, entry, value } => {
                let state = self.queue(queue);
                part.inner.lock().stored(id, entry, value);
                state.add_pending(1, u64::from(entry.bytes));
                part.meters.stored(entry.bytes);
            }
            Change::Ended { queue, part, id, held } => {
                let state = self.queue(queue);
                part.inner.lock().ended(&held);
                state.remove_pending(1, u64::from(held.entry.bytes));
                self.user_moves_on(queue, id, &held, None);
            }
            Change::Moved { queue, part, id, from, to, blocks_user } => {
                {
                    let mut inner = part.inner.lock();
                    inner.left(from.place);
                    inner.entered(to.place);
                }
                if let Place::Delayed(due_ms) = to.place {
                    self.user_moves_on(queue, id, &from, blocks_user.then_some(id));
                    self.delay(queue, &part, id, to, due_ms);
                } else {
                    self.user_moves_on(queue, id, &from, None);
                }
            }
            Change::Blocked { queue, part, id, from } => {
                let mut inner = part.inner.lock();
                inner.left(from.place);
                inner.entered(Place::Blocked);
                drop(inner);
                self.user_moved(queue, id, &from, true);
            }
            Change::Unblocked { queue, part, id, held } => {
                part.inner.lock().returned.insert(id, held);
                self.user_moved(queue, id, &held, false);
                part.wake();
            }
            Change::Relocated { part, id, dataset } => {
                let mut inner = part.inner.lock();
                if let Some(held) = inner.leased.get_mut(&id) {
                    held.entry.dataset = dataset;
                }
                if let Some(held) = inner.returned.get_mut(&id) {
                    held.entry.dataset = dataset;
                }
                if let Some(recent) = inner.recent.iter_mut().find(|recent| recent.id == id) {
                    recent.entry.dataset = dataset;
                }
            }
        }
    }
}

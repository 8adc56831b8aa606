//! What operators see of deliveries and what they order (router.md 7.8).
//!
//! Out: live figures per destination, through [`Board::snapshot`]. In: pauses of destinations, which are records of
//! the store ([`Namespace::Drain`], keys `pause/<destination id>`), so they survive restarts. A record that another
//! part of the node writes is seen within ten seconds.

use std::collections::HashMap;

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::response::cut;
use crate::clock::Clock;
use crate::jobsdb::{Durability, JobsDb, JobsDbError, Namespace, Tx};

/// Destinations that are remembered.
const DESTINATIONS: usize = 10_000;
/// Bytes of an error text that are shown.
const SHOWN_BYTES: usize = 1_024;

const PAUSE_PREFIX: &str = "pause/";

/// Whether a destination is delivered to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// Jobs go out as they come.
    #[default]
    Running,
    /// Only probes go out.
    Unreachable,
    /// The operator holds it.
    Paused,
    /// A rate limit holds jobs back.
    Throttled,
}

/// The newest error of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// The code.
    pub code: String,
    /// The text, cut.
    pub text: String,
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
}

/// A pause by the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// When it began, milliseconds since the epoch.
    pub since_ms: i64,
    /// When it ends by itself, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
}

/// The state of one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DestinationState {
    /// Its id.
    pub destination_id: String,
    /// Its type.
    pub destination_type: String,
    /// Whether it is delivered to.
    pub state: Activity,
    /// Since when, milliseconds since the epoch.
    pub since_ms: i64,
    /// When delivery is tried again, while it is held back.
    pub next_retry_ms: Option<i64>,
    /// The operator's pause.
    pub pause: Option<Pause>,
    /// Jobs delivered since the start of the process.
    pub delivered: u64,
    /// Jobs filtered since then.
    pub filtered: u64,
    /// Attempts that failed since then.
    pub failed: u64,
    /// Jobs given up since then.
    pub aborted: u64,
    /// The newest error.
    pub last_error: Option<LastError>,
}

#[derive(Debug, Default)]
struct Orders {
    pauses: HashMap<String, Pause>,
}

/// Keys and values of the store.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Live figures and orders. Made once by the node, shared by the router and the admin API.
#[derive(Debug)]
pub struct Board {
    destinations: Mutex<HashMap<String, DestinationState>>,
    orders: RwLock<Orders>,
    changes: watch::Sender<u64>,
}

impl Default for Board {
    fn default() -> Board {
        Board { destinations: Mutex::default(), orders: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Orders {
    /// Reads the records of pauses; besides those that hold, the keys of records to remove.
    fn read(pauses: Records, now_ms: i64) -> (Orders, Vec<Vec<u8>>) {
        let mut orders = Orders::default();
        let mut over = Vec::new();
        for (key, value) in pauses {
            let pause = serde_json::from_slice(&value).unwrap_or(Pause { since_ms: now_ms, until_ms: None });
            match name_after(&key, PAUSE_PREFIX) {
                Some(id) if pause.until_ms.is_none_or(|until| until > now_ms) => {
                    orders.pauses.insert(id, pause);
                }
                Some(_) => {}
                None => over.push(key),
            }
        }
        (orders, over)
    }
}

impl Board {
    /// A board that knows nothing yet.
    pub fn new() -> Board {
        Board::default()
    }

    /// Every known destination, by id.
    pub fn snapshot(&self) -> Vec<DestinationState> {
        let mut states: Vec<DestinationState> = self.destinations.lock().values().cloned().collect();
        let orders = self.orders.read();
        for state in &mut states {
            state.pause = orders.pauses.get(&state.destination_id).copied();
        }
        states.sort_by(|a, b| a.destination_id.cmp(&b.destination_id));
        states
    }

    /// Holds delivery to the destination, until `until_ms` or until [`Board::resume`]. Durable when it returns.
    ///
    /// # Errors
    /// The store did not take the order; it does not hold.
    pub async fn pause(
        &self,
        jobs: &JobsDb,
        clock: &Clock,
        destination_id: &str,
        until_ms: Option<i64>,
    ) -> Result<(), JobsDbError> {
        let pause = Pause { since_ms: clock.now_ms(), until_ms };
        put(jobs, format!("{PAUSE_PREFIX}{destination_id}"), &pause).await?;
        self.change(|orders| orders.pauses.insert(destination_id.to_owned(), pause));
        Ok(())
    }

    /// Ends a pause. Durable when it returns.
    ///
    /// # Errors
    /// The store did not take the order; the pause stays.
    pub async fn resume(&self, jobs: &JobsDb, destination_id: &str) -> Result<(), JobsDbError> {
        let mut tx = Tx::new(Durability::Durable);
        tx.delete(Namespace::Drain, format!("{PAUSE_PREFIX}{destination_id}").into_bytes());
        jobs.commit(tx).await?;
        self.change(|orders| orders.pauses.remove(destination_id));
        Ok(())
    }

    /// The pause of the destination that holds at `now_ms`.
    pub fn pause_of(&self, destination_id: &str, now_ms: i64) -> Option<Pause> {
        let pause = self.orders.read().pauses.get(destination_id).copied();
        pause.filter(|pause| pause.until_ms.is_none_or(|until| until > now_ms))
    }

    /// Follows changes of orders.
    pub(super) fn orders_changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Reads the orders from the store. A pause that is over stays there until the destination is paused or resumed
    /// again, so that removing it never meets a new one.
    pub(super) async fn reload(&self, jobs: &JobsDb, now_ms: i64) -> Result<(), JobsDbError> {
        let over = loop {
            let changes = *self.changes.borrow();
            let reader = jobs.clone();
            let scanned = tokio::task::spawn_blocking(move || reader.scan(Namespace::Drain, PAUSE_PREFIX.as_bytes()));
            let pauses = scanned.await.map_err(|error| JobsDbError::Failed(error.to_string()))??;
            let (orders, over) = Orders::read(pauses, now_ms);
            if self.adopt(orders, changes) {
                break over;
            }
        };
        if over.is_empty() {
            return Ok(());
        }
        let mut tx = Tx::new(Durability::Lazy);
        for key in over {
            tx.delete(Namespace::Drain, key);
        }
        jobs.commit(tx).await.map(|_| ())
    }

    /// Changes the state of a destination, which is remembered from then on.
    pub(super) fn update(&self, destination_id: &str, change: impl FnOnce(&mut DestinationState)) {
        let mut destinations = self.destinations.lock();
        if !destinations.contains_key(destination_id) {
            if destinations.len() >= DESTINATIONS {
                return;
            }
            let fresh = DestinationState { destination_id: destination_id.to_owned(), ..DestinationState::default() };
            destinations.insert(destination_id.to_owned(), fresh);
        }
        if let Some(state) = destinations.get_mut(destination_id) {
            change(state);
        }
    }

    /// Takes over what was read from the store, unless an order came after `changes`, which may be missing there.
    fn adopt(&self, orders: Orders, changes: u64) -> bool {
        let mut known = self.orders.write();
        if *self.changes.borrow() != changes {
            return false;
        }
        let differs = known.pauses != orders.pauses;
        *known = orders;
        if differs {
            self.tell();
        }
        true
    }

    /// Changes the orders and tells of it in one step, so that a reading of the store under way notices.
    fn change<T>(&self, change: impl FnOnce(&mut Orders) -> T) -> T {
        let mut orders = self.orders.write();
        let changed = change(&mut orders);
        self.tell();
        changed
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

impl DestinationState {
    /// Enters an activity; its start is kept when nothing changes.
    pub(super) fn enter(&mut self, activity: Activity, now_ms: i64, next_retry_ms: Option<i64>) {
        if self.state != activity || self.since_ms == 0 {
            self.since_ms = now_ms;
        }
        self.state = activity;
        self.next_retry_ms = next_retry_ms;
    }

    /// Takes note of an error.
    pub(super) fn note_error(&mut self, code: &str, text: &str, at_ms: i64) {
        let mut text = cut(text);
        text.truncate(text.floor_char_boundary(SHOWN_BYTES));
        self.last_error = Some(LastError { code: code.to_owned(), text, at_ms });
    }
}

async fn put(jobs: &JobsDb, key: String, record: &impl Serialize) -> Result<(), JobsDbError> {
    let value = serde_json::to_vec(record).map_err(|error| JobsDbError::Failed(error.to_string()))?;
    let mut tx = Tx::new(Durability::Durable);
    tx.put(Namespace::Drain, key.into_bytes(), value);
    jobs.commit(tx).await.map(|_| ())
}

fn name_after(key: &[u8], prefix: &str) -> Option<String> {
    let name = key.strip_prefix(prefix.as_bytes())?;
    String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_per_destination_and_bounded() {
        let board = Board::new();
        board.update("d1", |state| {
            state.enter(Activity::Unreachable, 5, Some(6));
            state.note_error("504", &"é".repeat(2_000), 5);
        });
        board.update("d1", |state| state.enter(Activity::Unreachable, 7, Some(8)));
        for number in 0..DESTINATIONS + 5 {
            board.update(&format!("x{number}"), |_| ());
        }
        let states = board.snapshot();
        assert_eq!(states.len(), DESTINATIONS);
        assert_eq!((states[0].since_ms, states[0].next_retry_ms), (5, Some(8)));
        assert_eq!(states[0].last_error.as_ref().unwrap().text.len(), SHOWN_BYTES);
    }

    #[test]
    fn an_order_that_comes_while_the_store_is_read_is_not_undone() {
        let board = Board::new();
        let changes = *board.changes.borrow();
        board.change(|orders| orders.pauses.insert("d".to_owned(), Pause { since_ms: 0, until_ms: None }));
        assert!(!board.adopt(Orders::default(), changes) && board.pause_of("d", 1).is_some());
        let changes = *board.changes.borrow();
        assert!(board.adopt(Orders::default(), changes) && board.pause_of("d", 1).is_none());
    }

    #[test]
    fn a_pause_ends_by_itself() {
        let board = Board::new();
        board.orders.write().pauses.insert("d".to_owned(), Pause { since_ms: 0, until_ms: Some(10) });
        assert!(board.pause_of("d", 9).is_some() && board.pause_of("d", 10).is_none());
    }
}

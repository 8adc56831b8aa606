//! Runs that the operator has cancelled (gateway.md 7.8, jobsdb.md 8): their jobs are given up wherever they are
//! picked up next.
//!
//! Kept in the store (`run/<run id>` of the operator's decisions) and in memory, so that a cancellation is durable
//! when it is answered and holds at once. Forgotten after `drain.age`.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::api::{Durability, JobsDbError, Namespace, Tx};
use super::runs::namespaced;
use super::{JobsDb, Shared};
use crate::storage::{Family, Storage, StorageError};

/// Most runs that are cancelled at once.
const MOST: usize = 10_000;
/// Longest run id, in bytes.
const LONGEST_ID: usize = 512;

const PREFIX: &[u8] = b"run/";

#[derive(Deserialize, Serialize)]
struct RunRecord {
    #[serde(default)]
    since_ms: i64,
}

/// The cancelled runs that hold now; a copy that does not change.
#[derive(Clone, Debug, Default)]
pub struct CancelledRuns {
    since_ms: Arc<HashMap<String, i64>>,
    not_before_ms: i64,
}

impl CancelledRuns {
    /// Whether the run is cancelled.
    pub fn contains(&self, job_run_id: &str) -> bool {
        !job_run_id.is_empty() && self.since_ms.get(job_run_id).is_some_and(|since| *since >= self.not_before_ms)
    }
}

/// Why a run cannot be cancelled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// No run has an id like this.
    #[error("a run id of {0} bytes is too long")]
    TooLong(usize),
    /// Too many are remembered.
    #[error("{MOST} runs are cancelled; the oldest is forgotten after drain.age")]
    TooMany,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] JobsDbError),
}

/// What memory knows of cancelled runs.
#[derive(Default)]
pub(super) struct Cancelled {
    since_ms: ArcSwap<HashMap<String, i64>>,
    changing: Mutex<()>,
}

impl Cancelled {
    /// Reads the store.
    pub fn restore(&self, storage: &Storage) -> Result<(), StorageError> {
        let from = namespaced(Namespace::Drain, PREFIX);
        let to = [from.as_slice(), &[0xff; 4]].concat();
        let mut scan = storage.scan(Family::Records, &from, &to)?;
        let mut runs = HashMap::new();
        while let Some((key, value)) = scan.next_entry()? {
            let id = key.get(from.len()..).and_then(|id| std::str::from_utf8(id).ok()).filter(|id| !id.is_empty());
            let record = serde_json::from_slice::<RunRecord>(value).ok();
            if let Some((id, record)) = id.zip(record) {
                runs.insert(id.to_owned(), record.since_ms);
            }
        }
        self.since_ms.store(Arc::new(runs));
        Ok(())
    }

    /// Changes the runs; `change` may hand work to the writer, in the same order as memory changes.
    fn change<T>(&self, change: impl FnOnce(&mut HashMap<String, i64>) -> T) -> T {
        let _turn = self.changing.lock();
        let mut runs = HashMap::clone(&self.since_ms.load());
        let changed = change(&mut runs);
        self.since_ms.store(Arc::new(runs));
        changed
    }
}

impl JobsDb {
    /// The cancelled runs that hold now.
    pub fn cancelled_runs(&self) -> CancelledRuns {
        let shared = &self.0.shared;
        CancelledRuns { since_ms: shared.cancelled.since_ms.load_full(), not_before_ms: shared.oldest_cancellation() }
    }

    /// Gives up the jobs of a run. Durable when it returns, and in force.
    ///
    /// # Errors
    /// [`CancelError`]; the run goes on.
    pub async fn cancel_run(&self, job_run_id: &str) -> Result<(), CancelError> {
        let shared = &self.0.shared;
        if job_run_id.len() > LONGEST_ID {
            return Err(CancelError::TooLong(job_run_id.len()));
        }
        if shared.cancelled.since_ms.load().len() >= MOST {
            return Err(CancelError::TooMany);
        }
        let since_ms = shared.clock.now_ms();
        let value = serde_json::to_vec(&RunRecord { since_ms }).unwrap_or_default();
        let mut tx = Tx::new(Durability::Durable);
        tx.put(Namespace::Drain, [PREFIX, job_run_id.as_bytes()].concat(), value);
        // Memory first: whoever removes what is old from the store has seen it, or has sent the removal before.
        let before = shared.cancelled.change(|runs| runs.insert(job_run_id.to_owned(), since_ms));
        if let Err(error) = self.commit(tx).await {
            shared.cancelled.change(|runs| match before {
                Some(before) => runs.insert(job_run_id.to_owned(), before),
                None => runs.remove(job_run_id),
            });
            return Err(error.into());
        }
        Ok(())
    }
}

impl Shared {
    fn oldest_cancellation(&self) -> i64 {
        self.clock.now_ms().saturating_sub(super::millis(self.runs.cancellation_age))
    }

    /// Removes cancellations that do not hold any more.
    pub(super) fn forget_old_cancellations(&self) {
        let oldest = self.oldest_cancellation();
        if !self.cancelled.since_ms.load().values().any(|since| *since < oldest) {
            return;
        }
        self.cancelled.change(|runs| {
            let mut keys = Vec::new();
            runs.retain(|id, since| {
                let holds = *since >= oldest;
                if !holds {
                    keys.push(namespaced(Namespace::Drain, &[PREFIX, id.as_bytes()].concat()));
                }
                holds
            });
            self.send(super::writer::Request::ForgetRecords { keys });
        });
    }
}

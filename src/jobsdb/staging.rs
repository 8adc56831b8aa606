//! The records of staging files: their ids, and who waits for them (warehouse.md 7).
//!
//! In: [`StagingFile`]s, each in the transaction that also ends the jobs whose rows the file holds. Out: records under
//! [`Namespace::WarehouseStaging`], keyed by an id of eight big-endian bytes, and a wake-up when some were stored.
//! Promises: ids grow in the order of the calls and are never given twice, whatever is deleted; a transaction that is
//! not committed leaves a gap. Two transactions may be committed in another order than that of their ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::api::{Namespace, Tx};
use super::{JobsDb, StagingFile, keys};
use crate::storage::{Batch, Family, Storage, StorageError, codec};

/// What memory knows of the records.
#[derive(Default)]
pub(super) struct Staging {
    /// The greatest id that was given out.
    given: AtomicU64,
    /// The greatest id that was stored; only the writer changes it.
    stored: AtomicU64,
    arrived: Arc<Notify>,
}

impl Staging {
    /// Reads where the ids of the last run ended.
    pub fn restore(&self, storage: &Storage) -> Result<(), StorageError> {
        if let Some(bytes) = storage.get(Family::Meta, &keys::LAST_STAGING_FILE)? {
            let last: u64 = codec::decode("id of the last staging file", &bytes)?;
            self.given.store(last, Ordering::Relaxed);
            self.stored.store(last, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Notes in the batch that ids up to this one are taken.
    pub fn stage(&self, id: u64, batch: &mut Batch<'_>) {
        let last = self.stored.fetch_max(id, Ordering::Relaxed).max(id);
        batch.put(Family::Meta, &keys::LAST_STAGING_FILE, &codec::encode(&last));
    }

    /// Tells who waits that records were stored.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }
}

impl JobsDb {
    /// Adds the record of a staging file to a transaction, under the id that is returned.
    pub fn stage(&self, tx: &mut Tx, file: &StagingFile) -> u64 {
        let id = self.0.shared.staging.given.fetch_add(1, Ordering::Relaxed) + 1;
        // Texts and numbers under text keys always have a JSON form.
        tx.put(Namespace::WarehouseStaging, id.to_be_bytes().to_vec(), serde_json::to_vec(file).unwrap_or_default());
        tx.staged = tx.staged.max(Some(id));
        id
    }

    /// Notified (a permit is kept) whenever records of staging files were stored. One listener.
    pub fn staged(&self) -> Arc<Notify> {
        Arc::clone(&self.0.shared.staging.arrived)
    }
}

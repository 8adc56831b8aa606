//! A look at stored jobs that takes nothing (appliance.md 9).
//!
//! In: what is looked for, and how long at most. Out: jobs that wait and jobs that ended and whose dataset is not
//! dropped yet, the newest datasets first, and whether everything was looked at. Consumers are not disturbed.

use std::sync::Arc;
use std::time::Instant;

use super::api::{JobsDbError, LastStatus, Partition, Queue};
use super::keys::{self, Place};
use super::record;
use super::{JobsDb, failed};
use crate::storage::{Family, StorageError};

/// Jobs between two looks at the time.
const BETWEEN_LOOKS: usize = 256;
/// Most jobs that are found.
const MOST: usize = 1_000;

/// A job as it is stored.
#[derive(Clone, Debug)]
pub struct StoredJob {
    /// Its id.
    pub id: u64,
    /// Where it belongs.
    pub partition: Arc<Partition>,
    /// When it was stored, microseconds since the epoch.
    pub created_us: i64,
    /// Its user.
    pub user_id: String,
    /// Its parameters.
    pub parameters: Vec<u8>,
    /// Whether it still waits for its outcome.
    pub is_pending: bool,
    /// What became of the last attempt, if it failed.
    pub last: Option<LastStatus>,
}

impl JobsDb {
    /// Stored jobs of a queue that `wanted` takes by their parameters and payload, and whether all were looked at
    /// before `deadline`. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find_stored(
        &self,
        queue: Queue,
        deadline: Instant,
        wanted: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Result<(Vec<StoredJob>, bool), JobsDbError> {
        let mut numbers: Vec<u32> = self.0.shared.queue(queue).datasets.lock().all.keys().copied().collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        let mut found = Vec::new();
        for number in numbers {
            if !self.find_in(queue, number, deadline, &wanted, &mut found).map_err(failed)? {
                return Ok((found, false));
            }
        }
        Ok((found, true))
    }

    fn find_in(
        &self,
        queue: Queue,
        dataset: u32,
        deadline: Instant,
        wanted: &impl Fn(&[u8], &[u8]) -> bool,
        found: &mut Vec<StoredJob>,
    ) -> Result<bool, StorageError> {
        let shared = &self.0.shared;
        let (from, to) = keys::dataset_range(queue, dataset, dataset);
        let mut scan = shared.storage.scan(Family::Jobs, from.as_ref(), to.as_ref())?;
        let mut looked = 0_usize;
        while let Some((key, value)) = scan.next_entry()? {
            looked += 1;
            if looked.is_multiple_of(BETWEEN_LOOKS) && Instant::now() >= deadline || found.len() >= MOST {
                return Ok(false);
            }
            // A damaged job is put aside when its turn comes.
            let Ok((head, payload_at)) = record::decode_job(value) else { continue };
            if !wanted(head.parameters, value.get(payload_at..).unwrap_or_default()) {
                continue;
            }
            let Some(partition) = shared.partitions.get(head.partition) else { continue };
            let Some(id) = key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes)) else { continue };
            let status = shared.storage.get(Family::Status, keys::job(queue, dataset, id).as_ref())?;
            let last = status.map(|bytes| record::decode_status(&bytes)).transpose()?;
            let is_pending = self.is_pending(queue, &partition, id, head.user_id, last.as_ref())?;
            found.push(StoredJob {
                id,
                partition,
                created_us: head.created_us,
                user_id: head.user_id.to_owned(),
                parameters: head.parameters.to_vec(),
                is_pending,
                last,
            });
        }
        Ok(true)
    }

    /// Whether an index still holds the job.
    fn is_pending(
        &self,
        queue: Queue,
        partition: &Partition,
        id: u64,
        user_id: &str,
        last: Option<&LastStatus>,
    ) -> Result<bool, StorageError> {
        let storage = &self.0.shared.storage;
        let hash =
            record::order_hash(storage.format().salt, &partition.workspace_id, &partition.destination_id, user_id);
        let due = last.and_then(|last| u64::try_from(last.status.retry_ms).ok()).map(Place::Delayed);
        for place in [Place::Ready, Place::Blocked, Place::Importing].into_iter().chain(due) {
            if storage.get(Family::Index, keys::index(queue, partition.id, id, hash, place).as_ref())?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

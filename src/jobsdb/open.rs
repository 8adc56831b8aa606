//! Rebuilding memory from the store (storage-design.md 7.5): one pass over the index, no payloads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::api::{DatasetInfo, Queue, QueueStats};
use super::keys::{self, CARRY_OVER, Place};
use super::record::{self, DatasetRecord, IndexEntry, QueueRecord};
use super::state::{Datasets, QueueState, RecentRoom};
use super::{JobsDbError, Shared};
use crate::settings::Settings;
use crate::storage::{Family, Storage, StorageError, codec};

impl Shared {
    /// Reads queues, datasets, partitions and the whole index. Returns the numbers of stored partitions.
    pub(super) fn restore(&self) -> Result<BTreeSet<u32>, StorageError> {
        let stored_partitions = self.restore_partitions()?;
        let mut pending = 0;
        for state in &self.queues {
            restore_datasets(&self.storage, state)?;
            let counted = self.restore_index(state)?;
            self.repair_counters(state, &counted);
            pending += state.pending.load(Ordering::Relaxed);
        }
        let mut batch = self.storage.batch(16);
        batch.delete(Family::Meta, &keys::CLEAN_STOP);
        let was_clean = self.storage.get(Family::Meta, &keys::CLEAN_STOP)?.is_some();
        if was_clean {
            self.storage.write(batch)?;
        }
        info!(pending, partitions = stored_partitions.len(), clean_stop = was_clean, "queues opened");
        Ok(stored_partitions)
    }

    fn restore_partitions(&self) -> Result<BTreeSet<u32>, StorageError> {
        let mut stored = BTreeSet::new();
        let mut scan = self.storage.scan(Family::Meta, &[keys::PARTITION], &[keys::PARTITION + 1])?;
        while let Some((key, value)) = scan.next_entry()? {
            let Some(id) = key.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else { continue };
            self.partitions.restore(record::decode_partition(id, value)?);
            stored.insert(id);
        }
        Ok(stored)
    }

    fn restore_index(&self, state: &QueueState) -> Result<BTreeMap<u32, Counted>, StorageError> {
        let mut counted: BTreeMap<u32, Counted> = BTreeMap::new();
        for place in [Place::Ready, Place::Delayed(0), Place::Importing, Place::Blocked] {
            let (from, to) = keys::kind_range(state.queue, place);
            let mut scan = self.storage.scan(Family::Index, from.as_ref(), to.as_ref())?;
            while let Some((key, value)) = scan.next_entry()? {
                let Some(position) = keys::parse_index(key) else { continue };
                let entry: IndexEntry = codec::decode("index entry", value)?;
                let Some(partition) = self.partitions.get(position.partition) else {
                    warn!(queue = state.queue.name(), job_id = position.id, "a job names a partition that is unknown");
                    continue;
                };
                counted.entry(entry.dataset).or_default().add(position.id, entry.bytes);
                let part = state.part(&partition, position.id);
                let mut inner = part.inner.lock();
                inner.pending += 1;
                inner.pending_bytes += u64::from(entry.bytes);
                inner.entered(position.place);
                if position.place == Place::Ready {
                    if inner.recent_from != u64::MAX {
                        // First ready job of the partition: reading starts here, from the store.
                        inner.cursor = position.id;
                        inner.recent_from = u64::MAX;
                    }
                    inner.newest = inner.newest.max(position.id);
                }
                drop(inner);
                state.add_pending(1, u64::from(entry.bytes));
                if state.is_ordered() && entry.order_hash != 0 {
                    let mut users = state.users.lock();
                    match position.place {
                        Place::Delayed(_) => {
                            users.entry(entry.order_hash).or_default().failed.insert(position.id);
                        }
                        Place::Blocked => users.entry(entry.order_hash).or_default().more_from = Some(0),
                        Place::Ready | Place::Importing => {}
                    }
                }
            }
        }
        let users = state.users.lock();
        let free = users.iter().filter(|(_, user)| user.wants_loading()).map(|(hash, _)| *hash);
        state.to_load.lock().extend(free);
        drop(users);
        Ok(counted)
    }

    /// Compares the counters of datasets with the index, which is the truth, and repairs them.
    fn repair_counters(&self, state: &QueueState, counted: &BTreeMap<u32, Counted>) {
        let mut datasets = state.datasets.lock();
        let mut repaired = 0;
        for (&number, found) in counted {
            // A dataset without a record cannot be: its record is written with its first job. Should the
            // store say otherwise, the jobs are kept and the dataset is made known again.
            datasets.all.entry(number).or_insert_with(|| {
                repaired += 1;
                DatasetRecord {
                    first_job_id: found.first,
                    last_job_id: found.last,
                    created_ms: self.clock.now_ms(),
                    sealed_ms: self.clock.now_ms().max(1),
                    rows: found.jobs,
                    pending: found.jobs,
                    bytes: found.bytes,
                    pending_bytes: found.bytes,
                    kind: u8::from(number & CARRY_OVER != 0),
                }
            });
        }
        for (number, dataset) in &mut datasets.all {
            let found = counted.get(number).copied().unwrap_or_default();
            if dataset.pending != found.jobs || dataset.pending_bytes != found.bytes {
                warn!(
                    queue = state.queue.name(),
                    dataset = number,
                    counted = found.jobs,
                    recorded = dataset.pending,
                    "the counter of a dataset was wrong and is repaired"
                );
                dataset.pending = found.jobs;
                dataset.pending_bytes = found.bytes;
                repaired += 1;
            }
        }
        if repaired > 0 {
            super::events::counters_repaired(state.queue, repaired);
        }
    }
}

/// What the index says about one dataset.
#[derive(Clone, Copy, Default)]
struct Counted {
    jobs: u64,
    bytes: u64,
    first: u64,
    last: u64,
}

impl Counted {
    fn add(&mut self, id: u64, bytes: u32) {
        self.first = if self.jobs == 0 { id } else { self.first.min(id) };
        self.last = self.last.max(id);
        self.jobs += 1;
        self.bytes += u64::from(bytes);
    }
}

fn restore_datasets(storage: &Storage, state: &QueueState) -> Result<(), StorageError> {
    let queue = state.queue;
    let record: QueueRecord = match storage.get(Family::Meta, keys::queue(queue).as_ref())? {
        Some(bytes) => codec::decode("queue", &bytes)?,
        None => QueueRecord::default(),
    };
    state.last_job_id.store(record.last_job_id, Ordering::Relaxed);
    let mut datasets = state.datasets.lock();
    datasets.next = record.next_dataset;
    datasets.next_carry_over = record.next_carry_over;
    let mut scan = storage.scan(Family::Meta, &[keys::DATASET, queue as u8], &[keys::DATASET, queue as u8 + 1])?;
    while let Some((key, value)) = scan.next_entry()? {
        let Some(number) = key.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else { continue };
        let dataset: DatasetRecord = codec::decode("dataset", value)?;
        if dataset.sealed_ms == 0 {
            if number & CARRY_OVER == 0 {
                datasets.open = Some(number);
            } else {
                datasets.open_carry_over = Some(number);
            }
        }
        datasets.all.insert(number, dataset);
    }
    // Only the newest of its kind takes jobs; any other one that looks open was sealed in a batch that is lost.
    let (open, open_carry_over) = (datasets.open, datasets.open_carry_over);
    for (number, dataset) in &mut datasets.all {
        if dataset.sealed_ms == 0 && Some(*number) != open && Some(*number) != open_carry_over {
            dataset.sealed_ms = dataset.created_ms.max(1);
        }
    }
    Ok(())
}

impl Datasets {
    /// The datasets as operators see them, oldest first.
    pub fn infos(&self) -> Vec<DatasetInfo> {
        let infos = self.all.iter().map(|(&number, record)| DatasetInfo {
            number,
            rows: record.rows,
            pending: record.pending,
            bytes: record.bytes,
            created_ms: record.created_ms,
            sealed_ms: record.sealed_ms,
        });
        infos.collect()
    }
}

/// Figures of the queues of a data directory, read without changing anything; the node may run meanwhile.
///
/// # Errors
/// When the directory holds no readable store.
pub fn inspect(directory: &Path) -> Result<Vec<QueueStats>, JobsDbError> {
    let failed = |error: StorageError| JobsDbError::Failed(error.to_string());
    let storage = Storage::open_read_only(directory, &Settings::defaults().storage).map_err(failed)?;
    let mut stats = Vec::new();
    for queue in Queue::ALL {
        let state = QueueState::new(queue, Arc::new(RecentRoom::new(0)));
        restore_datasets(&storage, &state).map_err(failed)?;
        let datasets = state.datasets.lock().infos();
        let (mut pending, mut pending_bytes) = (0, 0);
        for dataset in state.datasets.lock().all.values() {
            pending += dataset.pending;
            pending_bytes += dataset.pending_bytes;
        }
        stats.push(QueueStats {
            queue,
            pending,
            pending_bytes,
            last_job_id: state.last_job_id.load(Ordering::Relaxed),
            datasets,
        });
    }
    Ok(stats)
}

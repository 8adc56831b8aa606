//! What callers see of the queues: names, records, transactions.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::runs::{RunChange, RunOfJob};

/// A named, ordered store of jobs (jobsdb.md 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Queue {
    /// Events as the gateway accepted them.
    Gw = 1,
    /// Real-time deliveries.
    Rt = 2,
    /// File deliveries.
    BatchRt = 3,
    /// Events on their way to the archive.
    Arc = 4,
    /// Dead letters.
    ProcError = 8,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Queue; 5] = [Queue::Gw, Queue::Rt, Queue::BatchRt, Queue::Arc, Queue::ProcError];

    /// The name that settings, metrics and operators use.
    pub fn name(self) -> &'static str {
        match self {
            Queue::Gw => "gw",
            Queue::Rt => "rt",
            Queue::BatchRt => "batch_rt",
            Queue::Arc => "arc",
            Queue::ProcError => "proc_error",
        }
    }
}

/// A namespace of the record store that other owners use (storage-design.md 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Namespace {
    /// Counters of reverse-ETL runs.
    Rsources = 0x01,
    /// Failed record keys of reverse-ETL runs.
    FailedKeys = 0x02,
    /// Reporting counters.
    Reporting = 0x03,
    /// Suppressed users.
    Suppressions = 0x04,
    /// Last good configuration and the embedded default.
    Configuration = 0x05,
    /// Cancelled job runs, and pauses of destinations by the operator.
    Drain = 0x06,
    /// Event schemas.
    EventSchemas = 0x07,
    /// Deletion tasks.
    Deletions = 0x08,
    /// Paths and numbers of files of records, by destination and run.
    FileParts = 0x09,
    /// Staging files: [`StagingFile`](super::StagingFile) as JSON, by id. Written by `batch_router`, read by `warehouse`.
    WarehouseStaging = 0x10,
    /// Uploads of the warehouse.
    WarehouseUploads = 0x11,
    /// Tables of those uploads.
    WarehouseTableUploads = 0x12,
    /// Load files.
    WarehouseLoadFiles = 0x13,
    /// Schemas that the warehouses hold.
    WarehouseSchemas = 0x14,
    /// Source jobs (deletion by job run).
    WarehouseJobs = 0x15,
    /// Merge rules of users.
    WarehouseIdentityRules = 0x16,
    /// What those rules make of identifiers.
    WarehouseIdentityMappings = 0x17,
    /// Secondary keys of the records above.
    WarehouseIndex = 0x18,
    /// Values that could not be read.
    Quarantine = 0xf0,
}

/// The tuple that a partition stands for. Absent parts are empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Partition {
    /// Node-wide number of the tuple.
    pub id: u32,
    /// Workspace of the jobs.
    pub workspace_id: String,
    /// `GW`, or the destination type.
    pub custom_val: String,
    /// Source of the jobs.
    pub source_id: String,
    /// Destination of the jobs.
    pub destination_id: String,
}

/// A choice of partitions: every given part must match. The default selects the whole queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Select {
    /// Only this workspace.
    pub workspace_id: Option<String>,
    /// Only this `customVal`.
    pub custom_val: Option<String>,
    /// Only this source.
    pub source_id: Option<String>,
    /// Only this destination.
    pub destination_id: Option<String>,
}

impl Select {
    /// Jobs of one source.
    pub fn source(id: &str) -> Select {
        Select { source_id: Some(id.to_owned()), ..Select::default() }
    }

    /// Jobs of one destination.
    pub fn destination(id: &str) -> Select {
        Select { destination_id: Some(id.to_owned()), ..Select::default() }
    }

    /// Whether the partition is chosen.
    pub fn matches(&self, partition: &Partition) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        fits(&self.workspace_id, &partition.workspace_id)
            && fits(&self.custom_val, &partition.custom_val)
            && fits(&self.source_id, &partition.source_id)
            && fits(&self.destination_id, &partition.destination_id)
    }
}

/// Bounds of one fetch (jobsdb.md 5.2). The first job is always returned, whatever its size.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most jobs; 0 returns nothing.
    pub jobs: usize,
    /// Most events; 0 = no bound.
    pub events: u64,
    /// Most payload bytes; 0 = no bound.
    pub bytes: u64,
}

/// A job to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewJob<'a> {
    /// Its own id, v4.
    pub uuid: Uuid,
    /// Its workspace.
    pub workspace_id: &'a str,
    /// `GW`, or the destination type; at most 64 characters.
    pub custom_val: &'a str,
    /// Its source.
    pub source_id: &'a str,
    /// Its destination, empty in `gw` and `arc`.
    pub destination_id: &'a str,
    /// User part of the ordering key.
    pub user_id: &'a str,
    /// JSON object.
    pub parameters: &'a [u8],
    /// Pieces that together are the payload, stored as they are.
    pub payload: &'a [&'a [u8]],
    /// Events in the payload, at least 1.
    pub event_count: u32,
}

/// A job in the form in which it is stored; made by [`JobsDb::encode`] on the caller's thread.
#[derive(Clone, Debug)]
pub struct EncodedJob {
    pub(super) partition: u32,
    pub(super) events: u32,
    pub(super) payload_bytes: u32,
    pub(super) order_hash: u64,
    pub(super) created_ms: i64,
    pub(super) value: Vec<u8>,
}

impl EncodedJob {
    /// Bytes that the job takes in the store, keys aside.
    pub fn stored_bytes(&self) -> usize {
        self.value.len()
    }
}

/// The right to decide about one job, held in memory only. Ends with an outcome or a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The queue.
    pub queue: Queue,
    /// The partition's number.
    pub partition: u32,
    /// The job.
    pub job_id: u64,
}

/// The verdict of the last attempt (jobsdb.md 2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Attempts so far.
    pub attempt: u32,
    /// When the attempt ended, milliseconds since the epoch.
    pub exec_ms: i64,
    /// Not before this time, milliseconds since the epoch.
    pub retry_ms: i64,
    /// HTTP-like code as text, at most 32 characters, possibly empty.
    pub error_code: String,
    /// JSON object.
    pub error_response: Vec<u8>,
    /// JSON object; asynchronous destinations keep import ids here.
    pub parameters: Vec<u8>,
}

/// States that are stored (storage-design.md 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum JobState {
    /// Will be retried.
    Failed = 1,
    /// Accepted by a bulk API.
    Importing = 4,
    /// Done.
    Succeeded = 5,
    /// Given up.
    Aborted = 6,
    /// On purpose not delivered.
    Filtered = 7,
    /// Moved elsewhere.
    Migrated = 8,
}

/// A stored status and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastStatus {
    /// The state.
    pub state: JobState,
    /// The rest.
    pub status: Status,
}

/// How a lease ends.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Done; nothing but the index entry's removal is written.
    Succeeded,
    /// On purpose not delivered; as succeeded.
    Filtered,
    /// Given up, with the dead letter that keeps the job for the operator, if it earns one.
    Aborted {
        /// Why.
        status: Status,
        /// The job for the `proc_error` queue.
        dead_letter: Option<EncodedJob>,
    },
    /// To be retried not before `status.retry_ms`.
    Failed {
        /// What happened.
        status: Status,
        /// Whether later jobs of the same user and destination wait for this one.
        blocks_user: bool,
    },
    /// Accepted by a bulk API, result polled later.
    Importing {
        /// The poll handle is in `parameters`.
        status: Status,
    },
}

impl Outcome {
    fn stored_bytes(&self) -> usize {
        let of_status = |status: &Status| status.error_response.len() + status.parameters.len();
        match self {
            Outcome::Succeeded | Outcome::Filtered => 0,
            Outcome::Aborted { status, dead_letter } => {
                of_status(status) + dead_letter.as_ref().map_or(0, |job| job.value.len())
            }
            Outcome::Failed { status, .. } | Outcome::Importing { status } => of_status(status),
        }
    }
}

/// A leased job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number in the queue; order of delivery.
    pub id: u64,
    /// The right to decide about it.
    pub lease: Lease,
    /// Its workspace, type, source, destination.
    pub partition: Arc<Partition>,
    /// Its own id.
    pub uuid: Uuid,
    /// When it was stored, microseconds since the epoch.
    pub created_us: i64,
    /// Events in the payload.
    pub event_count: u32,
    /// User part of the ordering key.
    pub user_id: String,
    /// JSON object.
    pub parameters: Bytes,
    /// The payload as it was stored.
    pub payload: Bytes,
    /// The last verdict; `None` when it was never attempted.
    pub last: Option<LastStatus>,
}

/// The answer of a fetch.
#[derive(Debug, Default)]
pub struct Page {
    /// Leased jobs, ascending id.
    pub jobs: Vec<Job>,
    /// A limit kept jobs out, or was met exactly.
    pub limits_reached: bool,
    /// Index keys looked at, for the flat-cost guard.
    pub keys_touched: u64,
}

/// Whether a commit waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Return after the flush that covers it: acknowledgements, admin promises, upload manifests.
    Durable,
    /// Return after the write: hand-overs and results. The next flush covers it, at most 100 ms later.
    Lazy,
}

/// A record that must precede an external action, under a number that its owner chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// Number within the queue.
    pub op: u64,
    /// What it is (`upload_manifest`).
    pub operation: String,
    /// The owner's bytes.
    pub payload: Vec<u8>,
    /// When it was started, milliseconds since the epoch.
    pub start_ms: i64,
}

/// An atomic set of changes, built by a caller and committed once.
#[derive(Debug)]
pub struct Tx {
    pub(super) durability: Durability,
    pub(super) appends: Vec<(Queue, EncodedJob)>,
    /// Leases that end well: nearly all do, and only their names are needed.
    pub(super) succeeded: Vec<Lease>,
    pub(super) outcomes: Vec<(Lease, Outcome, Option<Box<RunOfJob>>)>,
    pub(super) records: Vec<(Namespace, Vec<u8>, Option<Vec<u8>>)>,
    pub(super) journal: Vec<(Queue, u64, Option<JournalRecord>)>,
    pub(super) dedup: Vec<(u128, i64)>,
    pub(super) runs: Vec<RunChange>,
    /// The greatest id of the staging files that it stores.
    pub(super) staged: Option<u64>,
}

impl Tx {
    /// An empty transaction.
    pub fn new(durability: Durability) -> Tx {
        Tx {
            durability,
            appends: Vec::new(),
            succeeded: Vec::new(),
            outcomes: Vec::new(),
            records: Vec::new(),
            journal: Vec::new(),
            dedup: Vec::new(),
            runs: Vec::new(),
            staged: None,
        }
    }

    /// Stores a job; jobs of one queue get ids in the order of these calls.
    pub fn append(&mut self, queue: Queue, job: EncodedJob) {
        self.appends.push((queue, job));
    }

    /// Ends a lease. An outcome for an unknown lease is ignored and counted.
    pub fn finish(&mut self, lease: Lease, outcome: Outcome) {
        self.finish_of_run(lease, outcome, None);
    }

    /// The same for a job that counts for a run: counted if the lease is known and the outcome is an end.
    pub fn finish_of_run(&mut self, lease: Lease, outcome: Outcome, run: Option<RunOfJob>) {
        match (outcome, run) {
            (Outcome::Succeeded, None) => self.succeeded.push(lease),
            (outcome, run) => self.outcomes.push((lease, outcome, run.map(Box::new))),
        }
    }

    /// Writes a record of another owner.
    pub fn put(&mut self, namespace: Namespace, key: Vec<u8>, value: Vec<u8>) {
        self.records.push((namespace, key, Some(value)));
    }

    /// Removes a record of another owner.
    pub fn delete(&mut self, namespace: Namespace, key: Vec<u8>) {
        self.records.push((namespace, key, None));
    }

    /// Writes a journal record.
    pub fn journal_put(&mut self, queue: Queue, record: JournalRecord) {
        self.journal.push((queue, record.op, Some(record)));
    }

    /// Removes a journal record.
    pub fn journal_delete(&mut self, queue: Queue, op: u64) {
        self.journal.push((queue, op, None));
    }

    /// Remembers a deduplication key until `expiry_ms`.
    pub fn dedup_put(&mut self, hash: u128, expiry_ms: i64) {
        self.dedup.push((hash, expiry_ms));
    }

    /// Bytes that the transaction takes in the log, roughly.
    pub fn stored_bytes(&self) -> u64 {
        const PER_ENTRY: usize = 96;
        let appends: usize = self.appends.iter().map(|(_, job)| job.value.len() + PER_ENTRY).sum();
        let of_run = |run: &Option<Box<RunOfJob>>| run.as_ref().map_or(0, |run| run.stored_bytes());
        let outcomes: usize =
            self.outcomes.iter().map(|(_, outcome, run)| outcome.stored_bytes() + of_run(run) + PER_ENTRY).sum();
        let succeeded = self.succeeded.len() * PER_ENTRY;
        let runs: usize = self.runs.iter().map(RunChange::stored_bytes).sum();
        let records: usize =
            self.records.iter().map(|(_, key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + 16).sum();
        let journal: usize = self
            .journal
            .iter()
            .map(|(_, _, record)| record.as_ref().map_or(0, |record| record.payload.len()) + PER_ENTRY)
            .sum();
        (appends + succeeded + outcomes + records + journal + runs + self.dedup.len() * 48) as u64
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.appends.is_empty()
            && self.succeeded.is_empty()
            && self.outcomes.is_empty()
            && self.records.is_empty()
            && self.journal.is_empty()
            && self.dedup.is_empty()
            && self.runs.is_empty()
    }
}

/// What a commit did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Ids of the appended jobs, in the order of the appends.
    pub job_ids: Vec<u64>,
    /// Outcomes that were ignored because their lease is unknown.
    pub stale: usize,
}

/// Why a queue operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobsDbError {
    /// Nothing was queued: the store has no room or is stopping. Retry later.
    #[error("the store does not accept data now: {0}")]
    Unavailable(String),
    /// The outcome of the commit is unknown within the given time.
    #[error("no verdict of the store within the time limit")]
    Timeout,
    /// The transaction is larger than `Storage.maxTxBytes`; split it.
    #[error("a transaction of {bytes} bytes is larger than Storage.maxTxBytes ({limit})")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// The store failed. It accepts nothing until the process restarts.
    #[error("the store failed: {0}; restart the node")]
    Failed(String),
}

/// What the disk guard allows (storage-design.md 12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Everything.
    Open,
    /// No new events; everything that shrinks the queues goes on.
    IngestClosed(String),
    /// No new events and no processing either; deliveries go on.
    ProcessorClosed(String),
    /// Nothing: the store failed.
    Poisoned(String),
}

impl Gate {
    /// Whether the gateway may accept events.
    pub fn accepts_events(&self) -> bool {
        *self == Gate::Open
    }

    /// Whether the processor may take new batches.
    pub fn lets_process(&self) -> bool {
        matches!(self, Gate::Open | Gate::IngestClosed(_))
    }
}

/// A partition with pending jobs.
#[derive(Clone, Debug)]
pub struct ActivePartition {
    /// The partition.
    pub partition: Arc<Partition>,
    /// Jobs without a terminal outcome.
    pub pending: u64,
    /// Payload bytes of those.
    pub pending_bytes: u64,
    /// Of those, in the hands of a holder.
    pub leased: u64,
    /// Of those, waiting for their retry time.
    pub delayed: u64,
    /// Of those, behind a failed job of the same user.
    pub blocked: u64,
    /// Of those, accepted by a bulk API.
    pub importing: u64,
}

/// One dataset, for operators.
#[derive(Clone, Debug)]
pub struct DatasetInfo {
    /// Its number; carry-over datasets have the top bit.
    pub number: u32,
    /// Jobs stored in it.
    pub rows: u64,
    /// Of those, pending.
    pub pending: u64,
    /// Payload bytes stored in it.
    pub bytes: u64,
    /// When it was started, milliseconds since the epoch.
    pub created_ms: i64,
    /// When it was sealed; 0 = open.
    pub sealed_ms: i64,
}

/// Figures of one queue.
#[derive(Clone, Debug)]
pub struct QueueStats {
    /// The queue.
    pub queue: Queue,
    /// Jobs without a terminal outcome.
    pub pending: u64,
    /// Payload bytes of those.
    pub pending_bytes: u64,
    /// The id of the newest job.
    pub last_job_id: u64,
    /// Its datasets, oldest first.
    pub datasets: Vec<DatasetInfo>,
}

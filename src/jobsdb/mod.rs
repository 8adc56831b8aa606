//! The job queues of the node (jobsdb.md, storage-design.md).
//!
//! In: [`Tx`]s, each an atomic set of new jobs, outcomes of leased jobs, and records of other owners.
//! Out: [`Page`]s of leased jobs in job-id order, per queue and selection.
//!
//! Promises: a transaction is in the store whole or not at all, whatever queues it touches; a
//! [`Durability::Durable`] commit returns only after the flush that covers it; job ids grow in commit
//! order and are never used twice; a fetch costs the same whatever was completed before; a job is leased
//! to at most one holder; a lease that ends without an outcome (release, crash) leaves the job as it was.

mod api;

pub use api::{
    ActivePartition, DatasetInfo, Durability, EncodedJob, Gate, Job, JobState, JobsDb, JobsDbError, JournalRecord,
    LastStatus, Lease, Limits, Namespace, NewJob, Outcome, Page, Partition, Queue, QueueStats, Receipt, Select, Status,
    Tx,
};

//! Metrics of the queues (jobsdb.md 13, storage-design.md 16).

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{Counter, counter, gauge, histogram};
use tracing::warn;

use super::JobsDb;
use super::api::{ActivePartition, Gate, Outcome, Partition, Queue};
use super::datasets::DroppedRange;
use crate::storage::free_space;
use crate::telemetry::may_log;

/// Counters of one partition, looked up once because they move with every job.
pub(super) struct Meters {
    stored_jobs: Counter,
    stored_bytes: Counter,
    succeeded: Counter,
    filtered: Counter,
    aborted: Counter,
    failed: Counter,
    importing: Counter,
}

impl Meters {
    pub fn new(queue: Queue, partition: &Partition) -> Meters {
        let custom_val = &partition.custom_val;
        let stored =
            |name: &'static str| counter!(name, "tablePrefix" => queue.name(), "customVal" => custom_val.clone());
        let updated = |state: &'static str| {
            counter!(
                "jobsdb_updated_jobs",
                "tablePrefix" => queue.name(),
                "jobState" => state,
                "customVal" => custom_val.clone(),
                "source_id" => partition.source_id.clone(),
                "destination_id" => partition.destination_id.clone(),
            )
        };
        Meters {
            stored_jobs: stored("jobsdb_stored_jobs"),
            stored_bytes: stored("jobsdb_stored_bytes"),
            succeeded: updated("succeeded"),
            filtered: updated("filtered"),
            aborted: updated("aborted"),
            failed: updated("failed"),
            importing: updated("importing"),
        }
    }

    pub fn stored(&self, bytes: u32) {
        self.stored_jobs.increment(1);
        self.stored_bytes.increment(u64::from(bytes));
    }

    pub fn updated(&self, outcome: &Outcome) {
        let meter = match outcome {
            Outcome::Succeeded => &self.succeeded,
            Outcome::Filtered => &self.filtered,
            Outcome::Aborted { .. } => &self.aborted,
            Outcome::Failed { .. } => &self.failed,
            Outcome::Importing { .. } => &self.importing,
        };
        meter.increment(1);
    }
}

pub(super) fn stale_status(queue: Queue) {
    counter!("jobsdb_stale_status", "tablePrefix" => queue.name()).increment(1);
}

pub(super) fn quarantined(queue: Queue) {
    counter!("jobsdb_quarantined_jobs", "tablePrefix" => queue.name()).increment(1);
}

pub(super) fn counters_repaired(queue: Queue, datasets: u64) {
    counter!("jobsdb_counter_repair", "tablePrefix" => queue.name()).increment(datasets);
}

/// A run is not counted, or not to the end.
pub(super) fn run_not_counted(why: &'static str) {
    counter!("rsources_not_counted").increment(1);
    if let Some(silenced) = may_log("run_counters", "") {
        warn!(silenced, "ALERT: events of a reverse-ETL run are stored but not counted: {why}");
    }
}

/// A failed record of a run will not be listed.
pub(super) fn failed_record_not_kept(why: &'static str) {
    counter!("rsources_failed_records_not_kept").increment(1);
    if let Some(silenced) = may_log("failed_records", "") {
        warn!(silenced, "a failed record of a reverse-ETL run is counted but not listed: {why}");
    }
}

pub(super) fn datasets_dropped(dropped: &[DroppedRange]) {
    for range in dropped {
        counter!("jobsdb_datasets_dropped", "tablePrefix" => range.queue.name()).increment(range.numbers.len() as u64);
    }
}

pub(super) fn carried_over(queue: Queue, jobs: usize) {
    counter!("jobsdb_carried_over_jobs", "tablePrefix" => queue.name()).increment(jobs as u64);
}

pub(super) fn dead_letters_pushed_out(jobs: usize) {
    counter!("jobsdb_dead_letters_pushed_out").increment(jobs as u64);
}

pub(super) fn batch_written(members: usize, bytes: usize) {
    counter!("storage_batches_total").increment(1);
    histogram!("storage_batch_transactions").record(members as f64);
    counter!("storage_batch_bytes_total").increment(bytes as u64);
}

pub(super) fn acknowledged(after: Duration) {
    histogram!("storage_commit_seconds").record(after.as_secs_f64());
}

/// Sets the gauges from counters in memory, for a scrape.
pub(super) fn publish(jobs: &JobsDb) {
    for stats in jobs.stats() {
        let queue = stats.queue.name();
        gauge!("jobsdb_tables_count", "customVal" => queue).set(stats.datasets.len() as f64);
        gauge!("jobsdb_pending_bytes", "tablePrefix" => queue).set(stats.pending_bytes as f64);
        // With those that are empty now, so that their gauges fall to 0.
        let active = jobs.partitions(stats.queue);
        publish_pending(queue, &active, stats.pending);
        publish_index(queue, &active);
    }
    let storage = jobs.storage();
    counter!("storage_flushes_total").absolute(storage.flushes());
    for (name, property) in [
        ("storage_memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
        ("storage_table_bytes", "rocksdb.live-sst-files-size"),
        ("storage_pending_compaction_bytes", "rocksdb.estimate-pending-compaction-bytes"),
        ("storage_background_errors", "rocksdb.background-errors"),
    ] {
        gauge!(name).set(storage.property(property) as f64);
    }
    if let Ok(space) = free_space(storage.directory()) {
        gauge!("storage_free_bytes").set(space.free as f64);
    }
    let gate = match &*jobs.gate().borrow() {
        Gate::Open => 0.0,
        Gate::IngestClosed(_) => 1.0,
        Gate::ProcessorClosed(_) => 2.0,
        Gate::Poisoned(_) => 3.0,
    };
    gauge!("storage_gate").set(gate);
}

/// The pending-events registry of jobsdb.md 13: per destination, per type, and in all.
fn publish_pending(queue: &'static str, active: &[ActivePartition], total: u64) {
    let name = format!("jobsdb_{queue}_pending_events_count");
    let all_name = format!("{name}_all");
    let mut by_destination: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let mut by_type: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in active {
        let partition = &entry.partition;
        let destination =
            if partition.destination_id.is_empty() { &partition.source_id } else { &partition.destination_id };
        *by_destination.entry((&partition.workspace_id, &partition.custom_val, destination)).or_default() +=
            entry.pending;
        *by_type.entry(&partition.custom_val).or_default() += entry.pending;
    }
    for ((workspace, kind, destination), pending) in by_destination {
        gauge!(name.clone(), "workspaceId" => workspace.to_owned(), "destType" => kind.to_owned(), "destinationId" => destination.to_owned())
            .set(pending as f64);
    }
    for (kind, pending) in by_type {
        gauge!(name.clone(), "workspaceId" => "ALL", "destType" => kind.to_owned(), "destinationId" => "ALL")
            .set(pending as f64);
        gauge!(all_name.clone(), "destType" => kind.to_owned()).set(pending as f64);
    }
    gauge!(name, "workspaceId" => "ALL", "destType" => "ALL", "destinationId" => "ALL").set(total as f64);
    gauge!(all_name, "destType" => "ALL").set(total as f64);
}

fn publish_index(queue: &'static str, active: &[ActivePartition]) {
    let sum = |figure: fn(&ActivePartition) -> u64| active.iter().map(figure).sum::<u64>() as f64;
    for (kind, value) in [
        ("leased", sum(|entry| entry.leased)),
        ("delayed", sum(|entry| entry.delayed)),
        ("blocked", sum(|entry| entry.blocked)),
        ("importing", sum(|entry| entry.importing)),
    ] {
        gauge!("jobsdb_index_entries", "tablePrefix" => queue, "kind" => kind).set(value);
    }
}

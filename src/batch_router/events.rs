//! Metrics of the batch router and the lines that go with them (router.md 25).

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::backend_config::Destination;
use crate::destination::is_warehouse;
use crate::jobsdb::{Partition, StagingFile};

/// Delivery of one file, as metrics see it.
pub(super) struct FileFigures<'a> {
    pub(super) partition: &'a Partition,
    pub(super) destination: &'a Destination,
    /// Whole time from the start of the upload to its verdict.
    pub(super) took: Duration,
    /// Delays of its jobs since the gateway received them.
    pub(super) delays: &'a [Duration],
}

/// How many jobs of a file ended in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateCounts {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) aborted: u64,
}

/// The `destination` label: beginning of the name, end of the id.
fn destination_tag(destination: &Destination) -> String {
    let name: String = destination.name.chars().take(15).map(|c| if c == ':' { '-' } else { c }).collect();
    let id_start = destination.id.char_indices().rev().nth(5).map_or(0, |(at, _)| at);
    format!("{name}_{}", destination.id.get(id_start..).unwrap_or_default())
}

/// A file is in its storage.
pub(super) fn file_uploaded(figures: &FileFigures<'_>, jobs: u64, location: &str) {
    let partition = figures.partition;
    let tag = destination_tag(figures.destination);
    histogram!("brt_upload_time", "success" => "true", "destType" => partition.custom_val.clone(), "destination" => tag.clone())
        .record(figures.took.as_secs_f64());
    counter!(
        "event_delivery",
        "module" => "batch_router",
        "destType" => partition.custom_val.clone(),
        "destID" => partition.destination_id.clone(),
        "destination" => tag.clone(),
        "workspaceId" => partition.workspace_id.clone(),
        "source" => partition.source_id.clone(),
    )
    .increment(jobs);
    let delivery_time = histogram!(
        "event_delivery_time",
        "module" => "batch_router",
        "destType" => partition.custom_val.clone(),
        "destID" => partition.destination_id.clone(),
        "destination" => tag,
        "workspaceId" => partition.workspace_id.clone(),
        "sourceId" => partition.source_id.clone(),
    );
    for delay in figures.delays {
        delivery_time.record(delay.as_secs_f64());
    }
    let of_partition = [
        ("destType", partition.custom_val.clone()),
        ("partition", partition.destination_id.clone()),
        ("module", "batch_router".to_owned()),
    ];
    if let (Some(least), Some(most)) = (figures.delays.iter().min(), figures.delays.iter().max()) {
        gauge!("pipeline_delay_min_seconds", &of_partition).set(least.as_secs_f64());
        gauge!("pipeline_delay_max_seconds", &of_partition).set(most.as_secs_f64());
    }
    tracing::debug!(destination = %partition.destination_id, source = %partition.source_id, jobs, location, "file uploaded");
}

/// A file could not be uploaded.
pub(super) fn upload_failed(partition: &Partition, destination: &Destination, took: Duration, error: &str) {
    histogram!(
        "brt_upload_time",
        "success" => "false",
        "destType" => partition.custom_val.clone(),
        "destination" => destination_tag(destination),
    )
    .record(took.as_secs_f64());
    tracing::warn!(destination = %partition.destination_id, source = %partition.source_id, error, "upload failed");
}

/// Jobs of one source and destination got their states.
pub(super) fn jobs_settled(partition: &Partition, counts: StateCounts, error_code: &str) {
    for (state, jobs) in [("succeeded", counts.succeeded), ("failed", counts.failed), ("aborted", counts.aborted)] {
        if jobs == 0 {
            continue;
        }
        counter!(
            "event_status",
            "module" => "batch_router",
            "destType" => partition.custom_val.clone(),
            "isWarehouse" => if is_warehouse(&partition.custom_val) { "true" } else { "false" },
            "destinationId" => partition.destination_id.clone(),
            "sourceId" => partition.source_id.clone(),
            "job_state" => state,
        )
        .increment(jobs);
        let code = match (state, error_code) {
            ("succeeded", _) => "200",
            (_, "") => "500",
            (_, code) => code,
        };
        processed(&partition.custom_val, state, code, &partition.source_id, &partition.destination_id, jobs);
    }
}

/// The warehouse was told of a staging file.
pub(super) fn file_recorded(partition: &Partition, record: &StagingFile) {
    let labels = [
        ("module", "warehouse".to_owned()),
        ("destType", partition.custom_val.clone()),
        ("workspaceId", partition.workspace_id.clone()),
        ("destID", partition.destination_id.clone()),
        ("sourceID", partition.source_id.clone()),
    ];
    counter!("rows_staged", &labels).increment(record.total_events);
    let columns = record.schema.values().filter_map(|columns| columns.as_object().map(serde_json::Map::len)).sum();
    let columns: usize = columns;
    histogram!("warehouse_staged_schema_size", &labels).record(u32::try_from(columns).map_or(f64::MAX, f64::from));
}

/// The sample that shows a type to be alive though nothing happens.
pub(super) fn alive(destination_type: &str) {
    processed(destination_type, "executing", "0", "", "", 0);
}

fn processed(destination_type: &str, state: &str, code: &str, source_id: &str, destination_id: &str, jobs: u64) {
    counter!(
        "pipeline_processed_events",
        "module" => "batch_router",
        "destType" => destination_type.to_owned(),
        "state" => state.to_owned(),
        "code" => code.to_owned(),
        "sourceId" => source_id.to_owned(),
        "destinationId" => destination_id.to_owned(),
    )
    .increment(jobs);
}

/// Jobs were given up without an attempt.
pub(super) fn drained(partition: &Partition, reason: &'static str, jobs: u64) {
    counter!(
        "drained_events",
        "destType" => partition.custom_val.clone(),
        "destId" => partition.destination_id.clone(),
        "module" => "batch_router",
        "reasons" => reason,
        "workspaceId" => partition.workspace_id.clone(),
    )
    .increment(jobs);
    tracing::info!(destination = %partition.destination_id, source = %partition.source_id, jobs, reason, "jobs given up");
}

/// How many destinations are being served.
pub(super) fn active_destinations(count: usize) {
    gauge!("brt_active_partitions").set(u32::try_from(count).map_or(f64::INFINITY, f64::from));
}

/// What became of an upload that a crash or a stop interrupted.
pub(super) fn interrupted_upload(destination_id: &str, key: &str, decision: &'static str) {
    counter!("brt_interrupted_uploads", "decision" => decision).increment(1);
    if decision == "given_up" {
        tracing::error!(
            destination = destination_id,
            key,
            "the storage never told whether an interrupted upload arrived; its events are sent again"
        );
    } else {
        tracing::info!(destination = destination_id, key, decision, "interrupted upload decided");
    }
}

/// A file of the archive is stored, or is not.
pub(super) fn archived(source_id: &str, events: u64, result: Result<&str, &str>) {
    match result {
        Ok(location) => {
            counter!("archival_events", "sourceId" => source_id.to_owned(), "state" => "succeeded").increment(events);
            tracing::debug!(source = source_id, events, location, "events archived");
        }
        Err(error) => {
            counter!("archival_failures", "sourceId" => source_id.to_owned()).increment(1);
            tracing::warn!(source = source_id, events, error, "archive file not stored; it is tried again");
        }
    }
}

/// Archive jobs were given up because there is no storage any more.
pub(super) fn archive_aborted(source_id: &str, events: u64, reason: &str) {
    counter!("archival_events", "sourceId" => source_id.to_owned(), "state" => "aborted").increment(events);
    tracing::info!(source = source_id, events, reason, "archive jobs given up");
}

/// Old files of the local archive made room.
pub(super) fn archive_pruned(files: u64, bytes: u64) {
    counter!("archival_pruned_files").increment(files);
    counter!("archival_pruned_bytes").increment(bytes);
    tracing::info!(files, bytes, "old files of the local archive removed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destination_label_is_short_and_still_tells_destinations_apart() {
        let destination =
            |name: &str, id: &str| Destination { name: name.into(), id: id.into(), ..Destination::default() };
        assert_eq!(
            destination_tag(&destination("Lake: the big one of sales", "2abcdefghij")),
            "Lake- the big o_efghij"
        );
        assert_eq!(destination_tag(&destination("x", "id")), "x_id");
    }
}

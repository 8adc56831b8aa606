//! What the router counts and logs (router.md 25). The only place of the router that names metrics.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::barrier::Illegal;
use super::drain::Reason;
use super::pickup::Discard;
use super::status_table::Verdict;
use crate::jobsdb::JobsDbError;

/// The labels of one destination, made once.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Its type.
    pub dest_type: String,
    /// Its id.
    pub dest_id: String,
    /// The first letters of its name and the last of its id.
    pub destination: String,
    /// Its workspace.
    pub workspace_id: String,
}

impl Labels {
    /// The labels of the destination with this name.
    pub fn new(dest_type: &str, dest_id: &str, name: &str, workspace_id: &str) -> Labels {
        let short: String = name.chars().take(15).map(|c| if c == ':' { '-' } else { c }).collect();
        let skipped = dest_id.chars().count().saturating_sub(6);
        let tail: String = dest_id.chars().skip(skipped).collect();
        Labels {
            dest_type: dest_type.to_owned(),
            dest_id: dest_id.to_owned(),
            destination: format!("{short}_{tail}"),
            workspace_id: workspace_id.to_owned(),
        }
    }
}

/// Jobs of one source that ended alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// The state.
    pub verdict: Verdict,
    /// The stored code.
    pub code: String,
    /// The source.
    pub source_id: String,
    /// Where it went wrong, as the label says it; empty = it did not.
    pub error_at: &'static str,
}

/// Jobs ended, and it is stored.
pub fn jobs_ended(labels: &Labels, ended: &Ended, jobs: u64) {
    counter!(
        "pipeline_processed_events", "module" => "router", "destType" => labels.dest_type.clone(),
        "state" => ended.verdict.name(), "code" => ended.code.clone(), "sourceId" => ended.source_id.clone(),
        "destinationId" => labels.dest_id.clone()
    )
    .increment(jobs);
    let retries = if ended.verdict == Verdict::Failed { "true" } else { "false" };
    let alert = if ended.error_at.is_empty() { "false" } else { "true" };
    counter!(
        "router_response_counts", "destType" => labels.dest_type.clone(), "respStatusCode" => ended.code.clone(),
        "destination" => labels.destination.clone(), "destId" => labels.dest_id.clone(),
        "workspaceId" => labels.workspace_id.clone(), "alert" => alert, "errorAt" => ended.error_at, "retry" => retries
    )
    .increment(jobs);
    match ended.verdict {
        Verdict::Succeeded | Verdict::Filtered => counter!(
            "event_delivery", "module" => "router", "destType" => labels.dest_type.clone(),
            "destID" => labels.dest_id.clone(), "destination" => labels.destination.clone(),
            "workspaceId" => labels.workspace_id.clone(), "source" => ended.source_id.clone()
        )
        .increment(jobs),
        Verdict::Aborted => counter!(
            "router_aborted_events", "destType" => labels.dest_type.clone(), "respStatusCode" => ended.code.clone(),
            "destId" => labels.dest_id.clone(), "workspaceId" => labels.workspace_id.clone(), "alert" => alert,
            "errorAt" => ended.error_at
        )
        .increment(jobs),
        Verdict::Failed => {}
    }
}

/// An event reached its destination this long after it was received.
pub fn event_delivered(labels: &Labels, source_id: &str, source_category: &str, took: Duration) {
    histogram!(
        "event_delivery_time", "module" => "router", "destType" => labels.dest_type.clone(),
        "destID" => labels.dest_id.clone(), "destination" => labels.destination.clone(),
        "workspaceId" => labels.workspace_id.clone(), "sourceId" => source_id.to_owned(),
        "sourceCategory" => source_category.to_owned()
    )
    .record(took.as_secs_f64());
}

/// Shortest and longest time between receipt and delivery in one batch of statuses.
pub fn pipeline_delay(labels: &Labels, shortest: Duration, longest: Duration) {
    let partition = labels.dest_id.clone();
    gauge!("pipeline_delay_min_seconds", "destType" => labels.dest_type.clone(), "partition" => partition.clone(), "module" => "router")
        .set(shortest.as_secs_f64());
    gauge!("pipeline_delay_max_seconds", "destType" => labels.dest_type.clone(), "partition" => partition, "module" => "router")
        .set(longest.as_secs_f64());
}

/// A sample that keeps the destination visible while nothing happens.
pub fn still_here(labels: &Labels) {
    counter!(
        "pipeline_processed_events", "module" => "router", "destType" => labels.dest_type.clone(),
        "state" => "executing", "code" => "0", "sourceId" => "", "destinationId" => labels.dest_id.clone()
    )
    .increment(0);
}

/// Jobs were given up without another attempt.
pub fn drained(labels: &Labels, reason: Reason, jobs: u64) {
    counter!(
        "drained_events", "destType" => labels.dest_type.clone(), "destId" => labels.dest_id.clone(),
        "module" => "router", "reasons" => reason.text(), "workspaceId" => labels.workspace_id.clone()
    )
    .increment(jobs);
}

/// A request took this long.
pub fn request_took(labels: &Labels, took: Duration) {
    histogram!("router_delivery_latency", "destType" => labels.dest_type.clone()).record(took.as_secs_f64());
}

/// A job stayed in the queue in this pass.
pub fn discarded(labels: &Labels, reason: Discard, jobs: u64) {
    counter!(
        "router_iterator_stats_discarded_job_count", "destType" => labels.dest_type.clone(),
        "partition" => labels.dest_id.clone(), "reason" => reason.reason()
    )
    .increment(jobs);
    if reason == Discard::Throttled {
        counter!("router_throttled", "destType" => labels.dest_type.clone()).increment(jobs);
    }
}

/// The rate limit in force.
pub fn rate_limit(labels: &Labels, limit: u64, adaptive: bool) {
    gauge!(
        "throttling_rate_limit", "destinationId" => labels.dest_id.clone(), "destType" => labels.dest_type.clone(),
        "adaptive" => if adaptive { "true" } else { "false" }
    )
    .set(limit as f64);
}

/// A later job of a key had failed before an earlier one came.
pub fn illegal_sequence(labels: &Labels, illegal: Illegal) {
    counter!("router_illegal_job_sequence", "destType" => labels.dest_type.clone(), "location" => illegal.location())
        .increment(1);
    tracing::error!(
        destination = %labels.dest_id,
        location = illegal.location(),
        "a job came after a later job of the same user had failed; going on"
    );
}

/// Keys lost their order because too many of their jobs were in flight.
pub fn order_disabled(labels: &Labels, keys: u64) {
    counter!(
        "router_eventorder_key_disabled", "destType" => labels.dest_type.clone(),
        "destinationId" => labels.dest_id.clone(), "workspaceID" => labels.workspace_id.clone()
    )
    .increment(keys);
}

/// A warning of the destination was stored as a plain success.
pub fn warning_downgraded() {
    counter!("router_status_downgraded_count", "from" => "296", "to" => "200").increment(1);
}

/// The destination cannot be reached any more, or can be again.
pub fn unreachable(labels: &Labels, is_unreachable: bool) {
    gauge!(
        "router_destination_unreachable", "destType" => labels.dest_type.clone(),
        "destinationId" => labels.dest_id.clone()
    )
    .set(if is_unreachable { 1.0 } else { 0.0 });
    if is_unreachable {
        tracing::warn!(
            destination = %labels.dest_id,
            kind = %labels.dest_type,
            "the destination cannot be reached; delivery pauses but for probes, events wait"
        );
    } else {
        tracing::info!(destination = %labels.dest_id, kind = %labels.dest_type, "the destination answers again");
    }
}

/// The operator paused the destination, or resumed it.
pub fn paused(labels: &Labels, is_paused: bool) {
    gauge!(
        "router_destination_paused", "destType" => labels.dest_type.clone(),
        "destinationId" => labels.dest_id.clone()
    )
    .set(if is_paused { 1.0 } else { 0.0 });
}

/// A pause is older than a day; said once.
pub fn pause_is_old(labels: &Labels) {
    tracing::warn!(destination = %labels.dest_id, kind = %labels.dest_type, "delivery is paused for more than 24 hours; resume it or turn the destination off");
}

/// Partitions that deliver.
pub fn active_partitions(partitions: usize) {
    gauge!("rt_active_partitions").set(partitions as f64);
}

/// Outcomes for jobs that the queue no longer knows.
pub fn stale_outcomes(labels: &Labels, jobs: usize) {
    tracing::debug!(destination = %labels.dest_id, jobs, "outcomes came too late and were ignored");
}

/// A worker met a fault of the program; the job is retried.
pub fn worker_fault(labels: &Labels, job: u64) {
    tracing::error!(destination = %labels.dest_id, job, "internal error while delivering; the job is retried");
}

/// The stop of the node could not wait for deliveries under way.
pub fn cut_off(labels: &Labels, jobs: usize) {
    tracing::info!(destination = %labels.dest_id, jobs, "deliveries under way were cut off by the stop; they are repeated after the next start");
}

/// The store stopped before the last results were in it.
pub fn results_dropped(labels: &Labels, error: &JobsDbError) {
    tracing::info!(destination = %labels.dest_id, %error, "the last results were not stored before the stop; their jobs are delivered again");
}

/// The store takes nothing at the moment.
pub fn store_unavailable(labels: &Labels, error: &str) {
    tracing::warn!(destination = %labels.dest_id, error, "results of deliveries cannot be stored now; trying again");
}

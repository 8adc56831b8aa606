//! What the router counts and logs (router.md 25). The only place of the router that names metrics.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use parking_lot::Mutex;

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

/// Sources whose meters are kept.
const SOURCES: usize = 1_000;

/// Meters that count for every event or pass of a destination. Looking one up costs more than counting, so they are
/// kept.
pub struct Meters {
    labels: Labels,
    latency: Histogram,
    shortest_delay: Gauge,
    longest_delay: Gauge,
    paused: Gauge,
    sources: Mutex<HashMap<String, SourceMeters>>,
}

#[derive(Default)]
struct SourceMeters {
    /// By category of the source.
    delivered: Vec<(String, Histogram)>,
    ended: Vec<EndMeters>,
}

struct EndMeters {
    verdict: Verdict,
    code: String,
    error_at: &'static str,
    counters: Vec<Counter>,
}

impl fmt::Debug for Meters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meters").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Meters {
    /// The meters of a destination.
    pub fn new(labels: &Labels) -> Meters {
        let (dest_type, partition) = (labels.dest_type.clone(), labels.dest_id.clone());
        Meters {
            latency: histogram!("router_delivery_latency", "destType" => dest_type.clone()),
            shortest_delay: gauge!(
                "pipeline_delay_min_seconds", "destType" => dest_type.clone(), "partition" => partition.clone(),
                "module" => "router"
            ),
            longest_delay: gauge!(
                "pipeline_delay_max_seconds", "destType" => dest_type.clone(), "partition" => partition.clone(),
                "module" => "router"
            ),
            paused: gauge!("router_destination_paused", "destType" => dest_type, "destinationId" => partition),
            sources: Mutex::default(),
            labels: labels.clone(),
        }
    }

    fn of_source<T>(&self, source_id: &str, count: impl FnOnce(&mut SourceMeters) -> T) -> T {
        let mut sources = self.sources.lock();
        if !sources.contains_key(source_id) {
            if sources.len() >= SOURCES {
                return count(&mut SourceMeters::default());
            }
            sources.insert(source_id.to_owned(), SourceMeters::default());
        }
        match sources.get_mut(source_id) {
            Some(meters) => count(meters),
            None => count(&mut SourceMeters::default()),
        }
    }
}

/// Jobs of one source that ended alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ended<'a> {
    /// The state.
    pub verdict: Verdict,
    /// The stored code.
    pub code: &'a str,
    /// The source.
    pub source_id: &'a str,
    /// Where it went wrong, as the label says it; empty = it did not.
    pub error_at: &'static str,
}

/// Jobs ended, and it is stored.
pub fn jobs_ended(meters: &Meters, ended: &Ended<'_>, jobs: u64) {
    meters.of_source(ended.source_id, |source| {
        let is_same = |known: &EndMeters| {
            (known.verdict, known.code.as_str(), known.error_at) == (ended.verdict, ended.code, ended.error_at)
        };
        if let Some(known) = source.ended.iter().find(|known| is_same(known)) {
            for counter in &known.counters {
                counter.increment(jobs);
            }
            return;
        }
        let counters = counters_of(&meters.labels, ended);
        for counter in &counters {
            counter.increment(jobs);
        }
        let (verdict, code, error_at) = (ended.verdict, ended.code.to_owned(), ended.error_at);
        source.ended.push(EndMeters { verdict, code, error_at, counters });
    });
}

fn counters_of(labels: &Labels, ended: &Ended<'_>) -> Vec<Counter> {
    let (code, source_id) = (ended.code.to_owned(), ended.source_id.to_owned());
    let retries = if ended.verdict == Verdict::Failed { "true" } else { "false" };
    let alert = if ended.error_at.is_empty() { "false" } else { "true" };
    let mut counters = vec![
        counter!(
            "pipeline_processed_events", "module" => "router", "destType" => labels.dest_type.clone(),
            "state" => ended.verdict.name(), "code" => code.clone(), "sourceId" => source_id.clone(),
            "destinationId" => labels.dest_id.clone()
        ),
        counter!(
            "router_response_counts", "destType" => labels.dest_type.clone(), "respStatusCode" => code.clone(),
            "destination" => labels.destination.clone(), "destId" => labels.dest_id.clone(),
            "workspaceId" => labels.workspace_id.clone(), "alert" => alert, "errorAt" => ended.error_at,
            "retry" => retries
        ),
    ];
    match ended.verdict {
        Verdict::Succeeded | Verdict::Filtered => counters.push(counter!(
            "event_delivery", "module" => "router", "destType" => labels.dest_type.clone(),
            "destID" => labels.dest_id.clone(), "destination" => labels.destination.clone(),
            "workspaceId" => labels.workspace_id.clone(), "source" => source_id
        )),
        Verdict::Aborted => counters.push(counter!(
            "router_aborted_events", "destType" => labels.dest_type.clone(), "respStatusCode" => code,
            "destId" => labels.dest_id.clone(), "workspaceId" => labels.workspace_id.clone(), "alert" => alert,
            "errorAt" => ended.error_at
        )),
        Verdict::Failed => {}
    }
    counters
}

/// An event reached its destination this long after it was received.
pub fn event_delivered(meters: &Meters, source_id: &str, source_category: &str, took: Duration) {
    meters.of_source(source_id, |source| {
        if let Some((_, known)) = source.delivered.iter().find(|(category, _)| category == source_category) {
            known.record(took.as_secs_f64());
            return;
        }
        let labels = &meters.labels;
        let meter = histogram!(
            "event_delivery_time", "module" => "router", "destType" => labels.dest_type.clone(),
            "destID" => labels.dest_id.clone(), "destination" => labels.destination.clone(),
            "workspaceId" => labels.workspace_id.clone(), "sourceId" => source_id.to_owned(),
            "sourceCategory" => source_category.to_owned()
        );
        meter.record(took.as_secs_f64());
        source.delivered.push((source_category.to_owned(), meter));
    });
}

/// Shortest and longest time between receipt and delivery in one batch of statuses.
pub fn pipeline_delay(meters: &Meters, shortest: Duration, longest: Duration) {
    meters.shortest_delay.set(shortest.as_secs_f64());
    meters.longest_delay.set(longest.as_secs_f64());
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
pub fn request_took(meters: &Meters, took: Duration) {
    meters.latency.record(took.as_secs_f64());
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
pub fn paused(meters: &Meters, is_paused: bool) {
    meters.paused.set(if is_paused { 1.0 } else { 0.0 });
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

/// A header of an event that would have changed where its request goes or ends was left out.
pub(super) fn framing_header_dropped() {
    counter!("router_framing_headers_dropped_total").increment(1);
}

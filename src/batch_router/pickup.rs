//! What happens to a job that was just picked up: delivered, or drained with a reason (router.md 19.1, 8.1).

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::backend_config::{Destination, Snapshot};
use crate::jobsdb::{CancelledRuns, Job, LastStatus};

/// Why a job is given up without another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainReason {
    SourceNotFound,
    Expired,
    DestinationUnknown,
    DestinationDisabled,
    ConfiguredToAbort,
    CancelledRun,
}

impl DrainReason {
    /// The text in statuses, dead letters and metrics.
    pub(super) fn text(self) -> &'static str {
        match self {
            DrainReason::SourceNotFound => "source_not_found",
            DrainReason::Expired => "job expired",
            DrainReason::DestinationUnknown => "destination is not available in the config",
            DrainReason::DestinationDisabled => "destination is disabled",
            DrainReason::ConfiguredToAbort => "destination configured to abort",
            DrainReason::CancelledRun => "cancelled jobRunID",
        }
    }

    /// What an operator asked for is not kept as a dead letter.
    pub(super) fn earns_dead_letter(self) -> bool {
        !matches!(self, DrainReason::ConfiguredToAbort | DrainReason::CancelledRun)
    }
}

/// Members of a job's parameters that are read here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct JobParameters<'a> {
    /// The reverse-ETL run; empty for events.
    #[serde(borrow, default)]
    pub(super) source_job_run_id: Cow<'a, str>,
    /// Its task run and its job, by which the warehouse finds its files.
    #[serde(borrow, default)]
    pub(super) source_task_run_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) source_job_id: Cow<'a, str>,
    #[serde(borrow, default)]
    received_at: Cow<'a, str>,
}

impl JobParameters<'_> {
    /// Reads them; members that are missing or of another type count as empty.
    pub(super) fn of(job: &Job) -> JobParameters<'_> {
        serde_json::from_slice(&job.parameters).unwrap_or_default()
    }

    /// When the gateway received the event, milliseconds since the epoch.
    pub(super) fn received_ms(&self) -> Option<i64> {
        self.received_at.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
    }
}

/// The rules for one destination at one moment.
pub(super) struct DrainRules<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) destination_id: &'a str,
    /// `None` when it has been unknown for longer than the grace.
    pub(super) destination: Option<&'a Destination>,
    pub(super) retention: Duration,
    pub(super) to_abort: &'a [String],
    /// Runs that the settings name, and those that were cancelled by an order.
    pub(super) listed_runs: &'a [String],
    pub(super) cancelled_runs: &'a CancelledRuns,
    pub(super) now_us: i64,
}

impl DrainRules<'_> {
    /// Why a job of the source is given up; `None` when it is to be delivered.
    pub(super) fn reason(&self, source_id: &str, created_us: i64, run_id: &str) -> Option<DrainReason> {
        if self.destination.is_some() && !self.is_connected(source_id) {
            return Some(DrainReason::SourceNotFound);
        }
        let age_us = self.now_us.saturating_sub(created_us);
        if age_us > i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX) {
            return Some(DrainReason::Expired);
        }
        let Some(destination) = self.destination else { return Some(DrainReason::DestinationUnknown) };
        if !destination.enabled {
            return Some(DrainReason::DestinationDisabled);
        }
        if self.to_abort.iter().any(|id| id == self.destination_id) {
            return Some(DrainReason::ConfiguredToAbort);
        }
        let is_listed = || self.listed_runs.iter().any(|id| id == run_id);
        if !run_id.is_empty() && (is_listed() || self.cancelled_runs.contains(run_id)) {
            return Some(DrainReason::CancelledRun);
        }
        None
    }

    fn is_connected(&self, source_id: &str) -> bool {
        let source = self.snapshot.source_by_id.get(source_id);
        source.is_some_and(|source| source.destinations.iter().any(|destination| destination.id == self.destination_id))
    }
}

/// The error response of a drained job: what was there before, and the reason.
pub(super) fn drained_response(last: Option<&LastStatus>, reason: DrainReason) -> Map<String, Value> {
    let previous = last.and_then(|last| serde_json::from_slice(&last.status.error_response).ok());
    let mut response: Map<String, Value> = previous.unwrap_or_default();
    response.insert("reason".to_owned(), reason.text().into());
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend_config::{Source, Workspace};

    const HOUR_US: i64 = 3_600_000_000;

    #[test]
    fn drain_reasons_are_checked_in_the_documented_order() {
        let destination = |enabled| Arc::new(Destination { id: "d".into(), enabled, ..Destination::default() });
        let source = |id: &str, destinations| Source { id: id.into(), destinations, ..Source::default() };
        let sources = vec![Arc::new(source("s", vec![destination(true)])), Arc::new(source("lonely", Vec::new()))];
        let snapshot = Snapshot::new(vec![Workspace { id: "w".into(), sources, ..Workspace::default() }], 0);
        let (on, off) = (destination(true), destination(false));
        let listed = ["d".to_owned()];
        let runs = ["r1".to_owned()];
        let none: &[String] = &[];
        for (source, destination, age_h, to_abort, run, expected) in [
            ("s", Some(&on), 1, none, "", None),
            ("s", Some(&on), 1, none, "r2", None),
            ("s", Some(&on), 1, none, "r1", Some(DrainReason::CancelledRun)),
            ("s", Some(&on), 1, &listed[..], "r1", Some(DrainReason::ConfiguredToAbort)),
            ("s", Some(&off), 1, &listed[..], "", Some(DrainReason::DestinationDisabled)),
            ("s", Some(&off), 721, none, "", Some(DrainReason::Expired)),
            ("s", None, 1, none, "", Some(DrainReason::DestinationUnknown)),
            ("s", None, 721, none, "", Some(DrainReason::Expired)),
            ("lonely", Some(&on), 721, none, "", Some(DrainReason::SourceNotFound)),
            ("gone", Some(&on), 1, none, "", Some(DrainReason::SourceNotFound)),
        ] {
            let rules = DrainRules {
                snapshot: &snapshot,
                destination_id: "d",
                destination: destination.map(Arc::as_ref),
                retention: Duration::from_secs(720 * 3_600),
                to_abort,
                listed_runs: &runs,
                cancelled_runs: &CancelledRuns::default(),
                now_us: 1_000 * HOUR_US,
            };
            assert_eq!(rules.reason(source, (1_000 - age_h) * HOUR_US, run), expected, "{source} {age_h} {run}");
        }
    }

    #[test]
    fn only_what_the_operator_asked_for_leaves_no_dead_letter() {
        assert!(DrainReason::Expired.earns_dead_letter());
        assert!(DrainReason::SourceNotFound.earns_dead_letter());
        assert!(!DrainReason::ConfiguredToAbort.earns_dead_letter());
        assert!(!DrainReason::CancelledRun.earns_dead_letter());
    }
}

//! What the processor counts and logs (processor.md 18). The only place that names its metrics.
//!
//! A read gathers its figures in [`Counts`]; they are published when its batch is stored, so that a repeated
//! read is counted once.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::ProcessorError;
use super::accounting::{Mark, Stage, State, Tally};
use super::geo::Located;
use super::tracking_plan::{Verdict, ViolationKind};
use crate::destination::Message;
use crate::jobsdb::{JobsDbError, Queue};
use crate::telemetry::may_log;

/// Texts that are logged at once; the rest is only counted.
const LOGGED_PER_READ: usize = 3;

/// Figures of one read.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) jobs: u64,
    pub(super) events: u64,
    /// Events that are not looked at, counted but not yet accounted for.
    pub(super) led_nowhere: u64,
    pub(super) archived: u64,
    pub(super) to_router: u64,
    pub(super) to_batch_router: u64,
    pub(super) dead: u64,
    pub(super) duplicates: u64,
    payload_bytes: u64,
    oldest_received_ms: Option<i64>,
    /// By stage; there are few.
    filtered: Vec<(&'static str, u64)>,
    /// By destination type, stage and status.
    failed: HashMap<(String, &'static str, u16), u64>,
    notes: Vec<String>,
    unreadable: u64,
    unknown_source: u64,
    lost: u64,
    /// What became of the events, stage by stage; stored with the batch.
    pub(super) tally: Tally,
    located: [u64; 4],
    plan_checks: [u64; 3],
}

impl Counts {
    /// The number of the event's kind in the figures.
    pub(super) fn kind_of(&mut self, event: &Message<'_>) -> u32 {
        let text = |key: &str| event.text(key).unwrap_or_default();
        self.tally.kind(&text("type"), &text("event"))
    }

    /// Events that nobody looked at, because nothing can come of them; so the figures do not tell their kinds apart.
    pub(super) fn account_for_those_that_led_nowhere(&mut self) {
        let events = std::mem::take(&mut self.led_nowhere);
        if events == 0 {
            return;
        }
        self.events += events;
        self.filtered_many(Stage::DestinationFilter.name(), events);
        let kind = self.tally.kind("", "");
        let accepted = Mark::new(Stage::Gateway, None, State::Succeeded, 200);
        let filtered = Mark::new(Stage::DestinationFilter, Some(Stage::Gateway), State::Filtered, 298);
        self.tally.count_many(kind, accepted, events);
        self.tally.count_many(kind, filtered, events);
    }

    /// What a stage said about an event.
    pub(super) fn account(&mut self, kind: u32, destination_id: &str, mark: Mark) {
        self.tally.count(kind, destination_id, mark);
    }

    /// A stage before the fan-out filtered an event.
    pub(super) fn filtered_as(&mut self, kind: u32, mark: Mark) {
        self.filtered(mark.stage.name());
        self.tally.count(kind, "", mark);
    }

    /// An event of a bot goes on.
    pub(super) fn bot(&mut self, kind: u32, is_flagged: bool) {
        let state = if is_flagged { State::BotFlagged } else { State::BotDetected };
        self.tally.count(kind, "", Mark::new(Stage::BotManagement, None, State::BotDetected, 200));
        self.tally.count(kind, "", Mark::new(Stage::Gateway, None, state, 200));
    }

    /// The tracking plan said this: one record per type of violation.
    pub(super) fn planned(&mut self, kind: u32, verdict: &Verdict) {
        let (state, status) = match (verdict.is_dropped, verdict.violations.is_empty()) {
            (true, _) => (State::Aborted, 400),
            (false, false) => (State::SucceededWithViolations, 200),
            (false, true) => (State::SucceededWithoutViolations, 200),
        };
        let [succeeded, dropped, violating] = &mut self.plan_checks;
        *(if verdict.is_dropped { dropped } else { succeeded }) += 1;
        *violating += u64::from(!verdict.violations.is_empty());
        let mark = Mark::new(Stage::TrackingPlanValidator, Some(Stage::DestinationFilter), state, status);
        if verdict.violations.is_empty() {
            self.tally.count(kind, "", mark);
        }
        for violation in ViolationKind::ALL {
            let found = verdict.violations.iter().filter(|found| found.kind == violation).count() as u64;
            if found > 0 {
                self.tally.count_violations(kind, Mark { error_type: violation as u8, ..mark }, found);
            }
        }
    }

    /// The stages for one destination said this, in order; `before` is the stage before them.
    pub(super) fn routed(
        &mut self,
        kind: u32,
        destination_id: &str,
        before: Stage,
        outcome: [Option<(Stage, State, u16)>; 2],
    ) {
        let mut after = before;
        for (stage, state, status) in outcome.into_iter().flatten() {
            self.tally.count(kind, destination_id, Mark::new(stage, Some(after), state, status));
            after = stage;
        }
    }

    /// The place of an event was looked up.
    pub(super) fn located(&mut self, located: Located) {
        let [done, empty, invalid, failed] = &mut self.located;
        match located {
            Located::Untouched => {}
            Located::Done => *done += 1,
            Located::EmptyIp => *empty += 1,
            Located::InvalidIp => *invalid += 1,
            Located::Failed => *failed += 1,
        }
    }

    pub(super) fn received(&mut self, at_ms: i64) {
        self.oldest_received_ms = Some(self.oldest_received_ms.map_or(at_ms, |oldest| oldest.min(at_ms)));
    }

    pub(super) fn filtered(&mut self, stage: &'static str) {
        self.filtered_many(stage, 1);
    }

    fn filtered_many(&mut self, stage: &'static str, more: u64) {
        match self.filtered.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, events)) => *events += more,
            None => self.filtered.push((stage, more)),
        }
    }

    /// Events that one stage filtered.
    #[cfg(test)]
    pub(super) fn filtered_at(&self, stage: &'static str) -> u64 {
        self.filtered.iter().find(|(known, _)| *known == stage).map_or(0, |(_, events)| *events)
    }

    pub(super) fn sent(&mut self, queue: Queue, jobs: usize) {
        let jobs = jobs as u64;
        if queue == Queue::BatchRt { self.to_batch_router += jobs } else { self.to_router += jobs }
    }

    pub(super) fn stored_bytes(&mut self, bytes: u64) {
        self.payload_bytes += bytes;
    }

    pub(super) fn failed(&mut self, destination_type: &str, stage: &'static str, status: u16, error: &str) {
        self.dead += 1;
        let count = self.failed.entry((destination_type.to_owned(), stage, status)).or_default();
        *count += 1;
        if *count == 1 {
            self.note(|| format!("{stage} failed events for {destination_type} destinations ({status}): {error}"));
        }
    }

    pub(super) fn unreadable(&mut self, job_id: u64, problem: &str) {
        self.unreadable += 1;
        self.note(|| format!("gateway job {job_id} holds no readable events: {problem}"));
    }

    pub(super) fn lost(&mut self, job_id: u64) {
        self.lost += 1;
        self.note(|| format!("gateway job {job_id} could not be processed (internal error) and is a dead letter now"));
    }

    pub(super) fn unknown_source(&mut self, source_id: &str, events: usize) {
        self.unknown_source += events as u64;
        self.note(|| format!("source \"{source_id}\" is not in the workspace configuration; its events are dropped"));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.notes.len() < LOGGED_PER_READ {
            self.notes.push(text());
        }
    }

    /// Publishes the figures of a read whose batch is stored.
    pub(super) fn publish(self, meters: &Meters, now_ms: i64) {
        let source_id = &meters.source_id;
        meters.requests.increment(self.jobs);
        meters.events.increment(self.events);
        meters.gateway_writes.increment(self.jobs);
        meters.payload_bytes.increment(self.payload_bytes);
        meters.to_router.increment(self.to_router);
        meters.to_batch_router.increment(self.to_batch_router);
        meters.archived.increment(self.archived);
        meters.unreadable.increment(self.unreadable);
        meters.duplicates.increment(self.duplicates);
        meters.unknown_source.increment(self.unknown_source);
        for (stage, events) in self.filtered {
            match meters.filtered.iter().find(|(known, _)| *known == stage) {
                Some((_, counter)) => counter.increment(events),
                None => filtered_counter(source_id, stage).increment(events),
            }
        }
        for ((destination_type, stage, status), events) in self.failed {
            counter!("proc_error_counts", "destName" => destination_type, "stage" => stage, "statusCode" => status.to_string())
                .increment(events);
        }
        if self.lost > 0 {
            counter!("processor_lost_jobs", "partition" => source_id.clone()).increment(self.lost);
        }
        for (error, looked_up) in ["", "empty_ip", "invalid_ip", "locate_failed"].into_iter().zip(self.located) {
            if looked_up > 0 {
                counter!("proc_geo_enricher_request", "error" => error).increment(looked_up);
            }
        }
        let [succeeded, dropped, violating] = self.plan_checks;
        if succeeded + dropped > 0 {
            let of = |name: &'static str| counter!(name, "partition" => source_id.clone());
            of("proc_num_tp_input_events").increment(succeeded + dropped);
            of("proc_num_tp_output_success_events").increment(succeeded);
            of("proc_num_tp_output_failed_events").increment(dropped);
            of("proc_tp_violating_events").increment(violating);
        }
        if let Some(oldest) = self.oldest_received_ms {
            let delay_ms = now_ms.saturating_sub(oldest).max(0);
            meters.delay.set(delay_ms as f64 / 1000.0);
        }
        if !self.notes.is_empty()
            && let Some(silenced) = may_log("processor read", source_id)
        {
            for note in self.notes {
                tracing::warn!(%source_id, silenced, "{note}");
            }
        }
    }
}

/// Stages whose filtered events have a counter from the start.
const FILTERING_STAGES: [&str; 6] =
    ["bot_management", "event_blocking", "destination_filter", "user_transformer", "event_filter", "dest_transformer"];

fn filtered_counter(source_id: &str, stage: &'static str) -> Counter {
    counter!("proc_filtered_counts", "partition" => source_id.to_owned(), "stage" => stage)
}

/// The meters of one source, looked up once by its worker: reads may be small and many.
pub(super) struct Meters {
    source_id: String,
    requests: Counter,
    events: Counter,
    gateway_writes: Counter,
    payload_bytes: Counter,
    to_router: Counter,
    to_batch_router: Counter,
    archived: Counter,
    unreadable: Counter,
    duplicates: Counter,
    unknown_source: Counter,
    filtered: [(&'static str, Counter); 6],
    delay: Gauge,
    reads: Counter,
    read_time: Histogram,
    write_time: Histogram,
}

impl Meters {
    pub(super) fn new(source_id: &str) -> Meters {
        let partition = || source_id.to_owned();
        Meters {
            source_id: partition(),
            requests: counter!("processor_num_requests", "partition" => partition()),
            events: counter!("processor_num_events", "partition" => partition()),
            gateway_writes: counter!("processor_gateway_db_write", "partition" => partition()),
            payload_bytes: counter!("processor_db_write_payload_bytes", "partition" => partition()),
            to_router: counter!("processor_num_output_events", "partition" => partition(), "module" => "router"),
            to_batch_router: counter!("processor_num_output_events", "partition" => partition(), "module" => "batch_router"),
            archived: counter!("processor_archived_events", "partition" => partition()),
            unreadable: counter!("processor_unreadable_jobs", "partition" => partition()),
            duplicates: counter!("processor_write_key_duplicate_events", "source" => partition()),
            unknown_source: counter!("processor_unknown_source_events"),
            filtered: FILTERING_STAGES.map(|stage| (stage, filtered_counter(source_id, stage))),
            delay: gauge!("pipeline_delay_max_seconds", "partition" => partition(), "module" => "processor"),
            reads: counter!("processor_gateway_db_read", "partition" => partition()),
            read_time: histogram!("processor_gateway_db_read_time", "partition" => partition()),
            write_time: histogram!("processor_gateway_db_write_time", "partition" => partition()),
        }
    }

    /// A read took this long and gave this many jobs.
    pub(super) fn read(&self, jobs: usize, took: Duration) {
        self.reads.increment(jobs as u64);
        self.read_time.record(took.as_secs_f64());
    }

    /// A batch was stored after this long.
    pub(super) fn stored(&self, took: Duration) {
        self.write_time.record(took.as_secs_f64());
    }
}

/// A batch could not be stored; its jobs go back and are read again.
pub(super) fn store_failed(source_id: &str, error: &JobsDbError) {
    counter!("processor_store_failures", "partition" => source_id.to_owned()).increment(1);
    if let Some(silenced) = may_log("processor store", source_id) {
        tracing::warn!(
            source_id,
            silenced,
            "processed events could not be stored and will be processed again: {error}"
        );
    }
}

/// A read failed; it is repeated after a pause.
pub(super) fn read_failed(source_id: &str, error: &ProcessorError) {
    counter!("processor_read_failures", "partition" => source_id.to_owned()).increment(1);
    if let Some(silenced) = may_log("processor", source_id) {
        tracing::error!(source_id, silenced, "events cannot be processed now: {error}");
    }
}

/// This many sources have a worker.
pub(super) fn workers(count: usize) {
    gauge!("proc_active_partitions").set(count as f64);
}

/// A worker ended by a panic; its source gets a new one.
pub(super) fn worker_lost(source_id: &str, problem: &str) {
    counter!("processor_lost_workers").increment(1);
    tracing::error!(source_id, "a processor worker ended unexpectedly and is started again: {problem}");
}

/// A rule of a tracking plan cannot be used; its events pass unchecked.
pub(super) fn plan_unusable(plan_id: &str, version: i64, rule: &str, problem: &str) {
    counter!("proc_tp_unusable_rules").increment(1);
    if let Some(silenced) = may_log("tracking plan", plan_id) {
        tracing::warn!(
            plan_id,
            version,
            rule,
            silenced,
            "events pass this rule of the tracking plan unchecked: {problem}"
        );
    }
}

/// A rule is used here, but the hosted validator would refuse it and let its events pass.
pub(super) fn plan_not_strict(plan_id: &str, version: i64, rule: &str, refusal: &str) {
    if let Some(silenced) = may_log("tracking plan strictness", plan_id) {
        tracing::warn!(
            plan_id,
            version,
            rule,
            silenced,
            "the rule is applied here, but RudderStack's validator refuses it and lets its events pass: {refusal}"
        );
    }
}

/// The GeoIP database was read, or could not be.
pub(super) fn geo_database(path: &std::path::Path, read: Result<u64, &str>) {
    match read {
        Ok(build_epoch) => tracing::info!(path = %path.display(), build_epoch, "the GeoIP database is in force"),
        Err(problem) => {
            counter!("proc_geo_database_failures").increment(1);
            tracing::warn!(path = %path.display(), "the GeoIP database cannot be read: {problem}");
        }
    }
}

/// Stored figures could not be joined or dropped; it is tried again.
pub(super) fn figures_not_tidied(problem: &str) {
    counter!("processor_report_failures").increment(1);
    if let Some(silenced) = may_log("reporting figures", "") {
        tracing::warn!(silenced, "stored figures could not be looked after: {problem}");
    }
}

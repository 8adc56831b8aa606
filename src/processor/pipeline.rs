//! The way of one read: gateway jobs in, jobs for the next queues out, stage by stage in the order of
//! processor.md 2.1.
//!
//! No clock, and no I/O but the look-up of known message ids where deduplication is on. A job that goes out
//! is handed to `emit`, which stores it.
//!
//! Stages per event: enrich (place, bots), drop (bots, blocked events, duplicates), archive copy, destinations that
//! it may go to, time fields, tracking plan; then per destination: user transformation, event filter, destination
//! transformation. Events of destinations with a user transformation, or whose transformation is elsewhere, are gathered
//! in `gathered`; the caller has them transformed when the read is through and brings back what came of them.
//!
//! Per event this allocates its list of members, the times that change, and the facts that parameters carry;
//! per destination the payload. One buffer for parameters and one for copies serve the whole read.

mod passing;
mod transformed;

use std::borrow::Cow;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;
use uuid::Uuid;

use super::ProcessorError;
use super::accounting::{Mark, Stage, State};
use super::archive;
use super::bots::Drop;
use super::choose::Wishes;
use super::duplicates::Duplicates;
use super::events::Counts;
use super::explode::{JobParameters, Stored, explode};
use super::geo::{self, Database};
use super::lookups::Lookups;
use super::parameters::{self, EventFacts, message_id};
use super::planned::{self, PlanFailure};
use super::route::{Route, SourceRoutes};
use super::run_tally::RunTally;
use super::timefields;
use super::user_transform::{Gathered, STAGE};
use crate::backend_config::Snapshot;
use crate::destination::{Message, may_hold_key};
use crate::jobsdb::{CancelledRuns, Job, NewJob, Queue};
use crate::settings::Settings;
use passing::{Failed, LET_THROUGH, Passing, isolated, outcome_of};

/// The `customVal` of gateway and archive jobs.
pub(super) const GATEWAY: &str = "GW";

/// In a job's parameters: a mark that the gateway sets, and that the job is of no run.
static MARK: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"is_"));
static NO_RUN: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("\"source_job_run_id\":\"\""));

/// Takes the jobs that leave the processor.
pub type Emit<'e> = dyn FnMut(Queue, &NewJob<'_>) + 'e;

/// Sources met so far; `None` for those that the workspace does not know.
pub(super) type Sources = HashMap<String, Option<SourceRoutes>>;

/// One read's view of the world, and what it has counted.
pub struct Pipeline<'a> {
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    /// RFC 3339, the time of this read.
    now: String,
    sources: Sources,
    lookups: Arc<Lookups>,
    /// Present where places are looked up and there is a database.
    places: Option<Arc<Database>>,
    /// The version that the events of each source's read are annotated with: that of the first one.
    told_versions: HashMap<String, i64>,
    /// Present where deduplication is on.
    pub(super) duplicates: Option<Duplicates<'a>>,
    /// Events that wait for their user transformation.
    pub(super) gathered: Gathered,
    /// What gateway jobs count for whose events wait, or that come behind such jobs, by job.
    waiting_runs: HashMap<u64, RunTally>,
    cancelled_runs: CancelledRuns,
    /// What the events of the last gateway job count for.
    run: RunTally,
    buffers: Buffers,
    pub(super) counts: Counts,
}

#[derive(Default)]
pub(super) struct Buffers {
    pub(super) parameters: Vec<u8>,
    of_event: Vec<u8>,
    pub(super) copy: Vec<u8>,
}

impl<'a> Pipeline<'a> {
    /// A pipeline over one snapshot and one set of settings, at the time `now` (RFC 3339). Without
    /// `duplicates` every event is new.
    pub fn new(
        snapshot: &'a Snapshot,
        settings: &'a Settings,
        now: String,
        duplicates: Option<Duplicates<'a>>,
    ) -> Pipeline<'a> {
        Pipeline {
            snapshot,
            settings,
            now,
            sources: HashMap::new(),
            lookups: Arc::default(),
            places: None,
            told_versions: HashMap::new(),
            duplicates,
            gathered: Gathered::default(),
            waiting_runs: HashMap::new(),
            cancelled_runs: CancelledRuns::default(),
            run: RunTally::default(),
            buffers: Buffers::default(),
            counts: Counts::default(),
        }
    }

    /// The same with the sources of earlier reads over the same snapshot and settings.
    pub(super) fn with_sources(mut self, sources: Sources) -> Pipeline<'a> {
        self.sources = sources;
        self
    }

    /// The same with runs whose events are given up, besides those that the settings name.
    pub(super) fn with_cancelled_runs(mut self, runs: CancelledRuns) -> Pipeline<'a> {
        self.cancelled_runs = runs;
        self
    }

    /// What the gateway job that was run last counts for.
    pub(super) fn take_run(&mut self) -> RunTally {
        std::mem::take(&mut self.run)
    }

    /// The same with what events are held against.
    pub(super) fn with_lookups(mut self, lookups: &Arc<Lookups>) -> Pipeline<'a> {
        self.lookups = Arc::clone(lookups);
        self.places = if self.settings.processor.geo.enabled { lookups.geo.current() } else { None };
        self
    }

    /// The job that was run last waits for transformations, of its own or of jobs before it.
    pub(super) fn hold_run(&mut self, job_id: u64) {
        let run = self.take_run();
        self.waiting_runs.insert(job_id, run);
    }

    /// What a job that waited counts for.
    pub(super) fn take_held_run(&mut self, job_id: u64) -> RunTally {
        self.waiting_runs.remove(&job_id).unwrap_or_default()
    }

    /// What the read counted, and the sources for the next one.
    pub(super) fn finish(mut self) -> (Counts, Sources) {
        self.counts.account_for_those_that_led_nowhere();
        (self.counts, self.sources)
    }

    /// Looks up the message ids of a whole read, before its jobs are run.
    ///
    /// # Errors
    /// Known message ids cannot be looked up.
    pub(super) fn look_up(&mut self, jobs: &[Job]) -> Result<(), ProcessorError> {
        let Pipeline { snapshot, settings, sources, lookups, duplicates: Some(duplicates), .. } = self else {
            return Ok(());
        };
        let mut keys = Vec::with_capacity(jobs.len());
        let mut keys_of = |job: &Job| {
            let Ok(parameters) = JobParameters::parse(&job.parameters) else { return };
            // Events that go nowhere must not make others duplicates.
            let is_known = source_of(sources, &parameters.source_id, snapshot, settings, lookups).is_some();
            if !is_known || parameters.is_replay || parameters.bots.drops().is_some() {
                return;
            }
            let Ok(stored) = explode(&job.payload) else { return };
            let of_events = stored.events.iter().map(|event| (message_id(event), &parameters.source_job_run_id));
            keys.extend(of_events.filter_map(|(id, run)| duplicates.key(&id, run)));
        };
        for job in jobs {
            // A job that makes this panic does so again when it is run, and is given up there.
            drop(std::panic::catch_unwind(AssertUnwindSafe(|| keys_of(job))));
        }
        duplicates.look_up(keys)?;
        Ok(())
    }

    /// Sends one gateway job through all stages; a panic outside of those that are isolated by destination gives
    /// up the whole job, so that its source goes on. What the job gave until then stays with the caller:
    /// `restart` takes it back.
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub(super) fn run_guarded<E>(
        &mut self,
        job: &Job,
        output: &mut E,
        emit: impl Fn(&mut E, Queue, &NewJob<'_>),
        restart: impl FnOnce(&mut E),
    ) -> Result<(), ProcessorError> {
        let run = AssertUnwindSafe(|| self.run(job, &mut |queue, new| emit(output, queue, new)));
        match std::panic::catch_unwind(run) {
            Ok(done) => done,
            Err(_panic) => {
                restart(output);
                self.run.restart();
                self.gathered.forget(job.id);
                self.give_up(job, &mut |queue, new| emit(output, queue, new));
                Ok(())
            }
        }
    }

    /// Keeps a gateway job as it is, for the operator.
    fn give_up(&mut self, job: &Job, emit: &mut Emit<'_>) {
        let parameters = &mut self.buffers.parameters;
        parameters.clear();
        parameters::of_lost_job(parameters, &job.partition.source_id, &self.now);
        emit(
            Queue::ProcError,
            &NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: &job.partition.workspace_id,
                custom_val: GATEWAY,
                source_id: &job.partition.source_id,
                destination_id: "",
                user_id: &job.user_id,
                parameters,
                payload: &[b"[", &job.payload, b"]"],
                event_count: job.event_count,
            },
        );
        self.counts.lost(job.id);
    }

    /// Counts the events of a job of which nothing can come, without a look at them.
    fn skip(&mut self, job: &Job) -> bool {
        let Pipeline { snapshot, settings, sources, lookups, duplicates: None, counts, .. } = self else {
            return false;
        };
        // A mark of the gateway decides under which name the event is filtered, and runs are counted one by one.
        if MARK.find(&job.parameters).is_some() || NO_RUN.find(&job.parameters).is_none() {
            return false;
        }
        let source = source_of(sources, &job.partition.source_id, snapshot, settings, lookups);
        if !source.is_some_and(SourceRoutes::lead_nowhere) {
            return false;
        }
        counts.jobs += 1;
        counts.received(job.created_us.div_euclid(1_000));
        counts.led_nowhere += u64::from(job.event_count);
        true
    }

    /// Sends one gateway job through all stages.
    ///
    /// # Errors
    /// [`ProcessorError::Parameters`] when the job's parameters are no JSON: the partition stops there.
    pub fn run(&mut self, job: &Job, emit: &mut Emit<'_>) -> Result<(), ProcessorError> {
        if self.skip(job) {
            return Ok(());
        }
        let parameters = JobParameters::parse(&job.parameters).map_err(|error| ProcessorError::Parameters {
            job_id: job.id,
            source_id: job.partition.source_id.clone(),
            problem: error.to_string(),
        })?;
        self.counts.jobs += 1;
        self.run = RunTally::of(&parameters);
        let Stored { events, request_ip, received } = match explode(&job.payload) {
            Ok(stored) => stored,
            Err(problem) => {
                self.counts.unreadable(job.id, &problem);
                return Ok(());
            }
        };
        self.counts.received(received.as_ms());
        let Pipeline {
            snapshot,
            settings,
            now,
            sources,
            lookups,
            places,
            told_versions,
            duplicates,
            gathered,
            cancelled_runs,
            run,
            buffers,
            counts,
            waiting_runs: _,
        } = self;
        let Some(source) = source_of(sources, &parameters.source_id, snapshot, settings, lookups) else {
            counts.unknown_source(&parameters.source_id, events.len());
            return Ok(());
        };
        for mut event in events {
            counts.events += 1;
            if let Some(database) = places.as_deref().filter(|_| source.source.geo_enrichment) {
                counts.located(geo::enrich(&mut event, request_ip, database));
            }
            enrich(&mut event, &parameters, source, settings);
            let kind = counts.kind_of(&event);
            match parameters.bots.drops() {
                Some(Drop::Bot) => {
                    counts.filtered_as(kind, Mark::new(Stage::BotManagement, None, State::Filtered, 298));
                    continue;
                }
                Some(Drop::Blocked) => {
                    counts.filtered_as(kind, Mark::new(Stage::EventBlocking, None, State::Filtered, 298));
                    continue;
                }
                None if parameters.bots.is_bot => counts.bot(kind, parameters.bots.bot_action == "flag"),
                None => {}
            }
            if let Some(duplicates) = duplicates
                && !parameters.is_replay
                && duplicates.is_duplicate(duplicates.key(&message_id(&event), &parameters.source_job_run_id))
            {
                counts.duplicates += 1;
                counts.account(kind, "", Mark::new(Stage::Dedup, None, State::Filtered, 298));
                continue;
            }
            if source.has_archive
                && !parameters.is_replay
                && archive::takes(&source.source, &parameters.source_job_run_id)
            {
                archive_copy(job, &event, &parameters, &mut buffers.copy, emit);
                counts.archived += 1;
            }
            counts.account(kind, "", Mark::new(Stage::Gateway, None, State::Succeeded, 200));
            let (wishes, source_job_id) = read_context(&event);
            let only = Some(&*parameters.destination_id).filter(|id| !id.is_empty());
            let is_wanted = |route: &&Route| wishes.allow(&route.candidate, only);
            if !source.routes.iter().any(|route| is_wanted(&route)) {
                let mark = Mark::new(Stage::DestinationFilter, Some(Stage::Gateway), State::Filtered, 298);
                counts.filtered_as(kind, mark);
                continue;
            }
            event.set("request_ip", request_ip);
            timefields::set(&mut event, &received);

            let facts = EventFacts::of(&event, source_job_id);
            let mut before = Stage::DestinationFilter;
            if let Some(plan) = &source.plan {
                before = Stage::TrackingPlanValidator;
                let told = told_versions.entry(parameters.source_id.clone().into_owned());
                let verdict = planned::check(plan, &mut event, told);
                counts.planned(kind, &verdict);
                if verdict.is_dropped {
                    let letter = PlanFailure { job, parameters: &parameters, source, event: &event, facts: &facts };
                    letter.emit(&verdict, now, buffers, emit);
                    counts.failed(
                        GATEWAY,
                        Stage::TrackingPlanValidator.name(),
                        verdict.status(),
                        &verdict.error_text(),
                    );
                    continue;
                }
            }
            buffers.of_event.clear();
            parameters::of_event(&mut buffers.of_event, &facts, &parameters, received.text(), job.id);
            let passing = Passing {
                job,
                parameters: &parameters,
                source,
                event: &event,
                facts: &facts,
                received_at: received.text(),
            };
            let is_drained = !parameters.source_job_run_id.is_empty()
                && (settings.processor.drained_job_runs.iter().any(|listed| *listed == parameters.source_job_run_id)
                    || cancelled_runs.contains(&parameters.source_job_run_id));
            for (place, route) in source.routes.iter().enumerate().filter(|(_, route)| is_wanted(route)) {
                let destination = &route.candidate.destination;
                match &route.transformer {
                    None => {}
                    Some(Ok(by)) => {
                        let held = passing.held(kind, before, is_drained);
                        gathered.add(&parameters.source_id, place, by, passing.for_transformation(route), held);
                        continue;
                    }
                    Some(Err(refusal)) => {
                        let error = Cow::Owned(refusal.error.clone());
                        let failed = Failed { stage: STAGE, status: refusal.status, error };
                        let mark = Mark::new(Stage::UserTransformer, Some(before), State::Aborted, failed.status);
                        counts.account(kind, &destination.id, mark);
                        run.failed(&destination.id, &facts.record_id, failed.status);
                        passing.dead_letter(route, &failed, now, buffers, emit);
                        counts.failed(&destination.definition.name, STAGE, failed.status, &failed.error);
                        continue;
                    }
                }
                if let Some(by) = &route.elsewhere
                    && passing.is_let_through(route, is_drained)
                {
                    counts.routed(kind, &destination.id, before, LET_THROUGH);
                    let held = passing.held(kind, Stage::EventFilter, is_drained);
                    gathered.add(&parameters.source_id, place, by, passing.for_destination(route), held);
                    continue;
                }
                let outputs = isolated(|| passing.outputs(route, is_drained));
                counts.routed(kind, &destination.id, before, outcome_of(&outputs));
                match outputs {
                    Ok(Some(outputs)) => {
                        run.stored(&destination.id, outputs.len() as u64);
                        passing.deliver(route, &outputs, buffers, counts, emit);
                    }
                    Ok(None) => {
                        run.filtered(&destination.id);
                        counts.filtered(Stage::EventFilter.name());
                    }
                    Err(failed) => {
                        run.failed(&destination.id, &facts.record_id, failed.status);
                        // What the operator gave up is not kept (jobsdb.md 8.1).
                        if !is_drained {
                            passing.dead_letter(route, &failed, now, buffers, emit);
                        }
                        counts.failed(&destination.definition.name, failed.stage, failed.status, &failed.error);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The routes of a source, made when it is met first.
fn source_of<'s>(
    sources: &'s mut Sources,
    id: &str,
    snapshot: &Snapshot,
    settings: &Settings,
    lookups: &Lookups,
) -> Option<&'s SourceRoutes> {
    if !sources.contains_key(id) {
        sources.insert(id.to_owned(), SourceRoutes::of(id, snapshot, settings, lookups));
    }
    sources.get(id)?.as_ref()
}

/// What is added to and taken from an event before anything else.
fn enrich(event: &mut Message<'_>, parameters: &JobParameters<'_>, source: &SourceRoutes, settings: &Settings) {
    if settings.processor.bot_enrichment {
        parameters.bots.enrich(event);
    }
    if source.is_reverse_etl {
        strip_activation(event);
    }
}

/// `context.activation.fingerprint` and `.origin` of reverse-ETL events are for the node that made them.
fn strip_activation(event: &mut Message<'_>) {
    let Some(mut context) = event.object("context") else { return };
    let Some(mut activation) = context.object("activation") else { return };
    activation.remove("fingerprint");
    activation.remove("origin");
    if activation.is_empty() {
        context.remove("activation");
    } else {
        let activation = activation.to_json();
        context.set("activation", activation);
    }
    let context = context.to_json();
    event.set("context", context);
}

fn archive_copy(
    job: &Job,
    event: &Message<'_>,
    parameters: &JobParameters<'_>,
    buffer: &mut Vec<u8>,
    emit: &mut Emit<'_>,
) {
    buffer.clear();
    event.write(buffer);
    emit(
        Queue::Arc,
        &NewJob {
            uuid: job.uuid,
            workspace_id: &job.partition.workspace_id,
            custom_val: GATEWAY,
            source_id: &parameters.source_id,
            destination_id: "",
            user_id: &job.user_id,
            parameters: &job.parameters,
            payload: &[buffer],
            event_count: 1,
        },
    );
}

/// What the choice of destinations needs, and `context.sources.job_id`. The context is only scanned when it
/// may hold one of the two.
fn read_context(event: &Message<'_>) -> (Wishes, String) {
    let worth_a_scan = event
        .get("context")
        .is_some_and(|json| may_hold_key(json, "\"consentManagement\"") || may_hold_key(json, "\"sources\""));
    let context = if worth_a_scan { event.object("context") } else { None };
    let sources = context.as_ref().and_then(|context| context.object("sources"));
    let job_id = sources.as_ref().and_then(|sources| sources.text("job_id")).map(Cow::into_owned).unwrap_or_default();
    (Wishes::of(event, context.as_ref()), job_id)
}

#[cfg(test)]
mod tests;

//! The stages behind a transformation that events waited for: what became of a chunk goes on, is delivered, or ends as
//! dead letters.

use std::borrow::Cow;

use super::passing::{Failed, LET_THROUGH, Passing, isolated, outcome_of};
use super::{Buffers, Emit, Pipeline};
use crate::destination::{Message, Output};
use crate::jobsdb::{NewJob, Queue};
use crate::processor::accounting::{Mark, Stage, State};
use crate::processor::events::Counts;
use crate::processor::explode::JobParameters;
use crate::processor::parameters::{self, EventFacts};
use crate::processor::route::Route;
use crate::processor::run_tally::RunTally;
use crate::processor::user_transform::{Chunk, Held, Later};
use crate::transform::{Origin, Reply, Verdict};

impl Held {
    /// What the transformation of its chunk said about it.
    fn mark(&self, chunk: &Chunk, state: State, status: u16) -> Mark {
        Mark::new(chunk.stage(), Some(self.before), state, status)
    }
}

/// Where it is written down what became of an event.
struct Books<'b> {
    now: &'b str,
    buffers: &'b mut Buffers,
    counts: &'b mut Counts,
    run: &'b mut RunTally,
}

impl Pipeline<'_> {
    /// Sends what a transformation made of a chunk through the stages behind it. `emit` gets the place of the
    /// gateway job that each job joins, among the `later` ones.
    pub(in crate::processor) fn transformed(
        &mut self,
        chunk: &Chunk,
        reply: Reply,
        later: &Later<'_>,
        emit: &mut dyn FnMut(usize, Queue, &NewJob<'_>),
    ) {
        let joined = chunk.joined_jobs(&reply, &later.places);
        let is_output = |at: usize| {
            reply
                .results
                .iter()
                .any(|result| result.origin == Origin::Event(at) && matches!(result.verdict, Verdict::Output(_)))
        };
        // A failure of the whole batch is one of every event that nothing came of.
        let failing: Vec<usize> = if reply.results.iter().any(|result| result.origin == Origin::All) {
            (0..chunk.events.len()).filter(|at| !is_output(*at)).collect()
        } else {
            Vec::new()
        };
        for (result, place) in reply.results.into_iter().zip(joined) {
            let emit = &mut |queue: Queue, new: &NewJob<'_>| emit(place, queue, new);
            let (at, fresh_id) = match &result.origin {
                Origin::Event(at) => (*at, None),
                Origin::Fresh { message_id } => (0, Some(message_id.as_str())),
                Origin::All => (0, None),
            };
            match result.verdict {
                Verdict::Output(json) if chunk.stage() == Stage::DestTransformer => {
                    self.deliver(chunk, at, fresh_id, json, later, emit);
                }
                Verdict::Output(json) => self.go_on(chunk, at, fresh_id, &json, later, emit),
                Verdict::Dropped => self.drop_event(chunk, at),
                Verdict::Failed { status, error } => {
                    let failed = Failed { stage: chunk.stage().name(), status, error: Cow::Owned(error) };
                    let events = if result.origin == Origin::All { failing.as_slice() } else { &[at] };
                    for at in events {
                        self.fail(chunk, *at, &failed, later, emit);
                    }
                }
            }
        }
    }

    /// One output of a user transformation. It keeps the metadata of its event (processor.md 3.1).
    fn go_on(
        &mut self,
        chunk: &Chunk,
        at: usize,
        fresh_id: Option<&str>,
        json: &str,
        later: &Later<'_>,
        emit: &mut Emit<'_>,
    ) {
        let Some(held) = chunk.held.get(at) else { return };
        let event = match Message::parse(json) {
            Ok(event) => event,
            Err(problem) => {
                let failed =
                    Failed { stage: chunk.stage().name(), status: 400, error: Cow::Owned(problem.to_string()) };
                return self.fail(chunk, at, &failed, later, emit);
            }
        };
        let mut facts = held.facts.clone();
        if let Some(id) = fresh_id {
            id.clone_into(&mut facts.message_id);
        }
        for (key, fact) in [("event", &mut facts.event_name), ("type", &mut facts.event_type)] {
            if let Some(text) = event.text(key) {
                *fact = text.into_owned();
            }
        }
        let mut waits = None;
        let failed = self.with_passing(chunk, held, &facts, &event, later, |passing, route, books| {
            let destination = &route.candidate.destination;
            if let Some(by) = &route.elsewhere
                && passing.is_let_through(route, held.is_drained)
            {
                let kind = books.counts.kind_of(&event);
                books.counts.account(kind, &destination.id, held.mark(chunk, State::Succeeded, 200));
                books.counts.routed(kind, &destination.id, Stage::UserTransformer, LET_THROUGH);
                let original = chunk.events.get(at).map(|given| given.message.clone());
                let held = Held { original, ..passing.held(kind, Stage::EventFilter, held.is_drained) };
                waits = Some((by.clone(), passing.for_destination(route), held));
                return None;
            }
            let outputs = isolated(|| passing.outputs(route, held.is_drained));
            let kind = books.counts.kind_of(&event);
            books.counts.account(kind, &destination.id, held.mark(chunk, State::Succeeded, 200));
            books.counts.routed(kind, &destination.id, Stage::UserTransformer, outcome_of(&outputs));
            match outputs {
                Ok(Some(outputs)) => {
                    books.run.stored(&destination.id, outputs.len() as u64);
                    passing.deliver(route, &outputs, books.buffers, books.counts, emit);
                }
                Ok(None) => {
                    books.run.filtered(&destination.id);
                    books.counts.filtered(Stage::EventFilter.name());
                }
                Err(failed) => return Some(failed),
            }
            None
        });
        if let Some((by, event, held)) = waits {
            self.gathered.add(&chunk.source_id, chunk.route, &by, event, held);
        }
        if let Some(failed) = failed.flatten() {
            self.fail(chunk, at, &failed, later, emit);
        }
    }

    /// One output of a destination transformation: a job, as it is.
    fn deliver(
        &mut self,
        chunk: &Chunk,
        at: usize,
        fresh_id: Option<&str>,
        json: String,
        later: &Later<'_>,
        emit: &mut Emit<'_>,
    ) {
        let (Some(held), Some(given)) = (chunk.held.get(at), chunk.events.get(at)) else { return };
        let Ok(event) = Message::parse(&given.message) else { return };
        let mut facts = held.facts.clone();
        if let Some(id) = fresh_id {
            id.clone_into(&mut facts.message_id);
        }
        self.with_passing(chunk, held, &facts, &event, later, |passing, route, books| {
            let destination = &route.candidate.destination;
            books.counts.account(held.kind, &destination.id, held.mark(chunk, State::Succeeded, 200));
            books.run.stored(&destination.id, 1);
            passing.deliver(route, &[Output::of(json.into_bytes())], books.buffers, books.counts, emit);
        });
    }

    /// The dead letter of an event of a chunk, as it was before its transformations.
    fn fail(&mut self, chunk: &Chunk, at: usize, failed: &Failed, later: &Later<'_>, emit: &mut Emit<'_>) {
        let (Some(held), Some(given)) = (chunk.held.get(at), chunk.events.get(at)) else { return };
        let Ok(event) = Message::parse(held.original.as_ref().unwrap_or(&given.message)) else { return };
        self.with_passing(chunk, held, &held.facts, &event, later, |passing, route, books| {
            let destination = &route.candidate.destination;
            // What a stage behind refused is accounted for there.
            if failed.stage == chunk.stage().name() {
                books.counts.account(held.kind, &destination.id, held.mark(chunk, State::Aborted, failed.status));
            }
            books.run.failed(&destination.id, &held.facts.record_id, failed.status);
            // What the operator gave up is not kept (jobsdb.md 8.1).
            if !held.is_drained {
                passing.dead_letter(route, failed, books.now, books.buffers, emit);
            }
            books.counts.failed(&destination.definition.name, failed.stage, failed.status, &failed.error);
        });
    }

    /// An event that its transformation dropped.
    fn drop_event(&mut self, chunk: &Chunk, at: usize) {
        self.counts.filtered(chunk.stage().name());
        let routes = self.sources.get(&chunk.source_id).and_then(Option::as_ref).map(|source| &source.routes);
        if let (Some(route), Some(held)) = (routes.and_then(|routes| routes.get(chunk.route)), chunk.held.get(at)) {
            let mark = held.mark(chunk, State::Filtered, 298);
            self.counts.account(held.kind, &route.candidate.destination.id, mark);
            let run = self.waiting_runs.entry(held.job_id).or_default();
            run.filtered(&route.candidate.destination.id);
        }
    }

    /// Calls with everything that the stages behind want to know; never without, as the chunk came through those
    /// before.
    fn with_passing<T>(
        &mut self,
        chunk: &Chunk,
        held: &Held,
        facts: &EventFacts,
        event: &Message<'_>,
        later: &Later<'_>,
        then: impl FnOnce(&Passing<'_, '_>, &Route, Books<'_>) -> T,
    ) -> Option<T> {
        let source = self.sources.get(&chunk.source_id)?.as_ref()?;
        let route = source.routes.get(chunk.route)?;
        let job = later.job(held.job_id)?;
        let parameters = JobParameters::parse(&job.parameters).ok()?;
        let received_at = held.received_at.as_str();
        self.buffers.of_event.clear();
        parameters::of_event(&mut self.buffers.of_event, facts, &parameters, received_at, job.id);
        let passing = Passing { job, parameters: &parameters, source, event, facts, received_at };
        let books = Books {
            now: &self.now,
            buffers: &mut self.buffers,
            counts: &mut self.counts,
            run: self.waiting_runs.entry(job.id).or_default(),
        };
        Some(then(&passing, route, books))
    }
}

//! One event and one destination: the event filter, what the event becomes there, and the jobs that keep it.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;

use uuid::Uuid;

use super::{Buffers, Emit};
use crate::destination::{Message, Output};
use crate::jobsdb::{Job, NewJob, Queue};
use crate::processor::accounting::{Stage, State};
use crate::processor::events::Counts;
use crate::processor::explode::JobParameters;
use crate::processor::filter::Verdict;
use crate::processor::metadata;
use crate::processor::parameters::{self, EventFacts, Failure};
use crate::processor::route::{Route, SourceRoutes};
use crate::processor::transform_at::TransformAt;
use crate::processor::user_transform::Held;
use crate::transform::Event;

/// One event on its way.
pub(super) struct Passing<'a, 'p> {
    pub(super) job: &'a Job,
    pub(super) parameters: &'a JobParameters<'p>,
    pub(super) source: &'a SourceRoutes,
    pub(super) event: &'a Message<'p>,
    pub(super) facts: &'a EventFacts,
    pub(super) received_at: &'a str,
}

/// What went wrong for one destination.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) stage: &'static str,
    pub(super) status: u16,
    pub(super) error: Cow<'static, str>,
}

/// What the stages for one destination said of an event that goes on elsewhere.
pub(super) const LET_THROUGH: [Option<(Stage, State, u16)>; 2] =
    [Some((Stage::EventFilter, State::Succeeded, 200)), None];

/// What the stages for one destination said, for the figures: the event filter, and the transformation behind it.
pub(super) fn outcome_of(outputs: &Result<Option<Vec<Output>>, Failed>) -> [Option<(Stage, State, u16)>; 2] {
    let passed = Some((Stage::EventFilter, State::Succeeded, 200));
    match outputs {
        Ok(Some(_)) => [passed, Some((Stage::DestTransformer, State::Succeeded, 200))],
        Ok(None) => [Some((Stage::EventFilter, State::Filtered, 298)), None],
        Err(failed) if failed.stage == Stage::EventFilter.name() => {
            [Some((Stage::EventFilter, State::Aborted, failed.status)), None]
        }
        Err(failed) => [passed, Some((Stage::DestTransformer, State::Aborted, failed.status))],
    }
}

impl Passing<'_, '_> {
    /// What the event becomes for one destination; `None` when it is filtered.
    pub(super) fn outputs(&self, route: &Route, is_drained: bool) -> Result<Option<Vec<Output>>, Failed> {
        match route.filter.judge(self.event, is_drained) {
            Verdict::Pass => {}
            Verdict::Filtered(_) => return Ok(None),
            Verdict::Failed(status, error) => {
                return Err(Failed { stage: "event_filter", status, error: Cow::Borrowed(error) });
            }
        }
        if route.transform_at != TransformAt::Processor {
            return Ok(Some(vec![Output::of(self.event.to_json().into_bytes())]));
        }
        let destination = &route.candidate.destination;
        if let Some(rows) = &route.rows {
            return rows.of(self.event, &self.source.source, destination, self.received_at).map(Some).map_err(
                |refused| Failed {
                    stage: "dest_transformer",
                    status: refused.status(),
                    error: Cow::Owned(refused.to_string()),
                },
            );
        }
        let envelope = || {
            metadata::object(self.job, self.parameters, &self.source.source, destination, self.facts, self.received_at)
        };
        route.plan.transform(self.event, &envelope).map(Some).map_err(|refusal| Failed {
            stage: "dest_transformer",
            status: refusal.status(),
            error: Cow::Owned(refusal.message),
        })
    }

    /// Whether the event filter lets the event through.
    pub(super) fn is_let_through(&self, route: &Route, is_drained: bool) -> bool {
        isolated(|| Ok(matches!(route.filter.judge(self.event, is_drained), Verdict::Pass))).unwrap_or_default()
    }

    /// What is kept of the event while it waits for a transformation.
    pub(super) fn held(&self, kind: u32, before: Stage, is_drained: bool) -> Held {
        Held {
            job_id: self.job.id,
            kind,
            before,
            facts: self.facts.clone(),
            received_at: self.received_at.to_owned(),
            is_drained,
            original: None,
        }
    }

    /// What a destination transformation elsewhere gets.
    pub(super) fn for_destination(&self, route: &Route) -> Event {
        let (source, destination) = (&self.source.source, &route.candidate.destination);
        let metadata = metadata::object(self.job, self.parameters, source, destination, self.facts, self.received_at);
        Event {
            message: self.event.to_json(),
            metadata: metadata.to_string(),
            message_id: self.facts.message_id.clone(),
        }
    }

    /// What the user transformation of the route gets.
    pub(super) fn for_transformation(&self, route: &Route) -> Event {
        let (source, destination) = (&self.source.source, &route.candidate.destination);
        let metadata = metadata::object(self.job, self.parameters, source, destination, self.facts, self.received_at);
        Event {
            message: self.event.to_json(),
            metadata: metadata::for_transformation(metadata, source, destination),
            message_id: self.facts.message_id.clone(),
        }
    }

    pub(super) fn deliver(
        &self,
        route: &Route,
        outputs: &[Output],
        buffers: &mut Buffers,
        counts: &mut Counts,
        emit: &mut Emit<'_>,
    ) {
        buffers.parameters.clear();
        buffers.parameters.extend_from_slice(&route.parameters);
        buffers.parameters.extend_from_slice(&buffers.of_event);
        for output in outputs {
            let topic = output.topic.as_deref();
            self.emit_job(route, route.queue, &buffers.parameters, &[output.payload.as_slice()], topic, emit);
        }
        counts.sent(route.queue, outputs.len());
    }

    /// Keeps the event as it was before the transformation, for the operator.
    pub(super) fn dead_letter(
        &self,
        route: &Route,
        failed: &Failed,
        now: &str,
        buffers: &mut Buffers,
        emit: &mut Emit<'_>,
    ) {
        let destination = &route.candidate.destination;
        let failure = Failure {
            stage: failed.stage,
            status: failed.status,
            error: &failed.error,
            transform_at: route.transform_at.name(),
            at: now,
            violations: None,
        };
        buffers.parameters.clear();
        parameters::of_dead_letter(
            &mut buffers.parameters,
            &self.source.source,
            &destination.id,
            self.facts,
            self.parameters,
            &failure,
        );
        buffers.copy.clear();
        self.event.write(&mut buffers.copy);
        let payload: [&[u8]; 3] = [b"[", &buffers.copy, b"]"];
        self.emit_job(route, Queue::ProcError, &buffers.parameters, &payload, None, emit);
    }

    /// Stores a job; `topic` narrows the order of its user to one topic.
    fn emit_job(
        &self,
        route: &Route,
        queue: Queue,
        parameters: &[u8],
        payload: &[&[u8]],
        topic: Option<&str>,
        emit: &mut Emit<'_>,
    ) {
        let destination = &route.candidate.destination;
        let uuid = Uuid::new_v4();
        let mut user_id = Cow::Borrowed(&*self.job.user_id);
        if user_id.is_empty() {
            user_id = format!("random-{uuid}").into();
        }
        if let Some(topic) = topic {
            user_id = format!("{user_id}<<>>{topic}").into();
        }
        emit(
            queue,
            &NewJob {
                uuid,
                workspace_id: &self.job.partition.workspace_id,
                custom_val: &destination.definition.name,
                source_id: &self.source.source.id,
                destination_id: &destination.id,
                user_id: &user_id,
                parameters,
                payload,
                event_count: 1,
            },
        );
    }
}

/// Runs what comes of one event for one destination; a panic there is a failure of this event alone
/// (security.md 8.9).
pub(super) fn isolated<T>(work: impl FnOnce() -> Result<T, Failed>) -> Result<T, Failed> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
        Err(Failed { stage: "dest_transformer", status: 500, error: Cow::Borrowed("internal error") })
    })
}

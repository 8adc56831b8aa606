//! The place of the tracking plan in the pipeline: what becomes of an event that was checked (processor.md 5.4).

use std::collections::hash_map::Entry;

use uuid::Uuid;

use super::explode::JobParameters;
use super::parameters::{self, EventFacts, Failure};
use super::pipeline::{Buffers, Emit, GATEWAY};
use super::route::SourceRoutes;
use super::tracking_plan::{self, SourcePlan, Verdict};
use crate::destination::Message;
use crate::jobsdb::{Job, NewJob, Queue};

/// Checks an event of a source with a plan, and writes what was found into its context unless it goes no further.
/// `told` is the version that the events of the read name: that of the first one.
pub(super) fn check(plan: &SourcePlan, event: &mut Message<'_>, told: Entry<'_, String, i64>) -> Verdict {
    let tree = match event.to_tree() {
        Ok(tree) => tree,
        // Too deep for a tree: it passes, as an event that the validator fails on.
        Err(problem) => return Verdict { problem: Some(problem.to_string().into()), ..Verdict::default() },
    };
    let version = plan.version_for(&tree);
    let told = *told.or_insert(version);
    let verdict = plan.check(&tree, version);
    if verdict.is_annotated && !verdict.is_dropped {
        tracking_plan::annotate(event, &plan.id, told, verdict.violations_json());
    }
    verdict
}

/// An event that departs from its plan so that it goes no further.
pub(super) struct PlanFailure<'a, 'p> {
    pub(super) job: &'a Job,
    pub(super) parameters: &'a JobParameters<'p>,
    pub(super) source: &'a SourceRoutes,
    pub(super) event: &'a Message<'p>,
    pub(super) facts: &'a EventFacts,
}

impl PlanFailure<'_, '_> {
    /// Keeps the event for the operator: once, for all destinations.
    pub(super) fn emit(&self, verdict: &Verdict, now: &str, buffers: &mut Buffers, emit: &mut Emit<'_>) {
        let source = &self.source.source;
        let failure = Failure {
            stage: "tracking_plan_validator",
            status: verdict.status(),
            error: &verdict.error_text(),
            transform_at: "",
            at: now,
            violations: Some(&verdict.violations_json()),
        };
        buffers.parameters.clear();
        parameters::of_dead_letter(&mut buffers.parameters, source, "", self.facts, self.parameters, &failure);
        buffers.copy.clear();
        self.event.write(&mut buffers.copy);
        emit(
            Queue::ProcError,
            &NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: &self.job.partition.workspace_id,
                custom_val: GATEWAY,
                source_id: &source.id,
                destination_id: "",
                user_id: &self.job.user_id,
                parameters: &buffers.parameters,
                payload: &[b"[", &buffers.copy, b"]"],
                event_count: 1,
            },
        );
    }
}

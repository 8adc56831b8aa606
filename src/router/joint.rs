//! Jobs of one worker that are transformed here, together, and what becomes of each (router.md 4.7, 5.2, 5.4).
//!
//! In: jobs in id order. Out: how those ended that were attempted or given up; the others went back to their queue.
//! Several jobs may share a request and its answer. A failure holds back what comes later for the same users.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::attempt::{deliver, refusal};
use super::error_response::ErrorAt;
use super::events;
use super::outcome::Attempted;
use super::pickup::{Step, next_step};
use super::plan::Plan;
use super::shared::Shared;
use super::worker::{Finished, Held, finish, give_up};
use super::worker_batch::{BatchJob, BatchRequest, FailedKeys, Fate, SKIPPED_CODE, SKIPPED_TEXT, fates};
use crate::destination::{Message, Plan as Transformation, Refusal, Routed};
use crate::jobsdb::Job;

/// Decides about the jobs, transforms those that may go, and delivers what comes of them.
pub(super) async fn process(shared: &Arc<Shared>, plan: &Plan, jobs: Vec<Held>) -> Vec<Finished> {
    let mut ended = Vec::new();
    let held = start(shared, jobs, &mut ended);
    if held.is_empty() {
        return ended;
    }
    let results = attempt_all(shared, plan, &held).await;
    let mut answers: Vec<Option<Attempted>> = held.iter().map(|_| None).collect();
    for (places, attempted) in results {
        for place in places {
            if let Some(answer) = answers.get_mut(place) {
                *answer = Some(attempted.clone());
            }
        }
    }
    let answered: Vec<(Held, Attempted)> =
        held.into_iter().zip(answers).filter_map(|(held, answer)| Some((held, answer?))).collect();
    let codes: Vec<(u64, String, i32)> =
        answered.iter().map(|(held, answer)| (held.job.id, held.order_key.clone(), answer.code)).collect();
    let fates = fates(&codes);
    for ((held, attempted), (_, fate)) in answered.into_iter().zip(fates) {
        // What waits behind an earlier job goes back unchanged.
        if fate == Fate::ByCode {
            let end = finish(shared, plan, &held, attempted);
            ended.push(Finished { held, end });
        }
    }
    ended
}

/// The jobs that are attempted now, in id order; the others are given up or go back.
fn start(shared: &Shared, mut jobs: Vec<Held>, ended: &mut Vec<Finished>) -> Vec<Held> {
    jobs.sort_by_key(|held| held.job.id);
    let mut started = Vec::new();
    // Once one goes back, all behind it do: none may overtake another of its user.
    let mut goes_back = shared.is_ending();
    for held in jobs {
        goes_back = shared.must_hold_back(&held) || goes_back;
        if goes_back {
            continue;
        }
        let step = {
            let mut barrier = shared.barrier.lock();
            next_step(&mut barrier, &held.order_key, held.job.id, held.ordered, held.aborts.is_some())
        };
        match step {
            Step::Wait => {}
            Step::GiveUp => {
                let end = give_up(shared, &held);
                ended.push(Finished { held, end });
            }
            Step::Attempt => started.push(held),
        }
    }
    started
}

/// Places of jobs with the answer that they share.
type Answers = Vec<(Vec<usize>, Attempted)>;

async fn attempt_all(shared: &Arc<Shared>, plan: &Plan, held: &[Held]) -> Answers {
    let Some(routed) = transform(plan, held).await else {
        events::worker_fault(&plan.labels, held.first().map_or(0, |held| held.job.id));
        for held in held {
            shared.probe_dropped(held.is_probe);
        }
        return vec![((0..held.len()).collect(), refusal(500, "internal error", ErrorAt::Transformation))];
    };
    let now_ms = shared.clock.now_ms();
    let mut requests: Vec<(BatchRequest, Routed)> = {
        let mut barrier = shared.barrier.lock();
        let mut job = |held: &Held| BatchJob {
            id: held.job.id,
            key: held.order_key.clone(),
            ordered: held.ordered && !barrier.is_disabled(&held.order_key, now_ms),
        };
        let request = |routed: &Routed| {
            let jobs = routed.places.iter().filter_map(|place| held.get(*place)).map(&mut job).collect();
            BatchRequest { jobs }
        };
        routed.iter().map(request).zip(routed.clone()).collect()
    };
    requests.sort_by_key(|(request, _)| request.lowest_job());
    let mut failed = FailedKeys::default();
    let mut answers = Vec::new();
    for (request, Routed { places, payload, .. }) in requests {
        let is_probe = places.iter().filter_map(|place| held.get(*place)).any(|held| held.is_probe);
        let attempted = match payload {
            Err(refused) => {
                shared.probe_dropped(is_probe);
                refusal(i32::from(refused.status()), refused.message, ErrorAt::Transformation)
            }
            Ok(_) if failed.hold_back(&request) => {
                shared.probe_dropped(is_probe);
                refusal(SKIPPED_CODE, SKIPPED_TEXT, ErrorAt::Delivery)
            }
            Ok(_) if shared.is_ending() => break,
            Ok(payload) => {
                let payload = Bytes::from(payload);
                let delivered = AssertUnwindSafe(deliver(shared, plan, &payload, is_probe));
                delivered.catch_unwind().await.unwrap_or_else(|_| {
                    events::worker_fault(&plan.labels, request.lowest_job());
                    shared.probe_dropped(is_probe);
                    refusal(500, "internal error", ErrorAt::Delivery)
                })
            }
        };
        failed.ended(&request, attempted.code);
        answers.push((places, attempted));
    }
    answers
}

/// Transforms on a thread that may block; `None` when that met a fault of the program.
async fn transform(plan: &Plan, held: &[Held]) -> Option<Vec<Routed>> {
    let transformation = Arc::clone(plan.transformation.as_ref()?);
    let jobs: Vec<(Bytes, Value)> = held.iter().map(|held| (held.job.payload.clone(), metadata(&held.job))).collect();
    tokio::task::spawn_blocking(move || route(&transformation, &jobs)).await.ok()
}

fn route(transformation: &Transformation, jobs: &[(Bytes, Value)]) -> Vec<Routed> {
    let metadata: Vec<_> = jobs.iter().map(|(_, metadata)| move || metadata.clone()).collect();
    let mut events: Vec<(Message<'_>, &dyn Fn() -> Value)> = Vec::new();
    let mut places = Vec::new();
    let mut routed = Vec::new();
    for (place, ((payload, _), metadata)) in jobs.iter().zip(&metadata).enumerate() {
        let text = std::str::from_utf8(payload).map_err(|error| error.to_string());
        match text.and_then(|text| Message::parse(text).map_err(|error| error.to_string())) {
            Ok(event) => {
                events.push((event, metadata));
                places.push(place);
            }
            Err(error) => {
                let refusal = Refusal::instrumentation(&error);
                routed.push(Routed { places: vec![place], payload: Err(refusal), is_batch: false });
            }
        }
    }
    routed.extend(transformation.route(&events).into_iter().map(|one| one.placed(&places)));
    routed
}

/// What templates of a configuration may refer to beside the event.
fn metadata(job: &Job) -> Value {
    let mut metadata: Value = serde_json::from_slice(&job.parameters).unwrap_or_default();
    let partition = &job.partition;
    if let Some(members) = metadata.as_object_mut() {
        for (key, value) in [
            ("jobId", json!(job.id)),
            ("userId", json!(job.user_id)),
            ("sourceId", json!(partition.source_id)),
            ("destinationId", json!(partition.destination_id)),
            ("destinationType", json!(partition.custom_val)),
            ("workspaceId", json!(partition.workspace_id)),
        ] {
            members.insert(key.to_owned(), value);
        }
    }
    metadata
}

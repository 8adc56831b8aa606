//! What happens to a fetched page before a storage sees it: parameters are read once, the drain rules judge,
//! and what they name is given up (router.md 19.1, 8.1).

use std::sync::Arc;
use std::time::Duration;

use crate::backend_config::{Destination, Snapshot};
use crate::jobsdb::{CancelledRuns, Durability, Job, JobsDb, JobsDbError, Outcome, Queue, RunOfJob, Status, Tx};
use crate::settings::{BatchRouterTypeSettings, Settings};

use super::Shared;
use super::cut::files;
use super::dead_letter::{Failure, LetterParts};
use super::events::{self, StateCounts};
use super::orders;
use super::pickup::{DrainReason, DrainRules, JobParameters, drained_response};
use super::result::Previous;
use super::upload::{Tally, commit_in_parts};

/// The settings and the configuration that one cut works with.
pub(super) struct Moment {
    /// The operator holds the destination.
    pub(super) paused: bool,
    pub(super) settings: Arc<Settings>,
    pub(super) of_type: Arc<BatchRouterTypeSettings>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) destination: Option<Arc<Destination>>,
}

impl Moment {
    /// What holds for the destination now; `None` while no configuration is known. Shows whether it is paused.
    ///
    /// # Errors
    /// The job store failed.
    pub(super) async fn of(
        shared: &Shared,
        destination_id: &str,
        settings: Arc<Settings>,
        of_type: Arc<BatchRouterTypeSettings>,
    ) -> Result<Option<Arc<Moment>>, JobsDbError> {
        let Some(snapshot) = shared.config.borrow().clone() else { return Ok(None) };
        let paused = orders::is_paused(&shared.jobs, destination_id, shared.clock.now_ms()).await?;
        shared.board.destination(destination_id, |figures| figures.paused = paused);
        let destination = snapshot.destination_by_id.get(destination_id).cloned();
        Ok(Some(Arc::new(Moment { paused, settings, of_type, snapshot, destination })))
    }
}

/// For how long a destination has not been in the configuration.
#[derive(Debug, Default)]
pub(super) struct Absence {
    since_ms: Option<i64>,
}

impl Absence {
    /// Whether the destination is to be left alone for a while: it may only be missing from one broken configuration.
    pub(super) fn is_short(&mut self, moment: &Moment, now_ms: i64) -> bool {
        if moment.destination.is_some() {
            self.since_ms = None;
            return false;
        }
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let absent_for = Duration::from_millis(u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0));
        absent_for < moment.settings.batch_router.unknown_destination_grace
    }
}

/// A job to be delivered, and what its parameters say.
pub(super) struct Picked {
    pub(super) job: Job,
    /// Whether it belongs to a reverse-ETL run.
    pub(super) of_run: bool,
    /// What its end counts for.
    pub(super) run: Option<RunOfJob>,
    /// When the gateway received the event, milliseconds since the epoch.
    pub(super) received_ms: Option<i64>,
}

type Judged = (Vec<Picked>, Vec<(DrainReason, Picked)>);

/// Gives up what the drain rules name and returns the rest, in the order given.
///
/// # Errors
/// The job store failed.
pub(super) async fn drain(
    shared: &Shared,
    destination_id: &str,
    moment: &Arc<Moment>,
    jobs: Vec<Job>,
) -> Result<Vec<Picked>, JobsDbError> {
    let now_us = shared.clock.now_us();
    let (of_moment, id, cancelled) = (Arc::clone(moment), destination_id.to_owned(), shared.jobs.cancelled_runs());
    let judged = tokio::task::spawn_blocking(move || judge(&of_moment, &id, jobs, &cancelled, now_us)).await;
    let (rest, drained) = judged.map_err(|error| JobsDbError::Failed(error.to_string()))?;
    for ((reason, _), given_up) in files(drained, |(reason, picked)| (*reason, picked.job.partition.id)) {
        commit_in_parts(&shared.jobs, &given_up, |part, _| {
            let mut tx = Tx::new(Durability::Lazy);
            for (reason, Picked { job, run, .. }) in part {
                let outcome = given_up_outcome(&shared.jobs, *reason, job, now_us.div_euclid(1000));
                tx.finish_of_run(job.lease, outcome, run.clone());
            }
            (tx, Tally::default())
        })
        .await?;
        if let Some((_, first)) = given_up.first() {
            let count = u64::try_from(given_up.len()).unwrap_or(u64::MAX);
            events::drained(&first.job.partition, reason.text(), count);
            events::jobs_settled(&first.job.partition, StateCounts { aborted: count, ..StateCounts::default() }, "410");
        }
    }
    Ok(rest)
}

/// Reads the parameters of every job and judges it.
fn judge(moment: &Moment, destination_id: &str, jobs: Vec<Job>, cancelled: &CancelledRuns, now_us: i64) -> Judged {
    let settings = &moment.settings.batch_router;
    let rules = DrainRules {
        snapshot: &moment.snapshot,
        destination_id,
        destination: moment.destination.as_deref(),
        retention: settings.job_retention(destination_id),
        to_abort: &settings.to_abort_destination_ids,
        listed_runs: &settings.cancelled_job_runs,
        cancelled_runs: cancelled,
        now_us,
    };
    let mut rest = Vec::with_capacity(jobs.len());
    let mut drained = Vec::new();
    for job in jobs {
        let parameters = JobParameters::of(&job);
        let reason = rules.reason(&job.partition.source_id, job.created_us, &parameters.source_job_run_id);
        let (of_run, received_ms) = (!parameters.source_job_run_id.is_empty(), parameters.received_ms());
        drop(parameters);
        let run = of_run.then(|| run_of(&job)).flatten();
        let picked = Picked { job, of_run, run, received_ms };
        match reason {
            Some(reason) => drained.push((reason, picked)),
            None => rest.push(picked),
        }
    }
    (rest, drained)
}

/// What the job's end counts for.
pub(super) fn run_of(job: &Job) -> Option<RunOfJob> {
    let partition = &job.partition;
    RunOfJob::read(Queue::BatchRt, &job.parameters, &partition.source_id, &partition.destination_id)
}

fn given_up_outcome(jobs: &JobsDb, reason: DrainReason, job: &Job, now_ms: i64) -> Outcome {
    let previous = Previous::of(job.last.as_ref());
    let attempt = previous.attempt.saturating_add(1);
    let response = drained_response(job.last.as_ref(), reason);
    let status = Status {
        attempt,
        exec_ms: now_ms,
        retry_ms: now_ms,
        error_code: "410".to_owned(),
        error_response: serde_json::to_vec(&response).unwrap_or_default(),
        parameters: b"{}".to_vec(),
    };
    let dead_letter = reason.earns_dead_letter().then(|| {
        let first_attempted_ms = previous.window_start_ms(now_ms);
        let failure = Failure { status_code: 410, error: reason.text(), attempt, first_attempted_ms };
        LetterParts::of(job).encode(jobs, &job.partition, &job.payload, failure)
    });
    Outcome::Aborted { status, dead_letter }
}

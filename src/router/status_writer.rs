//! The status writer of one destination (router.md 3.5): gathers what workers finished into atomic transactions.
//!
//! An idle writer writes at once; while a transaction is under way, results gather for the next one. The statuses
//! and the dead letters of aborted jobs are one transaction. The barrier hears of every end but a failure only
//! after that. A store that fails ends the router: the node restarts and delivers again what was not stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::RouterError;
use super::barrier::Ended;
use super::drain::Reason;
use super::error_response::ErrorAt;
use super::events;
use super::live;
use super::outcome::dead_letter;
use super::shared::Shared;
use super::status_table::{DELIVERED_WITH_WARNING, Verdict};
use super::worker::Finished;
use crate::jobsdb::{Durability, JobsDbError, Outcome, Queue, RunOfJob, Tx};

/// Rest after a small batch: results of a steady stream then share a transaction. Nobody waits for them but the
/// barrier of a user that failed before.
const GATHER: Duration = Duration::from_millis(2);
const SMALL: usize = 200;
/// Time between two attempts to store results that the store had no room for.
const RETRY: Duration = Duration::from_millis(200);

/// Writes until `done` is cancelled, which happens when nothing is held any more.
///
/// # Errors
/// The store failed, or said nothing in time.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut results: mpsc::Receiver<Finished>,
    done: CancellationToken,
) -> Result<(), RouterError> {
    loop {
        let most = shared.plan.load().settings.update_status_batch_size;
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            received = results.recv_many(&mut batch, most) => {
                if received == 0 {
                    return Ok(());
                }
            }
            () = done.cancelled() => return Ok(()),
        }
        batch.sort_by_key(|finished| finished.held.job.id);
        let is_small = batch.len() < SMALL;
        write(&shared, batch).await?;
        if is_small && !shared.is_stopping() {
            tokio::time::sleep(GATHER).await;
        }
    }
}

/// Stores a batch and tells everybody who waits for that.
async fn write(shared: &Arc<Shared>, batch: Vec<Finished>) -> Result<(), RouterError> {
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        match commit(shared, &part).await {
            Ok(()) => stored(shared, part),
            Err(JobsDbError::TooLarge { .. }) if part.len() > 1 => {
                let mut first = part;
                let second = first.split_off(first.len() / 2);
                parts.push(second);
                parts.push(first);
            }
            Err(error) => return Err(RouterError::Store { destination: shared.id.clone(), source: error }),
        }
    }
    Ok(())
}

async fn commit(shared: &Arc<Shared>, batch: &[Finished]) -> Result<(), JobsDbError> {
    loop {
        let mut tx = Tx::new(Durability::Lazy);
        for finished in batch {
            tx.finish_of_run(finished.held.job.lease, outcome(shared, finished), run_of(finished));
        }
        match shared.jobs.commit(tx).await {
            Ok(receipt) => {
                if receipt.stale > 0 {
                    events::stale_outcomes(&shared.plan.load().labels, receipt.stale);
                }
                return Ok(());
            }
            Err(JobsDbError::Unavailable(why)) if !shared.is_stopping() => {
                events::store_unavailable(&shared.plan.load().labels, &why);
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the job's end counts for; parameters of jobs without a run are not read again.
fn run_of(finished: &Finished) -> Option<RunOfJob> {
    let (held, job) = (&finished.held, &finished.held.job);
    if held.facts.job_run_id.is_empty() {
        return None;
    }
    RunOfJob::read(Queue::Rt, &job.parameters, &job.partition.source_id, &job.partition.destination_id)
}

fn outcome(shared: &Shared, finished: &Finished) -> Outcome {
    let status = finished.end.status.clone().unwrap_or_default();
    match finished.end.judged.verdict {
        Verdict::Succeeded => Outcome::Succeeded,
        Verdict::Filtered => Outcome::Filtered,
        Verdict::Failed => Outcome::Failed { status, blocks_user: finished.held.ordered },
        Verdict::Aborted => {
            let asked_for = finished.held.aborts.is_some_and(Reason::asked_by_operator);
            let dead_letter =
                (!asked_for).then(|| dead_letter(&shared.jobs, &finished.held.job, &status, &finished.end.error_text));
            Outcome::Aborted { status, dead_letter }
        }
    }
}

/// After a batch is stored: barrier, figures, limits, and whoever waits for room.
fn stored(shared: &Shared, mut batch: Vec<Finished>) {
    for finished in &mut batch {
        finished.held.decided();
    }
    {
        let mut barrier = shared.barrier.lock();
        for finished in &batch {
            let (key, job) = (&finished.held.order_key, finished.held.job.id);
            // A job that was started without order may be the one that its key waits for since before.
            match finished.end.judged.verdict {
                Verdict::Failed if finished.held.ordered => barrier.failure_stored(key, job),
                Verdict::Failed => {}
                Verdict::Succeeded | Verdict::Filtered => barrier.ended(key, job, Ended::Handled),
                Verdict::Aborted => barrier.ended(key, job, Ended::Aborted),
            }
        }
    }
    report(shared, &batch);
    if shared.live.is_watched() {
        shared.live.record(live::records(&batch));
    }
    drop(batch);
    shared.stored_results();
}

fn report(shared: &Shared, batch: &[Finished]) {
    let plan = shared.plan.load();
    let labels = &plan.labels;
    let mut ends: HashMap<events::Ended<'_>, u64> = HashMap::new();
    let mut drains: HashMap<Reason, u64> = HashMap::new();
    let mut delays: Option<(Duration, Duration)> = None;
    let mut refused = 0;
    for finished in batch {
        let ended = events::Ended {
            verdict: finished.end.judged.verdict,
            code: &finished.end.judged.code,
            source_id: &finished.held.job.partition.source_id,
            error_at: match finished.end.error_at {
                None => "",
                Some(ErrorAt::Transformation) => "transformation",
                Some(ErrorAt::Delivery) => "delivery",
            },
        };
        *ends.entry(ended).or_default() += 1;
        if let Some(reason) = finished.held.aborts {
            *drains.entry(reason).or_default() += 1;
        }
        if finished.end.judged.downgraded && finished.end.code == DELIVERED_WITH_WARNING {
            events::warning_downgraded();
        }
        refused += u64::from(finished.end.code == 429);
        if finished.end.judged.verdict == Verdict::Succeeded
            && let Some(received_ms) = finished.held.facts.received_ms
        {
            let took = u64::try_from(finished.end.at_ms.saturating_sub(received_ms)).unwrap_or(0);
            let took = Duration::from_millis(took);
            let partition = &finished.held.job.partition;
            events::event_delivered(&plan.meters, &partition.source_id, &finished.held.facts.source_category, took);
            let (shortest, longest) = delays.unwrap_or((took, took));
            delays = Some((shortest.min(took), longest.max(took)));
        }
    }
    shared.seen.lock().observe(refused, u64::try_from(batch.len()).unwrap_or(u64::MAX));
    for (ended, jobs) in &ends {
        events::jobs_ended(&plan.meters, ended, *jobs);
    }
    for (reason, jobs) in drains {
        events::drained(labels, reason, jobs);
    }
    if let Some((shortest, longest)) = delays {
        events::pipeline_delay(&plan.meters, shortest, longest);
    }
    let count =
        |verdict: Verdict| ends.iter().filter(|(ended, _)| ended.verdict == verdict).map(|(_, jobs)| jobs).sum::<u64>();
    let last_error = batch.iter().rev().find(|finished| finished.end.status.is_some());
    shared.board.update(&shared.id, |state| {
        state.delivered += count(Verdict::Succeeded);
        state.filtered += count(Verdict::Filtered);
        state.failed += count(Verdict::Failed);
        state.aborted += count(Verdict::Aborted);
        if let Some(finished) = last_error {
            state.note_error(&finished.end.judged.code, &finished.end.error_text, finished.end.at_ms);
        }
    });
}

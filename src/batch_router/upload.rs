//! One file's way: from jobs to a finished local file, into the storage, to the states of its jobs.
//!
//! The order of steps makes a crash harmless at any point (router.md 19.7): the file is on disk, then its
//! manifest is, then the upload starts, and one transaction stores the states and deletes the manifest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::backend_config::Destination;
use crate::jobsdb::{
    Durability, JobState, JobsDb, JobsDbError, Lease, Outcome, Partition, Queue, RunOfJob, Status, Tx,
};

use super::Shared;
use super::batch_file::{LineFile, read_back};
use super::cut::files;
use super::dead_letter::{Failure, LetterParts};
use super::drain::Picked;
use super::events::{self, FileFigures, StateCounts};
use super::result::{Previous, Resolved, RetryLimit, Verdict, resolve};
use super::staging::Staged;
use crate::object_storage::{Store, StoreError, remove_if_there};

/// Wait before a commit that the store had no room for is tried again.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// Leases that go back by themselves when nobody decided about them: work that is cut off by a stop or a
/// panic leaves its jobs as they were. Giving a decided one back is harmless.
pub(super) struct HeldLeases {
    jobs: JobsDb,
    leases: Vec<Lease>,
}

impl HeldLeases {
    pub(super) fn new(jobs: &JobsDb, leases: Vec<Lease>) -> HeldLeases {
        HeldLeases { jobs: jobs.clone(), leases }
    }

    /// The leases in hand.
    pub(super) fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// Takes another lease in hand.
    pub(super) fn push(&mut self, lease: Lease) {
        self.leases.push(lease);
    }

    /// The jobs have their verdict.
    pub(super) fn decided(mut self) {
        self.leases.clear();
    }
}

impl Drop for HeldLeases {
    fn drop(&mut self) {
        if !self.leases.is_empty() {
            self.jobs.release(&self.leases);
        }
    }
}

/// What is kept of a job whose payload is in a file.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    pub(super) lease: Lease,
    /// A rule of identity resolution that was written before is in no file.
    pub(super) is_written: bool,
    payload_bytes: usize,
    previous: Previous,
    limit: RetryLimit,
    received_ms: Option<i64>,
    /// What the job's end counts for.
    run: Option<Box<RunOfJob>>,
    /// Kept only for jobs that the next failure gives up.
    letter: Option<Box<LetterParts>>,
}

/// The retry limits of a destination type, for events and for jobs of reverse-ETL runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) of_events: RetryLimit,
    pub(super) of_runs: RetryLimit,
    /// For warehouses: how long a file that is uploaded may fail to be recorded.
    pub(super) of_records: Option<RetryLimit>,
}

impl Limits {
    fn of(self, picked: &Picked) -> RetryLimit {
        if picked.of_run { self.of_runs } else { self.of_events }
    }
}

impl Outline {
    pub(super) fn of(picked: &Picked, limits: Limits, now_ms: i64) -> Outline {
        let job = &picked.job;
        let previous = Previous::of(job.last.as_ref());
        let limit = limits.of(picked);
        let is_last = |limit: RetryLimit| previous.limit_reached(limit, now_ms);
        let letter = (is_last(limit) || limits.of_records.is_some_and(is_last)).then(|| Box::new(LetterParts::of(job)));
        Outline {
            lease: job.lease,
            is_written: true,
            payload_bytes: job.payload.len(),
            previous,
            limit,
            received_ms: picked.received_ms,
            run: picked.run.clone().map(Box::new),
            letter,
        }
    }
}

/// A finished local file and everything that is needed to settle its jobs.
pub(super) struct BatchFile {
    pub(super) partition: Arc<Partition>,
    pub(super) destination: Arc<Destination>,
    pub(super) key: String,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Number of its manifest.
    pub(super) op: u64,
    /// When its jobs were picked up, milliseconds since the epoch; retry limits are judged as of then.
    pub(super) picked_ms: i64,
    pub(super) outlines: Vec<Outline>,
    /// What the warehouse is to know of it, for staging files.
    pub(super) staged: Option<Box<Staged>>,
    pub(super) record_limit: Option<RetryLimit>,
    pub(super) leases: HeldLeases,
}

/// How a file ended.
pub(super) struct FileEnd {
    pub(super) jobs: u64,
    pub(super) result: Result<String, StoreError>,
}

/// Writes jobs into a file, in the order given. Blocks.
pub(super) fn write_jobs(path: &Path, jobs: &[Picked]) -> io::Result<u64> {
    let mut file = LineFile::create(path)?;
    for picked in jobs {
        file.line(&[&picked.job.payload])?;
    }
    file.finish(path)
}

/// Uploads the file and settles its jobs.
///
/// # Errors
/// The job store failed; the jobs are where they were.
pub(super) async fn deliver(
    shared: &Shared,
    store: &Store,
    file: BatchFile,
    room: [Arc<Semaphore>; 2],
    timeout: Duration,
) -> Result<FileEnd, JobsDbError> {
    let mut permits = Vec::new();
    for semaphore in room {
        // Never closed; without a permit the upload would still be right, only less orderly.
        permits.extend(semaphore.acquire_owned().await.ok());
    }
    let started = Instant::now();
    let has_lines = file.outlines.iter().any(|outline| outline.is_written);
    let result = if has_lines {
        upload_and_verify(store, &file.key, &file.path, file.bytes, timeout).await
    } else {
        Ok(file.key.clone())
    };
    let took = started.elapsed();

    let now_ms = shared.clock.now_ms();
    let jobs = u64::try_from(file.outlines.len()).unwrap_or(u64::MAX);
    let verdict = match &result {
        Ok(location) => {
            let since = |received: i64| Duration::from_millis(u64::try_from(now_ms - received).unwrap_or(0));
            let delays: Vec<Duration> =
                file.outlines.iter().filter_map(|outline| outline.received_ms).map(since).collect();
            let figures =
                FileFigures { partition: &file.partition, destination: &file.destination, took, delays: &delays };
            events::file_uploaded(&figures, jobs, location);
            Verdict::Uploaded
        }
        Err(error) => {
            let text = error.to_string();
            events::upload_failed(&file.partition, &file.destination, took, &text);
            return settle_failure(shared, file, error.clone(), &text).await;
        }
    };
    match &file.staged {
        None => settle(shared, &file, verdict, &[]).await?,
        Some(staged) => match record(shared, &file, staged).await {
            // Nothing of it is stored; the jobs run again and the object is never read.
            Err(JobsDbError::TooLarge { bytes, limit }) => {
                let text = format!(
                    "the record of the staging file needs a transaction of {bytes} bytes, more than {limit}; lower BatchRouter.maxEventsInABatch"
                );
                let mut file = file;
                if let Some(limit) = file.record_limit {
                    file.outlines.iter_mut().for_each(|outline| outline.limit = limit);
                }
                return settle_failure(shared, file, StoreError::Refused(text.clone()), &text).await;
            }
            recorded => recorded?,
        },
    }
    finish_file(file).await;
    Ok(FileEnd { jobs, result })
}

/// Uploads, and when the answer got lost looks whether the object arrived all the same.
pub(super) async fn upload_and_verify(
    store: &Store,
    key: &str,
    path: &Path,
    bytes: u64,
    timeout: Duration,
) -> Result<String, StoreError> {
    // The client bounds every request; the whole of a long file may take several.
    let parts = u32::try_from(bytes >> 23).unwrap_or(u32::MAX).saturating_add(2);
    let uploaded = tokio::time::timeout(timeout.saturating_mul(parts), store.upload(key, path)).await;
    let error = match uploaded {
        Ok(Ok(location)) => return Ok(location),
        Ok(Err(error)) => error,
        Err(_) => {
            StoreError::Refused(format!("the upload took longer than {} s", timeout.saturating_mul(parts).as_secs()))
        }
    };
    if matches!(error, StoreError::Refused(_)) {
        let look = tokio::time::timeout(Duration::from_secs(10), store.length(key)).await;
        if matches!(look, Ok(Ok(Some(length))) if length == bytes) {
            return Ok(key.to_owned());
        }
    }
    Err(error)
}

async fn settle_failure(
    shared: &Shared,
    file: BatchFile,
    error: StoreError,
    text: &str,
) -> Result<FileEnd, JobsDbError> {
    let jobs = u64::try_from(file.outlines.len()).unwrap_or(u64::MAX);
    let payloads = if file.outlines.iter().any(|outline| outline.letter.is_some()) {
        let written = file.outlines.iter().filter(|outline| outline.is_written);
        let lengths: Vec<usize> = written.map(|outline| outline.payload_bytes).collect();
        let path = file.path.clone();
        match tokio::task::spawn_blocking(move || read_back(&path, &lengths)).await {
            Ok(Ok(payloads)) => {
                let mut payloads = payloads.into_iter();
                let of = |outline: &Outline| if outline.is_written { payloads.next() } else { None };
                file.outlines.iter().map(of).collect()
            }
            // Without its payload a job cannot become a dead letter; it is failed once more instead.
            Ok(Err(problem)) => {
                tracing::error!(file = %file.path.display(), %problem, "cannot read back a finished file");
                Vec::new()
            }
            Err(problem) => {
                tracing::error!(file = %file.path.display(), %problem, "cannot read back a finished file");
                Vec::new()
            }
        }
    } else {
        Vec::new()
    };
    let verdict = Verdict::Failed { error: text, unreachable: error.is_unreachable() };
    settle(shared, &file, verdict, &payloads).await?;
    finish_file(file).await;
    Ok(FileEnd { jobs, result: Err(error) })
}

/// Stores the states of all jobs of the file and deletes its manifest, in one transaction if they fit into one.
///
/// Of several, the manifest goes with the last one when the object has arrived: until every job is done a
/// restart must not deliver the rest again. It goes with the first one when the upload failed: a restart must not
/// send the same file once jobs of it wait for their next attempt or are given up.
async fn settle(
    shared: &Shared,
    file: &BatchFile,
    verdict: Verdict<'_>,
    payloads: &[Option<Vec<u8>>],
) -> Result<(), JobsDbError> {
    let now_ms = shared.clock.now_ms();
    let jobs: Vec<(usize, &Outline)> = file.outlines.iter().enumerate().collect();
    let tally = commit_in_parts(&shared.jobs, &jobs, |part, place| {
        let mut tx = Tx::new(Durability::Lazy);
        let mut tally = Tally::default();
        for (at, outline) in part {
            let outcome = if verdict.is_success() {
                Outcome::Succeeded
            } else {
                let resolved = resolve(verdict, outline.previous, outline.limit, file.picked_ms);
                let letter = outline.letter.as_deref().zip(payloads.get(*at).and_then(Option::as_deref));
                outcome(&shared.jobs, &file.partition, &resolved, letter, outline.previous, now_ms)
            };
            tally.count(&outcome);
            tx.finish_of_run(outline.lease, outcome, outline.run.as_deref().cloned());
        }
        let takes_manifest = if verdict.is_success() { place.is_last } else { place.is_first };
        if takes_manifest {
            tx.journal_delete(Queue::BatchRt, file.op);
        }
        (tx, tally)
    })
    .await?;
    events::jobs_settled(&file.partition, tally.counts, tally.error_code);
    Ok(())
}

/// Ends all jobs of a staging file and tells the warehouse of it, in one transaction: a row is in exactly one
/// recorded file, whenever the node dies.
async fn record(shared: &Shared, file: &BatchFile, staged: &Staged) -> Result<(), JobsDbError> {
    let mut tally = Tally::default();
    commit_surely(&shared.jobs, || {
        let mut tx = Tx::new(Durability::Lazy);
        tally = Tally::default();
        for outline in &file.outlines {
            tally.count(&Outcome::Succeeded);
            tx.finish_of_run(outline.lease, Outcome::Succeeded, outline.run.as_deref().cloned());
        }
        if staged.record.total_events > 0 {
            shared.jobs.stage(&mut tx, &staged.record);
        }
        tx
    })
    .await?;
    staged.is_recorded();
    events::file_recorded(&file.partition, &staged.record);
    events::jobs_settled(&file.partition, tally.counts, tally.error_code);
    Ok(())
}

/// Stores that the jobs of a file arrived, and deletes its manifest with the last of them.
pub(super) async fn settle_success(shared: &Shared, jobs: &[Picked], op: u64) -> Result<(), JobsDbError> {
    let tally = commit_in_parts(&shared.jobs, jobs, |part, place| {
        let mut tx = Tx::new(Durability::Lazy);
        let mut tally = Tally::default();
        for picked in part {
            tally.count(&Outcome::Succeeded);
            tx.finish_of_run(picked.job.lease, Outcome::Succeeded, picked.run.clone());
        }
        if place.is_last {
            tx.journal_delete(Queue::BatchRt, op);
        }
        (tx, tally)
    })
    .await?;
    if let Some(first) = jobs.first() {
        events::jobs_settled(&first.job.partition, tally.counts, tally.error_code);
    }
    Ok(())
}

async fn finish_file(file: BatchFile) {
    file.leases.decided();
    let path = file.path;
    let removed = tokio::task::spawn_blocking(move || remove_if_there(&path).map_err(|error| (path, error))).await;
    if let Ok(Err((path, error))) = removed {
        tracing::warn!(file = %path.display(), %error, "a delivered file stays in the work folder until the next start");
    }
}

/// Settles jobs that never got into a file, because the verdict about their storage was clear before.
pub(super) async fn settle_unwritten(
    shared: &Shared,
    jobs: Vec<Picked>,
    verdict: Verdict<'_>,
    limits: Limits,
) -> Result<(), JobsDbError> {
    let now_ms = shared.clock.now_ms();
    for (_, of_source) in files(jobs, |picked| picked.job.partition.id) {
        let Some(first) = of_source.first() else { continue };
        let tally = commit_in_parts(&shared.jobs, &of_source, |part, _| {
            let mut tx = Tx::new(Durability::Lazy);
            let mut tally = Tally::default();
            for picked in part {
                let job = &picked.job;
                let outcome = if verdict.is_success() {
                    Outcome::Succeeded
                } else {
                    let previous = Previous::of(job.last.as_ref());
                    let resolved = resolve(verdict, previous, limits.of(picked), now_ms);
                    let letter = LetterParts::of(job);
                    let letter = Some((&letter, &*job.payload));
                    outcome(&shared.jobs, &job.partition, &resolved, letter, previous, now_ms)
                };
                tally.count(&outcome);
                tx.finish_of_run(job.lease, outcome, picked.run.clone());
            }
            (tx, tally)
        })
        .await?;
        events::jobs_settled(&first.job.partition, tally.counts, tally.error_code);
    }
    Ok(())
}

/// The outcome that stores what was resolved. A job that is given up but has no payload at hand is failed.
fn outcome(
    jobs: &JobsDb,
    partition: &Partition,
    resolved: &Resolved,
    letter: Option<(&LetterParts, &[u8])>,
    previous: Previous,
    now_ms: i64,
) -> Outcome {
    let status = |error_code: &str| Status {
        attempt: resolved.attempt,
        exec_ms: now_ms,
        retry_ms: now_ms,
        error_code: error_code.to_owned(),
        error_response: serde_json::to_vec(&resolved.response).unwrap_or_default(),
        parameters: b"{}".to_vec(),
    };
    match (resolved.state, letter) {
        (JobState::Succeeded, _) => Outcome::Succeeded,
        (JobState::Aborted, Some((letter, payload))) => {
            let said = ["Error", "reason"].iter().find_map(|&name| resolved.response.get(name)?.as_str());
            let failure = Failure {
                status_code: resolved.error_code.parse().unwrap_or(500),
                error: said.unwrap_or_default(),
                attempt: resolved.attempt,
                first_attempted_ms: previous.window_start_ms(now_ms),
            };
            let dead_letter = letter.encode(jobs, partition, payload, failure);
            Outcome::Aborted { status: status(resolved.error_code), dead_letter: Some(dead_letter) }
        }
        _ => Outcome::Failed { status: status(""), blocks_user: false },
    }
}

/// How the jobs of one transaction ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    counts: StateCounts,
    /// `""` or `"410"`.
    error_code: &'static str,
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Aborted { status, .. } => {
                self.counts.aborted += 1;
                if status.error_code == "410" {
                    self.error_code = "410";
                }
            }
            Outcome::Failed { .. } | Outcome::Importing { .. } => self.counts.failed += 1,
            Outcome::Succeeded | Outcome::Filtered => self.counts.succeeded += 1,
        }
    }

    fn add(&mut self, other: Tally) {
        self.counts.succeeded += other.counts.succeeded;
        self.counts.failed += other.counts.failed;
        self.counts.aborted += other.counts.aborted;
        if self.error_code.is_empty() {
            self.error_code = other.error_code;
        }
    }
}

/// Where a part lies in the whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    is_first: bool,
    is_last: bool,
}

/// Commits what `build` makes of the items, in their order, in as few transactions as the store takes: one that
/// is too large is halved.
///
/// # Errors
/// The store failed, or a single item is too large for it.
pub(super) async fn commit_in_parts<T>(
    jobs: &JobsDb,
    items: &[T],
    mut build: impl FnMut(&[T], Place) -> (Tx, Tally),
) -> Result<Tally, JobsDbError> {
    let mut sum = Tally::default();
    let mut parts = vec![items];
    let mut is_first = true;
    while let Some(part) = parts.pop() {
        let place = Place { is_first, is_last: parts.is_empty() };
        let mut of_part = Tally::default();
        let committed = commit_surely(jobs, || {
            let (tx, tally) = build(part, place);
            of_part = tally;
            tx
        });
        match committed.await {
            Ok(()) => {
                sum.add(of_part);
                is_first = false;
            }
            Err(JobsDbError::TooLarge { .. }) if part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.push(second);
                parts.push(first);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// Commits, however long the store has no room. The transaction is built anew for every attempt; leases
/// that an attempt of unknown fate ended already are ignored by the store.
///
/// # Errors
/// The store failed, or the transaction is too large for it.
pub(super) async fn commit_surely(jobs: &JobsDb, mut build: impl FnMut() -> Tx) -> Result<(), JobsDbError> {
    loop {
        match jobs.commit(build()).await {
            Ok(_) => return Ok(()),
            Err(error @ (JobsDbError::Unavailable(_) | JobsDbError::Timeout)) => {
                tracing::warn!(%error, "verdicts of file deliveries wait for the store");
                tokio::time::sleep(COMMIT_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

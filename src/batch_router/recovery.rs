//! Uploads of an earlier run whose fate is open: their manifests, and the jobs kept aside for them
//! (router.md 19.7).
//!
//! A job can only be decided about once a fetch has leased it, so a manifest has two questions: did the
//! object arrive (asked of the storage), and which of its jobs are in hand (answered by the fetches).

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::jobsdb::{Durability, Job, JobsDbError, Outcome, Queue, RunOfJob, Tx};

use super::Shared;
use super::drain::run_of;
use super::events;
use super::manifest::{Decision, Manifest, ObjectState, decide};
use super::upload::{HeldLeases, commit_surely, upload_and_verify};
use crate::object_storage::Store;

/// Jobs of an arrived file that no fetch has shown for this long are gone (aged out by the store).
const GONE_AFTER: Duration = Duration::from_secs(60);

struct Interrupted {
    op: u64,
    start_ms: i64,
    manifest: Manifest,
    /// When the storage confirmed the object.
    arrived: Option<Instant>,
    /// Jobs in hand.
    held: HeldLeases,
    /// What their ends count for, by job, for those that belong to runs.
    runs: HashMap<u64, RunOfJob>,
}

/// The open manifests of one destination.
#[derive(Default)]
pub(super) struct Recovery {
    open: Vec<Interrupted>,
}

impl Recovery {
    pub(super) fn add(&mut self, shared: &Shared, op: u64, start_ms: i64, manifest: Manifest) {
        let held = HeldLeases::new(&shared.jobs, Vec::new());
        self.open.push(Interrupted { op, start_ms, manifest, arrived: None, held, runs: HashMap::new() });
    }

    /// Whether anything is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Manifests that the storage has not answered for.
    pub(super) fn undecided(&self) -> usize {
        self.open.iter().filter(|upload| upload.arrived.is_none()).count()
    }

    /// Whether fetches are needed to bring jobs of arrived files in hand.
    pub(super) fn wants_jobs(&self) -> bool {
        self.open.iter().any(|upload| upload.arrived.is_some())
    }

    /// Keeps jobs of open manifests aside and returns the others.
    pub(super) fn keep_aside(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        if self.open.is_empty() {
            return jobs;
        }
        let mut others = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.open.iter_mut().find(|upload| upload.manifest.contains(job.id)) {
                Some(upload) => {
                    upload.held.push(job.lease);
                    upload.runs.extend(run_of(&job).map(|run| (job.id, run)));
                }
                None => others.push(job),
            }
        }
        others
    }

    /// Asks the storage about every undecided manifest. `false` = the storage did not answer.
    ///
    /// # Errors
    /// The job store failed.
    pub(super) async fn ask(
        &mut self,
        shared: &Shared,
        store: Option<&Store>,
        timeout: Duration,
        retention: Duration,
    ) -> Result<bool, JobsDbError> {
        let mut answered = true;
        let mut still_open = Vec::new();
        for mut upload in std::mem::take(&mut self.open) {
            if upload.arrived.is_some() {
                still_open.push(upload);
                continue;
            }
            match decision(shared, store, &upload, timeout, retention).await {
                Decision::Succeeded | Decision::UploadSameFile => {
                    events::interrupted_upload(&upload.manifest.destination_id, &upload.manifest.key, "arrived");
                    upload.arrived = Some(Instant::now());
                    still_open.push(upload);
                }
                Decision::Hold => {
                    answered = false;
                    still_open.push(upload);
                }
                decision @ (Decision::RunAgain | Decision::GiveUp) => {
                    let name = if decision == Decision::GiveUp { "given_up" } else { "run_again" };
                    events::interrupted_upload(&upload.manifest.destination_id, &upload.manifest.key, name);
                    commit_surely(&shared.jobs, || {
                        let mut tx = Tx::new(Durability::Lazy);
                        tx.journal_delete(Queue::BatchRt, upload.op);
                        tx
                    })
                    .await?;
                    // Its jobs go back with it.
                    shared.remove_work_file(&upload.manifest.file).await;
                }
            }
        }
        self.open = still_open;
        Ok(answered)
    }

    /// Finishes the jobs in hand of files that arrived. `all_seen`: the last fetch returned every job that
    /// there was to return.
    ///
    /// # Errors
    /// The job store failed.
    pub(super) async fn settle(&mut self, shared: &Shared, all_seen: bool) -> Result<(), JobsDbError> {
        let mut still_open = Vec::new();
        for mut upload in std::mem::take(&mut self.open) {
            let Some(arrived) = upload.arrived else {
                still_open.push(upload);
                continue;
            };
            let held = std::mem::replace(&mut upload.held, HeldLeases::new(&shared.jobs, Vec::new()));
            let mut ids: Vec<u64> = held.leases().iter().map(|lease| lease.job_id).collect();
            ids.sort_unstable();
            let mut left = upload.manifest.clone();
            left.remove(&ids);
            let rest_is_gone = all_seen && arrived.elapsed() > GONE_AFTER;
            let complete = left.jobs.is_empty() || rest_is_gone;
            if !ids.is_empty() || complete {
                commit_surely(&shared.jobs, || {
                    let mut tx = Tx::new(Durability::Lazy);
                    for lease in held.leases() {
                        tx.finish_of_run(*lease, Outcome::Succeeded, upload.runs.get(&lease.job_id).cloned());
                    }
                    if complete {
                        tx.journal_delete(Queue::BatchRt, upload.op);
                    } else {
                        tx.journal_put(Queue::BatchRt, left.to_record(upload.op, upload.start_ms));
                    }
                    tx
                })
                .await?;
            }
            held.decided();
            upload.runs.clear();
            if complete {
                shared.remove_work_file(&upload.manifest.file).await;
            } else {
                upload.manifest = left;
                still_open.push(upload);
            }
        }
        self.open = still_open;
        Ok(())
    }
}

/// Decides about one manifest, with the upload of the same file if that is what it takes.
async fn decision(
    shared: &Shared,
    store: Option<&Store>,
    upload: &Interrupted,
    timeout: Duration,
    retention: Duration,
) -> Decision {
    let manifest = &upload.manifest;
    let object = match store {
        Some(store) => match tokio::time::timeout(timeout, store.length(&manifest.key)).await {
            Ok(Ok(Some(length))) if length == manifest.bytes => ObjectState::AsRecorded,
            Ok(Ok(Some(_))) => ObjectState::Different,
            Ok(Ok(None)) => ObjectState::Absent,
            Ok(Err(_)) | Err(_) => ObjectState::Unknown,
        },
        None => ObjectState::Unknown,
    };
    let path = shared.work_file(&manifest.file);
    let intact = file_length(&path).await == Some(manifest.bytes);
    let age = Duration::from_millis(u64::try_from(shared.clock.now_ms().saturating_sub(upload.start_ms)).unwrap_or(0));
    let decision = decide(object, intact, age, retention);
    match (decision, store) {
        (Decision::UploadSameFile, Some(store)) => {
            match upload_and_verify(store, &manifest.key, &path, manifest.bytes, timeout).await {
                Ok(_) => Decision::UploadSameFile,
                Err(_) if age > retention => Decision::GiveUp,
                Err(_) => Decision::Hold,
            }
        }
        (decision, _) => decision,
    }
}

async fn file_length(path: &Path) -> Option<u64> {
    tokio::fs::metadata(path).await.ok().map(|metadata| metadata.len())
}

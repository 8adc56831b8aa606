//! The archiver: events of the `arc` queue become files that can be replayed (jobsdb.md 14, processor.md 13.2).
//!
//! One worker serves one source and makes one file at a time. Payloads pass through in small pages on their
//! way into the file; only the leases of a file's jobs are kept until it is stored.

mod file;
mod retention;
mod storage;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::jobsdb::{Durability, JobsDbError, Limits, Outcome, Queue, Select, Status, Tx};
use crate::settings::ArchivalSettings;

use super::upload::{HeldLeases, commit_surely};
use super::{BatchRouterError, Shared, events, wait_for};
use crate::object_storage::{Store, StoreContext, create_directories, one_component, remove_if_there};

use file::{ArchiveFile, Finished};
use storage::Choice;

/// Folder of files in the making, below the data directory.
const WORK_FOLDER: &str = "tmp/rudder-backups";

/// Payload bytes of one page on its way into a file.
const PAGE_BYTES: u64 = 4 << 20;

/// Jobs of one page.
const PAGE_JOBS: usize = 5_000;

/// How often old local files are looked for when no file was added.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

/// How often at most when files were added: the look walks the whole archive.
const PRUNE_AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// Keeps one worker for each source that has events to archive.
///
/// # Errors
/// The job store failed.
pub(super) async fn run(shared: &Arc<Shared>, stop: &CancellationToken) -> Result<(), BatchRouterError> {
    let appeared = shared.jobs.partition_appeared(Queue::Arc);
    let room = Arc::new(Semaphore::new(shared.settings.load().archival.concurrency));
    let mut workers: JoinSet<Result<(), JobsDbError>> = JoinSet::new();
    let mut serving: HashMap<Id, String> = HashMap::new();
    let local_grew = Arc::new(AtomicBool::new(false));
    let mut pruned: Option<Instant> = None;
    loop {
        let settings = shared.settings.load();
        let sources: BTreeSet<String> =
            shared.jobs.active(Queue::Arc).into_iter().map(|active| active.partition.source_id.clone()).collect();
        for source_id in sources {
            if serving.values().any(|served| *served == source_id) {
                continue;
            }
            let worker = SourceWorker {
                shared: Arc::clone(shared),
                waker: shared.jobs.waker(Queue::Arc, &Select::source(&source_id)),
                source_id: source_id.clone(),
                room: Arc::clone(&room),
                local_grew: Arc::clone(&local_grew),
            };
            let task = workers.spawn(worker.run(stop.clone()));
            serving.insert(task.id(), source_id);
        }
        if prune_is_due(pruned.map(|at| at.elapsed()), local_grew.load(Ordering::Relaxed)) {
            local_grew.store(false, Ordering::Relaxed);
            retention::prune(shared, &settings.archival).await;
            pruned = Some(Instant::now());
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = appeared.notified() => {}
            () = tokio::time::sleep(settings.archival.sleep) => {}
            Some(ended) = workers.join_next_with_id() => match ended {
                Ok((id, result)) => {
                    serving.remove(&id);
                    result?;
                }
                Err(error) => {
                    let source = serving.remove(&error.id()).unwrap_or_default();
                    tracing::error!(source, %error, "the archive worker of a source ended by an internal error and is started again");
                }
            },
        }
    }
    wait_for(workers).await
}

/// Whether to look for old local files, that long after the last look.
fn prune_is_due(since_last: Option<Duration>, local_grew: bool) -> bool {
    let wait = if local_grew { PRUNE_AT_MOST_EVERY } else { PRUNE_EVERY };
    since_last.is_none_or(|since| since >= wait)
}

struct SourceWorker {
    shared: Arc<Shared>,
    waker: Arc<Notify>,
    source_id: String,
    room: Arc<Semaphore>,
    /// Told of every new file in the local archive.
    local_grew: Arc<AtomicBool>,
}

/// What one turn has to do.
enum Work<'a> {
    /// Nothing; whether the next turn may come at once.
    Done(bool),
    /// A finished file is to be stored.
    Store(Box<ToStore<'a>>),
}

/// A finished file and where it goes.
struct ToStore<'a> {
    workspace_id: String,
    choice: Choice,
    gathered: Gathered,
    _place: SemaphorePermit<'a>,
}

/// A file whose events are in hand.
struct Gathered {
    path: PathBuf,
    finished: Finished,
    leases: HeldLeases,
}

impl SourceWorker {
    /// Serves the source until the stop, or until it has had nothing to archive for two periods.
    async fn run(self, stop: CancellationToken) -> Result<(), JobsDbError> {
        let mut last_file = Instant::now();
        let mut idle_since = Instant::now();
        let mut not_before = Instant::now();
        loop {
            let settings = self.shared.settings.load();
            let archival = &settings.archival;
            let due = (last_file + archival.upload_frequency).max(not_before);
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(due.into()) => false,
                () = self.waker.notified() => true,
            };
            let now = Instant::now();
            if woken {
                // Counting is cheap, but not for every event.
                not_before = not_before.max(now + Duration::from_secs(1));
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep_until(not_before.into()) => {}
                }
            }
            let (pending, bytes) = self.pending();
            if pending == 0 {
                if idle_since.elapsed() > archival.upload_frequency.saturating_mul(2) {
                    self.shared.board.forget_archive(&self.source_id);
                    return Ok(());
                }
                if !woken {
                    last_file = now;
                }
                continue;
            }
            idle_since = now;
            let is_full = pending >= archival.events_limit || bytes >= archival.payload_limit;
            if Instant::now() < last_file + archival.upload_frequency && !is_full {
                continue;
            }
            // The settings may have changed during the wait.
            let settings = self.shared.settings.load();
            let archival = &settings.archival;
            let Some(work) = stop.run_until_cancelled(self.prepare(archival)).await else { return Ok(()) };
            let stored = match work? {
                Work::Done(stored) => stored,
                // Not cut short by a stop: a file that is stored but whose events still wait would be stored again.
                // Whoever waits for this worker bounds it.
                Work::Store(file) => self.finish(archival, *file).await?,
            };
            last_file = Instant::now();
            not_before = if stored { last_file } else { last_file + archival.min_worker_sleep };
        }
    }

    fn pending(&self) -> (u64, u64) {
        let active = self.shared.jobs.active(Queue::Arc);
        let own = active.iter().filter(|active| active.partition.source_id == self.source_id);
        own.fold((0, 0), |(jobs, bytes), active| (jobs + active.pending, bytes + active.pending_bytes))
    }

    fn workspace_id(&self) -> String {
        let active = self.shared.jobs.active(Queue::Arc);
        let own = active.iter().find(|active| active.partition.source_id == self.source_id);
        own.map(|active| active.partition.workspace_id.clone()).unwrap_or_default()
    }

    /// Makes one file, or gives the jobs up when there is no storage. Cut short, it leaves the events as they were.
    async fn prepare(&self, archival: &ArchivalSettings) -> Result<Work<'_>, JobsDbError> {
        let Some(snapshot) = self.shared.config.borrow().clone() else { return Ok(Work::Done(false)) };
        let workspace_id = self.workspace_id();
        let choice = storage::choose(archival, snapshot.workspaces.get(&workspace_id).map(Arc::as_ref));
        if choice == Choice::None {
            self.abort_all(&format!("gw archival disabled for workspace {workspace_id}")).await?;
            return Ok(Work::Done(true));
        }
        let Ok(place) = self.room.acquire().await else { return Ok(Work::Done(false)) };
        match self.gather(archival).await? {
            Ok(Some(gathered)) => Ok(Work::Store(Box::new(ToStore { workspace_id, choice, gathered, _place: place }))),
            Ok(None) => Ok(Work::Done(true)),
            Err(problem) => {
                events::archived(&self.source_id, 0, Err(&problem));
                self.shared.board.archive(&self.source_id, |figures| figures.last_error = Some(problem));
                Ok(Work::Done(false))
            }
        }
    }

    /// Stores the file and ends its jobs. `false` = try again later.
    async fn finish(&self, archival: &ArchivalSettings, file: ToStore<'_>) -> Result<bool, JobsDbError> {
        let ToStore { workspace_id, choice, gathered, _place } = file;
        let count = gathered.finished.events;
        let stored = self.store(archival, &choice, &workspace_id, &gathered).await;
        let Gathered { path, leases, .. } = gathered;
        self.shared.remove_work_path(path).await;
        let now_ms = self.shared.clock.now_ms();
        match stored {
            Ok(location) => {
                commit_surely(&self.shared.jobs, || {
                    let mut tx = Tx::new(Durability::Lazy);
                    for lease in leases.leases() {
                        tx.finish(*lease, Outcome::Succeeded);
                    }
                    tx
                })
                .await?;
                leases.decided();
                events::archived(&self.source_id, count, Ok(&location));
                self.shared.board.archive(&self.source_id, |figures| {
                    figures.last_location = Some(location);
                    figures.last_upload_ms = Some(now_ms);
                    figures.last_error = None;
                    figures.files += 1;
                    figures.events += count;
                });
                if matches!(choice, Choice::Local(_)) {
                    self.local_grew.store(true, Ordering::Relaxed);
                }
                Ok(true)
            }
            Err(problem) => {
                events::archived(&self.source_id, count, Err(&problem));
                self.shared.board.archive(&self.source_id, |figures| figures.last_error = Some(problem));
                Ok(false)
            }
        }
    }

    /// Writes waiting events into a file, up to its limits. The inner error is one of the local disk.
    async fn gather(&self, archival: &ArchivalSettings) -> Result<Result<Option<Gathered>, String>, JobsDbError> {
        let folder = self.shared.data_dir.join(WORK_FOLDER).join(one_component(&self.source_id));
        let path = folder.join(format!("{}.json.gz", Uuid::new_v4()));
        let started = path.clone();
        let started = tokio::task::spawn_blocking(move || {
            create_directories(&folder)?;
            ArchiveFile::create(&started)
        });
        let mut file = match joined(started.await) {
            Ok(file) => file,
            Err(error) => return Ok(Err(format!("cannot write {}: {error}", path.display()))),
        };
        let select = Select::source(&self.source_id);
        let mut leases = HeldLeases::new(&self.shared.jobs, Vec::new());
        loop {
            let events_left = archival.events_limit.saturating_sub(file.events());
            let bytes_left = archival.payload_limit.saturating_sub(file.payload_bytes());
            if events_left == 0 || bytes_left == 0 {
                break;
            }
            let limits = Limits {
                jobs: usize::try_from(events_left).unwrap_or(PAGE_JOBS).min(PAGE_JOBS),
                events: 0,
                bytes: bytes_left.min(PAGE_BYTES),
            };
            let page = self.shared.jobs.fetch_async(Queue::Arc, &select, limits).await?;
            if page.jobs.is_empty() {
                break;
            }
            page.jobs.iter().for_each(|job| leases.push(job.lease));
            let jobs = page.jobs;
            let written = tokio::task::spawn_blocking(move || {
                for job in &jobs {
                    file.add(job)?;
                }
                Ok(file)
            });
            file = match joined(written.await) {
                Ok(file) => file,
                Err(error) => {
                    self.shared.remove_work_path(path.clone()).await;
                    return Ok(Err(format!("cannot write {}: {error}", path.display())));
                }
            };
            if !page.limits_reached {
                break;
            }
        }
        if leases.leases().is_empty() {
            drop(file);
            self.shared.remove_work_path(path).await;
            return Ok(Ok(None));
        }
        let finishing = path.clone();
        match joined(tokio::task::spawn_blocking(move || file.finish(&finishing)).await) {
            Ok(finished) => Ok(Ok(Some(Gathered { path, finished, leases }))),
            Err(error) => {
                self.shared.remove_work_path(path.clone()).await;
                Ok(Err(format!("cannot write {}: {error}", path.display())))
            }
        }
    }

    async fn store(
        &self,
        archival: &ArchivalSettings,
        choice: &Choice,
        workspace_id: &str,
        gathered: &Gathered,
    ) -> Result<String, String> {
        let settings = self.shared.settings.load();
        let (provider, config, prefix) = choice.as_destination();
        let of_type = settings.batch_router.of_type(provider);
        let context = StoreContext {
            data_dir: self.shared.data_dir.clone(),
            destination_id: String::new(),
            workspace_id: workspace_id.to_owned(),
            timeout: of_type.storage_timeout,
            region_hint: settings.batch_router.s3_region_hint.clone(),
            block_private_ips: settings.batch_router.block_private_ips,
        };
        let store = Store::open(provider, &config, &context).await.map_err(|error| error.to_string())?;
        let source = one_component(&self.source_id);
        let name = gathered.finished.name(workspace_id, Uuid::new_v4());
        let key =
            file::archive_key(provider, &prefix, &source, gathered.finished.first_ms, &archival.instance_id, &name);
        store.upload(&key, &gathered.path).await.map_err(|error| error.to_string())
    }

    async fn abort_all(&self, reason: &str) -> Result<(), JobsDbError> {
        let select = Select::source(&self.source_id);
        let response = serde_json::json!({ "error": reason }).to_string().into_bytes();
        loop {
            let limits = Limits { jobs: PAGE_JOBS, events: 0, bytes: PAGE_BYTES };
            let page = self.shared.jobs.fetch_async(Queue::Arc, &select, limits).await?;
            if page.jobs.is_empty() {
                return Ok(());
            }
            let now_ms = self.shared.clock.now_ms();
            let leases = HeldLeases::new(&self.shared.jobs, page.jobs.iter().map(|job| job.lease).collect());
            commit_surely(&self.shared.jobs, || {
                let mut tx = Tx::new(Durability::Lazy);
                for job in &page.jobs {
                    let status = Status {
                        attempt: job.last.as_ref().map_or(1, |last| last.status.attempt.saturating_add(1)),
                        exec_ms: now_ms,
                        retry_ms: now_ms,
                        error_code: String::new(),
                        error_response: response.clone(),
                        parameters: b"{}".to_vec(),
                    };
                    tx.finish(job.lease, Outcome::Aborted { status, dead_letter: None });
                }
                tx
            })
            .await?;
            leases.decided();
            events::archive_aborted(&self.source_id, u64::try_from(page.jobs.len()).unwrap_or(u64::MAX), reason);
        }
    }
}

/// The result of work on a blocking thread.
fn joined<T>(result: Result<std::io::Result<T>, tokio::task::JoinError>) -> std::io::Result<T> {
    result.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// Removes what an earlier run left in the making.
pub(super) fn empty_work_folder(data_dir: &std::path::Path) -> std::io::Result<()> {
    let folder = data_dir.join(WORK_FOLDER);
    let mut files = Vec::new();
    crate::object_storage::walk(&folder, &mut |path| {
        files.push(path.to_owned());
        true
    })?;
    files.iter().try_for_each(|file| remove_if_there(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_archive_is_looked_through_at_most_once_a_minute() {
        let seconds = |s| Some(Duration::from_secs(s));
        for (since_last, local_grew, due) in [
            (None, false, true),
            (seconds(59), true, false),
            (seconds(60), true, true),
            (seconds(3_599), false, false),
            (seconds(3_600), false, true),
        ] {
            assert_eq!(prune_is_due(since_last, local_grew), due, "{since_last:?} {local_grew}");
        }
    }
}

//! The worker of one destination: waits for its time, cuts a batch, writes files, starts their uploads.
//!
//! Between two cuts nothing is in its hands: jobs stay in the queue and are only counted, so that a long
//! period costs no memory (router.md 19.2). Payloads are in memory from a fetch until the files of that cut
//! are written, within one budget for all destinations.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_config::{Destination, Snapshot};
use crate::jobsdb::{Durability, Job, JobsDbError, Limits as FetchLimits, Outcome, Queue, Select, Status, Tx};
use crate::settings::{BatchRouterTypeSettings, Settings};

use super::Shared;
use super::board::BreakerState;
use super::breaker::{Breaker, Pace};
use super::cut::{CutTimer, cuts, files};
use super::dead_letter::{Failure, LetterParts};
use super::events::{self, StateCounts};
use super::manifest::{Manifest, ranges};
use super::object_key::{
    DateLayout, KeyParts, LISTED_OBJECTS, Listing, day_in_zone, file_name, folder_key, object_key,
};
use super::orders::{self, Orders};
use super::pickup::{DrainReason, DrainRules, JobParameters, drained_response};
use super::recovery::Recovery;
use super::result::{Previous, RetryLimit, Verdict};
use super::stores::{Store, StoreContext, StoreError, key_prefix, one_component};
use super::upload::{
    BatchFile, FileEnd, HeldLeases, Limits, Outline, commit_surely, deliver, settle_unwritten, write_jobs,
};

/// Uploads that run when the node stops get this long.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The sample that shows a quiet destination to be alive is renewed this often.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

type Delivery = Result<FileEnd, JobsDbError>;

/// What one cut came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The queue may hold more than the limits of one fetch let through.
    MoreWaits,
    /// Everything runnable was taken, or nothing may be taken now.
    Done,
}

/// The settings and the configuration that one cut works with.
struct Moment {
    orders: Orders,
    settings: Arc<Settings>,
    of_type: BatchRouterTypeSettings,
    snapshot: Arc<Snapshot>,
    destination: Option<Arc<Destination>>,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    destination_id: String,
    destination_type: String,
    waker: Arc<Notify>,
    timer: CutTimer,
    breaker: Breaker,
    recovery: Recovery,
    store: Option<(Arc<Destination>, Arc<Store>)>,
    layouts: HashMap<String, DateLayout>,
    uploads: JoinSet<Delivery>,
    /// Manifests of running uploads, for the case that one panics.
    running: HashMap<Id, (u64, i64, Manifest)>,
    room: Arc<Semaphore>,
    unknown_since_ms: Option<i64>,
}

impl Worker {
    pub(super) fn new(
        shared: &Arc<Shared>,
        destination_id: &str,
        destination_type: &str,
        recovery: Recovery,
    ) -> Worker {
        let of_type = shared.settings.load().batch_router.of_type(destination_type);
        Worker {
            shared: Arc::clone(shared),
            destination_id: destination_id.to_owned(),
            destination_type: destination_type.to_owned(),
            waker: shared.jobs.waker(Queue::BatchRt, &Select::destination(destination_id)),
            timer: CutTimer::new(Instant::now(), of_type.upload_freq),
            breaker: Breaker::default(),
            recovery,
            store: None,
            layouts: HashMap::new(),
            uploads: JoinSet::new(),
            running: HashMap::new(),
            room: Arc::new(Semaphore::new(of_type.concurrency)),
            unknown_since_ms: None,
        }
    }

    /// Serves the destination until the stop. Ends early when the destination is neither configured nor has jobs.
    ///
    /// # Errors
    /// The job store failed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), JobsDbError> {
        // Jobs may have been waiting since before the start: look once without being woken.
        let mut look_at = Some(Instant::now());
        let mut alive_at = Instant::now();
        loop {
            let now = Instant::now();
            let of_type = self.shared.settings.load().batch_router.of_type(&self.destination_type);
            self.timer.shorten(now, of_type.upload_freq);
            if alive_at <= now {
                events::alive(&self.destination_type);
                alive_at = now + ALIVE_EVERY;
            }
            let pace = self.pace(&of_type, now);
            self.show(pace);
            let blocked_by_uploads = match pace {
                Pace::Closed => self.uploads.len() >= of_type.concurrency,
                Pace::OpenUntil(_) => false,
                Pace::Trial => !self.uploads.is_empty(),
            };
            let planned = look_at.map_or(self.timer.next(), |at| at.min(self.timer.next()));
            let wake_at = match pace {
                Pace::OpenUntil(until) => planned.max(until),
                Pace::Closed | Pace::Trial => planned,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.uploads.join_next_with_id() => {
                    self.upload_ended(ended)?;
                    continue;
                }
                () = self.waker.notified(), if look_at.is_none() => {
                    look_at = Some(now + of_type.ping_frequency);
                    continue;
                }
                () = tokio::time::sleep_until(wake_at.into()), if !blocked_by_uploads => {}
            }
            look_at = None;
            if self.is_abandoned() {
                self.shared.board.forget_destination(&self.destination_id);
                return Ok(());
            }
            let now = Instant::now();
            if self.recovery.undecided() > 0 {
                self.ask_about_interrupted(&of_type).await?;
                if matches!(self.pace(&of_type, now), Pace::OpenUntil(_)) {
                    continue;
                }
            }
            let (waiting, _) = self.waiting();
            if !self.recovery.wants_jobs() && !self.timer.is_due(now, waiting, of_type.max_events) {
                continue;
            }
            self.timer.restart(now, of_type.upload_freq);
            if self.cut().await? == Cut::MoreWaits {
                look_at = Some(Instant::now() + self.pause_between_cuts(&of_type));
            }
        }
        self.wind_down().await
    }

    /// With less than a full batch waiting the next cut can wait for its time; `waiting` decides then.
    fn pause_between_cuts(&self, of_type: &BatchRouterTypeSettings) -> Duration {
        let (waiting, _) = self.waiting();
        let full = usize::try_from(waiting).unwrap_or(usize::MAX) >= of_type.max_events;
        if full { Duration::ZERO } else { of_type.ping_frequency }
    }

    fn pace(&self, of_type: &BatchRouterTypeSettings, now: Instant) -> Pace {
        self.breaker.pace(of_type.max_consecutive_failures, of_type.breaker_open, now)
    }

    fn show(&self, pace: Pace) {
        let left = self.timer.next().saturating_duration_since(Instant::now());
        let next_cut_ms =
            self.shared.clock.now_ms().saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
        self.shared.board.destination(&self.destination_id, |figures| {
            figures.destination_type.clone_from(&self.destination_type);
            figures.next_cut_ms = Some(next_cut_ms);
            figures.breaker = match pace {
                Pace::Closed => BreakerState::Closed,
                Pace::OpenUntil(_) => BreakerState::Open,
                Pace::Trial => BreakerState::Trial,
            };
            figures.failures_in_a_row = self.breaker.failures();
            figures.uploads_running = self.uploads.len();
            figures.undecided_uploads = self.recovery.undecided();
        });
    }

    fn show_error(&self, error: &str) {
        let now_ms = self.shared.clock.now_ms();
        self.shared.board.destination(&self.destination_id, |figures| {
            figures.last_error = Some(error.to_owned());
            figures.last_error_ms = Some(now_ms);
        });
    }

    /// Jobs that a fetch would return, and their payload bytes, both from counters.
    fn waiting(&self) -> (u64, u64) {
        let active = self.shared.jobs.active(Queue::BatchRt);
        let own = active.iter().filter(|active| active.partition.destination_id == self.destination_id);
        own.fold((0, 0), |(jobs, bytes), active| {
            let taken = active.leased.saturating_add(active.importing).saturating_add(active.blocked);
            (jobs + active.pending.saturating_sub(taken), bytes + active.pending_bytes)
        })
    }

    fn is_abandoned(&self) -> bool {
        let snapshot = self.shared.config.borrow().clone();
        let configured = snapshot.is_none_or(|snapshot| snapshot.destination_by_id.contains_key(&self.destination_id));
        !configured && self.recovery.is_empty() && self.uploads.is_empty() && self.waiting().0 == 0
    }

    /// `None` while no configuration is known.
    async fn moment(&self) -> Result<Option<Moment>, JobsDbError> {
        let settings = self.shared.settings.load();
        let Some(snapshot) = self.shared.config.borrow().clone() else { return Ok(None) };
        let orders = orders::read(&self.shared.jobs, &self.destination_id, self.shared.clock.now_ms()).await?;
        self.shared.board.destination(&self.destination_id, |figures| figures.paused = orders.paused);
        let destination = snapshot.destination_by_id.get(&self.destination_id).cloned();
        let of_type = settings.batch_router.of_type(&self.destination_type);
        Ok(Some(Moment { orders, settings, of_type, snapshot, destination }))
    }

    async fn ask_about_interrupted(&mut self, of_type: &BatchRouterTypeSettings) -> Result<(), JobsDbError> {
        let Some(moment) = self.moment().await?.filter(|moment| !moment.orders.paused) else { return Ok(()) };
        let store = match &moment.destination {
            Some(destination) => self.open_store(&moment, destination).await.ok(),
            None => None,
        };
        let retention = moment.settings.batch_router.manifest_retention;
        let answered = self.recovery.ask(&self.shared, store.as_deref(), of_type.storage_timeout, retention).await?;
        if !answered {
            self.breaker.record(false, Instant::now());
            self.show_error("the storage does not tell whether an interrupted upload arrived");
        }
        Ok(())
    }

    async fn cut(&mut self) -> Result<Cut, JobsDbError> {
        let Some(moment) = self.moment().await?.filter(|moment| !moment.orders.paused) else { return Ok(Cut::Done) };
        if moment.destination.is_some() {
            self.unknown_since_ms = None;
        } else {
            let now_ms = self.shared.clock.now_ms();
            let since = *self.unknown_since_ms.get_or_insert(now_ms);
            let unknown_for = Duration::from_millis(u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0));
            // Left alone for a while: the destination may only be missing from one broken configuration.
            if unknown_for < moment.settings.batch_router.unknown_destination_grace {
                return Ok(Cut::Done);
            }
        }
        let (waiting, waiting_bytes) = self.waiting();
        if waiting == 0 && !self.recovery.wants_jobs() {
            return Ok(Cut::Done);
        }

        let (budget, kib) = self.shared.page_budget(waiting_bytes).await;
        let limits = FetchLimits { jobs: moment.of_type.query_size, events: 0, bytes: u64::from(kib) << 10 };
        let select = Select::destination(&self.destination_id);
        let page = self.shared.jobs.fetch_async(Queue::BatchRt, &select, limits).await?;
        let more = if page.limits_reached { Cut::MoreWaits } else { Cut::Done };
        let held = HeldLeases::new(&self.shared.jobs, page.jobs.iter().map(|job| job.lease).collect());
        let jobs = self.recovery.keep_aside(page.jobs);
        let leases = HeldLeases::new(&self.shared.jobs, jobs.iter().map(|job| job.lease).collect());
        held.decided();
        self.recovery.settle(&self.shared, !page.limits_reached).await?;

        let jobs = self.drain(&moment, jobs).await?;
        match moment.destination.clone() {
            Some(destination) if !jobs.is_empty() => self.send(&moment, &destination, jobs, leases).await?,
            _ => leases.decided(),
        }
        drop(budget);
        Ok(more)
    }

    /// Gives up what the drain rules name and returns the rest.
    async fn drain(&mut self, moment: &Moment, jobs: Vec<Job>) -> Result<Vec<Job>, JobsDbError> {
        let settings = &moment.settings.batch_router;
        let now_us = self.shared.clock.now_us();
        let cancelled_runs: Vec<String> =
            settings.cancelled_job_runs.iter().chain(&moment.orders.cancelled_runs).cloned().collect();
        let rules = DrainRules {
            snapshot: &moment.snapshot,
            destination_id: &self.destination_id,
            destination: moment.destination.as_deref(),
            retention: settings.job_retention(&self.destination_id),
            to_abort: &settings.to_abort_destination_ids,
            cancelled_runs: &cancelled_runs,
            now_us,
        };
        let mut rest = Vec::with_capacity(jobs.len());
        let mut drained: Vec<(DrainReason, Job)> = Vec::new();
        for job in jobs {
            let run_id = JobParameters::of(&job).source_job_run_id;
            match rules.reason(&job.partition.source_id, job.created_us, &run_id) {
                Some(reason) => {
                    drop(run_id);
                    drained.push((reason, job));
                }
                None => {
                    drop(run_id);
                    rest.push(job);
                }
            }
        }
        for ((reason, _), given_up) in files(drained, |(reason, job)| (*reason, job.partition.id)) {
            commit_surely(&self.shared.jobs, || {
                let mut tx = Tx::new(Durability::Lazy);
                for (reason, job) in &given_up {
                    tx.finish(job.lease, self.drained(*reason, job, now_us.div_euclid(1000)));
                }
                tx
            })
            .await?;
            if let Some((_, first)) = given_up.first() {
                let count = u64::try_from(given_up.len()).unwrap_or(u64::MAX);
                events::drained(&first.partition, reason.text(), count);
                events::jobs_settled(&first.partition, StateCounts { aborted: count, ..StateCounts::default() }, "410");
            }
        }
        Ok(rest)
    }

    fn drained(&self, reason: DrainReason, job: &Job, now_ms: i64) -> Outcome {
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
            LetterParts::of(job).encode(&self.shared.jobs, &job.partition, &job.payload, failure)
        });
        Outcome::Aborted { status, dead_letter }
    }

    /// Turns jobs into files and starts their uploads, which take the leases over.
    async fn send(
        &mut self,
        moment: &Moment,
        destination: &Arc<Destination>,
        jobs: Vec<Job>,
        leases: HeldLeases,
    ) -> Result<(), JobsDbError> {
        let limits = Limits {
            of_events: RetryLimit {
                attempts: moment.of_type.max_failed_count,
                window: moment.of_type.retry_time_window,
            },
            of_runs: RetryLimit {
                attempts: moment.of_type.run_max_failed_count,
                window: moment.of_type.run_retry_time_window,
            },
        };
        if moment.settings.batch_router.disable_egress {
            settle_unwritten(&self.shared, &jobs, Verdict::EgressDisabled, limits).await?;
            leases.decided();
            return Ok(());
        }
        let store = match self.open_store(moment, destination).await {
            Ok(store) => store,
            Err(error) => {
                let text = error.to_string();
                self.show_error(&text);
                let verdict = match &error {
                    StoreError::Unsupported(provider) => Verdict::Unsupported(provider),
                    other => Verdict::Failed { error: &text, unreachable: other.is_unreachable() },
                };
                if !matches!(verdict, Verdict::Unsupported(_)) {
                    self.breaker.record(false, Instant::now());
                }
                settle_unwritten(&self.shared, &jobs, verdict, limits).await?;
                leases.decided();
                return Ok(());
            }
        };

        let mut written = Vec::new();
        for cut in cuts(jobs, moment.of_type.max_events) {
            for (source_id, jobs) in files(cut, |job| job.partition.source_id.clone()) {
                let layout = self.layout(moment, destination, &store, &source_id).await;
                match self.write(moment, destination, &source_id, layout, limits, jobs).await {
                    Ok((file, manifest)) => written.push((file, manifest)),
                    Err(problem) => {
                        tracing::error!(destination = %self.destination_id, %problem, "cannot write a file for upload");
                        self.show_error(&problem);
                        self.breaker.record(false, Instant::now());
                        for (file, _) in written {
                            self.shared.remove_work_path(file.path).await;
                        }
                        return Ok(());
                    }
                }
            }
        }
        let mut tx = Tx::new(Durability::Durable);
        for (file, manifest) in &written {
            tx.journal_put(Queue::BatchRt, manifest.to_record(file.op, file.picked_ms));
        }
        if let Err(error) = self.shared.jobs.commit(tx).await {
            // A commit of unknown fate may have stored them; what is left is found and decided at the next start.
            if let JobsDbError::Failed(_) = error {
                return Err(error);
            }
            self.show_error(&error.to_string());
            self.breaker.record(false, Instant::now());
            return Ok(());
        }
        leases.decided();
        for (mut file, manifest) in written {
            let leases = file.outlines.iter().map(|outline| outline.lease).collect();
            file.leases = HeldLeases::new(&self.shared.jobs, leases);
            self.start(moment, &store, file, manifest);
        }
        Ok(())
    }

    fn start(&mut self, moment: &Moment, store: &Arc<Store>, file: BatchFile, manifest: Manifest) {
        let (op, picked_ms) = (file.op, file.picked_ms);
        let shared = Arc::clone(&self.shared);
        let store = Arc::clone(store);
        let of_type = self.shared.uploads_of_type(&self.destination_type, moment.of_type.upload_limit);
        let room = [Arc::clone(&self.room), of_type];
        let timeout = moment.of_type.storage_timeout;
        let task = self.uploads.spawn(async move { deliver(&shared, &store, file, room, timeout).await });
        self.running.insert(task.id(), (op, picked_ms, manifest));
    }

    /// Writes the jobs of one source into a file in the work folder.
    async fn write(
        &self,
        moment: &Moment,
        destination: &Arc<Destination>,
        source_id: &str,
        layout: DateLayout,
        limits: Limits,
        jobs: Vec<Job>,
    ) -> Result<(BatchFile, Manifest), String> {
        let settings = &moment.settings.batch_router;
        let picked_ms = self.shared.clock.now_ms();
        let (date, unknown_zone) = day_in_zone(picked_ms, &settings.time_zone(&destination.workspace_id));
        if let Some(zone) = unknown_zone {
            tracing::error!(workspace = %destination.workspace_id, zone, "unknown time zone for object keys; UTC is used");
        }
        let uuid = Uuid::new_v4();
        let started_s = picked_ms.div_euclid(1000);
        let key = object_key(&KeyParts {
            provider: &self.destination_type,
            prefix: &key_prefix(&destination.config),
            folder: &settings.bucket_folder,
            source_id,
            custom_date_prefix: &moment.of_type.custom_date_prefix,
            date,
            layout,
            started_s,
            uuid,
        });
        let name = file_name(started_s, &one_component(source_id), uuid);
        let path = self.shared.work_file(&name);
        let Some(partition) = jobs.first().map(|job| Arc::clone(&job.partition)) else {
            return Err("there are no jobs to write".to_owned());
        };
        let job_ids = ranges(jobs.iter().map(|job| job.id));
        let writing = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let bytes = write_jobs(&writing, &jobs)?;
            let outlines: Vec<Outline> = jobs.iter().map(|job| Outline::of(job, limits, picked_ms)).collect();
            Ok::<_, std::io::Error>((bytes, outlines))
        })
        .await;
        let (bytes, outlines) = match written {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => {
                let text = format!("cannot write {}: {error}", path.display());
                self.shared.remove_work_path(path).await;
                return Err(text);
            }
            Err(error) => return Err(format!("internal error while writing {}: {error}", path.display())),
        };
        let manifest = Manifest {
            destination_id: self.destination_id.clone(),
            destination_type: self.destination_type.clone(),
            source_id: source_id.to_owned(),
            key: key.clone(),
            bytes,
            file: name,
            jobs: job_ids,
        };
        let file = BatchFile {
            partition,
            destination: Arc::clone(destination),
            key,
            path,
            bytes,
            op: self.shared.next_op(),
            picked_ms,
            outlines,
            leases: HeldLeases::new(&self.shared.jobs, Vec::new()),
        };
        Ok((file, manifest))
    }

    async fn open_store(&mut self, moment: &Moment, destination: &Arc<Destination>) -> Result<Arc<Store>, StoreError> {
        if let Some((of, store)) = &self.store
            && (Arc::ptr_eq(of, destination) || of.config == destination.config)
        {
            return Ok(Arc::clone(store));
        }
        let context = StoreContext {
            data_dir: self.shared.data_dir.clone(),
            destination_id: self.destination_id.clone(),
            timeout: moment.of_type.storage_timeout,
            region_hint: moment.settings.batch_router.s3_region_hint.clone(),
            block_private_ips: moment.settings.batch_router.block_private_ips,
        };
        let store = Arc::new(Store::open(&self.destination_type, &destination.config, &context).await?);
        self.store = Some((Arc::clone(destination), Arc::clone(&store)));
        self.layouts.clear();
        Ok(store)
    }

    /// The date layout for the source: chosen by the operator, or as its bucket has it.
    async fn layout(
        &mut self,
        moment: &Moment,
        destination: &Destination,
        store: &Store,
        source_id: &str,
    ) -> DateLayout {
        let settings = &moment.settings.batch_router;
        let chosen = settings.date_prefix_override(&destination.workspace_id, &self.destination_id);
        if let Some(layout) = DateLayout::chosen(&chosen) {
            return layout;
        }
        if let Some(layout) = self.layouts.get(source_id) {
            return *layout;
        }
        let prefix = key_prefix(&destination.config);
        let folder = folder_key(&self.destination_type, &prefix, &settings.bucket_folder, source_id);
        match tokio::time::timeout(moment.of_type.storage_timeout, store.list(&folder, LISTED_OBJECTS)).await {
            Ok(Ok(keys)) => {
                let layout = DateLayout::of_listing(&folder, Listing::Keys(&keys));
                self.layouts.insert(source_id.to_owned(), layout);
                layout
            }
            Ok(Err(_)) | Err(_) => DateLayout::of_listing(&folder, Listing::Failed),
        }
    }

    fn upload_ended(&mut self, ended: Result<(Id, Delivery), JoinError>) -> Result<(), JobsDbError> {
        let now_ms = self.shared.clock.now_ms();
        match ended {
            Ok((id, delivery)) => {
                self.running.remove(&id);
                let end = delivery?;
                self.breaker.record(end.result.is_ok(), Instant::now());
                match end.result {
                    Ok(location) => self.shared.board.destination(&self.destination_id, |figures| {
                        figures.last_location = Some(location);
                        figures.last_upload_ms = Some(now_ms);
                        figures.last_error = None;
                        figures.last_error_ms = None;
                        figures.files += 1;
                        figures.jobs += end.jobs;
                    }),
                    Err(error) => self.show_error(&error.to_string()),
                }
            }
            Err(error) => {
                // Its object may have arrived: the manifest tells, as after a crash.
                if let Some((op, start_ms, manifest)) = self.running.remove(&error.id()) {
                    self.recovery.add(&self.shared, op, start_ms, manifest);
                }
                self.breaker.record(false, Instant::now());
                tracing::error!(destination = %self.destination_id, %error, "an upload ended by an internal error");
                self.show_error("an upload ended by an internal error");
            }
        }
        Ok(())
    }

    /// Lets running uploads end within a bound; what is cut off is decided at the next start.
    async fn wind_down(mut self) -> Result<(), JobsDbError> {
        let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
        loop {
            match tokio::time::timeout_at(deadline, self.uploads.join_next_with_id()).await {
                Ok(Some(ended)) => self.upload_ended(ended)?,
                Ok(None) => break,
                Err(_) => {
                    self.uploads.shutdown().await;
                    break;
                }
            }
        }
        Ok(())
    }
}

//! The worker of one destination: waits for its time, cuts a batch, writes files, starts their uploads.
//!
//! Between two cuts nothing is in its hands: jobs stay in the queue and are only counted, so that a long
//! period costs no memory (router.md 19.2). Payloads are in memory from a fetch until the files of that cut
//! are written, within one budget for all destinations.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_config::Destination;
use crate::jobsdb::{ActivePartition, Durability, JobsDbError, Limits as FetchLimits, Queue, Select, Tx};
use crate::settings::{BatchRouterTypeSettings, Settings};

use super::Shared;
use super::board::BreakerState;
use super::breaker::{Breaker, Pace};
use super::cut::{CutTimer, cuts, files};
use super::drain::{Moment, Picked, drain};
use super::events;
use super::manifest::{Manifest, ranges};
use super::object_key::{
    DateLayout, KeyParts, LISTED_OBJECTS, Listing, day_in_zone, file_name, folder_key, object_key,
};
use super::orders;
use super::recovery::Recovery;
use super::result::{RetryLimit, Verdict};
use super::upload::{BatchFile, FileEnd, HeldLeases, Limits, Outline, deliver, settle_unwritten, write_jobs};
use crate::object_storage::{Store, StoreContext, StoreError, key_prefix, one_component};

/// Uploads that run when the node stops get this long.
const STOP_PATIENCE: Duration = Duration::from_secs(6);

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

/// Where the jobs of a cut go. Found out before any of them is in memory: a storage that hangs keeps nothing
/// that other destinations wait for.
enum Target {
    /// Nothing is asked of a storage.
    Nowhere,
    /// There, with the date layout of every source that had jobs waiting.
    Store(Arc<Store>, HashMap<String, DateLayout>),
    /// The storage cannot be used.
    Broken(StoreError),
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    destination_id: String,
    destination_type: String,
    waker: Arc<Notify>,
    /// The settings of the type, with the settings that they were read from.
    in_force: (Arc<Settings>, Arc<BatchRouterTypeSettings>),
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
        let settings = shared.settings.load();
        let of_type = Arc::new(settings.batch_router.of_type(destination_type));
        Worker {
            shared: Arc::clone(shared),
            destination_id: destination_id.to_owned(),
            destination_type: destination_type.to_owned(),
            waker: shared.jobs.waker(Queue::BatchRt, &Select::destination(destination_id)),
            timer: CutTimer::new(Instant::now(), of_type.upload_freq),
            room: Arc::new(Semaphore::new(of_type.concurrency)),
            breaker: Breaker::default(),
            in_force: (settings, of_type),
            recovery,
            store: None,
            layouts: HashMap::new(),
            uploads: JoinSet::new(),
            running: HashMap::new(),
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
            let (_, of_type) = self.in_force();
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
                // Cut short by a stop it is done again at the next start: what is undecided stays in the journal.
                let Some(asked) = stop.run_until_cancelled(self.ask_about_interrupted(&of_type)).await else { break };
                asked?;
                if matches!(self.pace(&of_type, now), Pace::OpenUntil(_)) {
                    continue;
                }
            }
            let (waiting, _) = self.waiting();
            if !self.recovery.wants_jobs() && !self.timer.is_due(now, waiting, of_type.max_events) {
                continue;
            }
            self.timer.restart(now, of_type.upload_freq);
            if self.cut(&stop).await? == Cut::MoreWaits {
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

    /// The settings in force, and those of the type, which are read from text only when they changed.
    fn in_force(&mut self) -> (Arc<Settings>, Arc<BatchRouterTypeSettings>) {
        let settings = self.shared.settings.load();
        if !Arc::ptr_eq(&settings, &self.in_force.0) {
            let of_type = settings.batch_router.of_type(&self.destination_type);
            self.in_force = (settings, Arc::new(of_type));
        }
        self.in_force.clone()
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

    /// The destination's partitions.
    fn active(&self) -> Vec<ActivePartition> {
        let mut active = self.shared.jobs.active(Queue::BatchRt);
        active.retain(|active| active.partition.destination_id == self.destination_id);
        active
    }

    /// Jobs that a fetch would return, and about how many payload bytes they have, both from counters.
    fn waiting(&self) -> (u64, u64) {
        self.active().iter().map(free).fold((0, 0), |(jobs, bytes), free| (jobs + free.0, bytes + free.1))
    }

    fn is_abandoned(&self) -> bool {
        let snapshot = self.shared.config.borrow().clone();
        let configured = snapshot.is_none_or(|snapshot| snapshot.destination_by_id.contains_key(&self.destination_id));
        !configured && self.recovery.is_empty() && self.uploads.is_empty() && self.waiting().0 == 0
    }

    /// `None` while no configuration is known.
    async fn moment(&mut self) -> Result<Option<Arc<Moment>>, JobsDbError> {
        let (settings, of_type) = self.in_force();
        let Some(snapshot) = self.shared.config.borrow().clone() else { return Ok(None) };
        let paused = orders::is_paused(&self.shared.jobs, &self.destination_id, self.shared.clock.now_ms()).await?;
        self.shared.board.destination(&self.destination_id, |figures| figures.paused = paused);
        let destination = snapshot.destination_by_id.get(&self.destination_id).cloned();
        Ok(Some(Arc::new(Moment { paused, settings, of_type, snapshot, destination })))
    }

    async fn ask_about_interrupted(&mut self, of_type: &BatchRouterTypeSettings) -> Result<(), JobsDbError> {
        let Some(moment) = self.moment().await?.filter(|moment| !moment.paused) else { return Ok(()) };
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

    /// Ends early on a stop, with every job where it was, as long as it waits for the storage or for memory.
    async fn cut(&mut self, stop: &CancellationToken) -> Result<Cut, JobsDbError> {
        let Some(moment) = self.moment().await?.filter(|moment| !moment.paused) else { return Ok(Cut::Done) };
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

        let Some(target) = stop.run_until_cancelled(self.target(&moment)).await else { return Ok(Cut::Done) };
        let room = stop.run_until_cancelled(self.shared.page_budget(waiting_bytes)).await;
        let Some((budget, kib)) = room else { return Ok(Cut::Done) };
        let limits = FetchLimits { jobs: moment.of_type.query_size, events: 0, bytes: u64::from(kib) << 10 };
        let select = Select::destination(&self.destination_id);
        let page = self.shared.jobs.fetch_async(Queue::BatchRt, &select, limits).await?;
        let all_seen = !page.limits_reached;
        let held = HeldLeases::new(&self.shared.jobs, page.jobs.iter().map(|job| job.lease).collect());
        // Jobs of a source that had none a moment ago go back: nobody knows yet how its bucket is laid out.
        let (jobs, late): (Vec<_>, Vec<_>) =
            self.recovery.keep_aside(page.jobs).into_iter().partition(|job| target.knows(&job.partition.source_id));
        let leases = HeldLeases::new(&self.shared.jobs, jobs.iter().map(|job| job.lease).collect());
        let given_back = HeldLeases::new(&self.shared.jobs, late.iter().map(|job| job.lease).collect());
        let more = if all_seen && late.is_empty() { Cut::Done } else { Cut::MoreWaits };
        held.decided();
        drop((given_back, late));
        self.recovery.settle(&self.shared, all_seen).await?;

        let jobs = drain(&self.shared, &self.destination_id, &moment, jobs).await?;
        match moment.destination.clone() {
            Some(destination) if !jobs.is_empty() => self.send(&moment, &destination, target, jobs, leases).await?,
            _ => leases.decided(),
        }
        drop(budget);
        Ok(more)
    }

    /// Opens the storage and finds out the layouts of its folders.
    async fn target(&mut self, moment: &Moment) -> Target {
        let enabled = moment.destination.as_ref().filter(|destination| destination.enabled);
        let Some(destination) = enabled.filter(|_| !moment.settings.batch_router.disable_egress) else {
            return Target::Nowhere;
        };
        let store = match self.open_store(moment, destination).await {
            Ok(store) => store,
            Err(error) => return Target::Broken(error),
        };
        let active = self.active();
        let sources: BTreeSet<&str> = active.iter().map(|active| active.partition.source_id.as_str()).collect();
        let mut layouts = HashMap::new();
        let mut answers = true;
        for source_id in sources {
            let layout = self.layout(moment, destination, &store, source_id, &mut answers).await;
            layouts.insert(source_id.to_owned(), layout);
        }
        if !answers {
            self.breaker.record(false, Instant::now());
            self.show_error("the storage did not answer a listing in time");
        }
        Target::Store(store, layouts)
    }

    /// Turns jobs into files and starts their uploads, which take the leases over.
    async fn send(
        &mut self,
        moment: &Moment,
        destination: &Arc<Destination>,
        target: Target,
        jobs: Vec<Picked>,
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
            settle_unwritten(&self.shared, jobs, Verdict::EgressDisabled, limits).await?;
            leases.decided();
            return Ok(());
        }
        let (store, layouts) = match target {
            Target::Store(store, layouts) => (store, layouts),
            // Nothing is decided about them: their leases go back.
            Target::Nowhere => return Ok(()),
            Target::Broken(error) => {
                let text = error.to_string();
                self.show_error(&text);
                let verdict = match &error {
                    StoreError::Unsupported(provider) => Verdict::Unsupported(provider),
                    other => Verdict::Failed { error: &text, unreachable: other.is_unreachable() },
                };
                if !matches!(verdict, Verdict::Unsupported(_)) {
                    self.breaker.record(false, Instant::now());
                }
                settle_unwritten(&self.shared, jobs, verdict, limits).await?;
                leases.decided();
                return Ok(());
            }
        };

        let mut written = Vec::new();
        for cut in cuts(jobs, moment.of_type.max_events) {
            for (_, jobs) in files(cut, |picked| picked.job.partition.id) {
                match self.write(moment, destination, &layouts, limits, jobs).await {
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
        layouts: &HashMap<String, DateLayout>,
        limits: Limits,
        jobs: Vec<Picked>,
    ) -> Result<(BatchFile, Manifest), String> {
        let Some(partition) = jobs.first().map(|picked| Arc::clone(&picked.job.partition)) else {
            return Err("there are no jobs to write".to_owned());
        };
        let source_id = partition.source_id.as_str();
        let Some(&layout) = layouts.get(source_id) else {
            return Err(format!("the folder layout of source {source_id} is not known"));
        };
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
        let job_ids = ranges(jobs.iter().map(|picked| picked.job.id));
        let writing = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let bytes = write_jobs(&writing, &jobs)?;
            let outlines: Vec<Outline> = jobs.iter().map(|picked| Outline::of(picked, limits, picked_ms)).collect();
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
            partition: Arc::clone(&partition),
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
            workspace_id: destination.workspace_id.clone(),
            timeout: moment.of_type.storage_timeout,
            region_hint: moment.settings.batch_router.s3_region_hint.clone(),
            block_private_ips: moment.settings.batch_router.block_private_ips,
        };
        let opening = Store::open(&self.destination_type, &destination.config, &context);
        let Ok(opened) = tokio::time::timeout(context.timeout, opening).await else {
            let timeout_s = context.timeout.as_secs();
            return Err(StoreError::Refused(format!("the storage did not answer within {timeout_s} s")));
        };
        let store = Arc::new(opened?);
        self.store = Some((Arc::clone(destination), Arc::clone(&store)));
        self.layouts.clear();
        Ok(store)
    }

    /// The date layout for the source: chosen by the operator, or as its bucket has it. A bucket that let the time
    /// of one listing pass is asked no more; `answers` tells.
    async fn layout(
        &mut self,
        moment: &Moment,
        destination: &Destination,
        store: &Store,
        source_id: &str,
        answers: &mut bool,
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
        if !*answers {
            return DateLayout::of_listing(&folder, Listing::Failed);
        }
        // A little shorter than what the client waits, whose error would not tell silence from a refusal.
        let patience = moment.of_type.storage_timeout.mul_f64(0.9);
        match tokio::time::timeout(patience, store.list(&folder, LISTED_OBJECTS)).await {
            Ok(Ok(keys)) => {
                let layout = DateLayout::of_listing(&folder, Listing::Keys(&keys));
                self.layouts.insert(source_id.to_owned(), layout);
                layout
            }
            Ok(Err(_)) => DateLayout::of_listing(&folder, Listing::Failed),
            Err(_) => {
                *answers = false;
                DateLayout::of_listing(&folder, Listing::Failed)
            }
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

impl Target {
    /// Whether a job of the source can be decided about.
    fn knows(&self, source_id: &str) -> bool {
        match self {
            Target::Store(_, layouts) => layouts.contains_key(source_id),
            Target::Nowhere | Target::Broken(_) => true,
        }
    }
}

/// Jobs of the partition that a fetch would return, and their share of its payload bytes: jobs in other hands,
/// most of them on their way to the storage, take no room again.
fn free(active: &ActivePartition) -> (u64, u64) {
    let taken = active.leased.saturating_add(active.importing).saturating_add(active.blocked);
    let jobs = active.pending.saturating_sub(taken);
    let bytes = u128::from(active.pending_bytes) * u128::from(jobs) / u128::from(active.pending.max(1));
    (jobs, u64::try_from(bytes).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobsdb::Partition;

    #[test]
    fn jobs_in_other_hands_are_not_waited_for_and_take_no_room() {
        let partition = Arc::new(Partition {
            id: 1,
            workspace_id: "w".to_owned(),
            custom_val: "S3".to_owned(),
            source_id: "s".to_owned(),
            destination_id: "d".to_owned(),
        });
        for (pending, leased, importing, expected) in
            [(10, 0, 0, (10, 1_000)), (10, 6, 2, (2, 200)), (10, 10, 0, (0, 0)), (0, 0, 0, (0, 0)), (3, 5, 0, (0, 0))]
        {
            let active = ActivePartition {
                partition: Arc::clone(&partition),
                pending,
                pending_bytes: pending * 100,
                leased,
                delayed: 0,
                blocked: 0,
                importing,
            };
            assert_eq!(free(&active), expected, "{pending} {leased} {importing}");
        }
    }
}

//! The worker of one destination: waits for its time, cuts a batch, writes files, starts their uploads.
//!
//! Between two cuts nothing is in its hands: jobs stay in the queue and are only counted, so that a long
//! period costs no memory (router.md 19.2). Payloads are in memory from a fetch until the files of that cut
//! are written, within one budget for all destinations.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::destination::is_warehouse;
use crate::destination::warehouse::Dialect;
use crate::jobsdb::{ActivePartition, JobsDbError, Limits as FetchLimits, Queue, Select};
use crate::settings::{BatchRouterTypeSettings, Settings};

use super::Shared;
use super::breaker::{Breaker, Pace};
use super::cut::CutTimer;
use super::drain::{Absence, Moment, drain};
use super::events;
use super::manifest::Manifest;
use super::object_key::DateLayout;
use super::recovery::Recovery;
use super::sending::Delivery;
use super::staging::MergeRules;
use super::target::Opened;
use super::upload::HeldLeases;

/// The sample that shows a quiet destination to be alive is renewed this often.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

/// What one cut came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The queue may hold more than the limits of one fetch let through.
    MoreWaits,
    /// Everything runnable was taken, or nothing may be taken now.
    Done,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) destination_id: String,
    pub(super) destination_type: String,
    /// Files are staging files.
    pub(super) is_warehouse: bool,
    /// Staging files are made by the hour.
    pub(super) is_data_lake: bool,
    waker: Arc<Notify>,
    /// The settings of the type, with the settings that they were read from.
    in_force: (Arc<Settings>, Arc<BatchRouterTypeSettings>),
    timer: CutTimer,
    pub(super) breaker: Breaker,
    pub(super) recovery: Recovery,
    pub(super) store: Option<Opened>,
    pub(super) layouts: HashMap<String, DateLayout>,
    pub(super) uploads: JoinSet<Delivery>,
    /// Manifests of running uploads, for the case that one panics.
    pub(super) running: HashMap<Id, (u64, i64, Manifest)>,
    pub(super) room: Arc<Semaphore>,
    pub(super) merge_rules: Arc<Mutex<MergeRules>>,
    absence: Absence,
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
            is_warehouse: is_warehouse(destination_type),
            is_data_lake: Dialect::of_type(destination_type).is_some_and(Dialect::is_data_lake),
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
            merge_rules: Arc::default(),
            absence: Absence::default(),
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
            figures.breaker = pace.into();
            figures.failures_in_a_row = self.breaker.failures();
            figures.uploads_running = self.uploads.len();
            figures.undecided_uploads = self.recovery.undecided();
        });
    }

    pub(super) fn show_error(&self, error: &str) {
        self.shared.show_error(&self.destination_id, error);
    }

    /// The destination's partitions.
    pub(super) fn active(&self) -> Vec<ActivePartition> {
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
        Moment::of(&self.shared, &self.destination_id, settings, of_type).await
    }

    async fn ask_about_interrupted(&mut self, of_type: &BatchRouterTypeSettings) -> Result<(), JobsDbError> {
        let Some(moment) = self.moment().await?.filter(|moment| !moment.paused) else { return Ok(()) };
        let opened = match &moment.destination {
            Some(destination) => self.open_store(&moment, destination).await.ok(),
            None => None,
        };
        let store = opened.as_ref().map(|opened| &*opened.store);
        let retention = moment.settings.batch_router.manifest_retention;
        let answered = self.recovery.ask(&self.shared, store, of_type.storage_timeout, retention).await?;
        if !answered {
            self.breaker.record(false, Instant::now());
            self.show_error("the storage does not tell whether an interrupted upload arrived");
        }
        Ok(())
    }

    /// Ends early on a stop, with every job where it was, as long as it waits for the storage or for memory.
    async fn cut(&mut self, stop: &CancellationToken) -> Result<Cut, JobsDbError> {
        let Some(moment) = self.moment().await?.filter(|moment| !moment.paused) else { return Ok(Cut::Done) };
        if self.absence.is_short(&moment, self.shared.clock.now_ms()) {
            return Ok(Cut::Done);
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

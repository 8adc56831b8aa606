//! One destination: its pick-up loop, workers, barrier and status writer (router.md 3, 7.7, 7.8, 10).
//!
//! The loop is woken by what happens: jobs stored or due, a worker with room, a stored result that the barrier
//! waits for, a rate limit that refills, an order of the operator. The tick is for safety only. A pass leases at
//! most as many jobs as there is room for, decides about each in job id order, and gives back what cannot run. A
//! destination that cannot take anything costs nothing but its tick: the loop then waits for the one event that
//! changes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::RouterError;
use super::barrier::Barrier;
use super::board::Activity;
use super::drain::Standing;
use super::events;
use super::pickup::{Discard, PassRules};
use super::plan::Plan;
use super::shared::{Common, Shared};
use super::status_writer;
use super::throttle::{Adaptive, Rate, Throttler};
use super::unreachable::Allowance;
use super::walk::{DEEP_REST, LARGEST_PAGE, SMALLEST_PAGE, Walk};
use super::worker::Worker;
use crate::backend_config::Snapshot;
use crate::jobsdb::{JobsDbError, Queue, Select};
use crate::settings::Settings;

/// Results on their way to the writer.
const RESULTS: usize = 2_000;
/// Least time between two passes that news of the queue ask for: under a steady stream each pass then serves
/// many jobs, while the first one after a pause is picked at once.
const PACE: Duration = Duration::from_millis(1);
/// Rest between a pass and the next one that room or a stored result asks for.
const SHORT_REST: Duration = Duration::from_millis(2);
/// Rest after a pass that gave jobs back, before news of the queue counts; those may be our own.
const REST_AFTER_DISCARD: Duration = Duration::from_millis(20);
/// The same, at most, when pass after pass starts nothing.
const LONGEST_REST: Duration = Duration::from_millis(250);
/// Least time between two passes that a rate limit ends.
const THROTTLED_REST: Duration = Duration::from_millis(50);
/// Time between two samples that keep an idle destination visible.
const STILL_HERE: Duration = Duration::from_secs(15);
/// Longest time that requests under way may take to end once the router stops. The node gives eight seconds.
const SETTLING: Duration = Duration::from_secs(6);
/// Time for the last results to get to the store.
const LAST_WRITE: Duration = Duration::from_millis(800);
/// Time between two sweeps of the barrier.
const SWEEP: Duration = Duration::from_secs(60);
/// A pause older than this raises an alert.
const OLD_PAUSE_MS: i64 = 24 * 3_600 * 1_000;

/// What the loop waits for after a pass.
#[derive(Clone, Copy, Debug)]
struct Next {
    /// News of the queue, not before this much time has passed; `None` = they change nothing.
    news_after: Option<Duration>,
    /// Progress of workers and writer.
    progress: Progress,
    /// The pass is repeated after this time at the latest.
    at_most: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It changes nothing.
    Ignored,
    /// Once there is room worth a pass.
    Room,
    /// Any.
    Any,
}

/// The loop of one destination.
pub(super) struct Partition {
    pub(super) common: Common,
    pub(super) shared: Arc<Shared>,
    pub(super) select: Select,
    kind: String,
    workspace_id: String,
    plan_of: (Arc<Settings>, Option<Arc<Snapshot>>),
    pub(super) throttler: Throttler,
    adaptive: Adaptive,
    last_increase: Instant,
    last_decrease: Instant,
    pass_number: usize,
    fruitless: u32,
    idle_passes: u32,
    pub(super) page: usize,
    pub(super) deep_rest: Duration,
    pub(super) next_deep: Instant,
    pub(super) drained_before: bool,
    /// Jobs that waited for workers at the end of the pass.
    waited: usize,
    unknown_since: Option<Instant>,
    last_sample: Instant,
    last_sweep: Instant,
    told_old_pause: bool,
}

/// Ends everything under way when the loop ends, also when whoever runs it drops it: nothing may be delivered by
/// workers whose results nobody stores.
struct CutOff(Arc<Shared>);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.cut_off();
    }
}

/// Delivers to the destination until `stop`, then ends what is under way.
///
/// # Errors
/// The store failed.
pub(super) async fn run(
    common: Common,
    destination_id: String,
    kind: String,
    workspace_id: String,
    stop: CancellationToken,
) -> Result<(), RouterError> {
    let (results, received) = mpsc::channel(RESULTS);
    let settings = common.settings.load();
    let config = common.config.borrow().clone();
    let plan = Plan::new(&settings, config.as_deref(), &kind, &destination_id, &workspace_id, &common.clock);
    let shared = Arc::new(Shared {
        id: destination_id.clone(),
        jobs: common.jobs.clone(),
        clock: common.clock.clone(),
        live: common.live.clone(),
        board: Arc::clone(&common.board),
        courier: Arc::clone(&common.courier),
        barrier: Mutex::new(Barrier::new(plan.barrier_params())),
        workers: (0..plan.settings.workers).map(|_| Worker::default()).collect(),
        plan: ArcSwap::from_pointee(plan),
        reach: Mutex::default(),
        seen: Mutex::default(),
        endpoint_limiters: Mutex::default(),
        results,
        started: Instant::now(),
        stop: stop.clone(),
        cut: CancellationToken::new(),
        ending: AtomicBool::new(false),
        progress: Notify::new(),
        awaits_progress: AtomicBool::new(false),
        worker_idle: AtomicBool::new(false),
        results_stored: AtomicBool::new(false),
        given_back: AtomicBool::new(false),
        waiting: AtomicUsize::new(0),
        refill_mark: AtomicUsize::new(0),
        held_jobs: AtomicUsize::new(0),
        held_bytes: AtomicU64::new(0),
    });
    let now = Instant::now();
    let mut partition = Partition {
        common,
        shared: Arc::clone(&shared),
        select: Select::destination(&destination_id),
        kind,
        workspace_id,
        plan_of: (settings, config),
        throttler: Throttler::default(),
        adaptive: Adaptive::default(),
        last_increase: now,
        last_decrease: now,
        pass_number: 0,
        fruitless: 0,
        idle_passes: 0,
        page: LARGEST_PAGE,
        deep_rest: DEEP_REST.0,
        next_deep: now,
        drained_before: false,
        waited: 0,
        unknown_since: None,
        last_sample: now,
        last_sweep: now,
        told_old_pause: false,
    };
    let cut_off = CutOff(Arc::clone(&shared));
    let nothing_held = CancellationToken::new();
    let writer = status_writer::run(Arc::clone(&shared), received, nothing_held.clone());
    let picking = async {
        let picked = partition.pick_up(&stop).await;
        partition.settle().await;
        nothing_held.cancel();
        picked
    };
    tokio::pin!(writer);
    let ended = tokio::select! {
        written = &mut writer => written,
        picked = picking => match picked {
            Ok(()) => tokio::time::timeout(LAST_WRITE, &mut writer).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        },
    };
    drop(cut_off);
    match ended {
        // What could not be stored any more is delivered again: that is no worse than a crash, and no fault.
        Err(RouterError::Store { source: source @ (JobsDbError::Unavailable(_) | JobsDbError::Timeout), .. })
            if stop.is_cancelled() =>
        {
            events::results_dropped(&shared.plan.load().labels, &source);
            Ok(())
        }
        ended => ended,
    }
}

impl Partition {
    async fn pick_up(&mut self, stop: &CancellationToken) -> Result<(), RouterError> {
        let waker = self.common.jobs.waker(Queue::Rt, &self.select);
        let mut orders = self.common.board.orders_changed();
        let mut config = self.common.config.clone();
        let mut config_lives = true;
        while !stop.is_cancelled() {
            self.refresh();
            self.forget_progress();
            let next = self.pass().await?;
            let began = Instant::now();
            let mut deadline = began + next.at_most;
            let mut news_count = next.news_after.is_some();
            self.shared.awaits_progress.store(next.progress != Progress::Ignored, Ordering::SeqCst);
            if self.is_worth_a_pass(next.progress) {
                deadline = deadline.min(began + SHORT_REST);
            }
            let timer = tokio::time::sleep_until(deadline.into());
            tokio::pin!(timer);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    () = &mut timer => break,
                    changed = orders.changed() => {
                        if changed.is_ok() {
                            break;
                        }
                    }
                    changed = config.changed(), if config_lives => {
                        config_lives = changed.is_ok();
                        if config_lives {
                            break;
                        }
                    }
                    () = self.shared.progress.notified() => {
                        if self.is_worth_a_pass(next.progress) {
                            deadline = deadline.min((began + SHORT_REST).max(Instant::now()));
                            timer.as_mut().reset(deadline.into());
                        }
                    }
                    () = waker.notified(), if news_count => {
                        news_count = false;
                        let earliest = began + next.news_after.unwrap_or_default().max(PACE);
                        deadline = deadline.min(earliest.max(Instant::now()));
                        timer.as_mut().reset(deadline.into());
                    }
                }
            }
        }
        Ok(())
    }

    /// Before a pass: it will see what has happened up to now.
    fn forget_progress(&self) {
        self.shared.awaits_progress.store(false, Ordering::SeqCst);
        for happened in [&self.shared.worker_idle, &self.shared.results_stored, &self.shared.given_back] {
            happened.store(false, Ordering::SeqCst);
        }
    }

    /// Whether something has happened since the pass began that makes another one worth it.
    fn is_worth_a_pass(&self, progress: Progress) -> bool {
        let shared = &self.shared;
        if shared.given_back.swap(false, Ordering::SeqCst) {
            return true;
        }
        match progress {
            Progress::Ignored => false,
            Progress::Any => {
                shared.results_stored.swap(false, Ordering::SeqCst) | shared.worker_idle.swap(false, Ordering::SeqCst)
            }
            Progress::Room => {
                let few_wait = shared.waiting.load(Ordering::SeqCst) <= shared.refill_mark.load(Ordering::SeqCst);
                shared.worker_idle.swap(false, Ordering::SeqCst)
                    || few_wait && (self.waited > 0 || shared.results_stored.swap(false, Ordering::SeqCst))
            }
        }
    }

    /// Lets what is under way end, as long as a stop of the node can wait, and ends the rest: those jobs go back to
    /// their queue and are delivered after the next start.
    async fn settle(&self) {
        let shared = &self.shared;
        shared.ending.store(true, Ordering::SeqCst);
        let patience = (shared.plan.load().settings.http_timeout + LAST_WRITE).min(SETTLING);
        if self.holds_nothing_within(patience).await {
            return;
        }
        events::cut_off(&shared.plan.load().labels, shared.held_jobs.load(Ordering::Acquire));
        shared.cut_off();
        // Results that were on their way to the store still get there.
        if !self.holds_nothing_within(LAST_WRITE).await {
            tracing::debug!(destination = %shared.id, "results of deliveries are not stored in time for the stop");
        }
    }

    async fn holds_nothing_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.shared.held_jobs.load(Ordering::Acquire) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let progress = self.shared.progress.notified();
            // The tick covers a permit that another waiter took.
            if tokio::time::timeout(left.min(Duration::from_millis(100)), progress).await.is_err() {
                tracing::trace!(destination = %self.shared.id, "waiting for deliveries under way");
            }
        }
        true
    }

    /// Works the plan out anew when settings or configuration changed.
    fn refresh(&mut self) {
        let settings = self.common.settings.load();
        let config = self.common.config.borrow().clone();
        let same_config = match (&config, &self.plan_of.1) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if same_config && Arc::ptr_eq(&settings, &self.plan_of.0) {
            return;
        }
        let (kind, id) = (&self.kind, &self.shared.id);
        let mut plan = Plan::new(&settings, config.as_deref(), kind, id, &self.workspace_id, &self.common.clock);
        {
            let earlier = self.shared.plan.load();
            plan.origins.remember_earlier(&earlier.origins);
            plan.keep_client(&earlier);
        }
        self.shared.barrier.lock().set_params(plan.barrier_params());
        self.shared.plan.store(Arc::new(plan));
        self.plan_of = (settings, config);
    }

    /// One pass over the queue: what was started, and what to wait for now.
    async fn pass(&mut self) -> Result<Next, RouterError> {
        let plan = self.shared.plan.load_full();
        let now_ms = self.common.clock.now_ms();
        self.sync_barrier(&plan, now_ms);
        self.adapt(&plan);
        if self.last_sample.elapsed() >= STILL_HERE {
            self.last_sample = Instant::now();
            events::still_here(&plan.labels);
        }
        if let Some(next) = self.held_by_order(&plan, now_ms) {
            return Ok(next);
        }
        let allowance = self.shared.reach.lock().allowance(Instant::now());
        if let Some(next) = self.held_by_distance(allowance, now_ms) {
            return Ok(next);
        }
        let page = plan.settings.job_query_batch_size;
        let mut slots: Vec<usize> =
            self.shared.workers.iter().map(|worker| worker.free_slots(&plan.settings, page)).collect();
        let is_probe = allowance == Allowance::Probe;
        let mut walk = Walk::new(pass_rules(&plan), self.pass_number, is_probe);
        self.pass_number = self.pass_number.wrapping_add(1);
        let walked = self.walk(&plan, &mut slots, &mut walk).await;
        self.shared.jobs.release(&walk.discarded);
        walked?;
        for (reason, jobs) in &walk.reasons {
            events::discarded(&plan.labels, *reason, *jobs);
        }
        self.drained_before = walk.drained > 0;
        Ok(self.next(&plan, &walk, &slots, now_ms))
    }

    fn sync_barrier(&mut self, plan: &Plan, now_ms: i64) {
        let mut barrier = self.shared.barrier.lock();
        barrier.sync();
        if self.last_sweep.elapsed() >= SWEEP {
            self.last_sweep = Instant::now();
            barrier.sweep(now_ms);
        }
        for illegal in barrier.take_illegal() {
            events::illegal_sequence(&plan.labels, illegal);
        }
        let disabled = barrier.take_newly_disabled();
        if disabled > 0 {
            events::order_disabled(&plan.labels, disabled);
        }
    }

    /// Pauses of the operator and destinations that nobody knows yet.
    fn held_by_order(&mut self, plan: &Plan, now_ms: i64) -> Option<Next> {
        let tick = plan.settings.read_sleep;
        let held = Next { news_after: None, progress: Progress::Ignored, at_most: tick };
        let pause = self.common.board.pause_of(&self.shared.id, now_ms);
        events::paused(&plan.meters, pause.is_some());
        if let Some(pause) = pause {
            if now_ms.saturating_sub(pause.since_ms) > OLD_PAUSE_MS
                && !std::mem::replace(&mut self.told_old_pause, true)
            {
                events::pause_is_old(&plan.labels);
            }
            self.show(Activity::Paused, now_ms, pause.until_ms);
            return Some(held);
        }
        self.told_old_pause = false;
        if plan.standing != Standing::Unknown {
            self.unknown_since = None;
            return None;
        }
        let since = *self.unknown_since.get_or_insert_with(Instant::now);
        (since.elapsed() < plan.settings.unknown_destination_grace).then_some(held)
    }

    /// A destination that cannot be reached.
    fn held_by_distance(&self, allowance: Allowance, now_ms: i64) -> Option<Next> {
        let now = Instant::now();
        let wait = match allowance {
            Allowance::Open => return None,
            Allowance::Probe => Duration::ZERO,
            Allowance::Closed(until) => until.saturating_duration_since(now),
            Allowance::Probing => Duration::from_secs(10),
        };
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.show(Activity::Unreachable, now_ms, Some(now_ms.saturating_add(wait_ms)));
        let closed = Next { news_after: None, progress: Progress::Any, at_most: wait };
        (allowance != Allowance::Probe).then_some(closed)
    }

    fn show(&self, activity: Activity, now_ms: i64, next_retry_ms: Option<i64>) {
        self.common.board.update(&self.shared.id, |state| {
            if state.destination_type.is_empty() {
                state.destination_type.clone_from(&self.kind);
            }
            state.enter(activity, now_ms, next_retry_ms);
        });
    }

    /// The rate limit of the destination as a whole, refusals included.
    pub(super) fn rate(&self, plan: &Plan) -> Rate {
        match plan.adaptive() {
            Some(params) => Rate { limit: self.adaptive.limit(&params), window: params.window },
            None => plan.rate,
        }
    }

    /// Moves an adaptive limit when its ticks are due.
    fn adapt(&mut self, plan: &Plan) {
        let Some(params) = plan.adaptive() else {
            return;
        };
        let mut seen = self.shared.seen.lock();
        if self.last_increase.elapsed() >= params.window * params.increase_windows {
            self.last_increase = Instant::now();
            self.adaptive.tick_increase(&params, std::mem::take(&mut seen.throttled_since_increase));
        }
        if self.last_decrease.elapsed() >= params.window {
            self.last_decrease = Instant::now();
            let (throttled, total) = (std::mem::take(&mut seen.throttled), std::mem::take(&mut seen.total));
            if self.adaptive.tick_decrease(&params, throttled, total) {
                self.last_decrease += params.window * params.decrease_wait_windows;
            }
        }
        drop(seen);
        events::rate_limit(&plan.labels, self.adaptive.limit(&params), true);
    }

    /// What the loop waits for after this pass.
    fn next(&mut self, plan: &Plan, walk: &Walk, slots: &[usize], now_ms: i64) -> Next {
        let settings = &plan.settings;
        self.waited = self.shared.waiting.load(Ordering::SeqCst);
        self.shared.refill_mark.store(self.waited / 2, Ordering::SeqCst);
        self.page = if walk.discarded.len() > walk.reserved {
            (walk.reserved * 2).clamp(SMALLEST_PAGE, LARGEST_PAGE)
        } else {
            (self.page * 2).min(LARGEST_PAGE)
        };
        self.fruitless = if walk.reserved > 0 { 0 } else { self.fruitless.saturating_add(1) };
        self.idle_passes =
            if walk.reserved == 0 && walk.discarded.is_empty() { self.idle_passes.saturating_add(1) } else { 0 };
        if walk.is_probe {
            // Either the probe is under way, or there is nothing to probe with before the queue has news.
            return Next {
                news_after: Some(REST_AFTER_DISCARD),
                progress: Progress::Any,
                at_most: settings.read_sleep,
            };
        }
        if walk.pass.has_ended() && walk.reasons.contains_key(&Discard::Throttled) {
            let wait = walk.pass.throttled_for().unwrap_or(THROTTLED_REST);
            let rest = THROTTLED_REST.min(self.rate(plan).window / 10);
            let at_most = wait.max(rest).min(settings.read_sleep);
            let at_most_ms = i64::try_from(at_most.as_millis()).unwrap_or(0);
            self.show(Activity::Throttled, now_ms, Some(now_ms.saturating_add(at_most_ms)));
            return Next { news_after: None, progress: Progress::Ignored, at_most };
        }
        self.show(Activity::Running, now_ms, None);
        let tick = settings.read_sleep.saturating_mul(self.idle_passes.max(1)).min(settings.max_read_sleep);
        if walk.discarded.is_empty() {
            let has_room = slots.iter().any(|free| *free > 0);
            let bytes_left = self.shared.held_bytes.load(Ordering::Relaxed) < self.byte_budget(plan);
            return match (walk.has_more, has_room && bytes_left) {
                (false, _) => Next { news_after: Some(Duration::ZERO), progress: Progress::Ignored, at_most: tick },
                (true, true) => Next { news_after: None, progress: Progress::Ignored, at_most: Duration::ZERO },
                (true, false) => Next { news_after: None, progress: Progress::Room, at_most: tick },
            };
        }
        let rest = REST_AFTER_DISCARD.saturating_mul(1 << self.fruitless.min(5)).min(LONGEST_REST);
        let by_barrier = walk.reasons.contains_key(&Discard::Barrier);
        let at_most = match walk.pass.throttled_for() {
            Some(wait) => wait.max(THROTTLED_REST).min(settings.read_sleep),
            None => settings.read_sleep,
        };
        // The next pass that may look further than one page comes when it may, not a tick later.
        let at_most = if walk.has_more {
            at_most.min(self.next_deep.saturating_duration_since(Instant::now()).max(rest))
        } else {
            at_most
        };
        Next { news_after: Some(rest), progress: if by_barrier { Progress::Any } else { Progress::Room }, at_most }
    }
}

fn pass_rules(plan: &Plan) -> PassRules {
    PassRules {
        guarantees_order: plan.settings.guarantee_user_order,
        throttling_ends_pass: !plan.settings.throttle_per_event_type,
    }
}

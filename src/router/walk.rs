//! The walk of one pass over the queue: page after page is leased and every job decided about (router.md 3.2).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::RouterError;
use super::drain::{self, Facts, Reason};
use super::error_response::Previous;
use super::outcome::{JobFacts, limit_of};
use super::partition::Partition;
use super::pickup::{Candidate, Decision, Discard, Pass, PassRules};
use super::plan::Plan;
use super::retry_limit::{self, LastAttempt};
use super::throttle::{adapted_query_size, cost};
use super::worker::{Held, Prepared, assign};
use crate::jobsdb::{Job, JobState, Lease, Limits, Queue};

/// Payload bytes that all destinations together may hold.
const HELD_BYTES: u64 = 256 << 20;
/// A destination may hold this much, however many there are.
const HELD_BYTES_EACH: u64 = 4 << 20;
/// Rest between two passes that look beyond jobs which cannot run, and the longest one when they find nothing.
pub(super) const DEEP_REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Looking deep takes at most one part in this many of a destination's time, and rests at most this long for it:
/// what a look costs must not grow with the backlog behind jobs that cannot run.
const DEEP_SHARE: u32 = 20;
const LONGEST_DEEP_REST: Duration = Duration::from_secs(5);
/// Least jobs of a query that follows one which gave most of its jobs back.
pub(super) const SMALLEST_PAGE: usize = 64;
/// Most jobs of one query, so that decisions never hold up the workers for long.
pub(super) const LARGEST_PAGE: usize = 1_000;

/// What one pass has met.
pub(super) struct Walk {
    pub(super) pass: Pass,
    pub(super) is_probe: bool,
    pub(super) reserved: usize,
    pub(super) drained: usize,
    pub(super) discarded: Vec<Lease>,
    pub(super) discarded_bytes: u64,
    pub(super) reasons: HashMap<Discard, u64>,
    pub(super) has_more: bool,
}

impl Walk {
    pub(super) fn new(rules: PassRules, first_worker: usize, is_probe: bool) -> Walk {
        Walk {
            pass: Pass::new(rules, first_worker),
            is_probe,
            reserved: 0,
            drained: 0,
            discarded: Vec::new(),
            discarded_bytes: 0,
            reasons: HashMap::new(),
            has_more: false,
        }
    }
}

impl Partition {
    /// Payload bytes that this destination may hold.
    pub(super) fn byte_budget(&self, plan: &Plan) -> u64 {
        let sharers = u64::try_from(self.common.partitions.load(Ordering::Relaxed).max(1)).unwrap_or(1);
        plan.settings.payload_limit.min((HELD_BYTES / sharers).max(HELD_BYTES_EACH))
    }

    /// Jobs that one query asks for.
    fn query_size(&self, plan: &Plan) -> usize {
        let settings = &plan.settings;
        let rate = self.rate(plan);
        if !rate.is_active() || self.drained_before {
            return settings.job_query_batch_size;
        }
        let adapted = adapted_query_size(
            &[rate.per_second()],
            settings.read_sleep,
            settings.job_query_batch_size,
            settings.max_job_query_batch_size,
        );
        let available = self.throttler.available("", rate, self.shared.elapsed_ns()).unwrap_or(u64::MAX);
        adapted.min(usize::try_from(available.saturating_add(1)).unwrap_or(usize::MAX))
    }

    /// Leases page after page and decides about every job.
    pub(super) async fn walk(
        &mut self,
        plan: &Arc<Plan>,
        slots: &mut [usize],
        walk: &mut Walk,
    ) -> Result<(), RouterError> {
        let budget = self.byte_budget(plan);
        let mut size = self.query_size(plan).min(self.page);
        // Where one user's jobs fill page after page, looking behind them is worth it only now and then.
        let is_deep = Instant::now() >= self.next_deep;
        let queries = if is_deep { plan.settings.max_queries } else { 1 };
        let mut reserved_at_first = 0;
        let mut deep_began = Instant::now();
        for query in 0..queries {
            let free: usize = if walk.is_probe { usize::from(walk.reserved == 0) } else { slots.iter().sum() };
            let held = self.shared.held_bytes.load(Ordering::Relaxed).saturating_add(walk.discarded_bytes);
            if free == 0 || held >= budget || walk.pass.has_ended() || self.shared.is_stopping() {
                walk.has_more |= query == 0;
                return Ok(());
            }
            // The first query asks for what there is room for. Later ones look behind jobs that cannot run, which
            // are often those of one busy user, and give back what there is no room for.
            let jobs = if query == 0 { size.min(free).max(1) } else { size };
            let limits = Limits { jobs, events: 0, bytes: budget - held };
            let fetched = self.common.jobs.fetch_async(Queue::Rt, &self.select, limits).await;
            let page = fetched.map_err(|source| RouterError::Store { destination: self.shared.id.clone(), source })?;
            let fetched = page.jobs.len();
            walk.has_more = page.limits_reached;
            let discarded_before = walk.discarded.len();
            self.decide_page(plan, page.jobs, slots, walk);
            let discarded = walk.discarded.len() - discarded_before;
            if query == 0 {
                reserved_at_first = walk.reserved;
                deep_began = Instant::now();
            } else {
                let found = walk.reserved > reserved_at_first;
                self.deep_rest = if found { DEEP_REST.0 } else { (self.deep_rest * 2).min(DEEP_REST.1) };
                let spent = deep_began.elapsed();
                self.next_deep = Instant::now() + self.deep_rest.max((spent * DEEP_SHARE).min(LONGEST_DEEP_REST));
            }
            let tolerated = fetched.saturating_mul(plan.settings.discarded_tolerance_percent) / 100;
            if !page.limits_reached || discarded <= tolerated {
                return Ok(());
            }
            size = discarded.saturating_mul(2).clamp(SMALLEST_PAGE, LARGEST_PAGE);
        }
        Ok(())
    }

    fn decide_page(&mut self, plan: &Arc<Plan>, jobs: Vec<Job>, slots: &mut [usize], walk: &mut Walk) {
        let now_ms = self.common.clock.now_ms();
        let now_ns = self.shared.elapsed_ns();
        let rate = self.rate(plan);
        let costs_count = match plan.settings.adaptive {
            Some(adaptive) => !adaptive.ignore_costs,
            None => !plan.settings.ignore_throttling_costs,
        };
        // Everything that takes time is worked out before the barrier is locked.
        let prepare = |job: Job| {
            let facts = JobFacts::read(&job.parameters);
            let aborts = self.reason_to_abort(plan, &job, &facts, now_ms);
            let partition = &job.partition;
            let order_key = format!("{}:{}:{}", partition.workspace_id, partition.destination_id, job.user_id);
            Prepared { job, facts, order_key, aborts }
        };
        let prepared: Vec<Prepared> = jobs.into_iter().map(prepare).collect();
        let mut starting: Vec<(usize, bool, Prepared)> = Vec::with_capacity(prepared.len());
        {
            let mut barrier = self.shared.barrier.lock();
            for prepared in prepared {
                let (job, facts, aborts) = (&prepared.job, &prepared.facts, prepared.aborts);
                let partition = &job.partition;
                let order_key = prepared.order_key.as_str();
                let failed = job.last.as_ref().filter(|last| last.state == JobState::Failed && last.status.attempt > 0);
                let order_is_off = plan.order_is_off(&partition.workspace_id);
                if order_is_off {
                    barrier.disable(order_key, now_ms);
                } else if job.last.is_none() {
                    barrier.offered(order_key, job.id);
                }
                let candidate = Candidate {
                    id: job.id,
                    order_key,
                    backoff_until_ms: failed.map(|last| last.status.retry_ms),
                    aborts: aborts.is_some(),
                    order_is_off,
                };
                let per_type = plan.settings.throttle_per_event_type;
                let throttler = &mut self.throttler;
                let mut take_rate = || {
                    let (name, rate) = if per_type {
                        (facts.event_type.as_str(), plan.rate_of(&facts.event_type))
                    } else {
                        ("", rate)
                    };
                    let price = match &plan.destination {
                        Some(destination) if rate.is_active() => {
                            let ignores = per_type || !costs_count;
                            cost(&destination.definition.config, &facts.event_type, job.event_count, ignores)
                        }
                        _ => 1,
                    };
                    throttler.take(name, rate, price, now_ns)
                };
                let decision = if walk.is_probe && walk.reserved > 0 {
                    Decision::Discard(Discard::NoSlot)
                } else {
                    walk.pass.decide(&candidate, slots, &mut barrier, &mut take_rate, now_ms)
                };
                match decision {
                    Decision::Reserve { worker, ordered } => {
                        walk.reserved += 1;
                        walk.drained += usize::from(aborts.is_some());
                        starting.push((worker, ordered, prepared));
                    }
                    Decision::Discard(reason) => {
                        walk.discarded_bytes += u64::try_from(job.payload.len()).unwrap_or(u64::MAX);
                        walk.discarded.push(job.lease);
                        *walk.reasons.entry(reason).or_default() += 1;
                    }
                }
            }
        }
        for (worker, ordered, prepared) in starting {
            let held = Held::new(&self.shared, prepared, ordered, walk.is_probe);
            if held.is_probe {
                self.shared.reach.lock().probe_started();
            }
            assign(&self.shared, worker, held);
        }
    }

    /// Why the job is to be given up, if it is.
    fn reason_to_abort(&self, plan: &Plan, job: &Job, facts: &JobFacts, now_ms: i64) -> Option<Reason> {
        let settings = &plan.settings;
        let age_ms = now_ms.saturating_sub(job.created_us.div_euclid(1_000));
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        let run = facts.job_run_id.as_str();
        let drained = drain::reason(&Facts {
            age: self.common.ages_count.load(Ordering::Relaxed).then_some(age),
            retention: settings.job_retention,
            standing: plan.standing,
            to_abort: settings.to_abort_destinations.iter().any(|listed| *listed == self.shared.id),
            run_cancelled: !run.is_empty()
                && (settings.cancelled_job_runs.iter().any(|listed| listed == run)
                    || self.common.jobs.cancelled_runs().contains(run)),
        });
        if drained.is_some() {
            return drained;
        }
        let last = job.last.as_ref().filter(|last| last.state == JobState::Failed)?;
        if !retry_limit::counts(&last.status.error_code) {
            return None;
        }
        let previous = Previous::read(&last.status.error_response);
        let attempt = LastAttempt {
            error_code: &last.status.error_code,
            attempt: last.status.attempt,
            first_attempted_ms: previous.first_attempted_ms(),
            unreachable: previous.was_unreachable(),
        };
        let reached = retry_limit::is_reached(&attempt, limit_of(settings, run), now_ms, settings.unreachable_counts);
        reached.then_some(Reason::RetryLimit)
    }
}

//! The decisions of one pick-up pass, job by job in job id order (router.md 3.3), and the worker's last question
//! before an attempt (4.3). Pure: the running router and the simulations of the tests use the same functions.

use std::collections::HashSet;
use std::time::Duration;

use super::barrier::{Barrier, hash_of};
use super::worker_index;

/// A job as the pass sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its id.
    pub id: u64,
    /// `workspace:destination:user`.
    pub order_key: &'a str,
    /// The end of its back-off, milliseconds since the epoch, when its last state is `failed`.
    pub backoff_until_ms: Option<i64>,
    /// It is to be given up: drained, or over the retry limit.
    pub aborts: bool,
    /// Order is off for it by settings.
    pub order_is_off: bool,
}

/// Why a job is not started in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discard {
    /// An earlier job of its key was not started either.
    Blocked,
    /// Its worker has no room.
    NoSlot,
    /// It waits for its retry.
    Backoff,
    /// A rate limit.
    Throttled,
    /// The barrier.
    Barrier,
}

impl Discard {
    /// The value of the metric label.
    pub fn reason(self) -> &'static str {
        match self {
            Discard::Blocked => "blocked",
            Discard::NoSlot => "no slot",
            Discard::Backoff => "backoff",
            Discard::Throttled => "throttled",
            Discard::Barrier => "barrier",
        }
    }
}

/// What becomes of a job in this pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes to this worker.
    Reserve {
        /// The worker's index.
        worker: usize,
        /// The barrier knows it and must be told how it ends.
        ordered: bool,
    },
    /// It stays in the queue.
    Discard(Discard),
}

/// The rules that hold for a whole pass.
#[derive(Clone, Copy, Debug)]
pub struct PassRules {
    /// Events of a user are delivered in order.
    pub guarantees_order: bool,
    /// A refusal of the rate limit ends the pass, because every other job would be refused too.
    pub throttling_ends_pass: bool,
}

/// One pass: what it has met so far.
#[derive(Debug)]
pub struct Pass {
    rules: PassRules,
    blocked: HashSet<u64>,
    ended: Option<Discard>,
    next_worker: usize,
    throttled_for: Option<Duration>,
}

impl Pass {
    /// A pass that gives jobs without order to workers from `first_worker` on.
    pub fn new(rules: PassRules, first_worker: usize) -> Pass {
        Pass { rules, blocked: HashSet::new(), ended: None, next_worker: first_worker, throttled_for: None }
    }

    /// Decides about the next job. `slots` are the free slots of the workers; `take_rate` asks the rate limit.
    pub fn decide(
        &mut self,
        job: &Candidate<'_>,
        slots: &mut [usize],
        barrier: &mut Barrier,
        take_rate: &mut dyn FnMut() -> Result<(), Duration>,
        now_ms: i64,
    ) -> Decision {
        if let Some(reason) = self.ended {
            return Decision::Discard(reason);
        }
        let is_ordered =
            self.rules.guarantees_order && !job.order_is_off && !barrier.is_disabled(job.order_key, now_ms);
        if is_ordered {
            self.decide_in_order(job, slots, barrier, take_rate, now_ms)
        } else {
            self.decide_without_order(job, slots, take_rate, now_ms)
        }
    }

    /// How long the rate limit asked to wait, if it refused a job.
    pub fn throttled_for(&self) -> Option<Duration> {
        self.throttled_for
    }

    /// Whether no further job can be started in this pass.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    fn decide_without_order(
        &mut self,
        job: &Candidate<'_>,
        slots: &mut [usize],
        take_rate: &mut dyn FnMut() -> Result<(), Duration>,
        now_ms: i64,
    ) -> Decision {
        let workers = slots.len().max(1);
        let found = (0..slots.len())
            .map(|step| (self.next_worker + step) % workers)
            .find(|worker| slots.get(*worker).is_some_and(|free| *free > 0));
        let Some(worker) = found else {
            if !self.rules.guarantees_order {
                self.ended = Some(Discard::NoSlot);
            }
            return Decision::Discard(Discard::NoSlot);
        };
        if !job.aborts {
            if backs_off(job, now_ms) {
                return Decision::Discard(Discard::Backoff);
            }
            if let Err(wait) = take_rate() {
                return self.throttled(wait);
            }
        }
        self.next_worker = worker + 1;
        take_slot(slots, worker);
        Decision::Reserve { worker, ordered: false }
    }

    fn decide_in_order(
        &mut self,
        job: &Candidate<'_>,
        slots: &mut [usize],
        barrier: &mut Barrier,
        take_rate: &mut dyn FnMut() -> Result<(), Duration>,
        now_ms: i64,
    ) -> Decision {
        if self.blocked.contains(&hash_of(job.order_key)) {
            return Decision::Discard(Discard::Blocked);
        }
        if !job.aborts && backs_off(job, now_ms) {
            return self.block(job, Discard::Backoff);
        }
        let worker = worker_index::of(job.order_key, slots.len());
        // A key that fills its share of the barrier waits as if its worker were full: order is worth more than pace.
        if slots.get(worker).is_none_or(|free| *free == 0) || barrier.is_full(job.order_key) {
            return self.block(job, Discard::NoSlot);
        }
        if !barrier.enter(job.order_key, job.id, now_ms).accepted {
            return self.block(job, Discard::Barrier);
        }
        if !job.aborts
            && let Err(wait) = take_rate()
        {
            self.blocked.insert(hash_of(job.order_key));
            barrier.leave(job.order_key, job.id);
            return self.throttled(wait);
        }
        take_slot(slots, worker);
        Decision::Reserve { worker, ordered: true }
    }

    fn block(&mut self, job: &Candidate<'_>, reason: Discard) -> Decision {
        self.blocked.insert(hash_of(job.order_key));
        Decision::Discard(reason)
    }

    fn throttled(&mut self, wait: Duration) -> Decision {
        self.throttled_for = Some(self.throttled_for.map_or(wait, |known| known.min(wait)));
        if self.rules.throttling_ends_pass {
            self.ended = Some(Discard::Throttled);
        }
        Decision::Discard(Discard::Throttled)
    }
}

fn backs_off(job: &Candidate<'_>, now_ms: i64) -> bool {
    job.backoff_until_ms.is_some_and(|until| until > now_ms)
}

fn take_slot(slots: &mut [usize], worker: usize) {
    if let Some(free) = slots.get_mut(worker) {
        *free = free.saturating_sub(1);
    }
}

/// What a worker does with the job in its hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ends it as aborted, without an attempt.
    GiveUp,
    /// Gives it back: an earlier job of its key failed meanwhile.
    Wait,
    /// Attempts it.
    Attempt,
}

/// The worker's question just before it would process the job.
pub fn next_step(barrier: &mut Barrier, order_key: &str, job: u64, ordered: bool, aborts: bool) -> Step {
    if aborts {
        return Step::GiveUp;
    }
    if ordered && barrier.must_wait(order_key, job).0 {
        return Step::Wait;
    }
    Step::Attempt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::barrier::Params;

    fn barrier() -> Barrier {
        Barrier::new(Params {
            key_threshold: 3,
            disabled: Duration::from_secs(1_200),
            half_enabled: Duration::from_secs(600),
            drain_limit: 1,
        })
    }

    fn job(id: u64, order_key: &str) -> Candidate<'_> {
        Candidate { id, order_key, backoff_until_ms: None, aborts: false, order_is_off: false }
    }

    fn pass(guarantees_order: bool) -> Pass {
        Pass::new(PassRules { guarantees_order, throttling_ends_pass: true }, 0)
    }

    #[test]
    fn a_job_that_stays_keeps_later_ones_of_its_key() {
        let (mut pass, mut barrier, mut slots) = (pass(true), barrier(), [9; 4]);
        let mut free = || Ok(());
        let late = Candidate { backoff_until_ms: Some(11), ..job(1, "a") };
        assert_eq!(pass.decide(&late, &mut slots, &mut barrier, &mut free, 10), Decision::Discard(Discard::Backoff));
        assert_eq!(
            pass.decide(&job(2, "a"), &mut slots, &mut barrier, &mut free, 10),
            Decision::Discard(Discard::Blocked)
        );
        assert!(matches!(
            pass.decide(&job(3, "b"), &mut slots, &mut barrier, &mut free, 10),
            Decision::Reserve { ordered: true, .. }
        ));
    }

    #[test]
    fn an_aborting_job_skips_back_off_and_throttling_but_not_the_barrier() {
        let (mut pass, mut barrier, mut slots) = (pass(true), barrier(), [9; 4]);
        let mut refuse = || Err(Duration::from_secs(1));
        let drained = Candidate { aborts: true, backoff_until_ms: Some(99), ..job(1, "a") };
        assert!(matches!(pass.decide(&drained, &mut slots, &mut barrier, &mut refuse, 0), Decision::Reserve { .. }));
        barrier.failed("b", 5, 0);
        let behind = Candidate { aborts: true, ..job(6, "b") };
        assert_eq!(pass.decide(&behind, &mut slots, &mut barrier, &mut refuse, 0), Decision::Discard(Discard::Barrier));
    }

    #[test]
    fn a_refusal_of_the_rate_limit_ends_the_pass_and_undoes_the_entry() {
        let (mut pass, mut barrier, mut slots) = (pass(true), barrier(), [9; 1]);
        let mut refuse = || Err(Duration::from_millis(30));
        assert_eq!(
            pass.decide(&job(1, "a"), &mut slots, &mut barrier, &mut refuse, 0),
            Decision::Discard(Discard::Throttled)
        );
        assert_eq!((barrier.size(), slots, pass.throttled_for()), (0, [9], Some(Duration::from_millis(30))));
        assert!(pass.has_ended());
        let mut free = || Ok(());
        assert_eq!(
            pass.decide(&job(2, "b"), &mut slots, &mut barrier, &mut free, 0),
            Decision::Discard(Discard::Throttled)
        );
    }

    #[test]
    fn a_busy_user_waits_for_room_and_never_loses_order() {
        let (mut pass, mut barrier, mut slots) = (pass(true), barrier(), [99; 1]);
        let mut free = || Ok(());
        for id in 1..=3 {
            assert!(matches!(
                pass.decide(&job(id, "a"), &mut slots, &mut barrier, &mut free, 0),
                Decision::Reserve { .. }
            ));
        }
        assert_eq!(
            pass.decide(&job(4, "a"), &mut slots, &mut barrier, &mut free, 0),
            Decision::Discard(Discard::NoSlot)
        );
        assert!(!barrier.is_disabled("a", 0));
    }

    #[test]
    fn without_order_jobs_go_to_any_free_worker() {
        let (mut pass, mut barrier, mut slots) = (pass(false), barrier(), [1, 0, 1]);
        let mut free = || Ok(());
        let mut workers = Vec::new();
        for id in 1..=3 {
            workers.push(pass.decide(&job(id, "a"), &mut slots, &mut barrier, &mut free, 0));
        }
        assert_eq!(
            workers,
            [
                Decision::Reserve { worker: 0, ordered: false },
                Decision::Reserve { worker: 2, ordered: false },
                Decision::Discard(Discard::NoSlot)
            ]
        );
        assert!(pass.has_ended());
    }

    #[test]
    fn a_worker_asks_again_before_it_attempts() {
        let mut barrier = barrier();
        barrier.failed("a", 1, 0);
        assert_eq!(next_step(&mut barrier, "a", 2, true, false), Step::Wait);
        assert_eq!(next_step(&mut barrier, "a", 1, true, false), Step::Attempt);
        assert_eq!(next_step(&mut barrier, "a", 2, false, false), Step::Attempt);
        assert_eq!(next_step(&mut barrier, "a", 2, true, true), Step::GiveUp);
    }
}

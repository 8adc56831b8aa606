//! The order barrier: while a job of a key is `failed`, no later job of the key is attempted (router.md 4).
//!
//! In: what pick-up wants to start ([`Barrier::enter`]), what a worker is about to do ([`Barrier::must_wait`]) and
//! how jobs ended. Out: accepted or refused. Failures take effect at once; every other end is queued and takes
//! effect at the next [`Barrier::sync`], which pick-up calls before it looks at jobs. A plain state machine: no
//! clock of its own, no lock, no I/O.

use std::collections::{HashMap, hash_map};
use std::time::Duration;

/// Keys that nothing happens to are forgotten after this time at the least.
const FORGET_AFTER: Duration = Duration::from_secs(3_600);
/// Passes that meet later jobs of a key and not the one that was given back, until that one counts as gone.
const GONE_AFTER: u32 = 16;

/// The bounds of the barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Jobs of one key in flight before its ordering is turned off; 0 = no bound.
    pub key_threshold: usize,
    /// How long ordering stays off.
    pub disabled: Duration,
    /// How long it is watched afterwards.
    pub half_enabled: Duration,
    /// Jobs of a key in flight after a failed job was given up, until one gets through; 0 = no bound.
    pub drain_limit: usize,
}

/// The answer of [`Barrier::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether the job may start.
    pub accepted: bool,
    /// The failed job that the key waits for.
    pub failed_job: Option<u64>,
}

/// How a job ended, other than by failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Succeeded or filtered.
    Handled,
    /// Given up.
    Aborted,
    /// Not attempted, behind a failed job.
    Waiting,
}

/// Where a job met a later one that had failed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Illegal {
    /// At pick-up.
    Enter,
    /// Before the attempt.
    Wait,
    /// When it failed.
    JobFailed,
}

impl Illegal {
    /// The value of the metric label.
    pub fn location(self) -> &'static str {
        match self {
            Illegal::Enter => "enter",
            Illegal::Wait => "wait",
            Illegal::JobFailed => "job_failed",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ordering {
    Enabled,
    Disabled,
    HalfEnabled,
}

/// What stands for an order key: two users that ever share it only wait for each other.
pub(super) fn hash_of(key: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes())
}

/// Ids of jobs, ascending. Most keys have one or two, which come in order.
#[derive(Debug, Default)]
struct Jobs(Vec<u64>);

impl Jobs {
    fn contains(&self, job: u64) -> bool {
        self.0.binary_search(&job).is_ok()
    }

    fn insert(&mut self, job: u64) {
        if let Err(at) = self.0.binary_search(&job) {
            self.0.insert(at, job);
        }
    }

    fn remove(&mut self, job: u64) {
        if let Ok(at) = self.0.binary_search(&job) {
            self.0.remove(at);
        }
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The job that a key waits for.
#[derive(Clone, Copy, Debug)]
struct FailedJob {
    id: u64,
    /// The store knows of the failure, so it keeps later jobs of the key to itself until this one has ended.
    stored: bool,
    /// It is let in again, and will say how it ended.
    inside: bool,
}

/// The earliest job of a key that went back to the queue unattempted, while later ones may be in a worker's hands.
#[derive(Clone, Copy, Debug)]
struct GivenBack {
    id: u64,
    /// Passes that met a later job of the key instead of this one.
    missed: u32,
}

/// Disabled states know no failed job: they begin without, and failures do not reach them.
#[derive(Debug)]
struct KeyState {
    ordering: Ordering,
    since_ms: i64,
    /// When a job of the key last asked to start or failed.
    used_ms: i64,
    failed_job: Option<FailedJob>,
    given_back: Option<GivenBack>,
    concurrency: Option<Jobs>,
    drain: Option<Jobs>,
}

impl KeyState {
    fn new(ordering: Ordering, since_ms: i64, counts: bool) -> KeyState {
        KeyState {
            ordering,
            since_ms,
            used_ms: since_ms,
            failed_job: None,
            given_back: None,
            concurrency: counts.then(Jobs::default),
            drain: None,
        }
    }

    fn leave(&mut self, job: u64) {
        if let Some(failed) = self.failed_job.as_mut().filter(|failed| failed.id == job) {
            failed.inside = false;
        }
        if let Some(concurrency) = &mut self.concurrency {
            concurrency.remove(job);
        }
        if let Some(drain) = &mut self.drain {
            drain.remove(job);
        }
    }

    fn is_inactive(&self) -> bool {
        self.ordering == Ordering::Enabled
            && self.failed_job.is_none()
            && self.given_back.is_none()
            && self.concurrency.as_ref().is_none_or(Jobs::is_empty)
            && self.drain.is_none()
    }

    /// Whether nothing of the key is under way or waited for; a state without order or a limit may remain.
    fn is_idle(&self) -> bool {
        let is_empty = |jobs: &Option<Jobs>| jobs.as_ref().is_none_or(Jobs::is_empty);
        self.failed_job.is_none() && self.given_back.is_none() && is_empty(&self.concurrency) && is_empty(&self.drain)
    }

    /// Whether the job comes before what was given back, or that is gone, and no later job is in anybody's hands.
    fn may_follow_what_was_given_back(&mut self, job: u64) -> bool {
        let Some(given_back) = &mut self.given_back else {
            return true;
        };
        if job > given_back.id {
            given_back.missed += 1;
            if given_back.missed < GONE_AFTER {
                return false;
            }
        } else if self.concurrency.as_ref().is_some_and(|jobs| jobs.0.last().is_some_and(|last| *last > job)) {
            return false;
        }
        self.given_back = None;
        true
    }

    /// One step along disabled, half-enabled, enabled when its time is over.
    fn age(&mut self, params: &Params, now_ms: i64) {
        let spent = Duration::from_millis(u64::try_from(now_ms.saturating_sub(self.since_ms)).unwrap_or(0));
        let next = match self.ordering {
            Ordering::Disabled if spent > params.disabled => Ordering::HalfEnabled,
            Ordering::HalfEnabled if spent > params.half_enabled => Ordering::Enabled,
            _ => return,
        };
        self.ordering = next;
        self.since_ms = now_ms;
    }
}

/// What takes effect at the next [`Barrier::sync`].
#[derive(Clone, Copy, Debug)]
enum Queued {
    Ended(Ended),
    FailureStored,
}

/// The barrier of one partition.
#[derive(Debug)]
pub struct Barrier {
    params: Params,
    keys: HashMap<u64, KeyState>,
    queued: Vec<(u64, u64, Queued)>,
    illegal: Vec<Illegal>,
    newly_disabled: u64,
}

impl Barrier {
    /// A barrier without any key.
    pub fn new(params: Params) -> Barrier {
        Barrier { params, keys: HashMap::new(), queued: Vec::new(), illegal: Vec::new(), newly_disabled: 0 }
    }

    /// Changes the bounds.
    pub fn set_params(&mut self, params: Params) {
        self.params = params;
    }

    /// Turns the ordering of a known key off, because the operator listed its workspace or destination.
    pub fn disable(&mut self, key: &str, now_ms: i64) {
        if let Some(state) = self.keys.get_mut(&hash_of(key)) {
            *state = KeyState::new(Ordering::Disabled, now_ms, true);
        }
    }

    /// Takes note that the store offered a job of the key that was never attempted.
    ///
    /// The store hides such jobs behind an earlier failed one that it knows of. So if the key waits for one whose
    /// failure is stored and which nobody holds, that job has ended elsewhere (too old, put aside as unreadable):
    /// it counts as given up. Sound only for jobs that were fetched after the last [`Barrier::sync`].
    pub fn offered(&mut self, key: &str, job: u64) {
        let drain_limit = self.params.drain_limit;
        let Some(state) = self.keys.get_mut(&hash_of(key)) else {
            return;
        };
        if state.failed_job.is_some_and(|failed| failed.stored && !failed.inside && failed.id < job) {
            state.failed_job = None;
            state.drain = (drain_limit > 0).then(Jobs::default);
        }
    }

    /// Asks whether the job may start (4.2).
    pub fn enter(&mut self, key: &str, job: u64, now_ms: i64) -> Entry {
        let params = self.params;
        let key = hash_of(key);
        let state = match self.keys.entry(key) {
            hash_map::Entry::Occupied(known) => known.into_mut(),
            hash_map::Entry::Vacant(_) if params.key_threshold == 0 => {
                return Entry { accepted: true, failed_job: None };
            }
            hash_map::Entry::Vacant(vacant) => vacant.insert(KeyState::new(Ordering::Enabled, now_ms, true)),
        };
        state.age(&params, now_ms);
        state.used_ms = now_ms;
        if state.ordering == Ordering::Disabled {
            return Entry { accepted: true, failed_job: None };
        }
        if !state.may_follow_what_was_given_back(job) {
            return Entry { accepted: false, failed_job: state.failed_job.map(|failed| failed.id) };
        }
        let too_many = params.key_threshold > 0
            && state.concurrency.as_ref().is_some_and(|jobs| !jobs.contains(job) && jobs.len() >= params.key_threshold);
        if too_many {
            *state = KeyState::new(Ordering::Disabled, now_ms, true);
            self.newly_disabled += 1;
            return Entry { accepted: true, failed_job: None };
        }
        if params.drain_limit > 0
            && state.drain.as_ref().is_some_and(|jobs| !jobs.contains(job) && jobs.len() >= params.drain_limit)
        {
            return Entry { accepted: false, failed_job: None };
        }
        let failed_job = state.failed_job.map(|failed| failed.id);
        if let Some(failed) = &mut state.failed_job {
            if failed.id > job && state.ordering == Ordering::Enabled {
                self.illegal.push(Illegal::Enter);
            }
            if failed.id != job {
                return Entry { accepted: false, failed_job };
            }
            failed.inside = true;
        }
        if let Some(concurrency) = &mut state.concurrency {
            concurrency.insert(job);
        }
        if let Some(drain) = &mut state.drain {
            drain.insert(job);
        }
        Entry { accepted: true, failed_job }
    }

    /// Undoes [`Barrier::enter`]. May be called twice.
    pub fn leave(&mut self, key: &str, job: u64) {
        let key = hash_of(key);
        if let Some(state) = self.keys.get_mut(&key) {
            state.leave(job);
            self.remove_if_inactive(key);
        }
    }

    /// Whether the job, about to be attempted, must wait instead, and for which job (4.3).
    pub fn must_wait(&mut self, key: &str, job: u64) -> (bool, Option<u64>) {
        let Some(state) = self.keys.get(&hash_of(key)) else {
            return (false, None);
        };
        let Some(FailedJob { id: failed, .. }) = state.failed_job else {
            return (state.given_back.is_some_and(|given_back| given_back.id < job), None);
        };
        if failed > job && state.ordering == Ordering::Enabled {
            self.illegal.push(Illegal::Wait);
        }
        (failed != job, Some(failed))
    }

    /// Says that a worker gives the job back although nothing of its key failed: the destination cannot be reached.
    /// Takes effect at once: until pick-up lets the job in again, later ones in the hands of workers go back too, or
    /// they would overtake it as soon as the destination answers.
    pub fn given_back(&mut self, key: &str, job: u64) {
        if let Some(state) = self.keys.get_mut(&hash_of(key)).filter(|state| state.ordering != Ordering::Disabled) {
            let id = state.given_back.map_or(job, |known| known.id.min(job));
            state.given_back = Some(GivenBack { id, missed: 0 });
        }
    }

    /// Says that the job failed and will be retried. Takes effect at once, before the status is stored.
    pub fn failed(&mut self, key: &str, job: u64, now_ms: i64) {
        let state = self.keys.entry(hash_of(key)).or_insert_with(|| KeyState::new(Ordering::Enabled, now_ms, false));
        if state.ordering == Ordering::Disabled {
            return;
        }
        state.used_ms = now_ms;
        state.leave(job);
        match state.failed_job {
            None => state.failed_job = Some(FailedJob { id: job, stored: false, inside: false }),
            Some(failed) if failed.id > job && state.ordering == Ordering::Enabled => {
                self.illegal.push(Illegal::JobFailed);
            }
            Some(_) => {}
        }
        state.drain = None;
    }

    /// Says how the job ended, after that is stored. Takes effect at the next [`Barrier::sync`].
    pub fn ended(&mut self, key: &str, job: u64, ended: Ended) {
        self.queue(key, job, Queued::Ended(ended));
    }

    /// Says that the failure of the job is stored. Takes effect at the next [`Barrier::sync`].
    pub fn failure_stored(&mut self, key: &str, job: u64) {
        self.queue(key, job, Queued::FailureStored);
    }

    fn queue(&mut self, key: &str, job: u64, what: Queued) {
        let key = hash_of(key);
        if self.keys.contains_key(&key) {
            self.queued.push((key, job, what));
        }
    }

    /// Applies what was queued; how many ends that were.
    pub fn sync(&mut self) -> usize {
        let queued = std::mem::take(&mut self.queued);
        let mut applied = 0;
        for (key, job, what) in queued {
            match what {
                Queued::Ended(ended) => {
                    self.apply(key, job, ended);
                    applied += 1;
                }
                Queued::FailureStored => {
                    let failed = self.keys.get_mut(&key).and_then(|state| state.failed_job.as_mut());
                    if let Some(failed) = failed.filter(|failed| failed.id == job) {
                        failed.stored = true;
                    }
                }
            }
        }
        applied
    }

    fn apply(&mut self, key: u64, job: u64, ended: Ended) {
        let drain_limit = self.params.drain_limit;
        let Some(state) = self.keys.get_mut(&key) else {
            return;
        };
        if ended == Ended::Waiting {
            state.leave(job);
            self.remove_if_inactive(key);
            return;
        }
        if state.ordering == Ordering::Disabled {
            return;
        }
        state.leave(job);
        if state.failed_job.is_some_and(|failed| failed.id != job) {
            return;
        }
        let had_failed = state.failed_job.take().is_some();
        state.drain = None;
        if ended == Ended::Aborted && had_failed && drain_limit > 0 {
            state.drain = Some(Jobs::default());
        }
        self.remove_if_inactive(key);
    }

    /// Forgets keys that nothing waits for and that were not used for an hour, or as long as an order that is off
    /// takes to come back: users who never return must not take memory for ever.
    pub fn sweep(&mut self, now_ms: i64) {
        let longest = FORGET_AFTER.max(self.params.disabled.saturating_add(self.params.half_enabled));
        let longest_ms = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX);
        self.keys.retain(|_, state| !state.is_idle() || now_ms.saturating_sub(state.used_ms) <= longest_ms);
    }

    /// Whether ordering is off for the key now.
    pub fn is_disabled(&mut self, key: &str, now_ms: i64) -> bool {
        let params = self.params;
        self.keys.get_mut(&hash_of(key)).is_some_and(|state| {
            state.age(&params, now_ms);
            state.ordering == Ordering::Disabled
        })
    }

    /// Whether one more job of the key would turn its ordering off.
    pub fn is_full(&self, key: &str) -> bool {
        let threshold = self.params.key_threshold;
        threshold > 0
            && self
                .keys
                .get(&hash_of(key))
                .and_then(|state| state.concurrency.as_ref())
                .is_some_and(|jobs| jobs.len() >= threshold)
    }

    /// Keys that are remembered.
    pub fn size(&self) -> usize {
        self.keys.len()
    }

    /// Whether something waits for the next [`Barrier::sync`].
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Illegal sequences met since the last call (4.6).
    pub fn take_illegal(&mut self) -> Vec<Illegal> {
        std::mem::take(&mut self.illegal)
    }

    /// Keys whose ordering was turned off since the last call.
    pub fn take_newly_disabled(&mut self) -> u64 {
        std::mem::take(&mut self.newly_disabled)
    }

    fn remove_if_inactive(&mut self, key: u64) {
        if self.keys.get(&key).is_some_and(KeyState::is_inactive) {
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: Params = Params {
        key_threshold: 3,
        disabled: Duration::from_secs(1_200),
        half_enabled: Duration::from_secs(600),
        drain_limit: 1,
    };

    fn accepted(barrier: &mut Barrier, job: u64) -> bool {
        barrier.enter("k", job, 0).accepted
    }

    #[test]
    fn a_failed_job_holds_back_later_ones_until_its_success_is_synced() {
        let mut barrier = Barrier::new(PARAMS);
        assert!(accepted(&mut barrier, 1) && accepted(&mut barrier, 2));
        barrier.failed("k", 1, 0);
        assert_eq!(barrier.must_wait("k", 2), (true, Some(1)));
        barrier.ended("k", 2, Ended::Waiting);
        assert_eq!(barrier.sync(), 1);
        assert!(!accepted(&mut barrier, 2));
        assert!(accepted(&mut barrier, 1));
        barrier.ended("k", 1, Ended::Handled);
        assert!(!accepted(&mut barrier, 2));
        barrier.sync();
        assert!(accepted(&mut barrier, 2));
    }

    #[test]
    fn a_job_that_is_given_back_is_never_overtaken_by_later_ones_in_hand() {
        let mut barrier = Barrier::new(PARAMS);
        for job in 1..=3 {
            assert!(accepted(&mut barrier, job));
        }
        barrier.given_back("k", 1);
        barrier.ended("k", 1, Ended::Waiting);
        barrier.sync();
        assert!(barrier.must_wait("k", 2).0 && barrier.must_wait("k", 3).0 && !barrier.must_wait("k", 1).0);
        assert!(!accepted(&mut barrier, 1), "later ones are in hand");
        for job in [2, 3] {
            barrier.ended("k", job, Ended::Waiting);
        }
        barrier.sync();
        assert!(!accepted(&mut barrier, 2));
        assert!(accepted(&mut barrier, 1) && accepted(&mut barrier, 2) && !barrier.must_wait("k", 2).0);
        for job in [1, 2] {
            barrier.given_back("k", job);
            barrier.ended("k", job, Ended::Waiting);
        }
        barrier.sync();
        let refused = (1..GONE_AFTER).filter(|_| !accepted(&mut barrier, 2)).count();
        assert_eq!(refused + 1, GONE_AFTER as usize);
        assert!(accepted(&mut barrier, 2), "what never comes back keeps nobody");
    }

    #[test]
    fn after_a_failed_job_is_given_up_one_goes_at_a_time_until_one_gets_through() {
        let mut barrier = Barrier::new(PARAMS);
        barrier.failed("k", 1, 0);
        assert!(accepted(&mut barrier, 1));
        barrier.ended("k", 1, Ended::Aborted);
        barrier.sync();
        assert!(accepted(&mut barrier, 2) && !accepted(&mut barrier, 3));
        barrier.ended("k", 2, Ended::Handled);
        barrier.sync();
        assert!(accepted(&mut barrier, 3) && accepted(&mut barrier, 4));
    }

    #[test]
    fn a_key_with_too_many_jobs_loses_its_order_for_a_while() {
        let mut barrier = Barrier::new(PARAMS);
        for job in 1..=3 {
            assert!(accepted(&mut barrier, job));
        }
        assert!(barrier.is_full("k") && !barrier.is_disabled("k", 0));
        assert!(accepted(&mut barrier, 4) && barrier.is_disabled("k", 0));
        assert_eq!(barrier.take_newly_disabled(), 1);
        assert!(barrier.is_disabled("k", 1_200_000));
        assert!(!barrier.is_disabled("k", 1_200_001));
        barrier.failed("k", 9, 1_200_002);
        assert_eq!(barrier.enter("k", 8, 1_200_003), Entry { accepted: false, failed_job: Some(9) });
        assert!(barrier.take_illegal().is_empty());
    }

    #[test]
    fn an_illegal_sequence_is_counted_and_survived() {
        let mut barrier = Barrier::new(PARAMS);
        barrier.failed("k", 5, 0);
        assert!(!accepted(&mut barrier, 4));
        assert_eq!(barrier.must_wait("k", 4), (true, Some(5)));
        barrier.failed("k", 4, 0);
        assert_eq!(barrier.take_illegal(), [Illegal::Enter, Illegal::Wait, Illegal::JobFailed]);
    }

    #[test]
    fn turning_order_off_forgets_the_failed_job() {
        let mut barrier = Barrier::new(PARAMS);
        assert!(accepted(&mut barrier, 1));
        barrier.failed("k", 1, 0);
        barrier.disable("k", 0);
        assert!(accepted(&mut barrier, 2) && !barrier.must_wait("k", 2).0);
        let half_enabled_ms = 1_200_001;
        assert!(!barrier.is_disabled("k", half_enabled_ms));
        assert!(barrier.enter("k", 3, half_enabled_ms).accepted);
    }

    #[test]
    fn a_failed_job_that_ended_elsewhere_frees_its_key() {
        let mut barrier = Barrier::new(PARAMS);
        barrier.failed("k", 1, 0);
        // Fetched before the failure was stored: says nothing.
        barrier.offered("k", 2);
        assert!(!accepted(&mut barrier, 2));
        barrier.failure_stored("k", 1);
        barrier.sync();
        barrier.offered("k", 1);
        assert!(!accepted(&mut barrier, 2));
        // While it is let in again it says itself how it ends.
        assert!(accepted(&mut barrier, 1));
        barrier.offered("k", 2);
        assert!(!accepted(&mut barrier, 2));
        barrier.ended("k", 1, Ended::Waiting);
        barrier.sync();
        barrier.offered("k", 2);
        assert!(accepted(&mut barrier, 2) && !accepted(&mut barrier, 3));
        barrier.ended("k", 2, Ended::Handled);
        barrier.sync();
        assert_eq!(barrier.size(), 0);
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let mut barrier = Barrier::new(PARAMS);
        assert!(accepted(&mut barrier, 1));
        barrier.leave("k", 1);
        barrier.leave("k", 1);
        assert_eq!(barrier.size(), 0);
        let mut unbounded = Barrier::new(Params { key_threshold: 0, ..PARAMS });
        assert!(accepted(&mut unbounded, 1));
        assert_eq!(unbounded.size(), 0);
    }

    #[test]
    fn keys_whose_users_never_come_back_are_swept_after_an_hour() {
        let mut barrier = Barrier::new(PARAMS);
        barrier.failed("drained", 1, 0);
        barrier.ended("drained", 1, Ended::Aborted);
        barrier.failed("failed", 1, 0);
        for job in 1..=4 {
            assert!(barrier.enter("disabled", job, 0).accepted);
        }
        assert!(barrier.enter("inside", 1, 0).accepted);
        barrier.sync();
        barrier.sweep(3_600_000);
        assert_eq!(barrier.size(), 4);
        barrier.sweep(3_600_001);
        assert_eq!(barrier.size(), 2);
        barrier.ended("inside", 1, Ended::Handled);
        barrier.ended("failed", 1, Ended::Handled);
        barrier.sync();
        assert_eq!(barrier.size(), 0);
    }

    proptest::proptest! {
        #[test]
        fn while_a_job_is_failed_only_that_job_is_let_in(steps in proptest::collection::vec((0_u8..4, 1_u64..20), 1..200)) {
            let mut barrier = Barrier::new(Params { key_threshold: 200, ..PARAMS });
            let mut failed: Option<u64> = None;
            let mut next = 0;
            let mut inside: std::collections::BTreeSet<u64> = std::collections::BTreeSet::new();
            for (step, pick) in steps {
                match step {
                    0 => {
                        let job = failed.filter(|_| pick % 2 == 0).unwrap_or(next);
                        let entry = barrier.enter("k", job, 0);
                        if entry.accepted {
                            proptest::prop_assert!(failed.is_none_or(|failed| failed == job));
                            inside.insert(job);
                            next = next.max(job + 1);
                        }
                    }
                    1 => {
                        if let Some(job) = inside.pop_first() {
                            barrier.failed("k", job, 0);
                            failed = failed.or(Some(job));
                        }
                    }
                    2 => {
                        if let Some(job) = inside.pop_first() {
                            if barrier.must_wait("k", job).0 {
                                barrier.ended("k", job, Ended::Waiting);
                            } else {
                                barrier.ended("k", job, Ended::Handled);
                                if failed == Some(job) {
                                    failed = None;
                                }
                            }
                            barrier.sync();
                        }
                    }
                    _ => {
                        barrier.sync();
                    }
                }
            }
        }
    }
}

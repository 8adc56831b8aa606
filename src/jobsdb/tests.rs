use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;

use super::*;

mod runs;
mod staging;

const START_MS: i64 = 1_700_000_000_000;

struct Kit {
    jobs: JobsDb,
    clock: Clock,
    folder: tempfile::TempDir,
}

fn settings() -> Settings {
    let mut settings = Settings::defaults();
    settings.storage.profile = crate::settings::Profile::Small;
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    settings.storage.soft_free = Some(1);
    settings
}

fn open_at(folder: &Path, settings: &Settings, clock: &Clock) -> JobsDb {
    let storage = Storage::open(folder, &settings.storage, clock).unwrap();
    JobsDb::open(storage, settings, clock.clone()).unwrap()
}

impl Kit {
    fn new() -> Kit {
        Kit::with(&settings())
    }

    fn with(settings: &Settings) -> Kit {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START_MS);
        let jobs = open_at(folder.path(), settings, &clock);
        Kit { jobs, clock, folder }
    }

    fn reopen(self) -> Kit {
        let Kit { jobs, clock, folder } = self;
        drop(jobs);
        let jobs = open_at(folder.path(), &settings(), &clock);
        Kit { jobs, clock, folder }
    }

    fn job(&self, queue: Queue, destination: &str, user: &str, payload: &[u8]) -> EncodedJob {
        self.jobs.encode(
            queue,
            &NewJob {
                uuid: uuid::Uuid::new_v4(),
                workspace_id: "w",
                custom_val: "WEBHOOK",
                source_id: "s",
                destination_id: destination,
                user_id: user,
                parameters: b"{\"source_id\":\"s\"}",
                payload: &[payload],
                event_count: 1,
            },
        )
    }

    fn store(&self, queue: Queue, destination: &str, users: &[&str]) -> Vec<u64> {
        let mut tx = Tx::new(Durability::Durable);
        for user in users {
            tx.append(queue, self.job(queue, destination, user, user.as_bytes()));
        }
        self.jobs.commit_blocking(tx).unwrap().job_ids
    }

    fn fetch(&self, queue: Queue, jobs: usize) -> Vec<Job> {
        self.jobs.fetch(queue, &Select::default(), Limits { jobs, events: 0, bytes: 0 }).unwrap().jobs
    }

    fn ids(&self, queue: Queue) -> Vec<u64> {
        self.fetch(queue, 1_000).iter().map(|job| job.id).collect()
    }

    fn finish(&self, lease: Lease, outcome: Outcome) -> Receipt {
        let mut tx = Tx::new(Durability::Lazy);
        tx.finish(lease, outcome);
        self.jobs.commit_blocking(tx).unwrap()
    }

    fn fail(&self, job: &Job, retry_in_ms: i64) {
        let now = self.clock.now_ms();
        let attempt = job.last.as_ref().map_or(0, |last| last.status.attempt) + 1;
        let status = Status { attempt, exec_ms: now, retry_ms: now + retry_in_ms, ..failed_status() };
        self.finish(job.lease, Outcome::Failed { status, blocks_user: true });
    }

    /// Fetches until the ids appear: promotion and unblocking happen on other threads.
    fn eventually(&self, queue: Queue, expected: &[u64]) -> Vec<Job> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut found: Vec<Job> = Vec::new();
        while found.len() < expected.len() && Instant::now() < deadline {
            found.extend(self.fetch(queue, 1_000));
            std::thread::yield_now();
        }
        // What becomes runnable while others are fetched comes after them.
        found.sort_by_key(|job| job.id);
        assert_eq!(found.iter().map(|job| job.id).collect::<Vec<_>>(), expected);
        found
    }
}

fn failed_status() -> Status {
    Status { error_code: "500".to_owned(), error_response: b"{\"response\":\"no\"}".to_vec(), ..Status::default() }
}

fn lease(job_id: u64) -> Lease {
    Lease { queue: Queue::Rt, partition: 0, job_id }
}

#[test]
fn jobs_come_back_in_order_with_everything_that_was_stored() {
    let kit = Kit::new();
    assert_eq!(kit.store(Queue::Rt, "d", &["a", "b", "a"]), [1, 2, 3]);
    let jobs = kit.fetch(Queue::Rt, 2);
    assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), [1, 2]);
    let first = &jobs[0];
    assert_eq!(
        (first.user_id.as_str(), &first.payload[..], &first.parameters[..]),
        ("a", &b"a"[..], &b"{\"source_id\":\"s\"}"[..])
    );
    assert_eq!((first.partition.destination_id.as_str(), first.partition.custom_val.as_str()), ("d", "WEBHOOK"));
    assert_eq!((first.created_us, first.last.clone(), first.event_count), (START_MS * 1_000, None, 1));
    assert_eq!(kit.ids(Queue::Rt), [3], "leased jobs are not returned again");
    kit.jobs.release(&[jobs[1].lease, jobs[0].lease]);
    assert_eq!(kit.ids(Queue::Rt), [1, 2], "released jobs are");
}

#[test]
fn limits_keep_jobs_out_but_never_the_first() {
    let kit = Kit::new();
    let mut tx = Tx::new(Durability::Lazy);
    for size in [500, 10, 10, 10] {
        tx.append(Queue::Gw, kit.job(Queue::Gw, "", "u", &vec![b'x'; size]));
    }
    kit.jobs.commit_blocking(tx).unwrap();
    let fetch = |limits| kit.jobs.fetch(Queue::Gw, &Select::default(), limits).unwrap();
    let page = fetch(Limits { jobs: 10, events: 0, bytes: 100 });
    assert_eq!((page.jobs.len(), page.limits_reached), (1, true), "a job above the limit is returned alone");
    let page = fetch(Limits { jobs: 10, events: 0, bytes: 25 });
    assert_eq!((page.jobs.len(), page.limits_reached), (2, true));
    let page = fetch(Limits { jobs: 10, events: 1, bytes: 0 });
    assert_eq!((page.jobs.len(), page.limits_reached), (1, true), "a limit that is met exactly is reached");
    let page = fetch(Limits { jobs: 0, events: 0, bytes: 0 });
    assert_eq!((page.jobs.len(), page.limits_reached), (0, false));
}

#[test]
fn everything_survives_a_restart_and_ids_are_never_used_again() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a", "b", "c", "d"]);
    let jobs = kit.fetch(Queue::Rt, 10);
    kit.finish(jobs[0].lease, Outcome::Succeeded);
    kit.fail(&jobs[1], 1_000);
    let kit = kit.reopen();
    assert_eq!(kit.ids(Queue::Rt), [3, 4], "a lease ends with the process, a retry is not due");
    kit.clock.advance(Duration::from_secs(2));
    let kit = kit.reopen();
    let due = kit.eventually(Queue::Rt, &[2, 3, 4]);
    let last = due[0].last.clone().unwrap();
    assert_eq!((last.state, last.status.attempt, last.status.error_code.as_str()), (JobState::Failed, 1, "500"));
    for job in due {
        kit.finish(job.lease, Outcome::Succeeded);
    }
    kit.jobs.0.shared.expire_old_jobs().unwrap();
    let kit = kit.reopen();
    assert_eq!(kit.store(Queue::Rt, "d", &["e"]), [5]);
    assert_eq!(kit.jobs.stats()[1].pending, 1);
}

#[test]
fn a_hand_over_is_whole_and_a_stale_outcome_is_counted() {
    let kit = Kit::new();
    kit.store(Queue::Gw, "", &["a"]);
    let source = kit.fetch(Queue::Gw, 1).remove(0);
    let mut tx = Tx::new(Durability::Lazy);
    tx.append(Queue::Rt, kit.job(Queue::Rt, "d", "a", b"x"));
    tx.append(Queue::Arc, kit.job(Queue::Arc, "", "a", b"x"));
    tx.put(Namespace::Reporting, b"k".to_vec(), b"v".to_vec());
    tx.finish(source.lease, Outcome::Succeeded);
    let receipt = kit.jobs.commit_blocking(tx).unwrap();
    assert_eq!(receipt, Receipt { job_ids: vec![1, 1], stale: 0 });
    assert_eq!(kit.finish(source.lease, Outcome::Succeeded).stale, 1);
    assert_eq!(kit.finish(lease(77), Outcome::Succeeded).stale, 1);
    let pending: Vec<u64> = kit.jobs.stats().iter().map(|stats| stats.pending).collect();
    assert_eq!(pending, [0, 1, 0, 1, 0]);
    assert_eq!(kit.jobs.get(Namespace::Reporting, b"k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(kit.jobs.scan(Namespace::Reporting, b"").unwrap(), [(b"k".to_vec(), b"v".to_vec())]);
}

#[test]
fn an_aborted_job_leaves_its_dead_letter_in_the_same_batch() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a"]);
    let job = kit.fetch(Queue::Rt, 1).remove(0);
    let dead_letter = Some(kit.job(Queue::ProcError, "d", "a", b"x"));
    kit.finish(job.lease, Outcome::Aborted { status: failed_status(), dead_letter });
    let kit = kit.reopen();
    assert_eq!(kit.ids(Queue::Rt), [0_u64; 0]);
    let dead = kit.fetch(Queue::ProcError, 10);
    assert_eq!((dead.len(), &dead[0].payload[..]), (1, &b"x"[..]));
}

#[test]
fn later_jobs_of_a_user_wait_for_the_failed_one_and_others_do_not() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a", "b", "a", "a"]);
    let jobs = kit.fetch(Queue::Rt, 2);
    kit.fail(&jobs[0], 10_000);
    assert_eq!(kit.ids(Queue::Rt), [0_u64; 0], "3 and 4 wait for 1");
    let more = kit.store(Queue::Rt, "d", &["a", "b"]);
    assert_eq!(kit.ids(Queue::Rt), [more[1]]);
    let blocked = kit.jobs.active(Queue::Rt)[0].clone();
    assert_eq!((blocked.pending, blocked.delayed), (6, 1));

    kit.clock.advance(Duration::from_secs(11));
    let retried = kit.eventually(Queue::Rt, &[1]);
    assert_eq!(kit.ids(Queue::Rt), [0_u64; 0], "they wait while it is retried");
    kit.fail(&retried[0], 10_000);
    kit.clock.advance(Duration::from_secs(11));
    let retried = kit.eventually(Queue::Rt, &[1]);
    assert_eq!(retried[0].last.as_ref().unwrap().status.attempt, 2);
    kit.finish(retried[0].lease, Outcome::Succeeded);
    kit.eventually(Queue::Rt, &[3, 4, more[0]]);
}

#[test]
fn the_order_of_a_user_survives_a_restart() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a", "a", "a"]);
    let job = kit.fetch(Queue::Rt, 1).remove(0);
    kit.fail(&job, 10_000);
    assert_eq!(kit.ids(Queue::Rt), [0_u64; 0]);
    let kit = kit.reopen();
    kit.store(Queue::Rt, "d", &["a"]);
    assert_eq!(kit.ids(Queue::Rt), [0_u64; 0], "blocked users are seeded from the failed jobs");
    kit.clock.advance(Duration::from_secs(11));
    let kit = kit.reopen();
    let retried = kit.eventually(Queue::Rt, &[1]);
    let kit_after_crash = {
        kit.finish(retried[0].lease, Outcome::Succeeded);
        kit.reopen()
    };
    kit_after_crash.eventually(Queue::Rt, &[2, 3, 4]);
}

#[test]
fn a_long_line_behind_a_failed_job_is_released_in_order() {
    let kit = Kit::new();
    let users = vec!["a"; 2_500];
    kit.store(Queue::Rt, "d", &users);
    let job = kit.fetch(Queue::Rt, 1).remove(0);
    kit.fail(&job, 1_000);
    assert_eq!(kit.ids(Queue::Rt), [0_u64; 0]);
    kit.clock.advance(Duration::from_secs(2));
    let retried = kit.eventually(Queue::Rt, &[1]);
    kit.finish(retried[0].lease, Outcome::Succeeded);
    let newest = kit.store(Queue::Rt, "d", &["a"]);
    assert_eq!(newest, [2_501]);
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.len() < 2_500 && Instant::now() < deadline {
        let jobs = kit.fetch(Queue::Rt, 300);
        let mut tx = Tx::new(Durability::Lazy);
        for job in jobs {
            seen.push(job.id);
            tx.finish(job.lease, Outcome::Succeeded);
        }
        if !tx.is_empty() {
            kit.jobs.commit_blocking(tx).unwrap();
        }
    }
    assert_eq!(seen, (2..=2_501).collect::<Vec<u64>>());
}

#[test]
fn a_failure_that_does_not_block_lets_the_user_go_on() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a", "a"]);
    let job = kit.fetch(Queue::Rt, 1).remove(0);
    let status = Status { retry_ms: i64::MAX, attempt: 1, ..failed_status() };
    kit.finish(job.lease, Outcome::Failed { status, blocks_user: false });
    assert_eq!(kit.ids(Queue::Rt), [2]);
}

#[test]
fn a_waker_hears_of_new_and_due_jobs_of_its_selection_only() {
    let kit = Kit::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let waker = kit.jobs.waker(Queue::Rt, &Select::destination("d"));
    let other = kit.jobs.waker(Queue::Rt, &Select::destination("e"));
    let heard = |waker: &Notify, within| {
        runtime.block_on(async { tokio::time::timeout(within, waker.notified()).await.is_ok() })
    };
    kit.store(Queue::Rt, "d", &["a"]);
    assert!(heard(&waker, Duration::from_secs(10)));
    assert!(!heard(&other, Duration::ZERO));
    let job = kit.fetch(Queue::Rt, 1).remove(0);
    kit.fail(&job, 1_000);
    kit.clock.advance(Duration::from_secs(2));
    assert!(heard(&waker, Duration::from_secs(10)), "a due job wakes");
    let appeared = kit.jobs.partition_appeared(Queue::Rt);
    assert!(!heard(&appeared, Duration::ZERO), "nobody is needed for a partition that has a listener");
    kit.store(Queue::Rt, "f", &["a"]);
    assert!(heard(&appeared, Duration::from_secs(10)), "somebody is for one that has none");
}

#[test]
fn finished_datasets_are_dropped_and_stragglers_copied_out() {
    let mut small = settings();
    small.storage.dataset_target_bytes = 2_000;
    let kit = Kit::with(&small);
    let mut tx = Tx::new(Durability::Lazy);
    for _ in 0..100 {
        tx.append(Queue::Rt, kit.job(Queue::Rt, "d", "u", &[b'x'; 100]));
    }
    kit.jobs.commit_blocking(tx).unwrap();
    assert_eq!(kit.jobs.stats()[1].datasets.len(), 5);
    let jobs = kit.fetch(Queue::Rt, 100);
    let mut tx = Tx::new(Durability::Lazy);
    for job in &jobs[1..] {
        tx.finish(job.lease, Outcome::Succeeded);
    }
    kit.jobs.commit_blocking(tx).unwrap();
    kit.clock.advance(Duration::from_secs(600));
    let shared = Arc::clone(&kit.jobs.0.shared);
    shared.seal_and_drop();
    shared.drop_files();
    let numbers = |kit: &Kit| kit.jobs.stats()[1].datasets.iter().map(|dataset| dataset.number).collect::<Vec<_>>();
    assert_eq!(numbers(&kit), [1], "the straggler keeps its dataset");

    let (_keep, stop) = bounded(1);
    shared.copy_out(shared.queue(Queue::Rt), &stop).unwrap();
    shared.seal_and_drop();
    shared.drop_files();
    assert_eq!(numbers(&kit), [keys::CARRY_OVER | 1]);
    kit.jobs.release(&[jobs[0].lease]);
    let moved = kit.fetch(Queue::Rt, 10);
    assert_eq!((moved[0].id, &moved[0].payload[..]), (1, &[b'x'; 100][..]), "a copied job is read from its new place");
    kit.finish(moved[0].lease, Outcome::Succeeded);
    shared.seal_and_drop();
    shared.drop_files();
    assert_eq!(numbers(&kit), [0_u32; 0]);
}

#[test]
fn old_jobs_and_surplus_dead_letters_are_given_up() {
    let mut bounded_letters = settings();
    bounded_letters.jobsdb.dead_letter_max_bytes = 1_000;
    let kit = Kit::with(&bounded_letters);
    kit.store(Queue::Gw, "", &["a"]);
    kit.clock.advance(Duration::from_secs(721 * 3_600));
    kit.store(Queue::Gw, "", &["b"]);
    kit.jobs.0.shared.expire_old_jobs().unwrap();
    assert_eq!(kit.ids(Queue::Gw), [2]);
    let payload = [b'x'; 400];
    let mut tx = Tx::new(Durability::Lazy);
    for _ in 0..2_000 {
        tx.append(Queue::ProcError, kit.job(Queue::ProcError, "d", "a", &payload));
    }
    kit.jobs.commit_blocking(tx).unwrap();
    kit.jobs.0.shared.bound_dead_letters().unwrap();
    assert!(kit.jobs.stats()[4].pending_bytes <= 1_000);
}

#[test]
fn a_damaged_value_is_put_aside_and_the_others_go_on() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a", "b", "c"]);
    let storage = kit.jobs.storage().clone();
    let mut batch = storage.batch(64);
    batch.put(Family::Jobs, keys::job(Queue::Rt, 1, 1).as_ref(), b"\x01garbage");
    batch.delete(Family::Jobs, keys::job(Queue::Rt, 1, 2).as_ref());
    storage.write(batch).unwrap();
    drop(storage);
    let kit = kit.reopen();
    assert_eq!(kit.ids(Queue::Rt), [3]);
    kit.store(Queue::Gw, "", &["after"]);
    assert_eq!(kit.jobs.stats()[1].pending, 1);
    let quarantined = kit.jobs.scan(Namespace::Quarantine, b"").unwrap();
    assert_eq!(quarantined.len(), 2);
    assert_eq!(quarantined[0].1, b"\x01garbage");
}

#[test]
fn wrong_counters_are_repaired_at_open() {
    let kit = Kit::new();
    kit.store(Queue::Rt, "d", &["a", "b"]);
    let storage = kit.jobs.storage().clone();
    let key = keys::dataset(Queue::Rt, 1);
    let mut record: record::DatasetRecord =
        codec::decode("dataset", &storage.get(Family::Meta, key.as_ref()).unwrap().unwrap()).unwrap();
    record.pending = 77;
    let mut batch = storage.batch(64);
    batch.put(Family::Meta, key.as_ref(), &codec::encode(&record));
    storage.write(batch).unwrap();
    drop(storage);
    let kit = kit.reopen();
    assert_eq!(kit.jobs.stats()[1].datasets[0].pending, 2);
}

#[test]
fn journal_and_deduplication_keys_are_kept() {
    let kit = Kit::new();
    let record = JournalRecord { op: 9, operation: "upload_manifest".to_owned(), payload: vec![1, 2], start_ms: 5 };
    let mut tx = Tx::new(Durability::Durable);
    tx.journal_put(Queue::BatchRt, record.clone());
    tx.dedup_put(42, START_MS + 60_000);
    kit.jobs.commit_blocking(tx).unwrap();
    let kit = kit.reopen();
    assert_eq!(kit.jobs.journal(Queue::BatchRt).unwrap(), [record]);
    let seen = || kit.jobs.dedup_seen(&[42, 43], Duration::from_secs(3_600)).unwrap();
    assert_eq!(seen(), [true, false]);
    kit.clock.advance(Duration::from_secs(61));
    assert_eq!(seen(), [false, false], "the expiry is exact");
    let mut tx = Tx::new(Durability::Lazy);
    tx.journal_delete(Queue::BatchRt, 9);
    kit.jobs.commit_blocking(tx).unwrap();
    assert_eq!(kit.jobs.journal(Queue::BatchRt).unwrap(), []);
}

#[test]
fn one_flush_serves_many_waiting_commits() {
    let kit = Kit::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let before = kit.jobs.storage().flushes();
    runtime.block_on(async {
        let commits = (0..640).map(|_| {
            let mut tx = Tx::new(Durability::Durable);
            tx.append(Queue::Gw, kit.job(Queue::Gw, "", "u", b"payload"));
            let jobs = kit.jobs.clone();
            tokio::spawn(async move { jobs.commit(tx).await.unwrap() })
        });
        futures_util::future::join_all(commits).await;
    });
    let flushes = kit.jobs.storage().flushes() - before;
    assert!(flushes <= 640 / 32, "{flushes} flushes for 640 commits that wait together");
}

#[test]
fn reading_costs_the_same_with_a_thousand_and_a_hundred_thousand_jobs_ahead_and_behind() {
    let mut touched = BTreeMap::new();
    for backlog in [1_000_usize, 100_000] {
        let kit = Kit::new();
        for destination in ["other", "d"] {
            for _ in 0..(backlog / 1_000) {
                kit.store(Queue::Rt, destination, &["u"; 1_000]);
            }
        }
        let select = Select::destination("d");
        let fetch = |jobs| kit.jobs.fetch(Queue::Rt, &select, Limits { jobs, events: 0, bytes: 0 }).unwrap();
        let first = fetch(500);
        let mut tx = Tx::new(Durability::Lazy);
        for job in &first.jobs {
            tx.finish(job.lease, Outcome::Succeeded);
        }
        kit.jobs.commit_blocking(tx).unwrap();
        touched.insert(backlog, (first.keys_touched, fetch(200).keys_touched));
    }
    assert_eq!(touched[&1_000], touched[&100_000], "keys touched by a fetch, by backlog");
}

#[test]
fn the_log_grows_by_little_more_than_the_payload() {
    let kit = Kit::new();
    let payload = vec![b'x'; 1_000];
    let job = kit.job(Queue::Gw, "", "<<>>anonymous<<>>user", &payload);
    let mut batch = kit.jobs.storage().batch(2_000);
    batch.put(Family::Jobs, keys::job(Queue::Gw, 1, 1).as_ref(), &job.value);
    let entry =
        record::IndexEntry { dataset: 1, events: 1, bytes: 1_000, order_hash: 0, created_ms: START_MS, attempt: 0 };
    batch.put(Family::Index, keys::index(Queue::Gw, 0, 1, 0, keys::Place::Ready).as_ref(), &codec::encode(&entry));
    assert!(batch.bytes() <= 1_000 + 160, "{} bytes", batch.bytes());
}

#[derive(Clone, Debug)]
enum Step {
    Store(u8),
    Fetch(usize),
    Succeed,
    Fail,
    Abort,
    Release,
    Advance,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Step::Store),
        4 => (1..6_usize).prop_map(Step::Fetch),
        4 => Just(Step::Succeed),
        2 => Just(Step::Fail),
        1 => Just(Step::Abort),
        1 => Just(Step::Release),
        2 => Just(Step::Advance),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever callers do: no job is lost or doubled, and no job overtakes an earlier failed one of its user.
    #[test]
    fn a_queue_behaves_like_its_model(steps in proptest::collection::vec(step(), 1..60)) {
        let mut kit = Kit::new();
        let mut users: BTreeMap<u64, u8> = BTreeMap::new();
        let mut pending: BTreeSet<u64> = BTreeSet::new();
        let mut failed: BTreeSet<u64> = BTreeSet::new();
        let mut held: Vec<Job> = Vec::new();
        for step in steps {
            match step {
                Step::Store(user) => {
                    let name = format!("u{user}");
                    let id = kit.store(Queue::Rt, "d", &[&name])[0];
                    users.insert(id, user);
                    pending.insert(id);
                }
                Step::Fetch(jobs) => {
                    for job in kit.fetch(Queue::Rt, jobs) {
                        prop_assert!(pending.contains(&job.id), "job {} is not pending", job.id);
                        prop_assert!(held.iter().all(|held| held.id != job.id), "job {} is held already", job.id);
                        let overtaken = failed.iter().any(|&id| id < job.id && users[&id] == users[&job.id] && !failed.contains(&job.id));
                        prop_assert!(!overtaken, "job {} overtakes a failed one", job.id);
                        held.push(job);
                    }
                }
                Step::Succeed | Step::Abort => {
                    if let Some(job) = held.pop() {
                        let outcome = if matches!(step, Step::Succeed) {
                            Outcome::Succeeded
                        } else {
                            Outcome::Aborted { status: failed_status(), dead_letter: None }
                        };
                        prop_assert_eq!(kit.finish(job.lease, outcome).stale, 0);
                        pending.remove(&job.id);
                        failed.remove(&job.id);
                    }
                }
                Step::Fail => {
                    if let Some(job) = held.pop() {
                        kit.fail(&job, 1_000);
                        failed.insert(job.id);
                    }
                }
                Step::Release => {
                    if let Some(job) = held.pop() {
                        kit.jobs.release(&[job.lease]);
                    }
                }
                Step::Advance => kit.clock.advance(Duration::from_millis(1_500)),
                Step::Reopen => {
                    held.clear();
                    kit = kit.reopen();
                }
            }
            prop_assert_eq!(kit.jobs.stats()[1].pending, pending.len() as u64);
        }
        // In the end everything pending can be delivered, in order per user.
        kit.jobs.release(&held.iter().map(|job| job.lease).collect::<Vec<_>>());
        kit.clock.advance(Duration::from_secs(60));
        kit = kit.reopen();
        let mut delivered: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pending.is_empty() && Instant::now() < deadline {
            for job in kit.fetch(Queue::Rt, 7) {
                delivered.entry(users[&job.id]).or_default().push(job.id);
                kit.finish(job.lease, Outcome::Succeeded);
                pending.remove(&job.id);
            }
        }
        prop_assert!(pending.is_empty(), "never delivered: {:?}", pending);
    }
}

#[test]
fn a_job_that_fails_while_it_is_copied_out_keeps_its_value_and_its_status() {
    let mut small = settings();
    small.storage.dataset_target_bytes = 2_000;
    let kit = Kit::with(&small);
    let shared = Arc::clone(&kit.jobs.0.shared);
    for round in 0..40_u64 {
        let mut tx = Tx::new(Durability::Lazy);
        for _ in 0..25 {
            tx.append(Queue::Rt, kit.job(Queue::Rt, "d", &format!("u{round}"), &[b'x'; 100]));
        }
        let ids = kit.jobs.commit_blocking(tx).unwrap().job_ids;
        let jobs = kit.fetch(Queue::Rt, 25);
        let mut tx = Tx::new(Durability::Lazy);
        for job in &jobs[1..] {
            tx.finish(job.lease, Outcome::Succeeded);
        }
        kit.jobs.commit_blocking(tx).unwrap();
        // The copy and the outcome reach the writer together, in one batch more often than not.
        let part = shared.queue(Queue::Rt).known_part(jobs[0].lease.partition).unwrap();
        let held = part.inner.lock().leased[&ids[0]];
        let key = keys::job(Queue::Rt, held.entry.dataset, ids[0]);
        let value = shared.storage.get(Family::Jobs, key.as_ref()).unwrap().unwrap();
        let (done, _answer) = bounded(1);
        let moves = vec![writer::Relocation { queue: Queue::Rt, part, id: ids[0], held, value }];
        shared.send(Request::Relocate { moves, done });
        kit.fail(&jobs[0], 1_000);
        kit.clock.advance(Duration::from_secs(20));
        shared.seal_and_drop();
        shared.drop_files();
        let retried = kit.eventually(Queue::Rt, &[ids[0]]);
        assert_eq!(&retried[0].payload[..], &[b'x'; 100][..], "round {round}");
        assert_eq!(retried[0].last.as_ref().map(|last| last.status.attempt), Some(1), "round {round}");
        kit.finish(retried[0].lease, Outcome::Succeeded);
        let pending: u64 = kit.jobs.stats()[1].datasets.iter().map(|dataset| dataset.pending).sum();
        assert_eq!(pending, 0, "round {round}: counters of datasets agree");
    }
}

#[test]
fn commits_after_the_end_are_refused_and_never_hang() {
    let kit = Kit::new();
    let jobs = kit.jobs.clone();
    jobs.close();
    let mut tx = Tx::new(Durability::Durable);
    tx.append(Queue::Gw, kit.job(Queue::Gw, "", "u", b"x"));
    assert!(matches!(kit.jobs.commit_blocking(tx), Err(JobsDbError::Unavailable(_))));
}

#[test]
fn a_lazy_write_is_flushed_soon_and_an_idle_store_is_not() {
    let kit = Kit::new();
    let mut tx = Tx::new(Durability::Lazy);
    tx.append(Queue::Gw, kit.job(Queue::Gw, "", "u", b"payload"));
    let before = kit.jobs.storage().flushes();
    kit.jobs.commit_blocking(tx).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while kit.jobs.storage().flushes() == before && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(kit.jobs.storage().flushes() - before, 1);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(kit.jobs.storage().flushes() - before, 1, "nothing was written, so nothing is flushed");
}

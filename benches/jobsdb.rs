//! The queues: storing, fetching, ending and handing over jobs (performance.md 5).
//!
//! `PINTLE_BENCH_BACKLOGS` (`10000,100000,1000000`) chooses the backlogs of the fetch benchmarks; without it the
//! first two are used.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    dead_code,
    reason = "a benchmark: a failure ends it, and the corpus module serves the load harness too"
)]

#[path = "load/corpus.rs"]
mod corpus;

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pintle::clock::Clock;
use pintle::jobsdb::{Durability, EncodedJob, Job, JobsDb, Limits, NewJob, Outcome, Queue, Select, Tx};
use pintle::settings::Settings;
use pintle::storage::Storage;
use uuid::Uuid;

const PARAMETERS: &[u8] = br#"{"source_id":"src-0","destination_id":"dst-0","received_at":"2026-01-05T10:20:31.900Z"}"#;
const USERS: usize = 5_000;

/// Queues in a directory of their own, and events to put into them.
struct Bench {
    jobs: JobsDb,
    payloads: Vec<Vec<u8>>,
    users: Vec<String>,
    next: usize,
    /// After `jobs`, which must be closed when it goes.
    folder: tempfile::TempDir,
}

fn open(folder: &Path) -> JobsDb {
    let mut settings = Settings::defaults();
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    let storage = Storage::open(folder, &settings.storage, &Clock::system()).unwrap();
    JobsDb::open(storage, &settings, Clock::system()).unwrap()
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let jobs = open(folder.path());
        let payloads = corpus::build(corpus::Corpus::Track1k, "localhost", "bench-key-000", corpus::DISTINCT)
            .unwrap()
            .into_iter()
            .map(|request| request.bytes[request.body_at..].to_vec())
            .collect();
        let users = (0..USERS).map(|user| format!("<<>>anonymous-{user}<<>>user-{user:07}")).collect();
        Bench { jobs, payloads, users, next: 0, folder }
    }

    /// Queues with a backlog that lies in files, as one that is waited for does: a short one that is still in
    /// memory is read faster and would make the longer ones look dear.
    fn with_backlog(queue: Queue, count: usize) -> Bench {
        let mut bench = Bench::new();
        bench.fill(queue, count);
        bench.jobs.close();
        let Bench { jobs, payloads, users, next, folder } = bench;
        drop(jobs);
        let jobs = open(folder.path());
        Bench { jobs, payloads, users, next, folder }
    }

    fn encode(&mut self, queue: Queue) -> EncodedJob {
        self.next += 1;
        let (custom_val, destination_id) = if queue == Queue::Gw { ("GW", "") } else { ("WEBHOOK", "dst-0") };
        self.jobs.encode(
            queue,
            &NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: "ws-bench",
                custom_val,
                source_id: "src-0",
                destination_id,
                user_id: &self.users[self.next % USERS],
                parameters: PARAMETERS,
                payload: &[&self.payloads[self.next % self.payloads.len()]],
                event_count: 1,
            },
        )
    }

    fn append(&mut self, queue: Queue, count: usize) {
        let mut tx = Tx::new(Durability::Lazy);
        for _ in 0..count {
            let job = self.encode(queue);
            tx.append(queue, job);
        }
        self.jobs.commit_blocking(tx).unwrap();
    }

    fn fill(&mut self, queue: Queue, count: usize) {
        for _ in 0..count.div_ceil(1_000) {
            self.append(queue, 1_000);
        }
    }

    /// Leases exactly so many jobs, storing more when there are not enough.
    fn lease(&mut self, queue: Queue, count: usize) -> Vec<Job> {
        loop {
            let limits = Limits { jobs: count, events: 0, bytes: 0 };
            let page = self.jobs.fetch(queue, &Select::default(), limits).unwrap();
            if page.jobs.len() == count {
                return page.jobs;
            }
            let leases: Vec<_> = page.jobs.iter().map(|job| job.lease).collect();
            self.jobs.release(&leases);
            self.fill(queue, count.max(20_000));
        }
    }
}

fn encode(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    let mut group = criterion.benchmark_group("jobsdb");
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode", |bencher| bencher.iter(|| bench.encode(Queue::Rt)));
    group.finish();
    bench.jobs.close();
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("jobsdb/append");
    for count in [1, 16, 128, 1_024] {
        let mut bench = Bench::new();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| bench.append(Queue::Gw, count));
        });
        bench.jobs.close();
    }
    group.finish();
}

fn backlogs() -> Vec<usize> {
    let given = std::env::var("PINTLE_BENCH_BACKLOGS").unwrap_or_else(|_| "10000,100000".to_owned());
    given.split(',').filter_map(|size| size.trim().parse().ok()).collect()
}

fn fetch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("jobsdb/fetch");
    for backlog in backlogs() {
        let bench = Bench::with_backlog(Queue::Rt, backlog);
        for count in [1, 100, 10_000] {
            group.throughput(Throughput::Elements(count as u64));
            group.bench_function(format!("{count}_of_{backlog}"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut fetching = Duration::ZERO;
                    for _ in 0..rounds {
                        let limits = Limits { jobs: count, events: 0, bytes: 0 };
                        let began = Instant::now();
                        let page = bench.jobs.fetch(Queue::Rt, &Select::default(), limits).unwrap();
                        fetching += began.elapsed();
                        assert_eq!(page.jobs.len(), count, "the backlog is there");
                        let leases: Vec<_> = page.jobs.iter().map(|job| job.lease).collect();
                        bench.jobs.release(&leases);
                    }
                    fetching
                });
            });
        }
        bench.jobs.close();
    }
    group.finish();
}

fn status(criterion: &mut Criterion) {
    const RESULTS: usize = 1_000;
    let mut bench = Bench::new();
    let mut group = criterion.benchmark_group("jobsdb");
    group.throughput(Throughput::Elements(RESULTS as u64));
    group.bench_function("status_1000", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut writing = Duration::ZERO;
            for _ in 0..rounds {
                let jobs = bench.lease(Queue::Rt, RESULTS);
                let began = Instant::now();
                let mut tx = Tx::new(Durability::Lazy);
                for job in &jobs {
                    tx.finish(job.lease, Outcome::Succeeded);
                }
                bench.jobs.commit_blocking(tx).unwrap();
                writing += began.elapsed();
            }
            writing
        });
    });
    group.finish();
    bench.jobs.close();
}

fn handover(criterion: &mut Criterion) {
    const SOURCES: usize = 1_000;
    let mut group = criterion.benchmark_group("jobsdb/handover");
    for targets in [SOURCES, 5 * SOURCES] {
        let mut bench = Bench::new();
        group.throughput(Throughput::Elements(targets as u64));
        group.bench_function(format!("{SOURCES}_to_{targets}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let mut handing_over = Duration::ZERO;
                for _ in 0..rounds {
                    let jobs = bench.lease(Queue::Gw, SOURCES);
                    let began = Instant::now();
                    let mut tx = Tx::new(Durability::Lazy);
                    for _ in 0..targets {
                        let job = bench.encode(Queue::Rt);
                        tx.append(Queue::Rt, job);
                    }
                    for job in &jobs {
                        tx.finish(job.lease, Outcome::Succeeded);
                    }
                    bench.jobs.commit_blocking(tx).unwrap();
                    handing_over += began.elapsed();
                }
                handing_over
            });
        });
        bench.jobs.close();
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = encode, append, fetch, status, handover
}
criterion_main!(benches);

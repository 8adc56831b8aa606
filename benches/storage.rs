//! The store by itself: what a put, a read and a flush cost through `storage` (compare with anchor A5 of the load
//! harness, which is RocksDB alone).

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

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pintle::clock::Clock;
use pintle::settings::{Settings, StorageSettings};
use pintle::storage::{Family, Storage};

const BATCH: usize = 1_000;

fn settings() -> StorageSettings {
    let mut settings = Settings::defaults().storage;
    settings.allow_unsafe_fs = true;
    settings
}

fn payloads() -> Vec<Vec<u8>> {
    corpus::build(corpus::Corpus::Track1k, "localhost", "bench-key-000", corpus::DISTINCT)
        .unwrap()
        .into_iter()
        .map(|request| request.bytes[request.body_at..].to_vec())
        .collect()
}

fn puts(storage: &Storage, payloads: &[Vec<u8>], first: u64, count: usize) {
    let mut batch = storage.batch(count * 1_100);
    for number in first..first + count as u64 {
        batch.put(Family::Jobs, &number.to_be_bytes(), &payloads[number as usize % payloads.len()]);
    }
    storage.write(batch).unwrap();
}

fn writes(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path(), &settings(), &Clock::system()).unwrap();
    let payloads = payloads();
    let mut group = criterion.benchmark_group("storage");
    let mut next = 0;
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("put_1000_unflushed", |bencher| {
        bencher.iter(|| {
            puts(&storage, &payloads, next, BATCH);
            next += BATCH as u64;
        });
    });
    for count in [1, 64] {
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("put_{count}_flushed"), |bencher| {
            bencher.iter(|| {
                puts(&storage, &payloads, next, count as usize);
                next += count;
                storage.flush().unwrap();
            });
        });
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(folder.path(), &settings(), &Clock::system()).unwrap();
    let payloads = payloads();
    const STORED: u64 = 100_000;
    for first in (0..STORED).step_by(BATCH) {
        puts(&storage, &payloads, first, BATCH);
    }
    let mut group = criterion.benchmark_group("storage");
    let mut random = corpus::Random(1);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("get_sorted_1000", |bencher| {
        bencher.iter_batched(
            || {
                let first = random.below(STORED as usize - BATCH) as u64;
                (first..first + BATCH as u64).map(u64::to_be_bytes).collect::<Vec<_>>()
            },
            |keys| storage.get_sorted(Family::Jobs, &keys).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("scan_1000", |bencher| {
        bencher.iter(|| {
            let first = random.below(STORED as usize - BATCH) as u64;
            let (from, to) = (first.to_be_bytes(), (first + BATCH as u64).to_be_bytes());
            let mut scan = storage.scan(Family::Jobs, &from, &to).unwrap();
            let mut bytes = 0;
            while let Some((_, value)) = scan.next_entry().unwrap() {
                bytes += value.len();
            }
            bytes
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = writes, reads
}
criterion_main!(benches);

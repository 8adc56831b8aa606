//! Scanning of request bodies (performance.md 5), beside anchor A8: the same bodies through `serde_json`.

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

use std::borrow::Cow;
use std::time::Duration;

use corpus::Corpus;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pintle::event::json::{scan_batch, scan_single};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Nesting that the gateway accepts.
const MAX_DEPTH: usize = 1_000;

/// What ingestion reads of an event, borrowed from the body (A8).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Borrowed<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    anonymous_id: Option<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
    #[serde(borrow)]
    properties: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BorrowedBatch<'a> {
    #[serde(borrow)]
    batch: Vec<&'a RawValue>,
}

fn bodies(corpus: Corpus) -> Vec<Vec<u8>> {
    let requests = corpus::build(corpus, "localhost", "bench-key-000", 200).unwrap();
    requests.into_iter().map(|request| request.bytes[request.body_at..].to_vec()).collect()
}

/// Measures `work` over the bodies in turn.
fn in_turn<T>(bencher: &mut criterion::Bencher<'_>, bodies: &[Vec<u8>], mut work: impl FnMut(&[u8]) -> T) {
    let mut next = 0;
    bencher.iter(|| {
        next += 1;
        work(&bodies[next % bodies.len()])
    });
}

fn accepted(criterion: &mut Criterion) {
    let (singles, batches) = (bodies(Corpus::Track1k), bodies(Corpus::Batch20));
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Elements(1));
    group.bench_function("A8_value", |bencher| {
        in_turn(bencher, &singles, |body| serde_json::from_slice::<Value>(body).unwrap());
    });
    group.bench_function("A8_borrowed", |bencher| {
        in_turn(bencher, &singles, |body| serde_json::from_slice::<Borrowed<'_>>(body).unwrap().message_id.is_some());
    });
    group.bench_function("scan_single", |bencher| {
        in_turn(bencher, &singles, |body| scan_single(body, MAX_DEPTH).unwrap());
    });
    group.throughput(Throughput::Elements(corpus::BATCH as u64));
    group.bench_function("A8_split", |bencher| {
        in_turn(bencher, &batches, |body| {
            let batch: BorrowedBatch<'_> = serde_json::from_slice(body).unwrap();
            batch.batch.iter().map(|event| event.get().to_owned()).collect::<Vec<_>>()
        });
    });
    group.bench_function("split_batch", |bencher| {
        in_turn(bencher, &batches, |body| {
            let mut events = Vec::with_capacity(corpus::BATCH);
            scan_batch(body, MAX_DEPTH, |event| events.push(event.value.of(body).to_vec())).unwrap();
            events
        });
    });
    group.finish();
}

fn rejected(criterion: &mut Criterion) {
    let single = bodies(Corpus::Track1k).swap_remove(0);
    let mut cut = single.clone();
    cut.truncate(single.len() - 1);
    let mut unquoted = single.clone();
    let last_quote = unquoted.iter().rposition(|&byte| byte == b'"').unwrap();
    unquoted[last_quote] = b' ';
    let deep = [vec![b'['; 500_000], vec![b']'; 500_000]].concat();
    let mut group = criterion.benchmark_group("event/reject");
    for (name, body) in [("cut", cut), ("unquoted", unquoted), ("too_deep", deep)] {
        assert!(scan_single(&body, MAX_DEPTH).is_err(), "{name} is refused");
        group.bench_function(name, |bencher| bencher.iter(|| scan_single(&body, MAX_DEPTH).is_err()));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = accepted, rejected
}
criterion_main!(benches);

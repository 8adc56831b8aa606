//! Events as rows of a warehouse: what the processor spends for each event and warehouse destination, and the
//! batch router for its staging files.

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

use std::io::Write;
use std::time::Duration;

use corpus::Corpus;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use pintle::destination::Message;
use pintle::destination::warehouse::{Envelope, RowSettings, WarehousePlan};
use pintle::jobsdb::{RowNotes, StagingFile, StagingRecord};
use serde_json::Map;

fn events(corpus: Corpus) -> Vec<String> {
    let requests = corpus::build(corpus, "localhost", "bench-key-000", 200).unwrap();
    requests.into_iter().map(|request| String::from_utf8(request.bytes[request.body_at..].to_vec()).unwrap()).collect()
}

fn flatten(criterion: &mut Criterion) {
    let settings = RowSettings { resolves_identities: false, puts_source_in_context: true, most_columns: 1_600 };
    let envelope = Envelope {
        source_id: "2bVMV2JiAJe42OXZrzyvJI75v0N",
        source_type: "Javascript",
        source_category: "",
        destination_id: "2bVMV2JiAJe42OXZrzyvJI75v0M",
        destination_type: "POSTGRES",
        received_at: "2026-01-05T10:20:32.000Z",
        now: &String::new,
        new_id: &String::new,
    };
    let mut group = criterion.benchmark_group("warehouse/flatten");
    group.throughput(Throughput::Elements(1));
    for (name, corpus) in [("track_1k", Corpus::Track1k), ("mix", Corpus::Mix), ("wide", Corpus::Wide)] {
        let events = events(corpus);
        for destination_type in ["POSTGRES", "SNOWFLAKE"] {
            let plan = WarehousePlan::new(destination_type, &Map::new()).unwrap();
            group.bench_function(format!("{name}/{destination_type}"), |bencher| {
                let mut next = 0;
                bencher.iter(|| {
                    next += 1;
                    let message = Message::parse(&events[next % events.len()]).unwrap();
                    let rows = plan.rows(&message, &envelope, &settings).unwrap();
                    rows.iter().map(|row| row.to_json().len()).sum::<usize>()
                });
            });
        }
    }
    group.finish();
}

/// From events to a staging file and its record, beside what flattening and packing alone cost (performance.md 4).
fn stage(criterion: &mut Criterion) {
    const BLOCK: usize = 64;
    let settings = RowSettings { resolves_identities: false, puts_source_in_context: true, most_columns: 1_600 };
    let envelope = Envelope {
        source_id: "s",
        source_type: "Javascript",
        source_category: "",
        destination_id: "d",
        destination_type: "LOCAL_DATALAKE",
        received_at: "2026-01-05T10:20:32.000Z",
        now: &String::new,
        new_id: &String::new,
    };
    let plan = WarehousePlan::new("LOCAL_DATALAKE", &Map::new()).unwrap();
    let mut group = criterion.benchmark_group("warehouse/stage");
    group.throughput(Throughput::Elements(BLOCK as u64));
    for (name, corpus) in [("track_1k", Corpus::Track1k), ("mix", Corpus::Mix)] {
        let events = events(corpus);
        let mut run = |is_recorded: bool| {
            group.bench_function(
                format!("{name}/{}", if is_recorded { "stage" } else { "flatten_and_gzip" }),
                |bencher| {
                    bencher.iter(|| {
                        let mut file = GzEncoder::new(Vec::new(), Compression::new(6));
                        let mut record = StagingRecord::new(StagingFile::new("s", "d", "k"));
                        for event in &events[..BLOCK] {
                            let message = Message::parse(event).unwrap();
                            for row in plan.rows(&message, &envelope, &settings).unwrap() {
                                let row = row.to_json();
                                if is_recorded {
                                    record.add(row.len(), &RowNotes::read(&row));
                                }
                                file.write_all(&row).unwrap();
                                file.write_all(b"\n").unwrap();
                            }
                        }
                        (file.finish().unwrap().len(), record.finish().total_bytes)
                    });
                },
            );
        };
        run(true);
        run(false);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = flatten, stage
}
criterion_main!(benches);

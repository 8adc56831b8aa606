//! The load harness (performance.md 3).
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a tool that measures: offsets and counts are its own, and a panic ends a measurement, not a server"
)]

mod anchor_disk;
mod anchor_rocks;
mod anchor_servers;
mod corpus;
mod generator;
mod ledger;
mod process;
mod report;
mod sink;
mod wire;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Load, anchors and system benchmarks.
#[derive(Parser)]
#[command(name = "load", bin_name = "load")]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
    /// Passed by `cargo bench` to every target
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Print the bodies of a corpus, one a line
    Gen {
        /// track-1k, batch-20, mix or wide
        #[arg(long, default_value = "track-1k")]
        corpus: String,
        /// How many
        #[arg(long, default_value_t = corpus::DISTINCT)]
        count: usize,
    },
    /// Send load to a server
    Load(generator::Options),
    /// Receive deliveries
    Sink(sink::Options),
    /// Serve as anchor A1, A2, A4 or A7
    #[command(hide = true)]
    AnchorServer(anchor_servers::Options),
    /// Measure flushes (A3)
    #[command(hide = true)]
    AnchorDisk(anchor_disk::Options),
    /// Measure puts (A5)
    #[command(hide = true)]
    AnchorRocks(anchor_rocks::Options),
}

fn main() -> Result<()> {
    process::end_with_parent();
    match CommandLine::parse().verb {
        Verb::Gen { corpus, count } => gen_corpus(&corpus, count),
        Verb::Load(options) => generator::run(&options),
        Verb::Sink(options) => sink::run(&options),
        Verb::AnchorServer(options) => anchor_servers::run(&options),
        Verb::AnchorDisk(options) => anchor_disk::run(&options),
        Verb::AnchorRocks(options) => anchor_rocks::run(&options),
    }
}

fn gen_corpus(name: &str, count: usize) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut first_event = 0;
    let mut bytes = Vec::new();
    let authorization = corpus::authorization("bench-key-000");
    for request in corpus::build(corpus::Corpus::named(name)?, "localhost", "bench-key-000", count) {
        let users: Vec<u64> =
            (first_event..first_event + request.events() as u64).map(|event| event % corpus::USERS).collect();
        let stamp = corpus::Stamp {
            first_event,
            users: &users,
            sent_ns: 1_767_600_000_000_000_000,
            authorization: &authorization,
        };
        request.write_to(&mut bytes, &stamp);
        out.write_all(&bytes[request.body_at..])?;
        out.write_all(b"\n")?;
        first_event += request.events() as u64;
    }
    Ok(out.flush()?)
}

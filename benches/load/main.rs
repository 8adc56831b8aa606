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
mod anchors;
mod body_runs;
mod compare;
mod corpus;
mod crash_runs;
mod delivery_runs;
mod exchange;
mod gateway_runs;
mod generator;
mod held_connections;
mod ledger;
mod measure;
mod node;
mod overload_runs;
mod pace;
mod process;
mod queue_runs;
mod report;
mod resource_runs;
mod sink;
mod sink_child;
mod suite;
mod traced;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
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
        /// track-1k, batch-20, mix or wide (others are not text, or none at all)
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
    /// Measure the anchors
    Anchors(suite::Options),
    /// Run benchmarks by id (G1 P2 ...)
    Run {
        /// Ids
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        options: suite::Options,
    },
    /// Run all benchmarks
    Suite {
        /// quick or full
        #[arg(value_parser = ["quick", "full"])]
        size: String,
        #[command(flatten)]
        options: suite::Options,
    },
    /// Compare two reports; fails when a floor fails in B or a cost grew
    Compare {
        /// Report before
        a: PathBuf,
        /// Report after
        b: PathBuf,
    },
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

fn main() -> Result<ExitCode> {
    process::end_with_parent();
    process::raise_open_files();
    let holds = match CommandLine::parse().verb {
        Verb::Gen { corpus, count } => gen_corpus(&corpus, count).map(|()| true),
        Verb::Load(options) => generator::run(&options).map(|()| true),
        Verb::Sink(options) => sink::run(&options).map(|()| true),
        Verb::Anchors(options) => suite::anchors(&options).map(|()| true),
        Verb::Run { ids, options } => {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            suite::run(&options, &ids, false)
        }
        Verb::Suite { size, mut options } => {
            options.full = size == "full";
            suite::run(&options, &suite::of_size(options.full), true)
        }
        Verb::Compare { a, b } => compare::run(&a, &b),
        Verb::AnchorServer(options) => anchor_servers::run(&options).map(|()| true),
        Verb::AnchorDisk(options) => anchor_disk::run(&options).map(|()| true),
        Verb::AnchorRocks(options) => anchor_rocks::run(&options).map(|()| true),
    }?;
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn gen_corpus(name: &str, count: usize) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut first_event = 0;
    let mut bytes = Vec::new();
    let authorization = corpus::authorization("bench-key-000");
    let corpus = corpus::Corpus::named(name)?;
    if !corpus.is_numbered() {
        bail!("the bodies of {name} are not lines of text");
    }
    for request in corpus::build(corpus, "localhost", "bench-key-000", count)? {
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

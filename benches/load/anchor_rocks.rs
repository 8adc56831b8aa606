//! Anchor A5: RocksDB by itself. Puts of 1 KB in batches of 1,000, LZ4, log on, no flush, one thread.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use rocksdb::{DB, DBCompressionType, Options as DbOptions, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};

use crate::corpus::{self, Corpus};
use crate::process;

/// Where and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Directory of the database; it must not exist
    #[arg(long)]
    pub dir: PathBuf,
    /// Seconds
    #[arg(long, default_value_t = 3.0)]
    pub secs: f64,
}

/// What a put costs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Puts {
    /// Processor time of the whole process per event, microseconds.
    pub cpu_us: f64,
    /// Events per second.
    pub per_sec: f64,
}

const BATCH: usize = 1_000;

/// Puts for the given time and prints the figures as JSON.
pub fn run(options: &Options) -> Result<()> {
    let mut settings = DbOptions::default();
    settings.create_if_missing(true);
    settings.set_compression_type(DBCompressionType::Lz4);
    let db = DB::open(&settings, &options.dir)?;
    let values: Vec<Vec<u8>> = corpus::build(Corpus::Track1k, "localhost", "bench-key-000", corpus::DISTINCT)?
        .into_iter()
        .map(|request| request.bytes[request.body_at..].to_vec())
        .collect();
    let unsynced = WriteOptions::default();
    let own = std::process::id();
    let (began, cpu_before) = (Instant::now(), process::cpu_secs(own)?);
    let until = began + Duration::from_secs_f64(options.secs);
    let mut number = 0_u64;
    while Instant::now() < until {
        let mut batch = WriteBatch::default();
        for _ in 0..BATCH {
            batch.put(number.to_be_bytes(), &values[number as usize % values.len()]);
            number += 1;
        }
        db.write_opt(batch, &unsynced)?;
    }
    let secs = began.elapsed().as_secs_f64();
    let puts =
        Puts { cpu_us: (process::cpu_secs(own)? - cpu_before) * 1e6 / number as f64, per_sec: number as f64 / secs };
    println!("{}", serde_json::to_string(&puts)?);
    Ok(())
}

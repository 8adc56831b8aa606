//! Anchor A3: what one flush costs here. Appends of 4 KB, each followed by `fdatasync`, by one or two threads.
//!
//! Run at normal priority it gives F (what the server experiences), under `chrt` D (what the device needs).

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::generator::microseconds;

/// Where and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Directory of the files
    #[arg(long)]
    pub dir: PathBuf,
    /// Seconds
    #[arg(long, default_value_t = 3.0)]
    pub secs: f64,
    /// Threads, each with a file of its own
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Write into a file that has its size already
    #[arg(long)]
    pub preallocated: bool,
}

/// Flush times.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Flushes {
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99 in a hundred.
    pub p99_ms: f64,
    /// All threads together.
    pub per_sec: f64,
}

const BLOCK: usize = 4_096;
const PREALLOCATED: u64 = 64 << 20;

/// Flushes for the given time and prints the figures as JSON.
pub fn run(options: &Options) -> Result<()> {
    let began = Instant::now();
    let workers: Vec<_> = (0..options.threads.max(1))
        .map(|number| {
            let (options, path) = (options.clone(), options.dir.join(format!("flush-{}-{number}", std::process::id())));
            std::thread::spawn(move || {
                let measured = flush_repeatedly(&path, &options);
                std::fs::remove_file(&path).ok();
                measured
            })
        })
        .collect();
    let mut times = microseconds();
    for worker in workers {
        let measured = worker.join().map_err(|_| anyhow::anyhow!("a flushing thread panicked"))??;
        times.add(measured)?;
    }
    let flushes = Flushes {
        p50_ms: times.value_at_quantile(0.5) as f64 / 1e3,
        p99_ms: times.value_at_quantile(0.99) as f64 / 1e3,
        per_sec: times.len() as f64 / began.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&flushes)?);
    Ok(())
}

fn open(path: &Path, preallocated: bool) -> Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    if preallocated {
        let zeros = vec![0; 1 << 20];
        for _ in 0..PREALLOCATED >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(file)
}

fn flush_repeatedly(path: &Path, options: &Options) -> Result<Histogram<u64>> {
    let mut file = open(path, options.preallocated)?;
    let block = vec![0x5a; BLOCK];
    let mut times = microseconds();
    let until = Instant::now() + Duration::from_secs_f64(options.secs);
    let mut written = 0;
    while Instant::now() < until {
        file.write_all(&block)?;
        written += BLOCK as u64;
        let began = Instant::now();
        file.sync_data()?;
        times.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        if options.preallocated && written + BLOCK as u64 > PREALLOCATED {
            file.seek(SeekFrom::Start(0))?;
            written = 0;
        }
    }
    Ok(times)
}

//! The durability check: flush calls as the kernel sees them against the node's own counter, so that no build looks
//! fast by leaving the flush out (performance.md 7, point 8).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::measure::{Counted, Load, Watched};
use crate::node::{self, Node};
use crate::process::Running;
use crate::suite::Bench;

/// Calls that reach the disk.
const FLUSH_CALLS: &str = "fsync,fdatasync,msync,sync_file_range";

/// Traced flush calls divided by the node's own count over a short load; `None` where there is no `strace`.
pub fn flushes(bench: &mut Bench, node: &Node, connections: usize) -> Result<Option<f64>> {
    let summary = bench.file("flush-calls");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-c", "-e", &format!("trace={FLUSH_CALLS}"), "-p", &node.pid().to_string(), "-o"])
        .arg(&summary);
    let log = bench.file("strace.log");
    let Ok(mut tracer) = Running::start("strace", command, Some(&log)) else { return Ok(None) };
    // It says when it is attached, on standard error.
    for _ in 0..200 {
        if std::fs::read_to_string(&log).is_ok_and(|said| said.contains("attached")) {
            break;
        }
        if tracer.wait(Duration::from_millis(10))?.is_some() {
            return Ok(None);
        }
    }
    let before = node::flushes(node.admin_socket())?;
    let load = Load { connections, ramp: 0.5, secs: 1.5, ..Load::new(node.url()) };
    bench.load(load, &Watched::default(), Counted::Acknowledged, |_| Ok(()))?;
    let own = node::flushes(node.admin_socket())? - before;
    tracer.signal(Signal::INT)?;
    tracer.wait(Duration::from_secs(10))?.context("strace does not end")?;
    let traced = calls(&std::fs::read_to_string(&summary)?);
    Ok(Some(traced / own.max(1.0)))
}

/// The calls of a summary: the fourth column of the lines that end with the name of a call.
fn calls(summary: &str) -> f64 {
    let counts = summary.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_flush = fields.last().is_some_and(|name| FLUSH_CALLS.split(',').any(|call| call == *name));
        is_flush.then(|| fields.get(3)?.parse::<f64>().ok()).flatten()
    });
    counts.sum()
}

//! Two reports side by side: ratios, floors, and what became worse.

use std::path::Path;

use anyhow::{Context, Result};

use crate::report::{Report, Run, RunStatus, figure};

/// Growth of processor time per event that is a failure.
const MOST_CPU: f64 = 1.15;
/// Growth of device bytes and flushes per event that is a failure.
const MOST_BYTES: f64 = 1.05;

/// Prints the comparison; false when a floor fails in `b` or a cost grew too much from `a` to `b`.
pub fn run(a: &Path, b: &Path) -> Result<bool> {
    let (a, b) = (read(a)?, read(b)?);
    println!("a: {} {}\nb: {} {}\n", a.started, a.build.commit, b.started, b.build.commit);
    println!("{:<4} {:<16} {:<44} {:>10} {:>10} {:>7}  result", "id", "variant", "figure", "a", "b", "b/a");
    let mut fine = true;
    for run in &b.runs {
        let before = a.runs.iter().find(|other| other.id == run.id && other.variant == run.variant);
        for target in &run.targets {
            let was = before.and_then(|run| run.targets.iter().find(|other| other.metric == target.metric));
            let verdict = if target.pass { "pass" } else { "BELOW FLOOR" };
            fine &= target.pass;
            line(run, &target.metric, was.map(|was| was.value), target.value, verdict);
        }
        if run.status == RunStatus::Failed {
            fine = false;
            println!("{:<4} {:<16} FAILED: {}", run.id, run.variant, run.notes.join("; "));
        }
        let Some(before) = before else { continue };
        fine &= costs(&a, &b, before, run);
    }
    Ok(fine)
}

/// Costs per event that may not grow; processor time relative to the anchor where both reports have it, so that a
/// slower machine is not a regression.
fn costs(a: &Report, b: &Report, before: &Run, after: &Run) -> bool {
    let per_event = |run: &Run, amount: f64| amount / run.median.events.max(1) as f64;
    let (cpu_name, cpu_before, cpu_after) = match (a1_cpu(a), a1_cpu(b)) {
        (Some(a1_before), Some(a1_after)) => ("CPU per event / A1", a1_before, a1_after),
        _ => ("CPU per event, us", 1.0, 1.0),
    };
    let rows = [
        (cpu_name, before.median.cpu_us_per_event / cpu_before, after.median.cpu_us_per_event / cpu_after, MOST_CPU),
        (
            "device bytes per event",
            per_event(before, before.median.device_bytes as f64),
            per_event(after, after.median.device_bytes as f64),
            MOST_BYTES,
        ),
        (
            "flushes per event",
            per_event(before, before.median.flushes),
            per_event(after, after.median.flushes),
            MOST_BYTES,
        ),
    ];
    let mut fine = true;
    for (name, was, is, most) in rows {
        if was > 0.0 && is > 0.0 {
            let grew = is / was > most;
            line(after, name, Some(was), is, if grew { "WORSE" } else { "pass" });
            fine &= !grew;
        }
    }
    fine
}

/// Processor time of a request to A1 with 256 connections.
fn a1_cpu(report: &Report) -> Option<f64> {
    report.anchors.get("A1")?.get("c256")?.get("cpu_us").copied().filter(|cpu| *cpu > 0.0)
}

fn line(run: &Run, name: &str, was: Option<f64>, is: f64, verdict: &str) {
    let ratio = was.filter(|was| *was != 0.0).map_or_else(|| "-".to_owned(), |was| format!("{:.2}", is / was));
    let was = was.map_or_else(|| "-".to_owned(), figure);
    println!("{:<4} {:<16} {name:<44} {was:>10} {:>10} {ratio:>7}  {verdict}", run.id, run.variant, figure(is));
}

fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a report", path.display()))
}

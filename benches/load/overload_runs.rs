//! G7 and G9: more requests than the gateway can take, and more connections than it has use for.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::gateway_runs::{USUAL, latency_targets, p99_bounds, steady_load};
use crate::generator;
use crate::held_connections::{IdleConnections, SlowHeads};
use crate::measure::{About, Counted, Load, Then, Watched, median};
use crate::node::Node;
use crate::process;
use crate::report::{Rep, Target};
use crate::suite::Bench;

const MIB: f64 = 1_048_576.0;
const KIB: f64 = 1_024.0;

/// How much more than its capacity is sent.
const TIMES_CAPACITY: f64 = 3.0;
/// Connections of the overload, which are the most requests in flight. What no connection is free for is dropped:
/// a generator that kept it would measure its own queue.
const OVERLOAD_CONNECTIONS: usize = 2_048;
/// The overload is told in windows of this length.
const OVERLOAD_WINDOW_SECS: f64 = 10.0;
/// The share of the capacity that is sent after the overload.
const AFTERWARDS: f64 = 0.1;
/// Windows after the overload: two more seconds than the gateway may take to recover.
const AFTER_WINDOW_SECS: f64 = 0.5;
const AFTER_WINDOWS: usize = 24;
/// So many windows in a row with the p99 of G4 are a recovery.
const STEADY_AGAIN: usize = 2;

/// G7: open loop at three times the capacity that G1 found, then at a tenth of it.
pub fn overload(bench: &mut Bench) -> Result<()> {
    let capacity = bench.median("G1", &format!("c{USUAL}"))?.rate;
    bench.check_disk()?;
    let setup = bench.setup(&[])?;
    let node = Node::start(&setup)?;
    let windows = if bench.plan.quick { 1 } else { 6 };
    let load = Load {
        connections: OVERLOAD_CONNECTIONS,
        rate: Some(TIMES_CAPACITY * capacity),
        most_waiting: Some(0),
        then: Some(Then { rate: AFTERWARDS * capacity, secs: AFTER_WINDOW_SECS, windows: AFTER_WINDOWS }),
        expected: &[200, 429, 503],
        ramp: 1.0,
        secs: OVERLOAD_WINDOW_SECS,
        windows,
        ..Load::new(node.url())
    };
    let watched = Watched { server: Some(node.pid()), ..Watched::default() };
    let measured = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
    node.stop()?;
    setup.forget();
    if measured.reps.len() != windows + AFTER_WINDOWS {
        bail!("{} windows instead of {}", measured.reps.len(), windows + AFTER_WINDOWS);
    }

    let (during, after) = measured.reps.split_at(windows);
    let told = &measured.outcome.windows[..windows];
    let secs: f64 = told.iter().map(|window| window.secs).sum();
    let answered: u64 = told.iter().map(|window| window.requests).sum();
    let dropped: u64 = told.iter().map(|window| window.dropped).sum();
    let turned_away: u64 = told
        .iter()
        .flat_map(|window| &window.statuses)
        .filter(|(status, _)| **status != 200)
        .map(|(_, count)| count)
        .sum();
    let mut notes = vec![
        format!(
            "{:.0} requests/s were due; {:.0} were answered, {turned_away} in all by 429 or 503",
            TIMES_CAPACITY * capacity,
            answered as f64 / secs
        ),
        format!("{dropped} in all were not sent: {OVERLOAD_CONNECTIONS} connections are the most in flight"),
    ];
    if measured.outcome.unanswered > 0 {
        notes.push(format!("{} had no answer at the end", measured.outcome.unanswered));
    }
    let rss = measured.reps.iter().map(|rep| rep.rss_peak).max().unwrap_or(0) as f64 / MIB;
    let targets = vec![Target::at_most("RSS in overload, MiB (R2)", rss, 384.0, 192.0)];
    bench.enter_noted("G7", "3x capacity", during.to_vec(), About::Cost, notes, targets);

    let (bound, _) = p99_bounds(bench);
    let recovery = recovered_after(after, bound);
    let worst_later = after.iter().skip(recovery.unwrap_or(after.len())).map(p99).fold(0.0, f64::max);
    let notes = vec![match recovery {
        Some(_) => format!("p99 of half a second at most {worst_later:.1} ms afterwards; asked {bound:.1} ms"),
        None => format!("never {STEADY_AGAIN} windows in a row within {bound:.1} ms"),
    }];
    let secs = recovery.unwrap_or(after.len()) as f64 * AFTER_WINDOW_SECS;
    let targets = vec![Target::at_most("s until ack p99 is that of G4 again", secs, 10.0, 2.0)];
    bench.enter_noted("G7", "then 10 %", after.to_vec(), About::Latency, notes, targets);
    Ok(())
}

fn p99(rep: &Rep) -> f64 {
    // A window without an answer is not a fast one.
    rep.lat_ms.as_ref().filter(|_| rep.requests > 0).map_or(f64::MAX, |lat| lat.p99)
}

/// Windows before the first of several in a row whose p99 is within the bound.
fn recovered_after(windows: &[Rep], bound: f64) -> Option<usize> {
    windows.windows(STEADY_AGAIN).position(|row| row.iter().all(|rep| p99(rep) <= bound))
}

/// Idle connections of G9.
const IDLE: usize = 5_000;
/// Connections of G9 whose head comes byte by byte.
const SLOW: usize = 2_000;
/// Files that a node keeps for other things than connections, unless that is more than half.
const NODE_FILES: u64 = 4_096;
/// Connections that the load needs, and some to spare.
const LOAD_CONNECTIONS: u64 = 512;
/// A key that no source has.
const UNKNOWN_KEY: &str = "bench-key-999";
/// How long a node may take to calm down.
const CALM: Duration = Duration::from_secs(10);

/// G9: the load of G4 beside idle connections, and beside connections whose heads do not end.
pub fn many_connections(bench: &mut Bench) -> Result<()> {
    beside_idle_connections(bench)?;
    beside_slow_heads(bench)
}

/// So many connections as wanted, or as the system allows, with what to say about it.
fn allowed(wanted: usize) -> Result<(usize, Vec<String>)> {
    let files = process::raise_open_files();
    let most = files.saturating_sub(NODE_FILES).max(files / 2).saturating_sub(LOAD_CONNECTIONS);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    if most == 0 {
        bail!("{files} open files are not enough for any connection");
    }
    let notes = if most < wanted {
        vec![format!("only {most} connections: the system allows {files} open files (ulimit -Hn)")]
    } else {
        Vec::new()
    };
    Ok((wanted.min(most), notes))
}

fn beside_idle_connections(bench: &mut Bench) -> Result<()> {
    let (count, mut notes) = allowed(IDLE)?;
    bench.check_disk()?;
    let setup = bench.setup(&[])?;
    let node = Node::start(&setup)?;
    let address = generator::address_of(&node.url())?;
    // What the first requests allocate once is no cost of a connection.
    drop(IdleConnections::open(address, UNKNOWN_KEY, 16)?);
    node.wait_until_calm(CALM)?;
    let before = process::rss_bytes(node.pid());
    let mut idle = IdleConnections::open(address, UNKNOWN_KEY, count)?;
    node.wait_until_calm(CALM)?;
    let grown = process::rss_bytes(node.pid()).saturating_sub(before) as f64;
    let load = steady_load(bench, &node);
    let watched = Watched { server: Some(node.pid()), ..Watched::default() };
    let measured = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
    let answering = idle.count_answering();
    if answering < idle.count() {
        bail!("of {} idle connections only {answering} could be used afterwards", idle.count());
    }
    drop(idle);
    node.stop()?;
    setup.forget();
    notes.push(format!("RSS {:.1} MiB before, {:.1} MiB more with {count}", before as f64 / MIB, grown / MIB));
    let lat = median(&measured.reps).lat_ms.unwrap_or_default();
    let mut targets =
        vec![Target::at_most("extra RSS per idle connection, KiB", grown / KIB / count as f64, 24.0, 12.0)];
    targets.extend(latency_targets(bench, &lat));
    bench.enter_noted("G9", &format!("{count} idle"), measured.reps, About::Latency, notes, targets);
    Ok(())
}

fn beside_slow_heads(bench: &mut Bench) -> Result<()> {
    let (count, mut notes) = allowed(SLOW)?;
    bench.check_disk()?;
    let setup = bench.setup(&[])?;
    let node = Node::start(&setup)?;
    let load = steady_load(bench, &node);
    let watched = Watched { server: Some(node.pid()), ..Watched::default() };
    // Just before, on the same node: what it is compared with should have had the same machine.
    let alone = bench.load(load.clone(), &watched, Counted::Acknowledged, |_| Ok(()))?;
    let slow = SlowHeads::start(generator::address_of(&node.url())?, count)?;
    let beside = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
    let told = slow.end()?;
    node.stop()?;
    setup.forget();
    notes.push(format!(
        "{:.0} bytes/s of heads; the node ended {} connections, {} could not be opened again, in {:.0} s",
        told.bytes as f64 / told.secs,
        told.ended,
        told.refused,
        told.secs
    ));
    let p99_of = |reps: &[Rep]| median(reps).lat_ms.unwrap_or_default().p99;
    let (p99_alone, p99_beside) = (p99_of(&alone.reps), p99_of(&beside.reps));
    notes.push(format!("ack p99 {p99_alone:.2} ms alone, {p99_beside:.2} ms beside them"));
    let targets = vec![Target::at_most("ack p99 / G4 alone", p99_beside / p99_alone, 2.0, 1.25)];
    bench.enter("G9", "G4 alone", alone.reps, About::Latency, Vec::new());
    bench.enter_noted("G9", &format!("{count} slow heads"), beside.reps, About::Latency, notes, targets);
    Ok(())
}

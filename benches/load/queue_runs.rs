//! Q1, Q6, Q2 and (full suite) Q4: what a backlog costs, how a node starts with one, how it drains one while
//! events come in.
//!
//! The backlog is filled while the sink holds its answers back; then the sink answers 1,000 a second while 1,000 a
//! second come in, so that the backlog keeps its size.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::delivery_runs::directory_target;
use crate::gateway_runs::USUAL;
use crate::measure::{About, Counted, Load, Watched, median, median_of};
use crate::node::{Node, Setup};
use crate::report::{Rep, Target};
use crate::sink_child::SinkChild;
use crate::suite::{Bench, PROBE_KEY};

/// Events a second in and out.
const STEADY: f64 = 1_000.0;
/// Probes of an idle destination, sent far apart.
const PROBES_PER_SEC: f64 = 25.0;
const PROBE_SECS: f64 = 4.0;

/// The backlog benchmarks, which share one growing backlog.
pub fn backlogs(bench: &mut Bench) -> Result<()> {
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let mut setup = bench.patient_setup(&[sink.url("/d0")])?;
    setup.sources.push((PROBE_KEY.to_owned(), vec![sink.url("/probe")]));
    let node = Node::start(&setup)?;
    let sizes = bench.plan.backlogs.clone();
    let (mut costs, mut filled, mut first_fetch) = (Vec::new(), 0, 0.0_f64);
    for size in sizes {
        sink.control("/d0", "hold=true")?;
        bench.fill(&node, size - filled)?;
        filled = size;
        node.wait_until_calm(Duration::from_secs(30 + size / 20_000))?;
        let reps = in_and_out(bench, &node, &sink)?;
        costs.push(median(&reps).cpu_us_per_event);
        bench.enter("Q1", &format!("backlog {size}"), reps, About::Cost, Vec::new());
        sink.control("/d0", "hold=true")?;
        first_fetch = first_fetch.max(probe_idle(bench, &node, &sink)?);
    }
    let (least, most) =
        costs.iter().fold((f64::MAX, 0.0_f64), |(least, most), &cost| (least.min(cost), most.max(cost)));
    let targets = vec![
        Target::at_most("CPU per event, max/min over sizes", most / least, 1.25, 1.10),
        Target::at_most("first fetch after idle, p99, ms", first_fetch, 20.0, 2.0),
    ];
    bench.enter_figures("Q1", "all sizes", Vec::new(), targets);
    if !bench.wants("Q6") && !bench.wants("Q2") {
        node.stop_beside_held_requests()?;
        setup.forget();
        return Ok(());
    }
    if let Some(note) = node.stop_beside_held_requests()? {
        println!("Q6: {note}");
    }
    let node = restart(bench, &setup, &sink, filled)?;
    if bench.wants("Q2") {
        drain_under_load(bench, &node, &sink, filled)?;
    }
    node.stop()?;
    setup.forget();
    Ok(())
}

/// 1,000 in and 1,000 out a second.
fn in_and_out(bench: &mut Bench, node: &Node, sink: &SinkChild) -> Result<Vec<Rep>> {
    let load = Load {
        connections: 64,
        rate: Some(STEADY),
        ramp: 2.0,
        secs: bench.plan.window_secs,
        windows: bench.plan.windows,
        ..Load::new(node.url())
    };
    sink.control("/d0", &format!("rate={STEADY}"))?;
    let watched = Watched { server: Some(node.pid()), admin_socket: None, sink: Some(sink) };
    let measured = bench.load(load, &watched, Counted::Delivered, |_| Ok(()))?;
    for rep in &measured.reps {
        if rep.rate < STEADY * 0.9 {
            bail!("only {:.0} events a second went out beside {STEADY} coming in", rep.rate);
        }
    }
    Ok(measured.reps)
}

/// From the acknowledgement of a lone event to its arrival at a destination that was idle, p99, milliseconds.
fn probe_idle(bench: &mut Bench, node: &Node, sink: &SinkChild) -> Result<f64> {
    let load = Load {
        write_key: PROBE_KEY.to_owned(),
        connections: 4,
        rate: Some(PROBES_PER_SEC),
        ramp: 1.0,
        secs: PROBE_SECS,
        ..Load::new(node.url())
    };
    let measured = bench
        .load(load, &Watched::default(), Counted::Acknowledged, |mark| if mark == 0 { sink.mark() } else { Ok(()) })?;
    let arrived = sink.path_stats("/probe")?;
    if arrived.lat_count == 0 {
        bail!("no probe arrived within {PROBE_SECS} s");
    }
    let acknowledged = median_of(measured.reps.iter().filter_map(|rep| rep.lat_ms.as_ref()).map(|lat| lat.p50));
    Ok((arrived.lat_ms.p99 - acknowledged).max(0.0))
}

/// Q6: a start with the backlog pending.
fn restart(bench: &mut Bench, setup: &Setup, sink: &SinkChild, pending: u64) -> Result<Node> {
    sink.control("/d0", "")?;
    sink.mark()?;
    let began_ns = now_ns();
    let node = Node::start(setup)?;
    if !bench.wants("Q6") {
        return Ok(node);
    }
    let mut first_ns = 0;
    for _ in 0..3_000 {
        first_ns = sink.path_stats("/d0")?.first_ns;
        if first_ns > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if first_ns == 0 {
        bail!("nothing was delivered within 30 s of the start");
    }
    let (floor, goal) = if pending > 5_000_000 { (5.0, 1.0) } else { (3.0, 0.5) };
    let ready = node.ready.as_secs_f64();
    // The delivery goes on while this is asked, so the first may come before the node says that it is ready.
    let first = first_ns.saturating_sub(began_ns) as f64 / 1e9;
    let targets = vec![
        Target::at_most("start to ready, s", ready, floor, goal),
        Target::at_most("start to first delivery, s", first, floor + 1.0, goal + 0.2),
    ];
    bench.enter_figures("Q6", &format!("{pending} pending"), Vec::new(), targets);
    Ok(node)
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Q2: the backlog drains while events come in at 30 % of G1. Then, in a full suite, Q4.
fn drain_under_load(bench: &mut Bench, node: &Node, sink: &SinkChild, backlog: u64) -> Result<()> {
    let ingest = bench.median("G1", &format!("c{USUAL}"))?.rate * 0.3;
    let (drain_alone, quiet_p99) = (
        bench.median("P1", "drain")?.rate,
        bench.median("G4", "500/s")?.lat_ms.as_ref().map_or(f64::NAN, |lat| lat.p99),
    );
    let load = Load {
        connections: USUAL,
        rate: Some(ingest),
        ramp: 2.0,
        secs: bench.plan.steady_secs,
        windows: bench.plan.windows,
        ..Load::new(node.url())
    };
    let watched = Watched { server: Some(node.pid()), admin_socket: None, sink: Some(sink) };
    let measured = bench.load(load, &watched, Counted::Delivered, |_| Ok(()))?;
    let middle = median(&measured.reps);
    let ack_p99 = middle.lat_ms.as_ref().map_or(f64::MAX, |lat| lat.p99);
    let ingested = backlog + measured.outcome.acked_events;
    let targets = vec![
        Target::at_least("drain rate / P1", middle.rate / drain_alone, 0.6, 0.8),
        Target::at_most("ingest ack p99 / G4", ack_p99 / quiet_p99, 4.0, 2.0),
    ];
    bench.enter("Q2", &format!("{ingest:.0}/s in"), measured.reps, About::Latency, targets);
    if bench.wants("Q4") && !bench.plan.quick {
        if !sink.wait_for_count(&["/d0".to_owned()], ingested, Duration::from_mins(30))? {
            bail!("the backlog was not drained within half an hour");
        }
        std::thread::sleep(bench.plan.rest);
        let target = directory_target(node.directory_bytes(), ingested);
        bench.enter_figures("Q4", "after Q2", Vec::new(), vec![target]);
    }
    Ok(())
}

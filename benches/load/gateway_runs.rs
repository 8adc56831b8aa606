//! G1 to G4 and G8, and what is read off while G1 runs (R2, R7): the gateway without destinations.

use std::time::Duration;

use anyhow::Result;

use crate::generator::Latency;
use crate::measure::{About, Counted, Load, Watched, median};
use crate::node::Node;
use crate::report::Target;
use crate::suite::Bench;
use crate::traced;

/// The number of connections that others compare with.
pub const USUAL: usize = 256;

const MIB: f64 = 1_048_576.0;

/// The numbers of connections that make a server busy.
pub fn busy_counts(bench: &Bench) -> Vec<usize> {
    bench.plan.connections.iter().copied().filter(|&count| count >= USUAL).collect()
}

/// G1: one `track-1k` per request, closed loop.
pub fn single_events(bench: &mut Bench) -> Result<()> {
    for connections in busy_counts(bench) {
        let variant = format!("c{connections}");
        let (a1_rate, a1_cpu) =
            (bench.anchors.figure("A1", &variant, "rps")?, bench.anchors.figure("A1", &variant, "cpu_us")?);
        bench.check_disk()?;
        let setup = bench.setup(&[])?;
        let mut node = Node::start(&setup)?;
        let load = throughput(bench, &node, "track-1k", connections);
        let socket = node.admin_socket().to_owned();
        let watched = Watched { server: Some(node.pid()), admin_socket: Some(&socket), sink: None };
        let measured = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
        let middle = median(&measured.reps);
        let flushes_times_c = middle.flushes / middle.requests.max(1) as f64 * connections as f64;
        let targets = vec![
            Target::at_least("rate / A1", middle.rate / a1_rate, 0.50, 0.75),
            Target::at_most("CPU per request / A1", middle.cpu_us_per_event / a1_cpu, 2.0, 1.5),
        ];
        let rss = middle.rss_peak as f64 / MIB;
        bench.enter("G1", &variant, measured.reps, About::Rate, targets);
        if bench.wants("G8") {
            let mut targets = vec![Target::at_most("flushes per request x c", flushes_times_c, 4.0, 2.2)];
            let mut notes = Vec::new();
            match traced::flushes(bench, &node, connections)? {
                Some(share) => targets.push(Target::at_least("traced flush calls / own counter", share, 0.90, 0.98)),
                None => notes.push("flush calls were not traced: no strace here".to_owned()),
            }
            bench.enter_figures("G8", &variant, notes, targets);
        }
        if bench.wants("R2") && connections == USUAL {
            let targets = vec![Target::at_most("RSS in G1, MiB", rss, 384.0, 192.0)];
            bench.enter_figures("R2", "default", Vec::new(), targets);
        }
        if bench.wants("R7") && connections == USUAL {
            let targets =
                vec![Target::at_most("graceful stop under load, s", stop_under_load(bench, &mut node)?, 10.0, 2.0)];
            bench.enter_figures("R7", &variant, Vec::new(), targets);
        } else {
            node.stop()?;
        }
        setup.forget();
    }
    Ok(())
}

/// Seconds from the signal to the end, while the generator goes on.
fn stop_under_load(bench: &mut Bench, node: &mut Node) -> Result<f64> {
    let load = Load { connections: USUAL, ramp: 1.0, secs: 0.5, windows: 1, ..Load::new(node.url()) };
    let mut took = Duration::ZERO;
    let outcome = bench.load(load, &Watched::default(), Counted::Acknowledged, |mark| {
        if mark == 0 {
            node.ask_to_stop()?;
            took = node.wait_for_end()?;
        }
        Ok(())
    });
    outcome?;
    Ok(took.as_secs_f64())
}

/// A closed loop of this corpus for as long as the plan says.
pub fn throughput(bench: &Bench, node: &Node, corpus: &str, connections: usize) -> Load {
    Load {
        corpus: corpus.to_owned(),
        connections,
        ramp: 3.0,
        secs: bench.plan.window_secs,
        windows: bench.plan.windows,
        ..Load::new(node.url())
    }
}

/// G2: twenty events per request.
pub fn batches(bench: &mut Bench) -> Result<()> {
    let single = bench.median("G1", &format!("c{USUAL}"))?.clone();
    let counts: &[usize] = if bench.plan.quick { &[64] } else { &[64, 256] };
    for &connections in counts {
        bench.check_disk()?;
        let setup = bench.setup(&[])?;
        let node = Node::start(&setup)?;
        let load = throughput(bench, &node, "batch-20", connections);
        let watched = Watched { server: Some(node.pid()), ..Watched::default() };
        let measured = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
        let middle = median(&measured.reps);
        let targets = vec![
            Target::at_most("CPU per event / G1", middle.cpu_us_per_event / single.cpu_us_per_event, 0.35, 0.20),
            Target::at_least("events/s / G1", middle.rate / single.rate, 4.0, 6.0),
        ];
        bench.enter("G2", &format!("c{connections}"), measured.reps, About::Rate, targets);
        node.stop()?;
        setup.forget();
    }
    Ok(())
}

/// G3: one connection (latency) and 64 (rate).
pub fn few_connections(bench: &mut Bench) -> Result<()> {
    for connections in [1, 64] {
        bench.check_disk()?;
        let setup = bench.setup(&[])?;
        let node = Node::start(&setup)?;
        let load = throughput(bench, &node, "track-1k", connections);
        let watched = Watched { server: Some(node.pid()), ..Watched::default() };
        let measured = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
        let middle = median(&measured.reps);
        let target = if connections == 1 {
            let p50 = middle.lat_ms.as_ref().map_or(f64::MAX, |lat| lat.p50);
            let f50 = bench.flush.f50;
            Target::at_most("ack p50, ms (1.5 F50 + 1; 1.1 F50 + 0.3)", p50, 1.5 * f50 + 1.0, 1.1 * f50 + 0.3)
        } else {
            let a4 = bench.anchors.figure("A4", "c64", "rps")?;
            Target::at_least("rate / A4", middle.rate / a4, 0.60, 0.85)
        };
        let about = if connections == 1 { About::Latency } else { About::Rate };
        bench.enter("G3", &format!("c{connections}"), measured.reps, about, vec![target]);
        node.stop()?;
        setup.forget();
    }
    Ok(())
}

/// G4: 500 events a second at fixed times.
pub fn steady_latency(bench: &mut Bench) -> Result<()> {
    bench.check_disk()?;
    let setup = bench.setup(&[])?;
    let node = Node::start(&setup)?;
    let load = steady_load(bench, &node);
    let watched = Watched { server: Some(node.pid()), ..Watched::default() };
    let measured = bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
    let lat = median(&measured.reps).lat_ms.unwrap_or_default();
    let targets = latency_targets(bench, &lat);
    bench.enter("G4", "500/s", measured.reps, About::Latency, targets);
    node.stop()?;
    setup.forget();
    Ok(())
}

/// The load of G4.
pub fn steady_load(bench: &Bench, node: &Node) -> Load {
    Load {
        connections: 256,
        rate: Some(500.0),
        ramp: 2.0,
        secs: bench.plan.latency_secs,
        windows: 3,
        ..Load::new(node.url())
    }
}

/// The targets of G4.
pub fn latency_targets(bench: &Bench, lat: &Latency) -> Vec<Target> {
    let flush = bench.flush;
    let (p99_floor, p99_goal) = p99_bounds(bench);
    vec![
        Target::at_most("ack p50, ms (2 F50 + 2; 1.5 F50 + 1)", lat.p50, 2.0 * flush.f50 + 2.0, 1.5 * flush.f50 + 1.0),
        Target::at_most("ack p99, ms (2 F99 + 10; 1.5 F99 + 3)", lat.p99, p99_floor, p99_goal),
    ]
}

/// Floor and goal of G4's p99, milliseconds.
pub fn p99_bounds(bench: &Bench) -> (f64, f64) {
    (2.0 * bench.flush.f99 + 10.0, 1.5 * bench.flush.f99 + 3.0)
}

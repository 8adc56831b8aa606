//! Q7: `kill -9` at random moments under half of the load that the node can take; nothing acknowledged may be lost.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::corpus::Random;
use crate::measure::{About, Counted, Load, Watched};
use crate::node::{Node, free_port};
use crate::report::{Rep, Target};
use crate::sink_child::SinkChild;
use crate::suite::Bench;

/// Jobs that the router may hold: one pick-up (router.md 24, `jobQueryBatchSize`).
const IN_FLIGHT: f64 = 10_000.0;
/// Results that it writes together (`updateStatusBatchSize`).
const ROUTER_BATCH: f64 = 1_000.0;
/// Seconds of one life, at most: restart, then one to three seconds of load.
const LIFE: f64 = 4.0;

/// Kills and restarts the node while the generator goes on, then compares acknowledged with delivered events.
pub fn kills(bench: &mut Bench) -> Result<()> {
    let rate = bench.median("P1", "steady")?.rate * 0.5;
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let mut setup = bench.setup(&[sink.url("/d0")])?;
    setup.port = free_port()?;
    let cycles = bench.plan.cycles;
    let mut node = Some(Node::start(&setup)?);
    let url = node.as_ref().map(Node::url).context("a node")?;
    let load = Load {
        connections: 64,
        rate: Some(rate),
        ramp: 1.0,
        secs: LIFE * cycles as f64,
        acked_file: Some(bench.file("acked")),
        ..Load::new(url)
    };
    let mut random = Random(0x0061_0000 + u64::from(std::process::id()));
    let mut slowest_start = Duration::ZERO;
    let measured = bench.load(load, &Watched::default(), Counted::Acknowledged, |mark| {
        for _ in 0..if mark == 0 { cycles } else { 0 } {
            std::thread::sleep(Duration::from_millis(1_000 + random.below(2_000) as u64));
            if let Some(running) = node.take() {
                running.kill()?;
            }
            let started = Node::start(&setup)?;
            slowest_start = slowest_start.max(started.ready);
            node = Some(started);
        }
        Ok(())
    })?;
    let lost = sink.wait_for("/d0", &measured.acked, Duration::from_mins(1))?;
    let books = sink.path_stats("/d0")?;
    let rep = Rep {
        acked: measured.acked.count(),
        events: books.distinct,
        secs: measured.reps.first().map_or(0.0, |rep| rep.secs),
        lost,
        dups: books.duplicates,
        order_violations: books.order_violations,
        ..Rep::default()
    };
    let targets = vec![
        Target::at_most("acknowledged but never delivered", lost as f64, 0.0, 0.0),
        Target::at_most("events out of order", books.order_violations as f64, 0.0, 0.0),
        Target::at_most("duplicates per kill", books.duplicates as f64 / cycles as f64, IN_FLIGHT, ROUTER_BATCH),
        Target::at_most("slowest restart, s", slowest_start.as_secs_f64(), 3.0, 0.5),
    ];
    println!(
        "Q7: {cycles} kills, {} events acknowledged, {} delivered, {lost} lost, {} duplicates, {} out of order",
        measured.acked.count(),
        books.distinct,
        books.duplicates,
        books.order_violations
    );
    bench.enter("Q7", &format!("{cycles} kills"), vec![rep], About::Cost, targets);
    if let Some(node) = node {
        node.stop()?;
    }
    setup.forget();
    Ok(())
}

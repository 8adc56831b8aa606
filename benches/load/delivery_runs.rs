//! P1, P2, P6, P7, P8 with Q3 and Q4: from HTTP in to HTTP out, webhook destinations on the local sink.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::gateway_runs::USUAL;
use crate::measure::{About, Counted, Load, Watched, median};
use crate::node::Node;
use crate::process;
use crate::report::{Rep, Target};
use crate::sink_child::SinkChild;
use crate::suite::Bench;

/// Events in flight between generator and sink in the steady run: more than the stages hold at once, less than a
/// second of work.
const OUTSTANDING: u64 = 10_000;
/// The log files that the default profile may keep.
const LOG_BUDGET: f64 = 256.0 * MIB;
const MIB: f64 = 1_048_576.0;
/// Deliveries that do not come for this long after the load has ended will not come.
const SETTLE: Duration = Duration::from_secs(30);

/// P1 steady and Q3. The highest rate at which the backlog does not grow is found by bounding it: the generator
/// sends as fast as deliveries allow.
pub fn steady(bench: &mut Bench) -> Result<()> {
    let variant = format!("c{USUAL}");
    let (a7_rate, a7_cpu) =
        (bench.anchors.figure("A7", &variant, "rps")?, bench.anchors.figure("A7", &variant, "cpu_us")?);
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let setup = bench.setup(&[sink.url("/d0")])?;
    let node = Node::start(&setup)?;
    let windows = bench.plan.windows;
    let load = Load {
        connections: USUAL,
        ramp: 3.0,
        secs: bench.plan.steady_secs,
        windows,
        outstanding: Some((OUTSTANDING, sink.address())),
        acked_file: Some(bench.file("acked")),
        ..Load::new(node.url())
    };
    let socket = node.admin_socket().to_owned();
    let watched = Watched { server: Some(node.pid()), admin_socket: Some(&socket), sink: Some(&sink) };
    let mut measured = bench.load(load, &watched, Counted::Delivered, |_| Ok(()))?;
    let lost = sink.wait_for("/d0", &measured.acked, SETTLE)?;
    let books = sink.path_stats("/d0")?;
    if let Some(last) = measured.reps.last_mut() {
        last.lost = lost;
        last.dups = books.duplicates;
        last.order_violations = books.order_violations;
        last.dir_bytes = node.directory_bytes();
    }
    let middle = median(&measured.reps);
    let (device, bodies): (u64, u64) =
        (measured.reps.iter().map(|rep| rep.device_bytes).sum(), measured.body_bytes.iter().sum());
    let targets = vec![
        Target::at_least("steady rate / A7", middle.rate / a7_rate, 0.45, 0.60),
        Target::at_most("CPU per event in+out / A7", middle.cpu_us_per_event / a7_cpu, 2.2, 1.7),
    ];
    bench.enter("P1", "steady", measured.reps, About::Rate, targets);
    if bench.wants("Q3") {
        let target = Target::at_most("device bytes / body bytes", device as f64 / bodies.max(1) as f64, 4.0, 2.5);
        let secs = bench.plan.steady_secs * windows as f64;
        bench.enter_figures("Q3", &format!("{secs:.0}s"), Vec::new(), vec![target]);
    }
    node.stop()?;
    setup.forget();
    Ok(())
}

/// P1 drain: a backlog that built up while the destination held its answers back, ingestion off. Then Q4.
pub fn drain(bench: &mut Bench) -> Result<()> {
    let a7_rate = bench.anchors.figure("A7", &format!("c{USUAL}"), "rps")?;
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let setup = bench.patient_setup(&[sink.url("/d0")])?;
    let node = Node::start(&setup)?;
    sink.control("/d0", "hold=true")?;
    let events = bench.plan.drain_events;
    let acked = bench.fill(&node, events)?;
    let (began, cpu_before) = (Instant::now(), process::cpu_secs(node.pid())?);
    sink.control("/d0", "")?;
    if !sink.wait_for_count(&["/d0".to_owned()], acked.count(), Duration::from_mins(5))? {
        bail!("the backlog was not drained within five minutes");
    }
    let secs = began.elapsed().as_secs_f64();
    let books = sink.path_stats("/d0")?;
    let rate = acked.count() as f64 / secs;
    let rep = Rep {
        events: acked.count(),
        secs,
        rate,
        cpu_us_per_event: (process::cpu_secs(node.pid())? - cpu_before) * 1e6 / acked.count() as f64,
        lost: acked.missing_from(&sink.seen("/d0")?),
        dups: books.duplicates,
        order_violations: books.order_violations,
        rss_peak: process::rss_peak_bytes(node.pid()),
        ..Rep::default()
    };
    let targets = vec![Target::at_least("drain rate / A7", rate / a7_rate, 0.45, 0.60)];
    bench.enter("P1", "drain", vec![rep], About::Rate, targets);
    if bench.wants("Q4") && bench.plan.quick {
        std::thread::sleep(bench.plan.rest);
        let target = directory_target(node.directory_bytes(), acked.count());
        bench.enter_figures("Q4", "after P1 drain", Vec::new(), vec![target]);
    }
    node.stop()?;
    setup.forget();
    Ok(())
}

/// Q4: what is left on disk when everything was delivered.
pub fn directory_target(bytes: u64, events: u64) -> Target {
    let ingested = events as f64 * 1_000.0;
    let floor = (ingested * 0.05).max(128.0 * MIB);
    Target::at_most(
        "data directory after the drain, MiB",
        bytes as f64 / MIB,
        floor / MIB,
        (64.0 * MIB + LOG_BUDGET) / MIB,
    )
}

/// P2: 500 events a second at fixed times, from the intended send time to the sink.
pub fn latency(bench: &mut Bench) -> Result<()> {
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let setup = bench.setup(&[sink.url("/d0")])?;
    let node = Node::start(&setup)?;
    let load = Load {
        connections: 256,
        rate: Some(500.0),
        ramp: 2.0,
        secs: bench.plan.latency_secs,
        windows: 3,
        acked_file: Some(bench.file("acked")),
        ..Load::new(node.url())
    };
    let watched = Watched { server: Some(node.pid()), admin_socket: None, sink: Some(&sink) };
    let mut to_sink = Vec::new();
    let mut measured = bench.load(load, &watched, Counted::Delivered, |mark| {
        if mark > 0 {
            to_sink.push(sink.path_stats("/d0")?.lat_ms);
        }
        sink.mark()
    })?;
    let lost = sink.wait_for("/d0", &measured.acked, SETTLE)?;
    let books = sink.path_stats("/d0")?;
    for (rep, lat) in measured.reps.iter_mut().zip(to_sink) {
        rep.lat_ms = Some(lat);
    }
    if let Some(last) = measured.reps.last_mut() {
        (last.lost, last.dups, last.order_violations) = (lost, books.duplicates, books.order_violations);
    }
    let lat = median(&measured.reps).lat_ms.unwrap_or_default();
    let flush = bench.flush;
    let targets = vec![
        Target::at_most(
            "to sink p50, ms (3 F50 + 10; 1.5 F50 + 3)",
            lat.p50,
            3.0 * flush.f50 + 10.0,
            1.5 * flush.f50 + 3.0,
        ),
        Target::at_most(
            "to sink p99, ms (4 F99 + 50; 2 F99 + 15)",
            lat.p99,
            4.0 * flush.f99 + 50.0,
            2.0 * flush.f99 + 15.0,
        ),
    ];
    bench.enter("P2", "500/s", measured.reps, About::Latency, targets);
    node.stop()?;
    setup.forget();
    Ok(())
}

/// Workers of a destination unless set otherwise.
const WORKERS: f64 = 64.0;

/// P7: a destination that takes 200 ms for each answer keeps every worker busy.
pub fn slow_destination(bench: &mut Bench) -> Result<()> {
    const LATENCY_SECS: f64 = 0.2;
    let drained = drained_at(bench, "latency_ms=200", bench.plan.slow_events, crate::corpus::USERS)?;
    let target = Target::at_least("rate / (workers / 0.2 s)", drained.rate / (WORKERS / LATENCY_SECS), 0.8, 0.95);
    bench.enter("P7", "200 ms, 5,000 users", vec![drained], About::Rate, vec![target]);
    Ok(())
}

/// P8: one user only, so that each delivery waits for the one before it.
pub fn one_user(bench: &mut Bench) -> Result<()> {
    const ROUND_TRIP_SECS: f64 = 0.001;
    let drained = drained_at(bench, "latency_ms=1", bench.plan.slow_events, 1)?;
    let targets = vec![
        Target::at_most("order violations", drained.order_violations as f64, 0.0, 0.0),
        Target::at_least("rate / (1 / 1 ms)", drained.rate * ROUND_TRIP_SECS, 0.5, 0.8),
    ];
    bench.enter("P8", "one user, 1 ms", vec![drained], About::Rate, targets);
    Ok(())
}

/// A backlog, and how it is drained to a destination that behaves as ordered.
fn drained_at(bench: &mut Bench, orders: &str, events: u64, users: u64) -> Result<Rep> {
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let setup = bench.patient_setup(&[sink.url("/d0")])?;
    let node = Node::start(&setup)?;
    sink.control("/d0", "hold=true")?;
    let acked = bench.fill_for(&node, events, users)?;
    let (began, cpu_before) = (Instant::now(), process::cpu_secs(node.pid())?);
    sink.control("/d0", orders)?;
    if !sink.wait_for_count(&["/d0".to_owned()], acked.count(), Duration::from_mins(3))? {
        bail!("the backlog was not drained within three minutes ({orders})");
    }
    let secs = began.elapsed().as_secs_f64();
    let books = sink.path_stats("/d0")?;
    let rep = Rep {
        events: acked.count(),
        secs,
        rate: acked.count() as f64 / secs,
        cpu_us_per_event: (process::cpu_secs(node.pid())? - cpu_before) * 1e6 / acked.count() as f64,
        lost: acked.missing_from(&sink.seen("/d0")?),
        dups: books.duplicates,
        order_violations: books.order_violations,
        rss_peak: process::rss_peak_bytes(node.pid()),
        ..Rep::default()
    };
    node.stop()?;
    setup.forget();
    Ok(rep)
}

/// What nine destinations do: deliveries per second of a drain, and p99 at a steady rate.
#[derive(Clone, Copy, Debug)]
struct Nine {
    rate: f64,
    p99: f64,
}

/// P6: ten destinations, of which one answers 500 and later hangs for 30 s per request.
pub fn one_bad_destination(bench: &mut Bench) -> Result<()> {
    bench.check_disk()?;
    let sink = SinkChild::start()?;
    let paths: Vec<String> = (0..10).map(|number| format!("/d{number}")).collect();
    let urls: Vec<String> = paths.iter().map(|path| sink.url(path)).collect();
    let setup = bench.setup(&urls)?;
    let node = Node::start(&setup)?;
    let healthy = nine(bench, &node, &sink, &paths, "")?;
    for (variant, orders) in [("answers 500", "status=500"), ("hangs 30 s", "hang_ms=30000")] {
        let beside = nine(bench, &node, &sink, &paths, orders)?;
        let targets = vec![
            Target::at_least("rate of the other nine / healthy", beside.rate / healthy.rate, 0.90, 0.98),
            Target::at_most("p99 of the other nine / healthy", beside.p99 / healthy.p99, 1.5, 1.1),
        ];
        let notes = vec![format!(
            "healthy {:.0}/s and {:.1} ms, beside the bad one {:.0}/s and {:.1} ms",
            healthy.rate, healthy.p99, beside.rate, beside.p99
        )];
        bench.enter_figures("P6", variant, notes, targets);
    }
    // The bad destination still has jobs in flight: the stop must not wait for them longer than its bound.
    if let Some(note) = node.stop_beside_held_requests()? {
        println!("P6: {note}");
    }
    setup.forget();
    Ok(())
}

/// Lets the first of the paths behave as ordered and measures the others.
fn nine(bench: &mut Bench, node: &Node, sink: &SinkChild, paths: &[String], orders: &str) -> Result<Nine> {
    let (bad, others) = paths.split_first().context("ten paths")?;
    sink.control(bad, orders)?;
    let before: u64 =
        sink.stats()?.iter().filter(|(path, _)| others.contains(path)).map(|(_, stats)| stats.distinct).sum();
    let began = Instant::now();
    let acked = bench.fill(node, bench.plan.fan_out_events)?;
    let count = acked.count() * others.len() as u64;
    if !sink.wait_for_count(others, before + count, Duration::from_mins(2))? {
        bail!("the other nine did not get {count} events within two minutes (first destination: {orders:?})");
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();

    let load = Load {
        connections: 64,
        rate: Some(100.0),
        ramp: 1.0,
        secs: bench.plan.latency_secs,
        acked_file: Some(bench.file("acked")),
        ..Load::new(node.url())
    };
    let measured = bench
        .load(load, &Watched::default(), Counted::Acknowledged, |mark| if mark == 0 { sink.mark() } else { Ok(()) })?;
    for path in others {
        let missing = sink.wait_for(path, &measured.acked, Duration::from_secs(30))?;
        if missing > 0 {
            bail!("{missing} events did not arrive at {path} (first destination: {orders:?})");
        }
    }
    let stats = sink.stats()?;
    let p99 = crate::measure::median_of(others.iter().filter_map(|path| stats.get(path)).map(|stats| stats.lat_ms.p99));
    Ok(Nine { rate, p99 })
}

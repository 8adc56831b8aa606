//! One run of the generator with the processes around it watched: repetitions, medians, and what to think of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::corpus::USERS;
use crate::generator::{Latency, Outcome, Window};
use crate::ledger::Seen;
use crate::node;
use crate::process::{self, Running};
use crate::report::{Rep, RunStatus, cores};
use crate::sink_child::SinkChild;

/// What the generator is told.
#[derive(Clone, Debug)]
pub struct Load {
    /// Server.
    pub url: String,
    /// `bench-key-000`.
    pub write_key: String,
    /// `track-1k`.
    pub corpus: String,
    /// Requests in flight, or most of them in an open loop.
    pub connections: usize,
    /// Requests per second; `None` = closed loop.
    pub rate: Option<f64>,
    /// Most send times of an open loop that wait for a connection; more are dropped. `None`: all wait.
    pub most_waiting: Option<usize>,
    /// Another rate after the windows, in windows of its own.
    pub then: Option<Then>,
    /// A new connection for each request.
    pub fresh: bool,
    /// Statuses that are no errors.
    pub expected: &'static [u16],
    /// Seconds before counting.
    pub ramp: f64,
    /// Seconds of one window.
    pub secs: f64,
    /// Windows.
    pub windows: usize,
    /// Instead of windows: stop after so many events.
    pub events: Option<u64>,
    /// Distinct users.
    pub users: u64,
    /// Number of the first event.
    pub first_event: u64,
    /// Most events sent and not yet delivered, and the sink that tells.
    pub outstanding: Option<(u64, std::net::SocketAddr)>,
    /// File for the numbers of acknowledged events.
    pub acked_file: Option<PathBuf>,
}

/// A rate that follows another one.
#[derive(Clone, Copy, Debug)]
pub struct Then {
    /// Requests per second.
    pub rate: f64,
    /// Seconds of one window.
    pub secs: f64,
    /// Windows.
    pub windows: usize,
}

impl Load {
    /// A closed loop of `track-1k` with 64 connections, one window.
    pub fn new(url: String) -> Load {
        Load {
            url,
            write_key: "bench-key-000".to_owned(),
            corpus: "track-1k".to_owned(),
            connections: 64,
            rate: None,
            most_waiting: None,
            then: None,
            fresh: false,
            expected: &[200],
            ramp: 2.0,
            secs: 5.0,
            windows: 1,
            events: None,
            users: USERS,
            first_event: 0,
            outstanding: None,
            acked_file: None,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["load", "--url", &self.url, "--write-key", &self.write_key, "--corpus", &self.corpus]
                .map(str::to_owned)
                .to_vec();
        let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
        add("--connections", self.connections.to_string());
        add("--ramp", self.ramp.to_string());
        add("--secs", self.secs.to_string());
        add("--windows", self.windows.to_string());
        add("--users", self.users.to_string());
        add("--first-event", self.first_event.to_string());
        if let Some(rate) = self.rate {
            add("--rate", rate.to_string());
        }
        if let Some(most) = self.most_waiting {
            add("--most-waiting", most.to_string());
        }
        if let Some(then) = self.then {
            add("--then-rate", then.rate.to_string());
            add("--then-secs", then.secs.to_string());
            add("--then-windows", then.windows.to_string());
        }
        if let Some(events) = self.events {
            add("--events", events.to_string());
        }
        if let Some((events, sink)) = self.outstanding {
            add("--outstanding", events.to_string());
            add("--sink", sink.to_string());
        }
        if let Some(path) = &self.acked_file {
            add("--acked-file", path.display().to_string());
        }
        if self.fresh {
            words.push("--fresh".to_owned());
        }
        words
    }

    /// The longest time that the generator may take.
    fn bound(&self) -> Duration {
        let then = self.then.map_or(0.0, |then| then.secs * then.windows as f64);
        let planned = self.ramp + self.secs * self.windows as f64 + then;
        Duration::from_secs_f64(if self.events.is_some() { 900.0 } else { planned + 60.0 })
    }
}

/// Which events make the rate and divide the processor time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Acknowledged ones.
    Acknowledged,
    /// Delivered ones, as the sink counts them.
    Delivered,
    /// Requests that were answered, whatever the answer.
    Answered,
}

/// The processes around the generator.
#[derive(Clone, Copy, Default)]
pub struct Watched<'a> {
    /// The server under test.
    pub server: Option<u32>,
    /// Its admin socket, when flushes are wanted.
    pub admin_socket: Option<&'a Path>,
    /// Where it delivers.
    pub sink: Option<&'a SinkChild>,
}

/// What a run gave.
#[derive(Debug, Default)]
pub struct Measured {
    /// One per window.
    pub reps: Vec<Rep>,
    /// Bytes of acknowledged bodies, one per window.
    pub body_bytes: Vec<u64>,
    /// The generator's own figures.
    pub outcome: Outcome,
    /// Acknowledged events, when a file for them was given.
    pub acked: Seen,
}

#[derive(Clone, Copy, Debug)]
struct Snapshot {
    at: Instant,
    server_cpu: f64,
    generator_cpu: f64,
    sink_cpu: f64,
    device_bytes: u64,
    flushes: f64,
    delivered: u64,
}

impl Watched<'_> {
    fn snapshot(&self, generator: u32) -> Result<Snapshot> {
        let cpu = |pid: Option<u32>| pid.map_or(Ok(0.0), process::cpu_secs);
        Ok(Snapshot {
            at: Instant::now(),
            server_cpu: cpu(self.server)?,
            generator_cpu: process::cpu_secs(generator)?,
            sink_cpu: cpu(self.sink.map(SinkChild::pid))?,
            device_bytes: self.server.map_or(0, process::device_bytes),
            flushes: self.admin_socket.map_or(Ok(0.0), node::flushes)?,
            delivered: self.sink.map_or(Ok(0), SinkChild::delivered)?,
        })
    }
}

/// Runs the generator; `at_mark` is called at the beginning of the first window (0) and at the end of each.
pub fn run_load(
    load: &Load,
    watched: &Watched<'_>,
    counted: Counted,
    mut at_mark: impl FnMut(usize) -> Result<()>,
) -> Result<Measured> {
    #[derive(Deserialize)]
    struct Mark {
        mark: usize,
    }
    let mut generator = Running::start_self("generator", &load.arguments())?;
    let until = Instant::now() + load.bound();
    let mut snapshots = Vec::new();
    let outcome: Outcome = loop {
        let line = generator.line(until.saturating_duration_since(Instant::now()))?;
        match serde_json::from_str::<Mark>(&line) {
            Ok(Mark { mark }) => {
                snapshots.push(watched.snapshot(generator.pid())?);
                at_mark(mark)?;
            }
            Err(_) => break serde_json::from_str(&line).with_context(|| format!("the generator said {line:?}"))?,
        }
    };
    generator.wait(Duration::from_secs(10))?;
    let mut measured = Measured::default();
    for (pair, window) in snapshots.windows(2).zip(&outcome.windows) {
        measured.body_bytes.push(window.body_bytes);
        measured.reps.push(rep(pair[0], pair[1], window, watched, counted, load.expected));
    }
    if let Some(path) = &load.acked_file {
        measured.acked = Seen::from_bytes(&std::fs::read(path)?);
        std::fs::remove_file(path).ok();
    }
    measured.outcome = outcome;
    Ok(measured)
}

fn rep(
    begin: Snapshot,
    end: Snapshot,
    window: &Window,
    watched: &Watched<'_>,
    counted: Counted,
    expected: &[u16],
) -> Rep {
    let secs = (end.at - begin.at).as_secs_f64();
    let events = match counted {
        Counted::Acknowledged => window.events,
        Counted::Delivered => end.delivered - begin.delivered.min(end.delivered),
        Counted::Answered => window.requests,
    };
    let per_event = |cpu: f64| if events == 0 { 0.0 } else { cpu * 1e6 / events as f64 };
    let mut errors: BTreeMap<String, u64> = window.errors.clone();
    for (status, count) in window.statuses.iter().filter(|(status, _)| !expected.contains(*status)) {
        errors.insert(format!("status {status}"), *count);
    }
    Rep {
        events,
        secs,
        acked: window.events,
        requests: window.requests,
        errors,
        rate: events as f64 / secs,
        cpu_us_per_event: per_event(end.server_cpu - begin.server_cpu),
        gen_cpu_us_per_event: per_event(end.generator_cpu - begin.generator_cpu),
        sink_cpu_us_per_event: per_event(end.sink_cpu - begin.sink_cpu),
        lat_ms: Some(window.lat_ms.clone()),
        behind_p99_ms: window.behind_p99_ms,
        device_bytes: end.device_bytes - begin.device_bytes.min(end.device_bytes),
        flushes: end.flushes - begin.flushes,
        rss_peak: watched.server.map_or(0, process::rss_peak_bytes),
        ..Rep::default()
    }
}

/// The median of a few numbers.
pub fn median_of(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// The median of each figure.
pub fn median(reps: &[Rep]) -> Rep {
    let float = |of: fn(&Rep) -> f64| median_of(reps.iter().map(of));
    let whole = |of: fn(&Rep) -> u64| median_of(reps.iter().map(|rep| of(rep) as f64)) as u64;
    let latencies: Vec<&Latency> = reps.iter().filter_map(|rep| rep.lat_ms.as_ref()).collect();
    let latency = |of: fn(&Latency) -> f64| median_of(latencies.iter().map(|lat| of(lat)));
    let mut errors = BTreeMap::new();
    for (kind, count) in reps.iter().flat_map(|rep| &rep.errors) {
        *errors.entry(kind.clone()).or_default() += count;
    }
    Rep {
        events: whole(|rep| rep.events),
        secs: float(|rep| rep.secs),
        acked: whole(|rep| rep.acked),
        requests: whole(|rep| rep.requests),
        errors,
        rate: float(|rep| rep.rate),
        cpu_us_per_event: float(|rep| rep.cpu_us_per_event),
        gen_cpu_us_per_event: float(|rep| rep.gen_cpu_us_per_event),
        sink_cpu_us_per_event: float(|rep| rep.sink_cpu_us_per_event),
        lat_ms: (!latencies.is_empty()).then(|| Latency {
            p50: latency(|lat| lat.p50),
            p90: latency(|lat| lat.p90),
            p99: latency(|lat| lat.p99),
            p999: latency(|lat| lat.p999),
            max: latency(|lat| lat.max),
        }),
        behind_p99_ms: float(|rep| rep.behind_p99_ms),
        device_bytes: whole(|rep| rep.device_bytes),
        flushes: float(|rep| rep.flushes),
        rss_peak: reps.iter().map(|rep| rep.rss_peak).max().unwrap_or(0),
        dir_bytes: whole(|rep| rep.dir_bytes),
        dups: reps.iter().map(|rep| rep.dups).sum(),
        lost: reps.iter().map(|rep| rep.lost).sum(),
        order_violations: reps.iter().map(|rep| rep.order_violations).sum(),
    }
}

/// Longest lateness of the generator with which an open loop still counts, milliseconds.
const MOST_BEHIND_MS: f64 = 5.0;

/// What a run is about, which decides what makes it worthless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Events per second: not when generator and sink took the machine.
    Rate,
    /// Times: not when the generator was late.
    Latency,
    /// Processor time or bytes per event, or counts.
    Cost,
}

/// What to think of repetitions, and why.
pub fn judge(reps: &[Rep], about: About) -> (RunStatus, Vec<String>) {
    let together = median(reps);
    let mut notes = Vec::new();
    if reps.is_empty() {
        notes.push("nothing was measured".to_owned());
    }
    if !together.errors.is_empty() {
        notes.push(format!("errors: {:?}", together.errors));
    }
    if together.lost > 0 {
        notes.push(format!("{} acknowledged events were not delivered", together.lost));
    }
    if together.order_violations > 0 {
        notes.push(format!("{} events came after a later one of their user", together.order_violations));
    }
    if about == About::Latency && together.behind_p99_ms > MOST_BEHIND_MS {
        notes.push(format!("the generator was {:.1} ms late (p99): the run is invalid", together.behind_p99_ms));
    }
    if !notes.is_empty() {
        return (RunStatus::Failed, notes);
    }
    let around = (together.gen_cpu_us_per_event + together.sink_cpu_us_per_event) * together.rate / 1e6;
    if about == About::Rate && around > cores() as f64 / 2.0 {
        return (RunStatus::GeneratorBound, vec![format!("generator and sink took {around:.2} of {} cores", cores())]);
    }
    (RunStatus::Ok, notes)
}

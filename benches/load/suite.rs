//! Which benchmarks are run, at which size, in which order, and what they share.
//!
//! A benchmark that another one compares with is run before it, also when only the other was asked for.
//! One that cannot be run is a failed run in the report, not the end of the suite.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::anchors::{Anchors, FlushCost};
use crate::body_runs;
use crate::crash_runs;
use crate::delivery_runs;
use crate::gateway_runs;
use crate::measure::{self, About, Counted, Load, Measured, Watched, run_load};
use crate::node::{Node, Setup};
use crate::overload_runs;
use crate::queue_runs;
use crate::report::{self, Build, Machine, Rep, Report, Run, RunStatus, Target};
use crate::resource_runs::{self, IdleNodes};

/// Every benchmark, in the order in which they are run.
pub const ALL: [&str; 25] = [
    "R5", "G1", "G8", "R2", "R7", "G2", "G3", "G4", "G5", "G6", "G7", "G9", "P1", "Q3", "Q4", "P2", "P6", "P7", "P8",
    "Q1", "Q6", "Q2", "Q7", "R1", "R4",
];
/// Those that a quick suite leaves out.
const FULL_ONLY: [&str; 4] = ["G5", "G6", "G7", "G9"];

/// The benchmarks of a suite.
pub fn of_size(full: bool) -> Vec<&'static str> {
    ALL.into_iter().filter(|id| full || !FULL_ONLY.contains(id)).collect()
}

/// The write key of the source that load goes to.
pub const WRITE_KEY: &str = "bench-key-000";
/// The write key of a second source, for probes beside the load.
pub const PROBE_KEY: &str = "bench-key-001";

/// What the user asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The binary under test
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Directory for data directories; its file system is what is measured
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Write the report to this file
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Name of the build profile, for the report
    #[arg(long, default_value = "unnamed")]
    pub profile_name: String,
    /// Cycles of Q7 (kill -9) instead of the usual number
    #[arg(long)]
    pub cycles: Option<usize>,
    /// Backlogs of at most this many events, where space or time is short
    #[arg(long)]
    pub most_events: Option<u64>,
    /// Sizes of a full suite also for single benchmarks
    #[arg(long)]
    pub full: bool,
}

/// Sizes and times (performance.md 7).
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether this is the short form.
    pub quick: bool,
    /// Counted windows of a throughput run, one after the other in the same run.
    pub windows: usize,
    /// Seconds of each.
    pub window_secs: f64,
    /// Windows of a latency run are this long.
    pub latency_secs: f64,
    /// Connections of G1 and of the anchors that it is compared with.
    pub connections: Vec<usize>,
    /// Seconds of one anchor measurement.
    pub anchor_secs: f64,
    /// Seconds of the disk check before a run, at each priority.
    pub check_secs: f64,
    /// Backlogs of Q1.
    pub backlogs: Vec<u64>,
    /// Backlog of P1.
    pub drain_events: u64,
    /// Events that P6 drains to ten destinations.
    pub fan_out_events: u64,
    /// Events of P7 and P8.
    pub slow_events: u64,
    /// Windows of the steady run of P1 are this long.
    pub steady_secs: f64,
    /// Rest between the end of deliveries and Q4.
    pub rest: Duration,
    /// Kills of Q7.
    pub cycles: usize,
    /// Nothing new is begun after this.
    pub bound: Duration,
}

impl Plan {
    /// All benchmarks in about six minutes.
    pub fn quick() -> Plan {
        Plan {
            quick: true,
            windows: 3,
            window_secs: 4.0,
            latency_secs: 8.0,
            connections: vec![1, 64, 256],
            anchor_secs: 2.0,
            check_secs: 0.6,
            backlogs: vec![10_000, 100_000, 1_000_000],
            drain_events: 200_000,
            fan_out_events: 3_000,
            slow_events: 3_000,
            steady_secs: 6.0,
            rest: Duration::from_secs(10),
            cycles: 3,
            bound: Duration::from_mins(15),
        }
    }

    /// All benchmarks at full size.
    pub fn full() -> Plan {
        Plan {
            quick: false,
            windows: 5,
            window_secs: 10.0,
            latency_secs: 40.0,
            connections: vec![1, 64, 256, 1024],
            anchor_secs: 3.0,
            check_secs: 2.0,
            backlogs: vec![10_000, 100_000, 1_000_000, 10_000_000],
            drain_events: 200_000,
            fan_out_events: 10_000,
            slow_events: 10_000,
            steady_secs: 30.0,
            rest: Duration::from_mins(1),
            cycles: 20,
            bound: Duration::from_mins(90),
        }
    }
}

/// What the benchmarks share.
pub struct Bench {
    /// Sizes and times.
    pub plan: Plan,
    /// The anchors.
    pub anchors: Anchors,
    /// What a flush cost before the present run.
    pub flush: FlushCost,
    /// What was measured so far.
    pub runs: Vec<Run>,
    first_flush: Option<FlushCost>,
    noisy: bool,
    binary: PathBuf,
    dir: PathBuf,
    next_home: usize,
    next_event: u64,
    wanted: BTreeSet<String>,
}

impl Bench {
    fn new(plan: Plan, options: &Options, dir: &Path) -> Result<Bench> {
        let binary = options.binary.clone().or_else(|| option_env!("CARGO_BIN_EXE_pintle").map(PathBuf::from));
        let binary = binary.context("name the binary under test with --binary")?;
        Ok(Bench {
            anchors: Anchors::new(dir, plan.anchor_secs),
            plan,
            flush: FlushCost::default(),
            runs: Vec::new(),
            first_flush: None,
            noisy: false,
            binary: binary.canonicalize().with_context(|| format!("no binary at {}", binary.display()))?,
            dir: dir.to_owned(),
            next_home: 0,
            next_event: 0,
            wanted: BTreeSet::new(),
        })
    }

    /// Whether a benchmark was asked for.
    pub fn wants(&self, id: &str) -> bool {
        self.wanted.contains(id)
    }

    /// A node in a fresh directory, default profile, no destination at the first source.
    pub fn setup(&mut self, urls: &[String]) -> Result<Setup> {
        self.next_home += 1;
        let home = self.dir.join(format!("node-{}", self.next_home));
        std::fs::create_dir_all(&home)?;
        let environment = [
            ("PINTLE_PROFILE", "default"),
            // Space that is only reserved is not data.
            ("PINTLE_STORAGE_BALLAST", "0"),
        ];
        Ok(Setup {
            binary: self.binary.clone(),
            home,
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            port: 0,
            sources: vec![(WRITE_KEY.to_owned(), urls.to_vec())],
        })
    }

    /// A setup whose sink may hold requests back for as long as it takes to fill a backlog.
    pub fn patient_setup(&mut self, urls: &[String]) -> Result<Setup> {
        let mut setup = self.setup(urls)?;
        setup.environment.push(("PINTLE_ROUTER_HTTP_TIMEOUT".to_owned(), "600s".to_owned()));
        Ok(setup)
    }

    /// A file in the suite's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Looks at the disk before a run, and waits for it to behave as at the beginning, twice.
    pub fn check_disk(&mut self) -> Result<()> {
        for attempt in 0..3 {
            self.flush = self.anchors.flush_cost(self.plan.check_secs)?;
            let first = *self.first_flush.get_or_insert(self.flush);
            let device_moved = match (first.d50, self.flush.d50) {
                (Some(before), Some(now)) => now > before * 1.5 || now < before * 0.5,
                _ => false,
            };
            let moved = self.flush.f50 > first.f50 * 2.0 || self.flush.f50 < first.f50 / 2.0;
            self.noisy = device_moved || moved;
            if !self.noisy {
                break;
            }
            if attempt < 2 {
                std::thread::sleep(Duration::from_secs(2));
            }
        }
        Ok(())
    }

    /// Sends load, with event numbers that were not used before.
    pub fn load(
        &mut self,
        mut load: Load,
        watched: &Watched<'_>,
        counted: Counted,
        at_mark: impl FnMut(usize) -> Result<()>,
    ) -> Result<Measured> {
        load.first_event = self.next_event;
        let measured = run_load(&load, watched, counted, at_mark)?;
        self.next_event = measured.outcome.next_event;
        Ok(measured)
    }

    /// Sends so many events in batches of twenty as fast as they are taken; the numbers of those acknowledged.
    pub fn fill(&mut self, node: &Node, events: u64) -> Result<crate::ledger::Seen> {
        self.fill_for(node, events, crate::corpus::USERS)
    }

    /// The same for so many users.
    pub fn fill_for(&mut self, node: &Node, events: u64, users: u64) -> Result<crate::ledger::Seen> {
        let load = Load {
            corpus: "batch-20".to_owned(),
            connections: 32,
            events: Some(events),
            users,
            acked_file: Some(self.file("acked")),
            ..Load::new(node.url())
        };
        let measured = self.load(load, &Watched::default(), Counted::Acknowledged, |_| Ok(()))?;
        if measured.acked.count() < events {
            bail!("only {} of {events} events were taken", measured.acked.count());
        }
        Ok(measured.acked)
    }

    /// The median of a run that was made before.
    pub fn median(&self, id: &str, variant: &str) -> Result<&Rep> {
        let run = self.runs.iter().find(|run| run.id == id && run.variant == variant);
        let run = run.with_context(|| format!("{id} {variant} is needed and was not run"))?;
        if run.status == RunStatus::Failed {
            bail!("{id} {variant} is needed and failed");
        }
        Ok(&run.median)
    }

    /// Enters a run in the report and prints it.
    pub fn enter(&mut self, id: &str, variant: &str, reps: Vec<Rep>, about: About, targets: Vec<Target>) {
        self.enter_noted(id, variant, reps, about, Vec::new(), targets);
    }

    /// The same with notes, which are no blemish.
    pub fn enter_noted(
        &mut self,
        id: &str,
        variant: &str,
        reps: Vec<Rep>,
        about: About,
        mut notes: Vec<String>,
        targets: Vec<Target>,
    ) {
        let (mut status, blemishes) = measure::judge(&reps, about);
        notes.extend(blemishes);
        if self.noisy && status == RunStatus::Ok {
            status = RunStatus::Noisy;
            notes.push("the disk does not behave as at the beginning of the suite".to_owned());
        }
        let median = measure::median(&reps);
        self.push(Run { id: id.to_owned(), variant: variant.to_owned(), status, notes, reps, median, targets });
    }

    /// Enters figures that are not windows of load.
    pub fn enter_figures(&mut self, id: &str, variant: &str, notes: Vec<String>, targets: Vec<Target>) {
        let median = Rep::default();
        let status = if self.noisy { RunStatus::Noisy } else { RunStatus::Ok };
        self.push(Run {
            id: id.to_owned(),
            variant: variant.to_owned(),
            status,
            notes,
            reps: Vec::new(),
            median,
            targets,
        });
    }

    fn fail(&mut self, id: &str, error: &anyhow::Error) {
        let notes = vec![format!("could not be run: {error:#}")];
        self.push(Run {
            id: id.to_owned(),
            variant: "-".to_owned(),
            status: RunStatus::Failed,
            notes,
            reps: Vec::new(),
            median: Rep::default(),
            targets: Vec::new(),
        });
    }

    fn push(&mut self, run: Run) {
        report::print_run(&run);
        self.runs.push(run);
    }

    fn has(&self, id: &str) -> bool {
        self.runs.iter().any(|run| run.id == id)
    }

    /// Runs what was asked for and what that is compared with.
    fn run(&mut self, ids: &[&str], bound: Instant) {
        self.wanted = ids.iter().map(|id| (*id).to_owned()).collect();
        for &id in ids {
            self.wanted.extend(compared_with(id).iter().map(|id| (*id).to_owned()));
        }
        let idle = (self.wants("R1") || self.wants("R4")).then(|| IdleNodes::start(self)).transpose();
        let groups: [(&[&str], Measurement); 18] = [
            (&["R5"], resource_runs::start_time),
            (&["G1", "G8", "R2", "R7"], gateway_runs::single_events),
            (&["G2"], gateway_runs::batches),
            (&["G3"], gateway_runs::few_connections),
            (&["G4"], gateway_runs::steady_latency),
            (&["G5"], body_runs::compressed),
            (&["G6"], body_runs::refused),
            (&["G7"], overload_runs::overload),
            (&["G9"], overload_runs::many_connections),
            (&["P1", "Q3"], delivery_runs::steady),
            (&["P1", "Q4"], delivery_runs::drain),
            (&["P2"], delivery_runs::latency),
            (&["P6"], delivery_runs::one_bad_destination),
            (&["P7"], delivery_runs::slow_destination),
            (&["P8"], delivery_runs::one_user),
            (&["Q1", "Q6", "Q2"], queue_runs::backlogs),
            (&["Q7"], crash_runs::kills),
            (&["R2"], resource_runs::small_profile),
        ];
        for (ids, measure) in groups {
            let asked: Vec<&str> = ids.iter().copied().filter(|id| self.wants(id)).collect();
            let Some(&first) = asked.first() else { continue };
            if Instant::now() >= bound {
                self.fail(first, &anyhow::anyhow!("no time left within the bound of the suite"));
                continue;
            }
            if let Err(error) = measure(self) {
                self.fail(asked.iter().copied().find(|id| !self.has(id)).unwrap_or(first), &error);
            }
        }
        match idle {
            Ok(Some(idle)) => {
                if let Err(error) = idle.finish(self) {
                    self.fail("R1", &error);
                }
            }
            Ok(None) => {}
            Err(error) => self.fail("R1", &error),
        }
        let missing: Vec<&str> = ids.iter().copied().filter(|id| !self.has(id)).collect();
        for id in missing {
            self.fail(id, &anyhow::anyhow!("the run that gives this figure did not end"));
        }
    }
}

/// Measures a few benchmarks that share a node and enters them.
type Measurement = fn(&mut Bench) -> Result<()>;

/// Benchmarks whose figures another one needs.
fn compared_with(id: &str) -> &'static [&'static str] {
    match id {
        "G2" | "G7" | "G8" | "R7" | "R2" => &["G1"],
        "Q3" | "Q4" | "Q7" => &["P1"],
        "Q2" => &["G1", "G4", "P1", "Q1"],
        "Q6" => &["Q1"],
        _ => &[],
    }
}

/// Measures anchors only.
pub fn anchors(options: &Options) -> Result<()> {
    let (plan, home) = (plan(options), home(options)?);
    let mut anchors = Anchors::new(home.path(), plan.anchor_secs);
    anchors.measure_all(&plan.connections)?;
    if let Some(path) = &options.out {
        std::fs::write(path, serde_json::to_vec_pretty(&anchors.measured)?)?;
    }
    Ok(())
}

fn plan(options: &Options) -> Plan {
    let mut plan = if options.full { Plan::full() } else { Plan::quick() };
    if let Some(cycles) = options.cycles {
        plan.cycles = cycles;
    }
    if let Some(most) = options.most_events {
        plan.backlogs.retain(|&size| size <= most);
        plan.drain_events = plan.drain_events.min(most);
        plan.fan_out_events = plan.fan_out_events.min(most);
    }
    plan
}

fn home(options: &Options) -> Result<tempfile::TempDir> {
    // The build directory rather than the system's: the latter is often kept in memory, where a flush is nothing.
    let usual = option_env!("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let parent = options.dir.clone().unwrap_or(usual);
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    tempfile::Builder::new()
        .prefix("pintle-load-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))
}

/// Runs benchmarks, prints them, writes the report. True when every floor holds.
pub fn run(options: &Options, ids: &[&str], all_anchors: bool) -> Result<bool> {
    if let Some(unknown) = ids.iter().find(|id| !ALL.contains(*id)) {
        bail!("there is no benchmark {unknown:?}; known: {}", ALL.join(" "));
    }
    let (plan, home) = (plan(options), home(options)?);
    let mut bench = Bench::new(plan.clone(), options, home.path())?;
    let mut machine = Machine::here(home.path());
    let started = jiff::Timestamp::now().to_string();
    let began = Instant::now();
    if all_anchors {
        bench.anchors.measure_all(&plan.connections)?;
    }
    report::print_heading();
    bench.run(ids, began + plan.bound);
    machine.load_after = report::load_average();
    let report = Report {
        schema: 1,
        started,
        build: Build::of(&bench.binary, &options.profile_name),
        machine,
        anchors: bench.anchors.measured,
        runs: bench.runs,
    };
    println!(
        "\n{:.0} s; load average {} before, {} after\n",
        began.elapsed().as_secs_f64(),
        report.machine.load_before,
        report.machine.load_after
    );
    report::print_heading();
    for run in &report.runs {
        report::print_targets(run);
    }
    if let Some(path) = &options.out {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
    }
    Ok(report.holds())
}

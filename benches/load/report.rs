//! What a run is in the result file (performance.md 7) and on the terminal.

use std::collections::BTreeMap;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::generator::Latency;

/// One suite.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form.
    pub schema: u32,
    /// RFC 3339.
    pub started: String,
    /// What was measured.
    pub build: Build,
    /// On what.
    pub machine: Machine,
    /// Anchor to variant (`c256`) to figure.
    pub anchors: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>,
    /// Benchmarks.
    pub runs: Vec<Run>,
}

impl Report {
    /// Whether nothing failed and every floor holds.
    pub fn holds(&self) -> bool {
        self.runs.iter().all(|run| run.status != RunStatus::Failed && run.targets.iter().all(|target| target.pass))
    }
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Build {
    /// Revision of the tree, with `-dirty` when it was changed.
    pub commit: String,
    /// Version of the compiler.
    pub rustc: String,
    /// Path of the binary.
    pub binary: String,
    /// Profile as told by `--profile-name`.
    pub profile: String,
    /// Memory allocator of the binary.
    pub allocator: String,
    /// Bytes of the binary.
    pub binary_bytes: u64,
}

/// On what it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors.
    pub cores: usize,
    /// Memory.
    pub mem_bytes: u64,
    /// Version of the kernel.
    pub kernel: String,
    /// File system of the data directory.
    pub fs: String,
    /// Its mount options.
    pub mount: String,
    /// Load average before the suite.
    pub load_before: String,
    /// And after.
    pub load_after: String,
}

/// What to think of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    /// Counts.
    Ok,
    /// The disk behaved otherwise than at the beginning.
    Noisy,
    /// Generator and sink took more than half of the machine: only processor time per event counts.
    GeneratorBound,
    /// Errors, losses, order violations, or it could not be run.
    Failed,
}

/// One benchmark in one variant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// `G1`.
    pub id: String,
    /// `c256`.
    pub variant: String,
    /// What to think of it.
    pub status: RunStatus,
    /// Why it is not `ok`, and what else should be known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Counted repetitions.
    pub reps: Vec<Rep>,
    /// Median of each figure over the repetitions.
    pub median: Rep,
    /// What is asked of it.
    pub targets: Vec<Target>,
}

/// Figures of one repetition; a figure that was not taken is left out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rep {
    /// Events that count (acknowledged, or delivered in end-to-end runs).
    pub events: u64,
    /// Length.
    pub secs: f64,
    /// Acknowledged events.
    pub acked: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Transport errors and statuses other than those that the run is about, mostly 200.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Events per second.
    pub rate: f64,
    /// Processor time of the server per event, microseconds.
    pub cpu_us_per_event: f64,
    /// Of the generator.
    pub gen_cpu_us_per_event: f64,
    /// Of the sink.
    pub sink_cpu_us_per_event: f64,
    /// Open loop, or closed with one connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lat_ms: Option<Latency>,
    /// Lateness of the generator, p99, milliseconds.
    pub behind_p99_ms: f64,
    /// Bytes written to devices.
    pub device_bytes: u64,
    /// Flushes of the store's log.
    pub flushes: f64,
    /// Greatest resident memory of the server.
    pub rss_peak: u64,
    /// Size of the data directory at the end.
    pub dir_bytes: u64,
    /// Duplicates at the sink.
    pub dups: u64,
    /// Acknowledged and not delivered.
    pub lost: u64,
    /// First deliveries that came after a later event of the same user.
    pub order_violations: u64,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Rates.
    Higher,
    /// Costs and times.
    Lower,
}

/// One figure with what is asked of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// `rate/A1`.
    pub metric: String,
    /// Measured.
    pub value: f64,
    /// Must hold for a release.
    pub floor: f64,
    /// What we aim at.
    pub goal: f64,
    /// Which way is good.
    pub better: Better,
    /// Whether the floor holds.
    pub pass: bool,
    /// Whether the goal is reached.
    pub reached: bool,
}

impl Target {
    /// A figure that should be high.
    pub fn at_least(metric: &str, value: f64, floor: f64, goal: f64) -> Target {
        Target {
            metric: metric.to_owned(),
            value,
            floor,
            goal,
            better: Better::Higher,
            pass: value >= floor,
            reached: value >= goal,
        }
    }

    /// A figure that should be low.
    pub fn at_most(metric: &str, value: f64, floor: f64, goal: f64) -> Target {
        Target {
            metric: metric.to_owned(),
            value,
            floor,
            goal,
            better: Better::Lower,
            pass: value <= floor,
            reached: value <= goal,
        }
    }
}

/// The heading of the table.
pub fn print_heading() {
    println!("{:<4} {:<16} {:<44} {:>10} {:>10} {:>10}  result", "id", "variant", "metric", "value", "floor", "goal");
}

/// The targets of one run, a line each.
pub fn print_targets(run: &Run) {
    if run.status == RunStatus::Failed && run.targets.is_empty() {
        println!("{:<4} {:<16} FAILED", run.id, run.variant);
    }
    for target in &run.targets {
        let verdict = match (run.status, target.pass, target.reached) {
            (_, false, _) => "BELOW FLOOR",
            (RunStatus::Failed, ..) => "pass, but the run FAILED",
            (_, true, true) => "goal",
            (_, true, false) => "pass",
        };
        let mark = match run.status {
            RunStatus::Noisy => " (noisy)",
            RunStatus::GeneratorBound => " (generator-bound)",
            RunStatus::Ok | RunStatus::Failed => "",
        };
        let sign = if target.better == Better::Higher { ">=" } else { "<=" };
        println!(
            "{:<4} {:<16} {:<44} {:>10} {sign}{:>8} {sign}{:>8}  {verdict}{mark}",
            run.id,
            run.variant,
            target.metric,
            figure(target.value),
            figure(target.floor),
            figure(target.goal),
        );
    }
}

/// Everything about one run.
pub fn print_run(run: &Run) {
    print_targets(run);
    for note in &run.notes {
        println!("{:<4} {:<16} note: {note}", run.id, run.variant);
    }
    let median = &run.median;
    if median.rate > 0.0 {
        println!(
            "{:<4} {:<16} {:.0} ev/s, {:.1} us/ev (generator {:.1}, sink {:.1}), {} events in {:.1} s",
            run.id,
            run.variant,
            median.rate,
            median.cpu_us_per_event,
            median.gen_cpu_us_per_event,
            median.sink_cpu_us_per_event,
            median.events,
            median.secs
        );
    }
}

/// Four significant digits or so.
pub fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn command_output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

impl Build {
    /// Of the tree that this was built from and the binary that is measured.
    pub fn of(binary: &std::path::Path, profile: &str) -> Build {
        Build {
            commit: command_output("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
            rustc: command_output("rustc", &["--version"]),
            binary: binary.display().to_string(),
            profile: profile.to_owned(),
            allocator: "jemalloc".to_owned(),
            binary_bytes: std::fs::metadata(binary).map_or(0, |metadata| metadata.len()),
        }
    }
}

impl Machine {
    /// This one, with the file system of `dir`.
    pub fn here(dir: &std::path::Path) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        let mem_kib: u64 =
            field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let (fs, mount) = mount_of(dir, &read("/proc/self/mounts"));
        Machine {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: cores(),
            mem_bytes: mem_kib << 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            fs,
            mount,
            load_before: load_average(),
            load_after: String::new(),
        }
    }
}

/// Processors of the machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The three load averages.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// File system type and options of the mount that holds `dir`.
fn mount_of(dir: &std::path::Path, mounts: &str) -> (String, String) {
    let mounts = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let at = std::path::Path::new(fields.get(1)?);
        dir.starts_with(at).then(|| (at.as_os_str().len(), fields.get(2).copied(), fields.get(3).copied()))
    });
    let nearest = mounts.max_by_key(|(length, ..)| *length);
    nearest
        .map(|(_, fs, options)| (fs.unwrap_or_default().to_owned(), options.unwrap_or_default().to_owned()))
        .unwrap_or_default()
}

//! The anchors: minimal programs measured in the same run on the same machine (performance.md 4).
//!
//! Each is measured when it is first asked for and then remembered, so that `run G1` measures only what G1 needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::anchor_disk::Flushes;
use crate::anchor_rocks::Puts;
use crate::measure::{Counted, Load, Watched, run_load};
use crate::process::{Running, own_binary};
use crate::report::Rep;
use crate::sink_child::SinkChild;

/// Figures of one variant of an anchor.
pub type Figures = BTreeMap<String, f64>;

/// The anchors measured so far.
pub struct Anchors {
    dir: PathBuf,
    secs: f64,
    /// Anchor to variant to figures.
    pub measured: BTreeMap<String, BTreeMap<String, Figures>>,
}

/// What one flush costs now, milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlushCost {
    /// Median at normal priority.
    pub f50: f64,
    /// 99 in a hundred at normal priority.
    pub f99: f64,
    /// Median at real-time priority; `None` where that is not permitted.
    pub d50: Option<f64>,
}

/// Ends the variant of A1 in which each request has a connection of its own.
pub const FRESH: &str = "-fresh";

const A3_VARIANTS: [&str; 5] = ["normal", "realtime", "normal-preallocated", "realtime-preallocated", "two-threads"];

impl Anchors {
    /// None measured yet; files go below `dir`, each measurement takes `secs`.
    pub fn new(dir: &Path, secs: f64) -> Anchors {
        Anchors { dir: dir.to_owned(), secs, measured: BTreeMap::new() }
    }

    /// Measures everything that a suite compares with.
    pub fn measure_all(&mut self, connections: &[usize]) -> Result<()> {
        for variant in A3_VARIANTS {
            self.figures("A3", variant)?;
        }
        for anchor in ["A1", "A2", "A4", "A7"] {
            for &count in connections {
                let asked = match anchor {
                    "A1" => true,
                    "A2" => count == 64 || count == 256,
                    "A4" => count >= 64,
                    _ => count == 256,
                };
                if asked {
                    self.figures(anchor, &format!("c{count}"))?;
                }
            }
        }
        self.figures("A5", "batch-1000")?;
        Ok(())
    }

    /// One figure of one anchor, measured now if it was not yet.
    pub fn figure(&mut self, anchor: &str, variant: &str, name: &str) -> Result<f64> {
        let figures = self.figures(anchor, variant)?;
        figures.get(name).copied().with_context(|| format!("anchor {anchor} {variant} has no {name}"))
    }

    fn figures(&mut self, anchor: &str, variant: &str) -> Result<&Figures> {
        let known = self.measured.get(anchor).is_some_and(|variants| variants.contains_key(variant));
        if !known {
            let figures = self.measure(anchor, variant).with_context(|| format!("anchor {anchor} {variant}"))?;
            let line: Vec<String> =
                figures.iter().map(|(name, value)| format!("{name} {}", crate::report::figure(*value))).collect();
            println!("{anchor:<4} {variant:<24} {}", line.join(", "));
            self.measured.entry(anchor.to_owned()).or_default().insert(variant.to_owned(), figures);
        }
        self.measured.get(anchor).and_then(|variants| variants.get(variant)).context("not measured")
    }

    fn measure(&self, anchor: &str, variant: &str) -> Result<Figures> {
        let connections = || {
            let count = variant.strip_prefix('c').map(|count| count.trim_end_matches(FRESH));
            count.and_then(|count| count.parse::<usize>().ok()).context("c<N>")
        };
        match anchor {
            "A1" if variant.ends_with(FRESH) => self.server(&[], "track-1k", connections()?, true),
            "A1" => self.server(&[], "track-1k", connections()?, false),
            "A2" => self.server(&[], "batch-20", connections()?, false),
            "A4" => {
                let log = self.dir.join("anchor-log");
                let log_text = log.display().to_string();
                let figures = self.server(&["--log", &log_text], "track-1k", connections()?, false);
                std::fs::remove_file(&log).ok();
                figures
            }
            "A7" => {
                let sink = SinkChild::start()?;
                let address = sink.address().to_string();
                let figures = self.server(&["--forward", &address], "track-1k", connections()?, false)?;
                if sink.delivered()? == 0 {
                    bail!("the relay delivered nothing");
                }
                Ok(figures)
            }
            "A3" => Ok(self.disk(variant, self.secs)?.map_or_else(Figures::new, |flushes| {
                Figures::from([
                    ("p50_ms".to_owned(), flushes.p50_ms),
                    ("p99_ms".to_owned(), flushes.p99_ms),
                    ("per_sec".to_owned(), flushes.per_sec),
                ])
            })),
            "A5" => {
                let dir = self.dir.join("anchor-rocks");
                let puts: Puts = json_of(
                    Command::new(own_binary()?)
                        .args(["anchor-rocks", "--secs", &self.secs.to_string(), "--dir"])
                        .arg(&dir),
                )?;
                std::fs::remove_dir_all(&dir).ok();
                Ok(Figures::from([("cpu_us".to_owned(), puts.cpu_us), ("eps".to_owned(), puts.per_sec)]))
            }
            _ => bail!("there is no such anchor"),
        }
    }

    /// A1, A2, A4 and A7: closed loop against a server of this binary.
    fn server(&self, arguments: &[&str], corpus: &str, connections: usize, fresh: bool) -> Result<Figures> {
        let mut words = vec!["anchor-server"];
        words.extend_from_slice(arguments);
        let server = Running::start_self("anchor server", &words)?;
        let line = server.line(Duration::from_secs(10))?;
        let address = line.strip_prefix("listening ").context("no address")?;
        let load = Load {
            corpus: corpus.to_owned(),
            connections,
            fresh,
            ramp: 1.0,
            secs: self.secs,
            ..Load::new(format!("http://{address}"))
        };
        let watched = Watched { server: Some(server.pid()), ..Watched::default() };
        let measured = run_load(&load, &watched, Counted::Acknowledged, |_| Ok(()))?;
        let rep: &Rep = measured.reps.first().context("no window")?;
        if !rep.errors.is_empty() {
            bail!("errors: {:?}", rep.errors);
        }
        let p99 = rep.lat_ms.as_ref().map_or(0.0, |lat| lat.p99);
        Ok(Figures::from([
            ("rps".to_owned(), rep.requests as f64 / rep.secs),
            ("eps".to_owned(), rep.rate),
            ("cpu_us".to_owned(), rep.cpu_us_per_event * rep.events as f64 / rep.requests.max(1) as f64),
            ("cpu_us_per_event".to_owned(), rep.cpu_us_per_event),
            ("gen_cpu_us_per_event".to_owned(), rep.gen_cpu_us_per_event),
            ("p99_ms".to_owned(), p99),
        ]))
    }

    /// A3; `None` where real-time priority is not permitted.
    fn disk(&self, variant: &str, secs: f64) -> Result<Option<Flushes>> {
        let realtime = variant.starts_with("realtime");
        let mut command = if realtime { Command::new("chrt") } else { Command::new(own_binary()?) };
        if realtime {
            command.args(["-r", "1"]).arg(own_binary()?);
        }
        command.args(["anchor-disk", "--secs", &secs.to_string(), "--dir"]).arg(&self.dir);
        if variant.ends_with("preallocated") {
            command.arg("--preallocated");
        }
        if variant == "two-threads" {
            command.args(["--threads", "2"]);
        }
        match json_of(&mut command) {
            Err(error) if realtime => {
                eprintln!("real-time priority is left out: {error:#}");
                Ok(None)
            }
            measured => measured.map(Some),
        }
    }

    /// What a flush costs at this moment.
    pub fn flush_cost(&self, secs: f64) -> Result<FlushCost> {
        let normal = self.disk("normal", secs)?.context("A3")?;
        let realtime = self.disk("realtime", secs)?;
        Ok(FlushCost { f50: normal.p50_ms, f99: normal.p99_ms, d50: realtime.map(|flushes| flushes.p50_ms) })
    }
}

/// Runs a command to its end and reads its output as JSON.
fn json_of<T: serde::de::DeserializeOwned>(command: &mut Command) -> Result<T> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

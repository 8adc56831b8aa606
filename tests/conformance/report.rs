//! What a run of the conformance vectors came to: per suite, and per kind, stage or destination and feature.
//!
//! Out: text for people on standard output, and the same as JSON in the file that `PINTLE_VECTORS_REPORT` names:
//! `{"suites":{"gateway":{"passed":0,"total":0,"by":{"<kind>":{"passed":0,"total":0}},"failed":["<id>"]}, ..}}`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

/// How many failures are printed with their reasons, per suite.
const REASONS_SHOWN: usize = 20;

/// The outcome of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseResult {
    /// The case's `id`, or `name` where it has none.
    pub id: String,
    /// Its kind, stage, or destination and feature.
    pub by: String,
    /// Whether the expectation was met.
    pub passed: bool,
    /// Why not; empty when it passed.
    pub detail: String,
}

impl CaseResult {
    /// A met expectation.
    pub fn passed(id: &str, by: &str) -> CaseResult {
        CaseResult { id: id.to_owned(), by: by.to_owned(), passed: true, detail: String::new() }
    }

    /// An expectation that was not met.
    pub fn failed(id: &str, by: &str, detail: impl Into<String>) -> CaseResult {
        CaseResult { id: id.to_owned(), by: by.to_owned(), passed: false, detail: detail.into() }
    }
}

/// Passed of total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    total: usize,
}

impl Count {
    fn add(&mut self, passed: bool) {
        self.total += 1;
        self.passed += usize::from(passed);
    }

    fn json(self) -> Value {
        json!({"passed": self.passed, "total": self.total})
    }
}

/// One suite's outcomes, counted.
#[derive(Clone, Debug, Default)]
pub struct SuiteReport {
    all: Count,
    by: BTreeMap<String, Count>,
    failed: Vec<(String, String)>,
}

impl SuiteReport {
    /// Counts the outcomes.
    pub fn of(results: Vec<CaseResult>) -> SuiteReport {
        let mut report = SuiteReport::default();
        for result in results {
            report.all.add(result.passed);
            report.by.entry(result.by).or_default().add(result.passed);
            if !result.passed {
                report.failed.push((result.id, result.detail));
            }
        }
        report
    }

    /// Cases that passed.
    pub fn passed(&self) -> usize {
        self.all.passed
    }

    fn json(&self) -> Value {
        let by: Map<String, Value> = self.by.iter().map(|(name, count)| (name.clone(), count.json())).collect();
        let failed: Vec<&str> = self.failed.iter().map(|(id, _)| id.as_str()).collect();
        json!({"passed": self.all.passed, "total": self.all.total, "by": by, "failed": failed})
    }

    fn print(&self, suite: &str) {
        println!("{suite}: {}/{}", self.all.passed, self.all.total);
        for (name, count) in &self.by {
            println!("  {name}: {}/{}", count.passed, count.total);
        }
        for (id, detail) in self.failed.iter().take(REASONS_SHOWN) {
            println!("  failed {id}: {}", shortened(detail));
        }
        if self.failed.len() > REASONS_SHOWN {
            let ids: Vec<&str> = self.failed.iter().skip(REASONS_SHOWN).map(|(id, _)| id.as_str()).collect();
            println!("  failed too: {}", ids.join(" "));
        }
    }
}

fn shortened(detail: &str) -> String {
    const MOST: usize = 400;
    let one_line = detail.replace('\n', " ");
    if one_line.chars().count() <= MOST { one_line } else { one_line.chars().take(MOST).chain("...".chars()).collect() }
}

/// Prints every suite and writes the file, if one is asked for.
pub fn publish(suites: &BTreeMap<&'static str, SuiteReport>, file: Option<&Path>) -> std::io::Result<()> {
    let mut document = Map::new();
    for (name, report) in suites {
        report.print(name);
        document.insert((*name).to_owned(), report.json());
    }
    match file {
        Some(file) => std::fs::write(file, format!("{:#}\n", json!({"suites": document}))),
        None => Ok(()),
    }
}

/// The suites that are below their floor, each said in a line.
pub fn below_floors(suites: &BTreeMap<&'static str, SuiteReport>, floors: &toml::Table) -> Vec<String> {
    let mut low = Vec::new();
    for (name, report) in suites {
        let floor = floors.get(*name).and_then(toml::Value::as_integer).and_then(|floor| usize::try_from(floor).ok());
        match floor {
            None => low.push(format!("{name}: floors.toml has no floor for it")),
            Some(floor) if report.passed() < floor => {
                low.push(format!("{name}: {} passed, the floor is {floor}", report.passed()));
            }
            Some(_) => {}
        }
    }
    low
}

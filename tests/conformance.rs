//! Runs the conformance vectors in the folder that `PINTLE_VECTORS` names; passes, saying so, without it.
//!
//! Suites are found by file name: `gateway.jsonl` (with `gateway-workspaceConfig.json`), `processor.jsonl`,
//! `router.jsonl`, `warehouse-events.jsonl`, `destinations/*.jsonl.gz`, `sdk-captures/*.json`. Prints what passed, per suite and per kind,
//! stage or destination; writes the same as JSON to the file that `PINTLE_VECTORS_REPORT` names; fails when a suite
//! is below its floor in `tests/conformance/floors.toml`, unless `PINTLE_VECTORS_FLOORS=off`.
//!
//! A suite's runner is one file under `tests/conformance/`. A case that panics, takes too long, has an unknown kind
//! or no runner counts as failed; none of it stops the run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::let_underscore_must_use,
    reason = "a test"
)]

#[path = "conformance/captures.rs"]
mod captures;
#[path = "conformance/destinations.rs"]
mod destinations;
#[path = "conformance/gateway.rs"]
mod gateway;
#[allow(dead_code, unused_imports, reason = "the end-to-end tests use all of it")]
#[path = "kit/mod.rs"]
mod kit;
#[path = "conformance/processor.rs"]
mod processor;
#[path = "conformance/report.rs"]
mod report;
#[path = "conformance/router.rs"]
mod router;
#[path = "conformance/router_batch.rs"]
mod router_batch;
#[path = "conformance/router_destinations.rs"]
mod router_destinations;
#[path = "conformance/warehouse_events.rs"]
mod warehouse_events;

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use report::{CaseResult, SuiteReport};

/// Longest time of one case.
const CASE_LIMIT: Duration = Duration::from_mins(1);
/// Longest time of a suite that is run in one go.
const SUITE_LIMIT: Duration = Duration::from_mins(10);

/// Runs cases and says what each came to.
type Runner = fn(&[Value], &Path) -> Vec<CaseResult>;

/// One case with the names it is counted under.
struct Case {
    id: String,
    by: String,
    value: Value,
}

/// A suite: where its cases are, who runs them, and how.
struct Suite {
    name: &'static str,
    cases: Vec<Case>,
    /// `None`: not built yet.
    runner: Option<Runner>,
    /// Whether the cases depend on each other and must be run in one go, in order.
    in_one_go: bool,
}

#[test]
fn the_vectors_pass_at_least_as_far_as_the_floors_say() {
    let Some(folder) = std::env::var_os("PINTLE_VECTORS").filter(|value| !value.is_empty()).map(PathBuf::from) else {
        println!("skipped: PINTLE_VECTORS is not set");
        return;
    };
    assert!(folder.is_dir(), "PINTLE_VECTORS names {}, which is not a folder", folder.display());
    let reports: BTreeMap<&'static str, SuiteReport> =
        suites(&folder).into_iter().map(|suite| (suite.name, SuiteReport::of(run(suite, &folder)))).collect();
    let file = std::env::var_os("PINTLE_VECTORS_REPORT").filter(|value| !value.is_empty()).map(PathBuf::from);
    report::publish(&reports, file.as_deref()).expect("the report can be written");
    if std::env::var("PINTLE_VECTORS_FLOORS").is_ok_and(|value| value == "off") {
        println!("floors: off");
        return;
    }
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/floors.toml"))
        .expect("floors.toml");
    let floors: toml::Table = toml::from_str(&text).expect("floors.toml is TOML");
    let low = report::below_floors(&reports, &floors);
    assert!(low.is_empty(), "below the floor:\n  {}", low.join("\n  "));
}

fn suites(folder: &Path) -> Vec<Suite> {
    let lines = |name: &str, by: &str| read_cases(&folder.join(name), by, |_| {});
    let suite = |name, cases, runner, in_one_go| Suite { name, cases, runner, in_one_go };
    vec![
        suite("gateway", lines("gateway.jsonl", "requires"), Some(gateway::run as Runner), true),
        suite("processor", lines("processor.jsonl", "stage"), Some(processor::run), false),
        suite("router", lines("router.jsonl", "kind"), Some(router::run), false),
        suite("warehouse-events", lines("warehouse-events.jsonl", "kind"), Some(warehouse_events::run), false),
        suite("destinations", destination_cases(folder), Some(destinations::run), false),
        suite("sdk-captures", captured_cases(folder), Some(captures::run), true),
    ]
}

/// The cases of every `destinations/<destination>.<feature>.jsonl.gz`, counted under that name.
fn destination_cases(folder: &Path) -> Vec<Case> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder.join("destinations"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".jsonl.gz") else { continue };
        let (destination, feature) = stem.split_once('.').unwrap_or((stem, ""));
        let of_file = read_cases(&path, "feature", |value| {
            if let Some(fields) = value.as_object_mut() {
                fields.entry("destination").or_insert_with(|| destination.into());
                fields.entry("feature").or_insert_with(|| feature.into());
            }
        });
        cases.extend(of_file.into_iter().map(|case| Case { by: stem.to_owned(), ..case }));
    }
    cases
}

/// Every `sdk-captures/<sdk>.json`, counted under its SDK; what begins with `_` is no capture.
fn captured_cases(folder: &Path) -> Vec<Case> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder.join("sdk-captures"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(id) = name.strip_suffix(".json").filter(|id| !id.starts_with('_')) else { continue };
        let text = std::fs::read(&path).expect("a capture can be read");
        let mut value: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        if let Some(fields) = value.as_object_mut() {
            fields.insert("id".to_owned(), id.into());
        }
        let by = value["sdk"].as_str().unwrap_or("-").to_owned();
        cases.push(Case { id: id.to_owned(), by, value });
    }
    cases
}

/// The lines of a file, unpacked when its name says so. No file, no cases; a line that is not JSON is a case that
/// nobody can run.
fn read_cases(path: &Path, by: &str, complete: impl Fn(&mut Value)) -> Vec<Case> {
    let Ok(bytes) = std::fs::read(path) else { return Vec::new() };
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).expect("a vector file is gzip");
    } else {
        text = String::from_utf8(bytes).expect("a vector file is UTF-8");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut cases = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut value: Value = serde_json::from_str(line).unwrap_or(Value::Null);
        complete(&mut value);
        let field = |key: &str| value[key].as_str().map(str::to_owned);
        cases.push(Case {
            id: field("id").or_else(|| field("name")).unwrap_or_else(|| format!("{name}:{}", number + 1)),
            by: field(by).unwrap_or_else(|| "-".to_owned()),
            value,
        });
    }
    cases
}

fn run(suite: Suite, folder: &Path) -> Vec<CaseResult> {
    if !suite.in_one_go {
        return suite.cases.iter().map(|case| run_one(case, suite.runner, folder)).collect();
    }
    let Some(runner) = suite.runner else {
        return suite.cases.iter().map(|case| CaseResult::failed(&case.id, &case.by, "no runner yet")).collect();
    };
    let values = suite.cases.iter().map(|case| case.value.clone()).collect();
    match guarded(runner, values, folder, SUITE_LIMIT) {
        Ok(results) => in_order_of(&suite.cases, results),
        Err(reason) => suite.cases.iter().map(|case| CaseResult::failed(&case.id, &case.by, reason.clone())).collect(),
    }
}

fn run_one(case: &Case, runner: Option<Runner>, folder: &Path) -> CaseResult {
    let Some(runner) = runner else {
        return CaseResult::failed(&case.id, &case.by, "no runner yet");
    };
    match guarded(runner, vec![case.value.clone()], folder, CASE_LIMIT) {
        Ok(results) => {
            let passed = results.len() == 1 && results[0].passed;
            let detail = results.into_iter().next().map_or_else(|| "no result".to_owned(), |result| result.detail);
            if passed { CaseResult::passed(&case.id, &case.by) } else { CaseResult::failed(&case.id, &case.by, detail) }
        }
        Err(reason) => CaseResult::failed(&case.id, &case.by, reason),
    }
}

/// One result for each case, found by id; a case without one failed. The runner's own `by` is kept.
fn in_order_of(cases: &[Case], results: Vec<CaseResult>) -> Vec<CaseResult> {
    let mut by_id: BTreeMap<String, VecDeque<CaseResult>> = BTreeMap::new();
    for result in results {
        by_id.entry(result.id.clone()).or_default().push_back(result);
    }
    cases
        .iter()
        .map(|case| {
            by_id
                .get_mut(&case.id)
                .and_then(VecDeque::pop_front)
                .unwrap_or_else(|| CaseResult::failed(&case.id, &case.by, "no result"))
        })
        .collect()
}

/// Runs the cases on a thread of their own: a panic or an overrun is an error, and the run goes on without it.
fn guarded(runner: Runner, cases: Vec<Value>, folder: &Path, limit: Duration) -> Result<Vec<CaseResult>, String> {
    let (send, receive) = mpsc::channel();
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| runner(&cases, &folder))).map_err(|payload| {
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("panicked: {}", text.unwrap_or_default())
        });
        // The receiver is gone when the limit was passed.
        drop(send.send(outcome));
    });
    receive.recv_timeout(limit).unwrap_or_else(|_| Err(format!("no end after {limit:?}")))
}

#[test]
fn a_case_that_panics_or_gives_no_result_counts_as_failed() {
    fn panics(_: &[Value], _: &Path) -> Vec<CaseResult> {
        panic!("on purpose")
    }
    fn says_nothing(_: &[Value], _: &Path) -> Vec<CaseResult> {
        Vec::new()
    }
    let case = Case { id: "a".to_owned(), by: "kind".to_owned(), value: Value::Null };
    let folder = Path::new("/");
    assert_eq!(run_one(&case, Some(panics as Runner), folder), CaseResult::failed("a", "kind", "panicked: on purpose"));
    assert_eq!(run_one(&case, Some(says_nothing as Runner), folder), CaseResult::failed("a", "kind", "no result"));
    assert_eq!(run_one(&case, None, folder), CaseResult::failed("a", "kind", "no runner yet"));
    assert!(
        guarded(
            |_, _| loop {
                std::thread::park();
            },
            Vec::new(),
            folder,
            Duration::from_millis(50)
        )
        .is_err()
    );
}

#[test]
fn a_suite_below_its_floor_is_named() {
    let results = vec![CaseResult::passed("a", "k"), CaseResult::failed("b", "k", "why")];
    let suites = BTreeMap::from([("gateway", SuiteReport::of(results))]);
    let floors = |text: &str| toml::from_str::<toml::Table>(text).expect("TOML");
    assert!(report::below_floors(&suites, &floors("gateway = 1")).is_empty());
    assert_eq!(report::below_floors(&suites, &floors("gateway = 2")), ["gateway: 1 passed, the floor is 2"]);
    assert_eq!(report::below_floors(&suites, &floors("")), ["gateway: floors.toml has no floor for it"]);
}

#[test]
fn the_report_has_the_documented_shape() {
    let results = vec![CaseResult::passed("a", "k1"), CaseResult::failed("b", "k2", "why")];
    let suites = BTreeMap::from([("gateway", SuiteReport::of(results))]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.json");
    report::publish(&suites, Some(&file)).expect("written");
    let document: Value = serde_json::from_slice(&std::fs::read(&file).expect("read")).expect("JSON");
    let expected = serde_json::json!({"suites": {"gateway": {
        "passed": 1,
        "total": 2,
        "by": {"k1": {"passed": 1, "total": 1}, "k2": {"passed": 0, "total": 1}},
        "failed": ["b"],
    }}});
    assert_eq!(document, expected);
}

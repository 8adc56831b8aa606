//! Runs a target with the corpus and with new inputs, until the time is over.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::strategy::{BoxedStrategy, Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};

use super::inputs;

/// How long each target runs unless `PINTLE_FUZZ_SECS` says otherwise.
const SECONDS: u64 = 3;

fn time() -> Duration {
    let asked = std::env::var("PINTLE_FUZZ_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(SECONDS))
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn known(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(corpus(target))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no corpus");
    paths.iter().map(|path| std::fs::read(path).expect("a corpus file can be read")).collect()
}

/// Runs `attack` with inputs; a panic of it is a finding.
pub fn run(target: &str, rule: BoxedStrategy<Vec<u8>>, mut attack: impl FnMut(&[u8])) {
    let known = known(target);
    let (begun, limit) = (Instant::now(), time());
    let mut runner = TestRunner::new(Config::default());
    let rules = [rule, inputs::damaged(known.clone()).boxed()];
    let mut runs = 0_u64;
    let mut one = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| attack(input))) {
            keep(target, input);
            resume_unwind(panic);
        }
    };
    for input in &known {
        one(input);
    }
    while begun.elapsed() < limit {
        let rule = &rules[runs as usize % rules.len()];
        let input = rule.new_tree(&mut runner).expect("a rule without refusals").current();
        one(&input);
        runs += 1;
    }
    println!("{target}: {} known inputs, {runs} new ones in {:?}", known.len(), begun.elapsed());
}

fn keep(target: &str, input: &[u8]) {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = corpus(target).join(format!("found-{:016x}", hasher.finish()));
    match std::fs::write(&path, input) {
        Ok(()) => eprintln!("{target}: the input is kept as {}", path.display()),
        Err(error) => eprintln!("{target}: the input cannot be kept: {error}; it is {input:?}"),
    }
}

//! What the operator ordered: pauses of destinations and cancelled job runs (router.md 7.8, 8.1).
//!
//! Both are records of the store under [`Namespace::Drain`]: `pause/<destination id>` with the JSON
//! `{"since_ms":..,"until_ms":..}` (no end: until resumed), and `run/<run id>`. Who gives the orders writes
//! them; here they are read anew for every cut.

use serde::Deserialize;

use crate::jobsdb::{JobsDb, JobsDbError, Namespace};

const PAUSE_PREFIX: &str = "pause/";
const RUN_PREFIX: &str = "run/";

#[derive(Default, Deserialize)]
struct Pause {
    #[serde(default)]
    until_ms: Option<i64>,
}

/// The orders that concern one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Nothing may be picked up or uploaded.
    pub(super) paused: bool,
    /// Runs whose jobs are given up.
    pub(super) cancelled_runs: Vec<String>,
}

/// Reads the orders in force.
pub(super) async fn read(jobs: &JobsDb, destination_id: &str, now_ms: i64) -> Result<Orders, JobsDbError> {
    let jobs = jobs.clone();
    let pause_key = format!("{PAUSE_PREFIX}{destination_id}");
    let reading = tokio::task::spawn_blocking(move || {
        let pause = jobs.get(Namespace::Drain, pause_key.as_bytes())?;
        let runs = jobs.scan(Namespace::Drain, RUN_PREFIX.as_bytes())?;
        Ok(Orders {
            paused: pause.is_some_and(|record| holds(&record, now_ms)),
            cancelled_runs: runs.iter().filter_map(|(key, _)| run_id(key)).collect(),
        })
    });
    reading.await.unwrap_or_else(|error| Err(JobsDbError::Failed(error.to_string())))
}

/// A record that cannot be read holds: somebody wanted a pause.
fn holds(record: &[u8], now_ms: i64) -> bool {
    let pause: Pause = serde_json::from_slice(record).unwrap_or_default();
    pause.until_ms.is_none_or(|until| until > now_ms)
}

fn run_id(key: &[u8]) -> Option<String> {
    std::str::from_utf8(key).ok()?.strip_prefix(RUN_PREFIX).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_holds_until_its_end_or_until_it_is_lifted() {
        assert!(holds(br#"{"since_ms":1}"#, 1_000));
        assert!(holds(br#"{"since_ms":1,"until_ms":1001}"#, 1_000));
        assert!(!holds(br#"{"since_ms":1,"until_ms":1000}"#, 1_000));
        assert!(holds(b"?", 1_000));
        assert_eq!(run_id(b"run/r1"), Some("r1".to_owned()));
    }
}

//! What the operator ordered: pauses of destinations (router.md 7.8).
//!
//! They are records of the store under [`Namespace::Drain`]: `pause/<destination id>` with the JSON
//! `{"since_ms":..,"until_ms":..}` (no end: until resumed). Who gives the orders writes them; here they are read
//! anew for every cut.

use serde::Deserialize;

use crate::jobsdb::{JobsDb, JobsDbError, Namespace};

const PAUSE_PREFIX: &str = "pause/";

#[derive(Default, Deserialize)]
struct Pause {
    #[serde(default)]
    until_ms: Option<i64>,
}

/// Whether the operator holds the destination: nothing may be picked up or uploaded.
pub(super) async fn is_paused(jobs: &JobsDb, destination_id: &str, now_ms: i64) -> Result<bool, JobsDbError> {
    let jobs = jobs.clone();
    let pause_key = format!("{PAUSE_PREFIX}{destination_id}");
    let reading = tokio::task::spawn_blocking(move || {
        let pause = jobs.get(Namespace::Drain, pause_key.as_bytes())?;
        Ok(pause.is_some_and(|record| holds(&record, now_ms)))
    });
    reading.await.unwrap_or_else(|error| Err(JobsDbError::Failed(error.to_string())))
}

/// A record that cannot be read holds: somebody wanted a pause.
fn holds(record: &[u8], now_ms: i64) -> bool {
    let pause: Pause = serde_json::from_slice(record).unwrap_or_default();
    pause.until_ms.is_none_or(|until| until > now_ms)
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
    }
}

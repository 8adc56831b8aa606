//! How many files of each run there are, and what their names begin with (router.md 22.2): records of the store.

use serde::{Deserialize, Serialize};

use crate::jobsdb::{Durability, JobsDb, JobsDbError, Namespace, Tx};

/// A run that has had no file for this long is forgotten.
const FORGET_AFTER_MS: i64 = 30 * 24 * 3_600 * 1_000;

/// The next file of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Part {
    /// The path of all its files, without the number.
    pub(super) path: String,
    /// The number of the next one.
    pub(super) next: u64,
    /// When the last one was written, milliseconds since the epoch.
    pub(super) written_ms: i64,
}

fn key(destination_id: &str, run: &str) -> Vec<u8> {
    format!("{destination_id}/{run}").into_bytes()
}

/// What is known of the run.
pub(super) async fn read(jobs: &JobsDb, destination_id: &str, run: &str) -> Result<Option<Part>, JobsDbError> {
    let (jobs, key) = (jobs.clone(), key(destination_id, run));
    let reading = tokio::task::spawn_blocking(move || jobs.get(Namespace::FileParts, &key));
    let record = reading.await.map_err(|error| JobsDbError::Failed(error.to_string()))??;
    Ok(record.and_then(|record| serde_json::from_slice(&record).ok()))
}

/// Takes the number of this part. It is not given again, whatever becomes of the file.
pub(super) fn put_next(tx: &mut Tx, destination_id: &str, run: &str, part: &Part, now_ms: i64) {
    let next = Part { path: part.path.clone(), next: part.next.saturating_add(1), written_ms: now_ms };
    // Plain data with string keys always becomes JSON.
    tx.put(Namespace::FileParts, key(destination_id, run), serde_json::to_vec(&next).unwrap_or_default());
}

/// Removes records of runs that ended long ago.
pub(super) async fn forget_old(jobs: &JobsDb, destination_id: &str, now_ms: i64) -> Result<(), JobsDbError> {
    let (reader, prefix) = (jobs.clone(), key(destination_id, ""));
    let reading = tokio::task::spawn_blocking(move || reader.scan(Namespace::FileParts, &prefix));
    let records = reading.await.map_err(|error| JobsDbError::Failed(error.to_string()))??;
    let mut tx = Tx::new(Durability::Lazy);
    let mut any = false;
    for (key, record) in records {
        let part = serde_json::from_slice::<Part>(&record).ok();
        if part.is_none_or(|part| now_ms.saturating_sub(part.written_ms) > FORGET_AFTER_MS) {
            tx.delete(Namespace::FileParts, key);
            any = true;
        }
    }
    if any {
        jobs.commit(tx).await?;
    }
    Ok(())
}

//! Documents kept in the store: the last good workspace and the embedded default (gateway.md 11.8).
//!
//! A record is the document's text as it was written, with references unresolved, so that no secret that
//! stands elsewhere gets into the store or its backups.

use std::path::Path;

use crate::jobsdb::{Durability, JobsDb, JobsDbError, Namespace, Tx};
use crate::settings::Settings;
use crate::storage::{Family, Storage, StorageError};

/// The document that was accepted last.
pub(super) const LAST_GOOD: &str = "workspace";

/// The embedded default of this node.
pub(super) const EMBEDDED: &str = "embedded";

/// A document of the store; `None` when there is none.
pub(super) async fn load(jobs: &JobsDb, key: &'static str) -> Result<Option<Vec<u8>>, JobsDbError> {
    let jobs = jobs.clone();
    match tokio::task::spawn_blocking(move || jobs.get(Namespace::Configuration, key.as_bytes())).await {
        Ok(found) => found,
        Err(error) => Err(JobsDbError::Failed(format!("the read of the stored workspace ended early: {error}"))),
    }
}

/// Stores a document durably.
pub(super) async fn keep(jobs: &JobsDb, key: &'static str, document: Vec<u8>) -> Result<(), JobsDbError> {
    let mut tx = Tx::new(Durability::Durable);
    tx.put(Namespace::Configuration, key.as_bytes().to_vec(), document);
    jobs.commit(tx).await.map(|_| ())
}

/// Whether the store of a data directory holds a document that was accepted before. Nothing is changed, and the
/// node may run meanwhile.
///
/// # Errors
/// When the directory holds no readable store.
pub fn has_last_good(directory: &Path) -> Result<bool, StorageError> {
    let storage = Storage::open_read_only(directory, &Settings::defaults().storage)?;
    // Namespace byte first, as storage-format.md has it.
    let key = [&[Namespace::Configuration as u8], LAST_GOOD.as_bytes()].concat();
    Ok(storage.get(Family::Records, &key)?.is_some())
}

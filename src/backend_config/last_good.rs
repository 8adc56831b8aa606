//! Documents kept in the store: the last good workspace and the embedded default (gateway.md 11.8).
//!
//! A record is the document's text as it was written, with references unresolved, so that no secret that
//! stands elsewhere gets into the store or its backups.

use crate::jobsdb::{Durability, JobsDb, JobsDbError, Namespace, Tx};

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

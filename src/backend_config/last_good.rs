//! Documents kept in the store: the last good workspace with its code and plans, and the embedded default
//! (gateway.md 11.8).
//!
//! A record is the text as it was written, with references unresolved, so that no secret that stands elsewhere
//! gets into the store or its backups. What a control plane sent is sealed.

use std::path::Path;

use super::code_files::Texts;
use super::seal::SealingKey;
use crate::jobsdb::{Durability, JobsDb, JobsDbError, Namespace, Tx};
use crate::settings::Settings;
use crate::storage::{Family, Storage, StorageError};

/// The workspace file that was accepted last.
pub(super) const LAST_GOOD: &str = "workspace";

/// The code and plans that were in force with it: a JSON object of texts by path.
pub(super) const LAST_GOOD_CODE: &str = "workspace-code";

/// The hosted workspace that was accepted last, sealed.
const HOSTED: &str = "hosted";

/// The code and plans that were in force with it, sealed.
const HOSTED_CODE: &str = "hosted-code";

/// The embedded default of this node.
pub(super) const EMBEDDED: &str = "embedded";

/// A workspace as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The text of the document.
    pub(super) document: Vec<u8>,
    /// The code and plans.
    pub(super) code: Texts,
}

/// The place of a workspace in the store.
pub(super) enum Shelf {
    /// That of the workspace file.
    File,
    /// That of a hosted workspace.
    Hosted(SealingKey),
}

impl Shelf {
    fn keys(&self) -> (&'static str, &'static str) {
        match self {
            Shelf::File => (LAST_GOOD, LAST_GOOD_CODE),
            Shelf::Hosted(_) => (HOSTED, HOSTED_CODE),
        }
    }

    /// The workspace on this shelf; `None` when there is none, or none that this token opens.
    pub(super) async fn load(&self, jobs: &JobsDb) -> Result<Option<Kept>, JobsDbError> {
        let (document_key, code_key) = self.keys();
        let Some(document) = load(jobs, document_key).await?.and_then(|record| self.opened(record)) else {
            return Ok(None);
        };
        let code = load(jobs, code_key).await?.and_then(|record| self.opened(record));
        // Without readable code the document alone still serves what needs none.
        let code = code.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Ok(Some(Kept { document, code }))
    }

    /// Keeps a workspace durably, document and code together.
    pub(super) async fn keep(&self, jobs: &JobsDb, kept: &Kept) -> Result<(), JobsDbError> {
        let (document_key, code_key) = self.keys();
        let code = serde_json::to_vec(&kept.code).unwrap_or_default();
        let mut tx = Tx::new(Durability::Durable);
        for (key, plain) in [(document_key, &kept.document), (code_key, &code)] {
            let record = self
                .closed(plain)
                .ok_or_else(|| JobsDbError::Failed("the workspace could not be sealed".to_owned()))?;
            tx.put(Namespace::Configuration, key.as_bytes().to_vec(), record);
        }
        jobs.commit(tx).await.map(|_| ())
    }

    fn opened(&self, record: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Shelf::File => Some(record),
            Shelf::Hosted(key) => key.open(&record),
        }
    }

    fn closed(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match self {
            Shelf::File => Some(plain.to_vec()),
            Shelf::Hosted(key) => key.seal(plain),
        }
    }
}

/// A record of the store; `None` when there is none.
pub(super) async fn load(jobs: &JobsDb, key: &'static str) -> Result<Option<Vec<u8>>, JobsDbError> {
    let jobs = jobs.clone();
    match tokio::task::spawn_blocking(move || jobs.get(Namespace::Configuration, key.as_bytes())).await {
        Ok(found) => found,
        Err(error) => Err(JobsDbError::Failed(format!("the read of the stored workspace ended early: {error}"))),
    }
}

/// Stores a record durably.
pub(super) async fn keep(jobs: &JobsDb, key: &'static str, document: Vec<u8>) -> Result<(), JobsDbError> {
    let mut tx = Tx::new(Durability::Durable);
    tx.put(Namespace::Configuration, key.as_bytes().to_vec(), document);
    jobs.commit(tx).await.map(|_| ())
}

/// Whether the store of a data directory holds a workspace that was accepted before, from a file or (`hosted`)
/// from a control plane. Nothing is changed, and the node may run meanwhile.
///
/// # Errors
/// When the directory holds no readable store.
pub fn has_last_good(directory: &Path, hosted: bool) -> Result<bool, StorageError> {
    let storage = Storage::open_read_only(directory, &Settings::defaults().storage)?;
    // Namespace byte first, as storage-format.md has it.
    let key = if hosted { HOSTED } else { LAST_GOOD };
    let key = [&[Namespace::Configuration as u8], key.as_bytes()].concat();
    Ok(storage.get(Family::Records, &key)?.is_some())
}

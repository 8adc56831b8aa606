//! Why the store cannot be opened, read or written.

use std::path::{Path, PathBuf};

use super::family::Family;

/// An error of the store: what, where, and the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process has the directory.
    #[error("data directory {} is in use by another process; stop it, or choose another --data-dir", directory.display())]
    Locked {
        /// The data directory.
        directory: PathBuf,
    },
    /// The directory was written by a newer version.
    #[error(
        "data directory {} has format {found}, this version reads up to format {supported}; install the version that wrote it, or restore a snapshot",
        directory.display()
    )]
    NewerFormat {
        /// The data directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is understood.
        supported: u32,
    },
    /// The directory holds something else.
    #[error("{} is not a usable data directory: {reason}", directory.display())]
    NotADataDirectory {
        /// The directory.
        directory: PathBuf,
        /// What is wrong, and the mend.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The database does not open.
    #[error("cannot open the database {}: {reason}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// Why.
        reason: String,
        /// The bytes on disk are damaged.
        corrupt: bool,
    },
    /// A read failed.
    #[error("cannot read {family} records: {reason}")]
    Read {
        /// Which records.
        family: &'static str,
        /// Why.
        reason: String,
        /// The bytes on disk are damaged.
        corrupt: bool,
    },
    /// Bytes are not what the format says.
    #[error("damaged record {what}: {reason}")]
    Corrupt {
        /// Which record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A write or flush failed before; nothing is accepted until the node restarts.
    #[error("the store is poisoned: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// A snapshot could not be made.
    #[error("cannot make a snapshot at {}: {reason}", target.display())]
    Checkpoint {
        /// Where.
        target: PathBuf,
        /// Why.
        reason: String,
    },
}

impl StorageError {
    /// Whether a restart cannot help (exit 78 instead of 75, appliance.md 1).
    pub fn needs_human(&self) -> bool {
        match self {
            StorageError::NewerFormat { .. }
            | StorageError::NotADataDirectory { .. }
            | StorageError::Corrupt { .. }
            | StorageError::Locked { .. } => true,
            StorageError::Open { corrupt, .. } => *corrupt,
            _ => false,
        }
    }

    pub(super) fn open(path: &Path, source: &rocksdb::Error) -> StorageError {
        let corrupt = matches!(
            source.kind(),
            rocksdb::ErrorKind::Corruption | rocksdb::ErrorKind::InvalidArgument | rocksdb::ErrorKind::NotSupported
        );
        let mend = if corrupt {
            "; restore a snapshot (pintle backup restore), or copy what is readable (pintle store salvage)"
        } else {
            ""
        };
        StorageError::Open { path: path.to_owned(), reason: format!("{source}{mend}"), corrupt }
    }

    /// Whether the bytes that were read are damaged, so that reading again cannot help.
    pub fn is_damage(&self) -> bool {
        matches!(self, StorageError::Corrupt { .. } | StorageError::Read { corrupt: true, .. })
    }

    pub(super) fn read(family: Family, source: &rocksdb::Error) -> StorageError {
        let corrupt = source.kind() == rocksdb::ErrorKind::Corruption;
        StorageError::Read { family: family.name(), reason: source.to_string(), corrupt }
    }

    pub(super) fn missing_family(family: Family) -> StorageError {
        StorageError::Read { family: family.name(), reason: "the column family is missing".to_owned(), corrupt: false }
    }

    pub(super) fn file(action: &'static str, path: &Path, source: std::io::Error) -> StorageError {
        StorageError::File { action, path: path.to_owned(), source }
    }
}

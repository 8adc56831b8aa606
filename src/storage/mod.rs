//! RocksDB: open and upgrade, column families, write batches, group flush, snapshots, disk guard.
//!
//! In: the data directory and [`crate::settings::StorageSettings`]. Out: a [`Storage`] that reads and
//! writes bytes by [`Family`] and key. This is the only module that names RocksDB; what the bytes mean
//! is decided above, byte by byte in `storage-format.md`.
//!
//! Promises: one process per data directory; a directory of a newer format is refused, never rewritten;
//! after a failed write or flush the store is *poisoned* and accepts nothing until it is opened again
//! (storage-design.md 6.1, 12); nothing read is trusted unchecked.

mod batch;
pub mod codec;
mod directory;
mod disk;
mod error;
mod family;
mod options;
mod read;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, WriteOptions};
use tracing::{error, info};

pub use batch::Batch;
pub use directory::{FORMAT, FormatRecord, MIN_READER, is_data_directory};
pub use disk::{Ballast, DiskSpace, free_space, limits_for};
pub use error::StorageError;
pub use family::Family;
pub use read::Scan;
pub use verify::{VerifyReport, verify};

use crate::clock::Clock;
use crate::settings::StorageSettings;

/// The open store. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    db: DB,
    directory: PathBuf,
    format: FormatRecord,
    poison: Mutex<Option<String>>,
    is_poisoned: AtomicBool,
    flushes: AtomicU64,
    written: AtomicU64,
    /// Held for its lock; the system releases it when the process ends, however it ends.
    _lock: Option<std::fs::File>,
}

impl Storage {
    /// Opens the store of a data directory, creating it when the directory is new.
    ///
    /// # Errors
    /// See [`StorageError`]; [`StorageError::needs_human`] tells a broken or foreign directory from a
    /// condition that a restart may find mended.
    pub fn open(directory: &Path, settings: &StorageSettings, clock: &Clock) -> Result<Storage, StorageError> {
        let lock = directory::prepare(directory, settings.allow_unsafe_fs)?;
        let database = directory.join("db");
        let is_new = !database.join("CURRENT").exists();
        let db = options::open(&database, settings).map_err(|source| StorageError::open(&database, &source))?;
        let format = directory::format_record(&db, is_new, clock.now_ms(), false)?;
        info!(directory = %directory.display(), format = format.format, new = is_new, "store opened");
        Ok(Storage(Arc::new(Inner {
            db,
            directory: directory.to_owned(),
            format,
            poison: Mutex::new(None),
            is_poisoned: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            _lock: Some(lock),
        })))
    }

    /// Opens the store for looking only: nothing is written, no lock is needed, a running node may own it.
    ///
    /// # Errors
    /// As [`Storage::open`]; a directory without a store is an error.
    pub fn open_read_only(directory: &Path, settings: &StorageSettings) -> Result<Storage, StorageError> {
        directory::check_format_file(directory)?;
        let database = directory.join("db");
        let db =
            options::open_read_only(&database, settings).map_err(|source| StorageError::open(&database, &source))?;
        let format = directory::format_record(&db, false, 0, true)?;
        Ok(Storage(Arc::new(Inner {
            db,
            directory: directory.to_owned(),
            format,
            poison: Mutex::new(None),
            is_poisoned: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            _lock: None,
        })))
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The format record, with the salt of the store.
    pub fn format(&self) -> &FormatRecord {
        &self.0.format
    }

    /// Writes a batch whole or not at all and hands it to the operating system, without waiting for the disk.
    ///
    /// # Errors
    /// Any failure poisons the store.
    pub fn write(&self, batch: Batch<'_>) -> Result<(), StorageError> {
        self.healthy()?;
        self.0.written.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        let mut options = WriteOptions::default();
        options.set_sync(false);
        self.0.db.write_opt(batch.into_inner(), &options).map_err(|source| self.poison("write", source.as_ref()))
    }

    /// Waits until everything written so far is on the disk.
    ///
    /// # Errors
    /// Any failure poisons the store: a flush that failed once must not be tried again.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.healthy()?;
        let flushed = self.0.db.flush_wal(true);
        self.0.flushes.fetch_add(1, Ordering::Relaxed);
        flushed.map_err(|source| self.poison("flush", source.as_ref()))
    }

    /// Bytes written to the log since the store was opened.
    pub fn written(&self) -> u64 {
        self.0.written.load(Ordering::Relaxed)
    }

    /// Writes what memory holds to files, so that the log can go. What was dropped meanwhile is not written.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn compact_log(&self) -> Result<(), StorageError> {
        for family in Family::ALL {
            let handle = self.0.db.cf_handle(family.name()).ok_or_else(|| StorageError::missing_family(family))?;
            self.0.db.flush_cf(handle).map_err(|source| StorageError::read(family, &source))?;
        }
        Ok(())
    }

    /// Flushes of the log since the store was opened.
    pub fn flushes(&self) -> u64 {
        self.0.flushes.load(Ordering::Relaxed)
    }

    /// Removes whole files that lie inside `[from, to)`. Only after the flush that covers the range delete
    /// (storage-design.md 8.3): dropping files is durable at once and independent of the log.
    ///
    /// # Errors
    /// A failure leaves only space for later compaction.
    pub fn drop_files(&self, family: Family, from: &[u8], to: &[u8]) -> Result<(), StorageError> {
        let handle = self.0.db.cf_handle(family.name()).ok_or_else(|| StorageError::missing_family(family))?;
        self.0.db.delete_file_in_range_cf(handle, from, to).map_err(|source| StorageError::read(family, &source))
    }

    /// Makes a consistent copy of the store by hard links at `target`, which must not exist and must lie on
    /// the same file system (storage-design.md 14).
    ///
    /// # Errors
    /// When the target exists or cannot be written.
    pub fn checkpoint(&self, target: &Path) -> Result<(), StorageError> {
        let failed =
            |source: rocksdb::Error| StorageError::Checkpoint { target: target.to_owned(), reason: source.to_string() };
        Checkpoint::new(&self.0.db).map_err(failed)?.create_checkpoint(target).map_err(failed)
    }

    /// A whole-number property of the engine (`rocksdb.background-errors`), summed over families.
    pub fn property(&self, name: &str) -> u64 {
        Family::ALL
            .iter()
            .filter_map(|family| self.0.db.cf_handle(family.name()))
            .filter_map(|handle| self.0.db.property_int_value_cf(handle, name).ok().flatten())
            .sum()
    }

    /// The same for one family.
    pub fn family_property(&self, family: Family, name: &str) -> Option<u64> {
        let handle = self.0.db.cf_handle(family.name())?;
        self.0.db.property_int_value_cf(handle, name).ok().flatten()
    }

    /// Why the store accepts nothing any more, if so.
    pub fn poisoned(&self) -> Option<String> {
        // Asked before every commit: no lock while all is well.
        if self.0.is_poisoned.load(Ordering::Acquire) { self.0.poison.lock().clone() } else { None }
    }

    fn healthy(&self) -> Result<(), StorageError> {
        if self.0.is_poisoned.load(Ordering::Acquire) {
            let reason = self.0.poison.lock().clone().unwrap_or_default();
            return Err(StorageError::Poisoned { reason });
        }
        Ok(())
    }

    fn poison(&self, what: &str, reason: &str) -> StorageError {
        let reason = format!("{what} failed: {reason}");
        error!(reason, "the store is poisoned: nothing is accepted until the node restarts");
        let mut poison = self.0.poison.lock();
        let first = poison.get_or_insert(reason).clone();
        self.0.is_poisoned.store(true, Ordering::Release);
        StorageError::Poisoned { reason: first }
    }
}

#[cfg(test)]
mod tests;

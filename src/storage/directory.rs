//! The data directory: its lock, its format file, its format record (storage-design.md 2, 15).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use rocksdb::{DB, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::codec;
use super::error::StorageError;

/// The format that this version writes.
pub const FORMAT: u32 = 1;
/// The oldest reader that understands what this version writes.
pub const MIN_READER: u32 = 1;

/// Key of the format record in the family `default`.
const FORMAT_KEY: [u8; 1] = [0x01];

const FOLDERS: [&str; 6] = ["snapshots", "staging", "archive", "tmp", "warehouse/objects", "warehouse/tables"];

/// What the store says about itself, written once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatRecord {
    /// Format of the directory.
    pub format: u32,
    /// The oldest format number a reader must support.
    pub min_reader: u32,
    /// When the store was made, milliseconds since the epoch.
    pub created_ms: i64,
    /// Which software made it.
    pub software: String,
    /// Optional features in use; none so far.
    pub features: u64,
    /// Seeds hashes of user and message ids, so that they cannot be predicted from outside.
    pub salt: u64,
}

/// Whether the folder is a data directory of some format.
pub fn is_data_directory(directory: &Path) -> bool {
    directory.join("FORMAT").exists()
}

/// Makes the directory's folders, takes its lock and checks its format file.
pub(super) fn prepare(directory: &Path, allow_unsafe_fs: bool) -> Result<File, StorageError> {
    fs::create_dir_all(directory).map_err(|source| StorageError::file("create", directory, source))?;
    restrict(directory)?;
    if !allow_unsafe_fs {
        refuse_unsafe_file_system(directory)?;
    }
    let lock = lock(directory)?;
    let format_file = directory.join("FORMAT");
    if format_file.exists() {
        check_format_file(directory)?;
    } else if directory.join("db").exists() {
        return Err(StorageError::NotADataDirectory {
            directory: directory.to_owned(),
            reason: "it has a db folder but no FORMAT file; restore the whole directory from a snapshot".to_owned(),
        });
    } else {
        write_durably(&format_file, format!("pintle-data {FORMAT}\n").as_bytes())?;
    }
    for folder in FOLDERS {
        let folder = directory.join(folder);
        fs::create_dir_all(&folder).map_err(|source| StorageError::file("create", &folder, source))?;
    }
    empty_folder(&directory.join("tmp"))?;
    Ok(lock)
}

/// Checks that this version may open the directory.
pub(super) fn check_format_file(directory: &Path) -> Result<(), StorageError> {
    let path = directory.join("FORMAT");
    let text = fs::read_to_string(&path).map_err(|source| StorageError::file("read", &path, source))?;
    let found = text.trim().strip_prefix("pintle-data ").and_then(|number| number.parse::<u32>().ok());
    match found {
        Some(found) if found <= FORMAT => Ok(()),
        Some(found) => Err(StorageError::NewerFormat { directory: directory.to_owned(), found, supported: FORMAT }),
        None => Err(StorageError::NotADataDirectory {
            directory: directory.to_owned(),
            reason: "its FORMAT file is not one of this software; choose another --data-dir".to_owned(),
        }),
    }
}

/// Reads the format record, or writes it into a new database.
pub(super) fn format_record(db: &DB, is_new: bool, now_ms: i64, read_only: bool) -> Result<FormatRecord, StorageError> {
    let stored = db.get(FORMAT_KEY).map_err(|source| StorageError::read(super::Family::Meta, &source))?;
    if let Some(bytes) = stored {
        let record: FormatRecord = codec::decode("format", &bytes)?;
        if record.format > FORMAT && record.min_reader > FORMAT {
            return Err(StorageError::NewerFormat {
                directory: db.path().to_owned(),
                found: record.format,
                supported: FORMAT,
            });
        }
        return Ok(record);
    }
    if !is_new || read_only {
        // The first start may have died between creating the database and this record; nothing is lost then.
        if read_only {
            return Err(StorageError::Corrupt {
                what: "format".to_owned(),
                reason: "the record is missing".to_owned(),
            });
        }
    }
    let record = FormatRecord {
        format: FORMAT,
        min_reader: MIN_READER,
        created_ms: now_ms,
        software: concat!("pintle ", env!("CARGO_PKG_VERSION")).to_owned(),
        features: 0,
        salt: Uuid::new_v4().as_u64_pair().0 ^ Uuid::new_v4().as_u64_pair().1,
    };
    let mut batch = WriteBatch::default();
    batch.put(FORMAT_KEY, codec::encode(&record));
    let mut options = WriteOptions::default();
    options.set_sync(true);
    db.write_opt(batch, &options).map_err(|source| StorageError::Poisoned { reason: source.to_string() })?;
    Ok(record)
}

/// Writes a file so that it is there whole after a power cut: temporary name, flush, rename, flush of the folder.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| StorageError::file("write", path, source))
}

fn lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join("LOCK.pintle");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| StorageError::file("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StorageError::Locked { directory: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StorageError::file("lock", &path, source)),
    }
}

/// Keeps other users out of the events, unless the operator already chose the mode of an existing directory.
fn restrict(directory: &Path) -> Result<(), StorageError> {
    use std::os::unix::fs::PermissionsExt;
    if is_data_directory(directory) {
        return Ok(());
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o750))
        .map_err(|source| StorageError::file("set the mode of", directory, source))
}

fn empty_folder(folder: &Path) -> Result<(), StorageError> {
    let entries = fs::read_dir(folder).map_err(|source| StorageError::file("list", folder, source))?;
    for entry in entries {
        let path = entry.map_err(|source| StorageError::file("list", folder, source))?.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|source| StorageError::file("remove", &path, source))?;
    }
    Ok(())
}

fn refuse_unsafe_file_system(directory: &Path) -> Result<(), StorageError> {
    const TMPFS: i64 = 0x0102_1994;
    const OVERLAY: i64 = 0x794c_7630;
    let Ok(found) = rustix::fs::statfs(directory) else { return Ok(()) };
    let name = match found.f_type {
        TMPFS => "tmpfs",
        OVERLAY => "overlay",
        _ => return Ok(()),
    };
    Err(StorageError::NotADataDirectory {
        directory: directory.to_owned(),
        reason: format!(
            "it lies on {name}, which does not keep what was flushed; use a directory on ext4 or xfs (in a container: a volume), or set Storage.allowUnsafeFs = true to try things out"
        ),
    })
}

//! Snapshots of the node: made while it runs, listed, verified, restored (storage-design.md 14, appliance.md 5).
//!
//! A snapshot `<data>/snapshots/<UTC time>/` is laid out as a data directory is: `FORMAT`, `db/` (a checkpoint
//! by hard links), `staging/` and `warehouse/objects/` (files that records may name), on request
//! `warehouse/tables/` and `archive/`; beside them `workspace/` (the workspace file and its folders) and
//! `MANIFEST.json` with counts, sizes and checksums. It is made under `tmp/` and renamed, so a snapshot that
//! is there is whole. The admin token is not in it. Files are 0600, folders 0700.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Deps;
use crate::clock::Clock;
use crate::jobsdb::{self, JobsDbError};
use crate::settings::Settings;
use crate::storage::{self, StorageError};

const MANIFEST: &str = "MANIFEST.json";
/// Folders beside the workspace file that belong to it (gateway.md 11.8).
const WORKSPACE_FOLDERS: [&str; 3] = ["transformations", "libraries", "tracking-plans"];

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Its folder's name: the UTC time.
    pub name: String,
    /// Version of the software that made it.
    pub version: String,
    /// When, milliseconds since the epoch.
    pub created_ms: i64,
    /// Jobs waiting in each queue, as the snapshot has them.
    pub queues: Vec<QueueCount>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Every file but this manifest.
    pub files: Vec<ManifestFile>,
}

/// Jobs of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueCount {
    /// Its name.
    pub queue: String,
    /// Jobs without a terminal outcome.
    pub pending: u64,
    /// The id of its newest job.
    pub last_job_id: u64,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestFile {
    /// Its path within the snapshot.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
}

/// Optional parts of a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The tables of the embedded warehouses.
    pub tables: bool,
    /// The files of local destinations and the gateway archive.
    pub archive: bool,
}

/// Why a snapshot cannot be made, found or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The bound on snapshots is reached; they keep deleted data on the disk.
    #[error(
        "{there} snapshots are there, as many as Storage.snapshotKeep allows; copy one away and remove it with `pintle backup rm <name>`"
    )]
    TooMany {
        /// How many there are.
        there: usize,
    },
    /// There is no such snapshot.
    #[error("no snapshot {name:?}; `pintle backup list` shows what there is")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The folder is not a whole snapshot.
    #[error("{} is not a whole snapshot: {reason}", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The target of a restore is in use.
    #[error("{} is not empty; restore into a new directory, then start the node with --data-dir", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The queues refused.
    #[error(transparent)]
    Jobs(#[from] JobsDbError),
}

/// Makes a snapshot of the running node. Blocks.
pub(super) fn create(deps: &Deps, extent: Extent) -> Result<Manifest, BackupError> {
    let settings = deps.settings.load();
    create_from(&deps.data_dir, &settings, &deps.clock, extent, |target| Ok(deps.jobs.storage().checkpoint(target)?))
}

/// Makes a snapshot of a data directory; `checkpoint` puts a consistent copy of its store at the path it is given.
///
/// # Errors
/// See [`BackupError`]; nothing is left behind then but files under `tmp/`.
pub fn create_from(
    data_dir: &Path,
    settings: &Settings,
    clock: &Clock,
    extent: Extent,
    checkpoint: impl FnOnce(&Path) -> Result<(), BackupError>,
) -> Result<Manifest, BackupError> {
    let there = list(data_dir)?.len();
    if there >= settings.storage.snapshot_keep.max(1) {
        return Err(BackupError::TooMany { there });
    }
    let name = clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let target = data_dir.join("snapshots").join(&name);
    if target.exists() {
        return Err(failed("create", &target)(io::Error::from(io::ErrorKind::AlreadyExists)));
    }
    let building = data_dir.join("tmp").join(format!("snapshot-{name}"));
    if building.exists() {
        fs::remove_dir_all(&building).map_err(failed("remove", &building))?;
    }
    create_folder(&building)?;
    checkpoint(&building.join("db"))?;
    copy_file(&data_dir.join("FORMAT"), &building.join("FORMAT"))?;
    let mut folders = vec!["staging", "warehouse/objects"];
    folders.extend(extent.tables.then_some("warehouse/tables"));
    folders.extend(extent.archive.then_some("archive"));
    for folder in folders {
        transfer(&data_dir.join(folder), &building.join(folder), Transfer::Link)?;
    }
    copy_workspace(&settings.backend_config.path, &building.join("workspace"))?;

    let queues = jobsdb::inspect(&building)?
        .iter()
        .map(|queue| QueueCount {
            queue: queue.queue.name().to_owned(),
            pending: queue.pending,
            last_job_id: queue.last_job_id,
        })
        .collect();
    let files = describe_files(&building)?;
    let manifest = Manifest {
        name,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        created_ms: clock.now_ms(),
        queues,
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).map_err(|problem| BackupError::Damaged {
        path: building.clone(),
        reason: format!("its manifest cannot be written: {problem}"),
    })?;
    write_file(&building.join(MANIFEST), &text)?;
    create_folder(&data_dir.join("snapshots"))?;
    fs::rename(&building, &target).map_err(failed("rename", &building))?;
    sync_folder(&data_dir.join("snapshots"))?;
    Ok(manifest)
}

/// Every whole snapshot of a data directory, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(data_dir: &Path) -> Result<Vec<Manifest>, BackupError> {
    let folder = data_dir.join("snapshots");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", &folder)(error)),
    };
    let mut manifests = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("list", &folder))?.path();
        if let Ok(manifest) = read_manifest(&path) {
            manifests.push(manifest);
        }
    }
    manifests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(manifests)
}

/// Removes a snapshot of a data directory.
///
/// # Errors
/// When there is none of this name, or it cannot be removed.
pub fn remove(data_dir: &Path, name: &str) -> Result<(), BackupError> {
    let is_known = list(data_dir)?.iter().any(|manifest| manifest.name == name);
    if !is_known {
        return Err(BackupError::Unknown { name: name.to_owned() });
    }
    let path = data_dir.join("snapshots").join(name);
    fs::remove_dir_all(&path).map_err(failed("remove", &path))
}

/// Compares every file of a snapshot with its manifest.
///
/// # Errors
/// The first file that is missing or differs.
pub fn verify_files(snapshot: &Path) -> Result<Manifest, BackupError> {
    let manifest = read_manifest(snapshot)?;
    for file in &manifest.files {
        let damaged = |reason: String| BackupError::Damaged { path: snapshot.to_owned(), reason };
        if !stays_inside(&file.path) {
            return Err(damaged(format!("its manifest names {}, outside of it", file.path.display())));
        }
        let found =
            describe(snapshot, &file.path).map_err(|problem| damaged(format!("{}: {problem}", file.path.display())))?;
        if found != *file {
            return Err(damaged(format!("{} is not the file that was saved", file.path.display())));
        }
    }
    Ok(manifest)
}

/// Copies a snapshot to another place, for example another disk.
///
/// # Errors
/// When the target is not empty or cannot be written.
pub fn copy_to(snapshot: &Path, target: &Path) -> Result<(), BackupError> {
    refuse_non_empty(target)?;
    transfer(snapshot, target, Transfer::Copy)
}

/// Brings a snapshot back as a new data directory: verified first, its `FORMAT` written last, so that a restore
/// that was cut short is not taken for a data directory.
///
/// # Errors
/// When the snapshot is damaged or the target is not empty.
pub fn restore(snapshot: &Path, data_dir: &Path) -> Result<Manifest, BackupError> {
    refuse_non_empty(data_dir)?;
    let manifest = verify_files(snapshot)?;
    create_folder(data_dir)?;
    for file in manifest.files.iter().filter(|file| file.path != Path::new("FORMAT")) {
        let target = data_dir.join(&file.path);
        if let Some(folder) = target.parent() {
            create_folder(folder)?;
        }
        copy_file(&snapshot.join(&file.path), &target)?;
    }
    sync_folder(data_dir)?;
    copy_file(&snapshot.join("FORMAT"), &data_dir.join("FORMAT"))?;
    sync_folder(data_dir)?;
    let report = storage::verify(data_dir)?;
    match report.problems.first() {
        None => Ok(manifest),
        Some(problem) => Err(BackupError::Damaged { path: snapshot.to_owned(), reason: problem.clone() }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transfer {
    /// A hard link where the file system allows it: the files never change once they are written.
    Link,
    /// Bytes of its own.
    Copy,
}

/// Brings the files of a folder to another, folder by folder. A folder that is not there has no files; a file
/// that goes away meanwhile was not needed any more.
fn transfer(from: &Path, to: &Path, how: Transfer) -> Result<(), BackupError> {
    let entries = match fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("list", from)(error)),
    };
    create_folder(to)?;
    for entry in entries {
        let entry = entry.map_err(failed("list", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed("look at", &source))?;
        if kind.is_dir() {
            transfer(&source, &target, how)?;
        } else if kind.is_file() && !is_scratch(&entry.file_name().to_string_lossy()) {
            let linked =
                if how == Transfer::Link { fs::hard_link(&source, &target) } else { Err(io::ErrorKind::Other.into()) };
            match linked {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => copy_file(&source, &target)?,
            }
        }
    }
    Ok(())
}

/// Files of the store that hold no data: its own log and lock.
fn is_scratch(name: &str) -> bool {
    name == "LOCK" || name == "LOG" || name.starts_with("LOG.old.")
}

fn copy_workspace(file: &Path, target: &Path) -> Result<(), BackupError> {
    if !file.is_file() {
        return Ok(());
    }
    create_folder(target)?;
    if let Some(name) = file.file_name() {
        copy_file(file, &target.join(name))?;
    }
    for folder in WORKSPACE_FOLDERS {
        if let Some(beside) = file.parent() {
            transfer(&beside.join(folder), &target.join(folder), Transfer::Copy)?;
        }
    }
    Ok(())
}

fn describe_files(snapshot: &Path) -> Result<Vec<ManifestFile>, BackupError> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let absolute = snapshot.join(&folder);
        for entry in fs::read_dir(&absolute).map_err(failed("list", &absolute))? {
            let entry = entry.map_err(failed("list", &absolute))?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(failed("look at", &entry.path()))?;
            if kind.is_dir() {
                folders.push(path);
            } else if !is_scratch(&entry.file_name().to_string_lossy()) {
                files.push(describe(snapshot, &path)?);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn describe(snapshot: &Path, path: &Path) -> Result<ManifestFile, BackupError> {
    let absolute = snapshot.join(path);
    let mut file = File::open(&absolute).map_err(failed("open", &absolute))?;
    let mut hash = Sha256::new();
    let mut bytes = 0_u64;
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(failed("read", &absolute))?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
        hash.update(chunk);
        bytes += chunk.len() as u64;
    }
    let sha256 = hex(&hash.finalize());
    Ok(ManifestFile { path: path.to_owned(), bytes, sha256 })
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0x0f)]).collect()
}

fn read_manifest(snapshot: &Path) -> Result<Manifest, BackupError> {
    let path = snapshot.join(MANIFEST);
    let damaged = |reason: String| BackupError::Damaged { path: snapshot.to_owned(), reason };
    let text = fs::read(&path).map_err(|problem| damaged(format!("{MANIFEST}: {problem}")))?;
    serde_json::from_slice(&text).map_err(|problem| damaged(format!("{MANIFEST}: {problem}")))
}

/// A manifest comes from a disk that others may have written to.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Lets a directory be used that is empty or not there yet.
///
/// # Errors
/// When it holds anything.
pub fn refuse_non_empty(directory: &Path) -> Result<(), BackupError> {
    match fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(BackupError::NotEmpty { path: directory.to_owned() }),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("list", directory)(error)),
    }
}

fn create_folder(path: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

fn copy_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut source = File::open(from).map_err(failed("open", from))?;
    let mut target = new_file(to)?;
    io::copy(&mut source, &mut target).map_err(failed("write", to))?;
    target.sync_all().map_err(failed("flush", to))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let mut file = new_file(path)?;
    file.write_all(bytes).map_err(failed("write", path))?;
    file.sync_all().map_err(failed("flush", path))
}

fn new_file(path: &Path) -> Result<File, BackupError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed("create", path))
}

fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("flush", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(dir: &Path) -> PathBuf {
        let snapshot = dir.join("snapshot");
        fs::create_dir_all(snapshot.join("db")).unwrap();
        fs::write(snapshot.join("FORMAT"), "pintle-data 1\n").unwrap();
        fs::write(snapshot.join("db/CURRENT"), "MANIFEST-000001\n").unwrap();
        fs::write(snapshot.join("db/LOG"), "chatter").unwrap();
        let files = describe_files(&snapshot).unwrap();
        let manifest = Manifest {
            name: "20260101T000000Z".to_owned(),
            version: "0.1.0".to_owned(),
            created_ms: 0,
            queues: Vec::new(),
            bytes: 0,
            files,
        };
        fs::write(snapshot.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        snapshot
    }

    #[test]
    fn a_snapshot_is_whole_until_a_file_changes_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = snapshot(dir.path());
        assert_eq!(verify_files(&snapshot).unwrap().files.len(), 2);
        fs::write(snapshot.join("db/CURRENT"), "MANIFEST-000002\n").unwrap();
        assert!(matches!(verify_files(&snapshot), Err(BackupError::Damaged { .. })));
        fs::remove_file(snapshot.join("db/CURRENT")).unwrap();
        assert!(matches!(verify_files(&snapshot), Err(BackupError::Damaged { .. })));
    }

    #[test]
    fn checksums_are_written_as_tools_write_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "abc").unwrap();
        let file = describe(dir.path(), Path::new("a")).unwrap();
        assert_eq!(file.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_manifest_cannot_name_files_outside_of_its_snapshot() {
        for (path, inside) in [("db/CURRENT", true), ("../x", false), ("/etc/passwd", false), ("a/../../b", false)] {
            assert_eq!(stays_inside(Path::new(path)), inside, "{path}");
        }
    }

    #[test]
    fn a_directory_with_files_is_never_restored_into() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = snapshot(dir.path());
        let target = dir.path().join("data");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("something"), "").unwrap();
        assert!(matches!(restore(&snapshot, &target), Err(BackupError::NotEmpty { .. })));
        assert!(matches!(copy_to(&snapshot, &target), Err(BackupError::NotEmpty { .. })));
    }

    #[test]
    fn the_copy_of_a_snapshot_has_its_data_and_not_its_chatter() {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = snapshot(dir.path());
        let target = dir.path().join("elsewhere/copy");
        copy_to(&snapshot, &target).unwrap();
        assert_eq!(verify_files(&target).unwrap().files.len(), 2);
        assert!(!target.join("db/LOG").exists());
    }
}

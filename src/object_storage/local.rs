//! A directory on this machine as a storage (router.md 20, `LOCAL`; security.md 7.6).
//!
//! A file appears under its name only when it is whole and on disk: it is put beside it under a temporary
//! name, flushed, renamed, and the folder is flushed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use super::configured::Configured;
use super::{StoreContext, StoreError};

/// Directories of the data directory that are not for files of destinations.
const OWN_DIRECTORIES: [&str; 5] = ["db", "snapshots", "staging", "tmp", "warehouse"];

/// Directories of the system that are not for files of destinations.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/pintle", "/run"];

/// A directory below which objects are files.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: PathBuf,
}

impl LocalStore {
    /// A store below the directory, which need not exist yet.
    ///
    /// # Errors
    /// The path is not absolute, or lies where the node keeps other things.
    pub fn new(root: &Path, data_dir: &Path) -> Result<LocalStore, StoreError> {
        match refused_directory(root, data_dir) {
            Some(why) => Err(StoreError::Misconfigured(why)),
            None => Ok(LocalStore { root: root.to_owned() }),
        }
    }

    pub(super) fn of_destination(config: &Configured<'_>, context: &StoreContext) -> Result<LocalStore, StoreError> {
        let path = config.text("path");
        let root = if path.is_empty() {
            context.data_dir.join("archive").join(one_component(&context.destination_id))
        } else {
            PathBuf::from(path)
        };
        LocalStore::new(&root, &context.data_dir)
    }

    /// A store in a directory that the node chose itself, which may lie among its own.
    pub fn of_node(root: &Path) -> LocalStore {
        LocalStore { root: root.to_owned() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) async fn upload(&self, key: &str, file: &Path) -> Result<String, StoreError> {
        let target = self.path_of(key)?;
        let (root, file) = (self.root.clone(), file.to_owned());
        blocking(move || {
            place(&root, &target, &file).map_err(|error| write_error(&target, &error))?;
            Ok(location(&target))
        })
        .await
    }

    pub(super) async fn length(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let target = self.path_of(key)?;
        blocking(move || match fs::metadata(&target) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Refused(format!("cannot look at {}: {error}", target.display()))),
        })
        .await
    }

    pub(super) async fn list(&self, folder: &str, at_most: usize) -> Result<Vec<String>, StoreError> {
        let start = self.path_of(folder)?;
        let root = self.root.clone();
        blocking(move || {
            let mut found = Vec::new();
            match walk(&start, &mut |path| {
                let below = path.strip_prefix(&root).unwrap_or(path);
                found.push(below.to_string_lossy().into_owned());
                found.len() < at_most
            }) {
                Ok(_) => Ok(found),
                Err(error) => Err(StoreError::Refused(format!("cannot list {}: {error}", start.display()))),
            }
        })
        .await
    }

    pub(super) async fn download(&self, key: &str, file: &Path) -> Result<u64, StoreError> {
        let (source, file) = (self.path_of(key)?, file.to_owned());
        blocking(move || {
            fs::copy(&source, &file).map_err(|error| {
                StoreError::Refused(format!("cannot copy {} to {}: {error}", source.display(), file.display()))
            })
        })
        .await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let target = self.path_of(key)?;
        blocking(move || {
            remove_if_there(&target)
                .map_err(|error| StoreError::Refused(format!("cannot remove {}: {error}", target.display())))
        })
        .await
    }

    pub(super) fn location(&self, key: &str) -> Result<String, StoreError> {
        Ok(location(&self.path_of(key)?))
    }

    /// The file of a key. Keys are clean paths; anything else would leave the directory and is refused.
    fn path_of(&self, key: &str) -> Result<PathBuf, StoreError> {
        let below = Path::new(key.trim_start_matches('/'));
        if below.components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.root.join(below))
        } else {
            Err(StoreError::Misconfigured(format!("the object key {key:?} is not a clean path")))
        }
    }
}

/// Why the directory cannot hold files of destinations; `None` when it can. Symbolic links are followed as
/// far as the path exists.
pub fn refused_directory(path: &Path, data_dir: &Path) -> Option<String> {
    if !path.is_absolute() {
        return Some(format!("the path {} is not absolute; write it from the root on", path.display()));
    }
    let real = resolved(path);
    let own = OWN_DIRECTORIES.iter().map(|name| resolved(data_dir).join(name));
    let forbidden = own.chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from)).find(|taken| real.starts_with(taken));
    forbidden.map(|taken| {
        format!(
            "the path {} lies in {}, which the node needs for itself; choose another directory",
            path.display(),
            taken.display()
        )
    })
}

/// The path without symbolic links and `..`, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        if let Ok(real) = existing.canonicalize() {
            let mut whole = real;
            for part in missing.iter().rev() {
                match part {
                    Component::ParentDir => {
                        whole.pop();
                    }
                    Component::CurDir => {}
                    part => whole.push(part),
                }
            }
            return whole;
        }
        match (existing.components().next_back(), existing.parent()) {
            (Some(last), Some(parent)) => {
                missing.push(last);
                existing = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

/// The text as one part of a path.
pub fn one_component(text: &str) -> String {
    let clean: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    if clean.trim_matches('.').is_empty() { format!("_{clean}") } else { clean }
}

/// Creates the directory and those above it, each on disk before the next.
pub fn create_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_directories(parent)?;
    }
    match DirBuilder::new().mode(0o750).create(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_directory),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the directory's entries durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn place(root: &Path, target: &Path, file: &Path) -> io::Result<()> {
    let folder = target.parent().unwrap_or(root);
    create_directories(folder)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.part"));
    remove_if_there(&temporary)?;
    // The finished file is on disk already: a second name for it is as good as a copy, where links work.
    if fs::hard_link(file, &temporary).is_err() {
        copy(file, &temporary).inspect_err(|_| {
            if let Err(error) = remove_if_there(&temporary) {
                tracing::warn!(file = %temporary.display(), %error, "a partly written file is left behind");
            }
        })?;
    }
    fs::rename(&temporary, target)?;
    sync_directory(folder)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = File::options().write(true).create_new(true).mode(0o640).open(to)?;
    io::copy(&mut source, &mut target)?;
    target.sync_all()
}

/// Removes the file; none there is fine.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Visits finished files below the folder, folders and files in order of name, until the visitor has enough.
/// A folder that does not exist holds nothing.
pub fn walk(folder: &Path, visit: &mut dyn FnMut(&Path) -> bool) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let goes_on = if path.is_dir() { walk(&path, visit)? } else { visit(&path) };
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

fn location(path: &Path) -> String {
    url::Url::from_file_path(path).map_or_else(|()| format!("file://{}", path.display()), String::from)
}

fn write_error(target: &Path, error: &io::Error) -> StoreError {
    use io::ErrorKind;
    let what = format!("cannot write {}: {error}", target.display());
    match error.kind() {
        // As with a storage that cannot be reached: nothing about the jobs or the destination is wrong.
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Unreachable(format!("{what}; make room")),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreError::Refused(format!(
            "{what}; let the service write there: add the directory to ReadWritePaths of the systemd unit and give it to the service's user"
        )),
        _ => StoreError::Refused(what),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Refused(format!("internal error while writing a file: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_the_node_needs_for_itself_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("db")).unwrap();
        std::os::unix::fs::symlink(data.join("db"), dir.path().join("innocent")).unwrap();
        for (path, accepted) in [
            (data.join("archive/d1"), true),
            (dir.path().join("files/not/yet/there"), true),
            (data.join("db/x"), false),
            (data.join("staging"), false),
            (data.join("archive/../tmp/x"), false),
            (dir.path().join("innocent/x"), false),
            (PathBuf::from("/etc/pintle/x"), false),
            (PathBuf::from("relative"), false),
        ] {
            assert_eq!(refused_directory(&path, &data).is_none(), accepted, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn a_file_is_placed_whole_found_again_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::new(&dir.path().join("out"), &dir.path().join("data")).unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"one").unwrap();
        assert_eq!(store.length("a/b/c.gz").await, Ok(None));
        assert_eq!(store.list("a", 5).await, Ok(Vec::new()));
        let location = store.upload("a/b/c.gz", &file).await.unwrap();
        assert_eq!(location, format!("file://{}/out/a/b/c.gz", dir.path().display()));
        fs::remove_file(&file).unwrap();
        fs::write(&file, b"again").unwrap();
        store.upload("/a/b/c.gz", &file).await.unwrap();
        assert_eq!(store.length("a/b/c.gz").await, Ok(Some(5)));
        assert_eq!(store.list("a", 5).await, Ok(vec!["a/b/c.gz".to_owned()]));
        assert_eq!(store.location("a/b/c.gz").unwrap(), location);
        let copy = dir.path().join("copy");
        assert_eq!(store.download("a/b/c.gz", &copy).await, Ok(5));
        assert_eq!(fs::read(&copy).unwrap(), b"again");
        assert_eq!(store.delete("a/b/c.gz").await, Ok(()));
        assert_eq!(store.delete("a/b/c.gz").await, Ok(()));
        assert_eq!(store.length("a/b/c.gz").await, Ok(None));
        assert!(store.upload("../out2/x", &file).await.is_err());
    }

    #[test]
    fn names_become_one_part_of_a_path() {
        for (text, part) in [("d1", "d1"), ("../x", ".._x"), ("..", "_.."), ("a/b", "a_b"), ("", "_")] {
            assert_eq!(one_component(text), part);
        }
    }
}

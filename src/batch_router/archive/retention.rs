//! Bounds of the local archive (jobsdb.md 14): old files go, and the oldest when there are too many bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{Shared, events};
use super::file::last_event_s;
use crate::object_storage::{remove_if_there, walk};
use crate::settings::ArchivalSettings;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Removed {
    files: u64,
    bytes: u64,
}

/// Removes what is beyond the bounds, if there is a local archive.
pub(super) async fn prune(shared: &Shared, settings: &ArchivalSettings) {
    let Some(root) = settings.local_path.clone() else { return };
    let (age, max_bytes) = (settings.local_retention, settings.local_max_bytes);
    let now_s = shared.clock.now_ms().div_euclid(1000);
    match tokio::task::spawn_blocking(move || prune_directory(&root, age, max_bytes, now_s)).await {
        Ok(Ok(removed)) if removed.files > 0 => events::archive_pruned(removed.files, removed.bytes),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "old files of the local archive cannot be removed"),
        Err(error) => tracing::error!(%error, "old files of the local archive cannot be removed"),
    }
}

fn prune_directory(root: &Path, age: Duration, max_bytes: u64, now_s: i64) -> std::io::Result<Removed> {
    let mut files: Vec<(i64, u64, PathBuf)> = Vec::new();
    walk(root, &mut |path| {
        let last_s = path.file_name().and_then(|name| name.to_str()).and_then(last_event_s);
        if let (Some(last_s), Ok(metadata)) = (last_s, fs::metadata(path)) {
            files.push((last_s, metadata.len(), path.to_owned()));
        }
        true
    })?;
    files.sort_unstable();
    let oldest_kept_s = now_s.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
    let mut removed = Removed::default();
    for (last_s, length, path) in files {
        if last_s >= oldest_kept_s && bytes <= max_bytes {
            break;
        }
        remove_if_there(&path)?;
        remove_empty_parents(&path, root);
        bytes = bytes.saturating_sub(length);
        removed = Removed { files: removed.files + 1, bytes: removed.bytes + length };
    }
    Ok(removed)
}

/// A folder with files in it stays, because it cannot be removed.
fn remove_empty_parents(file: &Path, root: &Path) {
    let mut folder = file.parent();
    while let Some(current) = folder.filter(|current| *current != root && current.starts_with(root)) {
        if fs::remove_dir(current).is_err() {
            return;
        }
        folder = current.parent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go_first_and_foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: usize| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![b'x'; bytes]).unwrap();
        };
        put("s/gw/d1/0/1/1_100_w_a.json.gz", 10);
        put("s/gw/d1/0/1/1_200_w_b.json.gz", 10);
        put("s/gw/d2/0/1/1_300_w_c.json.gz", 10);
        put("s/readme.txt", 100);
        let prune = |age, max| prune_directory(dir.path(), Duration::from_secs(age), max, 1_000).unwrap();
        assert_eq!(prune(10_000, 30), Removed::default());
        assert_eq!(prune(850, 30), Removed { files: 1, bytes: 10 });
        assert_eq!(prune(10_000, 19), Removed { files: 1, bytes: 10 });
        assert!(dir.path().join("s/gw/d2/0/1/1_300_w_c.json.gz").exists());
        assert!(!dir.path().join("s/gw/d1").exists());
        assert!(dir.path().join("s/readme.txt").exists());
    }
}

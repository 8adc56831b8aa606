//! Free space, and the reserve for the worst moment (storage-design.md 12).

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use super::error::StorageError;

/// Space of the file system that holds the data directory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Size of the file system.
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

/// Asks the file system.
///
/// # Errors
/// When the directory cannot be asked.
pub fn free_space(directory: &Path) -> Result<DiskSpace, StorageError> {
    let found = rustix::fs::statvfs(directory)
        .map_err(|source| StorageError::file("ask for free space of", directory, source.into()))?;
    Ok(DiskSpace {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        free: found.f_bavail.saturating_mul(found.f_frsize),
    })
}

/// The soft and hard limits of free bytes: as set, or by the size of the disk.
pub fn limits_for(total: u64, soft: Option<u64>, hard: Option<u64>) -> (u64, u64) {
    let soft = soft.unwrap_or_else(|| (1_u64 << 30).max(total / 20).min(total / 10));
    let hard = hard.unwrap_or(soft / 2).min(soft);
    (soft, hard)
}

/// A file whose only use is to be deleted when the disk is full, so that a restart has room to recover.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
}

impl Ballast {
    /// The ballast of a data directory; 0 bytes = none.
    pub fn new(directory: &Path, bytes: u64) -> Ballast {
        Ballast { path: directory.join("ballast"), bytes }
    }

    /// Whether it is in place.
    pub fn is_there(&self) -> bool {
        self.bytes == 0 || fs::metadata(&self.path).is_ok_and(|found| found.len() == self.bytes)
    }

    /// Puts it in place. Call only with room to spare.
    ///
    /// # Errors
    /// When there is no room; nothing is left behind then.
    pub fn fill(&self) -> Result<(), StorageError> {
        if self.is_there() {
            return Ok(());
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&self.path)
            .map_err(|source| StorageError::file("create", &self.path, source))?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes).map_err(|source| {
            self.release();
            StorageError::file("reserve space in", &self.path, source.into())
        })
    }

    /// Gives the space back.
    pub fn release(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "the ballast could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_size_of_the_disk() {
        const GIB: u64 = 1 << 30;
        assert_eq!(limits_for(1_000 * GIB, None, None), (50 * GIB, 25 * GIB));
        assert_eq!(limits_for(15 * GIB, None, None).0, GIB);
        assert_eq!(limits_for(5 * GIB, None, None).0, GIB / 2);
        assert_eq!(limits_for(5 * GIB, Some(100), None), (100, 50));
    }
}

//! A set of changes that is written whole or not at all.

use rocksdb::WriteBatch;

use super::Storage;
use super::family::Family;

/// Changes gathered for one write.
pub struct Batch<'a> {
    storage: &'a Storage,
    inner: WriteBatch,
}

impl Storage {
    /// An empty batch with room for `bytes` bytes.
    pub fn batch(&self, bytes: usize) -> Batch<'_> {
        Batch { storage: self, inner: WriteBatch::with_capacity_bytes(bytes) }
    }
}

impl Batch<'_> {
    /// Sets a key.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        if let Some(handle) = self.storage.0.db.cf_handle(family.name()) {
            self.inner.put_cf(handle, key, value);
        }
    }

    /// Removes a key.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        if let Some(handle) = self.storage.0.db.cf_handle(family.name()) {
            self.inner.delete_cf(handle, key);
        }
    }

    /// Removes every key of `[from, to)`. One per dataset, never per job (storage-design.md 8.3).
    pub fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        if let Some(handle) = self.storage.0.db.cf_handle(family.name()) {
            self.inner.delete_range_cf(handle, from, to);
        }
    }

    /// Changes gathered so far.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether nothing was gathered.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Bytes that the batch takes in the log.
    pub fn bytes(&self) -> usize {
        self.inner.size_in_bytes()
    }

    pub(super) fn into_inner(self) -> WriteBatch {
        self.inner
    }
}

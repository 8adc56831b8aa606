//! Reading: single keys, many keys at once, bounded scans.

use rocksdb::{DBRawIterator, ReadOptions};

use super::{Family, Storage, StorageError};

/// Keys of one read that may keep their blocks in the cache.
const FEW: usize = 1_000;

impl Storage {
    /// The value of a key.
    ///
    /// # Errors
    /// When the engine finds damage on disk.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let handle = self.0.db.cf_handle(family.name()).ok_or_else(|| StorageError::missing_family(family))?;
        self.0.db.get_cf(handle, key).map_err(|source| StorageError::read(family, &source))
    }

    /// The values of many keys in ascending order. A few keep their blocks in the cache, because the next few
    /// often lie in the same ones; a large read does not push everything else out.
    ///
    /// # Errors
    /// When the engine finds damage on disk.
    pub fn get_sorted<K: AsRef<[u8]>>(&self, family: Family, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let handle = self.0.db.cf_handle(family.name()).ok_or_else(|| StorageError::missing_family(family))?;
        let mut options = ReadOptions::default();
        options.fill_cache(keys.len() <= FEW);
        let mut values = Vec::with_capacity(keys.len());
        for chunk in keys.chunks(256) {
            let found = self.0.db.batched_multi_get_cf_opt(handle, chunk.iter().map(AsRef::as_ref), true, &options);
            for value in found {
                let value = value.map_err(|source| StorageError::read(family, &source))?;
                values.push(value.map(|bytes| bytes.to_vec()));
            }
        }
        Ok(values)
    }

    /// Walks the keys of `[from, to)` in order. Made per use and dropped soon: a scan that lives long keeps
    /// files alive that were dropped.
    ///
    /// # Errors
    /// When the family is missing.
    pub fn scan(&self, family: Family, from: &[u8], to: &[u8]) -> Result<Scan<'_>, StorageError> {
        let handle = self.0.db.cf_handle(family.name()).ok_or_else(|| StorageError::missing_family(family))?;
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from);
        options.set_iterate_upper_bound(to);
        let mut iterator = self.0.db.raw_iterator_cf_opt(handle, options);
        iterator.seek(from);
        Ok(Scan { family, iterator, started: false })
    }
}

/// A walk over keys in order.
pub struct Scan<'a> {
    family: Family,
    iterator: DBRawIterator<'a>,
    started: bool,
}

impl Scan<'_> {
    /// The next key and value; `None` at the end.
    ///
    /// # Errors
    /// When the engine finds damage on disk.
    pub fn next_entry(&mut self) -> Result<Option<(&[u8], &[u8])>, StorageError> {
        if self.started && self.iterator.valid() {
            self.iterator.next();
        }
        self.started = true;
        if !self.iterator.valid() {
            self.iterator.status().map_err(|source| StorageError::read(self.family, &source))?;
            return Ok(None);
        }
        Ok(self.iterator.item())
    }
}

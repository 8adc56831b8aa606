//! Node-wide numbers for (workspace, customVal, source, destination), kept in memory as a whole.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::RwLock;

use super::api::Partition;

/// The dictionary. Numbers are given out in memory; the writer stores a number in the same batch as the
/// first job that uses it.
#[derive(Default)]
pub(super) struct Partitions {
    hasher: RandomState,
    tables: RwLock<Tables>,
}

#[derive(Default)]
struct Tables {
    by_hash: HashMap<u64, Vec<Arc<Partition>>>,
    by_id: HashMap<u32, Arc<Partition>>,
    next: u32,
}

impl Partitions {
    /// The partition of a tuple, numbered on first sight.
    pub fn intern(
        &self,
        workspace_id: &str,
        custom_val: &str,
        source_id: &str,
        destination_id: &str,
    ) -> Arc<Partition> {
        let hash = self.hasher.hash_one((workspace_id, custom_val, source_id, destination_id));
        let is_same = |partition: &&Arc<Partition>| {
            partition.workspace_id == workspace_id
                && partition.custom_val == custom_val
                && partition.source_id == source_id
                && partition.destination_id == destination_id
        };
        if let Some(found) = self.tables.read().by_hash.get(&hash).and_then(|list| list.iter().find(is_same)) {
            return Arc::clone(found);
        }
        let mut tables = self.tables.write();
        if let Some(found) = tables.by_hash.get(&hash).and_then(|list| list.iter().find(is_same)) {
            return Arc::clone(found);
        }
        let partition = Arc::new(Partition {
            id: tables.next,
            workspace_id: workspace_id.to_owned(),
            custom_val: custom_val.to_owned(),
            source_id: source_id.to_owned(),
            destination_id: destination_id.to_owned(),
        });
        tables.next += 1;
        tables.by_id.insert(partition.id, Arc::clone(&partition));
        tables.by_hash.entry(hash).or_default().push(Arc::clone(&partition));
        partition
    }

    /// Takes over a stored partition at open.
    pub fn restore(&self, partition: Partition) {
        let hash = self.hasher.hash_one((
            partition.workspace_id.as_str(),
            partition.custom_val.as_str(),
            partition.source_id.as_str(),
            partition.destination_id.as_str(),
        ));
        let partition = Arc::new(partition);
        let mut tables = self.tables.write();
        tables.next = tables.next.max(partition.id + 1);
        tables.by_id.insert(partition.id, Arc::clone(&partition));
        tables.by_hash.entry(hash).or_default().push(partition);
    }

    /// The partition with this number.
    pub fn get(&self, id: u32) -> Option<Arc<Partition>> {
        self.tables.read().by_id.get(&id).cloned()
    }
}

//! Where the files of a destination lie (warehouse.md 7.1, 9.1, 12.8, 18.4, 22).
//!
//! In: a destination. Out: the object storage of its staging and load files, and the keys of the latter. Destinations
//! without a bucket keep their files in the node's own folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use super::failure::Failure;
use crate::destination::warehouse::FileStorage;
use crate::object_storage::{LocalStore, Store, StoreContext, key_prefix};

/// Tables of the embedded warehouses, below the data directory.
const OWN_TABLES: &str = "warehouse/tables";

/// What opening a storage needs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Longest time of one operation.
    pub timeout: Duration,
    /// Region of buckets whose region cannot be found out.
    pub region_hint: String,
    /// Refuse private addresses.
    pub block_private_ips: bool,
}

/// An object storage, and what its keys begin with.
#[derive(Debug)]
pub struct Place {
    /// The storage.
    pub store: Store,
    /// What keys begin with, without a slash at the end; possibly empty.
    pub prefix: String,
}

impl Place {
    /// The key below the prefix.
    pub fn key(&self, rest: &str) -> String {
        let prefix = self.prefix.trim_matches('/');
        if prefix.is_empty() { rest.to_owned() } else { format!("{prefix}/{rest}") }
    }

    /// The file of the key, when the storage is a folder of this machine.
    pub fn file(&self, key: &str) -> Option<PathBuf> {
        match &self.store {
            Store::Local(store) => Some(store.root().join(key)),
            _ => None,
        }
    }
}

/// Whether the files of a destination lie in the node's own folder.
pub fn is_nodes_own(destination_type: &str, config: &Map<String, Value>, is_own: bool) -> bool {
    is_own || FileStorage::of_warehouse(destination_type, config) == Ok(FileStorage::Local)
}

/// The storage of staging files, and of load files where those are not the tables themselves.
///
/// # Errors
/// The storage is not reached or its configuration cannot work.
pub async fn of_files(
    destination_id: &str,
    workspace_id: &str,
    destination_type: &str,
    config: &Map<String, Value>,
    is_own: bool,
    around: &Surroundings,
) -> Result<Place, Failure> {
    if is_own {
        return Ok(Place { store: Store::of_node(&around.data_dir), prefix: String::new() });
    }
    let context = StoreContext {
        data_dir: around.data_dir.clone(),
        destination_id: destination_id.to_owned(),
        workspace_id: workspace_id.to_owned(),
        timeout: around.timeout,
        region_hint: around.region_hint.clone(),
        block_private_ips: around.block_private_ips,
    };
    let (store, is_local) = Store::of_warehouse(destination_type, config, &context).await?;
    Ok(Place { store, prefix: if is_local { String::new() } else { key_prefix(config) } })
}

/// The folder of the tables of an embedded warehouse.
///
/// # Errors
/// The configured path cannot be used.
pub fn tables_folder(config: &Map<String, Value>, data_dir: &Path) -> Result<PathBuf, Failure> {
    let own = data_dir.join(OWN_TABLES);
    let configured = config.get("path").and_then(Value::as_str).unwrap_or_default().trim();
    if configured.is_empty() || Path::new(configured).starts_with(&own) {
        return Ok(if configured.is_empty() { own } else { PathBuf::from(configured) });
    }
    // Refuses paths where the node keeps other things.
    Ok(LocalStore::new(Path::new(configured), data_dir)?.root().to_owned())
}

/// The storage in which the files of `LOCAL_DATALAKE` are its tables.
///
/// # Errors
/// The configured path cannot be used.
pub fn of_local_lake(config: &Map<String, Value>, data_dir: &Path) -> Result<Place, Failure> {
    let store = Store::Local(LocalStore::of_node(&tables_folder(config, data_dir)?));
    Ok(Place { store, prefix: String::new() })
}

/// The hour of a data lake, `YYYY/MM/DD/HH`, from the time window of a staging file.
pub fn window_folder(time_window: &str) -> String {
    let part = |from: usize, to: usize| time_window.get(from..to).unwrap_or("00");
    format!("{}/{}/{}/{}", time_window.get(..4).unwrap_or("0001"), part(5, 7), part(8, 10), part(11, 13))
}

/// One part of a key or a path: names that come from events must not lead elsewhere (security.md 7).
pub fn one_part(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c == '/' || c == '\\' || c.is_control() { '_' } else { c }).collect();
    if matches!(clean.as_str(), "" | "." | "..") { "_".repeat(clean.len().max(1)) } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_events_stay_in_their_folder() {
        assert_eq!(one_part("../../x"), ".._.._x");
        assert_eq!((one_part(".."), one_part(""), one_part("a\n\u{e9}")), ("__".into(), "_".into(), "a_\u{e9}".into()));
        assert_eq!(window_folder("2030-05-06T07:00:00Z"), "2030/05/06/07");
    }
}

//! Storages for finished files (router.md 20).
//!
//! In: a destination's type and configuration, finished local files, keys. Out: objects under given keys, local
//! copies of objects, and the answers where an object lies, how long it is, what lies below a folder. Errors tell a
//! storage that could not be reached from one that refused.

mod addresses;
mod assumed_role;
mod azure;
mod configured;
#[cfg(test)]
pub(crate) mod fake_s3;
mod gcs;
mod http;
mod local;
mod remote;
mod s3;
mod sftp;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

pub use addresses::AddressRule;
pub use local::{LocalStore, refused_directory};
pub use local::{create_directories, one_component, remove_if_there, sync_directory, walk};
pub use remote::RemoteStore;
pub use sftp::SftpStore;

use crate::destination::warehouse::FileStorage;
use configured::Configured;

/// Where files of warehouses without a bucket lie, below the data directory.
const WAREHOUSE_FOLDER: &str = "warehouse/objects";

/// Destination types whose files this module can store.
pub const OBJECT_STORAGES: [&str; 6] = ["S3", "GCS", "AZURE_BLOB", "MINIO", "DIGITAL_OCEAN_SPACES", "LOCAL"];

/// Why a file could not be stored or asked for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreError {
    /// This build has no client for the provider.
    #[error("service provider not supported: {0}")]
    Unsupported(String),
    /// No connection came about, or the disk is full: says nothing about the configuration.
    #[error("{0}")]
    Unreachable(String),
    /// The configuration cannot work.
    #[error("{0}")]
    Misconfigured(String),
    /// The storage answered with a refusal, or failed.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    fn no_bucket() -> StoreError {
        StoreError::Misconfigured("no storage bucket configured to uploader".to_owned())
    }

    /// Whether the storage was not reached at all (router.md 7.7).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, StoreError::Unreachable(_))
    }
}

/// What opening a store needs besides the destination's configuration.
#[derive(Clone, Debug)]
pub struct StoreContext {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// The destination, which names the default directory of `LOCAL`.
    pub destination_id: String,
    /// Its workspace, which is the external id of every role that is assumed.
    pub workspace_id: String,
    /// Longest time of one operation.
    pub timeout: Duration,
    /// Region of buckets whose region cannot be found out.
    pub region_hint: String,
    /// Refuse private addresses.
    pub block_private_ips: bool,
}

/// An open storage.
#[derive(Debug)]
pub enum Store {
    /// A directory on this machine.
    Local(LocalStore),
    /// A bucket or container.
    Remote(RemoteStore),
    /// An account on a server.
    Sftp(SftpStore),
}

impl Store {
    /// Opens the storage of the provider. May ask S3 for a bucket's region.
    pub async fn open(
        provider: &str,
        config: &Map<String, Value>,
        context: &StoreContext,
    ) -> Result<Store, StoreError> {
        let configured = Configured(config);
        match provider {
            "LOCAL" => LocalStore::of_destination(&configured, context).map(Store::Local),
            "S3" | "MINIO" | "DIGITAL_OCEAN_SPACES" => {
                s3::open(provider, &configured, context).await.map(Store::Remote)
            }
            "SFTP" => SftpStore::of_destination(&configured, context).map(Store::Sftp),
            "GCS" => gcs::open(&configured, context).map(Store::Remote),
            "AZURE_BLOB" => azure::open(&configured, context).map(Store::Remote),
            other => Err(StoreError::Unsupported(other.to_owned())),
        }
    }

    /// The node's own folder for files of warehouses without a bucket.
    pub fn of_node(data_dir: &Path) -> Store {
        Store::Local(LocalStore::of_node(&data_dir.join(WAREHOUSE_FOLDER)))
    }

    /// Opens the storage of staging and load files of a warehouse (warehouse.md 18.4). Also says whether it is the
    /// node's own, for want of a bucket.
    pub async fn of_warehouse(
        destination_type: &str,
        config: &Map<String, Value>,
        context: &StoreContext,
    ) -> Result<(Store, bool), StoreError> {
        match FileStorage::of_warehouse(destination_type, config).map_err(StoreError::Unsupported)? {
            FileStorage::Local => Ok((Store::of_node(&context.data_dir), true)),
            FileStorage::Provider(provider) => Ok((Store::open(provider, config, context).await?, false)),
        }
    }

    /// Puts the file under the key, replacing what was there; returns where it lies now. The object is either
    /// there whole or not at all.
    pub async fn upload(&self, key: &str, file: &Path) -> Result<String, StoreError> {
        match self {
            Store::Local(store) => store.upload(key, file).await,
            Store::Remote(store) => store.upload(key, file).await,
            Store::Sftp(store) => store.upload(key, file).await,
        }
    }

    /// The object's length; `None` when there is none.
    pub async fn length(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self {
            Store::Local(store) => store.length(key).await,
            Store::Remote(store) => store.length(key).await,
            Store::Sftp(store) => store.length(key).await,
        }
    }

    /// Keys of up to `at_most` objects below the folder.
    pub async fn list(&self, folder: &str, at_most: usize) -> Result<Vec<String>, StoreError> {
        match self {
            Store::Local(store) => store.list(folder, at_most).await,
            Store::Remote(store) => store.list(folder, at_most).await,
            Store::Sftp(store) => store.list(folder, at_most).await,
        }
    }

    /// Copies the object into a local file, replacing what was there, and returns its length. The file is not
    /// flushed; after an error it may hold a part.
    pub async fn download(&self, key: &str, file: &Path) -> Result<u64, StoreError> {
        match self {
            Store::Local(store) => store.download(key, file).await,
            Store::Remote(store) => store.download(key, file).await,
            Store::Sftp(store) => store.download(key, file).await,
        }
    }

    /// Removes the object; none there is fine.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self {
            Store::Local(store) => store.delete(key).await,
            Store::Remote(store) => store.delete(key).await,
            Store::Sftp(store) => store.delete(key).await,
        }
    }

    /// The URL of the object of the key, whether or not there is one.
    pub fn location(&self, key: &str) -> Result<String, StoreError> {
        match self {
            Store::Local(store) => store.location(key),
            Store::Remote(store) => store.location(key),
            Store::Sftp(store) => store.location(key),
        }
    }
}

/// The configured prefix of object keys.
pub fn key_prefix(config: &Map<String, Value>) -> String {
    Configured(config).text("prefix")
}

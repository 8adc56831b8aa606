//! A bucket or container in a storage that is reached over HTTP, whatever its protocol.
//!
//! Files go and come in pieces: none is in memory whole.

use std::error::Error;
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::StoreError;
use super::azure::ContainerMaker;
use super::s3::BucketMaker;
use crate::destination::private_address::AddressRefused;

/// Longer files go in parts of this size.
pub(super) const PART_BYTES: usize = 5 << 20;

/// Parts on their way at a time, so that a file is never in memory whole.
const PARTS_AT_A_TIME: usize = 2;

/// A bucket or container.
#[derive(Debug)]
pub struct RemoteStore {
    pub(super) client: Arc<dyn ObjectStore>,
    /// Everything of an object's URL before its key.
    pub(super) base: String,
    /// What makes the bucket when an upload finds none.
    pub(super) maker: Option<Maker>,
}

/// Makes a missing bucket, which the storages' plain object interfaces do not offer.
#[derive(Debug)]
pub(super) enum Maker {
    Bucket(BucketMaker),
    Container(Box<ContainerMaker>),
}

impl Maker {
    async fn make(&self) -> Result<(), StoreError> {
        match self {
            Maker::Bucket(maker) => maker.make().await,
            Maker::Container(maker) => maker.make().await,
        }
    }
}

impl RemoteStore {
    pub(super) async fn upload(&self, key: &str, file: &FilePath) -> Result<String, StoreError> {
        let path = path_of(key)?;
        match (self.put(&path, file).await, &self.maker) {
            (Err(Failed::Storage(error)), Some(maker)) if says_no_bucket(&error) => {
                maker.make().await?;
                self.put(&path, file).await?;
            }
            (result, _) => result?,
        }
        Ok(format!("{}/{path}", self.base))
    }

    pub(super) fn location(&self, key: &str) -> Result<String, StoreError> {
        Ok(format!("{}/{}", self.base, path_of(key)?))
    }

    pub(super) async fn length(&self, key: &str) -> Result<Option<u64>, StoreError> {
        match self.client.head(&path_of(key)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(refusal(&error)),
        }
    }

    pub(super) async fn list(&self, folder: &str, at_most: usize) -> Result<Vec<String>, StoreError> {
        let folder = path_of(folder)?;
        let mut objects = self.client.list(Some(&folder)).take(at_most);
        let mut keys = Vec::new();
        while let Some(object) = objects.next().await {
            keys.push(object.map_err(|error| refusal(&error))?.location.to_string());
        }
        Ok(keys)
    }

    pub(super) async fn download(&self, key: &str, file: &FilePath) -> Result<u64, StoreError> {
        let mut pieces = match self.client.get(&path_of(key)?).await {
            Ok(object) => object.into_stream(),
            Err(error) => return Err(refusal(&error)),
        };
        let cannot_write = |error: std::io::Error| {
            StoreError::Refused(format!("cannot write {}: {error}; check the free space", file.display()))
        };
        let mut target = tokio::fs::File::create(file).await.map_err(cannot_write)?;
        let mut length = 0;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| refusal(&error))?;
            target.write_all(&piece).await.map_err(cannot_write)?;
            length += u64::try_from(piece.len()).unwrap_or(0);
        }
        target.flush().await.map_err(cannot_write)?;
        Ok(length)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.client.delete(&path_of(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(refusal(&error)),
        }
    }

    async fn put(&self, path: &Path, file: &FilePath) -> Result<(), Failed> {
        let mut file = tokio::fs::File::open(file).await?;
        let first = read_part(&mut file).await?;
        if first.len() < PART_BYTES {
            self.client.put(path, PutPayload::from_bytes(first)).await?;
            return Ok(());
        }
        let mut parts = WriteMultipart::new_with_chunk_size(self.client.put_multipart(path).await?, PART_BYTES);
        let mut part = first;
        // What was sent is discarded by the storage when a part fails, so that no half object is ever seen.
        loop {
            let last = part.len() < PART_BYTES;
            if !part.is_empty() {
                parts.wait_for_capacity(PARTS_AT_A_TIME).await?;
                parts.put(part);
            }
            if last {
                break;
            }
            part = match read_part(&mut file).await {
                Ok(next) => next,
                Err(error) => {
                    parts.abort().await?;
                    return Err(error.into());
                }
            };
        }
        parts.finish().await?;
        Ok(())
    }
}

/// Why a put failed: the local file, or the storage.
enum Failed {
    File(std::io::Error),
    Storage(object_store::Error),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        Failed::File(error)
    }
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Failed {
        Failed::Storage(error)
    }
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> StoreError {
        match failed {
            Failed::File(error) => StoreError::Refused(format!("cannot read the finished file: {error}")),
            Failed::Storage(error) => refusal(&error),
        }
    }
}

/// Keys are taken as they are; the client encodes them once.
fn path_of(key: &str) -> Result<Path, StoreError> {
    Path::parse(key)
        .map_err(|error| StoreError::Misconfigured(format!("the object key {key:?} cannot be used: {error}")))
}

async fn read_part(file: &mut tokio::fs::File) -> std::io::Result<Bytes> {
    let mut part = Vec::with_capacity(PART_BYTES);
    let limit = u64::try_from(PART_BYTES).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut part).await?;
    Ok(Bytes::from(part))
}

fn says_no_bucket(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) || error.to_string().contains("NoSuchBucket")
}

/// The storage's error in our terms, with the causes that its own text leaves out.
pub(super) fn refusal(error: &object_store::Error) -> StoreError {
    let mut text = error.to_string();
    let (mut unreachable, mut refused) = (false, false);
    let mut cause = error.source();
    while let Some(current) = cause {
        unreachable |= current.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect);
        refused |= current.is::<AddressRefused>();
        let more = current.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = current.source();
    }
    if unreachable && !refused { StoreError::Unreachable(text) } else { StoreError::Refused(text) }
}

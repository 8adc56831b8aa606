//! Buckets that speak the S3 protocol: S3, MinIO, DigitalOcean Spaces (router.md 20, security.md 2.4).

use std::error::Error;
use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, resolve_bucket_region};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::addresses::AddressRule;
use super::configured::Configured;
use super::{StoreContext, StoreError};

/// Longer files go in parts of this size.
const PART_BYTES: usize = 5 << 20;

/// Parts on their way at a time, so that a file is never in memory whole.
const PARTS_AT_A_TIME: usize = 2;

/// A bucket.
#[derive(Debug)]
pub struct RemoteStore {
    client: AmazonS3,
    bucket: String,
    /// Everything of an object's URL before its key.
    base: String,
    create_bucket: bool,
    timeout: Duration,
}

impl RemoteStore {
    pub(super) async fn open(
        provider: &str,
        config: &Configured<'_>,
        context: &StoreContext,
    ) -> Result<RemoteStore, StoreError> {
        let bucket = config.text("bucketName").trim_end_matches('/').to_owned();
        if bucket.is_empty() {
            return Err(StoreError::Misconfigured("no storage bucket configured to uploader".to_owned()));
        }
        if !config.text("iamRoleARN").is_empty() || config.flag("roleBasedAuth") == Some(true) {
            return Err(StoreError::Misconfigured(
                "access by an assumed role is not available in this build; configure access keys".to_owned(),
            ));
        }
        let rule = AddressRule { block_private: context.block_private_ips };
        let place = Place::of(provider, config, &bucket)?;
        if let Some(endpoint) = &place.endpoint {
            rule.judge_endpoint(endpoint)?;
        }
        let options = ClientOptions::new()
            .with_timeout(context.timeout)
            .with_connect_timeout(context.timeout.min(Duration::from_secs(10)))
            .with_allow_http(place.allow_http)
            .with_dns_resolver(std::sync::Arc::new(rule));
        let region = match place.region {
            Some(region) => region,
            // A bucket that hides its region, or does not exist, gets its error from the upload itself.
            None => resolve_bucket_region(&bucket, &options).await.unwrap_or_else(|_| context.region_hint.clone()),
        };

        let key_id = config.text("accessKeyID");
        let secret = config.first_text(&["secretAccessKey", "accessKey"]);
        // Without keys of its own the destination relies on the machine's: environment, container, instance.
        let builder = if key_id.is_empty() || secret.is_empty() {
            AmazonS3Builder::from_env()
        } else {
            AmazonS3Builder::new().with_access_key_id(key_id).with_secret_access_key(secret)
        };
        let mut builder = builder
            .with_bucket_name(&bucket)
            .with_region(&region)
            .with_virtual_hosted_style_request(place.virtual_hosted)
            .with_client_options(options)
            .with_retry(RetryConfig { max_retries: 2, retry_timeout: context.timeout, ..RetryConfig::default() });
        let token = config.text("sessionToken");
        if !token.is_empty() {
            builder = builder.with_token(token);
        }
        if config.flag("enableSSE") == Some(true) {
            let encryption: AmazonS3ConfigKey =
                "aws_server_side_encryption".parse().map_err(|error| refusal(&error))?;
            builder = builder.with_config(encryption, "AES256");
        }
        let base = match &place.endpoint {
            Some(endpoint) => {
                let endpoint = endpoint.as_str().trim_end_matches('/');
                builder = builder.with_endpoint(endpoint);
                if place.virtual_hosted { endpoint.to_owned() } else { format!("{endpoint}/{bucket}") }
            }
            None if place.virtual_hosted => format!("https://{bucket}.s3.{region}.amazonaws.com"),
            None => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        let client = builder.build().map_err(|error| StoreError::Misconfigured(error.to_string()))?;
        Ok(RemoteStore { client, bucket, base, create_bucket: provider == "MINIO", timeout: context.timeout })
    }

    pub(super) async fn upload(&self, key: &str, file: &FilePath) -> Result<String, StoreError> {
        let path = path_of(key)?;
        match self.put(&path, file).await {
            Err(Failed::Storage(error)) if self.create_bucket && says_no_bucket(&error) => {
                self.make_bucket().await?;
                self.put(&path, file).await?;
            }
            result => result?,
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

    async fn make_bucket(&self) -> Result<(), StoreError> {
        let url = self.client.signed_url(reqwest::Method::PUT, &Path::default(), self.timeout).await;
        let url = url.map_err(|error| refusal(&error))?;
        let client = reqwest::Client::builder().timeout(self.timeout).no_proxy().build();
        let client = client.map_err(|error| StoreError::Refused(error.to_string()))?;
        // Some servers insist on a length, even of nothing.
        let request = client.put(url).header(reqwest::header::CONTENT_LENGTH, 0).body(Vec::new());
        let answer = request.send().await.map_err(|error| {
            let text = format!("cannot create bucket {:?}: {}", self.bucket, error.without_url());
            StoreError::Refused(text)
        })?;
        // Somebody else may have created it in the same moment.
        if answer.status().is_success() || answer.status() == reqwest::StatusCode::CONFLICT {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "cannot create bucket {:?}: the storage answered {}",
            self.bucket,
            answer.status()
        )))
    }
}

/// Where a bucket is reached.
struct Place {
    endpoint: Option<url::Url>,
    region: Option<String>,
    virtual_hosted: bool,
    allow_http: bool,
}

impl Place {
    fn of(provider: &str, config: &Configured<'_>, bucket: &str) -> Result<Place, StoreError> {
        let region = Some(config.text("region")).filter(|region| !region.is_empty());
        let written = config.text("endPoint");
        let plain = match provider {
            "MINIO" => config.flag("useSSL") != Some(true),
            _ => config.flag("disableSSL") == Some(true),
        };
        let path_style = provider == "MINIO" || config.flag("s3ForcePathStyle") == Some(true);
        if written.is_empty() {
            if provider == "S3" {
                // Names with dots do not fit the certificate of the virtual host.
                let virtual_hosted = !path_style && !bucket.contains('.');
                return Ok(Place { endpoint: None, region, virtual_hosted, allow_http: false });
            }
            return Err(StoreError::Misconfigured(format!(
                "no endPoint is configured for {provider}; enter its host and port"
            )));
        }
        let scheme = if plain { "http" } else { "https" };
        let bare = written.strip_prefix("https://").or_else(|| written.strip_prefix("http://"));
        let whole = format!("{scheme}://{}", bare.unwrap_or(&written));
        let mut endpoint: url::Url = whole.parse().map_err(|error| {
            StoreError::Misconfigured(format!("the endPoint {written:?} is not a host and port: {error}"))
        })?;
        let host = endpoint.host_str().unwrap_or_default().to_owned();
        let region = region.or_else(|| match provider {
            "DIGITAL_OCEAN_SPACES" => host.split('.').next().map(str::to_owned),
            _ => Some("us-east-1".to_owned()),
        });
        // A virtual host needs a name to hang the bucket on.
        let virtual_hosted = !path_style && matches!(endpoint.host(), Some(url::Host::Domain(_)));
        if virtual_hosted && !host.starts_with(&format!("{bucket}.")) {
            endpoint.set_host(Some(&format!("{bucket}.{host}"))).map_err(|error| {
                StoreError::Misconfigured(format!("bucket {bucket:?} cannot be part of a host name: {error}"))
            })?;
        }
        Ok(Place { endpoint: Some(endpoint), region, virtual_hosted, allow_http: plain })
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
fn refusal(error: &object_store::Error) -> StoreError {
    let mut text = error.to_string();
    let mut unreachable = false;
    let mut cause = error.source();
    while let Some(current) = cause {
        unreachable |= current.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect);
        let more = current.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = current.source();
    }
    if unreachable { StoreError::Unreachable(text) } else { StoreError::Refused(text) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Store;
    use super::*;
    use crate::object_storage::fake_s3::{FakeS3, Mood};

    async fn open(provider: &str, config: Value) -> Result<Store, StoreError> {
        let context = StoreContext {
            data_dir: "/nowhere".into(),
            destination_id: "d".to_owned(),
            workspace_id: "w".to_owned(),
            timeout: Duration::from_secs(10),
            region_hint: "us-east-1".to_owned(),
            block_private_ips: false,
        };
        Store::open(provider, config.as_object().unwrap(), &context).await
    }

    fn minio(host: &str, bucket: &str) -> Value {
        json!({ "bucketName": bucket, "endPoint": host, "accessKeyID": "a", "secretAccessKey": "s", "useSSL": false })
    }

    /// A server that somebody started for the tests (`127.0.0.1:5555`), or one of our own.
    async fn server() -> (Option<FakeS3>, String) {
        match std::env::var("PINTLE_TEST_S3") {
            Ok(host) if !host.is_empty() => (None, host),
            _ => {
                let own = FakeS3::start(&[]).await;
                let host = own.host.clone();
                (Some(own), host)
            }
        }
    }

    #[tokio::test]
    async fn files_of_any_length_arrive_whole_and_a_missing_bucket_is_made() {
        let (_server, host) = server().await;
        let bucket = format!("bucket-{}", uuid::Uuid::new_v4());
        let store = open("MINIO", minio(&host, &bucket)).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for length in [0, 10, PART_BYTES, PART_BYTES * 2 + 1] {
            tokio::fs::write(&path, vec![b'x'; length]).await.unwrap();
            let key = format!("p/rudder-logs/s1/01-02-2024/{length}.s1.u.json.gz");
            let location = store.upload(&key, &path).await.unwrap();
            assert_eq!(location, format!("http://{host}/{bucket}/{key}"));
            let whole = u64::try_from(length).unwrap();
            assert_eq!(store.length(&key).await, Ok(Some(whole)), "{length}");
            assert_eq!(store.location(&key).unwrap(), location);
            let copy = dir.path().join("copy");
            assert_eq!(store.download(&key, &copy).await, Ok(whole));
            assert!(tokio::fs::read(&copy).await.unwrap() == vec![b'x'; length], "{length}");
        }
        assert_eq!(store.length("p/nothing").await, Ok(None));
        let keys = store.list("p/rudder-logs/s1", 3).await.unwrap();
        assert_eq!(keys.len(), 3);
        assert!(keys[0].starts_with("p/rudder-logs/s1/01-02-2024/"), "{keys:?}");
        assert_eq!(store.list("p/rudder-logs/s2", 3).await, Ok(Vec::new()));
        assert_eq!(store.delete(&keys[0]).await, Ok(()));
        assert_eq!(store.delete(&keys[0]).await, Ok(()));
        assert_eq!(store.length(&keys[0]).await, Ok(None));
    }

    #[tokio::test]
    async fn encryption_is_asked_for_when_it_is_configured() {
        let server = FakeS3::start(&["b"]).await;
        let config = json!({
            "bucketName": "b/", "endpoint": format!("http://{}", server.host), "s3ForcePathStyle": true, "disableSSL": "true",
            "accesskeyid": "a", "accessKey": "s", "enableSSE": true,
        });
        let store = open("S3", config).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"x").unwrap();
        store.upload("k", &path).await.unwrap();
        assert_eq!(server.state.lock().last_encryption.as_deref(), Some("AES256"));
    }

    #[tokio::test]
    async fn a_refusal_is_told_from_a_storage_that_cannot_be_reached() {
        let server = FakeS3::start(&["b"]).await;
        server.state.lock().mood = Mood::Denying;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"x").unwrap();
        let refused = open("MINIO", minio(&server.host, "b")).await.unwrap().upload("k", &path).await.unwrap_err();
        assert!(!refused.is_unreachable() && refused.to_string().contains("AccessDenied"), "{refused}");
        let nobody = open("MINIO", minio("127.0.0.1:1", "b")).await.unwrap().upload("k", &path).await.unwrap_err();
        assert!(nobody.is_unreachable(), "{nobody:?}");
        let unknown = open("MINIO", minio("no-such-host.invalid", "b")).await.unwrap().upload("k", &path).await;
        assert!(unknown.unwrap_err().is_unreachable());
    }

    #[tokio::test]
    async fn configurations_that_cannot_work_say_why() {
        for (provider, config, expected) in [
            ("S3", json!({ "bucketName": " " }), "no storage bucket configured to uploader"),
            ("MINIO", json!({ "bucketName": "b" }), "no endPoint is configured"),
            ("S3", json!({ "bucketName": "b", "iamRoleARN": "r" }), "assumed role"),
            ("MINIO", minio("169.254.169.254:80", "b"), "metadata"),
            ("GCS", json!({}), "service provider not supported: GCS"),
        ] {
            let error = open(provider, config).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn endpoints_become_hosts_and_regions_as_each_provider_has_them() {
        let spaces = json!({ "endPoint": "nyc3.digitaloceanspaces.com" });
        let place = Place::of("DIGITAL_OCEAN_SPACES", &Configured(spaces.as_object().unwrap()), "b").unwrap();
        assert_eq!(place.endpoint.unwrap().as_str(), "https://b.nyc3.digitaloceanspaces.com/");
        assert_eq!(place.region.as_deref(), Some("nyc3"));
        let plain = json!({});
        for (bucket, virtual_hosted) in [("b", true), ("b.c", false)] {
            let place = Place::of("S3", &Configured(plain.as_object().unwrap()), bucket).unwrap();
            assert_eq!((place.virtual_hosted, place.region), (virtual_hosted, None));
        }
    }
}

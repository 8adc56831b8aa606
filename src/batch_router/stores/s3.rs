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
use tokio::io::AsyncReadExt;

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
        let url = self.client.signed_url(http_method_put(), &Path::default(), self.timeout).await;
        let url = url.map_err(|error| refusal(&error))?;
        let client = reqwest::Client::builder().timeout(self.timeout).no_proxy().build();
        let client = client.map_err(|error| StoreError::Refused(error.to_string()))?;
        let answer = client.put(url).send().await.map_err(|error| {
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

fn http_method_put() -> reqwest::Method {
    reqwest::Method::PUT
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

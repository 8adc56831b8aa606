//! Buckets that speak the S3 protocol: S3, MinIO, DigitalOcean Spaces (router.md 20, security.md 2.4).

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredentialProvider, resolve_bucket_region};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientOptions, RetryConfig};

use super::addresses::AddressRule;
use super::assumed_role::AssumedRole;
use super::configured::Configured;
use super::http::Http;
use super::remote::{Maker, RemoteStore, refusal};
use super::{StoreContext, StoreError};

pub(super) async fn open(
    provider: &str,
    config: &Configured<'_>,
    context: &StoreContext,
) -> Result<RemoteStore, StoreError> {
    let bucket = config.text("bucketName").trim_end_matches('/').to_owned();
    if bucket.is_empty() {
        return Err(StoreError::no_bucket());
    }
    let rule = AddressRule::new(context.block_private_ips);
    let place = Place::of(provider, config, &bucket)?;
    if let Some(endpoint) = &place.endpoint {
        rule.judge_endpoint(endpoint)?;
    }
    let http = Http::new(&rule, context.timeout, place.allow_http)?;
    let region = match place.region {
        Some(region) => region,
        // A bucket that hides its region, or does not exist, gets its error from the upload itself.
        None => {
            let options = ClientOptions::new().with_timeout(context.timeout).with_dns_resolver(Arc::new(rule.clone()));
            resolve_bucket_region(&bucket, &options).await.unwrap_or_else(|_| context.region_hint.clone())
        }
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&bucket)
        .with_region(&region)
        .with_virtual_hosted_style_request(place.virtual_hosted)
        .with_allow_http(place.allow_http)
        .with_http_connector(http.clone())
        .with_credentials(credentials(config, context, &rule, &region)?)
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: context.timeout, ..RetryConfig::default() });
    if config.flag("enableSSE") == Some(true) {
        let encryption: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(|error| refusal(&error))?;
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
    let client = Arc::new(builder.build().map_err(|error| StoreError::Misconfigured(error.to_string()))?);
    let maker = BucketMaker { client: Arc::clone(&client), http, bucket, timeout: context.timeout };
    Ok(RemoteStore { client, base, maker: (provider == "MINIO").then_some(Maker::Bucket(maker)) })
}

/// Keys of the destination's own; else those of the machine: environment, container, instance. A role is assumed
/// with either of them.
fn credentials(
    config: &Configured<'_>,
    context: &StoreContext,
    rule: &AddressRule,
    region: &str,
) -> Result<AwsCredentialProvider, StoreError> {
    let key_id = config.text("accessKeyID");
    let secret = config.first_text(&["secretAccessKey", "accessKey"]);
    let mut builder = if key_id.is_empty() || secret.is_empty() {
        // The machine's own client finds them: it may ask the metadata service, which objects never go to.
        AmazonS3Builder::from_env()
    } else {
        AmazonS3Builder::new().with_access_key_id(key_id).with_secret_access_key(secret)
    };
    let token = config.text("sessionToken");
    if !token.is_empty() {
        builder = builder.with_token(token);
    }
    let own = builder.with_bucket_name("none").with_region(region).build();
    let own = own.map_err(|error| StoreError::Misconfigured(error.to_string()))?;
    let role = config.text("iamRoleARN");
    if role.is_empty() || config.flag("roleBasedAuth") == Some(false) {
        return Ok(Arc::clone(own.credentials()));
    }
    let own = Arc::clone(own.credentials());
    Ok(Arc::new(AssumedRole::new(own, role, region, &config.text("stsEndpoint"), context, rule)?))
}

/// Makes a bucket.
#[derive(Debug)]
pub(super) struct BucketMaker {
    client: Arc<AmazonS3>,
    http: Http,
    bucket: String,
    timeout: Duration,
}

impl BucketMaker {
    pub(super) async fn make(&self) -> Result<(), StoreError> {
        let url = self.client.signed_url(reqwest::Method::PUT, &Path::default(), self.timeout).await;
        let url = url.map_err(|error| refusal(&error))?;
        // Some servers insist on a length, even of nothing.
        let request = self.http.client().put(url).header(reqwest::header::CONTENT_LENGTH, 0).body(Vec::new());
        self.http.make(request, &format!("bucket {:?}", self.bucket)).await
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::Store;
    use super::super::remote::PART_BYTES;
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
            ("MINIO", minio("169.254.169.254:80", "b"), "is refused"),
            ("GCS", json!({}), "no storage bucket configured to uploader"),
            ("GCS", json!({ "bucketName": "b", "credentials": "{" }), "credentials"),
            ("AZURE_BLOB", json!({ "containerName": "" }), "no storage bucket configured to uploader"),
            ("AZURE_BLOB", json!({ "containerName": "c" }), "either accountName or accountKey is empty"),
            ("FTP", json!({}), "service provider not supported: FTP"),
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

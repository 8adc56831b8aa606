//! Buckets of Google Cloud Storage (router.md 20).

use std::sync::Arc;

use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::{RetryConfig, StaticCredentialProvider};

use super::addresses::AddressRule;
use super::configured::{Configured, endpoint};
use super::http::Http;
use super::remote::RemoteStore;
use super::{StoreContext, StoreError};

/// Where buckets are without an `endPoint`.
const GOOGLE: &str = "https://storage.googleapis.com";

pub(super) fn open(config: &Configured<'_>, context: &StoreContext) -> Result<RemoteStore, StoreError> {
    let bucket = config.text("bucketName").trim_end_matches('/').to_owned();
    if bucket.is_empty() {
        return Err(StoreError::no_bucket());
    }
    let rule = AddressRule::new(context.block_private_ips);
    let written = config.text("endPoint");
    let endpoint = match written.as_str() {
        "" => None,
        written => Some(endpoint(written, config.flag("disableSSL") == Some(true))?),
    };
    if let Some(endpoint) = &endpoint {
        rule.judge_endpoint(endpoint)?;
    }
    let allow_http = endpoint.as_ref().is_some_and(|endpoint| endpoint.scheme() == "http");
    // Only the host counts: the path of the JSON interface may be written behind it.
    let base = endpoint.as_ref().map_or_else(|| GOOGLE.to_owned(), |endpoint| endpoint.origin().ascii_serialization());
    let misconfigured = |error: object_store::Error| StoreError::Misconfigured(format!("credentials: {error}"));

    let credentials = config.text("credentials");
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&bucket)
        .with_base_url(&base)
        .with_http_connector(Http::new(&rule, context.timeout, allow_http)?)
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: context.timeout, ..RetryConfig::default() });
    if !credentials.is_empty() {
        builder = builder.with_service_account_key(credentials);
    } else if endpoint.is_some() {
        // A storage that stands in for Google knows no accounts of Google.
        let nobody = GcpCredential { bearer: String::new() };
        builder = builder.with_skip_signature(true).with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    } else {
        // The machine's own client finds them: it may ask the metadata service, which objects never go to.
        let own = GoogleCloudStorageBuilder::from_env().with_bucket_name("none").build().map_err(misconfigured)?;
        builder = builder.with_credentials(Arc::clone(own.credentials()));
    }
    let client = Arc::new(builder.build().map_err(misconfigured)?);
    Ok(RemoteStore { client, base: format!("{base}/{bucket}"), maker: None })
}

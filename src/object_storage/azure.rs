//! Containers of Azure Blob Storage (router.md 20).

use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use object_store::RetryConfig;
use object_store::azure::MicrosoftAzureBuilder;
use url::Url;

use super::addresses::AddressRule;
use super::configured::{Configured, endpoint};
use super::http::Http;
use super::remote::{Maker, RemoteStore};
use super::{StoreContext, StoreError};
use crate::clock::Clock;

/// The cloud's own hosts hang the account before this name.
const AZURE: &str = "blob.core.windows.net";
/// The version of the interface that containers are made with.
const VERSION: &str = "2021-08-06";

pub(super) fn open(config: &Configured<'_>, context: &StoreContext) -> Result<RemoteStore, StoreError> {
    let container = config.text("containerName").trim_end_matches('/').to_owned();
    if container.is_empty() {
        return Err(StoreError::no_bucket());
    }
    let (account, key) = (config.text("accountName"), config.text("accountKey"));
    let shared = config.flag("useSASTokens") == Some(true);
    if account.is_empty() || (key.is_empty() && !shared) {
        return Err(StoreError::Misconfigured("either accountName or accountKey is empty".to_owned()));
    }
    let rule = AddressRule::new(context.block_private_ips);
    let account_url = account_url(config, &account)?;
    rule.judge_endpoint(&account_url)?;
    let http = Http::new(&rule, context.timeout, account_url.scheme() == "http")?;
    let base = account_url.as_str().trim_end_matches('/').to_owned();
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(&account)
        .with_container_name(&container)
        .with_endpoint(base.clone())
        .with_allow_http(account_url.scheme() == "http")
        .with_http_connector(http.clone())
        .with_retry(RetryConfig { max_retries: 2, retry_timeout: context.timeout, ..RetryConfig::default() });
    let mut maker = None;
    if shared {
        let token = config.text("sasToken");
        let pairs: Vec<(String, String)> =
            url::form_urlencoded::parse(token.trim_start_matches('?').as_bytes()).into_owned().collect();
        if pairs.is_empty() {
            return Err(StoreError::Misconfigured("useSASTokens is set, but sasToken is empty".to_owned()));
        }
        builder = builder.with_sas_authorization(pairs);
    } else {
        maker = Some(Maker::Container(Box::new(ContainerMaker::new(http, &account_url, &account, &key, &container)?)));
        builder = builder.with_access_key(key);
    }
    let client = Arc::new(builder.build().map_err(|error| StoreError::Misconfigured(error.to_string()))?);
    Ok(RemoteStore { client, base: format!("{base}/{container}"), maker })
}

/// `https://<account>.<host>/`, or `https://<host>/<account>` for path style.
fn account_url(config: &Configured<'_>, account: &str) -> Result<Url, StoreError> {
    let written = config.text("endPoint");
    let host = if written.is_empty() { AZURE } else { &written };
    let mut url = endpoint(host, config.flag("disableSSL") == Some(true))?;
    if config.flag("forcePathStyle") == Some(true) {
        url.set_path(account);
        return Ok(url);
    }
    let named = url.host_str().map(|host| format!("{account}.{host}"));
    url.set_host(named.as_deref()).map_err(|error| {
        StoreError::Misconfigured(format!("accountName {account:?} cannot be part of a host name: {error}"))
    })?;
    Ok(url)
}

/// Makes a container.
pub(super) struct ContainerMaker {
    http: Http,
    url: Url,
    account: String,
    key: hmac::Key,
    container: String,
}

impl std::fmt::Debug for ContainerMaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerMaker").field("container", &self.container).finish_non_exhaustive()
    }
}

impl ContainerMaker {
    fn new(
        http: Http,
        account_url: &Url,
        account: &str,
        key: &str,
        container: &str,
    ) -> Result<ContainerMaker, StoreError> {
        let key = STANDARD.decode(key).map_err(|_| StoreError::Misconfigured("accountKey is not base64".to_owned()))?;
        let mut url = account_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(container);
        }
        url.set_query(Some("restype=container"));
        Ok(ContainerMaker {
            http,
            url,
            account: account.to_owned(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            container: container.to_owned(),
        })
    }

    pub(super) async fn make(&self) -> Result<(), StoreError> {
        let now = Timestamp::from_millisecond(Clock::system().now_ms()).unwrap_or_default();
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
        let date = date.map_err(|error| StoreError::Refused(format!("the time cannot be written: {error}")))?;
        let request = self
            .http
            .client()
            .put(self.url.clone())
            .header("x-ms-date", &date)
            .header("x-ms-version", VERSION)
            .header(reqwest::header::AUTHORIZATION, self.authorization(&date))
            .header(reqwest::header::CONTENT_LENGTH, 0)
            .body(Vec::new());
        self.http.make(request, &format!("container {:?}", self.container)).await
    }

    /// The shared-key scheme: the method, eleven headers that this request does not have, and what it does have.
    fn authorization(&self, date: &str) -> String {
        let absent = "\n".repeat(11);
        let (account, path) = (&self.account, self.url.path());
        let text =
            format!("PUT\n{absent}x-ms-date:{date}\nx-ms-version:{VERSION}\n/{account}{path}\nrestype:container");
        let signature = STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        format!("SharedKey {account}:{signature}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn accounts_are_found_by_host_or_by_path() {
        for (config, expected) in [
            (json!({}), "https://acc.blob.core.windows.net/"),
            (json!({ "endPoint": "blob.local", "disableSSL": true }), "http://acc.blob.local/"),
            (
                json!({ "endPoint": "127.0.0.1:1", "disableSSL": "true", "forcePathStyle": true }),
                "http://127.0.0.1:1/acc",
            ),
        ] {
            let url = account_url(&Configured(config.as_object().unwrap()), "acc").unwrap();
            assert_eq!(url.as_str(), expected);
        }
    }
}

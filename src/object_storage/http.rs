//! The client of object storages: judged addresses only, no proxy, no redirects (security.md 2.4, 4).

use std::time::Duration;

use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};
use reqwest::{Client, RequestBuilder, StatusCode, redirect};

use super::StoreError;
use super::addresses::AddressRule;
use crate::destination::peer::PeerCheck;

/// Longest time to open a connection, capped by the time of the operation.
const CONNECT: Duration = Duration::from_secs(10);

/// A client for one storage.
#[derive(Clone, Debug)]
pub(super) struct Http(Client);

impl Http {
    /// A client that judges every address by the rule, by name and again once it is connected.
    pub(super) fn new(rule: &AddressRule, timeout: Duration, allow_http: bool) -> Result<Http, StoreError> {
        let judge = rule.clone();
        let client = Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT))
            .https_only(!allow_http)
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .no_gzip()
            .http1_only()
            .dns_resolver(rule.names())
            .connector_layer(PeerCheck::new(move |address| judge.allows(address)))
            .build();
        let client = client.map_err(|error| StoreError::Refused(format!("cannot make an HTTP client: {error}")))?;
        Ok(Http(client))
    }

    pub(super) fn client(&self) -> &Client {
        &self.0
    }

    /// Sends a request that makes something; it being there already is fine.
    pub(super) async fn make(&self, request: RequestBuilder, what: &str) -> Result<(), StoreError> {
        let answer = request.send().await.map_err(|error| {
            let unreachable = error.is_connect();
            let text = format!("cannot create {what}: {}", error.without_url());
            if unreachable { StoreError::Unreachable(text) } else { StoreError::Refused(text) }
        })?;
        if answer.status().is_success() || answer.status() == StatusCode::CONFLICT {
            return Ok(());
        }
        Err(StoreError::Refused(format!("cannot create {what}: the storage answered {}", answer.status())))
    }
}

impl HttpConnector for Http {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

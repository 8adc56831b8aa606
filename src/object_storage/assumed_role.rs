//! Access to a bucket by a role that is assumed (router.md 20): short-lived keys from the security token service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use tokio::sync::Mutex;
use url::Url;

use super::addresses::AddressRule;
use super::configured::endpoint;
use super::http::Http;
use super::{StoreContext, StoreError};
use crate::clock::Clock;
use crate::stream::aws::signing::{Keys, signed_headers};
use crate::stream::aws::sts;

/// Keys are renewed this long before they end.
const RENEW_BEFORE_MS: i64 = 5 * 60 * 1_000;
/// The name of the session in the account's own logs.
const SESSION: &str = "pintle";

/// Keys of a role, renewed before they end.
pub(super) struct AssumedRole {
    own: AwsCredentialProvider,
    http: Http,
    service: Url,
    region: String,
    role: String,
    external_id: String,
    /// The keys in use and when they end, milliseconds since the epoch.
    current: Mutex<Option<(Arc<AwsCredential>, i64)>>,
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssumedRole").field("role", &self.role).finish_non_exhaustive()
    }
}

impl AssumedRole {
    /// The role, assumed with `own` keys at the region's service or at `service`. The external id is always the
    /// workspace's, so that no workspace can use the trust that another was given.
    pub(super) fn new(
        own: AwsCredentialProvider,
        role: String,
        region: &str,
        service: &str,
        context: &StoreContext,
        rule: &AddressRule,
    ) -> Result<AssumedRole, StoreError> {
        let plain = service.starts_with("http://");
        let service = match service {
            "" => endpoint(&format!("sts.{region}.amazonaws.com"), false)?,
            written => endpoint(written, plain)?,
        };
        rule.judge_endpoint(&service)?;
        Ok(AssumedRole {
            own,
            http: Http::new(rule, context.timeout, plain)?,
            service,
            region: region.to_owned(),
            role,
            external_id: context.workspace_id.clone(),
            current: Mutex::new(None),
        })
    }

    async fn assume(&self) -> Result<(AwsCredential, i64), String> {
        let own = self.own.get_credential().await.map_err(|error| error.to_string())?;
        let own = Keys { id: own.key_id.clone(), secret: own.secret_key.clone(), token: own.token.clone() };
        let form = sts::form(&self.role, SESSION, Some(&self.external_id));
        let now = Duration::from_millis(u64::try_from(Clock::system().now_ms()).unwrap_or(0));
        let content_type = [("content-type", sts::FORM)];
        let scope = (self.region.as_str(), "sts");
        let headers = signed_headers(&own, scope, now, &self.service, &content_type, form.as_bytes())?;
        let request = self.http.client().post(self.service.clone()).headers(headers).body(form);
        let request = request.build().map_err(|error| error.to_string())?;
        let answer = self.http.client().execute(request).await.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.without_url().to_string())?;
        if !status.is_success() {
            return Err(format!("{status} {}", sts::refusal(&text)));
        }
        let (keys, ends_ms) = sts::keys(&text).ok_or("the answer holds no keys")?;
        Ok((AwsCredential { key_id: keys.id, secret_key: keys.secret, token: keys.token }, ends_ms))
    }
}

#[async_trait]
impl CredentialProvider for AssumedRole {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Whoever comes meanwhile waits for the one answer.
        let mut current = self.current.lock().await;
        let now_ms = Clock::system().now_ms();
        if let Some((keys, _)) = current.as_ref().filter(|(_, ends_ms)| ends_ms - RENEW_BEFORE_MS > now_ms) {
            return Ok(Arc::clone(keys));
        }
        let (keys, ends_ms) = self.assume().await.map_err(|problem| object_store::Error::Generic {
            store: "S3",
            source: format!("the role {} cannot be assumed: {problem}", self.role).into(),
        })?;
        let keys = Arc::new(keys);
        *current = Some((Arc::clone(&keys), ends_ms));
        Ok(keys)
    }
}

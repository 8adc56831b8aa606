//! Access to a bucket by a role that is assumed (router.md 20): short-lived keys from the security token service.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use jiff::Timestamp;
use object_store::CredentialProvider;
use object_store::aws::{AwsCredential, AwsCredentialProvider};
use tokio::sync::Mutex;
use url::Url;

use super::addresses::AddressRule;
use super::configured::endpoint;
use super::http::Http;
use super::{StoreContext, StoreError};
use crate::clock::Clock;

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
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("Action", "AssumeRole")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &self.role)
            .append_pair("RoleSessionName", SESSION)
            .append_pair("ExternalId", &self.external_id)
            .finish();
        let mut request = reqwest::Client::post(self.http.client(), self.service.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.clone())
            .build()
            .map_err(|error| error.to_string())?;
        self.sign(&own, &form, &mut request)?;
        let answer = self.http.client().execute(request).await.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.without_url().to_string())?;
        if !status.is_success() {
            let (code, message) = (element(&text, "Code"), element(&text, "Message"));
            return Err(format!("{status} {} {}", code.unwrap_or_default(), message.unwrap_or_default()));
        }
        read(&text).ok_or_else(|| "the answer holds no keys".to_owned())
    }

    fn sign(&self, own: &AwsCredential, form: &str, request: &mut reqwest::Request) -> Result<(), String> {
        let now = Duration::from_millis(u64::try_from(Clock::system().now_ms()).unwrap_or(0));
        let keys = Credentials::new(&own.key_id, &own.secret_key, own.token.clone(), None, "pintle");
        let identity = keys.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("sts")
            .time(UNIX_EPOCH + now)
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| error.to_string())?
            .into();
        let content_type = [("content-type", "application/x-www-form-urlencoded")];
        let body = SignableBody::Bytes(form.as_bytes());
        let signable = SignableRequest::new("POST", self.service.as_str(), content_type.into_iter(), body)
            .map_err(|error| error.to_string())?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| error.to_string())?.into_parts();
        for (name, value) in instructions.headers() {
            let name = reqwest::header::HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let value = reqwest::header::HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            request.headers_mut().insert(name, value);
        }
        Ok(())
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

/// The keys in an answer, and when they end.
fn read(answer: &str) -> Option<(AwsCredential, i64)> {
    let ends: Timestamp = element(answer, "Expiration")?.parse().ok()?;
    let keys = AwsCredential {
        key_id: element(answer, "AccessKeyId")?.to_owned(),
        secret_key: element(answer, "SecretAccessKey")?.to_owned(),
        token: Some(element(answer, "SessionToken")?.to_owned()),
    };
    Some((keys, ends.as_millisecond()))
}

/// The text of the first element of the name; these answers nest nothing of the same name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_their_end_are_read_from_the_answer() {
        let answer = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>A</AccessKeyId>\
             <SecretAccessKey>s/+</SecretAccessKey><SessionToken>t==</SessionToken>\
             <Expiration>2026-01-01T00:00:01Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
        let (keys, ends_ms) = read(answer).unwrap();
        assert_eq!((keys.key_id.as_str(), keys.secret_key.as_str(), keys.token.as_deref()), ("A", "s/+", Some("t==")));
        assert_eq!(ends_ms, 1_767_225_601_000);
        assert!(read("<Error><Code>AccessDenied</Code></Error>").is_none());
    }
}

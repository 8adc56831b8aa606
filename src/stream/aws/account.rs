//! Who a call to AWS is made as, and where (router.md 17).
//!
//! Keys of the configuration come first; without keys the machine's own are used: environment, web identity,
//! container, instance. A role is assumed through STS with the keys found so, and again before it runs out.

use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};

use super::super::Surroundings;
use super::super::caller::{Caller, Reply};
use super::super::config::Config;
use super::super::fault::Fault;
use super::signing::{Keys, signed_headers};
use super::sts;
use crate::clock::Clock;

/// A role is assumed anew this long before it runs out.
const MARGIN_MS: i64 = 5 * 60 * 1000;

/// A role to take on.
struct Role {
    arn: String,
    external_id: String,
    session: String,
}

/// The account of one destination.
pub(super) struct Account {
    region: String,
    endpoint: Option<Url>,
    keys: Option<Keys>,
    role: Option<Role>,
    clock: Clock,
    caller: Caller,
    /// The machine's own keys.
    machine: tokio::sync::OnceCell<AwsCredentialProvider>,
    /// The keys of the role and when they run out, in milliseconds since the epoch.
    assumed: tokio::sync::Mutex<Option<(Keys, i64)>>,
}

/// A call to sign and make.
pub(super) struct Call<'a> {
    pub(super) service: &'a str,
    /// Path of the URL, percent-encoded.
    pub(super) path: &'a str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

impl Account {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`Fault::Configuration`] for what is missing or cannot be read.
    pub(super) fn read(config: Config<'_>, service: &str, around: &Surroundings) -> Result<Account, Fault> {
        let region = config.text("region");
        if region.is_empty() || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(Fault::Configuration("could not find region configuration".to_owned()));
        }
        let endpoint = config.text("endpoint");
        let endpoint = if endpoint.is_empty() {
            None
        } else {
            let url = Url::parse(&endpoint);
            Some(url.map_err(|error| Fault::Configuration(format!("endpoint {endpoint:?}: {error}")))?)
        };
        let (id, secret) = (config.text("accessKeyID"), config.first_text(&["secretAccessKey", "accessKey"]));
        let token = Some(config.text("sessionToken")).filter(|token| !token.is_empty());
        let arn = config.text("iamRoleARN");
        let by_role = config.flag("roleBasedAuth").unwrap_or(!arn.is_empty());
        let or = |text: String, usual: &str| if text.is_empty() { usual.to_owned() } else { text };
        if by_role && arn.is_empty() {
            return Err(Fault::Configuration("roleBasedAuth is set, but iamRoleARN is empty".to_owned()));
        }
        Ok(Account {
            region,
            endpoint,
            keys: (!id.is_empty() && !secret.is_empty()).then_some(Keys { id, secret, token }),
            role: by_role.then(|| Role {
                arn,
                external_id: or(config.text("externalID"), &around.workspace_id),
                session: or(config.text("roleSessionName"), &format!("rudderstack-aws-{service}-access")),
            }),
            clock: around.clock.clone(),
            caller: Caller::new(around),
            machine: tokio::sync::OnceCell::new(),
            assumed: tokio::sync::Mutex::default(),
        })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// What became of it, if there is no answer; an answer is given back whatever it says.
    pub(super) async fn call(&self, call: Call<'_>, timeout: Duration) -> Result<Reply, Fault> {
        let keys = self.keys(timeout).await?;
        self.signed(&keys, call, timeout).await
    }

    /// Forgets the keys of the role: the server no longer takes them.
    pub(super) async fn forget_role(&self) {
        *self.assumed.lock().await = None;
    }

    async fn keys(&self, timeout: Duration) -> Result<Keys, Fault> {
        let Some(role) = &self.role else { return self.own_keys().await };
        let mut assumed = self.assumed.lock().await;
        if let Some((keys, until)) = &*assumed
            && self.clock.now_ms() + MARGIN_MS < *until
        {
            return Ok(keys.clone());
        }
        let own = self.own_keys().await?;
        let fresh = self.assume(role, &own, timeout).await?;
        *assumed = Some(fresh.clone());
        Ok(fresh.0)
    }

    async fn own_keys(&self) -> Result<Keys, Fault> {
        if let Some(keys) = &self.keys {
            return Ok(keys.clone());
        }
        let provider = self.machine.get_or_try_init(|| async {
            let chain = AmazonS3Builder::from_env().with_region(&self.region).with_bucket_name("none").build();
            chain.map(|store| store.credentials().clone())
        });
        let missing = |error: object_store::Error| {
            Fault::Unreachable(format!("no access keys are configured, and the machine gives none: {error}"))
        };
        let given = provider.await.map_err(missing)?.get_credential().await.map_err(missing)?;
        Ok(Keys { id: given.key_id.clone(), secret: given.secret_key.clone(), token: given.token.clone() })
    }

    async fn assume(&self, role: &Role, own: &Keys, timeout: Duration) -> Result<(Keys, i64), Fault> {
        let external_id = Some(role.external_id.as_str()).filter(|id| !id.is_empty());
        let call = Call {
            service: "sts",
            path: "/",
            headers: vec![("content-type", sts::FORM.to_owned())],
            body: sts::form(&role.arn, &role.session, external_id).into(),
        };
        let reply = self.signed(own, call, timeout).await?;
        let text = String::from_utf8_lossy(&reply.body);
        if reply.status != 200 {
            let why = format!("cannot assume the role {}: {}", role.arn, sts::refusal(&text));
            return Err(if reply.status < 500 && reply.status != 429 {
                Fault::Credentials(why)
            } else {
                Fault::Server(why)
            });
        }
        sts::keys(&text).ok_or_else(|| Fault::Server("STS gave an answer without keys".to_owned()))
    }

    async fn signed(&self, keys: &Keys, call: Call<'_>, timeout: Duration) -> Result<Reply, Fault> {
        let wrong = |error: &dyn std::fmt::Display| Fault::Configuration(format!("the call cannot be made: {error}"));
        let base = match &self.endpoint {
            Some(endpoint) => endpoint.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{}.{}.{}", call.service, self.region, domain(&self.region)),
        };
        let url = Url::parse(&format!("{base}{}", call.path)).map_err(|error| wrong(&error))?;
        let elapsed = Duration::from_micros(u64::try_from(self.clock.now_us()).unwrap_or(0));
        let own: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let scope = (self.region.as_str(), call.service);
        let mut all = signed_headers(keys, scope, elapsed, &url, &own, &call.body).map_err(|error| wrong(&error))?;
        all.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/x-amz-json-1.1"));
        Ok(self.caller.call(Method::POST, url, all, call.body, timeout).await?)
    }
}

/// The domain that a region's services are under.
fn domain(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

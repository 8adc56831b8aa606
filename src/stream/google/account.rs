//! Tokens of a Google service account (router.md 18).
//!
//! In: the account's key file as it stands in the configuration. Out: access tokens for an API, or identity tokens for
//! an audience, each kept until shortly before it runs out.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gcp_auth::CustomServiceAccount;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::caller::Caller;
use super::super::fault::Fault;
use crate::clock::Clock;

/// How long an assertion is good for, in seconds.
const LIFE: i64 = 3600;
/// A token is fetched anew this long before it runs out.
const MARGIN: Duration = Duration::from_mins(5);
/// Longest time that an identity token is kept.
const IDENTITY: Duration = Duration::from_mins(55);

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Calls of an API, by scope.
    Access(&'static str),
    /// Proof of identity towards a URL.
    Identity(String),
}

/// A service account.
pub(super) struct Account {
    /// Holds the private key and signs with it.
    signer: CustomServiceAccount,
    email: String,
    token_url: Url,
    clock: Clock,
    tokens: tokio::sync::Mutex<HashMap<Purpose, (String, Instant)>>,
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    token_uri: String,
}

impl Account {
    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`Fault::Configuration`] when it is none. The text says nothing of what is in the file.
    pub(super) fn read(credentials: &str, clock: &Clock) -> Result<Account, Fault> {
        let unusable = |why: &dyn std::fmt::Display| {
            Fault::Configuration(format!("credentials are not the key file of a service account: {why}"))
        };
        if credentials.is_empty() {
            return Err(Fault::Configuration("credentials are missing".to_owned()));
        }
        let file: KeyFile =
            serde_json::from_str(credentials).map_err(|_| unusable(&"client_email or token_uri is not there"))?;
        let token_url = Url::parse(&file.token_uri).map_err(|error| unusable(&error))?;
        let signer =
            CustomServiceAccount::from_json(credentials).map_err(|_| unusable(&"private_key cannot be used"))?;
        Ok(Account {
            signer,
            email: file.client_email,
            token_url,
            clock: clock.clone(),
            tokens: tokio::sync::Mutex::default(),
        })
    }

    /// A token for the purpose.
    ///
    /// # Errors
    /// [`Fault::Credentials`] when the server refuses the account.
    pub(super) async fn token(&self, caller: &Caller, purpose: Purpose, timeout: Duration) -> Result<String, Fault> {
        let mut tokens = self.tokens.lock().await;
        if let Some((token, until)) = tokens.get(&purpose)
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let (token, life) = self.fetch(caller, &purpose, timeout).await?;
        let until = Instant::now() + life.saturating_sub(MARGIN).max(Duration::from_secs(30));
        tokens.insert(purpose, (token.clone(), until));
        Ok(token)
    }

    /// Forgets all tokens: a server no longer takes them.
    pub(super) async fn forget(&self) {
        self.tokens.lock().await.clear();
    }

    async fn fetch(&self, caller: &Caller, purpose: &Purpose, timeout: Duration) -> Result<(String, Duration), Fault> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
            .append_pair("assertion", &self.assertion(purpose)?)
            .finish();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let reply = caller.call(Method::POST, self.token_url.clone(), headers, form.into(), timeout).await?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if reply.status != 200 {
            let why = format!(
                "no token for {}: {} {} {}",
                self.email,
                reply.status,
                text("error"),
                text("error_description")
            );
            let is_callers = (400..500).contains(&reply.status) && reply.status != 429;
            return Err(if is_callers { Fault::Credentials(why) } else { Fault::Server(why) });
        }
        let (token, life) = match purpose {
            Purpose::Access(_) => {
                let seconds = body.get("expires_in").and_then(Value::as_u64).unwrap_or(0);
                (text("access_token"), Duration::from_secs(seconds))
            }
            Purpose::Identity(_) => (text("id_token"), IDENTITY + MARGIN),
        };
        if token.is_empty() {
            Err(Fault::Server("the token server gave no token".to_owned()))
        } else {
            Ok((token, life))
        }
    }

    /// What proves to the token server who asks (RFC 7523).
    fn assertion(&self, purpose: &Purpose) -> Result<String, Fault> {
        let now = self.clock.now_ms().div_euclid(1000);
        let (name, value) = match purpose {
            Purpose::Access(scope) => ("scope", *scope),
            Purpose::Identity(audience) => ("target_audience", audience.as_str()),
        };
        let claims = json!({
            "iss": self.email, "sub": self.email, "aud": self.token_url.as_str(), "iat": now, "exp": now + LIFE,
            name: value,
        });
        let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(json!({ "alg": "RS256", "typ": "JWT" })), encode(claims));
        let signature = self.signer.signer().sign(signed.as_bytes());
        let signature = signature.map_err(|_| Fault::Configuration("the private key cannot sign".to_owned()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

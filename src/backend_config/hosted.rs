//! Fetching the workspace from the control plane (gateway.md 11.1): one conditional GET, tried a few times.
//!
//! The token goes into a header and nowhere else; it never appears in what is reported.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use tokio::time::Instant;

use super::events;
use crate::settings::HostedWorkspace;

/// Tries of one fetch.
const TRIES: u32 = 4;
/// The wait after the first try; each later one is half as long again.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Most redirects that are followed, all within the origin.
const MOST_REDIRECTS: usize = 5;
/// Most characters of an answer that are told.
const MOST_TOLD: usize = 300;

/// The place that the workspace is fetched from.
pub(super) struct Hosted {
    client: reqwest::Client,
    url: Url,
    authorization: HeaderValue,
    settings: HostedWorkspace,
}

/// What a fetch brought.
pub(super) enum Fetched {
    /// The same as the one that `etag` names.
    NotModified,
    /// A document, and what names it next time.
    Document {
        /// Its text.
        bytes: Vec<u8>,
        /// Its `ETag`.
        etag: Option<HeaderValue>,
    },
}

impl Hosted {
    /// A client for the settings; the reason when there can be none.
    pub(super) fn new(settings: HostedWorkspace) -> Result<Hosted, String> {
        let mut url = settings.url.clone();
        url.path_segments_mut()
            .map_err(|()| "CONFIG_BACKEND_URL cannot have a path; give an http or https URL".to_owned())?
            .pop_if_empty()
            .push("workspaceConfig");
        url.query_pairs_mut().append_pair("fetchAll", "true");
        if !settings.region.is_empty() {
            url.query_pairs_mut().append_pair("region", &settings.region);
        }
        let origin = url.origin();
        let client = reqwest::Client::builder()
            .user_agent(concat!("pintle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout)
            // The credentials must not reach another origin.
            .redirect(Policy::custom(move |attempt| {
                if attempt.url().origin() == origin && attempt.previous().len() <= MOST_REDIRECTS {
                    attempt.follow()
                } else {
                    attempt.stop()
                }
            }))
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        let mut authorization = HeaderValue::from_str(&basic(settings.token.expose()))
            .map_err(|_| "the workspace token cannot be a header".to_owned())?;
        authorization.set_sensitive(true);
        Ok(Hosted { client, url, authorization, settings })
    }

    /// Fetches the document, unless it is still the one that `etag` names.
    ///
    /// # Errors
    /// Why every try failed (the last reason), without token and query.
    pub(super) async fn fetch(&self, etag: Option<HeaderValue>) -> Result<Fetched, String> {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let failure = match self.try_once(etag.as_ref()).await {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => failure,
            };
            if tries == TRIES {
                return Err(failure);
            }
            tries += 1;
            // Up to half of the wait more or less, so that many nodes do not come back at the same time.
            tokio::time::sleep_until(Instant::now() + wait.mul_f64(0.5 + jitter())).await;
            wait = wait.mul_f64(1.5);
        }
    }

    async fn try_once(&self, etag: Option<&HeaderValue>) -> Result<Fetched, String> {
        events::asked_backend();
        let mut request = self
            .client
            .get(self.url.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json");
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag.clone());
        }
        let response = request.send().await.map_err(|error| self.told(&reason_of(error)))?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok(Fetched::NotModified);
        }
        let answered_etag = response.headers().get(ETAG).cloned();
        let body = self.body(response).await?;
        if status != StatusCode::OK {
            let shown: String = String::from_utf8_lossy(&body).trim().chars().take(MOST_TOLD).collect();
            let shown: String = shown.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Err(self.told(&format!("backend config request failed with {}: {shown}", status.as_u16())));
        }
        events::backend_answered(body.len());
        Ok(Fetched::Document { bytes: body, etag: answered_etag })
    }

    /// The body, up to the bound.
    async fn body(&self, mut response: Response) -> Result<Vec<u8>, String> {
        let most = self.settings.most_bytes;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.told(&reason_of(error)))? {
            let length = u64::try_from(body.len().saturating_add(chunk.len())).unwrap_or(u64::MAX);
            if length > most {
                return Err(self.told(&format!("the answer is larger than {most} bytes (BackendConfig.maxBytes)")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// A failure with its place. An answer may repeat what it was sent, so the token is taken out.
    fn told(&self, reason: &str) -> String {
        let token = self.settings.token.expose();
        let sent = self.authorization.to_str().ok().and_then(|text| text.strip_prefix("Basic ")).unwrap_or(token);
        format!("{}: {}", self.settings.shown_url(), reason.replace(token, "***").replace(sent, "***"))
    }
}

/// The error with its causes and without its URL.
fn reason_of(error: reqwest::Error) -> String {
    use std::error::Error as _;
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn basic(token: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{token}:")))
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    let [a, b, c, d, ..] = uuid::Uuid::new_v4().into_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

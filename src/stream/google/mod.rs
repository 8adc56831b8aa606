//! Streams of Google: GOOGLEPUBSUB, GOOGLE_CLOUD_FUNCTION, BQSTREAM, GOOGLESHEETS (router.md 18).
//!
//! In: what [`crate::destination`] made of events. Out: a message, a call, or rows. Calls go over HTTPS with tokens of
//! the service account in the configuration. `endpoint` in a configuration (`testConfig.endpoint` for GOOGLEPUBSUB)
//! leads to an emulator, which needs no account.

mod account;
mod function;
mod pubsub;
mod rows;

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde_json::{Map, Value};

use super::caller::{Caller, NoReply, Reply};
use super::config::{Config, are_alike};
use super::fault::Fault;
use super::together::{Bounds, Together};
use super::{RESERVED, Surroundings};
use account::{Account, Purpose};

/// Code of a call whose time was over.
const TOO_LATE: i32 = 504;

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    PubSub,
    Function,
    Table,
    Sheet,
}

/// The client of one destination.
pub struct Google {
    service: Service,
    config: Map<String, Value>,
    around: Surroundings,
    setup: OnceLock<Result<Setup, Fault>>,
    together: Together<pubsub::Message>,
    /// Whether the sheet has its header; held by whoever writes it.
    has_header: tokio::sync::Mutex<bool>,
}

/// The configuration, read once.
struct Setup {
    caller: Caller,
    /// `None` where calls need none.
    account: Option<Account>,
    /// Scheme and host of the API; the URL of a function.
    base: Url,
    /// Topics that may be published to.
    topics: Vec<String>,
    /// Names of the columns of a sheet.
    columns: Vec<String>,
    project: String,
    dataset: String,
    table: String,
    sheet: String,
}

impl std::fmt::Debug for Google {
    /// Without the configuration, which holds a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Google").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Google {
    /// The client of this type; `None` for other types. What is wrong with the configuration is told with every
    /// payload.
    pub fn of(type_name: &str, config: &Map<String, Value>, around: &Surroundings) -> Option<Google> {
        let service = match type_name {
            "GOOGLEPUBSUB" => Service::PubSub,
            "GOOGLE_CLOUD_FUNCTION" => Service::Function,
            "BQSTREAM" => Service::Table,
            "GOOGLESHEETS" => Service::Sheet,
            _ => return None,
        };
        Some(Google {
            service,
            config: config.clone(),
            around: around.clone(),
            setup: OnceLock::new(),
            together: Together::new(Bounds { records: 500, bytes: 6 << 20 }),
            has_header: tokio::sync::Mutex::default(),
        })
    }

    /// Whether both come from the same configuration.
    pub fn is_configured_like(&self, other: &Google) -> bool {
        self.service == other.service
            && are_alike(&self.config, &other.config)
            && self.around.addresses == other.around.addresses
    }

    /// Sends a payload.
    ///
    /// # Errors
    /// As [`super::Client::send`].
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let setup = self.setup()?;
        match self.service {
            Service::PubSub => {
                let (topic, bytes, message) = pubsub::read(setup, payload)?;
                self.together.send(self, topic, bytes, message, timeout).await
            }
            Service::Function => function::call(setup, payload, timeout).await,
            Service::Table => rows::insert(setup, payload, timeout).await,
            Service::Sheet => rows::append(setup, payload, &self.has_header, timeout).await,
        }
    }

    fn setup(&self) -> Result<&Setup, Fault> {
        self.setup.get_or_init(|| self.read()).as_ref().map_err(Fault::clone)
    }

    fn read(&self) -> Result<Setup, Fault> {
        let config = Config(&self.config);
        let test = config.value("testConfig").and_then(Value::as_object);
        let emulator = match test {
            Some(test) if self.service == Service::PubSub => Config(test).text("endpoint"),
            _ if self.service == Service::Function => String::new(),
            _ => config.text("endpoint"),
        };
        let base = match self.service {
            _ if emulator.contains("://") => emulator.clone(),
            _ if !emulator.is_empty() => format!("http://{emulator}"),
            Service::PubSub => "https://pubsub.googleapis.com".to_owned(),
            Service::Function => config.text("googleCloudFunctionUrl"),
            Service::Table => "https://bigquery.googleapis.com".to_owned(),
            Service::Sheet => "https://sheets.googleapis.com".to_owned(),
        };
        let unusable = |error: url::ParseError| Fault::Configuration(format!("{base:?} is no URL: {error}"));
        let credentials = config.text("credentials");
        let needs_account = match self.service {
            Service::Function => config.flag("requireAuthentication") == Some(true),
            _ => emulator.is_empty() || !credentials.is_empty(),
        };
        let account = needs_account.then(|| Account::read(&credentials, &self.around.clock)).transpose()?;
        let project = config.text("projectId");
        if project.is_empty() && matches!(self.service, Service::PubSub | Service::Table) {
            return Err(Fault::Configuration("invalid Google project ID: projectId is missing".to_owned()));
        }
        let column = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let rows = |key: &str| config.value(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        Ok(Setup {
            caller: Caller::new(&self.around),
            account,
            base: Url::parse(&base).map_err(unusable)?,
            topics: rows("eventToTopicMap").iter().map(|row| column(row, "to").trim().to_owned()).collect(),
            columns: rows("eventKeyMap")
                .iter()
                .filter(|row| !column(row, "from").is_empty())
                .map(|row| column(row, "to"))
                .collect(),
            project,
            dataset: config.text("datasetId"),
            table: config.text("tableId"),
            sheet: config.text("sheetId"),
        })
    }
}

impl Setup {
    /// A URL of the API: `{}` in the path are filled in, percent-encoded.
    fn url(&self, path: &str, parts: &[&str]) -> Result<Url, Fault> {
        let mut pieces = path.split("{}");
        let mut text = format!("{}{}", self.base.as_str().trim_end_matches('/'), pieces.next().unwrap_or_default());
        for (piece, part) in pieces.zip(parts) {
            text.extend(utf8_percent_encode(part, RESERVED));
            text.push_str(piece);
        }
        Url::parse(&text).map_err(|error| Fault::Configuration(format!("{text:?} is no URL: {error}")))
    }

    /// Calls with a JSON body and, where there is an account, a token for the purpose. A refused token is forgotten.
    async fn call(
        &self,
        method: Method,
        url: Url,
        purpose: Purpose,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Result<Reply, NoReply>, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(account) = &self.account {
            // The token server is not as fast as some functions have to be.
            let token = account.token(&self.caller, purpose, timeout.max(Duration::from_secs(10))).await?;
            let mut bearer = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Fault::Server("the token server gave no usable token".to_owned()))?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        let reply = self.caller.call(method, url, headers, body, timeout).await;
        if let (Ok(Reply { status: 401, .. }), Some(account)) = (&reply, &self.account) {
            account.forget().await;
        }
        Ok(reply)
    }
}

/// What an API says of an error: its name and its text.
fn said(reply: &Reply) -> (String, String) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let text = |key: &str| body.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/error/status"), text("/error/message"))
}

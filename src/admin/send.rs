//! A test event through the node's own ingest port: the whole way that an SDK's event takes.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Deps;
use crate::backend_config::Source;
use crate::gateway::OwnPort;

/// Longest wait for the whole conversation; longer than the gateway waits for the store.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Most bytes of an answer that are shown.
const MAX_ANSWER: usize = 64 << 10;
/// Event types with an endpoint of their own.
const TYPES: [&str; 6] = ["track", "identify", "page", "screen", "group", "alias"];

/// What became of a test event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// The source that it was sent to.
    pub source_id: String,
    /// Its `messageId`.
    pub message_id: String,
    /// The status of the gateway's answer.
    pub status: u16,
    /// The text of the gateway's answer.
    pub answer: String,
}

/// Why a test event could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The node is not there yet.
    #[error("the ingest port is not open yet")]
    NotOpen,
    /// There is no such source.
    #[error("no enabled source {0:?} in the configuration in force")]
    NoSource(String),
    /// There is no source at all.
    #[error("the configuration in force has no enabled source")]
    NoSources,
    /// Not one of the six types.
    #[error("{0:?} is not an event type; use track, identify, page, screen, group or alias")]
    Type(String),
    /// The conversation failed.
    #[error("cannot send to the ingest port: {0}")]
    Wire(String),
}

impl SendError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            SendError::NotOpen => StatusCode::SERVICE_UNAVAILABLE,
            SendError::NoSource(_) | SendError::NoSources => StatusCode::NOT_FOUND,
            SendError::Type(_) => StatusCode::BAD_REQUEST,
            SendError::Wire(_) => StatusCode::BAD_GATEWAY,
        }
    }

    pub(super) fn hint(&self) -> &'static str {
        match self {
            SendError::NotOpen => "ask /readyz what the node waits for",
            SendError::NoSource(_) | SendError::NoSources => "`pintle status` shows what is configured",
            _ => "",
        }
    }
}

/// Sends the event that `body` describes: members `source` (id or name), `type`, and those of the event itself.
pub(super) async fn send(deps: &Deps, body: Value) -> Result<Sent, SendError> {
    let Value::Object(mut event) = body else { return Err(SendError::Type(String::new())) };
    let source = event.shift_remove("source").and_then(|name| name.as_str().map(str::to_owned));
    let kind = event.get("type").and_then(Value::as_str).unwrap_or("track").to_owned();
    if !TYPES.contains(&kind.as_str()) {
        return Err(SendError::Type(kind));
    }
    let source = choose(deps, source.as_deref())?;
    let message_id = match event.get("messageId").and_then(Value::as_str) {
        Some(given) => given.to_owned(),
        None => Uuid::new_v4().to_string(),
    };
    event.insert("messageId".to_owned(), json!(message_id));
    if !event.contains_key("userId") && !event.contains_key("anonymousId") {
        event.insert("anonymousId".to_owned(), json!(Uuid::new_v4().to_string()));
    }
    if kind == "track" && !event.contains_key("event") {
        event.insert("event".to_owned(), json!("Test event"));
    }
    let text = Value::Object(event).to_string();
    let posted = tokio::time::timeout(TIMEOUT, post(&deps.own_port, &kind, &source.write_key, text)).await;
    let (status, answer) = posted.map_err(|_| SendError::Wire("no answer in time".to_owned()))??;
    Ok(Sent { source_id: source.id.clone(), message_id, status, answer })
}

fn choose(deps: &Deps, wanted: Option<&str>) -> Result<Arc<Source>, SendError> {
    let snapshot = deps.config.current();
    let mut sources: Vec<&Arc<Source>> =
        snapshot.iter().flat_map(|snapshot| snapshot.source_by_id.values()).filter(|source| source.enabled).collect();
    sources.sort_by(|a, b| a.id.cmp(&b.id));
    let found = match wanted {
        Some(wanted) => sources.iter().find(|source| source.id == wanted || source.name == wanted),
        // Webhook and cloud sources have endpoints of their own.
        None => sources.iter().find(|source| source.definition.category.is_empty()).or(sources.first()),
    };
    found.map(|source| Arc::clone(source)).ok_or_else(|| match wanted {
        Some(wanted) => SendError::NoSource(wanted.to_owned()),
        None => SendError::NoSources,
    })
}

async fn post(own_port: &OwnPort, kind: &str, write_key: &str, text: String) -> Result<(u16, String), SendError> {
    let stream = own_port.connect().await.map_err(|error| match error.kind() {
        ErrorKind::NotConnected => SendError::NotOpen,
        _ => SendError::Wire(error.to_string()),
    })?;
    let failed = |error: hyper::Error| SendError::Wire(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let conversation = tokio::spawn(connection);
    let request = Request::post(format!("/v1/{kind}"))
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("{write_key}:"))))
        .body(Full::new(Bytes::from(text)))
        .map_err(|error| SendError::Wire(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| SendError::Wire(error.to_string()))?.to_bytes();
    drop(sender);
    conversation.abort();
    Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
}

//! Messages for a topic (router.md 18). The user is the ordering key, so that subscribers with ordering get a user's
//! events in order.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::super::caller::Reply;
use super::super::fault::Fault;
use super::super::together::Batches;
use super::account::Purpose;
use super::{Google, Setup, said};

const SCOPE: &str = "https://www.googleapis.com/auth/pubsub";
/// Longest ordering key.
const KEY_BYTES: usize = 1024;

/// A message as the API takes it.
pub(super) type Message = Value;

#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(rename = "userId")]
    user_id: Option<Value>,
    #[serde(rename = "topicId", default)]
    topic: String,
    #[serde(default)]
    attributes: Map<String, Value>,
}

/// The topic, the size and the message of a payload.
pub(super) fn read(setup: &Setup, payload: &[u8]) -> Result<(String, usize, Message), Fault> {
    let payload: Payload<'_> =
        serde_json::from_slice(payload).map_err(|error| Fault::Payload(format!("unreadable record: {error}")))?;
    let Some(event) = payload.message.map(RawValue::get).filter(|text| *text != "null") else {
        return Err(Fault::Payload("[GooglePubSub] error :: message from payload not found".to_owned()));
    };
    let topic = payload.topic;
    if topic.is_empty() || !setup.topics.contains(&topic) {
        return Err(Fault::Payload(format!("[GooglePubSub] error :: topic {topic:?} not found in project")));
    }
    let data = STANDARD.encode(event);
    let bytes = data.len() + 256;
    let mut message = Map::from_iter([("data".to_owned(), data.into())]);
    if !payload.attributes.is_empty() {
        message.insert("attributes".to_owned(), Value::Object(payload.attributes));
    }
    let key = match payload.user_id {
        Some(Value::String(text)) => text,
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    };
    if !key.is_empty() && key.len() <= KEY_BYTES {
        message.insert("orderingKey".to_owned(), key.into());
    }
    Ok((topic, bytes, Value::Object(message)))
}

impl Batches for Google {
    type Record = Message;

    async fn send_batch(
        &self,
        topic: &str,
        messages: &[Message],
        timeout: Duration,
    ) -> Result<Vec<Result<(), Fault>>, Fault> {
        let setup = self.setup()?;
        let url = setup.url("/v1/projects/{}/topics/{}:publish", &[&setup.project, topic])?;
        let body = json!({ "messages": messages }).to_string();
        let reply = setup.call(Method::POST, url, Purpose::Access(SCOPE), body.into(), timeout).await??;
        if reply.status == 200 {
            return Ok(messages.iter().map(|_| Ok(())).collect());
        }
        let (status, text) = said(&reply);
        Err(Fault::Answered { code: code_of(&status, &reply), text: format!("[GooglePubSub] {status}: {text}") })
    }
}

/// The code for a status of the API; the HTTP status where it gives none.
fn code_of(status: &str, reply: &Reply) -> i32 {
    match status {
        "CANCELLED" => 499,
        "DEADLINE_EXCEEDED" => 504,
        "NOT_FOUND" => 404,
        "ALREADY_EXISTS" => 409,
        "PERMISSION_DENIED" => 403,
        "RESOURCE_EXHAUSTED" => 429,
        "INTERNAL" | "ABORTED" | "UNKNOWN" => 500,
        "UNAVAILABLE" => 503,
        "UNAUTHENTICATED" => 401,
        "DATA_LOSS" | "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" | "UNIMPLEMENTED" => 400,
        _ => i32::from(reply.status),
    }
}

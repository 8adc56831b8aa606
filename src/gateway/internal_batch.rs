//! Messages that another ingestion tier has checked: stored as they are (gateway.md 7.7).

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::HeaderName;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::answer::{self, Answer, Refusal};
use super::body::RequestBody;
use super::credentials::header;
use super::directory::Directory;
use super::ingest::{self, Client};
use super::server::Shared;
use super::suppression::{Suppressions, Verdict};
use super::{events, marks};
use crate::event::{identity, json};
use crate::jobsdb::{Durability, NewJob, Queue, RunKey, RunStats, Tx};

static BATCH_SIZE: HeaderName = HeaderName::from_static("x-batch-size");

/// What a job holds besides the texts of its message, at most.
const ADDED_BYTES: usize = 600;

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    properties: Properties,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Properties {
    request_type: String,
    routing_key: String,
    #[serde(rename = "workspaceID")]
    workspace_id: String,
    #[serde(rename = "sourceID")]
    source_id: String,
    #[serde(deserialize_with = "rfc3339")]
    received_at: Option<Timestamp>,
    #[serde(rename = "requestIP")]
    request_ip: String,
    #[serde(rename = "destinationID")]
    destination_id: String,
    #[serde(rename = "userID")]
    user_id: String,
    #[serde(rename = "sourceJobRunID")]
    source_job_run_id: String,
    #[serde(rename = "sourceTaskRunID")]
    source_task_run_id: String,
    #[serde(rename = "traceID")]
    trace_id: String,
    source_type: String,
    is_bot: bool,
    bot_name: String,
    #[serde(rename = "botURL")]
    bot_url: String,
    bot_is_invalid_browser: bool,
    bot_action: String,
}

fn rfc3339<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// A message that passed the checks.
struct Checked<'a> {
    properties: Properties,
    received_at: Timestamp,
    payload: &'a [u8],
    /// `type` and `event` of the payload, as they are written.
    kind: &'a [u8],
    event: &'a [u8],
}

/// Answers the request.
pub(super) async fn answer(shared: &Shared, client: &Client<'_>, body: &mut RequestBody<Incoming>) -> Answer {
    match accept(shared, client, body).await {
        Ok(()) => answer::ok(),
        Err(refusal) => refusal.answer(),
    }
}

async fn accept(shared: &Shared, client: &Client<'_>, body: &mut RequestBody<Incoming>) -> Result<(), Refusal> {
    let settings = shared.live.load();
    let gateway = &settings.gateway;
    // Before the body is read: what is announced is what counts.
    if let Some(limiter) = shared.rate_limits.of_internal_batches(&settings.admission) {
        match announced(client) {
            Ok(events) => limiter.take(events)?,
            Err(reason) => events::throttle_skipped(reason),
        }
    } else {
        events::throttle_skipped("disabled");
    }
    let held = ingest::read(shared, gateway, client, body).await?;
    let mut messages = check(&held.bytes, gateway.max_json_depth)?;
    if let Some(suppressed) = suppressed(shared, &messages).await? {
        messages.retain(|message| !suppressed.contains(&Person::of(&message.properties)));
    }
    if messages.is_empty() {
        return Ok(());
    }
    let expanded: usize = messages.iter().map(|message| message.payload.len() + ADDED_BYTES).sum();
    if expanded as u64 > gateway.max_expanded_bytes {
        return Err(Refusal::TooLarge);
    }
    if !shared.accepts_events() {
        return Err(Refusal::Unavailable);
    }
    let _charge = ingest::charge(shared, expanded as u64, held.bytes.len())?;
    let directory = shared.directory();
    let mut tx = Tx::new(Durability::Durable);
    for message in &messages {
        let with_job = |job: &NewJob<'_>| tx.append(Queue::Gw, shared.jobs.encode(Queue::Gw, job));
        build(message, &directory, with_job);
        let of = &message.properties;
        if let Some(run) = RunKey::new(&of.source_job_run_id, &of.source_task_run_id, &of.source_id, "") {
            tx.count_run(run, RunStats::taken_in(1));
        }
    }
    ingest::commit(shared, client.connection, tx, (), Instant::now() + gateway.write_timeout).await
}

/// The number of events that the request announces.
fn announced(client: &Client<'_>) -> Result<u64, &'static str> {
    let text = header(&client.parts.headers, &BATCH_SIZE);
    if text.is_empty() {
        return Err("no_header");
    }
    text.parse().ok().filter(|&events: &u64| events > 0).ok_or("invalid_header")
}

/// A user as suppressions know them.
#[derive(PartialEq, Eq, Hash)]
struct Person {
    workspace: String,
    source: String,
    user: String,
}

impl Person {
    fn of(properties: &Properties) -> Person {
        Person {
            workspace: properties.workspace_id.clone(),
            source: properties.source_id.clone(),
            user: identity::clean(&properties.user_id).into_owned(),
        }
    }
}

/// Who of the messages' users is suppressed; `None` when nobody can be.
async fn suppressed(shared: &Shared, messages: &[Checked<'_>]) -> Result<Option<HashSet<Person>>, Refusal> {
    let mut suspects: HashMap<(String, String), Vec<String>> = HashMap::new();
    for message in messages {
        let screen = shared.suppressions.screen(&message.properties.workspace_id);
        let user = identity::clean(&message.properties.user_id);
        if screen.verdict(&user) == Verdict::MayBeSuppressed {
            let Person { workspace, source, user } = Person::of(&message.properties);
            suspects.entry((workspace, source)).or_default().push(user);
        }
    }
    if suspects.is_empty() {
        return Ok(None);
    }
    let mut found = HashSet::new();
    for ((workspace, source), users) in suspects {
        let confirmed = Suppressions::confirm(&shared.jobs, &workspace, &source, users).await;
        let confirmed = confirmed.map_err(|error| ingest::refusal_of(&error))?;
        found.extend(confirmed.into_iter().map(|user| Person {
            workspace: workspace.clone(),
            source: source.clone(),
            user,
        }));
    }
    Ok(Some(found))
}

/// Checks every message, in order.
fn check(body: &[u8], max_depth: usize) -> Result<Vec<Checked<'_>>, Refusal> {
    json::scan_single(body, max_depth).map_err(|_| Refusal::InvalidJson)?;
    let messages: Vec<Message<'_>> = serde_json::from_slice(body).map_err(|_| Refusal::InvalidJson)?;
    if messages.is_empty() {
        return Err(Refusal::NotAnEvent);
    }
    messages.into_iter().map(|message| check_one(message, max_depth).ok_or(Refusal::NotAnEvent)).collect()
}

fn check_one(message: Message<'_>, max_depth: usize) -> Option<Checked<'_>> {
    let properties = message.properties;
    let required = [
        &properties.request_type,
        &properties.routing_key,
        &properties.workspace_id,
        &properties.source_id,
        &properties.request_ip,
    ];
    if required.iter().any(|text| text.is_empty()) {
        return None;
    }
    let received_at = properties.received_at?;
    let payload = message.payload?.get().as_bytes();
    let (mut message_id, mut kind, mut event): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
    let mut present = 0;
    json::members(payload, max_depth, |key, value| match key {
        b"messageId" => message_id = value,
        b"type" => kind = value,
        b"event" => event = value,
        b"receivedAt" | b"request_ip" | b"rudderId" => present += 1,
        _ => {}
    })
    .ok()?;
    let needs_type = !matches!(properties.request_type.as_str(), "batch" | "replay" | "retl" | "import");
    let complete = !matches!(message_id, b"" | b"null" | b"\"\"") && (!needs_type || !kind.is_empty()) && present >= 3;
    complete.then_some(Checked { properties, received_at, payload, kind, event })
}

/// Builds the job of a message. An unknown source is accepted, without a write key.
fn build(message: &Checked<'_>, directory: &Directory, take: impl FnOnce(&NewJob<'_>)) {
    let properties = &message.properties;
    let entry = directory.any_by_id(&properties.source_id);
    let category = entry.map_or("", |entry| entry.category.as_str());
    let mut parameters = Vec::with_capacity(300);
    let mut member = |name: &str, value: &str| {
        parameters.extend_from_slice(name.as_bytes());
        json::push_string(&mut parameters, value);
    };
    member("{\"message_id\":", "");
    member(",\"source_id\":", &properties.source_id);
    member(",\"source_job_run_id\":", &properties.source_job_run_id);
    member(",\"source_task_run_id\":", &properties.source_task_run_id);
    member(",\"user_id\":", &properties.user_id);
    member(",\"traceparent\":", &properties.trace_id);
    member(",\"source_category\":", if properties.source_type.is_empty() { category } else { &properties.source_type });
    for (name, value) in [
        (",\"destination_id\":", &properties.destination_id),
        (",\"bot_name\":", &properties.bot_name),
        (",\"bot_url\":", &properties.bot_url),
        (",\"bot_action\":", &properties.bot_action),
    ] {
        if !value.is_empty() {
            member(name, value);
        }
    }
    let blocked = message.kind == b"\"track\""
        && entry
            .and_then(|entry| entry.blocked_events.as_ref().zip(marks::string(message.event)))
            .is_some_and(|(names, event)| names.contains(event.as_ref()));
    for (name, is_true) in [
        ("is_bot", properties.is_bot),
        ("bot_is_invalid_browser", properties.bot_is_invalid_browser),
        ("is_event_blocked", blocked),
    ] {
        if is_true {
            parameters.extend_from_slice(format!(",\"{name}\":true").as_bytes());
        }
    }
    parameters.push(b'}');
    let mut tail = b"],\"requestIP\":".to_vec();
    json::push_string(&mut tail, &properties.request_ip);
    tail.extend_from_slice(b",\"writeKey\":");
    tail.extend_from_slice(entry.map_or(b"\"\"", |entry| &entry.quoted_write_key));
    tail.extend_from_slice(format!(",\"receivedAt\":\"{:.3}\"}}", message.received_at).as_bytes());
    take(&NewJob {
        uuid: Uuid::new_v4(),
        workspace_id: &properties.workspace_id,
        custom_val: "GW",
        source_id: &properties.source_id,
        destination_id: "",
        user_id: &properties.routing_key,
        parameters: &parameters,
        payload: &[b"{\"batch\":[", message.payload, &tail],
        event_count: 1,
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::backend_config::Snapshot;

    fn message() -> Value {
        json!({
            "properties": {
                "requestType": "track", "routingKey": "h<<>>a1<<>>u1", "workspaceID": "ws", "sourceID": "src",
                "receivedAt": "2024-01-01T01:01:01.000000001Z", "requestIP": "1.1.1.1", "userID": "u1",
                "isBot": true, "botName": "b", "botAction": "flag",
            },
            "payload": {
                "userId": "u1", "type": "track", "messageId": "m1", "rudderId": "r",
                "request_ip": "1.1.1.1", "receivedAt": "2024-01-01T01:01:01.000Z",
            },
        })
    }

    fn verdict(body: &Value) -> Option<Refusal> {
        check(body.to_string().as_bytes(), 1200).err()
    }

    #[test]
    fn every_required_part_is_missed() {
        assert_eq!(verdict(&json!([message()])), None);
        assert_eq!(verdict(&json!([])), Some(Refusal::NotAnEvent));
        assert_eq!(verdict(&json!({"a": 1})), Some(Refusal::InvalidJson));
        assert_eq!(verdict(&json!([1])), Some(Refusal::InvalidJson));
        for name in ["requestType", "routingKey", "workspaceID", "sourceID", "receivedAt", "requestIP"] {
            let mut broken = message();
            broken["properties"].as_object_mut().unwrap().remove(name);
            assert_eq!(verdict(&json!([message(), broken])), Some(Refusal::NotAnEvent), "{name}");
        }
        for name in ["type", "messageId", "rudderId", "request_ip", "receivedAt"] {
            let mut broken = message();
            broken["payload"].as_object_mut().unwrap().remove(name);
            assert_eq!(verdict(&json!([broken])), Some(Refusal::NotAnEvent), "{name}");
        }
        let mut broken = message();
        broken["properties"]["receivedAt"] = json!("yesterday");
        assert_eq!(verdict(&json!([broken])), Some(Refusal::InvalidJson));
    }

    #[test]
    fn the_payload_is_stored_as_it_came() {
        let body = json!([message()]).to_string();
        let checked = check(body.as_bytes(), 1200).unwrap();
        let directory = Directory::new(Arc::new(Snapshot::default()));
        build(&checked[0], &directory, |job| {
            let payload: Value = serde_json::from_slice(&job.payload.concat()).unwrap();
            assert_eq!(payload["batch"][0], message()["payload"]);
            assert_eq!(payload["receivedAt"], "2024-01-01T01:01:01.000Z");
            assert_eq!((payload["writeKey"].as_str(), job.user_id), (Some(""), "h<<>>a1<<>>u1"));
            let parameters: Value = serde_json::from_slice(job.parameters).unwrap();
            assert_eq!(parameters["is_bot"], true);
            assert_eq!(parameters["user_id"], "u1");
            assert!(parameters.get("destination_id").is_none());
        });
    }
}

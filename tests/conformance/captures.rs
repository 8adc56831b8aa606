//! Requests of real SDKs, replayed byte for byte against one node (clients.md 1-5).
//!
//! Every request gets the answer that its SDK needs; an event request is also sent with an unknown write key and with
//! that of a disabled source. What the node archives has to be what was sent, with the documented enrichment
//! (gateway.md 6.2) and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::kit::{Answer, Client, Node, NodeBuilder, basic_auth, holds_within, messages_below};
use crate::report::CaseResult;

/// How long the archive may take to hold every event.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(60);
const DISABLED_KEY: &str = "key-of-a-disabled-source";
const UNKNOWN_KEY: &str = "key-that-nobody-has";

/// Replays the captures; each is a case.
pub fn run(cases: &[Value], _: &Path) -> Vec<CaseResult> {
    let archive = tempfile::tempdir().expect("a folder");
    let settings = format!(
        "\n[archival]\nlocalPath = \"{}\"\nUploadFrequency = \"1s\"\nArchiveSleepDuration = \"1s\"\n",
        archive.path().display()
    );
    let node = NodeBuilder::new().document(workspace(cases)).more_settings(&settings).start();
    let mut sent = Vec::new();
    let replayed: Vec<Result<(), String>> =
        cases.iter().enumerate().map(|(index, case)| replay(&node, case, index, &mut sent)).collect();
    holds_within(ARCHIVE_LIMIT, || messages_below(archive.path()).len() >= sent.len());
    let mut wrong = differences(&sent, messages_below(archive.path()));
    cases
        .iter()
        .zip(replayed)
        .enumerate()
        .map(|(index, (case, replayed))| {
            let verdict = replayed.and_then(|()| wrong.remove(&index).map_or(Ok(()), Err));
            CaseResult {
                id: text(case, "id").to_owned(),
                by: text(case, "sdk").to_owned(),
                passed: verdict.is_ok(),
                detail: verdict.err().unwrap_or_default(),
            }
        })
        .collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn requests(case: &Value) -> impl Iterator<Item = &Value> {
    case.get("requests").and_then(Value::as_array).into_iter().flatten()
}

/// A source for every write key that the requests carry, and a disabled one.
fn workspace(cases: &[Value]) -> Value {
    let mut keys: BTreeSet<String> = cases.iter().flat_map(requests).filter_map(write_key).collect();
    keys.insert(DISABLED_KEY.to_owned());
    let source = |key: &String| {
        json!({"id": format!("source-{key}"), "name": "App", "writeKey": key, "enabled": key != DISABLED_KEY,
            "workspaceId": "w", "updatedAt": "2026-01-01T00:00:00.000Z", "config": {},
            "sourceDefinition": {"id": "d", "name": "Javascript", "type": "web"}, "destinations": []})
    };
    json!({"workspaceId": "w", "sources": keys.iter().map(source).collect::<Vec<_>>()})
}

fn header<'a>(request: &'a Value, name: &str) -> Option<&'a str> {
    let headers = request.get("headers").and_then(Value::as_array).into_iter().flatten();
    headers
        .filter_map(|pair| Some((pair.get(0)?.as_str()?, pair.get(1)?.as_str()?)))
        .find(|(present, _)| present.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// The key that a request is authorised with: in its header, its query or its path.
fn write_key(request: &Value) -> Option<String> {
    if let Some(encoded) = header(request, "authorization").and_then(|value| value.strip_prefix("Basic ")) {
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        return decoded.split_once(':').map(|(key, _)| key.to_owned());
    }
    let path = text(request, "path");
    let in_path = path.strip_prefix("/v1/projects/").and_then(|rest| rest.strip_suffix("/settings"));
    let in_query = path.split(['?', '&']).find_map(|part| part.strip_prefix("writeKey="));
    in_path.or(in_query).map(str::to_owned)
}

/// An event that was sent, and the case that sent it.
struct Sent {
    case: usize,
    event: Value,
}

fn replay(node: &Node, case: &Value, index: usize, sent: &mut Vec<Sent>) -> Result<(), String> {
    let mut client = Client::new(node.address());
    for request in requests(case) {
        let (method, path) = (text(request, "method"), text(request, "path"));
        let judged = match method {
            "OPTIONS" => send(&mut client, request, None).and_then(|answer| preflight(request, &answer)),
            "GET" => send(&mut client, request, None).and_then(|answer| page(request, &answer)),
            _ => event(&mut client, request, index, sent),
        };
        judged.map_err(|why| format!("{method} {path}: {why}"))?;
    }
    Ok(())
}

/// The request as it was captured, with the write key replaced where one is given.
fn send(client: &mut Client, request: &Value, key: Option<&str>) -> Result<Answer, String> {
    let mut path = text(request, "path").to_owned();
    if let (Some(key), Some(own)) = (key, write_key(request)) {
        path = path.replace(&format!("writeKey={own}"), &format!("writeKey={key}"));
    }
    let mut head = format!("{} {path} {}\r\n", text(request, "method"), text(request, "http_version"));
    for pair in request.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let (name, value) = (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default());
        let is_authorization = name.eq_ignore_ascii_case("authorization");
        let value = key.filter(|_| is_authorization).map_or_else(|| value.to_owned(), basic_auth);
        head.extend([name, ": ", &*value, "\r\n"]);
    }
    head.push_str("\r\n");
    let body = STANDARD.decode(text(request, "body_base64")).map_err(|error| error.to_string())?;
    client.raw(&[head.into_bytes(), body].concat()).map_err(|error| error.to_string())
}

fn expect(answer: &Answer, status: u16, body: Option<&str>) -> Result<(), String> {
    if answer.status == status && body.is_none_or(|body| body == answer.body) {
        return Ok(());
    }
    Err(format!("answered {} {:?} instead of {status} {body:?}", answer.status, answer.body))
}

fn expect_headers(answer: &Answer, expected: &[(&str, Option<&str>)]) -> Result<(), String> {
    for (name, value) in expected {
        if answer.header(name) != *value {
            return Err(format!("{name} is {:?} instead of {value:?}", answer.header(name)));
        }
    }
    Ok(())
}

/// What a browser needs before it sends the request itself.
fn preflight(request: &Value, answer: &Answer) -> Result<(), String> {
    expect(answer, 204, Some(""))?;
    let expected = [
        ("access-control-allow-origin", header(request, "origin")),
        ("access-control-allow-methods", header(request, "access-control-request-method")),
        ("access-control-allow-headers", header(request, "access-control-request-headers")),
        ("access-control-allow-credentials", Some("true")),
        ("access-control-max-age", Some("900")),
    ];
    expect_headers(answer, &expected)
}

/// Without these a browser hides the answer from the page, whatever it is.
fn readable(request: &Value, answer: &Answer) -> Result<(), String> {
    let origin = header(request, "origin");
    let credentials = origin.map(|_| "true");
    expect_headers(
        answer,
        &[("access-control-allow-origin", origin), ("access-control-allow-credentials", credentials)],
    )
}

/// Configuration that an SDK reads before it sends anything.
fn page(request: &Value, answer: &Answer) -> Result<(), String> {
    let path = text(request, "path");
    readable(request, answer)?;
    if path.starts_with("/plugins/") {
        // Files of the SDK are not served by a node.
        return expect(answer, 404, None);
    }
    expect(answer, 200, None)?;
    let document: Value = serde_json::from_str(&answer.body).map_err(|error| error.to_string())?;
    let key = write_key(request).unwrap_or_default();
    let needed: &[(&str, Value)] = if path.starts_with("/v1/projects/") {
        &[("/integrations/Segment.io/apiKey", key.into()), ("/integrations/Segment.io/protocol", "http".into())]
    } else {
        &[
            ("/source/id", format!("source-{key}").into()),
            ("/source/name", "App".into()),
            ("/source/writeKey", key.into()),
            ("/source/enabled", true.into()),
            ("/source/workspaceId", "w".into()),
            ("/source/destinations", json!([])),
            ("/source/config/statsCollection/errors/enabled", false.into()),
            ("/source/config/statsCollection/metrics/enabled", false.into()),
        ]
    };
    for (pointer, value) in needed {
        if document.pointer(pointer) != Some(value) {
            return Err(format!("{pointer} is not {value}: {document}"));
        }
    }
    Ok(())
}

fn event(client: &mut Client, request: &Value, case: usize, sent: &mut Vec<Sent>) -> Result<(), String> {
    for (key, status, body) in [(UNKNOWN_KEY, 401, "invalid write key\n"), (DISABLED_KEY, 404, "source is disabled\n")]
    {
        let answer = send(client, request, Some(key))?;
        expect(&answer, status, Some(body))?;
        readable(request, &answer)?;
    }
    let answer = send(client, request, None)?;
    expect(&answer, 200, Some("ok"))?;
    readable(request, &answer)?;
    let body = request.get("body_json").ok_or("the capture has no events")?;
    let events = match body.get("batch").and_then(Value::as_array) {
        Some(batch) => batch.clone(),
        None => vec![body.clone()],
    };
    sent.extend(events.into_iter().map(|event| Sent { case, event }));
    Ok(())
}

/// For every case whose events are not all there once as they were sent, why.
fn differences(sent: &[Sent], stored: Vec<Value>) -> HashMap<usize, String> {
    let mut by_id: HashMap<String, Vec<Value>> = HashMap::new();
    for event in stored {
        by_id.entry(text(&event, "messageId").to_owned()).or_default().push(event);
    }
    let mut wrong = HashMap::new();
    for Sent { case, event } in sent {
        let candidates = by_id.entry(text(event, "messageId").to_owned()).or_default();
        let mut why = "is not in the archive".to_owned();
        let found = candidates.iter().position(|stored| match enriched(event, stored) {
            Ok(()) => true,
            Err(difference) => {
                why = difference;
                false
            }
        });
        match found {
            Some(at) => drop(candidates.remove(at)),
            None => drop(wrong.entry(*case).or_insert(format!("event {}: {why}", text(event, "messageId")))),
        }
    }
    // What nobody sent belongs to the case that sent an event with this id.
    for (id, left) in by_id.into_iter().filter(|(_, left)| !left.is_empty()) {
        let case = sent.iter().find(|sent| text(&sent.event, "messageId") == id).map_or(0, |sent| sent.case);
        wrong.entry(case).or_insert(format!("event {id} is stored {} times too often", left.len()));
    }
    wrong
}

/// Whether the stored event is the sent one with the documented enrichment.
fn enriched(sent: &Value, stored: &Value) -> Result<(), String> {
    let (sent, stored) = (members(sent)?, members(stored)?);
    let text_of = |key: &str| stored.get(key).and_then(Value::as_str).unwrap_or_default();
    if text_of("receivedAt").parse::<Timestamp>().is_err() {
        return Err(format!("receivedAt is {:?}", stored.get("receivedAt")));
    }
    if text_of("request_ip") != "127.0.0.1" {
        return Err(format!("request_ip is {:?}", stored.get("request_ip")));
    }
    if text_of("rudderId").len() != 36 {
        return Err(format!("rudderId is {:?}", stored.get("rudderId")));
    }
    let added = ["receivedAt", "request_ip", "rudderId"];
    for key in sent.keys().chain(stored.keys()).filter(|key| !added.contains(&key.as_str())) {
        if !is_same(sent.get(key), stored.get(key)) {
            return Err(format!("{key} is {:?}, sent was {:?}", stored.get(key), sent.get(key)));
        }
    }
    Ok(())
}

fn members(event: &Value) -> Result<&Map<String, Value>, String> {
    event.as_object().ok_or_else(|| "an event is no object".to_owned())
}

/// Equal as JSON values; `1` and `1.0` are the same number.
fn is_same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a == b || a.as_f64() == b.as_f64(),
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(Some(a), Some(b)))
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.len() == b.len() && a.iter().all(|(key, a)| is_same(Some(a), b.get(key)))
        }
        (a, b) => a == b,
    }
}

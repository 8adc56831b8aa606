//! The routes of the admin API.
//!
//! | route | answer |
//! |---|---|
//! | GET `/healthz` | `ok`: the process answers |
//! | GET `/readyz` | `ready`, or 503 and why no events are accepted |
//! | GET `/metrics` | Prometheus text |
//! | GET `/v1/status` | [`super::NodeStatus`] |
//! | POST `/v1/reload` | [`super::Reloaded`]; 422 when the new settings or workspace are refused |
//! | POST `/v1/send` | a test event through this node's own ingest port |
//! | POST `/v1/destinations/{id}/pause`, `.../resume` | body `{"forSeconds": 7200}` or empty |
//! | GET, POST `/v1/backups` (POST also `/v1/backup`) | snapshots; body `{"tables": true, "archive": true}` or empty |
//! | DELETE `/v1/backups/{name}` | removes a snapshot |
//! | `/internal/...` | as on the ingest port, whatever `Gateway.internalEndpointsEnabled` says (gateway.md 3) |
//! | POST `/v1/dead/list` | [`super::DeadLetters`]; body: a filter (`dead.rs`) or empty |
//! | GET `/v1/dead/{id}` | one dead letter with its payload |
//! | POST `/v1/dead/replay`, `/v1/dead/drop` | [`super::DeadChange`]; body: a filter, or `{"all": true}` |
//! | POST `/v1/process` | records a staging file for the warehouse; empty 200, errors as plain text |
//! | GET `/v1/warehouse/uploads?source_id&destination_id&destination_type&status&limit&offset`, `.../uploads/{id}` | uploads |
//! | POST `/v1/warehouse/uploads/{id}/trigger`, `.../uploads/trigger`, `.../uploads/retry`, `.../retry/count` | uploads begin (again) |
//! | POST `/v1/warehouse/schema/sync`, `.../query`, `.../always` | look at tables again, read them, upload always |
//! | `/internal/v1/warehouse/pending-events`, `.../trigger-upload`, `.../fetch-tables` | as clients of the peer ask |
//! | GET `/v1/live?source=&destination=&type=&user=&status=&after=` | live events behind a number; waits for some |
//! | GET `/v1/trace/{messageId}` | [`super::Trace`] |
//! | GET `/v1/report?seconds=&source=&destination=&stage=&events=` | what became of events, stage by stage |
//!
//! Errors are `{"error", "hint", "where"}`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::server::Caller;
use super::{Deps, backup, dead_routes, events, guard, live, pause, send, staging, status, trace, warehouse};

/// Most bytes of a request body.
const MAX_BODY: usize = 16 << 20;
/// Longest wait for a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) type Answer = Response<Full<Bytes>>;

pub(super) async fn route(deps: &Deps, caller: &Caller, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let decoded: Vec<_> = path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy()).collect();
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    let is =
        |method: &Method| *request.method() == method || (*method == Method::GET && *request.method() == Method::HEAD);
    match segments.as_slice() {
        ["internal", "v1", "warehouse", call @ ("pending-events" | "trigger-upload" | "fetch-tables")] => {
            warehouse::internal(deps, caller, call, request).await
        }
        ["v1", "warehouse", rest @ ..] => warehouse::answer(deps, caller, rest, request).await,
        ["internal", ..] => internal(deps, caller, request).await,
        ["healthz"] if is(&Method::GET) => text(StatusCode::OK, "ok\n"),
        ["readyz"] if is(&Method::GET) => readiness(deps),
        ["metrics"] if is(&Method::GET) => prometheus(deps).await,
        ["v1", "status"] if is(&Method::GET) => current_status(deps).await,
        ["v1", "backups"] if is(&Method::GET) => list_backups(deps).await,
        ["v1", "reload"] if is(&Method::POST) => reload(deps, caller).await,
        ["v1", "backups" | "backup"] if is(&Method::POST) => create_backup(deps, caller, request).await,
        ["v1", "backups", name] if is(&Method::DELETE) => remove_backup(deps, caller, name).await,
        ["v1", "send"] if is(&Method::POST) => send_event(deps, caller, request).await,
        ["v1", "destinations", id, "pause"] if is(&Method::POST) => pause_destination(deps, caller, id, request).await,
        ["v1", "destinations", id, "resume"] if is(&Method::POST) => resume_destination(deps, caller, id).await,
        ["v1", "dead", "list"] if is(&Method::POST) => dead_routes::list(deps, request).await,
        ["v1", "dead", verb @ ("replay" | "drop")] if is(&Method::POST) => {
            dead_routes::change(deps, caller, verb, request).await
        }
        ["v1", "dead", id] if is(&Method::GET) => dead_routes::show(deps, id).await,
        ["v1", "process"] if is(&Method::POST) => staging::process(deps, caller, request).await,
        ["v1", "report"] if is(&Method::GET) => dead_routes::report(deps, request.uri().query()).await,
        ["v1", "trace", id] if is(&Method::GET) => trace::answer(deps, id).await,
        ["v1", "live"] if is(&Method::GET) => live::page(deps, request.uri().query()).await,
        ["healthz" | "readyz" | "metrics"] | ["v1", "status" | "report" | "live"] | ["v1", "trace", _] => {
            method_not_allowed("GET, HEAD")
        }
        ["v1", "backups"] => method_not_allowed("GET, HEAD, POST"),
        ["v1", "reload" | "send" | "backup" | "process"]
        | ["v1", "dead", "list" | "replay" | "drop"]
        | ["v1", "destinations", _, "pause" | "resume"] => method_not_allowed("POST"),
        ["v1", "backups", _] => method_not_allowed("DELETE"),
        _ => error(StatusCode::NOT_FOUND, "not found", "the routes are listed in the README", &path),
    }
}

/// The internal tree. Changes leave an audit line, as all of this API do; events are no change.
async fn internal(deps: &Deps, caller: &Caller, request: Request<Incoming>) -> Answer {
    let changed = (*request.method() != Method::GET).then(|| request.uri().path().to_owned());
    let answer = deps.internal.answer(request).await;
    if let Some(path) = changed.filter(|path| path.ends_with("/suppressions") && answer.status().is_success()) {
        events::changed(&caller.who, "suppress", &path);
    }
    answer
}

fn readiness(deps: &Deps) -> Answer {
    let readiness = deps.vitals.readiness(&deps.jobs.gate().borrow(), deps.config.current().is_some());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, &format!("{}\n", readiness.reason))
}

async fn prometheus(deps: &Deps) -> Answer {
    let (jobs, metrics) = (deps.jobs.clone(), deps.metrics.clone());
    let rendered = tokio::task::spawn_blocking(move || {
        jobs.publish_gauges();
        metrics.render()
    });
    let mut answer = match rendered.await {
        Ok(page) => text(StatusCode::OK, &page),
        Err(failure) => return broken(&failure.to_string()),
    };
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

async fn current_status(deps: &Deps) -> Answer {
    let deps = deps.clone();
    match tokio::task::spawn_blocking(move || status::gather(&deps)).await {
        Ok(status) => json_answer(StatusCode::OK, &status),
        Err(failure) => broken(&failure.to_string()),
    }
}

async fn reload(deps: &Deps, caller: &Caller) -> Answer {
    let (answer, answered) = oneshot::channel();
    let too_busy = || {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "the node does not reload now",
            "it is starting or stopping; try again",
            "",
        )
    };
    if deps.reloads.send_timeout(answer, RELOAD_TIMEOUT).await.is_err() {
        return too_busy();
    }
    match tokio::time::timeout(RELOAD_TIMEOUT, answered).await {
        Ok(Ok(Ok(reloaded))) => {
            events::changed(&caller.who, "reload", "settings and workspace");
            json_answer(StatusCode::OK, &reloaded)
        }
        Ok(Ok(Err(refused))) => {
            let hint = "what was in force before stays in force";
            error(StatusCode::UNPROCESSABLE_ENTITY, &refused, hint, "settings or workspace")
        }
        Ok(Err(_)) | Err(_) => too_busy(),
    }
}

async fn list_backups(deps: &Deps) -> Answer {
    let data_dir = deps.data_dir.clone();
    match tokio::task::spawn_blocking(move || backup::list(&data_dir)).await {
        Ok(Ok(items)) => json_answer(StatusCode::OK, &json!({ "items": items, "next": null, "about": "" })),
        Ok(Err(failure)) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string(), "", ""),
        Err(failure) => broken(&failure.to_string()),
    }
}

async fn create_backup(deps: &Deps, caller: &Caller, request: Request<Incoming>) -> Answer {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let wanted = |name: &str| body.get(name).and_then(Value::as_bool).unwrap_or_default();
    let extent = backup::Extent { tables: wanted("tables"), archive: wanted("archive") };
    let deps = deps.clone();
    match tokio::task::spawn_blocking(move || backup::create(&deps, extent)).await {
        Ok(Ok(manifest)) => {
            events::changed(&caller.who, "backup_create", &manifest.name);
            json_answer(StatusCode::CREATED, &manifest)
        }
        Ok(Err(failure)) => {
            let status = match failure {
                backup::BackupError::TooMany { .. } => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            error(status, &failure.to_string(), "", "snapshots")
        }
        Err(failure) => broken(&failure.to_string()),
    }
}

async fn remove_backup(deps: &Deps, caller: &Caller, name: &str) -> Answer {
    let (data_dir, owned_name) = (deps.data_dir.clone(), name.to_owned());
    match tokio::task::spawn_blocking(move || backup::remove(&data_dir, &owned_name)).await {
        Ok(Ok(())) => {
            events::changed(&caller.who, "backup_remove", name);
            json_answer(StatusCode::OK, &json!({ "removed": name }))
        }
        Ok(Err(failure @ backup::BackupError::Unknown { .. })) => {
            error(StatusCode::NOT_FOUND, &failure.to_string(), "", name)
        }
        Ok(Err(failure)) => error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string(), "", name),
        Err(failure) => broken(&failure.to_string()),
    }
}

async fn send_event(deps: &Deps, caller: &Caller, request: Request<Incoming>) -> Answer {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    match send::send(deps, body).await {
        Ok(sent) => {
            events::changed(&caller.who, "send", &sent.source_id);
            json_answer(StatusCode::OK, &sent)
        }
        Err(failure) => error(failure.status(), &failure.to_string(), failure.hint(), ""),
    }
}

async fn pause_destination(deps: &Deps, caller: &Caller, id: &str, request: Request<Incoming>) -> Answer {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let for_seconds = match body.get("forSeconds") {
        None | Some(Value::Null) => None,
        Some(given) => match given.as_u64().filter(|&seconds| seconds > 0) {
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => {
                return error(StatusCode::BAD_REQUEST, "forSeconds must be a whole number above 0", "", "forSeconds");
            }
        },
    };
    match pause::pause(deps, id, for_seconds).await {
        Ok(pause) => {
            events::changed(&caller.who, "pause", id);
            json_answer(StatusCode::OK, &pause)
        }
        Err(failure) => error(failure.status(), &failure.to_string(), "", id),
    }
}

async fn resume_destination(deps: &Deps, caller: &Caller, id: &str) -> Answer {
    match pause::resume(deps, id).await {
        Ok(was_paused) => {
            events::changed(&caller.who, "resume", id);
            json_answer(StatusCode::OK, &json!({ "destinationId": id, "wasPaused": was_paused }))
        }
        Err(failure) => error(failure.status(), &failure.to_string(), "", id),
    }
}

/// Reads a JSON object; an empty body is an empty object.
pub(super) async fn json_body(request: Request<Incoming>) -> Result<Value, Answer> {
    let is_declared = guard::is_json(&request);
    let declared_length = request.body().size_hint().lower();
    let too_large = || error(StatusCode::PAYLOAD_TOO_LARGE, "the request body is larger than 16 MiB", "", "");
    if declared_length > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut incoming = request.into_body();
    let mut body = BytesMut::new();
    let read = async {
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_| error(StatusCode::BAD_REQUEST, "the request body broke off", "", ""))?;
            if let Some(data) = frame.data_ref() {
                if body.len().saturating_add(data.len()) > MAX_BODY {
                    return Err(too_large());
                }
                body.extend_from_slice(data);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(done) => done?,
        Err(_) => return Err(error(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time", "", "")),
    }
    if body.is_empty() {
        return Ok(json!({}));
    }
    if !is_declared {
        return Err(error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json", "", ""));
    }
    // The parser is built without its own depth bound, so the bound is here.
    if nesting(&body) > 128 {
        return Err(error(StatusCode::BAD_REQUEST, "the request body is nested too deeply", "", ""));
    }
    match serde_json::from_slice::<Value>(&body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(error(StatusCode::BAD_REQUEST, "the request body must be a JSON object", "", "")),
        Err(problem) => {
            Err(error(StatusCode::BAD_REQUEST, &format!("the request body is not JSON: {problem}"), "", ""))
        }
    }
}

/// An upper bound of the depth of a JSON text: brackets inside strings are not counted.
fn nesting(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", "", "");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

pub(super) fn broken(problem: &str) -> Answer {
    tracing::error!(problem, "an admin request failed");
    error(StatusCode::INTERNAL_SERVER_ERROR, "the request failed inside the node", "see the log", "")
}

/// An error in the one shape that all of them have; empty parts are left out.
pub(super) fn error(status: StatusCode, problem: &str, hint: &str, place: &str) -> Answer {
    let mut body = json!({ "error": problem });
    if let Value::Object(members) = &mut body {
        for (name, value) in [("hint", hint), ("where", place)] {
            if !value.is_empty() {
                members.insert(name.to_owned(), Value::from(value));
            }
        }
    }
    json_answer(status, &body)
}

pub(super) fn json_answer<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    let (status, body) = match serde_json::to_vec(value) {
        Ok(body) => (status, body),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, br#"{"error":"the answer cannot be written as JSON"}"#.to_vec()),
    };
    with_type(status, Bytes::from(body), "application/json; charset=utf-8")
}

pub(super) fn text(status: StatusCode, body: &str) -> Answer {
    with_type(status, Bytes::copy_from_slice(body.as_bytes()), "text/plain; charset=utf-8")
}

fn with_type(status: StatusCode, body: Bytes, content_type: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_strings_only() {
        for (text, depth) in
            [(r"{}", 1), (r#"{"a":[[1]]}"#, 3), (r#"{"a":"[[[["}"#, 1), (r#"{"a":"\"[[","b":{}}"#, 2), ("1", 0)]
        {
            assert_eq!(nesting(text.as_bytes()), depth, "{text}");
        }
    }
}

//! Uploads of warehouses: lists, detail, retries, triggers, queries (warehouse.md 16.3, 16.5).
//!
//! `/v1/warehouse/...` is for operators; `/internal/v1/warehouse/...` answers as the peer does.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::Deps;
use super::events;
use super::routes::{Answer, error, json_answer, json_body, text};
use super::server::Caller;
use crate::jobsdb::JobsDbError;
use crate::warehouse::Warehouse;
use crate::warehouse::api::{Retry, UploadFilter};

/// Uploads of one page unless another number is asked for, and at most.
const PAGE: usize = 10;
const MOST_OF_PAGE: usize = 1_000;

pub(super) async fn answer(deps: &Deps, caller: &Caller, rest: &[&str], request: Request<Incoming>) -> Answer {
    let Some(warehouse) = &deps.warehouse else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "warehouses are not loaded by this node", "", "warehouse");
    };
    let is_get = request.method() == Method::GET;
    let done = match rest {
        ["uploads"] if is_get => list(warehouse, request.uri().query().unwrap_or_default()).await,
        ["uploads", "trigger"] if !is_get => trigger(warehouse, caller, request).await,
        ["uploads", "retry"] if !is_get => retry(warehouse, caller, request, true).await,
        ["uploads", "retry", "count"] if !is_get => retry(warehouse, caller, request, false).await,
        ["uploads", id] if is_get => show(warehouse, id).await,
        ["uploads", id, "trigger"] if !is_get => trigger_one(warehouse, caller, id).await,
        ["schema", "sync"] if !is_get => sync_schema(warehouse, caller, request).await,
        ["query"] if !is_get => query(warehouse, caller, request).await,
        ["validate"] if !is_get => return validate(warehouse, request).await,
        ["always"] if !is_get => always(warehouse, caller, request).await,
        _ => return error(StatusCode::NOT_FOUND, "not found", "the routes are listed in the README", &rest.join("/")),
    };
    done.unwrap_or_else(|failure| error(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string(), "", "warehouse"))
}

/// The calls that the peer's clients make.
pub(super) async fn internal(deps: &Deps, caller: &Caller, call: &str, request: Request<Incoming>) -> Answer {
    let Some(warehouse) = &deps.warehouse else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "warehouses are not loaded by this node");
    };
    let wants_upload = request.uri().query().unwrap_or_default().contains("triggerUpload=true");
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let of = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
    let (source, destination, run) = (of("source_id"), of("destination_id"), of("task_run_id"));
    let done = match call {
        "pending-events" => {
            if source.is_empty() || run.is_empty() {
                return text(StatusCode::BAD_REQUEST, "empty source or task run id");
            }
            let pending = warehouse.pending_events(&source, &run).await;
            let is_pending = |pending: &Value| pending.get("pending_events") == Some(&Value::Bool(true));
            if wants_upload && pending.as_ref().is_ok_and(is_pending) && warehouse.trigger(&source, "") == 0 {
                return text(StatusCode::BAD_REQUEST, "no warehouse found");
            }
            pending.map(|pending| json_answer(StatusCode::OK, &pending))
        }
        "trigger-upload" => {
            let found = if destination.is_empty() {
                if source.is_empty() { 0 } else { warehouse.trigger(&source, "") }
            } else {
                warehouse.trigger("", &destination)
            };
            if found == 0 {
                return text(StatusCode::BAD_REQUEST, "no warehouse found");
            }
            events::changed(&caller.who, "warehouse_trigger", &format!("{source} {destination}"));
            Ok(text(StatusCode::OK, ""))
        }
        "fetch-tables" => {
            let wanted = body.get("connections").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut tables = Vec::new();
            for connection in wanted {
                let of = |key: &str| connection.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                match warehouse.known_tables(&of("source_id"), &of("destination_id")).await {
                    Ok(known) => tables.push(known),
                    Err(failure) => return text(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()),
                }
            }
            Ok(json_answer(StatusCode::OK, &json!({ "connections_tables": tables })))
        }
        _ => return text(StatusCode::NOT_FOUND, "404 page not found"),
    };
    done.unwrap_or_else(|failure| text(StatusCode::INTERNAL_SERVER_ERROR, &failure.to_string()))
}

async fn list(warehouse: &Warehouse, query: &str) -> Result<Answer, JobsDbError> {
    let of = |wanted: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == wanted).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let filter = UploadFilter {
        source_id: of("source_id"),
        destination_id: of("destination_id"),
        destination_type: of("destination_type"),
        status: of("status"),
    };
    let limit = of("limit").parse().unwrap_or(PAGE).clamp(1, MOST_OF_PAGE);
    let page = warehouse.uploads(filter, limit, of("offset").parse().unwrap_or(0)).await?;
    Ok(json_answer(StatusCode::OK, &page))
}

fn no_such_sync() -> Answer {
    json_answer(StatusCode::NOT_FOUND, &json!({ "message": "No such sync exist", "status_code": 404 }))
}

fn triggered() -> Answer {
    json_answer(StatusCode::OK, &json!({ "message": "Triggered successfully", "status_code": 200 }))
}

async fn show(warehouse: &Warehouse, id: &str) -> Result<Answer, JobsDbError> {
    let Ok(id) = id.parse() else { return Ok(no_such_sync()) };
    Ok(match warehouse.upload(id).await? {
        Some(upload) => json_answer(StatusCode::OK, &upload),
        None => no_such_sync(),
    })
}

async fn trigger_one(warehouse: &Warehouse, caller: &Caller, id: &str) -> Result<Answer, JobsDbError> {
    let Ok(number) = id.parse() else { return Ok(no_such_sync()) };
    if !warehouse.trigger_upload(number).await? {
        return Ok(no_such_sync());
    }
    events::changed(&caller.who, "warehouse_retry", id);
    Ok(triggered())
}

async fn trigger(warehouse: &Warehouse, caller: &Caller, request: Request<Incoming>) -> Result<Answer, JobsDbError> {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return Ok(refused),
    };
    let of = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    if of("destination_id").is_empty() {
        return Ok(error(StatusCode::BAD_REQUEST, "destination_id is missing", "", "destination_id"));
    }
    if warehouse.trigger(of("source_id"), of("destination_id")) == 0 {
        let message = json!({ "message": "No pending events to sync for this destination", "status_code": 200 });
        return Ok(json_answer(StatusCode::OK, &message));
    }
    events::changed(&caller.who, "warehouse_trigger", of("destination_id"));
    Ok(triggered())
}

async fn retry(
    warehouse: &Warehouse,
    caller: &Caller,
    request: Request<Incoming>,
    does: bool,
) -> Result<Answer, JobsDbError> {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return Ok(refused),
    };
    let of = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ids = body.get("uploadIds").and_then(Value::as_array);
    let asked = Retry {
        filter: UploadFilter {
            source_id: of("sourceId"),
            destination_id: of("destinationId"),
            destination_type: of("destinationType"),
            status: String::new(),
        },
        interval_in_hours: body.get("intervalInHours").and_then(Value::as_i64).unwrap_or(0).max(0),
        upload_ids: ids.into_iter().flatten().filter_map(Value::as_u64).collect(),
        force: body.get("forceRetry").and_then(Value::as_bool).unwrap_or(false),
    };
    let names_one = ["sourceId", "destinationId", "workspaceId"].iter().any(|key| !of(key).is_empty());
    if !names_one || (asked.upload_ids.is_empty() && asked.interval_in_hours == 0) {
        let hint = "give sourceId, destinationId or workspaceId, and uploadIds or intervalInHours";
        return Ok(error(StatusCode::BAD_REQUEST, "the request does not say which uploads", hint, ""));
    }
    let count = warehouse.retry_uploads(asked, does).await?;
    if does {
        events::changed(&caller.who, "warehouse_retry", &format!("{count} uploads"));
    }
    Ok(json_answer(StatusCode::OK, &json!({ "count": count, "status_code": 200 })))
}

async fn sync_schema(
    warehouse: &Warehouse,
    caller: &Caller,
    request: Request<Incoming>,
) -> Result<Answer, JobsDbError> {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return Ok(refused),
    };
    let destination = body.get("destination_id").and_then(Value::as_str).unwrap_or_default();
    let count = warehouse.look_at_schema_again(destination).await?;
    events::changed(&caller.who, "warehouse_schema", destination);
    Ok(json_answer(StatusCode::OK, &json!({ "count": count })))
}

async fn validate(warehouse: &Warehouse, request: Request<Incoming>) -> Answer {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let of = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let only = match of("step") {
        "" => None,
        step => match step.parse() {
            Ok(step) => Some(step),
            Err(_) => return error(StatusCode::BAD_REQUEST, &format!("Invalid step: {step}"), "", "step"),
        },
    };
    let given = body.pointer("/destination/id").and_then(Value::as_str);
    let destination = given.unwrap_or(of("destination_id"));
    match warehouse.validate(destination, of("path") != "steps", only).await {
        Some(answer) => json_answer(StatusCode::OK, &answer),
        None => error(StatusCode::NOT_FOUND, "no warehouse with a source has this id", "", destination),
    }
}

async fn always(warehouse: &Warehouse, caller: &Caller, request: Request<Incoming>) -> Result<Answer, JobsDbError> {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return Ok(refused),
    };
    let is_on = body.get("on").and_then(Value::as_bool).unwrap_or(false);
    warehouse.always(is_on);
    events::changed(&caller.who, "warehouse_always", if is_on { "on" } else { "off" });
    Ok(json_answer(StatusCode::OK, &json!({ "on": is_on })))
}

async fn query(warehouse: &Warehouse, caller: &Caller, request: Request<Incoming>) -> Result<Answer, JobsDbError> {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) => return Ok(refused),
    };
    let of = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    events::changed(&caller.who, "warehouse_query", of("destination_id"));
    Ok(match warehouse.query(of("destination_id"), of("statement")).await {
        Ok(rows) => json_answer(StatusCode::OK, &json!({ "columns": rows.columns, "rows": rows.rows })),
        Err(problem) => error(StatusCode::UNPROCESSABLE_ENTITY, &problem, "", of("destination_id")),
    })
}

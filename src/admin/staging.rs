//! `POST /v1/process`: somebody else made a staging file and the warehouse is to load it (warehouse.md 16.1).
//!
//! Keys are matched without case, absent and null members are empty, errors are plain text: as clients of the peer
//! expect. The 200 is an acknowledgement: it waits for the disk.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Map, Value};

use super::Deps;
use super::events;
use super::routes::{Answer, json_body, text};
use super::server::Caller;
use crate::jobsdb::{Durability, StagingFile, Tx};

/// Members of a staging file whose keys are not free.
const KEYS: [&str; 19] = [
    "WorkspaceID",
    "Schema",
    "BatchDestination",
    "Source",
    "Destination",
    "ID",
    "Location",
    "FirstEventAt",
    "LastEventAt",
    "TotalEvents",
    "TotalBytes",
    "BytesPerTable",
    "UseRudderStorage",
    "DestinationRevisionID",
    "SourceTaskRunID",
    "SourceJobID",
    "SourceJobRunID",
    "TimeWindow",
    "ServerInstanceID",
];

pub(super) async fn process(deps: &Deps, caller: &Caller, request: Request<Incoming>) -> Answer {
    let body = match json_body(request).await {
        Ok(body) => body,
        Err(refused) if refused.status() == StatusCode::BAD_REQUEST => return invalid("invalid JSON in request body"),
        Err(refused) => return refused,
    };
    let file = match read(body) {
        Ok(file) => file,
        Err(problem) => return invalid(&problem),
    };
    let mut tx = Tx::new(Durability::Durable);
    let id = deps.jobs.stage(&mut tx, &file);
    match deps.jobs.commit(tx).await {
        Ok(_) => {
            events::changed(&caller.who, "staging_file", &id.to_string());
            text(StatusCode::OK, "")
        }
        Err(error) => {
            tracing::error!(%error, "a staging file cannot be recorded");
            text(StatusCode::INTERNAL_SERVER_ERROR, "can't insert staging file")
        }
    }
}

fn invalid(problem: &str) -> Answer {
    text(StatusCode::BAD_REQUEST, problem)
}

fn read(body: Value) -> Result<StagingFile, String> {
    let file: StagingFile =
        serde_json::from_value(spelled(body)).map_err(|_| "invalid JSON in request body".to_owned())?;
    let connection = &file.batch_destination;
    let required = [
        ("workspaceId", file.workspace_id.is_empty()),
        ("location", file.location.is_empty()),
        ("batchDestination.source.id", connection.source.id.is_empty()),
        ("batchDestination.destination.id", connection.destination.id.is_empty()),
        ("schema", file.schema.is_empty()),
    ];
    match required.into_iter().find(|(_, is_missing)| *is_missing) {
        Some((name, _)) => Err(format!("invalid payload: {name} is required")),
        None => Ok(file),
    }
}

/// The same with keys as the record spells them. Names of tables and columns are left alone.
fn spelled(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let mut spelled = Map::new();
    for (key, value) in members {
        let Some(known) = KEYS.into_iter().find(|known| known.eq_ignore_ascii_case(&key)) else { continue };
        let is_nested = matches!(known, "BatchDestination" | "Source" | "Destination");
        let value = if is_nested { self::spelled(value) } else { value };
        if !value.is_null() {
            spelled.insert(known.to_owned(), value);
        }
    }
    Value::Object(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn body() -> Value {
        json!({
            "workspaceid": "w", "SCHEMA": { "Tracks": { "Id": "string" } }, "location": "a/b.json.gz", "Unknown": 1,
            "batchDestination": { "source": { "id": "s" }, "Destination": { "ID": "d" } },
            "FirstEventAt": null, "TotalEvents": 3, "BytesPerTable": { "Tracks": 9 }, "useRudderStorage": true,
        })
    }

    #[test]
    fn a_staging_file_is_read_whatever_the_case_of_its_keys() {
        let file = read(body()).unwrap();
        assert_eq!((file.workspace_id.as_str(), file.location.as_str(), file.total_events), ("w", "a/b.json.gz", 3));
        assert_eq!(file.batch_destination.source.id, "s");
        assert_eq!(file.batch_destination.destination.id, "d");
        assert_eq!(Value::from(file.schema), json!({ "Tracks": { "Id": "string" } }));
        assert!(file.use_rudder_storage && file.first_event_at.is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        for (key, expected) in [
            ("workspaceid", "invalid payload: workspaceId is required"),
            ("location", "invalid payload: location is required"),
            ("batchDestination", "invalid payload: batchDestination.source.id is required"),
            ("SCHEMA", "invalid payload: schema is required"),
        ] {
            let mut body = body();
            body.as_object_mut().unwrap().remove(key);
            assert_eq!(read(body).unwrap_err(), expected);
        }
        let mut without = body();
        without["batchDestination"]["Destination"] = json!({});
        assert_eq!(read(without).unwrap_err(), "invalid payload: batchDestination.destination.id is required");
        let mut odd = body();
        odd["TotalEvents"] = json!("many");
        assert_eq!(read(odd).unwrap_err(), "invalid JSON in request body");
    }
}

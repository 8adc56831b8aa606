//! Types whose events share calls that the router makes of them: LAMBDA, GOOGLE_CLOUD_FUNCTION, BQSTREAM,
//! GOOGLESHEETS (destinations.md 12.7, router.md 17 and 18).
//!
//! In: one event, or those of a batch in order. Out: the payload of the type's client; joined payloads hold the events
//! in order.

use serde_json::{Map, Value, json};

use super::dotted_path::{is_truthy_value, value_anywhere};
use super::message::Message;
use super::refusal::Refusal;
use super::routed::Routed;
use crate::backend_config::Destination;

/// Most bytes of one LAMBDA call.
const LAMBDA_BYTES: usize = 256 << 10;
/// Events of one call to a function where nothing else is configured.
const USUAL_BATCH: usize = 10;
/// Rows of one insertion into a table.
const TABLE_ROWS: usize = 500;

/// Types that are joined here.
pub(super) const TYPES: [&str; 4] = ["LAMBDA", "GOOGLE_CLOUD_FUNCTION", "BQSTREAM", "GOOGLESHEETS"];

/// One destination of these types, its configuration read once.
#[derive(Clone, Debug)]
pub(super) enum Calls {
    /// LAMBDA: the configuration of the call in JSON, and how many events it takes.
    Lambda { call: String, batch: Option<usize> },
    /// GOOGLE_CLOUD_FUNCTION: what is wrong with the configuration, and how many events a call takes.
    Function { fault: Option<&'static str>, batch: Option<usize> },
    /// BQSTREAM.
    Table { place: Map<String, Value>, insert_id: Option<String> },
    /// GOOGLESHEETS: the sheet and its columns: where a value is, and what the column is called.
    Sheet { id: Value, name: String, columns: Vec<(String, String)> },
}

/// What one event adds to a call, in JSON.
type Part = String;

impl Calls {
    pub(super) fn of(type_name: &str, destination: &Destination) -> Option<Calls> {
        let config = &destination.config;
        let text = |key: &str| config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        Some(match type_name {
            "LAMBDA" => {
                let mut call = Map::from_iter([("invocationType".to_owned(), "Event".into())]);
                for key in ["lambda", "clientContext"] {
                    if let Some(value) = config.get(key) {
                        call.insert(key.to_owned(), value.clone());
                    }
                }
                Calls::Lambda { call: Value::Object(call).to_string(), batch: batch_size(config) }
            }
            "GOOGLE_CLOUD_FUNCTION" => {
                let needs_account = config.get("requireAuthentication") == Some(&Value::Bool(true));
                let fault = if text("googleCloudFunctionUrl").is_none() {
                    Some("[GCF]:: Url not found. Aborting")
                } else if needs_account && text("credentials").is_none() {
                    Some(
                        "[GCF]:: Service Account credentials are required if your function required authentication. \
                         Aborting",
                    )
                } else {
                    None
                };
                Calls::Function { fault, batch: batch_size(config) }
            }
            "BQSTREAM" => {
                let keys = ["datasetId", "tableId", "projectId"];
                let member = |key: &str| Some((key.to_owned(), config.get(key)?.clone()));
                Calls::Table {
                    place: keys.into_iter().filter_map(member).collect(),
                    insert_id: text("insertId").map(str::to_owned),
                }
            }
            "GOOGLESHEETS" => {
                let rows = config.get("eventKeyMap").and_then(Value::as_array).into_iter().flatten();
                let column = |row: &Value| {
                    let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
                    (text("from"), text("to"))
                };
                Calls::Sheet {
                    id: config.get("sheetId").cloned().unwrap_or_default(),
                    name: text("sheetName").unwrap_or_default().to_owned(),
                    columns: rows.map(column).filter(|(from, _)| !from.is_empty()).collect(),
                }
            }
            _ => return None,
        })
    }

    /// Whether it is worth waiting for more events.
    pub(super) fn joins_events(&self) -> bool {
        match self {
            Calls::Lambda { batch, .. } | Calls::Function { batch, .. } => batch.is_some(),
            Calls::Table { .. } | Calls::Sheet { .. } => true,
        }
    }

    /// The payload of one event alone.
    ///
    /// # Errors
    /// [`Refusal`] when the type does not take the event.
    pub(super) fn transform(&self, message: &Message<'_>) -> Result<Vec<u8>, Refusal> {
        let part = self.part(message)?;
        Ok(match self {
            Calls::Lambda { call, .. } => lambda_payload(&part, call),
            Calls::Function { .. } => part.into_bytes(),
            Calls::Table { place, .. } => table_payload(place, &part),
            Calls::Sheet { id, name, .. } => sheet_payload(id, name, &part),
        })
    }

    /// What the events become: joined calls first, then the refused events.
    pub(super) fn route(&self, events: &[Message<'_>]) -> Vec<Routed> {
        let mut parts = Vec::new();
        let mut refused = Vec::new();
        for (place, event) in events.iter().enumerate() {
            match self.part(event) {
                Ok(part) => parts.push((place, part)),
                Err(refusal) => refused.push(Routed::alone(place, Err(refusal))),
            }
        }
        let (most, most_bytes, says_so) = match self {
            Calls::Lambda { batch, .. } => (batch.unwrap_or(0), LAMBDA_BYTES, false),
            Calls::Function { batch, .. } => (batch.unwrap_or(0), usize::MAX, true),
            Calls::Table { .. } => (TABLE_ROWS, usize::MAX, true),
            Calls::Sheet { .. } => (usize::MAX, usize::MAX, true),
        };
        let mut routed = Vec::new();
        if most == 0 {
            for (place, part) in parts {
                let payload = match self {
                    Calls::Lambda { call, .. } => lambda_payload(&part, call),
                    _ => part.into_bytes(),
                };
                routed.push(Routed::alone(place, Ok(payload)));
            }
        } else {
            for chunk in chunks(&parts, most, most_bytes) {
                let places = chunk.iter().map(|(place, _)| *place).collect();
                let parts: Vec<&str> = chunk.iter().map(|(_, part)| part.as_str()).collect();
                let list = format!("[{}]", parts.join(","));
                let payload = match self {
                    Calls::Lambda { call, .. } => lambda_payload(&list, call),
                    Calls::Function { .. } => list.into_bytes(),
                    Calls::Table { place, .. } => table_payload(place, &list),
                    Calls::Sheet { id, name, .. } => sheet_payload(id, name, &list),
                };
                routed.push(Routed { places, payload: Ok(payload), is_batch: says_so });
            }
        }
        routed.extend(refused);
        routed
    }

    fn part(&self, message: &Message<'_>) -> Result<Part, Refusal> {
        match self {
            Calls::Lambda { .. } => {
                let event = message.to_json();
                if event.len() > LAMBDA_BYTES {
                    return Err(Refusal::instrumentation("payload size limit exceeded"));
                }
                Ok(event)
            }
            Calls::Function { fault: Some(fault), .. } => Err(Refusal::configuration(fault)),
            Calls::Function { .. } => Ok(message.to_json()),
            Calls::Table { insert_id, .. } => row(message, insert_id.as_deref()),
            Calls::Sheet { name, columns, .. } => cells(message, name, columns),
        }
    }
}

/// Events of a call, if events are joined at all.
fn batch_size(config: &Map<String, Value>) -> Option<usize> {
    if config.get("enableBatchInput") != Some(&Value::Bool(true)) {
        return None;
    }
    let size = match config.get("maxBatchSize") {
        Some(Value::String(text)) => text.trim().parse::<usize>().ok(),
        Some(Value::Number(number)) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        _ => None,
    };
    Some(size.filter(|size| *size > 0).unwrap_or(USUAL_BATCH))
}

fn lambda_payload(payload: &str, call: &str) -> Vec<u8> {
    format!("{{\"payload\":{},\"destConfig\":{call}}}", Value::from(payload)).into_bytes()
}

fn table_payload(place: &Map<String, Value>, rows: &str) -> Vec<u8> {
    let mut out = String::from("{");
    for (key, value) in place {
        out.push_str(&Value::from(key.as_str()).to_string());
        out.push(':');
        out.push_str(&value.to_string());
        out.push(',');
    }
    out.push_str("\"properties\":");
    out.push_str(rows);
    out.push('}');
    out.into_bytes()
}

fn sheet_payload(id: &Value, name: &str, batch: &str) -> Vec<u8> {
    format!("{{\"batch\":{batch},\"spreadSheetId\":{id},\"spreadSheet\":{}}}", Value::from(name)).into_bytes()
}

/// The row that an event is for a table.
fn row(message: &Message<'_>, insert_id: Option<&str>) -> Result<Part, Refusal> {
    let kind = message.text("type").unwrap_or_default();
    if !kind.eq_ignore_ascii_case("track") {
        return Err(Refusal::instrumentation(&format!("Message Type not supported: {kind}")));
    }
    let Some(properties) = message.object("properties") else {
        return Err(Refusal::instrumentation("Invalid payload for the destination"));
    };
    let Some(id) = insert_id.and_then(|key| properties.get(key)).filter(|json| super::message::is_truthy(json)) else {
        return Ok(properties.to_json());
    };
    let id = super::message::text_or_json(id).into_owned();
    let mut row = properties.clone();
    row.set("insertId", Value::from(id).to_string());
    Ok(row.to_json())
}

/// The row that an event is for a sheet.
fn cells(message: &Message<'_>, sheet: &str, columns: &[(String, String)]) -> Result<Part, Refusal> {
    if sheet.is_empty() {
        return Err(Refusal::configuration("No Spread Sheet set for this event"));
    }
    let event = message.to_tree().map_err(|error| Refusal::instrumentation(&error.to_string()))?;
    let message_id = ("messageId".to_owned(), "messageId".to_owned());
    let mut cells = Map::new();
    for (place, (from, to)) in std::iter::once(&message_id).chain(columns).enumerate() {
        let value = value_anywhere(&event, from, is_truthy_value).cloned().unwrap_or_else(|| "".into());
        cells.insert(place.to_string(), json!({ "attributeKey": to, "attributeValue": value }));
    }
    Ok(json!({ "message": cells }).to_string())
}

/// Runs of parts that are no longer than `most` and no heavier than `most_bytes`, if more than one.
fn chunks(parts: &[(usize, Part)], most: usize, most_bytes: usize) -> Vec<&[(usize, Part)]> {
    let mut chunks = Vec::new();
    let mut rest = parts;
    while !rest.is_empty() {
        let (mut taken, mut bytes) = (0, 0_usize);
        for (_, part) in rest.iter().take(most) {
            bytes = bytes.saturating_add(part.len() + 1);
            if taken > 0 && bytes > most_bytes {
                break;
            }
            taken += 1;
        }
        let (chunk, left) = rest.split_at(taken.max(1).min(rest.len()));
        chunks.push(chunk);
        rest = left;
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(type_name: &str, config: Value) -> Calls {
        let destination = Destination { config: config.as_object().cloned().unwrap(), ..Destination::default() };
        Calls::of(type_name, &destination).unwrap()
    }

    fn route(calls: &Calls, events: &[Value]) -> Vec<(Vec<usize>, Result<Value, String>, bool)> {
        let texts: Vec<String> = events.iter().map(Value::to_string).collect();
        let messages: Vec<Message<'_>> = texts.iter().map(|text| Message::parse(text).unwrap()).collect();
        let shown = |routed: Routed| {
            let payload = routed.payload.map(|payload| serde_json::from_slice(&payload).unwrap());
            (routed.places, payload.map_err(|refusal| refusal.message), routed.is_batch)
        };
        calls.route(&messages).into_iter().map(shown).collect()
    }

    #[test]
    fn a_lambda_call_holds_as_many_events_as_are_allowed_by_number_and_bytes() {
        let config = json!({ "lambda": "f", "enableBatchInput": true, "maxBatchSize": "3" });
        let calls = calls("LAMBDA", config);
        let long = |bytes: usize| json!({ "x": "y".repeat(bytes) });
        let routed = route(&calls, &[json!({}), long(200_000), long(100_000), json!({ "a": 1 }), long(300_000)]);
        let places: Vec<Vec<usize>> = routed.iter().map(|(places, ..)| places.clone()).collect();
        assert_eq!(places, [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(routed[2].1, Err("payload size limit exceeded".to_owned()));
        let second = routed[1].1.as_ref().unwrap();
        assert!(second["payload"].as_str().unwrap().ends_with(",{\"a\":1}]"));
        assert_eq!(second["destConfig"], json!({ "invocationType": "Event", "lambda": "f" }));
    }

    #[test]
    fn a_function_without_batch_input_is_called_once_per_event() {
        let calls = calls("GOOGLE_CLOUD_FUNCTION", json!({ "googleCloudFunctionUrl": "https://f.example" }));
        assert!(!calls.joins_events());
        let expected = vec![(vec![0], Ok(json!({ "a": 1 })), false), (vec![1], Ok(json!({ "b": 2 })), false)];
        assert_eq!(route(&calls, &[json!({ "a": 1 }), json!({ "b": 2 })]), expected);
    }

    #[test]
    fn rows_of_a_table_carry_the_configured_id() {
        let calls = calls("BQSTREAM", json!({ "projectId": "p", "datasetId": "d", "tableId": "t", "insertId": "n" }));
        let track = |n: i64| json!({ "type": "track", "properties": { "n": n } });
        let routed = route(&calls, &[track(1), json!({ "type": "page" }), track(2)]);
        let rows = json!([{ "n": 1, "insertId": "1" }, { "n": 2, "insertId": "2" }]);
        let expected = json!({ "datasetId": "d", "tableId": "t", "projectId": "p", "properties": rows });
        assert_eq!(routed[0], (vec![0, 2], Ok(expected), true));
        assert_eq!(routed[1], (vec![1], Err("Message Type not supported: page".to_owned()), false));
    }
}

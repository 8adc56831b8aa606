//! Vectors of the rows of warehouses: pure calls of the rules of names, types and tables.

use std::path::Path;

use serde_json::{Map, Value, json};

use pintle::destination::Message;
use pintle::destination::warehouse::{Dialect, Envelope, Naming, RowSettings, WarehousePlan, datetime, safe_namespace};

use crate::report::CaseResult;

/// Runs the cases one by one.
pub fn run(cases: &[Value], _folder: &Path) -> Vec<CaseResult> {
    cases.iter().map(run_case).collect()
}

fn run_case(case: &Value) -> CaseResult {
    let id = case["id"].as_str().or_else(|| case["name"].as_str()).unwrap_or_default();
    let kind = case["kind"].as_str().unwrap_or_default();
    let found = match kind {
        "event" => event(case),
        "column_name" => column_name(case),
        "table_name" => Ok(table_name(case)),
        "namespace" => namespace(case),
        "timestamp" => Ok(timestamp(case)),
        _ => Err(format!("unknown kind {kind:?}")),
    };
    match found {
        Ok(found) => match difference(&case["expect"], &found, "") {
            None => CaseResult::passed(id, kind),
            Some(difference) => CaseResult::failed(id, kind, difference),
        },
        Err(reason) => CaseResult::failed(id, kind, reason),
    }
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

fn dialect(case: &Value) -> Result<Dialect, String> {
    let destination_type = text(case, "destType");
    Dialect::of_type(destination_type).ok_or_else(|| format!("{destination_type} is no warehouse"))
}

fn naming(case: &Value, dialect: Dialect) -> Naming {
    let is_true = |key: &str| case["config"][key] == true;
    Naming {
        dialect,
        divides_numbers: is_true("underscoreDivideNumbers"),
        keeps_words_together: is_true("useBlendoCasing"),
        keeps_reserved_words: false,
    }
}

fn column_name(case: &Value) -> Result<Value, String> {
    let naming = naming(case, dialect(case)?);
    let transformed = naming.transform_column(text(case, "input"));
    let safe = (!transformed.is_empty()).then(|| naming.safe(transformed.clone()));
    Ok(json!({ "transformed": transformed, "safe": safe }))
}

fn table_name(case: &Value) -> Value {
    json!({ "value": naming(case, Dialect::Redshift).transform_table(text(case, "input")) })
}

fn namespace(case: &Value) -> Result<Value, String> {
    let keeps_words_together = case["config"]["skipNamespaceSnakeCasing"] == true;
    Ok(json!({ "value": safe_namespace(dialect(case)?, text(case, "input"), keeps_words_together) }))
}

fn timestamp(case: &Value) -> Value {
    let normal = datetime::normal_form(text(case, "input"));
    json!({ "valid": normal.is_some(), "value": normal })
}

fn event(case: &Value) -> Result<Value, String> {
    let (server, metadata) = (&case["server"], &case["metadata"]);
    let no_config = Map::new();
    let config = case["config"].as_object().unwrap_or(&no_config);
    let plan = WarehousePlan::new(text(case, "destType"), config).ok_or("no warehouse")?;
    let settings = RowSettings {
        resolves_identities: server["enableIDResolution"] == true,
        puts_source_in_context: server["populateSrcDestInfoInContext"] == true,
        most_columns: server["maxColumnsInEvent"].as_u64().and_then(|most| usize::try_from(most).ok()).ok_or("most")?,
    };
    let now = || text(server, "now").to_owned();
    let new_id = || text(server, "uuid").to_owned();
    let envelope = Envelope {
        source_id: text(metadata, "sourceId"),
        source_type: text(metadata, "sourceType"),
        source_category: text(metadata, "sourceCategory"),
        destination_id: text(metadata, "destinationId"),
        destination_type: text(metadata, "destinationType"),
        received_at: text(metadata, "receivedAt"),
        now: &now,
        new_id: &new_id,
    };
    let stored = case["message"].to_string();
    let message = Message::parse(&stored).map_err(|error| error.to_string())?;
    let rows = match plan.rows(&message, &envelope, &settings) {
        Ok(rows) => rows,
        Err(refused) => return Ok(json!({ "error": { "message": refused.to_string(), "status": refused.status() } })),
    };
    let mut found = Vec::new();
    for row in rows {
        let line: Value = serde_json::from_slice(&row.to_json()).map_err(|error| error.to_string())?;
        let mut metadata = line["metadata"].as_object().cloned().unwrap_or_default();
        let (table, columns) = (metadata.remove("table"), metadata.remove("columns"));
        found.push(json!({ "table": table, "columns": columns, "data": line["data"], "metadata": metadata }));
    }
    Ok(json!({ "rows": found }))
}

/// Where two values differ. Numbers are compared as numbers, texts that are JSON containers as JSON.
fn difference(expected: &Value, found: &Value, place: &str) -> Option<String> {
    match (expected, found) {
        (Value::Object(one), Value::Object(other)) => {
            let keys = one.keys().chain(other.keys().filter(|key| !one.contains_key(*key)));
            let mut differences = keys.filter_map(|key| {
                let place = format!("{place}.{key}");
                match (one.get(key), other.get(key)) {
                    (Some(one), Some(other)) => difference(one, other, &place),
                    (Some(one), None) => Some(format!("{place}: expected {one}, found nothing")),
                    (None, other) => Some(format!("{place}: expected nothing, found {}", json!(other))),
                }
            });
            differences.next()
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => one
            .iter()
            .zip(other)
            .enumerate()
            .find_map(|(at, (one, other))| difference(one, other, &format!("{place}[{at}]"))),
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => None,
        (Value::String(one), Value::String(other)) if one != other => match (container(one), container(other)) {
            (Some(one), Some(other)) => difference(&one, &other, place),
            _ => Some(format!("{place}: expected {expected}, found {found}")),
        },
        _ if expected == found => None,
        _ => Some(format!("{place}: expected {expected}, found {found}")),
    }
}

fn container(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
}

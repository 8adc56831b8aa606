//! Rows for tables of BigQuery and for sheets (router.md 18).

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::caller::{NoReply, Reply};
use super::super::fault::Fault;
use super::account::Purpose;
use super::{Setup, TOO_LATE, said};

const TABLE_SCOPE: &str = "https://www.googleapis.com/auth/bigquery.insertdata";
const SHEET_SCOPE: &str = "https://www.googleapis.com/auth/spreadsheets";

#[derive(Deserialize)]
struct Insertion {
    properties: Value,
}

/// Puts one row or several into the table.
pub(super) async fn insert(setup: &Setup, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
    let Insertion { properties } = serde_json::from_slice(payload)
        .map_err(|error| Fault::Payload(format!("[BQStream] error in unmarshalling data: {error}")))?;
    let rows = match properties {
        Value::Array(rows) => rows,
        row => vec![row],
    };
    let row = |mut json: Value| {
        let id = json.as_object_mut().and_then(|members| members.shift_remove("insertId"));
        match id {
            Some(id) => json!({ "insertId": id, "json": json }),
            None => json!({ "json": json }),
        }
    };
    let body = json!({ "rows": rows.into_iter().map(row).collect::<Vec<_>>() }).to_string();
    let path = "/bigquery/v2/projects/{}/datasets/{}/tables/{}/insertAll";
    let url = setup.url(path, &[&setup.project, &setup.dataset, &setup.table])?;
    let reply = setup.call(Method::POST, url, Purpose::Access(TABLE_SCOPE), body.into(), timeout).await?;
    let reply = reply.map_err(late)?;
    if reply.status != 200 {
        let (status, text) = said(&reply);
        let text = format!("[BQStream] {status}: {text}");
        let is_servers = reply.status >= 500 || reply.status == 429;
        return Err(if is_servers { Fault::Server(text) } else { Fault::Answered { code: 400, text } });
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    match body.get("insertErrors").and_then(Value::as_array).filter(|errors| !errors.is_empty()) {
        Some(errors) => Err(Fault::Payload(format!("[BQStream] rows are refused: {}", Value::from(errors.clone())))),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct Rows {
    batch: Value,
    #[serde(rename = "spreadSheet")]
    sheet: String,
}

/// Appends one row or several to the sheet, whose header is written first, once per client.
pub(super) async fn append(
    setup: &Setup,
    payload: &[u8],
    has_header: &tokio::sync::Mutex<bool>,
    timeout: Duration,
) -> Result<(), Fault> {
    let Rows { batch, sheet } = serde_json::from_slice(payload)
        .map_err(|error| Fault::Payload(format!("[GoogleSheets] error in unmarshalling data: {error}")))?;
    let items = match batch {
        Value::Array(items) => items,
        item => vec![item],
    };
    let rows: Vec<Vec<Value>> = items.iter().filter_map(|item| item.get("message")?.as_object()).map(cells).collect();
    {
        let mut has_header = has_header.lock().await;
        if !*has_header {
            let mut names = vec![Value::from("messageId")];
            names.extend(setup.columns.iter().map(|column| Value::from(column.as_str())));
            let path = "/v4/spreadsheets/{}/values/{}?valueInputOption=RAW";
            let url = setup.url(path, &[&setup.sheet, &format!("{sheet}!A1")])?;
            write(setup, Method::PUT, url, &[names], timeout).await?;
            *has_header = true;
        }
    }
    let path = "/v4/spreadsheets/{}/values/{}:append?valueInputOption=RAW&insertDataOption=INSERT_ROWS";
    let url = setup.url(path, &[&setup.sheet, &format!("{sheet}!A1")])?;
    write(setup, Method::POST, url, &rows, timeout).await
}

async fn write(
    setup: &Setup,
    method: Method,
    url: reqwest::Url,
    rows: &[Vec<Value>],
    timeout: Duration,
) -> Result<(), Fault> {
    let body = json!({ "majorDimension": "ROWS", "values": rows }).to_string();
    let reply: Reply =
        setup.call(method, url, Purpose::Access(SHEET_SCOPE), body.into(), timeout).await?.map_err(late)?;
    if reply.status == 200 {
        return Ok(());
    }
    let (status, text) = said(&reply);
    Err(Fault::Answered { code: i32::from(reply.status), text: format!("[GoogleSheets] {status}: {text}") })
}

/// The values of a row in the order of their columns. What is no plain value is written as JSON.
fn cells(columns: &Map<String, Value>) -> Vec<Value> {
    let mut cells: Vec<(usize, Value)> = columns
        .iter()
        .filter_map(|(place, cell)| Some((place.parse().ok()?, cell.get("attributeValue").cloned()?)))
        .collect();
    cells.sort_by_key(|(place, _)| *place);
    let plain = |value: Value| match value {
        Value::Array(_) | Value::Object(_) => Value::from(value.to_string()),
        other => other,
    };
    cells.into_iter().map(|(_, value)| plain(value)).collect()
}

fn late(why: NoReply) -> Fault {
    match why {
        NoReply::TooLate(limit) => Fault::Answered { code: TOO_LATE, text: format!("no answer within {limit:?}") },
        other => other.into(),
    }
}

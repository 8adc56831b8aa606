//! What a transformer said became of events (processor.md 7.2, 9.2).

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it came from.
    pub place: Place,
    /// 200, 298 (filtered) or why it failed.
    pub status: u16,
    /// What came out, a JSON text; with status 200 only.
    pub output: Option<String>,
    /// Why it failed.
    pub error: String,
}

/// The events behind a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One that was asked about.
    Given(usize),
    /// One that the code made, with this message id.
    Fresh(String),
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(rename = "statusCode", default)]
    status: Value,
    #[serde(default)]
    error: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "jobId")]
    job_id: Value,
    #[serde(rename = "messageId")]
    message_id: Value,
    #[serde(rename = "messageIds")]
    message_ids: Option<Vec<Value>>,
}

/// Longest error that is kept.
const LONGEST_ERROR: usize = 10 * 1024;

/// Reads an answer about events with these job ids and message ids.
///
/// # Errors
/// It is not a list of results.
pub fn read(body: &[u8], asked: &[(u64, &str)]) -> Result<Vec<Item>, String> {
    let written: Vec<Written<'_>> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut by_both: HashMap<(u64, &str), usize> = HashMap::new();
    let mut by_message: HashMap<&str, usize> = HashMap::new();
    // Of events with one id the first counts.
    for (at, (job_id, message_id)) in asked.iter().enumerate().rev() {
        by_both.insert((*job_id, message_id), at);
        by_message.insert(message_id, at);
    }
    let place = |job_id: Option<u64>, message_id: &str| {
        let known = job_id.and_then(|job_id| by_both.get(&(job_id, message_id)));
        known.or_else(|| by_message.get(message_id)).copied()
    };
    let mut items = Vec::with_capacity(written.len());
    for result in written {
        let Written { output, metadata, status, error } = result;
        let (status, output, error) = verdict(&status, output, &error);
        let mut add = |place| items.push(Item { place, status, output: output.clone(), error: error.clone() });
        let several: Vec<usize> =
            metadata.message_ids.iter().flatten().filter_map(Value::as_str).filter_map(|id| place(None, id)).collect();
        let message_id = metadata.message_id.as_str().unwrap_or_default();
        match place(metadata.job_id.as_u64(), message_id) {
            // A failure of a group is one of each of its events.
            _ if status != 200 && !several.is_empty() => {
                for at in several {
                    add(Place::Given(at));
                }
            }
            Some(at) => add(Place::Given(at)),
            None => add(Place::Fresh(message_id.to_owned())),
        }
    }
    Ok(items)
}

fn verdict(status: &Value, output: Option<&RawValue>, error: &Value) -> (u16, Option<String>, String) {
    let told = match error {
        Value::Null => String::new(),
        Value::String(text) => shortened(text),
        other => shortened(&other.to_string()),
    };
    let Some(status) = status.as_u64().and_then(|status| u16::try_from(status).ok()).filter(|status| *status > 0)
    else {
        return (500, None, "the transformer gave no statusCode".to_owned());
    };
    if status != 200 {
        return (status, None, told);
    }
    match output.map(RawValue::get).filter(|output| output.starts_with('{') || output.starts_with('[')) {
        Some(output) => (200, Some(output.to_owned()), told),
        None => (500, None, "the transformer gave no output".to_owned()),
    }
}

/// The text, no longer than errors may be.
pub(super) fn shortened(text: &str) -> String {
    let mut end = text.len().min(LONGEST_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> Vec<(Place, u16, Option<String>, String)> {
        let asked = [(1, "a"), (1, "b"), (2, "a")];
        let items = read(body.as_bytes(), &asked).unwrap();
        items.into_iter().map(|item| (item.place, item.status, item.output, item.error)).collect()
    }

    #[test]
    fn results_belong_to_the_events_that_they_name() {
        let ok = |place, output: &str| (place, 200, Some(output.to_owned()), String::new());
        let failed = |at, error: &str| (Place::Given(at), 400, None, error.to_owned());
        assert_eq!(
            told(
                r#"[{"output":{"x":1.0},"metadata":{"jobId":2,"messageId":"a"},"statusCode":200},
                {"output":{"x":2},"metadata":{"jobId":2,"messageId":"a"},"statusCode":200},
                {"output":{},"metadata":{"messageId":"b"},"statusCode":200},
                {"output":{},"metadata":{"jobId":1,"messageId":"new"},"statusCode":200}]"#
            ),
            [
                ok(Place::Given(2), r#"{"x":1.0}"#),
                ok(Place::Given(2), r#"{"x":2}"#),
                ok(Place::Given(1), "{}"),
                ok(Place::Fresh("new".to_owned()), "{}"),
            ]
        );
        assert_eq!(
            told(
                r#"[{"statusCode":400,"error":"E","metadata":{"messageIds":["a","b"]}},
                {"statusCode":298,"metadata":{"jobId":1,"messageId":"b","messageIds":null}}]"#
            ),
            [failed(0, "E"), failed(1, "E"), (Place::Given(1), 298, None, String::new())]
        );
    }

    #[test]
    fn a_result_without_status_or_output_is_a_failure_and_no_list_is_an_error() {
        let table = [
            r#"[{"output":{},"metadata":{"messageId":"a"}}]"#,
            r#"[{"metadata":{"messageId":"a"},"statusCode":200}]"#,
            r#"[{"output":"text","metadata":{"messageId":"a"},"statusCode":200}]"#,
            r#"[{"output":{},"metadata":{"messageId":"a"},"statusCode":70000}]"#,
        ];
        for body in table {
            assert_eq!((told(body)[0].1, told(body)[0].2.clone()), (500, None), "{body}");
        }
        for body in ["", "{}", "[7]", r#"[{"metadata":7}]"#, "[{", "\u{0}"] {
            assert!(read(body.as_bytes(), &[]).is_err(), "{body}");
        }
    }
}

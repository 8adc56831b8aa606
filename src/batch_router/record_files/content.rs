//! Records as a file: CSV or a JSON array (router.md 22.2).

use serde_json::{Map, Value};

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An array of objects.
    Json,
    /// A line of names, a line for each record; names in alphabetical order when asked for.
    Csv { sorted: bool },
}

/// The fields of a `record` event with its action; `None` when it is no such event.
pub(super) fn record_of(event: &[u8]) -> Option<Map<String, Value>> {
    #[derive(serde::Deserialize)]
    struct Event {
        #[serde(default)]
        action: Value,
        fields: Map<String, Value>,
    }
    let Event { action, fields: mut record } = serde_json::from_slice(event).ok()?;
    record.insert("action".to_owned(), action);
    Some(record)
}

/// The file of these records.
pub(super) fn encode(records: &[Map<String, Value>], format: Format) -> Result<Vec<u8>, String> {
    match format {
        Format::Json => serde_json::to_vec(records).map_err(|error| error.to_string()),
        Format::Csv { sorted } => csv_of(records, sorted).map_err(|error| error.to_string()),
    }
}

fn csv_of(records: &[Map<String, Value>], sorted: bool) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut names: Vec<&str> = records.first().into_iter().flat_map(Map::keys).map(String::as_str).collect();
    if sorted {
        names.sort_unstable();
    }
    let mut lines = csv::Writer::from_writer(Vec::new());
    lines.write_record(&names)?;
    for record in records {
        lines.write_record(names.iter().map(|name| cell(record.get(*name))))?;
    }
    Ok(lines.into_inner()?)
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_with_the_names_of_the_first() {
        let events: [&[u8]; 3] = [
            br#"{"type":"record","action":"insert","fields":{"name":"Jo, \"J\"","id":1}}"#,
            br#"{"type":"record","action":"delete","fields":{"id":2,"more":true}}"#,
            br#"{"type":"record","action":"update","fields":{"id":[1],"name":"=1+1"}}"#,
        ];
        let records: Vec<_> = events.iter().filter_map(|event| record_of(event)).collect();
        let text = |format| String::from_utf8(encode(&records, format).unwrap()).unwrap();
        assert_eq!(
            text(Format::Csv { sorted: false }),
            "name,id,action\n\"Jo, \"\"J\"\"\",1,insert\n,2,delete\n=1+1,[1],update\n"
        );
        assert!(text(Format::Csv { sorted: true }).starts_with("action,id,name\ninsert,1,"));
        assert_eq!(serde_json::from_str::<Vec<Value>>(&text(Format::Json)).unwrap()[1]["more"], true);
        assert!(record_of(br#"{"type":"track"}"#).is_none() && record_of(b"[").is_none());
    }
}

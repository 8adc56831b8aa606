//! The record of a staging file, by which the warehouse hears of it (router.md 21).
//!
//! In: the lines of the file as they are written, `{data, metadata: {table, columns, receivedAt}}` each. Out: what
//! the file holds, table by table, in the form that the warehouse takes.

use jiff::Timestamp;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Time of files that belong to no hour of their own.
const NO_WINDOW: &str = "0001-01-01T00:00:00Z";

/// A staging file in a storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StagingFile {
    /// The workspace.
    #[serde(rename = "WorkspaceID")]
    pub workspace_id: String,
    /// Columns and their types, per table.
    pub schema: Map<String, Value>,
    /// Where the events come from and go to.
    pub batch_destination: BatchDestination,
    /// The object key, not a URL.
    pub location: String,
    /// When the event of the first line was received.
    pub first_event_at: String,
    /// When the event of the last line was received.
    pub last_event_at: String,
    /// Lines.
    pub total_events: u64,
    /// Uncompressed bytes, line breaks included.
    pub total_bytes: u64,
    /// The same per table.
    pub bytes_per_table: Map<String, Value>,
    /// The file is in a storage of the vendor's.
    pub use_rudder_storage: bool,
    /// The configuration that the destination had.
    #[serde(rename = "DestinationRevisionID")]
    pub destination_revision_id: String,
    /// The task run of the first job.
    #[serde(rename = "SourceTaskRunID")]
    pub source_task_run_id: String,
    /// The job of the first job.
    #[serde(rename = "SourceJobID")]
    pub source_job_id: String,
    /// The job run of the first job.
    #[serde(rename = "SourceJobRunID")]
    pub source_job_run_id: String,
    /// The hour that all events of the file belong to, for types that split by hour.
    pub time_window: String,
    /// The node that made the file.
    #[serde(rename = "ServerInstanceID")]
    pub server_instance_id: String,
}

/// A connection, as the record names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct BatchDestination {
    /// The source.
    pub source: Named,
    /// The destination.
    pub destination: Named,
}

/// Something with an id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The id.
    #[serde(rename = "ID", default)]
    pub id: String,
}

impl Default for StagingFile {
    fn default() -> StagingFile {
        StagingFile::new("", "", "")
    }
}

/// What a row says about itself, read from its JSON `{data, metadata}`. Members that are missing or of another type
/// count as absent; so does everything in a row that cannot be read.
#[derive(Debug, Default)]
pub struct RowNotes<'a>(Notes<'a>);

#[derive(Default, Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    metadata: Notes<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notes<'a> {
    #[serde(default)]
    table: Option<String>,
    #[serde(borrow, default)]
    columns: Option<&'a RawValue>,
    #[serde(default)]
    received_at: Option<String>,
    #[serde(default)]
    is_merge_rule: bool,
    #[serde(default)]
    merge_prop_one: Option<String>,
    #[serde(default)]
    merge_prop_two: Option<String>,
}

impl<'a> RowNotes<'a> {
    /// Reads them; the data of the row is only passed over.
    pub fn read(row: &'a [u8]) -> RowNotes<'a> {
        RowNotes(serde_json::from_slice::<Line<'_>>(row).unwrap_or_default().metadata)
    }

    /// When the event was received, as it was written; empty when the row does not say.
    pub fn received_at(&self) -> &str {
        self.0.received_at.as_deref().unwrap_or_default()
    }

    /// The two properties that the row joins, when it is a rule of identity resolution.
    pub fn merge_rule(&self) -> Option<(&str, &str)> {
        let Notes { is_merge_rule, merge_prop_one, merge_prop_two, .. } = &self.0;
        is_merge_rule
            .then(|| (merge_prop_one.as_deref().unwrap_or_default(), merge_prop_two.as_deref().unwrap_or_default()))
    }
}

/// The record of a staging file in the making: takes note of its rows one by one.
///
/// Columns that a table had before in the same words are known by their hash and not read again, which is what nearly
/// every row comes to.
#[derive(Debug)]
pub struct StagingRecord {
    file: StagingFile,
    known_columns: FxHashSet<u64>,
}

impl StagingRecord {
    /// Over a record without rows.
    pub fn new(file: StagingFile) -> StagingRecord {
        StagingRecord { file, known_columns: FxHashSet::default() }
    }

    /// Takes note of the next row of `length` bytes, its line break aside.
    pub fn add(&mut self, length: usize, row: &RowNotes<'_>) {
        let file = &mut self.file;
        let bytes = u64::try_from(length).unwrap_or(u64::MAX).saturating_add(1);
        file.total_events += 1;
        file.total_bytes = file.total_bytes.saturating_add(bytes);
        let received_at = seconds_in_utc(row.received_at());
        if file.total_events == 1 {
            file.first_event_at.clone_from(&received_at);
        }
        file.last_event_at = received_at;
        let Some(table) = row.0.table.as_deref().filter(|table| !table.is_empty()) else { return };
        match file.bytes_per_table.get_mut(table) {
            Some(sum) => *sum = sum.as_u64().unwrap_or(0).saturating_add(bytes).into(),
            None => {
                file.bytes_per_table.insert(table.to_owned(), bytes.into());
                file.schema.insert(table.to_owned(), Map::new().into());
            }
        }
        let Some(columns) = row.0.columns.map(RawValue::get) else { return };
        let hash = xxh3_64_with_seed(columns.as_bytes(), xxh3_64(table.as_bytes()));
        if !self.known_columns.insert(hash) {
            return;
        }
        let columns: Map<String, Value> = serde_json::from_str(columns).unwrap_or_default();
        let Some(known) = file.schema.get_mut(table).and_then(Value::as_object_mut) else { return };
        for (column, kind) in columns {
            // The first type stays, but for texts that turn out longer.
            match known.get(&column) {
                Some(before) if !(before == "string" && kind == "text") => {}
                _ => {
                    known.insert(column, kind);
                }
            }
        }
    }

    /// The record.
    pub fn finish(self) -> StagingFile {
        self.file
    }
}

impl StagingFile {
    /// The record of a file with these lines, under this key.
    pub fn of_lines<'l>(
        lines: impl IntoIterator<Item = &'l str>,
        source_id: &str,
        destination_id: &str,
        object_key: &str,
    ) -> StagingFile {
        let mut record = StagingRecord::new(StagingFile::new(source_id, destination_id, object_key));
        for line in lines {
            record.add(line.len(), &RowNotes::read(line.as_bytes()));
        }
        record.finish()
    }

    /// The record of an empty file.
    pub fn new(source_id: &str, destination_id: &str, object_key: &str) -> StagingFile {
        StagingFile {
            workspace_id: String::new(),
            schema: Map::new(),
            batch_destination: BatchDestination {
                source: Named { id: source_id.to_owned() },
                destination: Named { id: destination_id.to_owned() },
            },
            location: object_key.to_owned(),
            first_event_at: String::new(),
            last_event_at: String::new(),
            total_events: 0,
            total_bytes: 0,
            bytes_per_table: Map::new(),
            use_rudder_storage: false,
            destination_revision_id: String::new(),
            source_task_run_id: String::new(),
            source_job_id: String::new(),
            source_job_run_id: String::new(),
            time_window: NO_WINDOW.to_owned(),
            server_instance_id: String::new(),
        }
    }
}

/// A time in UTC without fractions; empty when it cannot be read.
fn seconds_in_utc(text: &str) -> String {
    let Ok(time) = text.parse::<Timestamp>() else { return String::new() };
    let whole = time.as_millisecond().div_euclid(1_000);
    Timestamp::from_second(whole).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_record_says_what_the_lines_hold() {
        let line = |table: &str, columns: Value, at: &str| {
            json!({ "data": {}, "metadata": { "table": table, "columns": columns, "receivedAt": at } }).to_string()
        };
        let lines = [
            line("a", json!({ "x": "string", "y": "int" }), "2024-01-02T03:04:05.999+01:00"),
            line("a", json!({ "x": "text", "y": "string", "z": "boolean" }), "2024-01-02T01:00:00Z"),
            line("", json!({ "q": "int" }), "2023-12-31T23:59:59.5Z"),
            line("b", json!({ "x": "text" }), "2024-01-01T00:00:00Z"),
            line("b", json!({ "x": "string" }), "soon"),
        ];
        let file = StagingFile::of_lines(lines.iter().map(String::as_str), "s", "d", "k");
        let file = serde_json::to_value(&file).unwrap();
        assert_eq!(file["Schema"], json!({ "a": { "x": "text", "y": "int", "z": "boolean" }, "b": { "x": "text" } }));
        let bytes: Vec<usize> = lines.iter().map(|line| line.len() + 1).collect();
        assert_eq!(file["TotalBytes"], bytes.iter().sum::<usize>());
        assert_eq!(file["BytesPerTable"], json!({ "a": bytes[0] + bytes[1], "b": bytes[3] + bytes[4] }));
        assert_eq!(
            (&file["TotalEvents"], &file["FirstEventAt"], &file["LastEventAt"]),
            (&json!(5), &json!("2024-01-02T02:04:05Z"), &json!(""))
        );
        assert_eq!(file["BatchDestination"], json!({ "Source": { "ID": "s" }, "Destination": { "ID": "d" } }));
        let mut keys: Vec<&String> = file.as_object().unwrap().keys().collect();
        keys.sort();
        let mut expected = [
            "WorkspaceID",
            "Schema",
            "BatchDestination",
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
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}

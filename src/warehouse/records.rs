//! The records of uploads, their tables, their load files, and of what warehouses hold (warehouse.md 8.1).
//!
//! Stored as JSON; `storage-format.md` says under which keys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::failure::StateErrors;
use super::schema::Schema;
use super::state::State;

/// Priority of an upload that nobody asked for; lower goes first.
pub const PRIORITY: u32 = 100;

/// Priority of an upload that somebody asked for.
pub const ASKED_PRIORITY: u32 = 50;

/// A set of staging files on their way into the tables of one destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    /// Ascending.
    pub id: u64,
    /// Where the events come from.
    pub source_id: String,
    /// Where they go to.
    pub destination_id: String,
    /// Its type.
    pub destination_type: String,
    /// Its workspace.
    pub workspace_id: String,
    /// The schema, dataset or database.
    pub namespace: String,
    /// Where it stands.
    pub status: State,
    /// Tables and columns of its rows.
    #[serde(default)]
    pub schema: Schema,
    /// What went wrong, by state.
    #[serde(default)]
    pub error: BTreeMap<String, StateErrors>,
    /// What kind of failure the last one was.
    #[serde(default)]
    pub error_category: String,
    /// Reception of the first event.
    pub first_event_at: String,
    /// Reception of the last event.
    pub last_event_at: String,
    /// Rows in its staging files.
    pub total_events: u64,
    /// The first of its staging files.
    pub start_staging_file_id: u64,
    /// The last of them.
    pub end_staging_file_id: u64,
    /// How many there are.
    pub staging_files: u64,
    /// States and when they began, milliseconds since the epoch.
    #[serde(default)]
    pub timings: Vec<(State, i64)>,
    /// When it was last taken up.
    #[serde(default)]
    pub last_exec_ms: i64,
    /// Not before this time.
    #[serde(default)]
    pub next_retry_ms: i64,
    /// Whether the last failure was one of not reaching anything.
    #[serde(default)]
    pub was_unreachable: bool,
    /// From when on refusals count for giving up.
    #[serde(default)]
    pub window_start_ms: i64,
    /// Lower goes first.
    pub priority: u32,
    /// Whether somebody or a restart made it begin again: its rows are merged, whatever the destination prefers.
    #[serde(default)]
    pub retried: bool,
    /// Staging files lie in the node's own storage.
    #[serde(default)]
    pub use_rudder_storage: bool,
    /// The task run of the first job.
    #[serde(default)]
    pub source_task_run_id: String,
    /// The job of the first job.
    #[serde(default)]
    pub source_job_id: String,
    /// The job run of the first job.
    #[serde(default)]
    pub source_job_run_id: String,
    /// `csv`, `json` or `parquet`.
    pub load_file_type: String,
    /// Whether the records of its files are gone.
    #[serde(default)]
    pub archived: bool,
    /// When it was made.
    pub created_ms: i64,
    /// When it was last changed.
    pub updated_ms: i64,
}

impl Upload {
    /// Failures over all states.
    pub fn attempts(&self) -> u32 {
        self.error.values().map(|errors| errors.attempt).sum()
    }

    /// Whether nothing was done with it yet.
    pub fn is_untouched(&self) -> bool {
        self.status == State::Waiting && self.last_exec_ms == 0
    }
}

/// How far a table of an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// Nothing was done.
    Waiting,
    /// It is being loaded.
    Executing,
    /// It gets its columns.
    UpdatingSchema,
    /// It could not get them.
    UpdatingSchemaFailed,
    /// It has them.
    UpdatedSchema,
    /// It could not be loaded.
    ExportingDataFailed,
    /// It has its rows.
    ExportedData,
}

impl TableState {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            TableState::Waiting => "waiting",
            TableState::Executing => "executing",
            TableState::UpdatingSchema => "updating_schema",
            TableState::UpdatingSchemaFailed => "updating_schema_failed",
            TableState::UpdatedSchema => "updated_schema",
            TableState::ExportingDataFailed => "exporting_data_failed",
            TableState::ExportedData => "exported_data",
        }
    }
}

/// A table of an upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableUpload {
    /// Ascending over all uploads.
    pub id: u64,
    /// The upload.
    pub upload_id: u64,
    /// The table.
    pub table_name: String,
    /// How far it is.
    pub status: TableState,
    /// Why it failed.
    #[serde(default)]
    pub error: String,
    /// When it was last worked on.
    #[serde(default)]
    pub last_exec_ms: i64,
    /// Rows in its load files.
    #[serde(default)]
    pub total_events: u64,
    /// When it was made.
    pub created_ms: i64,
    /// When it was last changed.
    pub updated_ms: i64,
}

/// A file with rows of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadFile {
    /// Ascending over all uploads.
    pub id: u64,
    /// The upload.
    pub upload_id: u64,
    /// The table.
    pub table_name: String,
    /// Its key in the object storage.
    pub key: String,
    /// Its URL.
    pub location: String,
    /// Rows.
    pub total_events: u64,
    /// Bytes.
    pub content_length: u64,
    /// Whether it lies in the node's own storage.
    #[serde(default)]
    pub use_rudder_storage: bool,
}

/// What a warehouse holds in one namespace, as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeldSchema {
    /// Tables and columns.
    pub schema: Schema,
    /// From then on it is looked at again, milliseconds since the epoch.
    pub expires_ms: i64,
    /// The type of the destination.
    #[serde(default)]
    pub destination_type: String,
}

/// What is remembered of a connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// Its newest upload.
    pub upload_id: u64,
    /// When that was made.
    pub created_ms: i64,
    /// The namespace that it went to.
    pub namespace: String,
}

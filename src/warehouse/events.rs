//! Metrics of the warehouse and the lines that go with them (warehouse.md 20).

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::failure::Failure;
use super::providers::Loaded;
use super::records::Upload;
use super::state::State;

macro_rules! labels {
    ($metric:ident, $name:expr, $upload:expr) => {
        $metric!(
            $name,
            "module" => "warehouse",
            "destType" => $upload.destination_type.clone(),
            "workspaceId" => $upload.workspace_id.clone(),
            "destID" => $upload.destination_id.clone(),
            "sourceID" => $upload.source_id.clone(),
        )
    };
}

/// Staging files that no upload has taken yet.
pub(super) fn pending_files(count: usize) {
    gauge!("wh_scheduler.pending_staging_files", "module" => "warehouse").set(count as f64);
}

/// Uploads that are not at an end, and how many of them are being worked on.
pub(super) fn open_uploads(open: usize, running: usize) {
    gauge!("wh_processing_pending_jobs", "module" => "warehouse").set(open.saturating_sub(running) as f64);
}

/// An upload was made.
pub(super) fn upload_made(upload: &Upload) {
    labels!(counter, "wh_scheduler.create_upload_jobs", upload).increment(1);
    tracing::debug!(
        upload = upload.id,
        source = upload.source_id,
        destination = upload.destination_id,
        staging_files = upload.staging_files,
        rows = upload.total_events,
        "an upload was made"
    );
}

/// A step went well.
pub(super) fn step_done(upload: &Upload, doing: State, took: Duration) {
    labels!(histogram, doing.name(), upload).record(took.as_secs_f64());
}

/// A step failed; the upload is tried again.
pub(super) fn step_failed(upload: &Upload, failure: &Failure, next_in: Duration) {
    labels!(counter, "warehouse_failed_uploads", upload).increment(1);
    labels!(counter, format!("error_{}", upload.status.name()), upload).increment(1);
    tracing::warn!(
        upload = upload.id,
        source = upload.source_id,
        destination = upload.destination_id,
        kind = upload.destination_type,
        state = upload.status.name(),
        next_attempt_seconds = next_in.as_secs(),
        error = %failure,
        "an upload to a warehouse failed and is tried again"
    );
}

/// An upload is given up.
pub(super) fn upload_aborted(upload: &Upload, error: &str) {
    labels!(counter, "upload_aborted", upload).increment(1);
    tracing::error!(
        upload = upload.id,
        source = upload.source_id,
        destination = upload.destination_id,
        kind = upload.destination_type,
        rows = upload.total_events,
        error,
        "an upload to a warehouse is given up; its staging files are kept: mend the cause and retry it"
    );
}

/// Every table of an upload has its rows.
pub(super) fn upload_done(upload: &Upload, took: Duration) {
    labels!(counter, "upload_success", upload).increment(1);
    labels!(counter, "num_staged_events", upload).increment(upload.total_events);
    labels!(histogram, "upload_time", upload).record(took.as_secs_f64());
    tracing::info!(
        upload = upload.id,
        source = upload.source_id,
        destination = upload.destination_id,
        kind = upload.destination_type,
        namespace = upload.namespace,
        rows = upload.total_events,
        "an upload is in its warehouse"
    );
}

/// A table has its rows.
pub(super) fn table_loaded(upload: &Upload, rows: u64, loaded: Loaded) {
    labels!(counter, "total_rows_synced", upload).increment(rows);
    labels!(counter, "dedup_rows", upload).increment(loaded.updated);
}

/// Load files hold another number of rows than was staged.
pub(super) fn counts_differ(upload: &Upload, loaded: u64) {
    labels!(counter, "warehouse_staging_load_file_events_count_mismatched", upload).increment(1);
    tracing::warn!(
        upload = upload.id,
        staged = upload.total_events,
        loaded,
        "load files hold other rows than were staged"
    );
}

/// A table or columns were added.
pub(super) fn schema_changed(upload: &Upload, is_new: bool, columns: usize) {
    labels!(counter, "tables_added", upload).increment(u64::from(is_new));
    if !is_new {
        labels!(counter, "columns_added", upload).increment(columns as u64);
    }
}

/// A column of a warehouse has a type that is none of ours; it is left alone.
pub(super) fn unknown_type(kind: &str) {
    counter!("warehouse_rudder_missing_datatype", "module" => "warehouse", "datatype" => kind.to_owned()).increment(1);
}

/// Records of old uploads are gone.
pub(super) fn archived(uploads: u64) {
    counter!("warehouse.archiver.numArchivedUploads", "module" => "warehouse").increment(uploads);
}

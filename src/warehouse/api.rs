//! What operators see of uploads and ask for (warehouse.md 16.3, 16.5).
//!
//! Answers are JSON objects with the field names that clients of the reference know.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::connection::Connection;
use super::failure::Failure;
use super::providers::QueryRows;
use super::records::{ASKED_PRIORITY, TableUpload, Upload};
use super::state::{Event, State};
use super::{Warehouse, ledger};
use crate::jobsdb::{Durability, JobsDbError};

/// Rows that a query returns at most.
const MOST_ROWS: usize = 10_000;

/// An hour, in milliseconds.
const HOUR_MS: i64 = 3_600_000;

/// Which uploads are meant; an empty text means any.
#[derive(Clone, Debug, Default)]
pub struct UploadFilter {
    /// Of this source.
    pub source_id: String,
    /// Of this destination.
    pub destination_id: String,
    /// Of destinations of this type.
    pub destination_type: String,
    /// In this state.
    pub status: String,
}

impl UploadFilter {
    fn matches(&self, upload: &Upload) -> bool {
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        fits(&self.source_id, &upload.source_id)
            && fits(&self.destination_id, &upload.destination_id)
            && fits(&self.destination_type, &upload.destination_type)
            && fits(&self.status, upload.status.name())
    }
}

/// Which uploads are to be done again.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// Of this source and this destination; at least one of them must be named, or uploads.
    pub filter: UploadFilter,
    /// Made within so many hours; 0 = whenever, if uploads are named.
    pub interval_in_hours: i64,
    /// These.
    pub upload_ids: Vec<u64>,
    /// Not only those that were given up.
    pub force: bool,
}

fn time(ms: i64) -> Value {
    if ms <= 0 {
        return Value::Null;
    }
    Timestamp::from_millisecond(ms).map_or(Value::Null, |time| time.to_string().into())
}

fn shown(upload: &Upload, tables: Value) -> Value {
    let errors: Map<String, Value> = upload
        .error
        .iter()
        .map(|(state, errors)| (state.clone(), json!({ "attempt": errors.attempt, "errors": errors.errors })))
        .collect();
    let mut shown = json!({
        "id": upload.id,
        "source_id": upload.source_id,
        "destination_id": upload.destination_id,
        "destination_type": upload.destination_type,
        "namespace": upload.namespace,
        "error": errors,
        "error_category": upload.error_category,
        "attempt": upload.attempts(),
        "status": upload.status.name(),
        "total_events": upload.total_events,
        "created_at": time(upload.created_ms),
        "first_event_at": upload.first_event_at,
        "last_event_at": upload.last_event_at,
        "last_exec_at": time(upload.last_exec_ms),
        "duration": upload.updated_ms.saturating_sub(upload.last_exec_ms).max(0) / 1_000,
        "tables": tables,
        "isArchivedUpload": upload.archived,
    });
    if !upload.status.is_final()
        && let Some(shown) = shown.as_object_mut()
    {
        shown.insert("next_retry_time".to_owned(), time(upload.next_retry_ms));
    }
    shown
}

fn shown_table(table: &TableUpload) -> Value {
    json!({
        "id": table.id,
        "upload_id": table.upload_id,
        "name": table.table_name,
        "status": table.status.name(),
        "error": table.error,
        "last_exec_at": time(table.last_exec_ms),
        "count": table.total_events,
        "duration": table.updated_ms.saturating_sub(table.last_exec_ms).max(0) / 1_000,
    })
}

impl Warehouse {
    /// Uploads, the newest first, and how many there are.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn uploads(&self, filter: UploadFilter, limit: usize, offset: usize) -> Result<Value, JobsDbError> {
        let read = move |book: &ledger::Ledger| {
            let mut ids = Vec::new();
            book.visit_uploads(0, |upload| {
                if filter.matches(&upload) {
                    ids.push(upload.id);
                }
                ControlFlow::Continue(())
            })?;
            let mut page = Vec::new();
            for id in ids.iter().rev().skip(offset).take(limit) {
                if let Some(upload) = book.upload(*id)? {
                    let tables = book.tables(*id)?.into_iter().map(|table| Value::from(table.table_name));
                    page.push(shown(&upload, tables.collect()));
                }
            }
            Ok((page, ids.len()))
        };
        let (uploads, total) = self.0.ledger.blocking(read).await?;
        Ok(json!({
            "uploads": uploads,
            "pagination": { "total": total, "limit": limit, "offset": offset },
        }))
    }

    /// One upload with its tables; `None` when there is none of this id.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn upload(&self, id: u64) -> Result<Option<Value>, JobsDbError> {
        let read = move |book: &ledger::Ledger| {
            let Some(upload) = book.upload(id)? else { return Ok(None) };
            Ok(Some(shown(&upload, book.tables(id)?.iter().map(shown_table).collect())))
        };
        self.0.ledger.blocking(read).await
    }

    /// Lets an upload begin again at once, whatever became of it. Whether there is such an upload.
    ///
    /// # Errors
    /// The store failed.
    pub async fn trigger_upload(&self, id: u64) -> Result<bool, JobsDbError> {
        let Some(mut upload) = self.0.ledger.blocking(move |book| book.upload(id)).await? else { return Ok(false) };
        let now_ms = self.0.clock.now_ms();
        // What is being worked on ends first; its files are gone once it is in its warehouse.
        if self.0.working.lock().contains(&id) || upload.archived {
            return Ok(false);
        }
        if !self.0.ledger.blocking(move |book| Ok(!book.staged_ids(id)?.is_empty())).await? {
            return Ok(false);
        }
        upload.status = upload.status.after(Event::StartOver).unwrap_or(State::Waiting);
        upload.retried = true;
        upload.priority = ASKED_PRIORITY;
        upload.next_retry_ms = now_ms.saturating_sub(HOUR_MS);
        upload.window_start_ms = now_ms;
        // It was touched, so that no new upload takes its files away.
        upload.last_exec_ms = upload.last_exec_ms.max(1);
        upload.error = BTreeMap::new();
        upload.timings.push((upload.status, now_ms));
        self.0.ledger.save(&mut upload, Durability::Durable).await?;
        self.0.wake.notify_one();
        Ok(true)
    }

    /// Lets every upload that is meant begin again; how many. Without `does`, they are only counted.
    ///
    /// # Errors
    /// The store failed.
    pub async fn retry_uploads(&self, retry: Retry, does: bool) -> Result<usize, JobsDbError> {
        let since_ms = match retry.interval_in_hours {
            0 => i64::MIN,
            hours => self.0.clock.now_ms().saturating_sub(hours.saturating_mul(HOUR_MS)),
        };
        let read = move |book: &ledger::Ledger| {
            let mut ids = Vec::new();
            book.visit_uploads(0, |upload| {
                let is_named = retry.upload_ids.is_empty() || retry.upload_ids.contains(&upload.id);
                let is_over = upload.status == State::Aborted || retry.force;
                if is_named && is_over && upload.created_ms >= since_ms && retry.filter.matches(&upload) {
                    ids.push(upload.id);
                }
                ControlFlow::Continue(())
            })?;
            Ok(ids)
        };
        let ids = self.0.ledger.blocking(read).await?;
        if !does {
            return Ok(ids.len());
        }
        let mut count = 0;
        for id in ids {
            count += usize::from(self.trigger_upload(id).await?);
        }
        Ok(count)
    }

    /// Connections to warehouses of a source, of a destination, or of both; an empty text means any.
    fn connections(&self, source_id: &str, destination_id: &str) -> Vec<Connection> {
        let Some(snapshot) = self.0.config.borrow().clone() else { return Vec::new() };
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        let all = Connection::all(&snapshot, &self.0.settings.load());
        all.into_iter()
            .filter(|found| fits(source_id, &found.source.id) && fits(destination_id, &found.destination.id))
            .collect()
    }

    /// Asks for an upload of every connection that is meant, whatever their timetables; how many connections.
    pub fn trigger(&self, source_id: &str, destination_id: &str) -> usize {
        let connections = self.connections(source_id, destination_id);
        let mut triggers = self.0.triggers.lock();
        for connection in &connections {
            triggers.insert((connection.source.id.clone(), connection.destination.id.clone()));
        }
        drop(triggers);
        self.0.wake.notify_one();
        connections.len()
    }

    /// Lets every look make uploads, whatever the timetables say, or no longer.
    pub fn always(&self, is_on: bool) {
        self.0.always.store(is_on, std::sync::atomic::Ordering::Relaxed);
        self.0.wake.notify_one();
    }

    /// Whether something of a source's task run is not in its warehouse yet.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn pending_events(&self, source_id: &str, task_run_id: &str) -> Result<Value, JobsDbError> {
        let (source, run) = (source_id.to_owned(), task_run_id.to_owned());
        let read = move |book: &ledger::Ledger| {
            let files = book.pending()?;
            let of_run = files
                .iter()
                .filter(|file| file.batch_destination.source.id == source && file.source_task_run_id == run);
            let (mut uploads, mut is_aborted) = (0_usize, false);
            book.visit_uploads(0, |upload| {
                if upload.source_id == source && upload.source_task_run_id == run {
                    uploads += usize::from(!upload.status.is_final());
                    is_aborted |= upload.status == State::Aborted;
                }
                ControlFlow::Continue(())
            })?;
            Ok((of_run.count(), uploads, is_aborted))
        };
        let (files, uploads, is_aborted) = self.0.ledger.blocking(read).await?;
        Ok(json!({
            "pending_events": files + uploads > 0,
            "pending_staging_files": files,
            "pending_uploads": uploads,
            "aborted_events": is_aborted,
        }))
    }

    /// Forgets what is known of the tables of a destination, so that the next upload looks at them.
    ///
    /// # Errors
    /// The store failed.
    pub async fn look_at_schema_again(&self, destination_id: &str) -> Result<usize, JobsDbError> {
        let id = destination_id.to_owned();
        let held = self.0.ledger.blocking(move |book| book.held_schemas(&id)).await?;
        let count = held.len();
        for (namespace, mut held) in held {
            held.expires_ms = 0;
            self.0.ledger.save_schema(destination_id, &namespace, &held).await?;
        }
        Ok(count)
    }

    /// Tables that are known of a connection.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn known_tables(&self, source_id: &str, destination_id: &str) -> Result<Value, JobsDbError> {
        let (source, destination) = (source_id.to_owned(), destination_id.to_owned());
        let read = move |book: &ledger::Ledger| {
            let namespace = book.connection(&source, &destination)?.unwrap_or_default().namespace;
            let held = book.held_schema(&destination, &namespace)?.unwrap_or_default();
            Ok((namespace, held.schema.into_keys().collect::<Vec<String>>()))
        };
        let (namespace, tables) = self.0.ledger.blocking(read).await?;
        Ok(
            json!({ "source_id": source_id, "destination_id": destination_id, "namespace": namespace, "tables": tables }),
        )
    }

    /// Rows of a reading statement on a destination.
    ///
    /// # Errors
    /// There is no such warehouse, or what it said.
    pub async fn query(&self, destination_id: &str, statement: &str) -> Result<QueryRows, String> {
        let connection = self.connections("", destination_id).into_iter().next();
        let Some(connection) = connection else {
            return Err(format!("destination {destination_id:?} is no warehouse with a source"));
        };
        let (source, destination) = (connection.source.id.clone(), destination_id.to_owned());
        let recorded = self.0.ledger.blocking(move |book| book.connection(&source, &destination)).await;
        let recorded = recorded.map_err(|error| error.to_string())?.map(|record| record.namespace);
        let asked = async {
            let provider = connection.open(&connection.namespace(recorded.as_deref()), &self.0.around())?;
            provider.query(statement, MOST_ROWS).await
        };
        asked.await.map_err(|failure: Failure| self.0.scrubbed(&failure.to_string()))
    }
}

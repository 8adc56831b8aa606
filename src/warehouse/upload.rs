//! One upload on its way, step by step (warehouse.md 8.2).
//!
//! Every change of state is stored before the work of the step begins and after it ended; a step that reaches outside
//! the node begins when its record is on disk. Each step may be done again from its start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::events;
use super::failure::{Failure, StateErrors, backoff, is_given_up};
use super::places::Place;
use super::providers::Provider;
use super::records::{HeldSchema, LoadFile, TableState, TableUpload, Upload};
use super::schema::{self, Schema};
use super::state::{Event, State, Step};
use super::{Shared, export, generate, ledger};
use crate::jobsdb::{Durability, Tx};

/// The error of an upload whose connection is gone.
fn unknown_connection(upload: &Upload) -> String {
    format!(
        "unable to find source : {} or destination : {}, both or the connection between them",
        upload.source_id, upload.destination_id
    )
}

/// An upload in the hands of its task.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) upload: Upload,
    pub(super) connection: Connection,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) held: HeldSchema,
    pub(super) stop: CancellationToken,
}

/// Works on an upload until it is done or failed, or the node stops.
///
/// # Errors
/// The store of the node failed.
pub(super) async fn work(shared: Arc<Shared>, id: u64, stop: CancellationToken) -> Result<(), Failure> {
    let Some(mut upload) = shared.ledger.open_upload(id) else { return Ok(()) };
    upload.last_exec_ms = shared.clock.now_ms();
    // Rows may be in the tables already although nobody noted it.
    upload.retried |= matches!(upload.status, State::Doing(Step::Export) | State::Failed(Step::Export));
    let connection = shared.config.borrow().as_ref().and_then(|snapshot| {
        Connection::find(snapshot, &shared.settings.load(), &upload.source_id, &upload.destination_id)
    });
    let Some(connection) = connection else {
        let error = unknown_connection(&upload);
        upload.error.insert(
            upload.status.name().to_owned(),
            StateErrors { attempt: 1, unreachable: 0, errors: vec![error.clone()] },
        );
        return give_up(&shared, upload, &error).await;
    };
    let prepared = prepare(&shared, &connection, &upload).await;
    let (provider, held) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return fail(&shared, upload, Event::FailInternally, failure).await,
    };
    Worker { shared, upload, connection, provider, held, stop }.run().await
}

/// The warehouse, and what it holds.
async fn prepare(
    shared: &Arc<Shared>,
    connection: &Connection,
    upload: &Upload,
) -> Result<(Arc<dyn Provider>, HeldSchema), Failure> {
    let provider = connection.open(&upload.namespace, &shared.around())?;
    let (destination, namespace) = (upload.destination_id.clone(), upload.namespace.clone());
    let held = shared.ledger.blocking(move |ledger| ledger.held_schema(&destination, &namespace)).await?;
    let held = match held {
        Some(held) if provider.files_are_tables() || held.expires_ms > shared.clock.now_ms() => held,
        // What is known of a data lake is nowhere else.
        None if provider.files_are_tables() => HeldSchema::default(),
        _ => fetch(shared, &*provider, upload).await?,
    };
    Ok((provider, held))
}

/// Looks at the tables of the warehouse and remembers them.
async fn fetch(shared: &Arc<Shared>, provider: &dyn Provider, upload: &Upload) -> Result<HeldSchema, Failure> {
    let schema = provider.fetch_schema().await.map_err(|failure| failure.during("fetching the schema"))?;
    let ttl = i64::try_from(shared.settings.load().warehouse.schema_ttl.as_millis()).unwrap_or(i64::MAX);
    let held = HeldSchema {
        schema,
        expires_ms: shared.clock.now_ms().saturating_add(ttl),
        destination_type: upload.destination_type.clone(),
    };
    shared.ledger.save_schema(&upload.destination_id, &upload.namespace, &held).await?;
    Ok(held)
}

/// Notes a failure: the upload is tried again later, or given up.
async fn fail(shared: &Arc<Shared>, mut upload: Upload, event: Event, failure: Failure) -> Result<(), Failure> {
    if matches!(failure, Failure::Stopped) {
        return Ok(());
    }
    if let Failure::Jobs(_) = failure {
        return Err(failure);
    }
    let settings = shared.settings.load();
    let rules = &settings.warehouse;
    let now_ms = shared.clock.now_ms();
    let state = match upload.status.after(event) {
        Some(state) => state,
        None => State::InternalFailure,
    };
    let message = shared.scrubbed(&failure.to_string());
    let failure = match failure {
        Failure::Unreachable(_) => Failure::Unreachable(message),
        Failure::Refused { category, .. } => Failure::Refused { category, message },
        other => other,
    };
    let before = upload.attempts();
    upload.status = state;
    failure.category().name().clone_into(&mut upload.error_category);
    upload.timings.push((state, now_ms));
    let errors = upload.error.entry(state.name().to_owned()).or_default();
    errors.add(&failure);
    let errors = errors.clone();
    if failure.is_unreachable() {
        // Time in which nothing was reached does not count for giving up.
        upload.window_start_ms = now_ms;
    }
    let window_ms = now_ms.saturating_sub(upload.window_start_ms);
    if is_given_up(&errors, window_ms, rules.min_retry_attempts, rules.retry_time_window) {
        return give_up(shared, upload, &failure.to_string()).await;
    }
    let wait = backoff(before, rules.min_backoff, rules.max_backoff);
    upload.next_retry_ms = now_ms.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
    upload.was_unreachable = failure.is_unreachable();
    events::step_failed(&upload, &failure, wait);
    shared.ledger.save(&mut upload, Durability::Lazy).await?;
    Ok(())
}

async fn give_up(shared: &Arc<Shared>, mut upload: Upload, error: &str) -> Result<(), Failure> {
    upload.status = upload.status.after(Event::GiveUp).unwrap_or(State::Aborted);
    upload.timings.push((upload.status, shared.clock.now_ms()));
    events::upload_aborted(&upload, error);
    shared.ledger.save(&mut upload, Durability::Lazy).await?;
    Ok(())
}

impl Worker {
    async fn run(mut self) -> Result<(), Failure> {
        let began = Instant::now();
        while let Some(doing) = self.upload.status.after(Event::Begin) {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            let State::Doing(step) = doing else { return Ok(()) };
            let reaches_out = matches!(step, Step::LoadFiles | Step::RemoteSchema | Step::Export);
            let durability = if reaches_out { Durability::Durable } else { Durability::Lazy };
            self.enter(doing, Tx::new(durability)).await?;
            let step_began = Instant::now();
            let done = self.step(step).await;
            match done {
                Ok(tx) => {
                    events::step_done(&self.upload, doing, step_began.elapsed());
                    let next = self.upload.status.after(Event::Succeed).unwrap_or(State::InternalFailure);
                    self.enter(next, tx).await?;
                }
                Err(failure) if step == Step::Export && !matches!(failure, Failure::Stopped | Failure::Jobs(_)) => {
                    let changed = self.warehouse_changed().await;
                    let Worker { shared, mut upload, .. } = self;
                    if changed {
                        upload.retried = true;
                        // Failed as an export, but everything is made again for the tables that are really there.
                        fail(&shared, upload.clone(), Event::Fail, failure).await?;
                        return start_over(&shared, upload.id).await;
                    }
                    return fail(&shared, upload, Event::Fail, failure).await;
                }
                Err(failure) => {
                    let Worker { shared, upload, .. } = self;
                    return fail(&shared, upload, Event::Fail, failure).await;
                }
            }
        }
        self.tidy_up().await?;
        events::upload_done(&self.upload, began.elapsed());
        Ok(())
    }

    /// Stores the next state of the upload.
    async fn enter(&mut self, state: State, tx: Tx) -> Result<(), Failure> {
        self.upload.status = state;
        self.upload.timings.push((state, self.shared.clock.now_ms()));
        // A long life of failures must not make the record grow for ever; the first entry counts for giving up.
        const KEPT: usize = 200;
        if self.upload.timings.len() > KEPT {
            self.upload.timings.drain(1..KEPT / 2);
        }
        self.shared.ledger.save_with(&mut self.upload, tx).await?;
        #[cfg(test)]
        self.shared.may_die(super::Death::In(state)).await;
        Ok(())
    }

    /// Does a step; what is returned is stored together with its end.
    async fn step(&mut self, step: Step) -> Result<Tx, Failure> {
        match step {
            Step::UploadSchema => self.make_schema().await,
            Step::TableUploads => self.make_table_uploads().await,
            Step::LoadFiles => generate::load_files(self).await,
            Step::TableCounts => self.count_tables().await,
            Step::RemoteSchema => self.make_namespace().await,
            Step::Export => export::tables(self).await,
        }
    }

    async fn make_schema(&mut self) -> Result<Tx, Failure> {
        let id = self.upload.id;
        let files = self.shared.ledger.blocking(move |ledger| ledger.staging_files(id)).await?;
        if files.is_empty() {
            return Err(Failure::refused("the upload has no staging files"));
        }
        let mut staged = Schema::new();
        for (_, file) in &files {
            schema::add_staged(&mut staged, &file.schema);
        }
        self.upload.schema = schema::of_upload(staged, &self.held.schema, self.connection.dialect);
        Ok(Tx::new(Durability::Lazy))
    }

    async fn make_table_uploads(&mut self) -> Result<Tx, Failure> {
        let id = self.upload.id;
        let known = self.shared.ledger.blocking(move |ledger| ledger.tables(id)).await?;
        let names: Vec<&String> = self.upload.schema.keys().collect();
        let first = self.shared.ledger.ids(names.len()).await?;
        let now_ms = self.shared.clock.now_ms();
        let mut tx = Tx::new(Durability::Lazy);
        for (table_id, name) in (first..).zip(names) {
            if known.iter().any(|table| table.table_name == *name) {
                continue;
            }
            ledger::put_table(
                &mut tx,
                &TableUpload {
                    id: table_id,
                    upload_id: id,
                    table_name: name.clone(),
                    status: TableState::Waiting,
                    error: String::new(),
                    last_exec_ms: 0,
                    total_events: 0,
                    created_ms: now_ms,
                    updated_ms: now_ms,
                },
            );
        }
        Ok(tx)
    }

    async fn count_tables(&mut self) -> Result<Tx, Failure> {
        let id = self.upload.id;
        let read = move |ledger: &ledger::Ledger| Ok((ledger.tables(id)?, ledger.load_files(id)?));
        let (tables, files) = self.shared.ledger.blocking(read).await?;
        let mut rows: BTreeMap<&str, u64> = BTreeMap::new();
        for file in &files {
            *rows.entry(&file.table_name).or_default() += file.total_events;
        }
        let mut tx = Tx::new(Durability::Lazy);
        for mut table in tables {
            table.total_events = rows.get(table.table_name.as_str()).copied().unwrap_or(0);
            // Everything was made again, so everything is loaded again.
            table.status = TableState::Waiting;
            ledger::put_table(&mut tx, &table);
        }
        let discards = schema::discards_table(self.connection.dialect);
        let loaded = rows.iter().filter(|(table, _)| **table != discards).map(|(_, rows)| rows).sum();
        if loaded != self.upload.total_events {
            events::counts_differ(&self.upload, loaded);
        }
        Ok(tx)
    }

    async fn make_namespace(&mut self) -> Result<Tx, Failure> {
        if self.held.schema.is_empty() {
            self.provider.create_namespace().await.map_err(|failure| failure.during("creating the schema"))?;
        }
        Ok(Tx::new(Durability::Lazy))
    }

    /// Whether the warehouse is not what was known of it; what is known is renewed then.
    async fn warehouse_changed(&mut self) -> bool {
        if self.provider.files_are_tables() {
            return false;
        }
        let before = std::mem::take(&mut self.held.schema);
        match fetch(&self.shared, &*self.provider, &self.upload).await {
            Ok(held) => held.schema != before,
            Err(_) => false,
        }
    }

    /// Removes what nobody needs any more: the records of load files, and files that the node keeps itself or was told
    /// to remove.
    async fn tidy_up(&self) -> Result<(), Failure> {
        let id = self.upload.id;
        let read = move |ledger: &ledger::Ledger| Ok((ledger.load_files(id)?, ledger.staging_files(id)?));
        let (files, staged) = self.shared.ledger.blocking(read).await?;
        let is_own = self.upload.use_rudder_storage;
        let cleans =
            self.connection.flag("cleanupObjectStorageFiles") == Some(true) || self.connection.keeps_own_files(is_own);
        if cleans {
            let around = self.shared.around();
            match self.connection.staging_place(is_own, &around).await {
                Ok(place) => {
                    let mut keys: Vec<&str> = staged.iter().map(|(_, file)| file.location.as_str()).collect();
                    if !self.provider.files_are_tables() {
                        keys.extend(files.iter().map(|file| file.key.as_str()));
                    }
                    delete(&place, &keys).await;
                }
                Err(error) => tracing::warn!(upload = id, %error, "files of a finished upload stay in their storage"),
            }
        }
        let mut tx = Tx::new(Durability::Lazy);
        for file in &files {
            ledger::delete_load_file(&mut tx, file);
        }
        if cleans {
            // A record without its file would promise that the upload can be made again.
            ledger::delete_staged(&mut tx, id, &staged.iter().map(|(id, _)| *id).collect());
        }
        if !tx.is_empty() {
            self.shared.ledger.jobs().commit(tx).await?;
        }
        Ok(())
    }

    /// The folder for files on their way.
    pub(super) fn work_folder(&self) -> PathBuf {
        self.shared.work_folder().join(self.upload.id.to_string())
    }

    /// The longest time to store or fetch one file.
    pub(super) fn storage_timeout(&self) -> Duration {
        self.shared.settings.load().warehouse.storage_timeout
    }
}

/// Puts a failed upload back to its start.
async fn start_over(shared: &Arc<Shared>, id: u64) -> Result<(), Failure> {
    let Some(mut upload) = shared.ledger.open_upload(id) else { return Ok(()) };
    upload.retried = true;
    upload.status = upload.status.after(Event::StartOver).unwrap_or(State::Waiting);
    upload.timings.push((upload.status, shared.clock.now_ms()));
    shared.ledger.save(&mut upload, Durability::Lazy).await?;
    Ok(())
}

/// Removes objects; what stays is only named.
pub(super) async fn delete(place: &Place, keys: &[&str]) {
    for key in keys {
        if let Err(error) = place.store.delete(key).await {
            tracing::warn!(key, %error, "an object of a finished upload stays in its storage");
        }
    }
}

/// A local copy of a load file.
pub(super) async fn local_file(
    place: &Place,
    file: &LoadFile,
    folder: &std::path::Path,
    timeout: Duration,
) -> Result<PathBuf, Failure> {
    if let Some(path) = place.file(&file.key) {
        return Ok(path);
    }
    tokio::fs::create_dir_all(folder).await?;
    let path = folder.join(format!("load-{}", file.id));
    match tokio::time::timeout(timeout, place.store.download(&file.key, &path)).await {
        Ok(result) => result.map_err(Failure::from)?,
        Err(_) => return Err(Failure::Unreachable(format!("object storage: no copy of {} in time", file.key))),
    };
    Ok(path)
}

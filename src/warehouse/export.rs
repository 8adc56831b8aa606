//! The step in which tables get their columns and rows (warehouse.md 10.2, 11).
//!
//! Identifies and users go together, all other tables beside them, some at a time. A table that has its rows is not
//! loaded again by the next attempt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;

use super::events;
use super::failure::Failure;
use super::generate::by_table;
use super::ledger;
use super::places::Place;
use super::providers::{Loaded, TableLoad, UsersLoad};
use super::records::{HeldSchema, LoadFile, TableState, TableUpload};
use super::schema::{TableChange, TableSchema, discards_table, spelled};
use super::upload::{Worker, local_file};
use crate::jobsdb::{Durability, Tx};

/// What the loads of one attempt share.
struct Attempt<'w> {
    worker: &'w Worker,
    files: BTreeMap<String, Vec<LoadFile>>,
    /// Tables that an earlier upload could not load, and what is said of them.
    guarded: BTreeMap<String, String>,
    held: Mutex<HeldSchema>,
    place: Place,
    merges: bool,
    folder: PathBuf,
}

/// Brings every table of the upload into the warehouse.
pub(super) async fn tables(worker: &mut Worker) -> Result<Tx, Failure> {
    let id = worker.upload.id;
    let read = move |ledger: &ledger::Ledger| Ok((ledger.tables(id)?, ledger.load_files(id)?));
    let (tables, files) = worker.shared.ledger.blocking(read).await?;
    let guarded = guarded_tables(worker).await?;
    let place = worker.connection.load_place(worker.upload.use_rudder_storage, &worker.shared.around()).await?;
    let folder = worker.work_folder().join("export");
    let attempt = Attempt {
        merges: worker.connection.merges(worker.upload.retried, &worker.upload.source_job_run_id),
        files: by_table(files),
        guarded,
        held: Mutex::new(worker.held.clone()),
        place,
        folder: folder.clone(),
        worker,
    };
    let failures = attempt.all(tables).await;
    let held = attempt.held.into_inner();
    if let Err(error) = tokio::fs::remove_dir_all(&folder).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "a work folder stays until the next start");
    }
    worker.held = held;
    match joined(failures?) {
        None => Ok(Tx::new(Durability::Durable)),
        Some(failure) => Err(failure),
    }
}

/// The failures of all tables as one. It is one of not reaching only if all of them are.
fn joined(failures: Vec<Failure>) -> Option<Failure> {
    if failures.iter().any(|failure| matches!(failure, Failure::Stopped)) {
        return Some(Failure::Stopped);
    }
    let first = failures.iter().find(|failure| !failure.is_unreachable()).or(failures.first())?.clone();
    let message = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Some(match first {
        Failure::Unreachable(_) => Failure::Unreachable(message),
        Failure::Refused { category, .. } => Failure::Refused { category, message },
        other => other,
    })
}

/// Tables that an earlier upload of the same namespace could not load.
async fn guarded_tables(worker: &Worker) -> Result<BTreeMap<String, String>, Failure> {
    if worker.shared.settings.load().warehouse.ignores_failed_tables {
        return Ok(BTreeMap::new());
    }
    let upload = &worker.upload;
    let earlier: Vec<u64> = worker
        .shared
        .ledger
        .open_uploads()
        .into_iter()
        .filter(|other| {
            other.id < upload.id
                && other.destination_id == upload.destination_id
                && other.namespace == upload.namespace
                && other.priority <= upload.priority
                && other.first_event_at <= upload.first_event_at
        })
        .map(|other| other.id)
        .collect();
    let read = move |ledger: &ledger::Ledger| {
        let mut guarded = BTreeMap::new();
        for id in earlier {
            for table in ledger.tables(id)? {
                if table.status == TableState::ExportingDataFailed {
                    let message = format!(
                        "skipping table {} because it previously failed to load in an earlier job: {id} with error: {}",
                        table.table_name, table.error
                    );
                    guarded.insert(table.table_name, message);
                }
            }
        }
        Ok(guarded)
    };
    Ok(worker.shared.ledger.blocking(read).await?)
}

impl Attempt<'_> {
    /// Loads what is not loaded yet; the failures of single tables.
    async fn all(&self, tables: Vec<TableUpload>) -> Result<Vec<Failure>, Failure> {
        let dialect = self.worker.connection.dialect;
        let (users, identifies) = (spelled(dialect, "users"), spelled(dialect, "identifies"));
        let mut others = Vec::new();
        let (mut of_users, mut of_identifies) = (None, None);
        for table in tables {
            if table.table_name == users {
                of_users = Some(table);
            } else if table.table_name == identifies {
                of_identifies = Some(table);
            } else if table.status != TableState::ExportedData {
                others.push(table);
            }
        }
        let is_lake = self.worker.provider.files_are_tables();
        if is_lake {
            others.extend(of_users.take().into_iter().chain(of_identifies.take()));
        }
        let limit = self.worker.connection.settings.parallel_loads;
        let others = stream::iter(others.into_iter().map(|table| self.one(table)))
            .buffer_unordered(limit)
            .collect::<Vec<Result<(), Failure>>>();
        let (others, together) = tokio::join!(others, self.users(of_identifies, of_users));
        let mut failures: Vec<Failure> = others.into_iter().filter_map(Result::err).collect();
        failures.extend(together);
        // A store that failed is no failure of a table.
        match failures.iter().position(|failure| matches!(failure, Failure::Jobs(_))) {
            Some(at) => Err(failures.swap_remove(at)),
            None => Ok(failures),
        }
    }

    fn has_files(&self, table: &str) -> bool {
        self.files.contains_key(table)
    }

    async fn one(&self, mut table: TableUpload) -> Result<(), Failure> {
        let name = table.table_name.clone();
        if !self.has_files(&name) {
            if name == discards_table(self.worker.connection.dialect) {
                self.note(&mut table, TableState::ExportedData, None).await?;
            }
            return Ok(());
        }
        if self.worker.stop.is_cancelled() {
            return Err(Failure::Stopped);
        }
        self.prepare(&mut table).await?;
        let loaded = match self.load_of(&name).await {
            Ok(load) => self.worker.provider.load(&load).await,
            Err(failure) => Err(failure),
        };
        #[cfg(test)]
        self.worker.shared.may_die(super::Death::AfterLoadingATable).await;
        self.finish(&mut table, loaded).await
    }

    /// Loads identifies and users, which go together.
    async fn users(&self, identifies: Option<TableUpload>, users: Option<TableUpload>) -> Vec<Failure> {
        let has_files = [&identifies, &users].into_iter().flatten().any(|table| self.has_files(&table.table_name));
        let is_done = [&identifies, &users]
            .into_iter()
            .flatten()
            .all(|table| table.status == TableState::ExportedData || !self.has_files(&table.table_name));
        if !has_files || is_done {
            return Vec::new();
        }
        if self.worker.stop.is_cancelled() {
            return vec![Failure::Stopped];
        }
        match self.users_together(identifies, users).await {
            Ok(failures) => failures,
            Err(failure) => vec![failure],
        }
    }

    async fn users_together(
        &self,
        mut identifies: Option<TableUpload>,
        mut users: Option<TableUpload>,
    ) -> Result<Vec<Failure>, Failure> {
        for table in [&mut identifies, &mut users].into_iter().flatten() {
            self.prepare(table).await?;
        }
        let load_of = async |table: &Option<TableUpload>| match table {
            Some(table) if self.has_files(&table.table_name) => self.load_of(&table.table_name).await.map(Some),
            _ => Ok(None),
        };
        let users_name = users.as_ref().map(|table| table.table_name.clone()).unwrap_or_default();
        let load = UsersLoad {
            identifies: load_of(&identifies).await?,
            users: load_of(&users).await?,
            users_in_warehouse: self.held.lock().schema.get(&users_name).cloned().unwrap_or_default(),
            loads_users_as_they_come: self.worker.connection.settings.loads_users_as_they_come,
        };
        let loaded = self.worker.provider.load_users(&load).await;
        let mut failures = Vec::new();
        if let Some(table) = &mut identifies {
            failures.extend(self.finish(table, loaded.identifies).await.err());
        }
        if let Some(table) = &mut users {
            failures.extend(self.finish(table, loaded.users).await.err());
        }
        Ok(failures)
    }

    /// Guards the order of uploads, and gives the table its columns.
    async fn prepare(&self, table: &mut TableUpload) -> Result<(), Failure> {
        if let Some(message) = self.guarded.get(&table.table_name) {
            return Err(Failure::refused(message.clone()));
        }
        let changed = self.change_schema(&table.table_name).await;
        if let Err(failure) = changed {
            let failure = failure.during(&format!("table {}", table.table_name));
            self.note(table, TableState::UpdatingSchemaFailed, Some(&failure)).await?;
            return Err(failure);
        }
        table.last_exec_ms = self.worker.shared.clock.now_ms();
        self.note(table, TableState::Executing, None).await
    }

    fn columns(&self, table: &str) -> TableSchema {
        self.worker.upload.schema.get(table).cloned().unwrap_or_default()
    }

    async fn change_schema(&self, table: &str) -> Result<(), Failure> {
        let wanted = self.columns(table);
        let change = TableChange::of(&wanted, self.held.lock().schema.get(table));
        if change.is_none() {
            return Ok(());
        }
        let provider = &self.worker.provider;
        if change.is_new {
            provider.create_table(table, &change.added).await?;
            // It may have been there with fewer columns than are wanted.
            if !provider.files_are_tables() {
                provider.add_columns(table, &change.added).await?;
            }
        } else if !change.added.is_empty() {
            provider.add_columns(table, &change.added).await?;
        }
        events::schema_changed(&self.worker.upload, change.is_new, change.added.len());
        let held = {
            let mut held = self.held.lock();
            held.schema.entry(table.to_owned()).or_default().extend(change.added);
            held.clone()
        };
        let upload = &self.worker.upload;
        self.worker.shared.ledger.save_schema(&upload.destination_id, &upload.namespace, &held).await?;
        Ok(())
    }

    /// The load of a table, its files on this machine.
    async fn load_of(&self, table: &str) -> Result<TableLoad, Failure> {
        let mut files = Vec::new();
        if !self.worker.provider.files_are_tables() {
            let timeout = self.worker.storage_timeout();
            for file in self.files.get(table).into_iter().flatten() {
                files.push(local_file(&self.place, file, &self.folder, timeout).await?);
            }
        }
        Ok(TableLoad { table: table.to_owned(), columns: self.columns(table), files, merges: self.merges })
    }

    async fn finish(&self, table: &mut TableUpload, loaded: Result<Loaded, Failure>) -> Result<(), Failure> {
        match loaded {
            Ok(loaded) => {
                events::table_loaded(&self.worker.upload, table.total_events, loaded);
                self.note(table, TableState::ExportedData, None).await
            }
            Err(failure) => {
                let failure = failure.during(&format!("table {}", table.table_name));
                // A table that was not reached says nothing about its rows: later uploads need not wait for it.
                let state =
                    if failure.is_unreachable() { TableState::Waiting } else { TableState::ExportingDataFailed };
                self.note(table, state, Some(&failure)).await?;
                Err(failure)
            }
        }
    }

    async fn note(&self, table: &mut TableUpload, state: TableState, failure: Option<&Failure>) -> Result<(), Failure> {
        let shared: &Arc<super::Shared> = &self.worker.shared;
        table.status = state;
        table.updated_ms = shared.clock.now_ms();
        table.error = failure.map(|failure| shared.scrubbed(&failure.to_string())).unwrap_or_default();
        shared.ledger.save_tables(std::slice::from_ref(table), Durability::Lazy).await?;
        Ok(())
    }
}

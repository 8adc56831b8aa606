//! Uploads from staging files made by hand to tables that are read back.

use std::io::Write;
use std::path::Path;

use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};

use crate::backend_config::{BackendConfig, Destination, DestinationDefinition, Snapshot, Source, Workspace};
use crate::jobsdb::{Durability, StagingFile, Tx};
use crate::settings::{Settings, WarehouseSettings};
use crate::storage::Storage;

use super::records::Upload;
use super::state::{State, Step};
use super::*;

mod crash;
mod lake;
mod postgres;

mod sqlite;

/// Longest time that a condition may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// 2030-01-02T03:04:05Z
const START_MS: i64 = 1_893_553_445_000;

struct Kit {
    folder: tempfile::TempDir,
    jobs: JobsDb,
    clock: Clock,
    config: BackendConfig,
    settings: Live,
    staged: std::cell::Cell<u64>,
}

struct Running {
    warehouse: Warehouse,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), WarehouseError>>,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn snapshot(kind: &str, config: Value) -> Snapshot {
    let destination = Arc::new(Destination {
        id: "d".to_owned(),
        name: "d".to_owned(),
        enabled: true,
        workspace_id: "w".to_owned(),
        config: config.as_object().cloned().unwrap_or_default(),
        definition: DestinationDefinition { name: kind.to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    });
    let source = Arc::new(Source {
        id: "s".to_owned(),
        name: "Web Shop".to_owned(),
        write_key: "key".to_owned(),
        enabled: true,
        workspace_id: "w".to_owned(),
        destinations: vec![destination],
        ..Source::default()
    });
    let workspace = Workspace { id: "w".to_owned(), sources: vec![source], ..Workspace::default() };
    Snapshot::new(vec![workspace], 0)
}

fn jobs_at(folder: &Path, settings: &Settings, clock: &Clock) -> JobsDb {
    let storage = Storage::open(folder, &settings.storage, clock).unwrap();
    JobsDb::open(storage, settings, clock.clone()).unwrap()
}

impl Kit {
    fn new(kind: &str, config: Value, more: &[(&str, &str)]) -> Kit {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START_MS);
        let settings = WarehouseSettings::quick_node(more);
        let jobs = jobs_at(folder.path(), &settings, &clock);
        let config = BackendConfig::fixed(snapshot(kind, config));
        Kit { folder, jobs, clock, config, settings: Live::new(settings), staged: std::cell::Cell::new(0) }
    }

    /// The store as a new process finds it.
    async fn reopen(self) -> Kit {
        let Kit { folder, jobs, clock, config, settings, staged } = self;
        drop(jobs);
        let deadline = Instant::now() + PATIENCE;
        let jobs = loop {
            // Work on blocking threads holds the old store open a little longer.
            match Storage::open(folder.path(), &settings.load().storage, &clock) {
                Ok(storage) => break JobsDb::open(storage, &settings.load(), clock.clone()).unwrap(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Kit { folder, jobs, clock, config, settings, staged }
    }

    fn warehouse(&self) -> Warehouse {
        Warehouse::open(Deps {
            jobs: self.jobs.clone(),
            config: self.config.subscribe(),
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            data_dir: self.folder.path().to_owned(),
        })
        .unwrap()
    }

    fn start(&self) -> Running {
        let warehouse = self.warehouse();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (warehouse, stop) = (warehouse.clone(), stop.clone());
            async move { warehouse.run(stop).await }
        });
        Running { warehouse, stop, task }
    }

    /// A staging file with these rows and its record, as the batch router leaves them.
    async fn stage(&self, rows: &[String]) -> u64 {
        self.stage_in("2030-01-02T03:00:00Z", rows).await
    }

    async fn stage_in(&self, window: &str, rows: &[String]) -> u64 {
        self.staged.set(self.staged.get() + 1);
        let key = format!("rudder-warehouse-staging-logs/s/2030-01-02/{}.s.{}.json.gz", START_MS, self.staged.get());
        let path = self.folder.path().join("warehouse/objects").join(&key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut gzip = GzEncoder::new(std::fs::File::create(&path).unwrap(), flate2::Compression::fast());
        for row in rows {
            gzip.write_all(row.as_bytes()).unwrap();
            gzip.write_all(b"\n").unwrap();
        }
        gzip.finish().unwrap();
        let mut file = StagingFile::of_lines(rows.iter().map(String::as_str), "s", "d", &key);
        file.time_window = window.to_owned();
        file.workspace_id = "w".to_owned();
        let mut tx = Tx::new(Durability::Durable);
        let id = self.jobs.stage(&mut tx, &file);
        self.jobs.commit(tx).await.unwrap();
        id
    }

    fn uploads(&self) -> Vec<Upload> {
        let mut all = Vec::new();
        let ledger = Ledger::open(self.jobs.clone(), self.clock.clone()).unwrap();
        ledger
            .visit_uploads(0, |upload| {
                all.push(upload);
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
        all
    }

    async fn until(&self, what: &str, mut condition: impl FnMut(&[Upload]) -> bool) -> Vec<Upload> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let uploads = self.uploads();
            if condition(&uploads) {
                return uploads;
            }
            assert!(Instant::now() < deadline, "{what}: {uploads:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_exported(&self, count: usize) -> Vec<Upload> {
        self.until("uploads are exported", |uploads| {
            uploads.iter().filter(|upload| upload.status == State::Done(Step::Export)).count() >= count
        })
        .await
    }
}

/// A row of a staging file; types are found from the values.
fn row(table: &str, data: Value) -> String {
    let mut columns = Map::new();
    for (name, value) in data.as_object().unwrap() {
        let kind = match value {
            Value::Number(number) if number.is_f64() => "float",
            Value::Number(_) => "int",
            Value::Bool(_) => "boolean",
            Value::String(text) if text.ends_with('Z') && text.starts_with("20") => "datetime",
            _ => "string",
        };
        columns.insert(name.clone(), kind.into());
    }
    columns.insert("uuid_ts".to_owned(), "datetime".into());
    let at = data.get("received_at").cloned().unwrap_or_default();
    json!({ "data": data, "metadata": { "table": table, "columns": columns, "receivedAt": at }, "userId": "" })
        .to_string()
}

fn at(second: u32) -> String {
    format!("2030-01-02T03:04:{second:02}.000Z")
}

/// Rows of a track event and of its event table.
fn track(id: &str, second: u32, more: Value) -> Vec<String> {
    let base = json!({ "id": id, "received_at": at(second), "event": "order_done" });
    let mut of_event = base.clone();
    of_event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    vec![row("tracks", base), row("order_done", of_event)]
}

/// Rows of an identify event.
fn identify(id: &str, user: &str, second: u32, traits: Value) -> Vec<String> {
    let mut of_event = json!({ "id": id, "received_at": at(second), "user_id": user });
    let mut of_user = json!({ "id": user, "received_at": at(second) });
    of_event.as_object_mut().unwrap().extend(traits.as_object().unwrap().clone());
    of_user.as_object_mut().unwrap().extend(traits.as_object().unwrap().clone());
    vec![row("identifies", of_event), row("users", of_user)]
}

/// Files below a folder, their paths relative to it.
fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// What a database answers, one text a row.
fn shown(rows: &QueryRows) -> Vec<String> {
    let cell = |cell: &Option<String>| cell.clone().unwrap_or_else(|| "-".to_owned());
    rows.rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join(" ")).collect()
}

impl Running {
    async fn query(&self, statement: &str) -> Vec<String> {
        let shared = &self.warehouse.0;
        let snapshot = shared.config.borrow().clone().unwrap();
        let connection = connection::Connection::find(&snapshot, &shared.settings.load(), "s", "d").unwrap();
        let provider = connection.open(&connection.namespace(None), &shared.around()).unwrap();
        shown(&provider.query(statement, 10_000).await.unwrap())
    }
}

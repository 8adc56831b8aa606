//! Trying a destination step by step before events depend on it (warehouse.md 17).

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::connection::Connection;
use super::failure::Failure;
use super::providers::TableLoad;
use super::schema::TableSchema;
use super::{Shared, Warehouse};
use crate::destination::warehouse::Dialect;

/// The namespace of trials where the destination names none.
const NAMESPACE: &str = "rudderstack_setup_test";

/// The table of trials.
const TABLE: &str = "setup_test_staging";

const STEPS: [&str; 6] = [
    "Verifying Object Storage",
    "Verifying Connections",
    "Verifying Create Schema",
    "Verifying Create and Alter Table",
    "Verifying Fetch Schema",
    "Verifying Load Table",
];

/// The steps of a destination type.
fn steps_of(connection: &Connection) -> &'static [&'static str] {
    // Files are all that a data lake has.
    if connection.dialect.is_data_lake() { STEPS.get(..1).unwrap_or_default() } else { &STEPS }
}

impl Warehouse {
    /// The steps of trying a destination; with `runs`, what came of them, up to the first that failed. `only` runs one
    /// step by its number. `None` when there is no such warehouse.
    pub async fn validate(&self, destination_id: &str, runs: bool, only: Option<usize>) -> Option<Value> {
        let shared = &self.0;
        let snapshot = shared.config.borrow().clone()?;
        let connection = Connection::all(&snapshot, &shared.settings.load())
            .into_iter()
            .find(|connection| connection.destination.id == destination_id)?;
        let (mut shown, mut failed) = (Vec::new(), String::new());
        for (id, name) in (1..).zip(steps_of(&connection)) {
            let mut error = String::new();
            let is_wanted = runs && failed.is_empty() && only.is_none_or(|only| only == id);
            if is_wanted && let Err(failure) = shared.try_step(&connection, id).await {
                error = shared.scrubbed(&failure.to_string());
                failed.clone_from(&error);
            }
            shown.push(json!({ "id": id, "name": name, "success": is_wanted && error.is_empty(), "error": error }));
        }
        Some(if runs {
            json!({ "success": failed.is_empty(), "error": failed, "steps": shown })
        } else {
            json!({ "steps": shown })
        })
    }
}

impl Shared {
    async fn try_step(&self, connection: &Connection, step: usize) -> Result<(), Failure> {
        let rules = self.settings.load().warehouse.clone();
        let (limit, what) = match step {
            1 => (rules.storage_trial, "object storage"),
            _ => (rules.query_trial, "warehouse"),
        };
        let work = async {
            match step {
                1 => self.try_storage(connection, &rules.trial_folder).await,
                _ => self.try_warehouse(connection, step).await,
            }
        };
        within(limit, what, work).await
    }

    /// Stores a file, copies it back and removes it.
    async fn try_storage(&self, connection: &Connection, folder: &str) -> Result<(), Failure> {
        let place = connection.load_place(false, &self.around()).await?;
        let scratch = self.work_folder().join(format!("trial-{}", Uuid::new_v4()));
        tokio::fs::create_dir_all(&scratch).await?;
        let (sent, back) = (scratch.join("sent"), scratch.join("back"));
        let tried = async {
            tokio::fs::write(&sent, b"RudderStack").await?;
            let key = place.key(&format!("{folder}/{}/{}/{}", connection.kind(), Uuid::new_v4(), "trial.txt"));
            place.store.upload(&key, &sent).await?;
            place.store.download(&key, &back).await?;
            place.store.delete(&key).await?;
            if tokio::fs::read(&back).await? == b"RudderStack" {
                Ok(())
            } else {
                Err(Failure::refused("the object storage gave another file back than was stored"))
            }
        };
        let tried = tried.await;
        tokio::fs::remove_dir_all(&scratch).await?;
        tried
    }

    async fn try_warehouse(&self, connection: &Connection, step: usize) -> Result<(), Failure> {
        let is_named = connection.config.get("namespace").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        let namespace = if is_named || connection.dialect == Dialect::ClickHouse {
            connection.namespace(None)
        } else {
            NAMESPACE.to_owned()
        };
        let provider = connection.open(&namespace, &self.around())?;
        let columns = |names: &[(&str, &str)]| -> TableSchema {
            names.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
        };
        let table_columns = columns(&[("id", "int"), ("val", "string")]);
        match step {
            2 => provider.ping().await,
            3 => provider.create_namespace().await,
            4 => {
                provider.create_table(TABLE, &table_columns).await?;
                let altered = provider.add_columns(TABLE, &columns(&[("val_alter", "string")])).await;
                provider.drop_table(TABLE).await?;
                altered
            }
            5 => provider.fetch_schema().await.map(|_| ()),
            _ => {
                let file = self.work_folder().join(format!("trial-{}.csv.gz", Uuid::new_v4()));
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(b"1,RudderStack\n")?;
                tokio::fs::write(&file, gzip.finish()?).await?;
                provider.create_table(TABLE, &table_columns).await?;
                let load = TableLoad {
                    table: TABLE.to_owned(),
                    columns: table_columns,
                    files: vec![file.clone()],
                    merges: false,
                };
                let loaded = provider.load(&load).await;
                provider.drop_table(TABLE).await?;
                tokio::fs::remove_file(&file).await?;
                loaded.map(|_| ())
            }
        }
    }
}

async fn within(limit: Duration, what: &str, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unreachable(format!("the {what} did not answer within {} s", limit.as_secs()))),
    }
}

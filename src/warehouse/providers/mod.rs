//! Warehouses: one file each behind one trait (warehouse.md 12, 22).
//!
//! In: names, columns, local load files. Out: tables with their columns and rows. Each call is whole or without
//! effect as far as the warehouse has transactions, and may be made again.

mod clickhouse;
mod csv_rows;
mod lake;
mod postgres;
mod sql;
mod sqlite;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use super::failure::Failure;
use super::places::tables_folder;
use super::schema::{Schema, TableSchema};

/// The load files of one table.
#[derive(Clone, Debug)]
pub struct TableLoad {
    /// The table.
    pub table: String,
    /// Columns in the upload's schema: the order of the fields of CSV files.
    pub columns: TableSchema,
    /// Local files.
    pub files: Vec<PathBuf>,
    /// Rows that are in the table already are replaced.
    pub merges: bool,
}

/// The load files of `identifies` and `users`.
#[derive(Clone, Debug)]
pub struct UsersLoad {
    /// Identifies; `None` when it has no load files.
    pub identifies: Option<TableLoad>,
    /// Users, whose own load files count only where they are not computed.
    pub users: Option<TableLoad>,
    /// Columns that the warehouse has in `users`.
    pub users_in_warehouse: TableSchema,
    /// Users are loaded as they come.
    pub loads_users_as_they_come: bool,
}

/// What a load did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Rows that were not there.
    pub inserted: u64,
    /// Rows that replaced others.
    pub updated: u64,
}

/// The outcome of loading identifies and users: each has its own.
#[derive(Debug)]
pub struct UsersLoaded {
    /// Identifies.
    pub identifies: Result<Loaded, Failure>,
    /// Users.
    pub users: Result<Loaded, Failure>,
}

/// Rows of a query, as text; `None` is a missing value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryRows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, up to the limit that was asked for.
    pub rows: Vec<Vec<Option<String>>>,
}

/// A namespace of a warehouse.
pub trait Provider: Send + Sync {
    /// Whether the warehouse can be reached and lets the node in.
    fn ping(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Makes the schema, dataset or database, unless it is there.
    fn create_namespace(&self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Tables and columns that are there; empty when there is no such namespace.
    fn fetch_schema(&self) -> BoxFuture<'_, Result<Schema, Failure>>;

    /// Makes a table, unless it is there.
    fn create_table<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>>;

    /// Adds columns, unless they are there.
    fn add_columns<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>>;

    /// Removes a table, if it is there.
    fn drop_table<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<(), Failure>>;

    /// Loads a table.
    fn load<'a>(&'a self, load: &'a TableLoad) -> BoxFuture<'a, Result<Loaded, Failure>>;

    /// Loads identifies and users.
    fn load_users<'a>(&'a self, load: &'a UsersLoad) -> BoxFuture<'a, UsersLoaded>;

    /// Rows that a statement returns, at most so many.
    fn query<'a>(&'a self, statement: &'a str, most: usize) -> BoxFuture<'a, Result<QueryRows, Failure>>;

    /// Whether the load files are the tables, so that there is nothing to load.
    fn files_are_tables(&self) -> bool {
        false
    }
}

/// What opening a warehouse needs.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The type of the destination.
    pub destination_type: &'a str,
    /// Its configuration.
    pub config: &'a Map<String, Value>,
    /// The schema, dataset or database.
    pub namespace: &'a str,
    /// The node's data directory.
    pub data_dir: &'a Path,
    /// Longest time of one statement.
    pub timeout: Duration,
    /// Columns that one statement adds.
    pub columns_batch: usize,
}

/// The warehouse of a destination. Nothing is connected yet.
///
/// # Errors
/// This build has no such warehouse, or the configuration cannot work.
pub fn open(opening: Opening<'_>) -> Result<Arc<dyn Provider>, Failure> {
    Ok(match opening.destination_type {
        "LOCAL_DATALAKE" | "S3_DATALAKE" | "GCS_DATALAKE" | "AZURE_DATALAKE" => Arc::new(lake::Lake),
        "SQLITE" => Arc::new(sqlite::Sqlite::new(&tables_folder(opening.config, opening.data_dir)?, opening.namespace)),
        "POSTGRES" => Arc::new(postgres::Postgres::new(&opening)?),
        "CLICKHOUSE" => Arc::new(clickhouse::ClickHouse::new(&opening)?),
        other => {
            let message = format!("this build cannot load warehouses of type {other}; their staging files wait");
            return Err(Failure::refused(message));
        }
    })
}

/// A destination's configuration, whose values may be written as text.
fn text(config: &Map<String, Value>, key: &str) -> String {
    match config.get(key) {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// A truth value of it.
fn flag(config: &Map<String, Value>, key: &str) -> bool {
    match config.get(key) {
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

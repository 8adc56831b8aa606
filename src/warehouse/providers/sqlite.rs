//! `SQLITE`: one database file a namespace, in WAL mode (warehouse.md 22).
//!
//! Every load is one transaction. Other programs may read the file at any time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::sql::{UserTables, column_list, compute_users, delete_matching, insert_latest, literal, quoted};
use super::{Failure, Loaded, Provider, QueryRows, Schema, TableLoad, TableSchema, UsersLoad, UsersLoaded, csv_rows};
use crate::warehouse::failure::Category;
use crate::warehouse::places::one_part;

/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(30);

/// A database file.
pub(super) struct Sqlite {
    file: PathBuf,
}

impl Sqlite {
    pub(super) fn new(folder: &Path, namespace: &str) -> Sqlite {
        Sqlite { file: folder.join(format!("{}.sqlite", one_part(namespace))) }
    }

    /// Runs work with a connection on a thread that may block.
    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Failure>> {
        let file = self.file.clone();
        async move {
            tokio::task::spawn_blocking(move || {
                if let Some(folder) = file.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let mut connection = Connection::open(&file).map_err(|error| told(&error))?;
                connection.busy_timeout(BUSY).map_err(|error| told(&error))?;
                connection.pragma_update(None, "journal_mode", "WAL").map_err(|error| told(&error))?;
                // What an upload says is done must be on disk.
                connection.pragma_update(None, "synchronous", "FULL").map_err(|error| told(&error))?;
                work(&mut connection)
            })
            .await?
        }
        .boxed()
    }
}

fn told(error: &rusqlite::Error) -> Failure {
    let category = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => {
            return Failure::Unreachable(format!("SQLite: {error}"));
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Category::Permission,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Category::ConcurrentQueries,
        Some(ErrorCode::TooBig) => Category::ColumnSize,
        _ => Category::Uncategorized,
    };
    Failure::Refused { category, message: format!("SQLite: {error}") }
}

/// The declared type of a column.
fn declared(kind: &str) -> &'static str {
    match kind {
        "int" | "bigint" => "INTEGER",
        "float" => "REAL",
        "boolean" => "BOOLEAN",
        "datetime" => "DATETIME",
        // Its affinity is that of a text.
        "json" => "JSON_TEXT",
        _ => "TEXT",
    }
}

/// The type that a declared one stands for.
fn known(declared: &str) -> Option<&'static str> {
    Some(match declared.to_ascii_uppercase().as_str() {
        "INTEGER" | "BIGINT" | "INT" => "int",
        "REAL" | "DOUBLE" | "FLOAT" | "NUMERIC" => "float",
        "BOOLEAN" => "boolean",
        "DATETIME" => "datetime",
        "JSON_TEXT" | "JSON" => "json",
        "TEXT" => "string",
        _ => return None,
    })
}

/// A field as its column stores it.
fn stored(field: &[u8], kind: &str) -> Value {
    let Some(field) = csv_rows::value(field) else { return Value::Null };
    let text = String::from_utf8_lossy(field);
    match kind {
        "int" | "bigint" => text.trim().parse().map_or(Value::Null, Value::Integer),
        "float" => text.trim().parse().map_or(Value::Null, Value::Real),
        "boolean" => match &*text {
            "true" => Value::Integer(1),
            "false" => Value::Integer(0),
            _ => Value::Null,
        },
        _ => Value::Text(text.into_owned()),
    }
}

fn definitions(columns: &TableSchema) -> String {
    columns.iter().map(|(name, kind)| format!("{} {}", quoted(name), declared(kind))).collect::<Vec<_>>().join(", ")
}

fn run(transaction: &Transaction<'_>, statement: &str) -> Result<u64, Failure> {
    let rows = transaction.execute(statement, []).map_err(|error| told(&error))?;
    Ok(u64::try_from(rows).unwrap_or(u64::MAX))
}

/// Puts the rows of the load files into a temporary table.
fn stage(transaction: &Transaction<'_>, staging: &str, load: &TableLoad) -> Result<(), Failure> {
    run(transaction, &format!("DROP TABLE IF EXISTS temp.{staging}"))?;
    run(transaction, &format!("CREATE TEMPORARY TABLE {staging} ({})", definitions(&load.columns)))?;
    let places = (1..=load.columns.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
    let insert = format!("INSERT INTO temp.{staging} ({}) VALUES ({places})", column_list(&load.columns));
    let mut insert = transaction.prepare(&insert).map_err(|error| told(&error))?;
    csv_rows::visit(&load.files, load.columns.len(), |row| {
        let values = row.iter().zip(load.columns.values()).map(|(field, kind)| stored(field, kind));
        insert.execute(rusqlite::params_from_iter(values)).map_err(|error| told(&error))?;
        Ok(())
    })
}

/// Loads a table from its staged rows.
fn load_staged(transaction: &Transaction<'_>, staging: &str, load: &TableLoad) -> Result<Loaded, Failure> {
    let (target, staging) = (format!("main.{}", quoted(&load.table)), format!("temp.{staging}"));
    let mut updated = 0;
    if load.merges
        && let Some(delete) = delete_matching(&target, &staging, &load.table, &load.columns)
    {
        updated = run(transaction, &delete)?;
    }
    let inserted = run(transaction, &insert_latest(&target, &staging, &load.table, &load.columns))?;
    Ok(Loaded { inserted: inserted.saturating_sub(updated), updated })
}

const STAGING: &str = "\"rudder_staging\"";

fn load_table(connection: &mut Connection, load: &TableLoad) -> Result<Loaded, Failure> {
    let transaction = immediate(connection)?;
    stage(&transaction, STAGING, load)?;
    let loaded = load_staged(&transaction, STAGING, load)?;
    transaction.commit().map_err(|error| told(&error))?;
    Ok(loaded)
}

fn load_identifies_and_users(connection: &mut Connection, load: &UsersLoad) -> Result<(Loaded, Loaded), Failure> {
    let transaction = immediate(connection)?;
    let mut loaded = (Loaded::default(), Loaded::default());
    if let Some(identifies) = &load.identifies {
        stage(&transaction, STAGING, identifies)?;
        loaded.0 = load_staged(&transaction, STAGING, identifies)?;
        if load.users.is_some() && identifies.columns.contains_key("user_id") && !load.loads_users_as_they_come {
            let names = UserTables {
                users: "main.\"users\"",
                identifies: &format!("temp.{STAGING}"),
                union: "\"rudder_staging_users_union\"",
                latest: "\"rudder_staging_users_latest\"",
            };
            let mut changed = Vec::new();
            let statements = compute_users(&names, &load.users_in_warehouse, &identifies.columns, "\"user_id\"");
            for statement in statements {
                changed.push(run(&transaction, &statement)?);
            }
            if let [.., deleted, inserted] = changed.as_slice() {
                loaded.1 = Loaded { inserted: inserted.saturating_sub(*deleted), updated: *deleted };
            }
        }
    }
    if let Some(users) = load.users.as_ref().filter(|_| load.loads_users_as_they_come || load.identifies.is_none()) {
        stage(&transaction, STAGING, users)?;
        loaded.1 = load_staged(&transaction, STAGING, users)?;
    }
    transaction.commit().map_err(|error| told(&error))?;
    Ok(loaded)
}

fn immediate(connection: &mut Connection) -> Result<Transaction<'_>, Failure> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|error| told(&error))
}

fn columns_of(connection: &Connection, table: &str) -> Result<TableSchema, Failure> {
    let statement = format!("SELECT name, type FROM pragma_table_info({})", literal(table));
    let mut statement = connection.prepare(&statement).map_err(|error| told(&error))?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(|error| told(&error))?;
    let mut columns = TableSchema::new();
    for row in rows {
        let (name, declared) = row.map_err(|error| told(&error))?;
        if let Some(kind) = known(&declared) {
            columns.insert(name, kind.to_owned());
        }
    }
    Ok(columns)
}

impl Provider for Sqlite {
    fn ping(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.with(|_| Ok(()))
    }

    fn create_namespace(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.with(|_| Ok(()))
    }

    fn fetch_schema(&self) -> BoxFuture<'_, Result<Schema, Failure>> {
        self.with(|connection| {
            let mut tables = connection
                .prepare(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
                )
                .map_err(|error| told(&error))?;
            let names = tables.query_map([], |row| row.get::<_, String>(0)).map_err(|error| told(&error))?;
            let mut schema = Schema::new();
            for name in names {
                let name = name.map_err(|error| told(&error))?;
                let columns = columns_of(connection, &name)?;
                schema.insert(name, columns);
            }
            Ok(schema)
        })
    }

    fn create_table<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        let create = format!("CREATE TABLE IF NOT EXISTS {} ({})", quoted(table), definitions(columns));
        // Rows are looked for by id in every load.
        let index = columns.contains_key("id").then(|| {
            format!("CREATE INDEX IF NOT EXISTS {} ON {} (\"id\")", quoted(&format!("{table}_by_id")), quoted(table))
        });
        self.with(move |connection| {
            let transaction = immediate(connection)?;
            run(&transaction, &create)?;
            if let Some(index) = index {
                run(&transaction, &index)?;
            }
            transaction.commit().map_err(|error| told(&error))
        })
    }

    fn add_columns<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        let (table, columns) = (table.to_owned(), columns.clone());
        self.with(move |connection| {
            let there = columns_of(connection, &table)?;
            let transaction = immediate(connection)?;
            for (name, kind) in columns.iter().filter(|(name, _)| !there.contains_key(*name)) {
                let add = format!("ALTER TABLE {} ADD COLUMN {} {}", quoted(&table), quoted(name), declared(kind));
                run(&transaction, &add)?;
            }
            transaction.commit().map_err(|error| told(&error))
        })
    }

    fn drop_table<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        let drop = format!("DROP TABLE IF EXISTS {}", quoted(table));
        self.with(move |connection| connection.execute(&drop, []).map(|_| ()).map_err(|error| told(&error)))
    }

    fn load<'a>(&'a self, load: &'a TableLoad) -> BoxFuture<'a, Result<Loaded, Failure>> {
        let load = load.clone();
        self.with(move |connection| load_table(connection, &load))
    }

    fn load_users<'a>(&'a self, load: &'a UsersLoad) -> BoxFuture<'a, UsersLoaded> {
        let load = load.clone();
        let done = self.with(move |connection| load_identifies_and_users(connection, &load));
        async move {
            match done.await {
                Ok((identifies, users)) => UsersLoaded { identifies: Ok(identifies), users: Ok(users) },
                Err(failure) => UsersLoaded { identifies: Err(failure.clone()), users: Err(failure) },
            }
        }
        .boxed()
    }

    fn query<'a>(&'a self, statement: &'a str, most: usize) -> BoxFuture<'a, Result<QueryRows, Failure>> {
        let (statement, file) = (statement.to_owned(), self.file.clone());
        async move {
            tokio::task::spawn_blocking(move || {
                // A query reads, whatever it says.
                let connection = Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY)
                    .map_err(|error| told(&error))?;
                connection.busy_timeout(BUSY).map_err(|error| told(&error))?;
                let mut statement = connection.prepare(&statement).map_err(|error| told(&error))?;
                let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
                let mut found = QueryRows { columns, rows: Vec::new() };
                let mut rows = statement.query([]).map_err(|error| told(&error))?;
                while found.rows.len() < most {
                    let Some(row) = rows.next().map_err(|error| told(&error))? else { break };
                    let cell = |at| row.get_ref(at).map(shown).map_err(|error| told(&error));
                    let row = (0..found.columns.len()).map(cell).collect::<Result<Vec<_>, Failure>>()?;
                    found.rows.push(row);
                }
                Ok(found)
            })
            .await?
        }
        .boxed()
    }
}

fn shown(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
    }
}

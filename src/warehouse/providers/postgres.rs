//! `POSTGRES` (warehouse.md 12.1): rows go in by COPY, each table in one transaction.

mod columns;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Transaction};

use super::sql::{UserTables, column_list, compute_users, delete_matching, insert_latest, literal, quoted};
use super::{
    Failure, Loaded, Opening, Provider, QueryRows, Schema, TableLoad, TableSchema, UsersLoad, UsersLoaded, csv_rows,
    text,
};
use crate::warehouse::failure::Category;
use columns::{declared, known};

/// Bytes of rows that are sent at once.
const CHUNK: usize = 64 << 10;

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(25);

/// A schema of a database.
pub(super) struct Postgres {
    config: Config,
    encryption: tls::Encryption,
    namespace: String,
    timeout: Duration,
    columns_batch: usize,
}

impl Postgres {
    pub(super) fn new(opening: &Opening<'_>) -> Result<Postgres, Failure> {
        let of = |key: &str| text(opening.config, key);
        let mut config = Config::new();
        let port = of("port");
        let port = if port.is_empty() {
            5432
        } else {
            port.parse().map_err(|_| Failure::refused(format!("the port {port:?} of the destination is no port")))?
        };
        config
            .host(of("host"))
            .port(port)
            .dbname(of("database"))
            .user(of("user"))
            .password(of("password"))
            .application_name("pintle")
            .connect_timeout(CONNECT);
        Ok(Postgres {
            config,
            encryption: tls::Encryption::of(opening.config)?,
            namespace: opening.namespace.to_owned(),
            timeout: opening.timeout,
            columns_batch: opening.columns_batch,
        })
    }

    async fn connect(&self) -> Result<Client, Failure> {
        // The connection ends by itself when its client is dropped.
        let connected = async {
            match &self.encryption {
                tls::Encryption::None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    tokio::spawn(connection.map(|_| ()));
                    Ok(client)
                }
                tls::Encryption::Tls(connector) => {
                    let (client, connection) = self.config.connect((**connector).clone()).await?;
                    tokio::spawn(connection.map(|_| ()));
                    Ok(client)
                }
            }
        };
        match tokio::time::timeout(CONNECT, connected).await {
            Ok(result) => result.map_err(|error: tokio_postgres::Error| told(&error)),
            Err(_) => Err(Failure::Unreachable("Postgres: no connection within 25 s; check host and port".to_owned())),
        }
    }

    /// Runs work with a connection, within the time of one statement.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Failure>> + Send) -> Result<T, Failure> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Unreachable("Postgres: no answer within Warehouse.connectionTimeout".to_owned())),
        }
    }

    async fn run(&self, statements: Vec<String>) -> Result<(), Failure> {
        self.within(async {
            let client = self.connect().await?;
            for statement in &statements {
                client.batch_execute(statement).await.map_err(|error| told(&error))?;
            }
            Ok(())
        })
        .await
    }

    fn target(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.namespace), quoted(table))
    }

    async fn load_one(&self, load: &TableLoad) -> Result<Loaded, Failure> {
        let mut client = self.connect().await?;
        let transaction = client.transaction().await.map_err(|error| told(&error))?;
        self.stage(&transaction, STAGING, load).await?;
        let loaded = self.load_staged(&transaction, STAGING, load).await?;
        transaction.commit().await.map_err(|error| told(&error))?;
        Ok(loaded)
    }

    /// Copies the rows of the load files into a temporary table like the target.
    async fn stage(&self, transaction: &Transaction<'_>, staging: &str, load: &TableLoad) -> Result<(), Failure> {
        let create = format!(
            "DROP TABLE IF EXISTS pg_temp.{staging}; CREATE TEMPORARY TABLE {staging} (LIKE {}) ON COMMIT DROP",
            self.target(&load.table)
        );
        transaction.batch_execute(&create).await.map_err(|error| told(&error))?;
        let copy = format!("COPY pg_temp.{staging} ({}) FROM STDIN", column_list(&load.columns));
        let sink = transaction.copy_in::<_, Bytes>(&copy).await.map_err(|error| told(&error))?;
        let mut sink = std::pin::pin!(sink);
        let (chunks, mut received) = mpsc::channel::<Bytes>(4);
        let (files, fields) = (load.files.clone(), load.columns.len());
        let reader = tokio::task::spawn_blocking(move || copy_text(&files, fields, &chunks));
        while let Some(chunk) = received.recv().await {
            sink.send(chunk).await.map_err(|error| told(&error))?;
        }
        // A file that could not be read must not end as a short copy.
        reader.await??;
        sink.finish().await.map_err(|error| told(&error))?;
        Ok(())
    }

    async fn load_staged(
        &self,
        transaction: &Transaction<'_>,
        staging: &str,
        load: &TableLoad,
    ) -> Result<Loaded, Failure> {
        let (target, staging) = (self.target(&load.table), format!("pg_temp.{staging}"));
        let mut updated = 0;
        if load.merges
            && let Some(delete) = delete_matching(&target, &staging, &load.table, &load.columns)
        {
            updated = transaction.execute(&delete, &[]).await.map_err(|error| told(&error))?;
        }
        let insert = insert_latest(&target, &staging, &load.table, &load.columns);
        let inserted = transaction.execute(&insert, &[]).await.map_err(|error| told(&error))?;
        Ok(Loaded { inserted: inserted.saturating_sub(updated), updated })
    }

    async fn load_both(&self, load: &UsersLoad) -> Result<(Loaded, Loaded), Failure> {
        let mut client = self.connect().await?;
        let transaction = client.transaction().await.map_err(|error| told(&error))?;
        let mut loaded = (Loaded::default(), Loaded::default());
        if let Some(identifies) = &load.identifies {
            self.stage(&transaction, STAGING, identifies).await.map_err(|failure| failure.during("identifies"))?;
            loaded.0 = self.load_staged(&transaction, STAGING, identifies).await?;
            if load.users.is_some() && identifies.columns.contains_key("user_id") && !load.loads_users_as_they_come {
                let names = UserTables {
                    users: &self.target("users"),
                    identifies: &format!("pg_temp.{STAGING}"),
                    union: "\"rudder_staging_users_union\"",
                    latest: "\"rudder_staging_users_latest\"",
                };
                let kind = load.users_in_warehouse.get("id").map_or("text", |kind| declared(kind));
                let user_id = format!("CAST(\"user_id\" AS {kind})");
                let mut changed = Vec::new();
                for statement in compute_users(&names, &load.users_in_warehouse, &identifies.columns, &user_id) {
                    let rows = transaction.execute(&statement, &[]).await.map_err(|error| told(&error));
                    changed.push(rows.map_err(|failure| failure.during("users"))?);
                }
                if let [.., deleted, inserted] = changed.as_slice() {
                    loaded.1 = Loaded { inserted: inserted.saturating_sub(*deleted), updated: *deleted };
                }
            }
        }
        if let Some(users) = load.users.as_ref().filter(|_| load.loads_users_as_they_come || load.identifies.is_none())
        {
            self.stage(&transaction, STAGING, users).await.map_err(|failure| failure.during("users"))?;
            loaded.1 = self.load_staged(&transaction, STAGING, users).await?;
        }
        transaction.commit().await.map_err(|error| told(&error))?;
        Ok(loaded)
    }
}

const STAGING: &str = "\"rudder_staging\"";

/// Rows of load files in the text format of COPY, in chunks. Blocks.
fn copy_text(files: &[PathBuf], fields: usize, chunks: &mpsc::Sender<Bytes>) -> Result<(), Failure> {
    let mut chunk = BytesMut::with_capacity(CHUNK + 1024);
    let gone = || Failure::refused("the copy ended early");
    csv_rows::visit(files, fields, |row| {
        for (place, field) in row.iter().enumerate() {
            if place > 0 {
                chunk.put_u8(b'\t');
            }
            match csv_rows::value(field) {
                Some(field) => put_escaped(&mut chunk, field),
                None => chunk.put_slice(b"\\N"),
            }
        }
        chunk.put_u8(b'\n');
        if chunk.len() >= CHUNK {
            chunks.blocking_send(chunk.split().freeze()).map_err(|_| gone())?;
        }
        Ok(())
    })?;
    if !chunk.is_empty() {
        chunks.blocking_send(chunk.freeze()).map_err(|_| gone())?;
    }
    Ok(())
}

/// A field of COPY; the database knows no zero characters.
fn put_escaped(out: &mut BytesMut, field: &[u8]) {
    for byte in field {
        match byte {
            b'\\' => out.put_slice(b"\\\\"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            0 => {}
            byte => out.put_u8(*byte),
        }
    }
}

/// What the database or the connection said, without anything of the configuration.
fn told(error: &tokio_postgres::Error) -> Failure {
    let Some(database) = error.as_db_error() else {
        let mut message = format!("Postgres: {error}");
        if let Some(source) = std::error::Error::source(error) {
            message = format!("{message}: {source}");
        }
        return Failure::Unreachable(message);
    };
    let code = database.code();
    let message = format!("Postgres: {} ({})", database.message(), code.code());
    let category = match code.code() {
        // Starting, stopping, too many clients: nothing about the upload.
        "57P01" | "57P02" | "57P03" | "53300" => return Failure::Unreachable(message),
        _ if *code == SqlState::INVALID_CATALOG_NAME || *code == SqlState::UNDEFINED_TABLE => {
            Category::ResourceNotFound
        }
        "25006" => Category::ResourceNotFound,
        "28P01" | "28000" | "42501" => Category::Permission,
        "54011" => Category::ColumnCount,
        "53100" | "53200" => Category::InsufficientResource,
        _ => Category::Uncategorized,
    };
    Failure::Refused { category, message }
}

fn additions(columns: &[(&String, &String)]) -> String {
    let add =
        |(name, kind): &(&String, &String)| format!("ADD COLUMN IF NOT EXISTS {} {}", quoted(name), declared(kind));
    columns.iter().map(add).collect::<Vec<_>>().join(", ")
}

impl Provider for Postgres {
    fn ping(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.run(vec!["SELECT 1".to_owned()]).boxed()
    }

    fn create_namespace(&self) -> BoxFuture<'_, Result<(), Failure>> {
        self.run(vec![format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&self.namespace))]).boxed()
    }

    fn fetch_schema(&self) -> BoxFuture<'_, Result<Schema, Failure>> {
        let work = async {
            let client = self.connect().await?;
            let statement = format!(
                "SELECT c.table_name, c.column_name, c.data_type FROM information_schema.columns AS c JOIN \
                 information_schema.tables AS t ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
                 WHERE c.table_schema = {} AND t.table_type = 'BASE TABLE'",
                literal(&self.namespace)
            );
            let rows = client.query(&statement, &[]).await.map_err(|error| told(&error))?;
            let mut schema = Schema::new();
            for row in rows {
                let of = |at: usize| row.try_get::<_, String>(at).map_err(|error| told(&error));
                let (table, column, kind) = (of(0)?, of(1)?, of(2)?);
                if table.starts_with("rudder_staging_") {
                    continue;
                }
                let columns = schema.entry(table).or_default();
                match known(&kind) {
                    Some(kind) => {
                        columns.insert(column, kind.to_owned());
                    }
                    None => super::super::events::unknown_type(&kind),
                }
            }
            Ok(schema)
        };
        self.within(work).boxed()
    }

    fn create_table<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        let columns = columns.iter().map(|(name, kind)| format!("{} {}", quoted(name), declared(kind)));
        let columns = columns.collect::<Vec<_>>().join(", ");
        self.run(vec![format!("CREATE TABLE IF NOT EXISTS {} ({columns})", self.target(table))]).boxed()
    }

    fn add_columns<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        let columns: Vec<(&String, &String)> = columns.iter().collect();
        let alter = |batch: &[(&String, &String)]| format!("ALTER TABLE {} {}", self.target(table), additions(batch));
        self.run(columns.chunks(self.columns_batch.max(1)).map(alter).collect()).boxed()
    }

    fn drop_table<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        self.run(vec![format!("DROP TABLE IF EXISTS {}", self.target(table))]).boxed()
    }

    fn load<'a>(&'a self, load: &'a TableLoad) -> BoxFuture<'a, Result<Loaded, Failure>> {
        self.within(self.load_one(load)).boxed()
    }

    fn load_users<'a>(&'a self, load: &'a UsersLoad) -> BoxFuture<'a, UsersLoaded> {
        async move {
            match self.within(self.load_both(load)).await {
                Ok((identifies, users)) => UsersLoaded { identifies: Ok(identifies), users: Ok(users) },
                Err(failure) => UsersLoaded { identifies: Err(failure.clone()), users: Err(failure) },
            }
        }
        .boxed()
    }

    fn query<'a>(&'a self, statement: &'a str, most: usize) -> BoxFuture<'a, Result<QueryRows, Failure>> {
        let work = async move {
            let client = self.connect().await?;
            // A query reads, whatever it says.
            let begin = format!("BEGIN READ ONLY; SET LOCAL search_path TO {}", quoted(&self.namespace));
            client.batch_execute(&begin).await.map_err(|error| told(&error))?;
            let mut found = QueryRows::default();
            for message in client.simple_query(statement).await.map_err(|error| told(&error))? {
                let SimpleQueryMessage::Row(row) = message else { continue };
                if found.rows.len() >= most {
                    break;
                }
                if found.columns.is_empty() {
                    found.columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
                }
                found.rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
            }
            Ok(found)
        };
        self.within(work).boxed()
    }
}

/// The configuration's text, for the sibling files.
fn config_text(config: &Map<String, Value>, key: &str) -> String {
    text(config, key)
}

//! `CLICKHOUSE` over its HTTP interface (warehouse.md 12.5).
//!
//! Rows are inserted as they come: the engines of the tables keep the newest of rows with one key.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;

use super::sql::literal;
use super::{
    Failure, Loaded, Opening, Provider, QueryRows, Schema, TableLoad, TableSchema, UsersLoad, UsersLoaded, csv_rows,
    flag, text,
};
use crate::warehouse::events;
use crate::warehouse::failure::Category;

/// Bytes of rows that are sent at once.
const CHUNK: usize = 256 << 10;

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(25);

/// Ports of the native protocol, and those on which the same server speaks HTTP.
const NATIVE_PORTS: [(&str, &str); 2] = [("9000", "8123"), ("9440", "8443")];

/// A database.
pub(super) struct ClickHouse {
    client: reqwest::Client,
    url: String,
    user: String,
    password: String,
    database: String,
    cluster: String,
    partition: &'static str,
}

impl ClickHouse {
    pub(super) fn new(opening: &Opening<'_>) -> Result<ClickHouse, Failure> {
        let of = |key: &str| text(opening.config, key);
        let partition = match of("partitionType").as_str() {
            "" | "day" => "toDate",
            "week" => "toStartOfWeek",
            "month" => "toStartOfMonth",
            "quarter" => "toStartOfQuarter",
            other => {
                return Err(Failure::refused(format!(
                    "partitionType {other:?} of the destination is not one of day, week, month, quarter"
                )));
            }
        };
        let is_secure = flag(opening.config, "secure");
        let mut client = reqwest::Client::builder().connect_timeout(CONNECT).timeout(opening.timeout).no_proxy();
        if is_secure && flag(opening.config, "skipVerify") {
            client = client.danger_accept_invalid_certs(true);
        }
        let authority = of("caCertificate");
        if is_secure && !authority.is_empty() {
            let wrong = |error: reqwest::Error| Failure::refused(format!("caCertificate of the destination: {error}"));
            client = client.add_root_certificate(reqwest::Certificate::from_pem(authority.as_bytes()).map_err(wrong)?);
        }
        let client =
            client.build().map_err(|error| Failure::refused(format!("cannot make an HTTP client: {error}")))?;
        let port = of("port");
        let port = NATIVE_PORTS.iter().find(|(native, _)| *native == port).map_or(port.as_str(), |(_, http)| http);
        let port = if port.is_empty() { if is_secure { "8443" } else { "8123" } } else { port };
        Ok(ClickHouse {
            client,
            url: format!("{}://{}:{port}/", if is_secure { "https" } else { "http" }, of("host")),
            user: of("user"),
            password: of("password"),
            database: opening.namespace.to_owned(),
            cluster: of("cluster"),
            partition,
        })
    }

    fn address(&self, parameters: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        format!("{}?{}", self.url, query.extend_pairs(parameters).finish())
    }

    /// Sends a statement, its data in the body, and returns the answer.
    async fn send(&self, statement: &str, body: reqwest::Body) -> Result<String, Failure> {
        let request = self
            .client
            .post(self.address(&[("query", statement)]))
            .header("X-ClickHouse-User", if self.user.is_empty() { "default" } else { &self.user })
            .header("X-ClickHouse-Key", &self.password)
            .body(body);
        let away = |error: reqwest::Error| Failure::Unreachable(format!("ClickHouse: {}", error.without_url()));
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let code = response.headers().get("X-ClickHouse-Exception-Code").and_then(|code| code.to_str().ok());
        let code = code.unwrap_or_default().to_owned();
        let answer = response.text().await.map_err(away)?;
        if status.is_success() && code.is_empty() {
            return Ok(answer);
        }
        let message = format!("ClickHouse: {} {}", status.as_u16(), answer.chars().take(500).collect::<String>());
        if matches!(status.as_u16(), 502..=504) {
            return Err(Failure::Unreachable(message));
        }
        let is_code = |wanted: &str| code == wanted || message.contains(&format!("Code: {wanted}."));
        let category = if is_code("81") || is_code("60") {
            Category::ResourceNotFound
        } else if is_code("516") || is_code("497") || is_code("192") {
            Category::Permission
        } else if is_code("241") {
            Category::InsufficientResource
        } else if is_code("202") {
            Category::ConcurrentQueries
        } else {
            Category::Uncategorized
        };
        Err(Failure::Refused { category, message })
    }

    async fn run(&self, statement: String) -> Result<String, Failure> {
        self.send(&statement, reqwest::Body::default()).await
    }

    fn target(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.database), quoted(table))
    }

    fn on_cluster(&self) -> String {
        if self.cluster.is_empty() { String::new() } else { format!(" ON CLUSTER {}", quoted(&self.cluster)) }
    }

    fn create_statement(&self, table: &str, columns: &TableSchema) -> String {
        let sorted: &[&str] = match table {
            "users" => &["id"],
            "rudder_discards" => &["received_at"],
            _ if columns.contains_key("received_at") => &["received_at", "id"],
            _ => &["id"],
        };
        let sorted: Vec<&str> = sorted.iter().copied().filter(|column| columns.contains_key(*column)).collect();
        let definitions =
            columns.iter().map(|(name, kind)| format!("{} {}", quoted(name), declared(table, name, kind, &sorted)));
        let engine = if table == "users" { "AggregatingMergeTree" } else { "ReplacingMergeTree" };
        let engine = if self.cluster.is_empty() {
            format!("{engine}()")
        } else {
            let path = format!("/clickhouse/{{cluster}}/tables/{}/{{database}}/{{table}}", uuid::Uuid::new_v4());
            format!("Replicated{engine}({}, '{{replica}}')", literal(&path))
        };
        let order = if sorted.is_empty() {
            "tuple()".to_owned()
        } else {
            format!("({})", sorted.iter().map(|column| quoted(column)).collect::<Vec<_>>().join(", "))
        };
        let partition = if columns.contains_key("received_at") {
            format!(" PARTITION BY {}({})", self.partition, quoted("received_at"))
        } else {
            String::new()
        };
        format!(
            "CREATE TABLE IF NOT EXISTS {}{} ({}) ENGINE = {engine} ORDER BY {order}{partition}",
            self.target(table),
            self.on_cluster(),
            definitions.collect::<Vec<_>>().join(", ")
        )
    }

    async fn insert(&self, load: &TableLoad) -> Result<Loaded, Failure> {
        let columns = load.columns.keys().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let statement = format!("INSERT INTO {} ({columns}) FORMAT TabSeparated", self.target(&load.table));
        let (chunks, received) = mpsc::channel::<Result<Bytes, Failure>>(4);
        let (files, kinds) = (load.files.clone(), load.columns.values().cloned().collect::<Vec<_>>());
        let reader = tokio::task::spawn_blocking(move || {
            let outcome = tab_separated(&files, &kinds, &chunks);
            if let Err(failure) = &outcome {
                // The request must break off: a short body would be taken for all rows.
                drop(chunks.blocking_send(Err(failure.clone())));
            }
            outcome
        });
        let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(received, |mut received| async move {
            received.recv().await.map(|chunk| (chunk, received))
        }));
        let sent = self.send(&statement, body).await;
        let rows = reader.await??;
        sent?;
        Ok(Loaded { inserted: rows, updated: 0 })
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`").replace('\0', ""))
}

fn basic(kind: &str) -> String {
    if let Some(item) = kind.strip_prefix("array(").and_then(|rest| rest.strip_suffix(')')) {
        return format!("Array({})", basic(item));
    }
    match kind {
        "int" | "bigint" => "Int64",
        "float" => "Float64",
        "datetime" => "DateTime",
        "boolean" => "UInt8",
        _ => "String",
    }
    .to_owned()
}

/// The declared type of a column.
fn declared(table: &str, column: &str, kind: &str, sorted: &[&str]) -> String {
    let basic = basic(kind);
    if kind.starts_with("array(") || sorted.contains(&column) || column == "received_at" {
        return basic;
    }
    if table == "users" {
        return if column == "id" { basic } else { format!("SimpleAggregateFunction(anyLast, Nullable({basic}))") };
    }
    if matches!(column, "event" | "event_text") && basic == "String" {
        return "LowCardinality(String)".to_owned();
    }
    format!("Nullable({basic})")
}

/// The type that a declared one stands for.
fn known(declared: &str) -> Option<String> {
    let inner = |prefix: &str| declared.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(')'));
    if let Some(inner) = inner("Nullable(").or_else(|| inner("LowCardinality(")) {
        return known(inner);
    }
    if let Some(inner) = inner("SimpleAggregateFunction(anyLast, ") {
        return known(inner);
    }
    if let Some(item) = inner("Array(") {
        return known(item).map(|item| format!("array({item})"));
    }
    let kind = match declared {
        "Int64" | "Int32" | "Int16" | "Int8" => "int",
        "Float64" | "Float32" => "float",
        "String" => "string",
        "UInt8" | "Bool" => "boolean",
        _ if declared.starts_with("DateTime") => "datetime",
        _ => return None,
    };
    Some(kind.to_owned())
}

/// Rows of load files as tab-separated lines, in chunks; returns how many. Blocks.
fn tab_separated(
    files: &[PathBuf],
    kinds: &[String],
    chunks: &mpsc::Sender<Result<Bytes, Failure>>,
) -> Result<u64, Failure> {
    let mut chunk = BytesMut::with_capacity(CHUNK + 1024);
    let mut rows = 0;
    let gone = || Failure::Unreachable("ClickHouse: the insert ended early".to_owned());
    csv_rows::visit(files, kinds.len(), |row| {
        for (place, (field, kind)) in row.iter().zip(kinds).enumerate() {
            if place > 0 {
                chunk.put_u8(b'\t');
            }
            put_value(&mut chunk, field, kind);
        }
        chunk.put_u8(b'\n');
        rows += 1;
        if chunk.len() >= CHUNK {
            chunks.blocking_send(Ok(chunk.split().freeze())).map_err(|_| gone())?;
        }
        Ok(())
    })?;
    if !chunk.is_empty() {
        chunks.blocking_send(Ok(chunk.freeze())).map_err(|_| gone())?;
    }
    Ok(rows)
}

/// A field of its column's type; what cannot be read is missing.
fn put_value(out: &mut BytesMut, field: &[u8], kind: &str) {
    let text = std::str::from_utf8(field).unwrap_or_default().trim();
    let number = match kind {
        "int" | "bigint" => text.parse::<i64>().ok().map(|number| number.to_string()),
        "float" => text.parse::<f64>().ok().map(|number| number.to_string()),
        "boolean" => match text {
            "1" | "true" => Some("1".to_owned()),
            "0" | "false" => Some("0".to_owned()),
            _ => None,
        },
        "datetime" => text.parse::<Timestamp>().ok().map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string()),
        _ => match csv_rows::value(field) {
            Some(field) => return put_escaped(out, field),
            None => None,
        },
    };
    match number {
        Some(number) => out.put_slice(number.as_bytes()),
        None => out.put_slice(b"\\N"),
    }
}

fn put_escaped(out: &mut BytesMut, field: &[u8]) {
    for byte in field {
        match byte {
            b'\\' => out.put_slice(b"\\\\"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            byte => out.put_u8(*byte),
        }
    }
}

impl Provider for ClickHouse {
    fn ping(&self) -> BoxFuture<'_, Result<(), Failure>> {
        async { self.run("SELECT 1".to_owned()).await.map(|_| ()) }.boxed()
    }

    fn create_namespace(&self) -> BoxFuture<'_, Result<(), Failure>> {
        let create = format!("CREATE DATABASE IF NOT EXISTS {}{}", quoted(&self.database), self.on_cluster());
        async { self.run(create).await.map(|_| ()) }.boxed()
    }

    fn fetch_schema(&self) -> BoxFuture<'_, Result<Schema, Failure>> {
        let select = format!(
            "SELECT table, name, type FROM system.columns WHERE database = {} FORMAT JSONCompactEachRow",
            literal(&self.database).replace('\\', "\\\\")
        );
        async {
            let answer = self.run(select).await?;
            let mut schema = Schema::new();
            for line in answer.lines() {
                let Ok([table, column, kind]) = serde_json::from_str::<[String; 3]>(line) else { continue };
                let columns = schema.entry(table).or_default();
                match known(&kind) {
                    Some(kind) => {
                        columns.insert(column, kind);
                    }
                    None => events::unknown_type(&kind),
                }
            }
            Ok(schema)
        }
        .boxed()
    }

    fn create_table<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.run(self.create_statement(table, columns)).await.map(|_| ()) }.boxed()
    }

    fn add_columns<'a>(&'a self, table: &'a str, columns: &'a TableSchema) -> BoxFuture<'a, Result<(), Failure>> {
        let add = columns.iter().map(|(name, kind)| {
            format!("ADD COLUMN IF NOT EXISTS {} {}", quoted(name), declared(table, name, kind, &[]))
        });
        let add = add.collect::<Vec<_>>().join(", ");
        let alter = format!("ALTER TABLE {}{} {add}", self.target(table), self.on_cluster());
        async { self.run(alter).await.map(|_| ()) }.boxed()
    }

    fn drop_table<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        let drop = format!("DROP TABLE IF EXISTS {}{}", self.target(table), self.on_cluster());
        async { self.run(drop).await.map(|_| ()) }.boxed()
    }

    fn load<'a>(&'a self, load: &'a TableLoad) -> BoxFuture<'a, Result<Loaded, Failure>> {
        self.insert(load).boxed()
    }

    fn load_users<'a>(&'a self, load: &'a UsersLoad) -> BoxFuture<'a, UsersLoaded> {
        async move {
            let identifies = match &load.identifies {
                Some(identifies) => self.insert(identifies).await,
                None => Ok(Loaded::default()),
            };
            let users = match (&identifies, &load.users) {
                (Err(failure), _) => Err(failure.clone()),
                (Ok(_), Some(users)) => self.insert(users).await,
                (Ok(_), None) => Ok(Loaded::default()),
            };
            UsersLoaded { identifies, users }
        }
        .boxed()
    }

    fn query<'a>(&'a self, statement: &'a str, most: usize) -> BoxFuture<'a, Result<QueryRows, Failure>> {
        async move {
            let format = "JSONCompactStringsEachRowWithNames";
            let body = reqwest::Body::from(statement.to_owned());
            let request = self
                .client
                .post(self.address(&[("default_format", format), ("readonly", "1"), ("database", &self.database)]))
                .header("X-ClickHouse-User", if self.user.is_empty() { "default" } else { &self.user })
                .header("X-ClickHouse-Key", &self.password)
                .body(body);
            let away = |error: reqwest::Error| Failure::Unreachable(format!("ClickHouse: {}", error.without_url()));
            let response = request.send().await.map_err(away)?;
            let is_success = response.status().is_success();
            let answer = response.text().await.map_err(away)?;
            if !is_success {
                return Err(Failure::refused(answer.chars().take(500).collect::<String>()));
            }
            let mut lines = answer.lines().filter_map(|line| serde_json::from_str::<Vec<Value>>(line).ok());
            let cell = |value: Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            };
            let columns = lines.next().unwrap_or_default().into_iter().filter_map(cell).collect();
            let rows = lines.take(most).map(|row| row.into_iter().map(cell).collect()).collect();
            Ok(QueryRows { columns, rows })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_read_back() {
        for (table, column, kind) in [
            ("tracks", "n", "int"),
            ("tracks", "event", "string"),
            ("users", "n", "float"),
            ("users", "id", "string"),
            ("tracks", "received_at", "datetime"),
            ("tracks", "flags", "array(boolean)"),
        ] {
            assert_eq!(known(&declared(table, column, kind, &["received_at", "id"])).as_deref(), Some(kind));
        }
        assert_eq!(known("UUID"), None);
    }

    #[test]
    fn values_that_cannot_be_read_are_missing() {
        let put = |field: &str, kind: &str| {
            let mut out = BytesMut::new();
            put_value(&mut out, field.as_bytes(), kind);
            String::from_utf8(out.to_vec()).unwrap()
        };
        for (field, kind, expected) in [
            ("5", "int", "5"),
            ("x", "int", "\\N"),
            ("1.2345675e+06", "float", "1234567.5"),
            ("1", "boolean", "1"),
            ("2030-01-02T03:04:05.678Z", "datetime", "2030-01-02 03:04:05"),
            ("a\tb\\", "string", "a\\tb\\\\"),
            ("  ", "string", "\\N"),
        ] {
            assert_eq!(put(field, kind), expected, "{field} as {kind}");
        }
    }
}

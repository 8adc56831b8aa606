//! Redis: hashes, or documents of its JSON module (router.md 16).
//!
//! A record goes out as one `HSET`; a document is read, merged and written back. Both may be repeated without harm.
//! Records of one user come one after the other, so nothing is overwritten that was read meanwhile.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo,
    RedisError, TlsCertificates,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::fault::Fault;
use super::standing::{Standing, is_same_configuration};
use super::tls::read_certificates;

/// Port of addresses that name none.
const PORT: u16 = 6379;

/// A store of one destination.
pub struct Redis {
    config: Map<String, Value>,
    setup: Result<Setup, Fault>,
    connection: Standing<Connection>,
}

/// The configuration, read once.
#[derive(Clone)]
struct Setup {
    addresses: Vec<(String, u16)>,
    password: Option<String>,
    database: i64,
    is_cluster: bool,
    has_tls: bool,
    skips_verification: bool,
    ca_certificate: Option<String>,
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What a destination transformation makes of an event.
#[derive(Deserialize)]
struct Payload {
    message: Record,
}

#[derive(Deserialize)]
struct Record {
    key: String,
    hash: Option<String>,
    path: Option<String>,
    value: Option<Value>,
    fields: Option<Map<String, Value>>,
}

impl std::fmt::Debug for Redis {
    /// Without the configuration, which holds a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

impl Redis {
    /// The client for this configuration. What is wrong with it is told with every record.
    pub fn new(config: &Map<String, Value>) -> Redis {
        Redis { setup: Setup::read(config), config: config.clone(), connection: Standing::default() }
    }

    /// Whether both come from the same configuration.
    pub fn is_configured_like(&self, other: &Redis) -> bool {
        is_same_configuration(&self.config, &other.config)
    }

    /// Writes what the payload says.
    ///
    /// # Errors
    /// As [`super::Client::send`].
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let payload: Payload =
            serde_json::from_slice(payload).map_err(|error| Fault::Payload(format!("unreadable record: {error}")))?;
        let connecting = tokio::time::timeout(timeout, self.connected(timeout)).await;
        let (number, mut connection) =
            connecting.unwrap_or_else(|_| Err(Fault::Unreachable(format!("no connection within {timeout:?}"))))?;
        let writing = async {
            match &mut connection {
                Connection::Single(connection) => write(connection, payload.message).await,
                Connection::Cluster(connection) => write(connection, payload.message).await,
            }
        };
        let written = tokio::time::timeout(timeout, writing).await;
        let written = written.unwrap_or_else(|_| Err(Fault::Interrupted(format!("no answer within {timeout:?}"))));
        if matches!(written, Err(Fault::Interrupted(_) | Fault::Unreachable(_))) {
            // It may be beyond use; the next record opens another.
            self.connection.give_up(number);
        }
        written
    }

    async fn connected(&self, timeout: Duration) -> Result<(u64, Connection), Fault> {
        let setup = self.setup.as_ref().map_err(Fault::clone)?;
        self.connection.get(|_| true, setup.connect(timeout)).await
    }
}

impl Setup {
    fn read(config: &Map<String, Value>) -> Result<Setup, Fault> {
        let fault = |text: String| Err(Fault::Configuration(text));
        let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let mut addresses = Vec::new();
        for address in text("address").unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match address_of(address) {
                Some(address) => addresses.push(address),
                None => return fault(format!("address {address:?} is not host:port")),
            }
        }
        if addresses.is_empty() {
            return fault("address cannot be empty".to_owned());
        }
        let database = match (config.get("database"), text("database")) {
            (Some(Value::Number(number)), _) => number.as_i64(),
            (_, Some(text)) => text.parse().ok(),
            _ => Some(0),
        };
        let is_cluster = flag("clusterMode").unwrap_or(true);
        let Some(database) = database.filter(|number| *number >= 0).or(is_cluster.then_some(0)) else {
            return fault("database must be a number".to_owned());
        };
        let has_tls = flag("secure").unwrap_or(false);
        let ca_certificate = text("caCertificate").filter(|_| has_tls).map(str::to_owned);
        if let Some(certificate) = &ca_certificate {
            read_certificates(certificate)?;
        }
        Ok(Setup {
            addresses,
            password: config.get("password").and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned),
            database,
            is_cluster,
            has_tls,
            skips_verification: flag("skipVerify").unwrap_or(false),
            ca_certificate,
        })
    }

    async fn connect(&self, timeout: Duration) -> Result<Connection, Fault> {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: self.ca_certificate.as_ref().map(|certificate| certificate.clone().into_bytes()),
        };
        let infos = self.addresses.iter().map(|address| self.info(address)).collect::<Result<Vec<_>, _>>();
        let infos = infos.map_err(|error| fault_of(&error, true))?;
        if self.is_cluster {
            let mut builder = ClusterClientBuilder::new(infos).connection_timeout(timeout).response_timeout(timeout);
            if let Some(password) = &self.password {
                builder = builder.password(password.clone());
            }
            if self.has_tls {
                builder = builder.certs(certificates);
            }
            let client = builder.build().map_err(|error| fault_of(&error, true))?;
            let connection = client.get_async_connection().await.map_err(|error| fault_of(&error, true))?;
            return Ok(Connection::Cluster(connection));
        }
        let Some(info) = infos.into_iter().next() else {
            return Err(Fault::Configuration("address cannot be empty".to_owned()));
        };
        let client = if self.has_tls { Client::build_with_tls(info, certificates) } else { Client::open(info) };
        let client = client.map_err(|error| fault_of(&error, true))?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(|error| fault_of(&error, true))?;
        // Not left to the library, which does not tell a wrong password from a server that is busy.
        if let Some(password) = &self.password {
            ask::<()>(&mut connection, redis::cmd("AUTH").arg(password)).await?;
        }
        if self.database != 0 {
            ask::<()>(&mut connection, redis::cmd("SELECT").arg(self.database)).await?;
        }
        Ok(Connection::Single(connection))
    }

    fn info(&self, (host, port): &(String, u16)) -> Result<ConnectionInfo, RedisError> {
        let address = if self.has_tls {
            let insecure = self.skips_verification;
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        };
        address.into_connection_info()
    }
}

/// `host:port`, `host`, `[::1]:port`.
fn address_of(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

async fn write(connection: &mut impl ConnectionLike, record: Record) -> Result<(), Fault> {
    if let Some(fields) = record.fields {
        let mut command = redis::cmd("HSET");
        command.arg(record.key);
        for (name, value) in fields {
            command.arg(name).arg(text_of(value));
        }
        return ask::<()>(connection, &command).await;
    }
    let Some(value) = record.value else {
        return Err(Fault::Payload("the record holds neither fields nor a value".to_owned()));
    };
    if let Some(hash) = record.hash {
        let mut command = redis::cmd("HSET");
        command.arg(hash).arg(record.key).arg(text_of(value));
        return ask::<()>(connection, &command).await;
    }
    let mut read = redis::cmd("JSON.GET");
    read.arg(&record.key);
    let stored: Option<String> = ask(connection, &read).await?;
    let stored = stored.and_then(|text| serde_json::from_str(&text).ok());
    let merged = merge_at(stored, record.path.as_deref().unwrap_or_default(), value);
    let mut command = redis::cmd("JSON.SET");
    command.arg(record.key).arg("$").arg(merged.to_string());
    ask::<()>(connection, &command).await
}

async fn ask<T: FromRedisValue>(connection: &mut impl ConnectionLike, command: &Cmd) -> Result<T, Fault> {
    command.query_async(connection).await.map_err(|error| fault_of(&error, false))
}

fn text_of(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The document to write: what is stored with the value laid over it, under `path` unless that is empty. Incoming
/// members win, lists are replaced, nulls stay.
pub fn merge_at(stored: Option<Value>, path: &str, value: Value) -> Value {
    let incoming = if path.is_empty() { value } else { Value::Object(Map::from_iter([(path.to_owned(), value)])) };
    let mut document = stored.unwrap_or_else(|| Value::Object(Map::new()));
    merge(&mut document, incoming);
    document
}

fn merge(stored: &mut Value, incoming: Value) {
    match (stored, incoming) {
        (Value::Object(stored), Value::Object(incoming)) => {
            for (key, value) in incoming {
                merge(stored.entry(key).or_insert(Value::Null), value);
            }
        }
        (stored, incoming) => *stored = incoming,
    }
}

fn fault_of(error: &RedisError, is_connecting: bool) -> Fault {
    let text = error.to_string();
    if refuses_credentials(&text) || error.kind() == ErrorKind::AuthenticationFailed {
        return Fault::Credentials(text);
    }
    match error.kind() {
        ErrorKind::InvalidClientConfig => Fault::Configuration(text),
        ErrorKind::Server(_) | ErrorKind::Extension => Fault::Server(text),
        _ if is_connecting || error.is_connection_refusal() => Fault::Unreachable(text),
        _ => Fault::Interrupted(text),
    }
}

/// Whether an error text of a server says that the password is missing or wrong.
pub fn refuses_credentials(text: &str) -> bool {
    ["WRONGPASS", "NOAUTH", "invalid password"].iter().any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_merged_key_by_key() {
        for (stored, path, value, expected) in [
            (None, "", json!({ "a": null }), json!({ "a": null })),
            (None, "m", json!({ "a": 1 }), json!({ "m": { "a": 1 } })),
            (
                Some(json!({ "a": { "x": 1, "y": [1, 2] }, "k": "v" })),
                "",
                json!({ "a": { "y": [3], "z": null }, "k": { "n": 1 } }),
                json!({ "a": { "x": 1, "y": [3], "z": null }, "k": { "n": 1 } }),
            ),
            (
                Some(json!({ "m": { "a": 1 }, "o": 2 })),
                "m",
                json!({ "b": 2 }),
                json!({ "m": { "a": 1, "b": 2 }, "o": 2 }),
            ),
            (Some(json!([1])), "", json!({ "a": 1 }), json!({ "a": 1 })),
        ] {
            assert_eq!(merge_at(stored.clone(), path, value), expected, "{stored:?} {path}");
        }
    }

    #[test]
    fn a_configuration_that_cannot_work_is_told_apart_from_a_server_that_is_away() {
        let read = |config: Value| Setup::read(config.as_object().unwrap());
        let setup = read(json!({ "address": "a:1, [::1]:2,b" })).unwrap();
        assert_eq!(setup.addresses, [("a".to_owned(), 1), ("::1".to_owned(), 2), ("b".to_owned(), 6379)]);
        assert!(setup.is_cluster, "unless it is said that it is none");
        for config in [
            json!({}),
            json!({ "address": "a:port" }),
            json!({ "address": "a", "clusterMode": false, "database": "test" }),
            json!({ "address": "a", "secure": true, "caCertificate": "nonsense" }),
        ] {
            assert_eq!(read(config.clone()).err().map(|fault| fault.code()), Some(400), "{config}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_unreachable_and_worth_another_attempt() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for is_cluster in [false, true] {
            let config = json!({ "address": nobody.to_string(), "clusterMode": is_cluster });
            let redis = Redis::new(config.as_object().unwrap());
            let payload = br#"{"message":{"key":"k","fields":{"a":"1"}},"userId":"u"}"#;
            let fault = redis.send(payload, Duration::from_secs(5)).await.unwrap_err();
            assert_eq!((fault.code(), fault.is_unreachable()), (500, true), "{fault}");
        }
    }
}

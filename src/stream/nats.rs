//! NATS: every event is published to JetStream and counts as sent once a stream has stored it.
//!
//! An extra of this product (router.md 2): topics, which are subjects here, and payloads as KAFKA has them. A
//! connection that breaks is given up; what was not stored fails and comes again over the next one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use async_nats::{ConnectErrorKind, ConnectOptions, ServerAddr};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::fault::Fault;
use super::record::Record;
use super::standing::{Standing, is_same_configuration};
use super::tls::{client_config, read_certificates};

/// The servers of one destination.
pub struct Nats {
    config: Map<String, Value>,
    setup: Result<Setup, Fault>,
    link: Standing<Arc<Link>>,
}

/// The configuration, read once.
#[derive(Clone)]
struct Setup {
    servers: Vec<ServerAddr>,
    topic: String,
    /// A stream to be made when it is not there, with its subjects.
    stream: Option<(String, Vec<String>)>,
    login: Login,
    has_tls: bool,
    ca_certificate: Option<String>,
    deduplicates: bool,
}

#[derive(Clone)]
enum Login {
    None,
    Password(String, String),
    Token(String),
    Credentials(String),
}

/// A connection that stood at least once.
struct Link {
    jetstream: jetstream::Context,
    ended: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for Nats {
    /// Without the configuration, which holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").finish_non_exhaustive()
    }
}

impl Nats {
    /// The client for this configuration. What is wrong with it is told with every record.
    pub fn new(config: &Map<String, Value>) -> Nats {
        Nats { setup: Setup::read(config), config: config.clone(), link: Standing::default() }
    }

    /// Whether both come from the same configuration.
    pub fn is_configured_like(&self, other: &Nats) -> bool {
        is_same_configuration(&self.config, &other.config)
    }

    /// Publishes what the payload says and waits until a stream has stored it.
    ///
    /// # Errors
    /// As [`super::Client::send`].
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let setup = self.setup.as_ref().map_err(Fault::clone)?;
        let record = Record::read(payload)?;
        let subject = record.topic.clone().unwrap_or_else(|| setup.topic.clone());
        if !is_subject(&subject) {
            return Err(Fault::Payload(format!("{subject:?} is no subject to publish to")));
        }
        let connect = async {
            let connecting = tokio::time::timeout(timeout, setup.connect(timeout)).await;
            connecting.unwrap_or_else(|_| Err(Fault::Unreachable(format!("no connection within {timeout:?}"))))
        };
        let (number, link) = self.link.get(|link| !*link.ended.borrow(), connect).await?;
        let sent = link.publish(subject, record, setup.deduplicates).await;
        if matches!(sent, Err(Fault::Interrupted(_))) {
            self.link.give_up(number);
        }
        sent
    }
}

impl Link {
    async fn publish(&self, subject: String, record: Record, deduplicates: bool) -> Result<(), Fault> {
        let mut message = PublishMessage::build();
        if deduplicates {
            let id = record.message_id();
            if !id.is_empty() {
                message = message.message_id(id);
            }
        }
        let message = message.payload(record.message.into());
        let mut ended = self.ended.subscribe();
        let publishing = async {
            let acknowledgement = self.jetstream.send_publish(subject, message).await?;
            acknowledgement.await.map(drop)
        };
        tokio::select! {
            biased;
            published = publishing => published.map_err(|error| fault_of(&error)),
            _closed = ended.wait_for(|ended| *ended) => Err(Fault::Interrupted("the connection was closed".to_owned())),
        }
    }
}

impl Setup {
    fn read(config: &Map<String, Value>) -> Result<Setup, Fault> {
        let fault = |text: String| Err(Fault::Configuration(text));
        let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let flag = |key: &str| config.get(key) == Some(&Value::Bool(true));
        let topic = text("topic").unwrap_or_default();
        if !is_subject(topic) {
            return fault(format!("topic {topic:?} is no subject to publish to"));
        }
        let mut servers = Vec::new();
        for server in text("servers").unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match server.parse() {
                Ok(server) => servers.push(server),
                Err(_) => return fault(format!("servers: {server:?} is not host:port")),
            }
        }
        if servers.is_empty() {
            return fault("servers cannot be empty".to_owned());
        }
        let has_tls = flag("tlsEnabled");
        let ca_certificate = text("caCertificate").filter(|_| has_tls).map(str::to_owned);
        if let Some(certificate) = &ca_certificate {
            read_certificates(certificate)?;
        }
        let password = config.get("password").and_then(Value::as_str).unwrap_or_default();
        let login = match (text("credentials"), text("token"), text("username")) {
            (Some(credentials), _, _) => Login::Credentials(credentials.to_owned()),
            (_, Some(token), _) => Login::Token(token.to_owned()),
            (_, _, Some(user)) => Login::Password(user.to_owned(), password.to_owned()),
            _ => Login::None,
        };
        Ok(Setup {
            servers,
            topic: topic.to_owned(),
            stream: text("stream").map(|name| (name.to_owned(), subjects(topic, config))),
            login,
            has_tls,
            ca_certificate,
            deduplicates: flag("deduplicate"),
        })
    }

    async fn connect(&self, timeout: Duration) -> Result<Arc<Link>, Fault> {
        let ended = Arc::new(watch::Sender::new(false));
        let sign = Arc::clone(&ended);
        let mut options = ConnectOptions::new()
            .name("pintle")
            .connection_timeout(timeout)
            .ping_interval(Duration::from_secs(30))
            .event_callback(move |event| {
                let sign = Arc::clone(&sign);
                async move {
                    if matches!(event, async_nats::Event::Disconnected | async_nats::Event::Closed) {
                        sign.send_replace(true);
                    }
                }
            });
        options = match &self.login {
            Login::None => options,
            Login::Password(user, password) => options.user_and_password(user.clone(), password.clone()),
            Login::Token(token) => options.token(token.clone()),
            Login::Credentials(text) => options
                .credentials(text)
                .map_err(|error| Fault::Configuration(format!("credentials cannot be read: {error}")))?,
        };
        if self.has_tls {
            let authority = self.ca_certificate.clone();
            let reading = tokio::task::spawn_blocking(move || client_config(authority.as_deref())).await;
            let config = reading.unwrap_or_else(|error| Err(Fault::Interrupted(error.to_string())))?;
            options = options.require_tls(true).tls_client_config(config);
        }
        let client = options.connect(&self.servers[..]).await.map_err(|error| match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Fault::Credentials(error.to_string())
            }
            ConnectErrorKind::ServerParse => Fault::Configuration(error.to_string()),
            _ => Fault::Unreachable(error.to_string()),
        })?;
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(timeout);
        if let Some((name, subjects)) = &self.stream {
            let config = stream::Config { name: name.clone(), subjects: subjects.clone(), ..stream::Config::default() };
            let made = jetstream.get_or_create_stream(config).await;
            made.map_err(|error| Fault::Server(format!("the stream {name} is not there and cannot be made: {error}")))?;
        }
        Ok(Arc::new(Link { jetstream, ended }))
    }
}

/// Every subject that the configuration names, once.
fn subjects(topic: &str, config: &Map<String, Value>) -> Vec<String> {
    let mut subjects = vec![topic.to_owned()];
    for key in ["eventTypeToTopicMap", "eventToTopicMap"] {
        for row in config.get(key).and_then(Value::as_array).into_iter().flatten() {
            if let Some(subject) = row.get("to").and_then(Value::as_str).filter(|subject| is_subject(subject)) {
                subjects.push(subject.to_owned());
            }
        }
    }
    subjects.sort();
    subjects.dedup();
    subjects
}

/// Whether events can be published to it: words joined by dots, without wildcards.
fn is_subject(subject: &str) -> bool {
    subject.split('.').all(|word| {
        !word.is_empty() && word != "*" && word != ">" && !word.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

fn fault_of(error: &PublishError) -> Fault {
    let text = error.to_string();
    match error.kind() {
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Fault::Interrupted(text),
        PublishErrorKind::MaxPayloadExceeded => Fault::Refused(text),
        _ => Fault::Server(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_names_servers_and_a_subject_without_wildcards() {
        let read = |config: Value| Setup::read(config.as_object().unwrap());
        let setup = read(json!({
            "servers": "a:4222, nats://b", "topic": "events.all", "stream": "EVENTS",
            "eventToTopicMap": [{ "from": "Order", "to": "events.orders" }, { "from": "x", "to": "events.all" }],
        }));
        let setup = setup.unwrap();
        assert_eq!(setup.servers.len(), 2);
        let subjects = vec!["events.all".to_owned(), "events.orders".to_owned()];
        assert_eq!(setup.stream, Some(("EVENTS".to_owned(), subjects)));
        for config in [
            json!({ "servers": "a" }),
            json!({ "topic": "t" }),
            json!({ "servers": "a", "topic": "t.>" }),
            json!({ "servers": "a", "topic": "t..u" }),
            json!({ "servers": "a b:c", "topic": "t" }),
            json!({ "servers": "a", "topic": "t", "tlsEnabled": true, "caCertificate": "nonsense" }),
        ] {
            assert_eq!(read(config.clone()).err().map(|fault| fault.code()), Some(400), "{config}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_unreachable() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let nats = Nats::new(json!({ "servers": nobody, "topic": "t" }).as_object().unwrap());
        let fault = nats.send(br#"{"message":{}}"#, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!((fault.code(), fault.is_unreachable()), (500, true), "{fault}");
    }
}

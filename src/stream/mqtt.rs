//! MQTT 3.1.1: every event is published with QoS 1 and counts as sent once the broker has acknowledged it.
//!
//! An extra of this product (router.md 2): topics and payloads as KAFKA has them. A connection that breaks takes what
//! was not acknowledged with it; those records fail and come again over the next connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS,
    TlsConfiguration, Transport,
};
use serde_json::{Map, Value};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::fault::Fault;
use super::record::Record;
use super::standing::{Standing, is_same_configuration};
use super::tls::{client_config, read_certificates};

/// Port of addresses that name none.
const PORT: u16 = 1883;
/// The same with TLS.
const TLS_PORT: u16 = 8883;
/// Records that may be under way at once.
const IN_FLIGHT: u16 = 512;
/// Longest packet of the protocol.
const PACKET_BYTES: usize = 268_435_455;
/// Longest topic of the protocol, bytes.
const TOPIC_BYTES: usize = 65_535;
/// How often an idle connection is tried.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The broker of one destination.
pub struct Mqtt {
    config: Map<String, Value>,
    setup: Result<Setup, Fault>,
    link: Standing<Arc<Link>>,
}

/// The configuration, read once.
#[derive(Clone)]
struct Setup {
    host: String,
    port: u16,
    topic: String,
    client_id: String,
    login: Option<(String, String)>,
    has_tls: bool,
    ca_certificate: Option<String>,
    retains: bool,
}

/// A connection that stood at least once.
struct Link {
    client: AsyncClient,
    shared: Arc<Shared>,
    /// Ends the task that drives the connection.
    _stop: DropGuard,
}

/// What a connection's task and its users share.
struct Shared {
    /// Who waits for the records that were handed over and not yet sent, in their order.
    unsent: Mutex<VecDeque<oneshot::Sender<()>>>,
    ended: watch::Sender<Option<Fault>>,
}

impl std::fmt::Debug for Mqtt {
    /// Without the configuration, which holds a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mqtt").finish_non_exhaustive()
    }
}

impl Mqtt {
    /// The client for this configuration. What is wrong with it is told with every record.
    pub fn new(config: &Map<String, Value>) -> Mqtt {
        Mqtt { setup: Setup::read(config), config: config.clone(), link: Standing::default() }
    }

    /// Whether both come from the same configuration.
    pub fn is_configured_like(&self, other: &Mqtt) -> bool {
        is_same_configuration(&self.config, &other.config)
    }

    /// Publishes what the payload says and waits for the broker's acknowledgement.
    ///
    /// # Errors
    /// As [`super::Client::send`].
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let setup = self.setup.as_ref().map_err(Fault::clone)?;
        let record = Record::read(payload)?;
        let topic = record.topic.as_deref().unwrap_or(&setup.topic);
        if !is_topic(topic) {
            return Err(Fault::Payload(format!("{topic:?} is no topic to publish to")));
        }
        let stands = |link: &Arc<Link>| link.shared.ended.borrow().is_none();
        let (number, link) = self.link.get(stands, setup.connect(timeout)).await?;
        let sent = link.publish(topic, setup.retains, record.message, timeout).await;
        if sent.is_err() {
            // Also one that is merely slow: what it has not acknowledged must not come after what is sent next.
            self.link.give_up(number);
        }
        sent
    }
}

impl Link {
    async fn publish(&self, topic: &str, retains: bool, value: Vec<u8>, timeout: Duration) -> Result<(), Fault> {
        let (done, acknowledged) = oneshot::channel();
        let mut ended = self.shared.ended.subscribe();
        {
            // Held over both, so that the two queues have one order.
            let mut unsent = self.shared.unsent.lock();
            let published = self.client.try_publish(topic, QoS::AtLeastOnce, retains, value);
            published.map_err(|_| Fault::Server("too many records are under way".to_owned()))?;
            unsent.push_back(done);
        }
        let closed = || Fault::Interrupted("the connection was closed".to_owned());
        tokio::select! {
            biased;
            acknowledged = acknowledged => acknowledged.map_err(|_| closed()),
            fault = ended.wait_for(Option::is_some) => {
                Err(fault.ok().and_then(|fault| fault.clone()).unwrap_or_else(closed))
            }
            () = tokio::time::sleep(timeout) => Err(Fault::Interrupted(format!("no answer within {timeout:?}"))),
        }
    }
}

impl Setup {
    fn read(config: &Map<String, Value>) -> Result<Setup, Fault> {
        let fault = |text: String| Err(Fault::Configuration(text));
        let text = |key: &str| config.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let flag = |key: &str| config.get(key) == Some(&Value::Bool(true));
        let topic = text("topic").unwrap_or_default();
        if !is_topic(topic) {
            return fault(format!("topic {topic:?} is no topic to publish to"));
        }
        let has_tls = flag("tlsEnabled");
        let address = text("address").unwrap_or_default();
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (address, Some(if has_tls { TLS_PORT } else { PORT })),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let Some(port) = port.filter(|port| *port > 0 && !host.is_empty()) else {
            return fault(format!("address {address:?} is not host:port"));
        };
        let ca_certificate = text("caCertificate").filter(|_| has_tls).map(str::to_owned);
        if let Some(certificate) = &ca_certificate {
            read_certificates(certificate)?;
        }
        let password = config.get("password").and_then(Value::as_str).unwrap_or_default();
        Ok(Setup {
            host: host.to_owned(),
            port,
            topic: topic.to_owned(),
            client_id: text("clientId")
                .map_or_else(|| format!("pintle-{}", uuid::Uuid::new_v4().as_u64_pair().0), str::to_owned),
            login: text("username").map(|user| (user.to_owned(), password.to_owned())),
            has_tls,
            ca_certificate,
            retains: flag("retain"),
        })
    }

    async fn connect(&self, timeout: Duration) -> Result<Arc<Link>, Fault> {
        let mut options = MqttOptions::new(&self.client_id, &self.host, self.port);
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_inflight(IN_FLIGHT)
            .set_max_packet_size(PACKET_BYTES, PACKET_BYTES);
        if let Some((user, password)) = &self.login {
            options.set_credentials(user, password);
        }
        if self.has_tls {
            let authority = self.ca_certificate.clone();
            let reading = tokio::task::spawn_blocking(move || client_config(authority.as_deref())).await;
            let config = reading.unwrap_or_else(|error| Err(Fault::Interrupted(error.to_string())))?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
        }
        let (client, mut events) = AsyncClient::new(options, usize::from(IN_FLIGHT));
        // Until the broker has accepted the connection.
        match tokio::time::timeout(timeout, events.poll()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(fault_of(error, true)),
            Err(_) => return Err(Fault::Unreachable(format!("no connection within {timeout:?}"))),
        }
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared { unsent: Mutex::default(), ended: watch::Sender::new(None) });
        tokio::spawn(drive(events, Arc::clone(&shared), stop.clone()));
        Ok(Arc::new(Link { client, shared, _stop: stop.drop_guard() }))
    }
}

/// Moves a connection on until it breaks or nobody wants it any more.
async fn drive(mut events: EventLoop, shared: Arc<Shared>, stop: CancellationToken) {
    let mut unacknowledged = HashMap::new();
    while let Some(event) = stop.run_until_cancelled(events.poll()).await {
        match event {
            Ok(Event::Outgoing(Outgoing::Publish(number))) => {
                if let Some(waiting) = shared.unsent.lock().pop_front() {
                    unacknowledged.insert(number, waiting);
                }
            }
            Ok(Event::Incoming(Packet::PubAck(acknowledgement))) => {
                let waiting = unacknowledged.remove(&acknowledgement.pkid);
                if waiting.is_some_and(|waiting: oneshot::Sender<()>| waiting.send(()).is_err()) {
                    tracing::trace!("an acknowledgement came after its record was given up");
                }
            }
            Ok(_) => {}
            Err(error) => {
                shared.ended.send_replace(Some(fault_of(error, false)));
                return;
            }
        }
    }
}

fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= TOPIC_BYTES && !topic.contains(['+', '#', '\0'])
}

fn fault_of(error: ConnectionError, is_connecting: bool) -> Fault {
    let text = error.to_string();
    match error {
        ConnectionError::ConnectionRefused(code) => match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => Fault::Credentials(text),
            ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::BadClientId => Fault::Configuration(text),
            ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => Fault::Server(text),
        },
        _ if is_connecting => Fault::Unreachable(text),
        _ => Fault::Interrupted(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_names_a_broker_and_a_topic_without_wildcards() {
        let read = |config: Value| Setup::read(config.as_object().unwrap());
        for (address, has_tls, expected) in [
            ("a", false, ("a", 1883)),
            ("a", true, ("a", 8883)),
            ("a:99", true, ("a", 99)),
            ("[::1]:99", false, ("::1", 99)),
        ] {
            let setup = read(json!({ "address": address, "topic": "t/u", "tlsEnabled": has_tls })).unwrap();
            assert_eq!((setup.host.as_str(), setup.port), expected);
            assert!(setup.client_id.starts_with("pintle-"));
        }
        for config in [
            json!({ "address": "a" }),
            json!({ "topic": "t" }),
            json!({ "address": "a:x", "topic": "t" }),
            json!({ "address": "a", "topic": "t/#" }),
            json!({ "address": "a", "topic": "t", "tlsEnabled": true, "caCertificate": "nonsense" }),
        ] {
            assert_eq!(read(config.clone()).err().map(|fault| fault.code()), Some(400), "{config}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_is_away_is_unreachable_and_a_topic_of_an_event_may_be_none() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mqtt = Mqtt::new(json!({ "address": nobody, "topic": "t" }).as_object().unwrap());
        let limit = Duration::from_secs(5);
        let fault = mqtt.send(br#"{"message":{}}"#, limit).await.unwrap_err();
        assert_eq!((fault.code(), fault.is_unreachable()), (500, true), "{fault}");
        let fault = mqtt.send(br#"{"message":{},"topic":"a/+"}"#, limit).await.unwrap_err();
        assert_eq!((fault.code(), fault.is_unreachable()), (400, false), "{fault}");
    }
}

//! One connection to a cluster: librdkafka's producer, and the thread that it reports on.
//!
//! When no broker can be reached, or one refuses the login, the producer is in trouble for good: whoever waits for
//! it is told at once, and the next record opens another producer. Nothing is left in its queue for later.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use super::super::fault::Fault;
use super::partition::ByKey;
use super::target::Target;
use crate::settings::{KafkaCompression, KafkaSettings};

/// Attempts of librdkafka after the first one.
const REPEATS: u32 = 2;
/// How much longer than librdkafka's own limit a record is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// Records that librdkafka holds at most, in kilobytes of their values.
const QUEUE_KILOBYTES: u32 = 128 * 1024;
/// Limits of librdkafka for times, in milliseconds.
const TIMES_MS: (u128, u128) = (1_000, 300_000);

/// A connection to a cluster.
pub(super) struct Producer {
    /// Taken when it is dropped.
    inner: Option<ThreadedProducer<Reports, ByKey>>,
    reports: Reports,
}

/// What librdkafka reports, on its own threads.
#[derive(Clone)]
struct Reports(Arc<Heard>);

struct Heard {
    trouble: watch::Sender<Option<Fault>>,
    /// The last word about a connection.
    connection: Mutex<String>,
}

impl ClientContext for Reports {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Errors come to `error` as well; what a client meets belongs to the job that it fails.
        tracing::debug!(facility, "librdkafka: {text}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, Fatal, SSL};
        let fault = match error.rdkafka_error_code() {
            Some(AllBrokersDown) => {
                let known = self.0.connection.lock().clone();
                Fault::Unreachable(if known.is_empty() { reason.to_owned() } else { known })
            }
            // A server that is slow, or went away in between, has not refused anybody.
            Some(Authentication) if ["timed out", "Disconnected"].iter().any(|sign| reason.contains(sign)) => {
                Fault::Unreachable(reason.to_owned())
            }
            Some(Authentication) => Fault::Credentials(reason.to_owned()),
            Some(SSL) => Fault::Unreachable(reason.to_owned()),
            Some(Fatal) => Fault::Interrupted(reason.to_owned()),
            _ => {
                reason.clone_into(&mut self.0.connection.lock());
                return;
            }
        };
        self.0.trouble.send_if_modified(|trouble| {
            let is_first = trouble.is_none();
            trouble.get_or_insert(fault);
            is_first
        });
    }
}

impl ProducerContext<ByKey> for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Option<KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        // Nobody may wait any more.
        drop(waiting.send(result.as_ref().err().map(|(error, _)| error.clone())));
    }

    fn get_custom_partitioner(&self) -> Option<&ByKey> {
        Some(&ByKey)
    }
}

impl Producer {
    /// Opens a connection, once a broker is there to be talked to.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] when none of the brokers answers, [`Fault::Configuration`] for what librdkafka
    /// refuses.
    pub(super) async fn connect(
        target: &Target,
        settings: &KafkaSettings,
        timeout: Duration,
    ) -> Result<Arc<Producer>, Fault> {
        let dialled = tokio::time::timeout(settings.dial_timeout, dial(&target.brokers)).await;
        dialled.unwrap_or_else(|_| Err(Fault::Unreachable(format!("no answer within {:?}", settings.dial_timeout))))?;
        let config = config_of(target, settings, timeout);
        let reports = Reports(Arc::new(Heard { trouble: watch::Sender::new(None), connection: Mutex::default() }));
        let context = reports.clone();
        // Reads certificates.
        let opening =
            tokio::task::spawn_blocking(move || ThreadedProducer::from_config_and_context(&config, context)).await;
        match opening {
            Ok(Ok(inner)) => Ok(Arc::new(Producer { inner: Some(inner), reports })),
            Ok(Err(error)) => Err(Fault::Configuration(plain(&error))),
            Err(error) => Err(Fault::Interrupted(error.to_string())),
        }
    }

    /// What made this connection useless, if anything did.
    pub(super) fn trouble(&self) -> Option<Fault> {
        self.reports.0.trouble.borrow().clone()
    }

    /// Sends a record and waits for the word of the cluster.
    ///
    /// # Errors
    /// What went wrong with the record, or with the connection.
    pub(super) async fn send(&self, topic: &str, key: &[u8], value: &[u8], timeout: Duration) -> Result<(), Fault> {
        let Some(inner) = &self.inner else {
            return Err(Fault::Interrupted("the connection is closed".to_owned()));
        };
        let (done, delivered) = oneshot::channel();
        let mut trouble = self.reports.0.trouble.subscribe();
        let record = BaseRecord::with_opaque_to(topic, Box::new(done)).key(key).payload(value);
        inner.send(record).map_err(|(error, _)| fault_of(&error))?;
        tokio::select! {
            biased;
            report = delivered => match report {
                Ok(None) => Ok(()),
                Ok(Some(error)) => Err(self.trouble().unwrap_or_else(|| fault_of(&error))),
                Err(_) => Err(Fault::Interrupted("the connection was closed".to_owned())),
            },
            fault = trouble.wait_for(Option::is_some) => {
                let fault = fault.ok().and_then(|fault| fault.clone());
                Err(fault.unwrap_or_else(|| Fault::Interrupted("the connection was closed".to_owned())))
            }
            () = tokio::time::sleep(timeout + GRACE) => Err(Fault::Interrupted(format!("no answer within {timeout:?}"))),
        }
    }
}

impl Drop for Producer {
    /// Closing waits for librdkafka's threads, so it has a thread of its own.
    fn drop(&mut self) {
        let inner = self.inner.take();
        if let Err(error) = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(inner)) {
            tracing::warn!(%error, "no thread to close a Kafka connection on");
        }
    }
}

/// Whether one of the brokers takes connections.
async fn dial(brokers: &[String]) -> Result<(), Fault> {
    let mut refused = Fault::Unreachable("no broker is named".to_owned());
    for broker in brokers {
        match TcpStream::connect(broker.as_str()).await {
            Ok(_) => return Ok(()),
            Err(error) => refused = Fault::Unreachable(format!("cannot connect to {broker}: {error}")),
        }
    }
    Err(refused)
}

fn config_of(target: &Target, settings: &KafkaSettings, timeout: Duration) -> ClientConfig {
    let ms = |time: Duration| time.as_millis().clamp(TIMES_MS.0, TIMES_MS.1).to_string();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", target.brokers.join(","))
        .set("client.id", "pintle")
        .set("security.protocol", security_of(target))
        .set("acks", "all")
        .set("retries", REPEATS.to_string())
        .set("max.in.flight.requests.per.connection", "1")
        .set("message.timeout.ms", ms(timeout))
        // A topic that is not there is known as such before the record's own time is over.
        .set("topic.metadata.propagation.max.ms", (timeout / 2).as_millis().max(1).to_string())
        .set("request.timeout.ms", ms(settings.read_timeout))
        .set("socket.timeout.ms", ms(settings.read_timeout.max(settings.write_timeout)))
        .set("socket.connection.setup.timeout.ms", ms(settings.dial_timeout))
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "1000")
        .set("linger.ms", settings.batch_timeout.min(timeout / 2).as_millis().to_string())
        .set("batch.num.messages", settings.batch_size.clamp(1, 1_000_000).to_string())
        .set("batch.size", settings.batch_bytes.to_string())
        .set("message.max.bytes", settings.batch_bytes.to_string())
        .set("queue.buffering.max.kbytes", QUEUE_KILOBYTES.to_string())
        .set(
            "compression.codec",
            match settings.compression {
                KafkaCompression::None => "none",
                KafkaCompression::Gzip => "gzip",
                KafkaCompression::Snappy => "snappy",
                KafkaCompression::Lz4 => "lz4",
            },
        )
        .set_log_level(RDKafkaLogLevel::Warning);
    if target.uses_tls {
        match &target.ca_certificate {
            Some(pem) => {
                config.set("ssl.ca.pem", pem);
                if let Some((certificate, key)) = &settings.client_certificate {
                    config.set("ssl.certificate.location", certificate.display().to_string());
                    config.set("ssl.key.location", key.display().to_string());
                }
            }
            None => {
                config.set("ssl.ca.location", "probe");
            }
        }
        if settings.tls_insecure_skip_verify {
            config.set("enable.ssl.certificate.verification", "false");
        }
    }
    if let Some(login) = &target.login {
        config.set("sasl.mechanism", login.mechanism);
        config.set("sasl.username", &login.user);
        config.set("sasl.password", &login.password);
    }
    config
}

fn security_of(target: &Target) -> &'static str {
    match (target.uses_tls, &target.login) {
        (false, _) => "plaintext",
        (true, None) => "ssl",
        (true, Some(_)) => "sasl_ssl",
    }
}

/// What an error of a record means (router.md 15.1): what passes by itself is worth another attempt.
fn fault_of(error: &KafkaError) -> Fault {
    use RDKafkaErrorCode as Code;
    let Some(code) = error.rdkafka_error_code() else {
        return Fault::Payload(plain(error));
    };
    let text = code.to_string();
    match code {
        Code::BrokerTransportFailure
        | Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::BrokerDestroy
        | Code::DestroyBroker
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::Interrupted
        | Code::Fatal
        | Code::Retry => Fault::Interrupted(text),
        Code::QueueFull
        | Code::ISRInsufficient
        | Code::UnknownPartition
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::RequestTimedOut
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::RebalanceInProgress
        | Code::NotController
        | Code::KafkaStorageError
        | Code::InvalidMessage
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::StaleBrokerEpoch
        | Code::OffsetNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::EligibleLeadersNotAvailable
        | Code::ReassignmentInProgress
        | Code::ThrottlingQuotaExceeded
        | Code::UnknownTopicId => Fault::Server(text),
        Code::Authentication | Code::SaslAuthenticationFailed => Fault::Credentials(text),
        _ => Fault::Refused(text),
    }
}

/// The library's text without the value of a setting, which may be a password.
fn plain(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, text, key, _) => format!("{key}: {text}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;

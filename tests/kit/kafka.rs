//! Kafka: a cluster inside librdkafka, which can be switched off, and a real broker with TLS and logins.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::process::{Server, free_port};
use super::{Received, tools};

/// User of the real broker.
pub const USER: &str = "kit";
/// Its password.
pub const PASSWORD: &str = "kit-secret";

/// Longest single wait of a reader.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A cluster of one broker inside librdkafka: real connections, no TLS, no logins.
pub struct MockKafka(MockCluster<'static, DefaultProducerContext>);

impl MockKafka {
    /// Starts the broker, with a topic of four partitions.
    pub fn start(topic: &str) -> MockKafka {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic(topic, 4, 1).expect("a topic");
        MockKafka(cluster)
    }

    /// `host:port` of the broker.
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Breaks every connection and takes none.
    pub fn close(&self) {
        self.0.broker_down(1).expect("the broker can go");
    }

    /// Takes connections again.
    pub fn open(&self) {
        self.0.broker_up(1).expect("the broker can come back");
    }

    /// Reads the topic from its beginning.
    pub fn read(&self, topic: &str) -> KafkaReader {
        KafkaReader::start(ClientConfig::new().set("bootstrap.servers", self.address()), topic)
    }
}

/// A real broker, reached with TLS and a login only.
pub struct Kafka {
    folder: tempfile::TempDir,
    server: Server,
}

impl Kafka {
    /// Starts the broker with a user ([`USER`], [`PASSWORD`]) for every mechanism.
    pub fn start() -> Kafka {
        let folder = tempfile::Builder::new().prefix("pintle-kafka-").tempdir().expect("a temporary folder");
        let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
        let pem = |name: &str| std::fs::read_to_string(format!("{tls}/{name}")).expect("a fixture");
        let keystore = folder.path().join("keystore.pem");
        std::fs::write(&keystore, pem("first.key") + &pem("first.pem")).expect("a file can be written");
        let (port, controller) = (free_port(), free_port());
        let (keystore, data) = (keystore.display(), folder.path().join("data"));
        let data = data.display();
        let settings = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=SASL_SSL\n\
             sasl.mechanism.inter.broker.protocol=PLAIN\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" \
             password=\"admin\" user_admin=\"admin\" user_{USER}=\"{PASSWORD}\";\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\nssl.keystore.location={keystore}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={tls}/ca.pem\n\
             log.dirs={data}\n\
             num.partitions=4\n\
             offsets.topic.replication.factor=1\n"
        );
        std::fs::write(folder.path().join("server.properties"), settings).expect("a file can be written");
        let mut format = java("kafka.tools.StorageTool");
        format.args(["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"]).arg(folder.path().join("server.properties"));
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            format.arg("--add-scram").arg(format!("{mechanism}=[name={USER},password={PASSWORD}]"));
        }
        let formatted = format.stdin(Stdio::null()).output().expect("java runs; run `tests/setup test`");
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        let mut kafka = Kafka { server: Server::new("kafka", port, folder.path()), folder };
        kafka.open();
        kafka
    }

    /// Starts the broker (again), with what it held.
    pub fn open(&mut self) {
        let mut command = java("kafka.Kafka");
        command.arg(self.folder.path().join("server.properties"));
        self.server.start(command);
    }

    /// Stops the broker in order.
    pub fn close(&mut self) {
        self.server.stop();
    }

    /// `host:port` of the broker.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The authority that its certificate comes from, as PEM.
    pub fn authority() -> String {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls/ca.pem");
        std::fs::read_to_string(file).expect("a fixture")
    }

    /// Reads the topic from its beginning.
    pub fn read(&self, topic: &str) -> KafkaReader {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.address())
            .set("security.protocol", "sasl_ssl")
            .set("ssl.ca.pem", Kafka::authority())
            .set("sasl.mechanism", "PLAIN")
            .set("sasl.username", USER)
            .set("sasl.password", PASSWORD);
        KafkaReader::start(&config, topic)
    }
}

fn java(class: &str) -> Command {
    let jars = tools().expect("PINTLE_TEST_TOOLS names the folder that `tests/setup test` fills").join("kafka");
    assert!(jars.is_dir(), "no Kafka broker below {}; run `tests/setup test`", jars.display());
    let mut command = Command::new("java");
    command.args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(format!("{}/*", jars.display())).arg(class);
    command
}

/// Reads a topic on a thread of its own. Stops when dropped.
pub struct KafkaReader {
    received: Arc<Received>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KafkaReader {
    fn start(config: &ClientConfig, topic: &str) -> KafkaReader {
        let mut config = config.clone();
        config
            .set("group.id", "kit")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("topic.metadata.refresh.interval.ms", "500")
            .set("reconnect.backoff.max.ms", "500")
            .set("allow.auto.create.topics", "true");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        consumer.subscribe(&[topic]).expect("a topic can be read");
        let (received, stopping) = (Arc::new(Received::default()), Arc::new(AtomicBool::new(false)));
        let (seen, stop) = (Arc::clone(&received), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                // An error is a broker that is away, or a topic that is not there yet.
                if let Some(Ok(message)) = consumer.poll(LOOK_EVERY) {
                    seen.note(message.payload().expect("a value"));
                }
            }
        });
        KafkaReader { received, stopping, thread: Some(thread) }
    }

    /// What was read so far.
    pub fn received(&self) -> Arc<Received> {
        Arc::clone(&self.received)
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

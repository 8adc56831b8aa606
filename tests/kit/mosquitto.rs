//! A real MQTT broker on a free port, which can be stopped and started again, and a subscriber.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

use super::Received;
use super::process::{Server, free_port};

/// User of the broker.
pub const MQTT_USER: &str = "kit";
/// Its password.
pub const MQTT_PASSWORD: &str = "kit-secret";

/// A running broker. Killed when dropped.
pub struct Mosquitto {
    folder: tempfile::TempDir,
    server: Server,
    tls_port: u16,
}

impl Mosquitto {
    /// Starts a broker that wants a login, on one port with TLS and on another without.
    pub fn start() -> Mosquitto {
        let folder = tempfile::Builder::new().prefix("pintle-mosquitto-").tempdir().expect("a temporary folder");
        let (port, tls_port) = (free_port(), free_port());
        let path = folder.path();
        let passwords = path.join("passwords");
        let mut make = Command::new("mosquitto_passwd");
        make.args(["-b", "-c"]).arg(&passwords).args([MQTT_USER, MQTT_PASSWORD]);
        let made = make.output().expect("mosquitto is installed; run `tests/setup test`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
        // As root it would become another user and lose the folder.
        let user = if super::is_root() { "user root\n" } else { "" };
        let settings = format!(
            "{user}persistence true\npersistence_location {}/\nautosave_interval 1\nmax_queued_messages 0\n\
             allow_anonymous false\npassword_file {}\nlistener {port} 127.0.0.1\n\
             listener {tls_port} 127.0.0.1\ncertfile {tls}/first.pem\nkeyfile {tls}/first.key\n",
            path.display(),
            passwords.display(),
        );
        std::fs::write(path.join("mosquitto.conf"), settings).expect("a file can be written");
        let mut mosquitto = Mosquitto { server: Server::new("mosquitto", port, path), folder, tls_port };
        mosquitto.open();
        mosquitto
    }

    /// Starts the broker (again), with what it held.
    pub fn open(&mut self) {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(self.folder.path().join("mosquitto.conf"));
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

    /// The same with TLS.
    pub fn tls_address(&self) -> String {
        format!("127.0.0.1:{}", self.tls_port)
    }

    /// Subscribes to the topics of this filter; what is published while the subscriber is away comes later.
    pub fn subscribe(&self, filter: &str) -> Subscriber {
        let address = self.address();
        let (host, port) = address.rsplit_once(':').expect("an address");
        let mut options = MqttOptions::new("kit-subscriber", host, port.parse().expect("a port"));
        options
            .set_clean_session(false)
            .set_credentials(MQTT_USER, MQTT_PASSWORD)
            .set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 10);
        client.subscribe(filter, QoS::AtLeastOnce).expect("a subscription can be asked for");
        let (received, stopping) = (Arc::new(Received::default()), Arc::new(AtomicBool::new(false)));
        let (seen, stop) = (Arc::clone(&received), Arc::clone(&stopping));
        let (subscribed, subscription) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match connection.recv_timeout(Duration::from_millis(100)) {
                    Ok(Ok(Event::Incoming(Packet::Publish(publish)))) => seen.note(&publish.payload),
                    Ok(Ok(Event::Incoming(Packet::SubAck(_)))) => drop(subscribed.send(())),
                    Ok(Ok(_)) | Err(_) => {}
                    // The broker is away; the next call connects again.
                    Ok(Err(_)) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        subscription.recv_timeout(Duration::from_secs(20)).expect("the broker takes the subscription");
        Subscriber { received, stopping, thread: Some(thread), _client: client }
    }
}

/// Reads topics on a thread of its own. Stops when dropped.
pub struct Subscriber {
    received: Arc<Received>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    _client: Client,
}

impl Subscriber {
    /// What was read so far.
    pub fn received(&self) -> Arc<Received> {
        Arc::clone(&self.received)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

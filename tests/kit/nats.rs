//! A real NATS server with JetStream on a free port, which can be stopped and started again.

use std::process::Command;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::StreamExt as _;

use super::Received;
use super::process::{Server, free_port};

/// A running server. Killed when dropped.
pub struct Nats {
    folder: tempfile::TempDir,
    server: Server,
    port: u16,
    token: &'static str,
}

impl Nats {
    /// Starts a server that wants this token.
    pub fn start(token: &'static str) -> Nats {
        let folder = tempfile::Builder::new().prefix("pintle-nats-").tempdir().expect("a temporary folder");
        let port = free_port();
        let mut nats = Nats { server: Server::new("nats-server", port, folder.path()), folder, port, token };
        nats.open();
        nats
    }

    /// Starts the server (again), with what it held.
    pub fn open(&mut self) {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "--auth", self.token, "-js", "-sd"]);
        command.arg(self.folder.path().join("store"));
        self.server.start(command);
    }

    /// Stops the server in order.
    pub fn close(&mut self) {
        self.server.stop();
    }

    /// `host:port` of the server.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// Reads what the stream holds now, from its beginning; nothing when there is no such stream.
    pub fn read(&self, stream: &str) -> Received {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let received = Received::default();
            let options = async_nats::ConnectOptions::with_token(self.token.to_owned());
            let client = options.connect(self.address()).await.expect("the server takes connections");
            let Ok(mut stream) = jetstream::new(client).get_stream(stream).await else { return received };
            let held = stream.info().await.expect("the stream can be asked").state.messages;
            if held == 0 {
                return received;
            }
            let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
            let consumer = stream.create_consumer(config).await.expect("a consumer");
            let most = usize::try_from(held).expect("few");
            let messages = consumer.fetch().max_messages(most).expires(Duration::from_secs(20)).messages().await;
            let mut messages = messages.expect("messages").take(most);
            while let Some(message) = messages.next().await {
                received.note(&message.expect("a message").payload);
            }
            received
        })
    }
}

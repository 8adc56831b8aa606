//! A real Redis server on a free port, which can be stopped and started again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait_until;

/// Longest wait for the server to answer.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running server. Killed when dropped.
pub struct Redis {
    folder: tempfile::TempDir,
    address: SocketAddr,
    password: Option<String>,
    process: Option<Child>,
}

impl Redis {
    /// Starts a server with this password; `None` where Redis is not installed.
    pub fn start(password: Option<&str>) -> Option<Redis> {
        Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound listener has an address");
        drop(free);
        let folder = tempfile::Builder::new().prefix("pintle-redis-").tempdir().expect("a temporary folder");
        let mut redis = Redis { folder, address, password: password.map(str::to_owned), process: None };
        redis.open();
        Some(redis)
    }

    /// Starts the server (again), with what it held.
    pub fn open(&mut self) {
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &self.address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "yes",
        ]);
        command.args(["--appendfsync", "always", "--dir"]).arg(self.folder.path());
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server starts");
        self.process = Some(process);
        wait_until("Redis answers", START_LIMIT, || self.ask(&["PING"]).is_some_and(|answer| answer.contains("PONG")));
    }

    /// Kills the server.
    pub fn close(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The raw answer to a command, if there is one.
    pub fn ask(&self, words: &[&str]) -> Option<String> {
        let mut connection = TcpStream::connect(self.address).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut text = String::new();
        if let Some(password) = &self.password {
            text.push_str(&command(&["AUTH", password]));
        }
        text.push_str(&command(words));
        text.push_str(&command(&["QUIT"]));
        connection.write_all(text.as_bytes()).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

fn command(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{}", words.len(), words.concat())
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.close();
    }
}

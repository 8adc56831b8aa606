//! A server that stands in for AWS (moto), behind a gate that can be closed, as `tests/setup` installed it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::sdk::{missing_tool, tools};
use super::wait_until;

/// Longest wait for the server to answer.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A running stand-in. Killed when dropped.
pub struct Aws {
    server: SocketAddr,
    gate: Gate,
    process: Child,
}

impl Aws {
    /// Starts one.
    ///
    /// Panics where it is not installed.
    pub fn start() -> Aws {
        if let Some(missing) = missing_tool("servers/bin/moto_server") {
            panic!("{missing}");
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = free.local_addr().expect("a bound listener has an address");
        drop(free);
        let process = Command::new(tools().expect("it was looked for").join("servers/bin/python"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/server.py"))
            .args(["-H", "127.0.0.1", "-p", &server.port().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto starts");
        let aws = Aws { server, gate: Gate::before(server), process };
        wait_until("moto answers", START_LIMIT, || TcpStream::connect(server).is_ok());
        aws
    }

    /// Its URL, behind the gate.
    pub fn url(&self) -> String {
        format!("http://{}", self.gate.address)
    }

    /// Nobody gets through the gate any more.
    pub fn close(&self) {
        self.gate.close();
    }

    /// The gate is open again.
    pub fn open(&self) {
        self.gate.is_open.store(true, Ordering::SeqCst);
    }

    /// Connections that found the gate closed.
    pub fn turned_away(&self) -> usize {
        self.gate.turned_away.load(Ordering::SeqCst)
    }

    /// What the script `tests/cloud/aws.py` says, around the gate.
    pub fn ask(&self, service: &str, verb: &str, name: &str) -> Vec<Value> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud/aws.py");
        let output = Command::new(tools().expect("it was looked for").join("servers/bin/python"))
            .arg(script)
            .args([&format!("http://{}", self.server), service, verb, name])
            .env_remove("http_proxy")
            .env_remove("HTTP_PROXY")
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "{service} {verb}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).expect("text");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Passes connections on while it is open.
struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    turned_away: Arc<AtomicUsize>,
    passing: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn before(server: SocketAddr) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let gate = Gate {
            address: listener.local_addr().expect("a bound listener has an address"),
            is_open: Arc::new(AtomicBool::new(true)),
            turned_away: Arc::default(),
            passing: Arc::default(),
        };
        let (is_open, passing) = (Arc::clone(&gate.is_open), Arc::clone(&gate.passing));
        let turned_away = Arc::clone(&gate.turned_away);
        std::thread::spawn(move || {
            for coming in listener.incoming().flatten() {
                let Ok(going) = TcpStream::connect(server) else { continue };
                let mut passing = passing.lock().unwrap_or_else(PoisonError::into_inner);
                if !is_open.load(Ordering::SeqCst) {
                    turned_away.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                // An error here is a connection that ended.
                drop(pass(&coming, &going, &mut passing));
            }
        });
        gate
    }

    fn close(&self) {
        let mut passing = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_open.store(false, Ordering::SeqCst);
        for connection in passing.drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

fn pass(coming: &TcpStream, going: &TcpStream, passing: &mut Vec<TcpStream>) -> io::Result<()> {
    for (from, to) in [(coming, going), (going, coming)] {
        from.set_nodelay(true)?;
        passing.push(from.try_clone()?);
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(read) = from.read(&mut bytes) {
                if read == 0 || to.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
            drop(to.shutdown(Shutdown::Both));
        });
    }
    Ok(())
}

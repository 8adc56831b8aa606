//! A server of somebody else's as a process: it runs until it is told or made to stop.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{holds_within, wait_until};

/// Longest wait for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait for an orderly stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A server on a port of its own. Killed when dropped.
pub struct Server {
    name: &'static str,
    address: SocketAddr,
    output: PathBuf,
    process: Option<Child>,
}

/// A port of this machine that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

impl Server {
    /// A server that is to listen on the port of this machine and to write its output below the folder.
    pub fn new(name: &'static str, port: u16, folder: &Path) -> Server {
        Server {
            name,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            output: folder.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Runs the command and waits until the server listens.
    pub fn start(&mut self, mut command: Command) {
        let output = std::fs::File::options().create(true).append(true).open(&self.output).expect("a log file");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a file can be shared")).stderr(output);
        let missing = format!("{} cannot be started; run `tests/setup test`", self.name);
        self.process = Some(command.spawn().expect(&missing));
        let what = format!("{} listens", self.name);
        wait_until(&what, START_LIMIT, || {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().expect("a child can be asked"));
            let log = || std::fs::read_to_string(&self.output).unwrap_or_default();
            assert!(ended.is_none(), "{} ended at start: {}", self.name, log());
            TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).is_ok()
        });
    }

    /// Asks for an orderly stop and waits for it.
    pub fn stop(&mut self) {
        let Some(process) = &mut self.process else { return };
        rustix::process::kill_process(rustix::process::Pid::from_child(process), rustix::process::Signal::TERM)
            .expect("a child can be signalled");
        let ended = holds_within(STOP_LIMIT, || process.try_wait().expect("a child can be asked").is_some());
        assert!(ended, "{} does not stop", self.name);
        self.process = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

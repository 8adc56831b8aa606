//! A fake control plane: answers every request as told and remembers what it was asked.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::http::{read_body, read_headers, read_line};

/// A request, as far as it matters.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method, path and query.
    pub line: String,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The status that it was answered with.
    pub answered: u16,
}

impl Asked {
    /// The value of the header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct State {
    status: u16,
    document: String,
    version: u64,
    asked: Vec<Asked>,
    ended: bool,
}

/// The server. Ends when dropped.
pub struct ControlPlane {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: Option<JoinHandle<()>>,
}

impl ControlPlane {
    /// A control plane with this workspace.
    pub fn start(document: &str) -> ControlPlane {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { status: 200, document: document.to_owned(), ..State::default() }));
        let shared = Arc::clone(&state);
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if lock(&shared).ended {
                    return;
                }
                // A client that goes away in the middle is its own business.
                drop(serve(&stream, &shared));
                drop(stream.shutdown(Shutdown::Both));
            }
        });
        ControlPlane { address, state, server: Some(server) }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers with this status and text from now on.
    pub fn answer(&self, status: u16, document: &str) {
        let mut state = lock(&self.state);
        (state.status, state.document) = (status, document.to_owned());
        state.version += 1;
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request of a connection; the connection is closed behind it.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let line = read_line(&mut reader)?;
    let headers = read_headers(&mut reader)?;
    // Unread bytes would end the connection before its answer is read.
    read_body(&mut reader, &headers)?;
    let mut state = lock(state);
    let tag = format!("\"{}\"", state.version);
    let is_same = headers.iter().any(|(name, value)| name == "if-none-match" && *value == tag);
    let (status, body) = if state.status == 200 && is_same { (304, "") } else { (state.status, &*state.document) };
    let answer = format!(
        "HTTP/1.1 {status} X\r\nETag: {tag}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let written = answer.into_bytes();
    state.asked.push(Asked { line, headers, answered: status });
    drop(state);
    (&mut &*stream).write_all(&written)
}

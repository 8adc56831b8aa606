//! Connections that a server has to keep beside its work: idle ones, and those whose request never ends.
//!
//! Neither costs the harness more than a socket each: idle ones are opened and asked one after the other, and one
//! thread feeds all the slow heads.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::corpus::{self, Corpus, Stamp};
use crate::wire;

/// A server that does not answer an idle connection for this long does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections of clients that have sent something and may send again.
pub struct IdleConnections {
    streams: Vec<TcpStream>,
    request: Vec<u8>,
}

impl IdleConnections {
    /// Opens them. Each sends one event with a write key that the server does not know: its buffers are then those
    /// of a client that has sent events, and nothing is stored.
    pub fn open(address: SocketAddr, unknown_key: &str, count: usize) -> Result<IdleConnections> {
        let corpus = corpus::build(Corpus::Track1k, &address.to_string(), unknown_key, 1)?;
        let request = corpus.first().context("a corpus of one request")?;
        let mut bytes = Vec::new();
        let authorization = corpus::authorization(unknown_key);
        request.write_to(&mut bytes, &Stamp { first_event: 0, users: &[0], sent_ns: 0, authorization: &authorization });
        let mut idle = IdleConnections { streams: Vec::with_capacity(count), request: bytes };
        for number in 0..count {
            let mut stream =
                TcpStream::connect(address).with_context(|| format!("idle connection {number} of {count}"))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(&mut stream, &idle.request).with_context(|| format!("idle connection {number} of {count}"))?;
            idle.streams.push(stream);
        }
        Ok(idle)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Sends another request on each; how many are answered.
    pub fn count_answering(&mut self) -> usize {
        let request = &self.request;
        self.streams.iter_mut().filter_map(|stream| ask(stream, request).ok()).count()
    }
}

/// One request and its answer, which must be a refusal of the key.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1_024];
    loop {
        if let Some(found) = wire::message(&answer)?
            && answer.len() >= found.head + found.body
        {
            return match wire::status(&answer) {
                Some(401) => Ok(()),
                status => bail!("answered {status:?} instead of 401"),
            };
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            bail!("closed");
        }
        answer.extend_from_slice(&chunk[..read]);
    }
}

/// Every connection sends a byte this often.
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// The thread wakes this often and feeds the connections whose turn it is.
const TICK: Duration = Duration::from_millis(10);
/// What the heads begin with; more of the last line follows, and never its end.
const HEAD: &[u8] = b"POST /v1/track HTTP/1.1\r\nHost: slow\r\nX-Slow: ";

/// What became of slow heads.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlowHeadsTold {
    /// Bytes that were sent.
    pub bytes: u64,
    /// Connections that the server ended, each replaced by a new one.
    pub ended: u64,
    /// Attempts to connect that failed.
    pub refused: u64,
    /// Seconds.
    pub secs: f64,
}

/// Connections that send the head of a request byte by byte, until dropped or ended.
pub struct SlowHeads {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<SlowHeadsTold>>,
}

struct SlowHead {
    stream: TcpStream,
    sent: usize,
}

impl SlowHeads {
    /// Opens them all and begins.
    pub fn start(address: SocketAddr, count: usize) -> Result<SlowHeads> {
        let heads: Vec<Option<SlowHead>> =
            (0..count).map(|_| open_slow(address).map(Some)).collect::<Result<_>>().context("slow connection")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || feed(address, heads, &stopped));
        Ok(SlowHeads { stop, thread: Some(thread) })
    }

    /// Closes them and tells what happened.
    pub fn end(mut self) -> Result<SlowHeadsTold> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended before")?;
        thread.join().map_err(|_| anyhow::anyhow!("the thread of the slow connections failed"))
    }
}

impl Drop for SlowHeads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open_slow(address: SocketAddr) -> Result<SlowHead> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(SlowHead { stream, sent: 0 })
}

fn feed(address: SocketAddr, mut heads: Vec<Option<SlowHead>>, stop: &AtomicBool) -> SlowHeadsTold {
    let mut told = SlowHeadsTold::default();
    let began = Instant::now();
    let mut fed = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(TICK);
        // Turns follow the clock, so that a late thread sends what is due and no more.
        let due = (began.elapsed().as_secs_f64() / BYTE_EVERY.as_secs_f64() * heads.len() as f64) as u64;
        let turns = (due - fed).min(heads.len() as u64);
        for turn in 0..turns {
            let index = ((fed + turn) % heads.len().max(1) as u64) as usize;
            let head = &mut heads[index];
            match head.as_mut().map(SlowHead::send_byte) {
                Some(true) => told.bytes += 1,
                Some(false) => {
                    told.ended += 1;
                    *head = None;
                }
                None => {}
            }
            if head.is_none() {
                match open_slow(address) {
                    Ok(open) => *head = Some(open),
                    Err(_) => told.refused += 1,
                }
            }
        }
        fed = due;
    }
    told.secs = began.elapsed().as_secs_f64();
    told
}

impl SlowHead {
    /// False when the server has ended the connection.
    fn send_byte(&mut self) -> bool {
        let mut said = [0; 512];
        let open = match self.stream.read(&mut said) {
            Ok(0) => false,
            // An answer to half a head is the server's farewell; its end is seen at the next turn.
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        let byte = HEAD.get(self.sent).copied().unwrap_or(b'a');
        self.sent += 1;
        open && matches!(self.stream.write(&[byte]), Ok(1))
    }
}

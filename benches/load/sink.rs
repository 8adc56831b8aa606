//! The sink: a server that answers deliveries at once, or as told, and keeps the books on them.
//!
//! One destination is one path (`/d0`, `/d1`, ...). Behaviour is changed while it runs by
//! `GET /control?path=/d1&status=500&latency_ms=5&fail_percent=10&hang_ms=30000&rate=1000&hold=true`; figures are read from
//! `GET /stats` (JSON), `/delivered` (one number), `/seen?path=/d1` (bit per event); `/mark` starts latency
//! figures anew. Only deliveries that it answered with 2xx are in the books.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::corpus::MESSAGE_ID_PREFIX;
use crate::generator::{Latency, microseconds};
use crate::ledger::Ledger;
use crate::wire;

/// How the sink answers until told otherwise.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Milliseconds before each answer
    #[arg(long, default_value_t = 0)]
    pub latency: u64,
    /// Status of the answers
    #[arg(long, default_value_t = 200)]
    pub status: u16,
    /// Share of answers that are 500 instead, in percent
    #[arg(long, default_value_t = 0)]
    pub fail_percent: u64,
    /// Milliseconds for which each request hangs before its answer
    #[arg(long, default_value_t = 0)]
    pub hang: u64,
}

/// How one path answers.
#[derive(Clone, Copy, Debug)]
struct Behaviour {
    status: u16,
    fail_percent: u64,
    wait: Duration,
    /// Answers per second; 0 = no bound.
    rate: f64,
    /// No answer at all until this is taken back.
    hold: bool,
}

#[derive(Default)]
struct Book {
    ledger: Ledger,
    statuses: BTreeMap<u16, u64>,
    latency: Option<Histogram<u64>>,
    first_ns: u64,
    last_ns: u64,
}

/// Figures of one path.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PathStats {
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Distinct events.
    pub distinct: u64,
    /// Deliveries of events that were there.
    pub duplicates: u64,
    /// First deliveries that came after a later event of the same user.
    pub order_violations: u64,
    /// From `bench_sent_ns` to arrival, since the last mark.
    pub lat_ms: Latency,
    /// Deliveries in `lat_ms`.
    pub lat_count: u64,
    /// Arrival of the first delivery since the last mark, nanoseconds since the epoch.
    pub first_ns: u64,
    /// Arrival of the last one.
    pub last_ns: u64,
}

struct Sink {
    books: RefCell<BTreeMap<String, Book>>,
    behaviours: RefCell<BTreeMap<String, Behaviour>>,
    usual: Behaviour,
    /// When the next answer of a paced path is due.
    due: RefCell<BTreeMap<String, Instant>>,
    changed: Notify,
    delivered: Cell<u64>,
    turn: Cell<u64>,
    message_id: Finder<'static>,
    user_id: Finder<'static>,
    sent: Finder<'static>,
}

/// Listens, prints `listening ADDRESS`, serves until the process ends.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(options))
}

async fn serve(options: &Options) -> Result<()> {
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    println!("listening {}", listener.local_addr()?);
    let sink = Rc::new(Sink {
        books: RefCell::default(),
        behaviours: RefCell::default(),
        usual: Behaviour {
            status: options.status,
            fail_percent: options.fail_percent,
            wait: Duration::from_millis(options.latency + options.hang),
            rate: 0.0,
            hold: false,
        },
        due: RefCell::default(),
        changed: Notify::new(),
        delivered: Cell::new(0),
        turn: Cell::new(0),
        message_id: Finder::new(b"\"messageId\""),
        user_id: Finder::new(b"\"userId\""),
        sent: Finder::new(b"\"bench_sent_ns\""),
    });
    loop {
        let (stream, _) = listener.accept().await?;
        let _slower_but_right = stream.set_nodelay(true);
        let sink = Rc::clone(&sink);
        tokio::task::spawn_local(async move {
            // A peer that goes away in the middle is an ordinary thing in these tests.
            let _ended = sink.converse(stream).await;
        });
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl Sink {
    async fn converse(&self, mut stream: TcpStream) -> Result<()> {
        let mut buffer = Vec::with_capacity(8 << 10);
        let mut answer = Vec::with_capacity(256);
        loop {
            let found = match wire::message(&buffer)? {
                Some(found) if buffer.len() >= found.head + found.body => found,
                _ => {
                    if stream.read_buf(&mut buffer).await? == 0 {
                        return Ok(());
                    }
                    continue;
                }
            };
            let arrived_ns = now_ns();
            let whole = found.head + found.body;
            let (method, target) = wire::request_line(&buffer[..found.head]).context("not HTTP")?;
            answer.clear();
            if method == "GET" {
                let body = self.told(target);
                answer
                    .extend_from_slice(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
                answer.extend_from_slice(&body);
            } else {
                let path = target.to_owned();
                let status = self.decide(&path).await;
                self.enter(&path, status, &buffer[found.head..whole], arrived_ns);
                if status == 200 {
                    answer.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK");
                } else {
                    answer.extend_from_slice(
                        format!("HTTP/1.1 {status} As Told\r\nContent-Length: 0\r\n\r\n").as_bytes(),
                    );
                }
            }
            buffer.drain(..whole);
            stream.write_all(&answer).await?;
        }
    }

    fn behaviour(&self, path: &str) -> Behaviour {
        let behaviours = self.behaviours.borrow();
        if behaviours.is_empty() { self.usual } else { behaviours.get(path).copied().unwrap_or(self.usual) }
    }

    /// Waits as told and says with which status to answer.
    async fn decide(&self, path: &str) -> u16 {
        loop {
            let changed = self.changed.notified();
            if !self.behaviour(path).hold {
                break;
            }
            changed.await;
        }
        let behaviour = self.behaviour(path);
        if behaviour.rate > 0.0 {
            let now = Instant::now();
            let due = {
                let mut due = self.due.borrow_mut();
                let next = due.entry(path.to_owned()).or_insert(now);
                // A path that was idle does not save up answers, a late timer does not lose them.
                let at = (*next).max(now.checked_sub(Duration::from_millis(20)).unwrap_or(now));
                *next = at + Duration::from_secs_f64(1.0 / behaviour.rate);
                at
            };
            if due > now {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        if !behaviour.wait.is_zero() {
            tokio::time::sleep(behaviour.wait).await;
        }
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        // 37 and 100 share no factor: failures are spread, and every hundred answers have exactly their share.
        if behaviour.fail_percent > 0 && (turn * 37) % 100 < behaviour.fail_percent { 500 } else { behaviour.status }
    }

    /// Enters a delivery in the books.
    fn enter(&self, path: &str, status: u16, body: &[u8], arrived_ns: u64) {
        let mut books = self.books.borrow_mut();
        if !books.contains_key(path) {
            books.insert(path.to_owned(), Book::default());
        }
        let Some(book) = books.get_mut(path) else { return };
        *book.statuses.entry(status).or_default() += 1;
        if !(200..300).contains(&status) {
            return;
        }
        let number = value_of(&self.message_id, body).and_then(event_number);
        let user = value_of(&self.user_id, body).and_then(|user| decimal(user.strip_prefix(b"user-")?));
        if let (Some(number), Some(user)) = (number, user) {
            let before = book.ledger.seen.count();
            book.ledger.record(user, number);
            self.delivered.set(self.delivered.get() + book.ledger.seen.count() - before);
        }
        if let Some(sent_ns) = value_of(&self.sent, body).and_then(decimal) {
            let micros = arrived_ns.saturating_sub(sent_ns) / 1_000;
            book.latency.get_or_insert_with(microseconds).saturating_record(micros);
        }
        if book.first_ns == 0 {
            book.first_ns = arrived_ns;
        }
        book.last_ns = arrived_ns;
    }

    /// Answers a question or takes an order.
    fn told(&self, target: &str) -> Vec<u8> {
        let (verb, query) = target.split_once('?').unwrap_or((target, ""));
        let field = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        match verb {
            "/delivered" => self.delivered.get().to_string().into_bytes(),
            "/seen" => {
                let books = self.books.borrow();
                field("path")
                    .and_then(|path| books.get(&path))
                    .map(|book| book.ledger.seen.to_bytes())
                    .unwrap_or_default()
            }
            "/mark" => {
                for book in self.books.borrow_mut().values_mut() {
                    book.latency = None;
                    book.first_ns = 0;
                    book.last_ns = 0;
                }
                b"marked".to_vec()
            }
            "/control" => {
                let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
                let behaviour = Behaviour {
                    status: number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200),
                    fail_percent: number("fail_percent").unwrap_or(0),
                    wait: Duration::from_millis(number("latency_ms").unwrap_or(0) + number("hang_ms").unwrap_or(0)),
                    rate: field("rate").and_then(|text| text.parse().ok()).unwrap_or(0.0),
                    hold: field("hold").is_some_and(|text| text == "true"),
                };
                self.behaviours.borrow_mut().insert(field("path").unwrap_or_default(), behaviour);
                self.changed.notify_waiters();
                b"as told".to_vec()
            }
            _ => serde_json::to_vec(&self.stats()).unwrap_or_default(),
        }
    }

    fn stats(&self) -> BTreeMap<String, PathStats> {
        let books = self.books.borrow();
        let figures = books.iter().map(|(path, book)| {
            let stats = PathStats {
                statuses: book.statuses.clone(),
                distinct: book.ledger.seen.count(),
                duplicates: book.ledger.duplicates,
                order_violations: book.ledger.order_violations,
                lat_ms: book.latency.as_ref().map(Latency::of).unwrap_or_default(),
                lat_count: book.latency.as_ref().map_or(0, Histogram::len),
                first_ns: book.first_ns,
                last_ns: book.last_ns,
            };
            (path.clone(), stats)
        });
        figures.collect()
    }
}

/// The value that follows the first occurrence of a key, without quotes.
fn value_of<'a>(key: &Finder<'_>, body: &'a [u8]) -> Option<&'a [u8]> {
    let after = &body[key.find(body)? + key.needle().len()..];
    let start = after.iter().position(|byte| !matches!(byte, b':' | b' ' | b'"'))?;
    let value = &after[start..];
    let end = value.iter().position(|byte| matches!(byte, b'"' | b',' | b'}' | b' '))?;
    Some(&value[..end])
}

fn event_number(message_id: &[u8]) -> Option<u64> {
    let digits = message_id.strip_prefix(MESSAGE_ID_PREFIX.as_bytes())?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn decimal(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

//! A fake destination: an HTTP server that answers as told and remembers what came.
//!
//! In: POST requests with one event as JSON (what a WEBHOOK destination sends) or a list of events. Out: every event that it accepted
//! (2xx), in order of arrival; from them duplicates by `messageId` and violations of the order per user.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{read_body, read_headers, read_line};

/// How the destination answers.
#[derive(Clone, Copy, Debug)]
pub struct Behaviour {
    /// The status of an answer.
    pub status: u16,
    /// Time before the answer.
    pub latency: Duration,
    /// Takes requests and never answers.
    pub hangs: bool,
    /// Of a hundred requests this many are answered 500 instead.
    pub fail_percent: u64,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour { status: 200, latency: Duration::ZERO, hangs: false, fail_percent: 0 }
    }
}

/// One accepted event.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// When.
    pub at: Instant,
    /// Its user: `userId`, else `anonymousId`.
    pub user: String,
    /// Its `messageId`.
    pub message_id: String,
    /// `properties.n`, the number that rises per user.
    pub n: Option<i64>,
    /// The whole event; null when the destination was told to forget bodies.
    pub event: Value,
}

/// A running fake destination. Stops when dropped.
pub struct Sink {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    behaviour: Mutex<Behaviour>,
    accepted: Mutex<Vec<Accepted>>,
    arrived: Condvar,
    requests: AtomicU64,
    stopping: AtomicBool,
    keep_events: AtomicBool,
    connections: Mutex<HashMap<u64, TcpStream>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    /// Starts a destination that answers 200 at once.
    pub fn start() -> Sink {
        Sink::listen("127.0.0.1:0".parse().expect("an address"))
    }

    fn listen(address: SocketAddr) -> Sink {
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(Behaviour::default()),
            accepted: Mutex::new(Vec::new()),
            arrived: Condvar::new(),
            requests: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            keep_events: AtomicBool::new(true),
            connections: Mutex::new(HashMap::new()),
        });
        let mut sink = Sink { shared, address, accepting: None };
        sink.open();
        sink
    }

    /// Listens (again), on the same port once it has one.
    pub fn open(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the destination's port is free");
        self.address = listener.local_addr().expect("a bound listener has an address");
        self.shared.stopping.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(std::thread::spawn(move || accept_all(&listener, &shared)));
    }

    /// Stops listening and cuts every connection: the destination is unreachable until [`Sink::open`].
    pub fn close(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let Some(accepting) = self.accepting.take() else { return };
        // Wakes the accept call, which then sees the flag.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(1)));
        drop(accepting.join());
        for connection in locked(&self.shared.connections).values() {
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    /// Where events go.
    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// Changes how it answers from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        *locked(&self.shared.behaviour) = behaviour;
    }

    /// Keeps only ids and numbers of later events, for long runs.
    pub fn forget_bodies(&self) {
        self.shared.keep_events.store(false, Ordering::SeqCst);
    }

    /// Requests that came, answered or not.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Accepted events, duplicates counted.
    pub fn count(&self) -> usize {
        locked(&self.shared.accepted).len()
    }

    /// Every accepted event, in order of arrival.
    pub fn accepted(&self) -> Vec<Accepted> {
        locked(&self.shared.accepted).clone()
    }

    /// The ids of the accepted events.
    pub fn message_ids(&self) -> HashSet<String> {
        locked(&self.shared.accepted).iter().map(|accepted| accepted.message_id.clone()).collect()
    }

    /// Waits until at least `count` events were accepted. Panics after the limit.
    pub fn wait_for(&self, count: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut accepted = locked(&self.shared.accepted);
        while accepted.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {count} events arrived within {limit:?}", accepted.len());
            let (guard, _timed_out) =
                self.shared.arrived.wait_timeout(accepted, left).unwrap_or_else(PoisonError::into_inner);
            accepted = guard;
        }
    }

    /// Events that came more than once, each with its first and later arrivals.
    pub fn duplicates(&self) -> HashMap<String, Vec<Instant>> {
        let mut arrivals: HashMap<String, Vec<Instant>> = HashMap::new();
        for accepted in locked(&self.shared.accepted).iter() {
            arrivals.entry(accepted.message_id.clone()).or_default().push(accepted.at);
        }
        arrivals.retain(|_, times| times.len() > 1);
        arrivals
    }

    /// Where the order of a user was broken: an event came for the first time after a later one of the same user.
    pub fn order_violations(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let mut highest: HashMap<String, i64> = HashMap::new();
        let mut violations = Vec::new();
        for accepted in locked(&self.shared.accepted).iter() {
            if !seen.insert(accepted.message_id.clone()) {
                continue;
            }
            let Some(n) = accepted.n else { continue };
            let last = highest.entry(accepted.user.clone()).or_insert(i64::MIN);
            if n < *last {
                violations.push(format!("user {}: {n} after {last}", accepted.user));
            }
            *last = n.max(*last);
        }
        violations
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut next_id = 0;
    for connection in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        next_id += 1;
        let id = next_id;
        if let Ok(handle) = connection.try_clone() {
            locked(&shared.connections).insert(id, handle);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // An error here is a connection that ended, by either side.
            drop(serve(&connection, &shared));
            locked(&shared.connections).remove(&id);
        });
    }
}

fn serve(connection: &TcpStream, shared: &Shared) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    loop {
        let _request_line = read_line(&mut reader)?;
        let headers = read_headers(&mut reader)?;
        let body = read_body(&mut reader, &headers)?;
        let number = shared.requests.fetch_add(1, Ordering::SeqCst);
        let behaviour = *locked(&shared.behaviour);
        if behaviour.hangs {
            // Until the other side gives up.
            let _next = read_line(&mut reader)?;
            return Ok(());
        }
        if !behaviour.latency.is_zero() {
            std::thread::sleep(behaviour.latency);
        }
        // 37 has no common divisor with 100: failures are spread evenly.
        let fails = (number * 37) % 100 < behaviour.fail_percent;
        let status = if fails { 500 } else { behaviour.status };
        if (200..300).contains(&status) {
            remember(&body, shared);
        }
        let answer = format!("HTTP/1.1 {status} Kit\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok");
        writer.write_all(answer.as_bytes())?;
    }
}

fn remember(body: &[u8], shared: &Shared) {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let events = if let Value::Array(events) = body { events } else { vec![body] };
    let accepted = events.into_iter().map(|event| accept(event, shared));
    locked(&shared.accepted).extend(accepted);
    shared.arrived.notify_all();
}

fn accept(event: Value, shared: &Shared) -> Accepted {
    let text = |name: &str| event[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    Accepted {
        at: Instant::now(),
        user: text("userId").or_else(|| text("anonymousId")).unwrap_or_default(),
        message_id: text("messageId").unwrap_or_default(),
        n: event["properties"]["n"].as_i64(),
        event: if shared.keep_events.load(Ordering::SeqCst) { event } else { Value::Null },
    }
}

#[test]
fn the_fake_destination_sees_repeats_broken_order_and_refusals() {
    let sink = Sink::start();
    let mut client = super::Client::new(sink.address);
    let mut send = |user: &str, n: i64| {
        client.post("/events", "any", &super::track(user, n).to_string()).expect("an answer").status
    };
    assert_eq!([send("a", 1), send("a", 3), send("b", 2), send("a", 2), send("a", 3)], [200; 5]);
    assert_eq!(sink.duplicates().keys().collect::<Vec<_>>(), ["a-3"]);
    assert_eq!(sink.order_violations(), ["user a: 2 after 3"]);
    sink.behave(Behaviour { status: 503, ..Behaviour::default() });
    assert_eq!(send("a", 4), 503);
    sink.behave(Behaviour { fail_percent: 25, ..Behaviour::default() });
    let failed = (0..100).filter(|&n| send("c", n) == 500).count();
    assert_eq!(failed, 25);
    assert_eq!((sink.count(), sink.requests()), (5 + 75, 106));
}

#[test]
fn a_closed_fake_destination_refuses_and_comes_back_on_the_same_port() {
    let mut sink = Sink::start();
    let url = sink.url();
    let post = |address| super::Client::new(address).post("/", "any", "{}").map(|answer| answer.status);
    assert_eq!(post(sink.address).expect("an answer"), 200);
    sink.close();
    assert!(post(sink.address).is_err());
    sink.open();
    assert_eq!(sink.url(), url);
    assert_eq!(post(sink.address).expect("an answer"), 200);
}

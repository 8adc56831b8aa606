//! The load generator: closed loop or open loop over raw HTTP/1.1, against any server with the same API.
//!
//! In: an address, a corpus, a number of connections, a rate or none. Out, on standard output: one line
//! `{"mark":n}` at the beginning of the first counted window and at the end of each, then one line with the
//! figures of every window. One thread, so that its cost is small and easy to attribute.
//!
//! Open loop: send times are fixed in advance by a thread of its own, latency counts from the intended time,
//! and how late the generator itself was (`behind`) is kept apart from how slow the server was. Send times that no
//! connection is free for wait, or are dropped and counted where an overload is wanted (`--most-waiting`).
//! Users are divided among the connections, so that the order of one user's events is defined.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use crate::corpus::{self, Corpus, Random, Request, Stamp};
use crate::exchange;
use crate::ledger::Seen;
use crate::pace::{self, Phase};

/// Where send times may be dropped: those that the generator itself comes to later than this. What the server
/// does afterwards is not measured by a backlog of ours.
const TOO_LATE: Duration = Duration::from_millis(50);

/// What to send, where, how fast, how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Server, for example http://127.0.0.1:8080
    #[arg(long)]
    pub url: String,
    /// Write key; with --write-keys N its last digits are replaced by 0 to N-1
    #[arg(long, default_value = "bench-key-000")]
    pub write_key: String,
    /// How many write keys are used in turn
    #[arg(long, default_value_t = 1)]
    pub write_keys: usize,
    /// track-1k, batch-20, mix, wide, track-1k-gzip, batch-20-gzip, empty or oversized
    #[arg(long, default_value = "track-1k")]
    pub corpus: String,
    /// Connections (closed loop: requests in flight)
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Requests per second (open loop); without it the loop is closed
    #[arg(long)]
    pub rate: Option<f64>,
    /// Drop send times when more than this many wait for a free connection, or when they are reached too late
    #[arg(long, requires = "rate")]
    pub most_waiting: Option<usize>,
    /// After the windows: this many requests per second, in windows of their own
    #[arg(long, requires = "rate")]
    pub then_rate: Option<f64>,
    /// Seconds of one of these windows
    #[arg(long, default_value_t = 0.5)]
    pub then_secs: f64,
    /// How many of them
    #[arg(long, default_value_t = 0)]
    pub then_windows: usize,
    /// A new connection for each request
    #[arg(long)]
    pub fresh: bool,
    /// Seconds before counting begins
    #[arg(long, default_value_t = 3.0)]
    pub ramp: f64,
    /// Seconds of one counted window
    #[arg(long, default_value_t = 10.0)]
    pub secs: f64,
    /// Counted windows, one after the other
    #[arg(long, default_value_t = 1)]
    pub windows: usize,
    /// Stop after this many events instead of after the windows
    #[arg(long)]
    pub events: Option<u64>,
    /// Distinct users
    #[arg(long, default_value_t = corpus::USERS)]
    pub users: u64,
    /// Send 70 % of the events for 30 % of the users
    #[arg(long)]
    pub hot_cold: bool,
    /// Number of the first event
    #[arg(long, default_value_t = 0)]
    pub first_event: u64,
    /// Write the numbers of acknowledged events to this file (not for compressed bodies)
    #[arg(long)]
    pub acked_file: Option<PathBuf>,
    /// Most events sent and not yet delivered, as the sink at --sink counts them
    #[arg(long, requires = "sink")]
    pub outstanding: Option<u64>,
    /// Address of the sink that --outstanding asks
    #[arg(long)]
    pub sink: Option<SocketAddr>,
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// 99 in a hundred.
    pub p99: f64,
    /// 999 in a thousand.
    pub p999: f64,
    /// The worst.
    pub max: f64,
}

impl Latency {
    /// Reads the figures out of a histogram of microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() as f64 / 1e3 }
    }
}

/// A histogram of microseconds up to an hour, three digits.
pub fn microseconds() -> Histogram<u64> {
    #[allow(clippy::expect_used, reason = "the bounds are constants that the library accepts")]
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid histogram bounds")
}

/// What happened in one window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    /// Its length.
    pub secs: f64,
    /// Answers.
    pub requests: u64,
    /// Events in requests that were answered 200.
    pub events: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Transport errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// From the intended send time (open loop) or the actual one to the answer.
    pub lat_ms: Latency,
    /// How late the generator itself was, p99, milliseconds (open loop).
    pub behind_p99_ms: f64,
    /// Requests that were not sent (`--most-waiting`).
    #[serde(default)]
    pub dropped: u64,
}

/// The last line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Counted windows.
    pub windows: Vec<Window>,
    /// Events sent in all, ramp included.
    pub sent_events: u64,
    /// Events acknowledged in all, ramp included.
    pub acked_events: u64,
    /// Requests without an answer at the end.
    pub unanswered: u64,
    /// The first number that was not used.
    pub next_event: u64,
}

struct Tally {
    began: Instant,
    requests: u64,
    events: u64,
    body_bytes: u64,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    latency: Histogram<u64>,
    behind: Histogram<u64>,
    dropped: u64,
}

impl Tally {
    fn new() -> Tally {
        Tally {
            began: Instant::now(),
            requests: 0,
            events: 0,
            body_bytes: 0,
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            latency: microseconds(),
            behind: microseconds(),
            dropped: 0,
        }
    }

    fn close(self) -> Window {
        Window {
            secs: self.began.elapsed().as_secs_f64(),
            requests: self.requests,
            events: self.events,
            body_bytes: self.body_bytes,
            statuses: self.statuses,
            errors: self.errors,
            lat_ms: Latency::of(&self.latency),
            behind_p99_ms: self.behind.value_at_quantile(0.99) as f64 / 1e3,
            dropped: self.dropped,
        }
    }
}

/// What the connections share; all on one thread.
struct Shared {
    options: Options,
    address: SocketAddr,
    requests: Vec<Request>,
    authorizations: Vec<Vec<u8>>,
    next_request: Cell<usize>,
    next_event: Cell<u64>,
    sent_events: Cell<u64>,
    acked_events: Cell<u64>,
    in_flight: Cell<u64>,
    stopping: Cell<bool>,
    tally: RefCell<Tally>,
    acked: RefCell<Seen>,
    /// Events that may have been sent by now (`--outstanding`).
    allowance: Cell<u64>,
    allowance_grew: Notify,
    /// Intended send times that no connection was free for.
    waiting: RefCell<VecDeque<Instant>>,
    idle: RefCell<Vec<usize>>,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    intended: Cell<Option<Instant>>,
    filled: Notify,
}

/// Runs the load and prints marks and outcome.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, load(options.clone()))?;
    print_line(&serde_json::to_string(&outcome)?)
}

fn print_line(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn mark(number: usize) -> Result<()> {
    print_line(&format!("{{\"mark\":{number}}}"))
}

/// The socket address of `http://host:port`.
pub fn address_of(url: &str) -> Result<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    let Some(authority) = url.strip_prefix("http://") else { bail!("{url}: only http:// addresses") };
    let authority = authority.trim_end_matches('/');
    let found = authority.to_socket_addrs().with_context(|| format!("{url}: needs host and port"))?.next();
    found.with_context(|| format!("{url}: no address"))
}

async fn load(options: Options) -> Result<Outcome> {
    let address = address_of(&options.url)?;
    let corpus = Corpus::named(&options.corpus)?;
    if options.acked_file.is_some() && !corpus.is_numbered() {
        bail!("the events of {} cannot be told apart, as --acked-file needs", options.corpus);
    }
    let keys: Vec<String> = (0..options.write_keys.max(1)).map(|index| numbered_key(&options, index)).collect();
    let shared = Rc::new(Shared {
        address,
        requests: corpus::build(corpus, &address.to_string(), &keys[0], corpus::DISTINCT)?,
        authorizations: keys.iter().map(|key| corpus::authorization(key)).collect(),
        next_request: Cell::new(0),
        next_event: Cell::new(options.first_event),
        sent_events: Cell::new(0),
        acked_events: Cell::new(0),
        in_flight: Cell::new(0),
        stopping: Cell::new(false),
        tally: RefCell::new(Tally::new()),
        acked: RefCell::new(Seen::default()),
        allowance: Cell::new(options.outstanding.unwrap_or(u64::MAX)),
        allowance_grew: Notify::new(),
        waiting: RefCell::new(VecDeque::new()),
        idle: RefCell::new(Vec::new()),
        slots: (0..options.connections).map(|_| Slot::default()).collect(),
        options,
    });
    let options = &shared.options;
    if let (Some(outstanding), Some(sink)) = (options.outstanding, options.sink) {
        tokio::task::spawn_local(follow_sink(Rc::clone(&shared), sink, outstanding));
    }
    let began = Instant::now();
    let connections: Vec<_> = (0..options.connections)
        .map(|index| {
            let connection = Connection::new(Rc::clone(&shared), index);
            tokio::task::spawn_local(async move {
                if connection.shared.options.rate.is_some() {
                    connection.open_loop().await;
                } else {
                    connection.closed_loop().await;
                }
            })
        })
        .collect();
    if let Some(rate) = options.rate {
        let mut phases = vec![Phase { rate, secs: options.ramp + options.secs * options.windows as f64 }];
        if let Some(rate) = options.then_rate {
            phases.push(Phase { rate, secs: options.then_secs * options.then_windows as f64 });
        }
        tokio::task::spawn_local(dispatch(Rc::clone(&shared), phases, began));
    }

    let mut outcome = Outcome::default();
    if options.events.is_some() {
        shared.tally.replace(Tally::new());
        mark(0)?;
        for connection in connections {
            connection.await?;
        }
        outcome.windows.push(shared.tally.replace(Tally::new()).close());
        mark(1)?;
    } else {
        tokio::time::sleep(Duration::from_secs_f64(options.ramp)).await;
        shared.tally.replace(Tally::new());
        mark(0)?;
        let then_windows = if options.then_rate.is_some() { options.then_windows } else { 0 };
        for window in 1..=options.windows + then_windows {
            let (first, then) = (window.min(options.windows), window.saturating_sub(options.windows));
            let until = options.ramp + options.secs * first as f64 + options.then_secs * then as f64;
            tokio::time::sleep_until((began + Duration::from_secs_f64(until)).into()).await;
            outcome.windows.push(shared.tally.replace(Tally::new()).close());
            mark(window)?;
        }
        shared.stopping.set(true);
        let grace = Instant::now() + Duration::from_secs(5);
        while shared.in_flight.get() > 0 && Instant::now() < grace {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    outcome.unanswered = shared.in_flight.get();
    outcome.sent_events = shared.sent_events.get();
    outcome.acked_events = shared.acked_events.get();
    outcome.next_event = shared.next_event.get();
    if let Some(path) = &options.acked_file {
        std::fs::write(path, shared.acked.borrow().to_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(outcome)
}

fn numbered_key(options: &Options, index: usize) -> String {
    if options.write_keys <= 1 {
        return options.write_key.clone();
    }
    let stem = options.write_key.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = options.write_key.len() - stem.len();
    format!("{stem}{index:0digits$}")
}

/// Raises the allowance as the sink reports deliveries.
async fn follow_sink(shared: Rc<Shared>, sink: SocketAddr, outstanding: u64) {
    let request = format!("GET /delivered HTTP/1.1\r\nHost: {sink}\r\n\r\n");
    let mut stream = None;
    let mut answer = Vec::new();
    let mut at_start = None;
    while !shared.stopping.get() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if stream.is_none() {
            stream = TcpStream::connect(sink).await.ok();
        }
        let Some(open) = &mut stream else { continue };
        match exchange::whole(open, request.as_bytes(), &mut answer).await {
            Ok((_, body)) => {
                let count: u64 = String::from_utf8_lossy(&answer[body]).trim().parse().unwrap_or(0);
                let before = *at_start.get_or_insert(count);
                shared.allowance.set(count - before.min(count) + outstanding);
                shared.allowance_grew.notify_waiters();
            }
            Err(_) => stream = None,
        }
    }
}

/// Hands intended send times to free connections, or keeps them for the next one that is free.
async fn dispatch(shared: Rc<Shared>, phases: Vec<Phase>, began: Instant) {
    let mut send_times = pace::send_times(phases, began);
    let most_waiting = shared.options.most_waiting;
    while let Some(intended) = send_times.recv().await {
        let behind = intended.elapsed();
        if most_waiting.is_some() && behind > TOO_LATE {
            shared.tally.borrow_mut().dropped += 1;
            continue;
        }
        shared.tally.borrow_mut().behind.saturating_record(u64::try_from(behind.as_micros()).unwrap_or(u64::MAX));
        let free = shared.idle.borrow_mut().pop();
        match free {
            Some(index) => {
                shared.slots[index].intended.set(Some(intended));
                shared.slots[index].filled.notify_one();
            }
            None if most_waiting.is_some_and(|most| shared.waiting.borrow().len() >= most) => {
                shared.tally.borrow_mut().dropped += 1;
            }
            None => shared.waiting.borrow_mut().push_back(intended),
        }
    }
}

struct Connection {
    shared: Rc<Shared>,
    index: usize,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
    users: Vec<u64>,
    turn: u64,
    random: Random,
}

impl Connection {
    fn new(shared: Rc<Shared>, index: usize) -> Connection {
        Connection {
            shared,
            index,
            stream: None,
            request: Vec::with_capacity(4 << 10),
            answer: Vec::with_capacity(1 << 10),
            users: Vec::new(),
            turn: 0,
            random: Random(index as u64),
        }
    }

    async fn closed_loop(mut self) {
        let limit = self.shared.options.events.unwrap_or(u64::MAX);
        while !self.shared.stopping.get() && self.shared.sent_events.get() < limit {
            if self.shared.sent_events.get() >= self.shared.allowance.get() {
                self.shared.allowance_grew.notified().await;
                continue;
            }
            self.send(Instant::now()).await;
        }
    }

    async fn open_loop(mut self) {
        let limit = self.shared.options.events.unwrap_or(u64::MAX);
        while !self.shared.stopping.get() && self.shared.sent_events.get() < limit {
            let waiting = self.shared.waiting.borrow_mut().pop_front();
            let intended = match waiting {
                Some(intended) => intended,
                None => {
                    self.shared.idle.borrow_mut().push(self.index);
                    let slot = &self.shared.slots[self.index];
                    slot.filled.notified().await;
                    let Some(intended) = slot.intended.take() else { continue };
                    intended
                }
            };
            self.send(intended).await;
        }
    }

    /// The next user of this connection: users are dealt out by number, so that two connections never share one
    /// unless there are fewer users than connections.
    fn next_user(&mut self) -> u64 {
        let (users, connections) = (self.shared.options.users.max(1), self.shared.options.connections as u64);
        let own = (users / connections).max(1);
        let turn = if self.shared.options.hot_cold {
            let hot = (own * 3 / 10).max(1);
            let drawn = self.random.next();
            if self.random.below(10) < 7 || hot == own { drawn % hot } else { hot + drawn % (own - hot) }
        } else {
            self.turn = (self.turn + 1) % own;
            self.turn
        };
        (turn * connections + self.index as u64) % users
    }

    async fn send(&mut self, intended: Instant) {
        if self.stream.is_none() {
            match TcpStream::connect(self.shared.address).await {
                Ok(stream) => {
                    let _slower_but_right = stream.set_nodelay(true);
                    self.stream = Some(stream);
                }
                Err(error) => return self.failed(&format!("connect: {}", error.kind())).await,
            }
        }
        let shared = Rc::clone(&self.shared);
        let number = shared.next_request.get();
        shared.next_request.set(number + 1);
        let request = &shared.requests[number % shared.requests.len()];
        let events = request.events() as u64;
        let first_event = shared.next_event.get();
        shared.next_event.set(first_event + events);
        shared.sent_events.set(shared.sent_events.get() + events);
        self.users.clear();
        for _ in 0..events {
            let user = self.next_user();
            self.users.push(user);
        }
        let sent_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
        let stamp = Stamp {
            first_event,
            users: &self.users,
            // The intended time also here: latency to the sink is counted from it.
            sent_ns: sent_ns.saturating_sub(intended.elapsed().as_nanos() as u64),
            authorization: &shared.authorizations[number % shared.authorizations.len()],
        };
        request.write_to(&mut self.request, &stamp);
        let Some(stream) = &mut self.stream else { return };
        shared.in_flight.set(shared.in_flight.get() + 1);
        let answered = if request.rest > 0 {
            exchange::cut_short(stream, &self.request, request.rest, &mut self.answer).await
        } else {
            exchange::whole(stream, &self.request, &mut self.answer).await
        };
        shared.in_flight.set(shared.in_flight.get() - 1);
        if request.rest > 0 || shared.options.fresh {
            self.stream = None;
        }
        match answered {
            Ok((status, _)) => {
                let micros = u64::try_from(intended.elapsed().as_micros()).unwrap_or(u64::MAX);
                let mut tally = shared.tally.borrow_mut();
                tally.requests += 1;
                *tally.statuses.entry(status).or_default() += 1;
                tally.latency.saturating_record(micros);
                if status == 200 {
                    tally.events += events;
                    tally.body_bytes += (request.bytes.len() - request.body_at) as u64;
                    shared.acked_events.set(shared.acked_events.get() + events);
                    if shared.options.acked_file.is_some() {
                        let mut acked = shared.acked.borrow_mut();
                        for event in first_event..first_event + events {
                            acked.insert(event);
                        }
                    }
                }
            }
            Err(error) => {
                self.stream = None;
                let kind = error
                    .downcast_ref::<std::io::Error>()
                    .map_or_else(|| error.to_string(), |io| io.kind().to_string());
                self.failed(&kind).await;
            }
        }
    }

    /// Counts a transport error and breathes, so that a dead server is not hammered.
    async fn failed(&self, kind: &str) {
        *self.shared.tally.borrow_mut().errors.entry(kind.to_owned()).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

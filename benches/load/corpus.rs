//! The workload corpus (performance.md 2): requests that are the same bytes for every run.
//!
//! In: the name of a corpus and a host. Out: prebuilt HTTP/1.1 requests with the offsets of the few fields
//! that change from send to send (message id, user, sequence, send time, authorization), so that sending one
//! costs a copy and a handful of byte writes. Compressed bodies cannot be written into: their fields were given
//! when they were built, and are the same each time a request comes around.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Distinct requests per corpus; they are sent in turn.
pub const DISTINCT: usize = 2_000;
/// Distinct users unless asked otherwise.
pub const USERS: u64 = 5_000;
/// Events of one `batch-20` request.
pub const BATCH: usize = 20;
/// Every generated message id begins with this; the last twelve hexadecimal digits are the event's number.
pub const MESSAGE_ID_PREFIX: &str = "b6c1e5f0-5a17-4e00-8000-";

const MESSAGE_ID_PATTERN: &str = "b6c1e5f0-5a17-4e00-8000-000000000000";
const USER_PATTERN: &str = "user-0000000";
const SENT_PATTERN: &str = "1000000000000000000";

/// What a request of `oversized` announces: more than the default hard cap of the server, 4 times 4,000 KiB.
const OVERSIZED: usize = 20_000_000;
/// What of it is sent with the head.
const OVERSIZED_BEGIN: usize = 16 << 10;

/// Names of all corpora, for messages.
const NAMES: &str = "track-1k, mix, wide, batch-20, track-1k-gzip, batch-20-gzip, empty or oversized";

/// Which requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corpus {
    /// `track` events of 1,000 bytes, one per request.
    Track1k,
    /// `track` (70 %), `page`, `identify`, `screen`, `group`, `alias`, from 300 B to 30 KB.
    Mix,
    /// `track` events of 200 properties under 30 names.
    Wide,
    /// Twenty `track-1k` per request.
    Batch20,
    /// `track-1k` with `Content-Encoding: gzip`.
    Track1kGzip,
    /// `batch-20` with `Content-Encoding: gzip`.
    Batch20Gzip,
    /// `track` requests with a body of no bytes.
    Empty,
    /// The beginning of a body that is announced as larger than any server should read.
    Oversized,
}

impl Corpus {
    /// The corpus of this name.
    pub fn named(name: &str) -> Result<Corpus> {
        Ok(match name {
            "track-1k" => Corpus::Track1k,
            "mix" => Corpus::Mix,
            "wide" => Corpus::Wide,
            "batch-20" => Corpus::Batch20,
            "track-1k-gzip" => Corpus::Track1kGzip,
            "batch-20-gzip" => Corpus::Batch20Gzip,
            "empty" => Corpus::Empty,
            "oversized" => Corpus::Oversized,
            _ => bail!("no corpus {name:?}: use {NAMES}"),
        })
    }

    /// Whether every event carries the number that it was sent with.
    pub fn is_numbered(self) -> bool {
        matches!(self, Corpus::Track1k | Corpus::Mix | Corpus::Wide | Corpus::Batch20)
    }

    /// The same bodies before they were compressed.
    fn plain(self) -> Corpus {
        match self {
            Corpus::Track1kGzip => Corpus::Track1k,
            Corpus::Batch20Gzip => Corpus::Batch20,
            other => other,
        }
    }
}

/// One prebuilt request.
pub struct Request {
    /// Head and body.
    pub bytes: Vec<u8>,
    /// Where the body begins.
    pub body_at: usize,
    /// Where the base64 text of the authorization begins.
    authorization_at: usize,
    /// Bytes of the body that were announced and are not in `bytes`.
    pub rest: usize,
    /// Where each event's fields begin, of those that can be written into.
    events: Vec<Event>,
    /// Events, or what the server is asked to take for one.
    count: usize,
}

struct Event {
    message_id: usize,
    user: usize,
    sent: Option<usize>,
}

/// What is written into a request before it is sent.
pub struct Stamp<'a> {
    /// Number of the request's first event; the others follow.
    pub first_event: u64,
    /// One user per event.
    pub users: &'a [u64],
    /// Nanoseconds since the epoch.
    pub sent_ns: u64,
    /// Base64 text of the authorization.
    pub authorization: &'a [u8],
}

impl Request {
    /// Events in the request.
    pub fn events(&self) -> usize {
        self.count
    }

    /// Copies the request to `out` and writes the changing fields.
    pub fn write_to(&self, out: &mut Vec<u8>, stamp: &Stamp<'_>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let authorization = stamp.authorization;
        out[self.authorization_at..self.authorization_at + authorization.len()].copy_from_slice(authorization);
        for (index, event) in self.events.iter().enumerate() {
            let number_at = event.message_id + MESSAGE_ID_PREFIX.len();
            write_hex(&mut out[number_at..number_at + 12], stamp.first_event + index as u64);
            write_decimal(&mut out[event.user + 5..event.user + 12], stamp.users[index]);
            if let Some(sent) = event.sent {
                write_decimal(&mut out[sent..sent + 19], stamp.sent_ns);
            }
        }
    }
}

fn write_hex(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn write_decimal(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// The text of Basic authorization for a write key.
pub fn authorization(write_key: &str) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.encode(format!("{write_key}:")).into_bytes()
}

/// Builds the requests of a corpus. Write keys must all have the length of `write_key`.
pub fn build(corpus: Corpus, host: &str, write_key: &str, count: usize) -> Result<Vec<Request>> {
    let mut random = Random(0x5eed_0000_0000_0001 ^ corpus.plain() as u64);
    let authorization = String::from_utf8(authorization(write_key)).unwrap_or_default();
    (0..count)
        .map(|index| {
            let (path, body) = match corpus.plain() {
                Corpus::Mix => mix(&mut random, index),
                Corpus::Wide => ("/v1/track", wide(&mut random, index)),
                Corpus::Batch20 => {
                    let events: Vec<String> = (0..BATCH).map(|_| track_1k(&mut random)).collect();
                    ("/v1/batch", format!("{{\"batch\":[{}]}}", events.join(",")))
                }
                Corpus::Empty => ("/v1/track", String::new()),
                Corpus::Oversized => ("/v1/track", track(&mut random, OVERSIZED_BEGIN)),
                _ => ("/v1/track", track_1k(&mut random)),
            };
            let head = Head { path, host, authorization: &authorization };
            let request = match corpus {
                Corpus::Empty => head.request("", &[], 0),
                Corpus::Oversized => head.request("", body.as_bytes(), OVERSIZED - body.len()),
                _ => head.request("", body.as_bytes(), 0).with_fields(&body),
            };
            if corpus.plain() == corpus { Ok(request) } else { compressed(&head, &request, index) }
        })
        .collect()
}

/// What comes before a body.
struct Head<'a> {
    path: &'a str,
    host: &'a str,
    /// Base64 text.
    authorization: &'a str,
}

impl Head<'_> {
    /// A request with this body, of which `rest` more bytes are announced; `more` are further header lines.
    fn request(&self, more: &str, body: &[u8], rest: usize) -> Request {
        let before = format!("POST {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic ", self.path, self.host);
        let head = format!(
            "{before}{}\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n",
            self.authorization,
            body.len() + rest
        );
        let body_at = head.len();
        let bytes = [head.as_bytes(), body].concat();
        Request { bytes, body_at, authorization_at: before.len(), rest, events: Vec::new(), count: 1 }
    }
}

impl Request {
    /// Finds the fields to write into.
    fn with_fields(mut self, body: &str) -> Request {
        let positions =
            |pattern: &str| body.match_indices(pattern).map(|(at, _)| at + self.body_at).collect::<Vec<_>>();
        let (message_ids, users, sent) =
            (positions(MESSAGE_ID_PATTERN), positions(USER_PATTERN), positions(SENT_PATTERN));
        self.events = message_ids
            .iter()
            .zip(&users)
            .enumerate()
            .map(|(index, (&message_id, &user))| Event { message_id, user, sent: sent.get(index).copied() })
            .collect();
        self.count = self.events.len();
        self
    }
}

/// The same request compressed, with numbers and users given by its place in the corpus.
fn compressed(head: &Head<'_>, plain: &Request, index: usize) -> Result<Request> {
    let first_event = (index * plain.count) as u64;
    let users: Vec<u64> = (first_event..first_event + plain.count as u64).map(|event| event % USERS).collect();
    let stamp = Stamp {
        first_event,
        users: &users,
        sent_ns: SENT_PATTERN.parse().context("the pattern is a time")?,
        authorization: head.authorization.as_bytes(),
    };
    let mut stamped = Vec::new();
    plain.write_to(&mut stamped, &stamp);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&stamped[plain.body_at..])?;
    let body = encoder.finish()?;
    Ok(Request { count: plain.count, ..head.request("Content-Encoding: gzip\r\n", &body, 0) })
}

const WORDS: [&str; 24] = [
    "harbour", "lantern", "copper", "meadow", "signal", "anchor", "timber", "velvet", "orchard", "granite", "saffron",
    "willow", "compass", "ember", "juniper", "marble", "nectar", "oyster", "pepper", "quartz", "river", "silver",
    "thistle", "walnut",
];
const EVENTS: [&str; 6] =
    ["Product Viewed", "Product Added", "Order Completed", "Search Performed", "Coupon Applied", "Video Played"];

/// Words up to exactly `length` bytes.
fn words(random: &mut Random, length: usize) -> String {
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        text.push_str(WORDS[random.below(WORDS.len())]);
        text.push(' ');
    }
    text.truncate(length);
    text
}

/// The context that all events share, about 500 bytes.
fn context(random: &mut Random) -> String {
    format!(
        concat!(
            r#"{{"app":{{"name":"Shop","version":"3.{}.1"}},"library":{{"name":"analytics.js","version":"2.11.0"}},"#,
            r#""locale":"en-GB","ip":"203.0.113.{}","userAgent":"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/1{}.0","#,
            r#""screen":{{"width":1920,"height":1080,"density":2}},"#,
            r#""page":{{"path":"/p/{}","referrer":"","search":"","title":"{}","url":"https://shop.example/p/{}"}},"#,
            r#""traits":{{"plan":"pro","seats":{}}}}}"#
        ),
        10 + random.below(90),
        10 + random.below(90),
        10 + random.below(90),
        WORDS[random.below(WORDS.len())],
        words(random, 10).trim(),
        WORDS[random.below(WORDS.len())],
        10 + random.below(90),
    )
}

/// The members that begin every event.
fn opening(kind: &str) -> String {
    format!(
        r#"{{"type":"{kind}","messageId":"{MESSAGE_ID_PATTERN}","userId":"{USER_PATTERN}","anonymousId":"5d1c7a2e-90ab-4b6f-8f3e-7c2d1e0a9b84","channel":"web","originalTimestamp":"2026-01-05T10:20:30.456Z","sentAt":"2026-01-05T10:20:31.789Z""#
    )
}

/// A `track` event of 1,000 bytes, give or take 30.
fn track_1k(random: &mut Random) -> String {
    let length = 985 + random.below(31);
    track(random, length)
}

/// A `track` event of `length` bytes, or of its least length.
fn track(random: &mut Random, length: usize) -> String {
    let mut event = opening("track");
    let shown = context(random);
    let _infallible = write!(
        event,
        concat!(
            r#","event":"{}","context":{},"properties":{{"bench_sent_ns":{},"order_id":"{}","total":{}.25,"currency":"EUR","#,
            r#""coupon":"{}","items":[{{"sku":"A-{}","qty":{}}}],"first":{},"note":""#
        ),
        EVENTS[random.below(EVENTS.len())],
        shown,
        SENT_PATTERN,
        100_000 + random.below(900_000),
        10 + random.below(990),
        WORDS[random.below(WORDS.len())],
        1_000 + random.below(9_000),
        1 + random.below(9),
        random.below(2) == 0,
    );
    let left = length.saturating_sub(event.len() + 3);
    let note = words(random, left);
    event + &note + r#""}}"#
}

/// An event of another type with `length` bytes of traits or properties.
fn other(random: &mut Random, kind: &str, members: &str, place: &str, length: usize) -> String {
    let mut event = opening(kind);
    // The small ones carry next to no context, as those of server libraries do.
    let shown = if length < 800 { r#"{"library":{"name":"http"}}"#.to_owned() } else { context(random) };
    let _infallible =
        write!(event, r#"{members},"context":{shown},"{place}":{{"bench_sent_ns":{SENT_PATTERN},"about":""#);
    let left = length.saturating_sub(event.len() + 3);
    let about = words(random, left);
    event + &about + r#""}}"#
}

fn mix(random: &mut Random, index: usize) -> (&'static str, String) {
    if index % 100 == 99 {
        return ("/v1/track", track(random, 30_000));
    }
    let spread = |random: &mut Random| 300 + random.below(random_limit(index));
    match random.below(100) {
        0..70 => ("/v1/track", track_1k(random)),
        70..85 => {
            let length = spread(random);
            ("/v1/page", other(random, "page", r#","name":"Product""#, "properties", length))
        }
        85..95 => ("/v1/identify", other(random, "identify", "", "traits", 1_500)),
        _ => {
            let length = spread(random);
            match index % 3 {
                0 => ("/v1/screen", other(random, "screen", r#","name":"Basket""#, "properties", length)),
                1 => ("/v1/group", other(random, "group", r#","groupId":"group-7""#, "traits", length)),
                _ => ("/v1/alias", other(random, "alias", r#","previousId":"visitor-7""#, "properties", length)),
            }
        }
    }
}

/// Sizes lean to the small side: one in eight may reach 8 KB.
fn random_limit(index: usize) -> usize {
    if index.is_multiple_of(8) { 7_700 } else { 1_500 }
}

fn wide(random: &mut Random, index: usize) -> String {
    let mut event = opening("track");
    let shown = context(random);
    let _infallible = write!(
        event,
        r#","event":"Wide {}","context":{shown},"properties":{{"bench_sent_ns":{SENT_PATTERN}"#,
        index % 30
    );
    for column in 1..200 {
        let _infallible = match column % 4 {
            0 => write!(event, r#","column_{column}":{}"#, random.below(1_000_000)),
            1 => write!(event, r#","column_{column}":"{}""#, WORDS[random.below(WORDS.len())]),
            2 => write!(event, r#","column_{column}":{}.5"#, random.below(10_000)),
            _ => write!(event, r#","column_{column}":{}"#, random.below(2) == 0),
        };
    }
    event + "}}"
}

/// A small deterministic generator (splitmix64): the corpus must be the same bytes everywhere.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

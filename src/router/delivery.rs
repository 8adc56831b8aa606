//! One request to a destination and its answer (router.md 6.4 to 6.6, security.md 4).
//!
//! In: a [`WireRequest`] and the rules of its destination. Out: an [`Answer`], whatever happens; a delivery has no
//! error of its own. Redirects are followed here, hop by hop, so that every hop is judged like the first.
//! Connections are pooled per rule: one opened under a lenient rule is never used under a strict one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use flate2::write::GzDecoder;
use http_body_util::BodyExt as _;
use hyper::Response;
use parking_lot::Mutex;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, PROXY_AUTHORIZATION, RETRY_AFTER,
};
use reqwest::{Method, StatusCode, Url};
use tokio::time::timeout_at;
use url::Host;

mod connection;

use connection::{Body, Connections, NoAnswer};

use super::response::stored_text;
use super::status_table::is_success;
use super::wire::WireRequest;
use crate::destination::private_address::{AddressRefused, AddressRules, REFUSED_CODE, REFUSED_TEXT, Range};
use crate::destination::resolve::NameSource;
use crate::settings::is_secret_name;

/// Code of a request that got no answer.
const NO_ANSWER: i32 = 504;
/// Requests of one redirect chain.
const LONGEST_CHAIN: usize = 10;
/// Bytes that are read of a body, and of what it holds unzipped.
const BODY_BYTES: usize = 1 << 20;
/// A zipped body is unzipped so much at a time, because a small piece may hold a lot.
const UNZIP_STEP: usize = 1 << 10;
/// Why a request ended whose time was up.
const TIMED_OUT: &str = "operation timed out";
/// Longest time to open a connection, capped by the request's own time.
const CONNECT: Duration = Duration::from_secs(30);

/// How a destination is delivered to.
#[derive(Clone, Debug)]
pub struct DeliveryRules {
    /// Longest time of one request, redirects and body included.
    pub timeout: Duration,
    /// Idle connections kept per host.
    pub idle_per_host: usize,
    /// Never HTTP/2.
    pub force_http1: bool,
    /// Ranges that a guarded delivery may not reach.
    pub private_ranges: Vec<Range>,
    /// Whether the clouds' metadata addresses may be reached.
    pub allows_metadata: bool,
    /// Whether a guarded delivery may go through the proxy of the environment.
    pub guarded_uses_proxy: bool,
    /// Listeners of this node that no delivery may reach.
    pub own_listeners: Vec<SocketAddr>,
    /// The body of a successful answer is kept.
    pub keeps_successful_body: bool,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The code that judges the job.
    pub code: i32,
    /// What is stored of the body.
    pub text: String,
    /// Content type of the answer, possibly empty.
    pub content_type: String,
    /// No connection came about.
    pub unreachable: bool,
    /// The destination answered, whatever it said.
    pub answered: bool,
    /// The wait that the destination asked for.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// An answer that this node gives itself.
    pub fn own(code: i32, text: impl Into<String>) -> Answer {
        Answer { code, text: text.into(), ..Answer::default() }
    }
}

/// Settings of a client that cannot change after it is built; clients are shared by what they have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ClientKind {
    addresses: AddressRules,
    connect_timeout: Duration,
    idle_per_host: usize,
    force_http1: bool,
    uses_proxy: bool,
}

/// The rules of a destination with what follows from them, worked out once.
#[derive(Debug)]
pub struct Way {
    /// The rules.
    pub rules: DeliveryRules,
    /// The client of ordinary deliveries, and that of guarded ones, where no own listener has the port.
    usual: [OnceLock<(ClientKind, Connections)>; 2],
}

impl Way {
    /// A way by these rules.
    pub fn new(rules: DeliveryRules) -> Way {
        Way { rules, usual: Default::default() }
    }

    /// The client for the URL and what it was built for.
    fn client(
        &self,
        courier: &Courier,
        url: &Url,
        guarded: bool,
    ) -> Result<Cow<'_, (ClientKind, Connections)>, NoAnswer> {
        let port = url.port_or_known_default().unwrap_or_default();
        let is_usual = self.rules.own_listeners.iter().all(|listener| listener.port() != port);
        let [open, strict] = &self.usual;
        let usual = if guarded { strict } else { open };
        if let Some(known) = usual.get().filter(|_| is_usual) {
            return Ok(Cow::Borrowed(known));
        }
        let kind = client_kind(port, &self.rules, guarded);
        let client = courier.client(&kind)?;
        if is_usual {
            return Ok(Cow::Borrowed(usual.get_or_init(|| (kind, client))));
        }
        Ok(Cow::Owned((kind, client)))
    }
}

/// Sends requests. One for the whole router; cheap to share.
#[derive(Debug, Default)]
pub struct Courier {
    clients: Mutex<HashMap<ClientKind, Connections>>,
    names: NameSource,
}

impl Courier {
    /// Sends the request, follows redirects, reads the answer. `guarded` deliveries reach public addresses only;
    /// headers that `private` chooses never leave the origin that they were meant for.
    pub async fn send(
        &self,
        request: WireRequest,
        way: &Way,
        guarded: bool,
        private: &(dyn Fn(&HeaderMap) -> Vec<HeaderName> + Sync),
    ) -> Answer {
        let deadline = tokio::time::Instant::now() + way.rules.timeout;
        let WireRequest { mut method, url: first_url, mut headers, mut body, .. } = request;
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        let first_method = method.clone();
        let mut url = Cow::Borrowed(&first_url);
        for _ in 0..LONGEST_CHAIN {
            let known = match way.client(self, &url, guarded) {
                Ok(known) => known,
                Err(error) => return no_answer(&first_method, &first_url, &error),
            };
            let (kind, client) = known.as_ref();
            if let Err(refusal) = judge(&url, kind, guarded, &self.names).await {
                return refusal;
            }
            let sending = client.send(method.clone(), &url, headers.clone(), body.clone());
            let response = match timeout_at(deadline, sending).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return no_answer(&first_method, &first_url, &error),
                Err(_) => return Answer::own(NO_ANSWER, no_answer_text(&first_method, &first_url, TIMED_OUT)),
            };
            let Some(next) = redirect_target(&response, &url) else {
                return read_answer(response, &first_url, &way.rules, deadline).await;
            };
            let keeps_method = matches!(response.status().as_u16(), 307 | 308);
            if !keeps_method && method != Method::GET && method != Method::HEAD {
                method = Method::GET;
                body = None;
                for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LENGTH] {
                    headers.remove(name);
                }
            }
            if leaves_home(&first_url, &next) {
                let names = private(&headers);
                drop_private(&mut headers, &names);
            }
            url = Cow::Owned(next);
        }
        Answer::own(NO_ANSWER, no_answer_text(&first_method, &first_url, "stopped after 10 redirects"))
    }

    fn client(&self, kind: &ClientKind) -> Result<Connections, NoAnswer> {
        if let Some(client) = self.clients.lock().get(kind) {
            return Ok(client.clone());
        }
        // Reading the certificates of the system takes long: nobody else waits for it.
        let client = Connections::new(kind, &self.names)?;
        Ok(self.clients.lock().entry(kind.clone()).or_insert(client).clone())
    }
}

fn client_kind(port: u16, rules: &DeliveryRules, guarded: bool) -> ClientKind {
    let own = rules.own_listeners.iter().filter(|listener| listener.port() == port).map(SocketAddr::ip);
    ClientKind {
        addresses: AddressRules {
            refused: if guarded { rules.private_ranges.clone() } else { Vec::new() },
            allows_metadata: rules.allows_metadata && !guarded,
            own: own.collect(),
        },
        // Shorter than the whole request, so that a connection that never stands is told from a slow answer.
        connect_timeout: CONNECT.min(rules.timeout.mul_f32(0.95)),
        idle_per_host: rules.idle_per_host,
        force_http1: rules.force_http1,
        uses_proxy: !guarded || rules.guarded_uses_proxy,
    }
}

/// Judges a literal host; the client never asks its resolver about those. Where a proxy would resolve a name
/// unseen, the name is resolved and judged here first.
async fn judge(url: &Url, kind: &ClientKind, guarded: bool, names: &NameSource) -> Result<(), Answer> {
    let refused = || Answer::own(REFUSED_CODE, REFUSED_TEXT);
    let name = match url.host() {
        Some(Host::Ipv4(address)) => {
            return if kind.addresses.allows(IpAddr::V4(address)) { Ok(()) } else { Err(refused()) };
        }
        Some(Host::Ipv6(address)) => {
            return if kind.addresses.allows(IpAddr::V6(address)) { Ok(()) } else { Err(refused()) };
        }
        Some(Host::Domain(name)) => name,
        None => return Err(Answer::own(400, "400 the URL names no host")),
    };
    // `127.0.0.1.` is a name to the URL and an address to the connector.
    if let Ok(address) = name.trim_end_matches('.').parse::<IpAddr>() {
        return if kind.addresses.allows(address) { Ok(()) } else { Err(refused()) };
    }
    if guarded && kind.uses_proxy {
        let resolving = tokio::time::timeout(kind.connect_timeout, names.resolve(name)).await;
        if let Ok(Ok(addresses)) = resolving
            && !kind.addresses.allow_all(&addresses)
        {
            return Err(refused());
        }
    }
    Ok(())
}

/// Where a redirect leads; `None` when the answer is final.
fn redirect_target(response: &Response<Body>, url: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let mut next =
        url.join(location).ok().filter(|next| matches!(next.scheme(), "http" | "https") && next.has_host())?;
    next.set_fragment(None);
    Some(next)
}

/// Whether the URL is neither on the first one's host nor on a subdomain of it, or falls back to plain HTTP.
fn leaves_home(first: &Url, next: &Url) -> bool {
    let (Some(home), Some(host)) = (first.host_str(), next.host_str()) else {
        return true;
    };
    let is_home = host == home && first.port_or_known_default() == next.port_or_known_default();
    let is_below = host.strip_suffix(home).is_some_and(|rest| rest.ends_with('.'));
    let falls_to_plain = first.scheme() == "https" && next.scheme() == "http";
    !(is_home || is_below) || falls_to_plain
}

fn drop_private(headers: &mut HeaderMap, private: &[HeaderName]) {
    for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].iter().chain(private) {
        headers.remove(name);
    }
}

async fn read_answer(
    response: Response<Body>,
    url: &Url,
    rules: &DeliveryRules,
    deadline: tokio::time::Instant,
) -> Answer {
    let (head, mut body) = response.into_parts();
    let status = head.status;
    let code = i32::from(status.as_u16());
    let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = header(CONTENT_TYPE).unwrap_or_default().to_owned();
    let asks_to_wait = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let seconds = header(RETRY_AFTER).filter(|_| asks_to_wait).and_then(|text| text.trim().parse::<u64>().ok());
    let is_gzip = header(CONTENT_ENCODING).is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
    let mut answer = Answer {
        code,
        content_type,
        answered: true,
        retry_after: seconds.map(Duration::from_secs),
        ..Answer::default()
    };
    let keeps = !is_success(code) || rules.keeps_successful_body;
    let mut kept: Vec<u8> = Vec::new();
    let mut read = 0;
    while read < BODY_BYTES {
        let failed = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(chunk) = frame.data_ref() {
                    read += chunk.len();
                    if keeps {
                        kept.extend_from_slice(chunk);
                    }
                }
                continue;
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => causes(error.as_ref()),
            Err(_) => TIMED_OUT.to_owned(),
        };
        answer.text = format!("Failed to read response body for request for URL : \"{url}\". Error: {failed}");
        return answer;
    }
    if keeps {
        let decoded = if is_gzip { unzipped(&kept) } else { kept };
        answer.text = stored_text(&answer.content_type, &decoded);
    }
    answer
}

/// What of a body can be unzipped, up to the bytes that are read of a plain one.
fn unzipped(body: &[u8]) -> Vec<u8> {
    let mut decoder = GzDecoder::new(Vec::new());
    for piece in body.chunks(UNZIP_STEP) {
        // What does not decode ends the text; the code of the answer counts anyhow.
        if decoder.write_all(piece).is_err() || decoder.get_ref().len() > BODY_BYTES {
            break;
        }
    }
    let mut text = std::mem::take(decoder.get_mut());
    text.truncate(BODY_BYTES);
    text
}

fn no_answer(method: &Method, url: &Url, error: &NoAnswer) -> Answer {
    if chain(error.error.as_ref()).any(<dyn StdError>::is::<AddressRefused>) {
        return Answer::own(REFUSED_CODE, REFUSED_TEXT);
    }
    Answer {
        unreachable: reached_nobody(error),
        ..Answer::own(NO_ANSWER, no_answer_text(method, url, &causes_of(error)))
    }
}

fn no_answer_text(method: &Method, url: &Url, cause: &str) -> String {
    let url = shown(url);
    format!("504 Unable to make \"{method}\" request for URL : \"{url}\". Error: {cause}")
}

/// The URL with `***` in place of what its query calls a secret (security.md 6.1).
fn shown(url: &Url) -> Cow<'_, str> {
    let is_secret = |pair: &str| is_secret_name(pair.split('=').next().unwrap_or_default());
    let Some(query) = url.query().filter(|query| query.split('&').any(is_secret)) else {
        return Cow::Borrowed(url.as_str());
    };
    let masked = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret(pair) => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(masked).collect();
    let mut shown = url.clone();
    shown.set_query(Some(&query.join("&")));
    Cow::Owned(shown.into())
}

/// No connection came about: the name did not resolve, nobody listened, no route, or the connect or TLS handshake
/// took too long. A refused certificate or a reset is an answer of sorts.
fn reached_nobody(error: &NoAnswer) -> bool {
    let is_answer = |kind: io::ErrorKind| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof};
        matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | InvalidData | UnexpectedEof)
    };
    let answered = chain(error.error.as_ref())
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| is_answer(cause.kind()));
    error.is_connect && !answered
}

/// An error and its causes; looks into I/O errors, which hide what they wrap.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn StdError + 'static)).or_else(|| StdError::source(*error))
    })
}

/// The causes of an error, without the client's own wording.
fn causes_of(error: &NoAnswer) -> String {
    let mut texts: Vec<String> = chain(error.error.as_ref()).skip(1).map(ToString::to_string).collect();
    texts.dedup();
    if texts.is_empty() { "request failed".to_owned() } else { texts.join(": ") }
}

fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = chain(error).map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}

#[cfg(test)]
mod reach_tests;
#[cfg(test)]
mod tests;

//! Requests of user code to the network: `fetch`, `fetchV2`, `geolocation` (processor.md 7.5, security.md 4).
//!
//! Public addresses only, unless the operator excepts some; names are resolved once and only what was judged is
//! connected to; every redirect is judged like the first request. No proxy: it would resolve names unseen.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, PROXY_AUTHORIZATION,
};
use reqwest::{Client, Method, Request, Response, Url, redirect};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Host;

use crate::destination::judged_names::JudgedNames;
use crate::destination::peer::PeerCheck;
use crate::destination::private_address::{AddressRefused, AddressRules, Range, unwrapped};
use crate::destination::resolve::NameSource;
use crate::settings::TransformSettings;

/// Requests of one redirect chain.
const LONGEST_CHAIN: usize = 10;
/// Longest time of a look-up of a place.
const GEOLOCATION: Duration = Duration::from_secs(1);
/// Idle connections are closed after this time, and this many are kept per host.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_PER_HOST: usize = 4;

/// Never reached by user code (security.md 4.1).
const REFUSED: [&str; 19] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::1/128",
    "::/128",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
];

/// What user code asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The body, which must be JSON.
    Fetch,
    /// Status, headers and body.
    FetchV2,
    /// The place of an address.
    Geolocation,
}

/// A request as user code wrote it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) kind: Kind,
    /// URL or address.
    pub(super) target: String,
    /// JSON object, or empty.
    pub(super) options: String,
}

/// JSON text for the code, or why there is none.
pub(super) type Answer = Result<String, String>;

/// Which addresses may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reach {
    refused: AddressRules,
    excepted: Vec<Range>,
}

impl Reach {
    fn new(settings: &TransformSettings, own: Vec<IpAddr>) -> Reach {
        let mut ranges: Vec<Range> = REFUSED.into_iter().filter_map(Range::parse).collect();
        ranges.extend(settings.blocked_ip_ranges.iter().filter_map(|text| Range::parse(text)));
        Reach {
            refused: AddressRules { refused: ranges, allows_metadata: false, own },
            excepted: settings.allowed_ip_ranges.iter().filter_map(|text| Range::parse(text)).collect(),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let inner = unwrapped(address);
        if self.excepted.iter().any(|range| range.contains(inner)) {
            // Credentials of a cloud and the node's own listeners stay out of reach.
            return AddressRules { refused: Vec::new(), ..self.refused.clone() }.allows(address);
        }
        self.refused.allows(address)
    }

    fn judge(&self, addresses: &[IpAddr]) -> Result<(), AddressRefused> {
        if addresses.iter().all(|address| self.allows(*address)) { Ok(()) } else { Err(AddressRefused) }
    }
}

/// The client for everything but ports of own listeners, shared by all batches while its rules hold.
static CLIENT: LazyLock<Mutex<Option<(Reach, Client)>>> = LazyLock::new(Mutex::default);

fn client(reach: Reach) -> Result<Client, reqwest::Error> {
    let is_shared = reach.refused.own.is_empty();
    if let Some((_, client)) = CLIENT.lock().as_ref().filter(|(known, _)| *known == reach) {
        return Ok(client.clone());
    }
    let (judge, of_names) = (reach.clone(), reach.clone());
    let client = Client::builder()
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .connector_layer(PeerCheck::new(move |address| judge.allows(address)))
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .tcp_nodelay(true)
        .dns_resolver(JudgedNames::new(NameSource::default(), move |found| of_names.judge(found).is_ok()))
        .build()?;
    if is_shared {
        *CLIENT.lock() = Some((reach, client.clone()));
    }
    Ok(client)
}

/// Performs a request within its time.
pub(super) async fn perform(asked: Asked, settings: Arc<TransformSettings>) -> Answer {
    let limit = if asked.kind == Kind::Geolocation { GEOLOCATION } else { settings.fetch_timeout };
    tokio::time::timeout(limit, answer(asked, &settings))
        .await
        .unwrap_or_else(|_elapsed| Err(format!("network timeout: no answer within {} ms", limit.as_millis())))
}

async fn answer(asked: Asked, settings: &TransformSettings) -> Answer {
    match asked.kind {
        Kind::Geolocation => place(&asked.target, settings).await,
        Kind::Fetch => {
            let (_, body) = exchange(&asked, settings).await?;
            if serde_json::from_str::<&RawValue>(&body).is_ok() { Ok(body) } else { Err("not JSON".to_owned()) }
        }
        Kind::FetchV2 => {
            let (head, body) = exchange(&asked, settings).await?;
            let mut answer = Map::new();
            answer.insert("url".to_owned(), Value::from(head.url.as_str()));
            answer.insert("status".to_owned(), Value::from(head.status));
            answer.insert("headers".to_owned(), Value::Object(head.headers));
            let mut text = Value::Object(answer).to_string();
            text.pop();
            text.push_str(",\"body\":");
            if serde_json::from_str::<&RawValue>(&body).is_ok() {
                text.push_str(&body);
            } else {
                text.push_str(&Value::from(body).to_string());
            }
            text.push('}');
            Ok(text)
        }
    }
}

/// What an answer says besides its body.
struct Head {
    url: Url,
    status: u16,
    headers: Map<String, Value>,
}

/// A request with the options that code may set.
struct Wanted {
    method: Method,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

impl Wanted {
    fn read(options: &str) -> Result<Wanted, String> {
        let options: Map<String, Value> = match options {
            "" => Map::new(),
            text => serde_json::from_str(text).map_err(|_| "fetch options must be an object".to_owned())?,
        };
        let method = options.get("method").and_then(Value::as_str).unwrap_or("GET").to_ascii_uppercase();
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| "invalid method".to_owned())?;
        let mut headers = HeaderMap::new();
        for (name, value) in options.get("headers").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name} is no header name"))?;
            let value = HeaderValue::from_str(&value).map_err(|_| format!("invalid value of the header {name}"))?;
            headers.insert(name, value);
        }
        // Framing and routing are the node's.
        for name in [CONTENT_LENGTH, reqwest::header::HOST, reqwest::header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let body = match options.get("body") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone().into_bytes()),
            Some(other) => Some(other.to_string().into_bytes()),
        };
        if body.is_some() && matches!(method, Method::GET | Method::HEAD) {
            return Err("Request with GET/HEAD method cannot have body".to_owned());
        }
        Ok(Wanted { method, headers, body })
    }
}

async fn exchange(asked: &Asked, settings: &TransformSettings) -> Result<(Head, String), String> {
    if !settings.fetch_enabled {
        return Err("requests of transformations are switched off".to_owned());
    }
    if asked.target.is_empty() {
        return Err("fetch url is required".to_owned());
    }
    let mut url = Url::parse(&asked.target).map_err(|error| format!("invalid url: {error}"))?;
    let Wanted { mut method, mut headers, mut body } = Wanted::read(&asked.options)?;
    for _ in 0..LONGEST_CHAIN {
        let client = judged_client(&url, settings)?;
        let mut request = Request::new(method.clone(), url.clone());
        *request.headers_mut() = headers.clone();
        *request.body_mut() = body.clone().map(reqwest::Body::from);
        let response = client.execute(request).await.map_err(|error| cause(&error.without_url()))?;
        let Some(next) = redirect_target(&response, &url) else {
            return read(response, url, settings.fetch_max_response_bytes).await;
        };
        if !matches!(response.status().as_u16(), 307 | 308) && method != Method::GET && method != Method::HEAD {
            method = Method::GET;
            body = None;
            for name in [CONTENT_TYPE, CONTENT_ENCODING] {
                headers.remove(name);
            }
        }
        if next.origin() != url.origin() {
            for name in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
                headers.remove(name);
            }
        }
        url = next;
    }
    Err("maximum redirect reached".to_owned())
}

/// The client for a URL whose scheme and host may be reached; a name is judged when it is resolved.
fn judged_client(url: &Url, settings: &TransformSettings) -> Result<Client, String> {
    let refused = || format!("access to {} is blocked", url.host_str().unwrap_or_default());
    if !matches!(url.scheme(), "http" | "https") {
        return Err("invalid protocol, only http and https are supported".to_owned());
    }
    let port = url.port_or_known_default().unwrap_or_default();
    let own = settings.own_listeners.iter().filter(|listener| listener.port() == port).map(SocketAddr::ip);
    let reach = Reach::new(settings, own.collect());
    let literal = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            if settings.blocked_host_names.iter().any(|blocked| blocked.eq_ignore_ascii_case(name)) {
                return Err(refused());
            }
            // `127.0.0.1.` is a name to the URL and an address to the connector.
            name.parse().ok()
        }
        None => return Err("the url names no host".to_owned()),
    };
    if literal.is_some_and(|address| !reach.allows(address)) {
        return Err(refused());
    }
    client(reach).map_err(|error| cause(&error))
}

fn redirect_target(response: &Response, url: &Url) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    url.join(response.headers().get(LOCATION)?.to_str().ok()?).ok()
}

async fn read(mut response: Response, url: Url, most_bytes: u64) -> Result<(Head, String), String> {
    let mut headers = Map::new();
    for (name, value) in response.headers() {
        let text = String::from_utf8_lossy(value.as_bytes());
        match headers.get_mut(name.as_str()) {
            Some(Value::String(known)) => {
                known.push_str(", ");
                known.push_str(&text);
            }
            _ => {
                headers.insert(name.as_str().to_owned(), Value::from(text));
            }
        }
    }
    let head = Head { url, status: response.status().as_u16(), headers };
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error.without_url()))? {
        if (body.len() + chunk.len()) as u64 > most_bytes {
            return Err(format!("the answer is larger than {most_bytes} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

/// Asks the operator's own service, which no address rule holds for.
async fn place(ip: &str, settings: &TransformSettings) -> Answer {
    static PLAIN: LazyLock<Result<Client, String>> = LazyLock::new(|| {
        Client::builder().redirect(redirect::Policy::none()).no_proxy().build().map_err(|error| cause(&error))
    });
    if ip.is_empty() {
        return Err("ip address is required".to_owned());
    }
    let address: IpAddr = ip.parse().map_err(|_| "invalid ip address".to_owned())?;
    let unavailable = || "geolocation is not available right now".to_owned();
    let base = settings.geolocation_url.trim_end_matches('/');
    if base.is_empty() {
        return Err(unavailable());
    }
    let url = Url::parse(&format!("{base}/geoip/{address}")).map_err(|_| unavailable())?;
    let client = PLAIN.as_ref().map_err(Clone::clone)?;
    let response = client.get(url.clone()).send().await.map_err(|error| cause(&error.without_url()))?;
    let (head, body) = read(response, url, settings.fetch_max_response_bytes).await?;
    if head.status != 200 {
        return Err(format!("request to fetch geolocation failed with status code: {}", head.status));
    }
    if serde_json::from_str::<&RawValue>(&body).is_ok() { Ok(body) } else { Err(unavailable()) }
}

/// An error with its causes; never with the URL.
fn cause(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}

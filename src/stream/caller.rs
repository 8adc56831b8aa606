//! Calls of cloud APIs over HTTPS, with the address rules of deliveries (security.md 4).
//!
//! In: a request. Out: status, headers and body, or what became of the call. Redirects are not followed: no API of
//! these gives any, and credentials must not travel.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, Url, redirect};
use url::Host;

use super::Surroundings;
use super::fault::Fault;
use crate::destination::judged_names::JudgedNames;
use crate::destination::peer::{PeerCheck, environment_names_a_proxy};
use crate::destination::private_address::{AddressRefused, AddressRules, REFUSED_CODE, REFUSED_TEXT};
use crate::destination::resolve::{self, NameSource};

/// Longest time to open a connection, capped by the call's own time.
const CONNECT: Duration = Duration::from_secs(10);
/// Idle connections are closed after this time.
const IDLE: Duration = Duration::from_secs(60);
/// Bytes that are read of an answer.
const ANSWER_BYTES: usize = 1 << 20;

/// Makes calls for one destination; keeps connections open between them.
#[derive(Debug)]
pub(super) struct Caller {
    rules: AddressRules,
    /// Listeners of this node, which no call may reach.
    own: Vec<SocketAddr>,
    client: OnceLock<Client>,
}

/// An answer, whatever it says.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoReply {
    /// No connection came about.
    Unreachable(String),
    /// The time was over.
    TooLate(Duration),
    /// The connection broke.
    Broken(String),
    /// The address may not be reached.
    Refused,
}

impl From<NoReply> for Fault {
    fn from(why: NoReply) -> Fault {
        match why {
            NoReply::Unreachable(text) => Fault::Unreachable(text),
            NoReply::TooLate(limit) => Fault::Interrupted(format!("no answer within {limit:?}")),
            NoReply::Broken(text) => Fault::Interrupted(text),
            NoReply::Refused => Fault::Answered { code: REFUSED_CODE, text: REFUSED_TEXT.to_owned() },
        }
    }
}

impl Caller {
    /// A caller that reaches what is allowed.
    pub(super) fn new(around: &Surroundings) -> Caller {
        Caller { rules: around.addresses.clone(), own: around.own_listeners.clone(), client: OnceLock::new() }
    }

    /// Posts (or puts) a body.
    pub(super) async fn call(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Reply, NoReply> {
        self.judge(&url).await?;
        let request = self.client()?.request(method, url).headers(headers).body(body).timeout(timeout);
        let judged = |error: reqwest::Error| no_reply(error, timeout);
        let mut response = request.send().await.map_err(judged)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES {
            match response.chunk().await.map_err(judged)? {
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        Ok(Reply { status, headers, body })
    }

    /// Judges a literal address, of which the client never asks its resolver, and any at the port of an own listener.
    async fn judge(&self, url: &Url) -> Result<(), NoReply> {
        let literal = literal(url);
        let port = url.port_or_known_default().unwrap_or_default();
        let own: Vec<IpAddr> = self.own.iter().filter(|own| own.port() == port).map(SocketAddr::ip).collect();
        let addresses = match (literal, url.host_str()) {
            (Some(address), _) => vec![address],
            (None, Some(name)) if !own.is_empty() => resolve::resolve(name).await.unwrap_or_default(),
            _ => return Ok(()),
        };
        let rules = AddressRules { own, ..self.rules.clone() };
        if rules.allow_all(&addresses) { Ok(()) } else { Err(NoReply::Refused) }
    }

    fn client(&self) -> Result<&Client, NoReply> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let (judge, of_peers) = (self.rules.clone(), self.rules.clone());
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .dns_resolver(JudgedNames::new(NameSource::default(), move |found| judge.allow_all(found)));
        if !environment_names_a_proxy() {
            builder = builder.connector_layer(PeerCheck::new(move |address| of_peers.allows(address)));
        }
        let client = builder.build().map_err(|error| NoReply::Unreachable(error.to_string()))?;
        Ok(self.client.get_or_init(|| client))
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(IpAddr::V4(address)),
        Host::Ipv6(address) => Some(IpAddr::V6(address)),
        Host::Domain(name) => name.trim_end_matches('.').parse().ok(),
    }
}

fn no_reply(error: reqwest::Error, timeout: Duration) -> NoReply {
    let error = error.without_url();
    let causes: Vec<&(dyn StdError + 'static)> =
        std::iter::successors(Some(&error as &(dyn StdError + 'static)), |error| StdError::source(*error)).collect();
    if causes.iter().any(|cause| cause.is::<AddressRefused>()) {
        return NoReply::Refused;
    }
    let text = causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if error.is_connect() {
        NoReply::Unreachable(text)
    } else if error.is_timeout() {
        NoReply::TooLate(timeout)
    } else {
        NoReply::Broken(text)
    }
}

//! Who may ask the TCP admin listener: the Host check against rebinding, the bearer token, the throttle
//! (security.md 3.4, 3.5). The unix socket needs none of it: the mode of its file decides.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Version};
use parking_lot::Mutex;

use super::token::Token;

/// Failed attempts within [`WINDOW`] after which every credential is refused.
const ATTEMPTS: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Why a request is turned away before its route is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No Host, or several.
    BadHost,
    /// A Host that is not ours: DNS rebinding.
    HostNotAllowed,
    /// OPTIONS: there is no CORS here.
    NoOptions,
    /// No token, or a wrong one.
    Unauthorized,
    /// Too many wrong tokens.
    Throttled,
    /// A change without `Content-Type: application/json`.
    NotJson,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Refusal::BadHost => StatusCode::BAD_REQUEST,
            Refusal::HostNotAllowed => StatusCode::FORBIDDEN,
            Refusal::NoOptions => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
            Refusal::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Refusal::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Refusal::BadHost => "exactly one Host header is needed",
            Refusal::HostNotAllowed => "host not allowed",
            Refusal::NoOptions => "method not allowed",
            Refusal::Unauthorized => "unauthorized",
            Refusal::Throttled => "too many failed attempts",
            Refusal::NotJson => "Content-Type must be application/json",
        }
    }
}

/// The guard of one TCP listener.
#[derive(Debug)]
pub(super) struct Guard {
    address: SocketAddr,
    token: Token,
    failures: Mutex<VecDeque<Instant>>,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Token) -> Guard {
        Guard { address, token, failures: Mutex::new(VecDeque::new()) }
    }

    /// Checks a request in the order of security.md 3.4.
    pub(super) fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        self.check_host(request)?;
        if request.method() == Method::OPTIONS {
            return Err(Refusal::NoOptions);
        }
        self.check_token(request)?;
        if is_change(request.method()) && !is_json(request) {
            return Err(Refusal::NotJson);
        }
        Ok(())
    }

    fn check_host<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let mut hosts = request.headers().get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) => {
                let host = host.to_str().map_err(|_| Refusal::HostNotAllowed)?;
                if !self.is_ours(host) {
                    return Err(Refusal::HostNotAllowed);
                }
            }
            (None, _) if request.version() < Version::HTTP_11 => {}
            _ => return Err(Refusal::BadHost),
        }
        match request.uri().authority() {
            Some(authority) if !self.is_ours(authority.as_str()) => Err(Refusal::HostNotAllowed),
            _ => Ok(()),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let port = self.address.port();
        let with_port = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
        let without_port = ["127.0.0.1", "localhost", "[::1]"];
        let is = |ours: &str| ours.eq_ignore_ascii_case(host);
        with_port.iter().any(|ours| is(ours))
            || is(&self.address.to_string())
            || (port == 80 && without_port.iter().any(|ours| is(ours)))
    }

    fn check_token<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let mut failures = self.failures.lock();
        while failures.front().is_some_and(|at| at.elapsed() > WINDOW) {
            failures.pop_front();
        }
        if failures.len() >= ATTEMPTS {
            return Err(Refusal::Throttled);
        }
        let Some(given) = request.headers().get(AUTHORIZATION) else { return Err(Refusal::Unauthorized) };
        let given = given.to_str().unwrap_or_default();
        let token = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        if token.is_some_and(|(_, token)| self.token.matches(token.trim())) {
            return Ok(());
        }
        failures.push_back(Instant::now());
        Err(Refusal::Unauthorized)
    }
}

pub(super) fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

pub(super) fn is_json<B>(request: &Request<B>) -> bool {
    let given = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> (Guard, String, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::load_or_create(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("admin.token")).unwrap().trim().to_owned();
        (Guard::new("127.0.0.1:8081".parse().unwrap(), token), text, dir)
    }

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn requests_are_refused_in_the_documented_order() {
        let (guard, token, _dir) = guard();
        let bearer = format!("Bearer {token}");
        let ours = ("host", "127.0.0.1:8081");
        let good = ("authorization", bearer.as_str());
        for (what, request, verdict) in [
            ("no host", request("GET", "/", &[]), Err(Refusal::BadHost)),
            ("two hosts", request("GET", "/", &[ours, ours]), Err(Refusal::BadHost)),
            ("rebinding", request("GET", "/", &[("host", "attacker.test:8081"), good]), Err(Refusal::HostNotAllowed)),
            ("absolute", request("GET", "http://attacker.test/", &[ours, good]), Err(Refusal::HostNotAllowed)),
            ("other port", request("GET", "/", &[("host", "localhost:9"), good]), Err(Refusal::HostNotAllowed)),
            ("preflight", request("OPTIONS", "/v1/status", &[ours]), Err(Refusal::NoOptions)),
            ("no token", request("GET", "/metrics", &[ours]), Err(Refusal::Unauthorized)),
            ("form post", request("POST", "/v1/reload", &[ours, good]), Err(Refusal::NotJson)),
            ("good", request("GET", "/metrics", &[("host", "LOCALHOST:8081"), good]), Ok(())),
            (
                "good change",
                request("POST", "/v1/reload", &[ours, good, ("content-type", "application/json; charset=utf-8")]),
                Ok(()),
            ),
        ] {
            assert_eq!(guard.admit(&request), verdict, "{what}");
        }
    }

    #[test]
    fn ten_wrong_tokens_close_the_door_to_the_right_one_too() {
        let (guard, token, _dir) = guard();
        let ours = ("host", "127.0.0.1:8081");
        for _ in 0..ATTEMPTS {
            let wrong = request("GET", "/", &[ours, ("authorization", "Bearer wrong")]);
            assert_eq!(guard.admit(&wrong), Err(Refusal::Unauthorized));
        }
        let bearer = format!("Bearer {token}");
        let right = request("GET", "/", &[ours, ("authorization", bearer.as_str())]);
        assert_eq!(guard.admit(&right), Err(Refusal::Throttled));
    }
}

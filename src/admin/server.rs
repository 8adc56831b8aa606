//! Connections of the admin API: accept, bound, guard, answer, close (security.md 2.2, 2.4).

use std::convert::Infallible;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, HeaderName, HeaderValue, REFERRER_POLICY, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::guard::{Guard, Refusal};
use super::listeners::{AdminError, Listeners};
use super::{Deps, events, routes};

/// Most connections at a time, both listeners together.
const MAX_CONNECTIONS: usize = 256;
/// Longest wait for a request's head; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for open requests when stopping.
const DRAIN: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Headers of every answer (security.md 3.5).
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("vary", "Authorization"),
];

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// For the audit line: a user id of this machine, or the token.
    pub who: String,
    /// Which listener, for the metrics.
    pub listener: &'static str,
    /// Whether the body of a change must be declared as JSON even when it is empty.
    guard: Option<Arc<Guard>>,
}

/// Serves the API until `stop`; then lets open requests end, briefly.
///
/// # Errors
/// None at present: a listener that fails is used again after a pause.
pub async fn serve(listeners: Listeners, deps: Deps, stop: CancellationToken) -> Result<(), AdminError> {
    let Listeners { unix, socket_path, tcp, tcp_problem: _ } = listeners;
    let (tcp, guard) = match tcp {
        Some((listener, address, token)) => (Some(listener), Some(Arc::new(Guard::new(address, token)))),
        None => (None, None),
    };
    info!(socket = %socket_path.display(), tcp = ?tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()), "the admin API listens");
    let deps = Arc::new(deps);
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = unix.accept() => match accepted {
                Ok((stream, _)) => {
                    let who = match stream.peer_cred() {
                        Ok(peer) => format!("uid {}", peer.uid()),
                        Err(_) => "unknown uid".to_owned(),
                    };
                    let caller = Caller { who, listener: "socket", guard: None };
                    open(stream, caller, &deps, &connections, graceful.watcher());
                }
                Err(error) => failed_accept("socket", &error).await,
            },
            accepted = accept_tcp(tcp.as_ref()) => match accepted {
                Ok(stream) => {
                    let caller = Caller { who: "token".to_owned(), listener: "tcp", guard: guard.clone() };
                    open(stream, caller, &deps, &connections, graceful.watcher());
                }
                Err(error) => failed_accept("tcp", &error).await,
            },
        }
    }
    drop((unix, tcp));
    if let Err(error) = fs::remove_file(&socket_path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %socket_path.display(), %error, "the admin socket stays behind; the next start replaces it");
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        info!("admin requests were still open when the node stopped");
    }
    Ok(())
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

async fn failed_accept(listener: &'static str, error: &io::Error) {
    warn!(listener, %error, "the admin API cannot take a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn open<S>(stream: S, caller: Caller, deps: &Arc<Deps>, connections: &Arc<Semaphore>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(permit) = Arc::clone(connections).try_acquire_owned() else {
        events::connection_refused();
        return;
    };
    tokio::spawn(converse(stream, caller, Arc::clone(deps), permit, watcher));
}

async fn converse<S>(stream: S, caller: Caller, deps: Arc<Deps>, permit: OwnedSemaphorePermit, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (caller, deps) = (caller.clone(), Arc::clone(&deps));
        async move { Ok::<_, Infallible>(answer(&deps, &caller, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        events::connection_failed(&error);
    }
    drop(permit);
}

async fn answer(deps: &Deps, caller: &Caller, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let admitted = caller.guard.as_ref().map_or(Ok(()), |guard| guard.admit(&request));
    let mut response = match admitted {
        Ok(()) => routes::route(deps, caller, request).await,
        Err(refusal) => refused(refusal),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    events::answered(caller.listener, response.status().as_u16());
    response
}

fn refused(refusal: Refusal) -> Response<Full<Bytes>> {
    let mut response = routes::error(refusal.status(), refusal.text(), "", "");
    match refusal {
        Refusal::Throttled => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("30"));
        }
        Refusal::NoOptions => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, DELETE"));
        }
        _ => {}
    }
    response
}

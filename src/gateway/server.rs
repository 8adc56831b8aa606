//! What every request meets: strictness, cross-origin rules, the limit of requests at once, its route.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::future::Future;
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

use arc_swap::ArcSwap;
use hyper::body::Incoming;
use hyper::header::{EXPECT, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, MutexGuard};

use super::answer::{self, Answer, Refusal};
use super::body::RequestBody;
use super::budget::Budget;
use super::connection::{Connection, Connections, Place};
use super::directory::Directory;
use super::rate_limit::RateLimits;
use super::routes::{self, Found, Route};
use super::socket::TimedSocket;
use super::suppression::Suppressions;
use super::{
    About, Deps, cors, docs, events, http2, ingest, internal_batch, job_runs, pages, pixel, source_config, suppression,
    webhook,
};
use crate::backend_config::Snapshot;
use crate::clock::Clock;
use crate::jobsdb::JobsDb;
use crate::settings::Live;
use crate::telemetry::LiveTaps;

/// How many streams of requests are kept in order independently.
const LANES: usize = 256;
/// What the HTTP library may buffer beyond the largest head.
const BUFFER_SLACK: usize = 64 * 1024;

/// What all requests share. Nothing in it is locked by a request but its lane.
pub(super) struct Shared {
    pub(super) jobs: JobsDb,
    pub(super) live: Live,
    pub(super) clock: Clock,
    pub(super) taps: LiveTaps,
    pub(super) about: About,
    pub(super) budget: Arc<Budget>,
    pub(super) connections: Arc<Connections>,
    pub(super) suppressions: Suppressions,
    pub(super) rate_limits: RateLimits,
    /// The external transformer of webhook sources.
    pub(super) transformer: Arc<webhook::Transformer>,
    directory: ArcSwap<Directory>,
    /// The store takes events.
    gate: AtomicBool,
    stopping: AtomicBool,
    requests: AtomicUsize,
    max_requests: Option<usize>,
    internal: bool,
    http: http1::Builder,
    lanes: Vec<Mutex<()>>,
    lane_of: RandomState,
}

impl Shared {
    pub(super) fn new(deps: Deps, snapshot: Arc<Snapshot>, connection_limit: usize) -> Shared {
        let settings = deps.settings.load();
        let gateway = &settings.gateway;
        let mut http = http1::Builder::new();
        // The socket keeps all clocks, see `socket`.
        http.header_read_timeout(None);
        // A client that has sent everything may close its side: what it asked for is still stored and answered.
        http.half_close(true);
        // Head and body of an answer are small: one buffer, one write.
        http.writev(false);
        http.max_header_size(gateway.max_header_bytes).max_buf_size(gateway.max_header_bytes + BUFFER_SLACK);
        let accepts = deps.jobs.gate().borrow().accepts_events();
        Shared {
            jobs: deps.jobs,
            clock: deps.clock,
            taps: deps.live,
            about: deps.about,
            budget: Arc::new(Budget::new(gateway.max_in_flight_bytes)),
            connections: Arc::new(Connections::new(connection_limit, gateway.max_connections_per_ip)),
            suppressions: Suppressions::new(settings.admission.suppresses_users),
            rate_limits: RateLimits::default(),
            transformer: Arc::new(webhook::Transformer::new(settings.webhook.max_calls)),
            directory: ArcSwap::from_pointee(Directory::new(snapshot)),
            gate: AtomicBool::new(accepts),
            stopping: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            max_requests: gateway.max_concurrent_requests,
            internal: gateway.internal_endpoints,
            http,
            lanes: (0..LANES).map(|_| Mutex::new(())).collect(),
            lane_of: RandomState::new(),
            live: deps.settings,
        }
    }

    /// The sources in force; a request keeps what it got.
    pub(super) fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    pub(super) fn set_configuration(&self, snapshot: Arc<Snapshot>) {
        self.directory.store(Arc::new(Directory::new(snapshot)));
    }

    /// Whether events can be stored now.
    pub(super) fn accepts_events(&self) -> bool {
        self.gate.load(Ordering::Relaxed)
    }

    pub(super) fn set_gate(&self, accepts: bool) {
        self.gate.store(accepts, Ordering::Relaxed);
    }

    /// The node is stopping: requests in flight are still answered, but `/health` sends no more.
    pub(super) fn stop_accepting(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are welcome.
    pub(super) fn is_healthy(&self) -> bool {
        self.accepts_events() && !self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn requests_now(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Takes the turn of requests with this `AnonymousId`: whoever asks first is first. The hash is seeded, so
    /// nobody can choose whom to wait with.
    pub(super) async fn lane(&self, anonymous_id: &str) -> Option<MutexGuard<'_, ()>> {
        let number = self.lane_of.hash_one(anonymous_id) % LANES as u64;
        let lane = self.lanes.get(usize::try_from(number).unwrap_or_default())?;
        Some(lane.lock().await)
    }
}

/// A request that counts until it is answered.
struct Counted<'s>(&'s AtomicUsize);

impl<'s> Counted<'s> {
    fn new(requests: &'s AtomicUsize) -> (Counted<'s>, usize) {
        let before = requests.fetch_add(1, Ordering::Relaxed);
        (Counted(requests), before)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers the requests of one connection until it ends.
pub(super) async fn run<S>(stream: S, shared: Arc<Shared>, connection: Arc<Connection>, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let socket = TokioIo::new(TimedSocket::new(stream, Arc::clone(&connection)));
    let service = service_fn(|request| serve_request(&shared, &connection, request));
    let mut http = pin!(shared.http.serve_connection(socket, service));
    let mut told = false;
    let mut registered = Waker::noop().clone();
    let outcome = std::future::poll_fn(|context| {
        if !registered.will_wake(context.waker()) {
            registered.clone_from(context.waker());
            connection.wake_on_close(&registered);
        }
        if !told && connection.is_closing() {
            told = true;
            http.as_mut().graceful_shutdown();
        }
        match http.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => Poll::Ready(outcome),
        }
    })
    .await;
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(place);
}

/// Answers one request, whatever happens on the way.
pub(super) async fn serve_request(
    shared: &Shared,
    connection: &Connection,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    connection.request_begins();
    let started = Instant::now();
    let mut ended = started;
    let (parts, incoming) = request.into_parts();
    let mut body = RequestBody::new(incoming);
    let origin = cors::granted_origin(&parts.method, &parts.headers);
    let mut must_close = false;
    let is_http2 = parts.version == Version::HTTP_2;
    let mut answer = if !is_well_formed(&parts) {
        must_close = !is_http2;
        answer::empty(StatusCode::BAD_REQUEST)
    } else if let Some(answer) = cors::preflight(&parts.method, &parts.headers) {
        answer
    } else {
        let (_counted, before) = Counted::new(&shared.requests);
        let mut answer = if shared.max_requests.is_some_and(|most| before >= most) {
            events::limit_reached("concurrent_requests");
            Refusal::TooManyRequests.answer()
        } else {
            let (pattern, answer) = route(shared, connection, &parts, &mut body, shared.internal).await;
            ended = Instant::now();
            events::answered(pattern, parts.method.as_str(), answer.status().as_u16(), ended - started);
            answer
        };
        cors::decorate(&mut answer, origin);
        answer
    };
    // What is left of a body on HTTP/2 is refused with its stream, and the connection goes on.
    if must_close || !(is_http2 || body.is_read()) {
        let expects_continue = parts.headers.contains_key(EXPECT);
        if must_close || !Box::pin(body.drain(expects_continue)).await {
            connection.linger();
            answer = answer::closing(answer);
        }
        ended = Instant::now();
    }
    connection.request_ends(ended);
    Ok(answer)
}

/// Finds what answers, and its path pattern for metrics.
async fn route(
    shared: &Shared,
    connection: &Connection,
    parts: &hyper::http::request::Parts,
    body: &mut RequestBody<Incoming>,
    internal: bool,
) -> (&'static str, Answer) {
    let entry = match routes::find(&parts.method, parts.uri.path(), internal) {
        Found::Route(entry) => entry,
        Found::OtherMethods(allowed) => return ("/redacted", answer::method_not_allowed(&allowed)),
        Found::Nothing => return ("/redacted", Refusal::NotFound.answer()),
    };
    let client = ingest::Client { parts, connection };
    let answer = match entry.route {
        Route::Events(call, identification) => ingest::events(shared, &client, body, call, identification).await,
        Route::InternalBatch => Box::pin(internal_batch::answer(shared, &client, body)).await,
        Route::ChangeSuppressions => Box::pin(suppression::routes::change(shared, &client, body)).await,
        Route::TellSuppressions => Box::pin(suppression::routes::tell(shared, &client)).await,
        Route::Webhook => Box::pin(webhook::answer(shared, &client, body)).await,
        Route::Pixel(call) => Box::pin(pixel::answer(shared, &client, call)).await,
        Route::Health => pages::health(shared),
        Route::Version => pages::version(shared),
        Route::Robots => pages::robots(),
        Route::Docs => docs::page(),
        Route::OpenApi => docs::document(),
        Route::ClusterInfo => pages::cluster_info(),
        Route::SegmentSettings => pages::segment_settings(shared, parts),
        Route::SourceConfig => source_config::answer(shared, parts),
        Route::JobStatus
        | Route::ForgetJobStatus
        | Route::FailedRecords
        | Route::ForgetFailedRecords
        | Route::DrainRun => Box::pin(job_runs::answer(shared, entry.route, parts)).await,
    };
    (entry.path, answer)
}

/// Answers a request of the internal tree that came another way.
pub(super) async fn route_internal(
    shared: &Shared,
    connection: &Connection,
    parts: &hyper::http::request::Parts,
    body: &mut RequestBody<Incoming>,
) -> Answer {
    let started = Instant::now();
    let (pattern, answer) = route(shared, connection, parts, body, true).await;
    events::answered(pattern, parts.method.as_str(), answer.status().as_u16(), started.elapsed());
    answer
}

/// What the HTTP library lets pass and nobody sends in good faith: no `Host` or several, a body in a coding
/// that nobody would undo.
fn is_well_formed(parts: &hyper::http::request::Parts) -> bool {
    if parts.version == Version::HTTP_2 {
        return http2::is_well_formed(&parts.uri, &parts.headers);
    }
    is_well_formed_http1(parts.version, &parts.headers)
}

fn is_well_formed_http1(version: Version, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(HOST).iter().count();
    let one_host = hosts == 1 || (hosts == 0 && version < Version::HTTP_11);
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked_only = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    one_host && chunked_only
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;

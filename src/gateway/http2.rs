//! HTTP/2 on TLS connections (`Gateway.http2`, security.md 2.4). Every stream of a connection is a request of its
//! own with its own waits; the connection is idle when no stream is open.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::answer::Answer;
use super::connection::{Connection, Place};
use super::server::{self, Shared};
use super::socket::TimedSocket;

/// Requests of a connection at a time.
const MOST_STREAMS: u32 = 100;
/// What a client may send of one body, and of all, before it is read.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A connection is asked for a sign of life this often, and has this long for it.
const PING: Duration = Duration::from_secs(20);
/// Most bytes of a head: that of the part of a head that costs nothing on HTTP/1.1, because it is not counted.
const MOST_HEAD_BYTES: u32 = 16 * 1024;

/// Answers the requests of one connection until it ends.
pub(super) async fn run<S>(stream: S, shared: Arc<Shared>, connection: Arc<Connection>, place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    connection.carries_streams();
    let socket = TokioIo::new(TimedSocket::new(stream, Arc::clone(&connection)));
    let of_streams = Arc::clone(&connection);
    let service = service_fn(move |request| answer(Arc::clone(&shared), Arc::clone(&of_streams), request));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_header_list_size(MOST_HEAD_BYTES);
    let mut http = pin!(builder.serve_connection(socket, service));
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

async fn answer(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let stream = OpenStream::new(&connection);
    let own = connection.of_stream();
    let answer = server::serve_request(&shared, &own, request).await;
    drop(stream);
    answer
}

/// A stream that keeps its connection busy, also when its client resets it.
struct OpenStream<'c>(&'c Connection);

impl<'c> OpenStream<'c> {
    fn new(connection: &'c Connection) -> OpenStream<'c> {
        connection.stream_begins();
        OpenStream(connection)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.stream_ends(Instant::now());
    }
}

/// Whether a request says where it goes: by its authority, or by one `Host`.
pub(super) fn is_well_formed(uri: &Uri, headers: &HeaderMap) -> bool {
    let hosts = headers.get_all(hyper::header::HOST).iter().count();
    hosts <= 1 && (hosts == 1 || uri.authority().is_some())
}

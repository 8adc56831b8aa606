//! Accepting connections, and the end of all of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Place, Timeouts, UNIX_PEER};
use super::server::{self, Shared};
use super::sockets::{self, Listeners, Socket};
use super::tls::Tls;
use super::{Deps, GatewayError, events, http2, suppression};
use crate::jobsdb::JobsDbError;
use crate::settings::GatewaySettings;

/// Pause after the system refused a connection (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// File descriptors that are not for connections.
const OTHER_FILES: u64 = 4096;
/// How often the gauges are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(10);

/// Serves until `stop`; then accepts nothing more and waits for the requests in flight, at most
/// `GracefulShutdownTimeout`.
///
/// # Errors
/// [`GatewayError::NoConfiguration`] when the configuration ended before one was known.
pub async fn serve(listeners: Listeners, deps: Deps, stop: CancellationToken) -> Result<(), GatewayError> {
    let settings = deps.settings.load();
    let mut config = deps.config.clone();
    let known = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        known = config.wait_for(Option::is_some) => known.map_err(|_| GatewayError::NoConfiguration)?.clone(),
    };
    let limit = connection_limit(&settings.gateway);
    let internal = deps.internal.clone();
    let shared = Arc::new(Shared::new(deps, known.unwrap_or_default(), limit));
    load_suppressions(&shared).await?;
    internal.open(&shared);
    let unix_path = listeners.unix_path().map(std::path::Path::to_owned);
    let tls = listeners.tls;
    let accepting =
        join_all(listeners.sockets.into_iter().map(|socket| accept(socket, tls.clone(), Arc::clone(&shared))));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = accepting => {}
        () = follow(Arc::clone(&shared), config) => {}
        () = suppression::feed::run(&shared) => {}
        () = follow_certificate(tls.as_deref(), &shared) => {}
    }
    // The sockets are closed here: whoever connects now is refused.
    if let Some(path) = unix_path {
        sockets::remove(&path);
    }
    internal.close();
    shared.stop_accepting();
    let drained =
        tokio::time::timeout(settings.gateway.graceful_shutdown_timeout, shared.connections.close_all()).await;
    if drained.is_err() {
        tracing::warn!(
            connections = shared.connections.count(),
            "requests in flight were cut off by GracefulShutdownTimeout"
        );
    }
    Ok(())
}

/// Keeps what requests read without a lock: the directory of sources, and whether the store takes events.
async fn follow(shared: Arc<Shared>, mut config: crate::backend_config::Snapshots) {
    let mut gate = shared.jobs.gate();
    let mut gauges = tokio::time::interval(GAUGE_INTERVAL);
    let mut config_lives = true;
    let mut gate_lives = true;
    loop {
        let state = gate.borrow_and_update().clone();
        shared.set_gate(state.accepts_events());
        tokio::select! {
            changed = config.changed(), if config_lives => {
                config_lives = changed.is_ok();
                let snapshot = config.borrow_and_update().clone();
                if let (true, Some(snapshot)) = (config_lives, snapshot) {
                    shared.set_configuration(snapshot);
                }
            }
            changed = gate.changed(), if gate_lives => gate_lives = changed.is_ok(),
            _ = gauges.tick() => {
                events::gauges(shared.requests_now(), shared.connections.count(), shared.budget.taken());
            }
        }
    }
}

/// Nothing is accepted before it is known whose events are not taken.
async fn load_suppressions(shared: &Arc<Shared>) -> Result<(), GatewayError> {
    let loading = Arc::clone(shared);
    let loaded = tokio::task::spawn_blocking(move || loading.suppressions.load(&loading.jobs));
    match loaded.await {
        Ok(loaded) => Ok(loaded?),
        Err(failure) => Err(JobsDbError::Unavailable(failure.to_string()).into()),
    }
}

async fn follow_certificate(tls: Option<&Tls>, shared: &Shared) {
    match tls {
        Some(tls) => tls.follow(&shared.clock).await,
        None => std::future::pending().await,
    }
}

async fn accept(socket: Socket, tls: Option<Arc<Tls>>, shared: Arc<Shared>) {
    loop {
        shared.connections.room().await;
        let accepted = match &socket {
            Socket::Tcp(socket) => {
                socket.accept().await.map(|(stream, peer)| open(stream, peer.ip(), tls.as_ref(), &shared))
            }
            Socket::Unix(socket) => socket.accept().await.map(|(stream, _)| {
                if let Some((connection, place)) = admit(UNIX_PEER, &shared) {
                    tokio::spawn(server::run(stream, Arc::clone(&shared), connection, place));
                }
            }),
        };
        if let Err(error) = accepted {
            events::accept_failed(&error);
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn open(stream: TcpStream, peer: IpAddr, tls: Option<&Arc<Tls>>, shared: &Arc<Shared>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended as it was accepted");
        return;
    }
    let Some((connection, place)) = admit(peer.to_canonical(), shared) else {
        return;
    };
    let shared = Arc::clone(shared);
    match tls {
        None => drop(tokio::spawn(server::run(stream, shared, connection, place))),
        Some(tls) => {
            let tls = Arc::clone(tls);
            tokio::spawn(async move {
                match tls.handshake(stream, &connection).await {
                    Some(secured) if secured.is_http2 => {
                        http2::run(secured.stream, shared, connection, place).await;
                    }
                    Some(secured) => server::run(secured.stream, shared, connection, place).await,
                    None => drop(place),
                }
            });
        }
    }
}

/// Counts a connection; `None` when it is one too many of its peer.
fn admit(peer: IpAddr, shared: &Arc<Shared>) -> Option<(Arc<Connection>, Place)> {
    let timeouts = Timeouts::of(&shared.live.load().gateway);
    let connection = Arc::new(Connection::new(peer, timeouts, Arc::clone(&shared.budget)));
    let place = shared.connections.add(&connection);
    if place.is_none() {
        events::limit_reached("connections_per_ip");
    }
    Some((connection, place?))
}

fn connection_limit(settings: &GatewaySettings) -> usize {
    settings.max_connections.unwrap_or_else(|| {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let by_files = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES).max(files / 2));
        usize::try_from(by_files).unwrap_or(usize::MAX).min(settings.max_connections_auto)
    })
}

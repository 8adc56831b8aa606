//! Accepting connections, and the end of all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Timeouts};
use super::server::{self, Shared};
use super::{Deps, GatewayError, events};
use crate::settings::{GatewaySettings, Settings};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;
/// Pause after the system refused a connection (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// File descriptors that are not for connections.
const OTHER_FILES: u64 = 4096;
/// How often the gauges are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(10);

/// Sockets that are bound and listen; nothing is accepted before [`serve`].
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// The addresses that were bound; ports that were given as 0 are filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Binds every address of `Gateway.listen`. Clients can connect from here on, so call it once a configuration
/// is known.
///
/// # Errors
/// [`GatewayError::Bind`] names the first address that cannot be bound.
#[allow(clippy::unused_async, reason = "sockets belong to the runtime that they are bound in")]
pub async fn bind(settings: &Settings) -> Result<Listeners, GatewayError> {
    let mut listeners = Listeners { sockets: Vec::new(), addresses: Vec::new() };
    for &address in &settings.gateway.listen {
        let bound = listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (actual, socket) = bound.map_err(|source| GatewayError::Bind { address, source })?;
        listeners.addresses.push(actual);
        listeners.sockets.push(socket);
    }
    if listeners.sockets.is_empty() { Err(GatewayError::NoAddress) } else { Ok(listeners) }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

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
    let shared = Arc::new(Shared::new(deps, known.unwrap_or_default(), limit));
    let accepting = join_all(listeners.sockets.into_iter().map(|socket| accept(socket, Arc::clone(&shared))));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = accepting => {}
        () = follow(Arc::clone(&shared), config) => {}
    }
    // The sockets are closed here: whoever connects now is refused.
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

async fn accept(socket: TcpListener, shared: Arc<Shared>) {
    loop {
        shared.connections.room().await;
        match socket.accept().await {
            Ok((stream, peer)) => open(stream, peer, &shared),
            Err(error) => {
                events::accept_failed(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn open(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let settings = shared.live.load();
    let timeouts = Timeouts {
        head: settings.gateway.read_header_timeout,
        idle: settings.gateway.idle_timeout,
        write: settings.gateway.write_timeout + Duration::from_secs(5),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended as it was accepted");
        return;
    }
    let connection = Arc::new(Connection::new(peer.ip().to_canonical(), timeouts, Arc::clone(&shared.budget)));
    let Some(place) = shared.connections.add(&connection) else {
        events::limit_reached("connections_per_ip");
        return;
    };
    tokio::spawn(server::run(stream, Arc::clone(shared), connection, place));
}

fn connection_limit(settings: &GatewaySettings) -> usize {
    settings.max_connections.unwrap_or_else(|| {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let by_files = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES).max(files / 2));
        usize::try_from(by_files).unwrap_or(usize::MAX).min(settings.max_connections_auto)
    })
}

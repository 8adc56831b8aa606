//! HTTP in, durable job out (gateway.md).
//!
//! In: requests of SDKs on the ingest port. Out: one job per event in the `gw` queue, and the answer.
//!
//! Promises: 200 is sent only after the flush that covers every job of the request; a request is stored whole
//! or not at all (an import: per user); requests with the same `AnonymousId` header are stored in the order in
//! which they arrived; what is refused is refused with the exact status and text of [`answer`]; every resource
//! that a client can hold is bounded.
//!
//! The way of a request: `listener` accepts on the `sockets`, with `tls` and `http2` where they are set; `socket` and
//! `connection` keep the clocks, `server` checks what
//! every request must meet and finds its route in `routes`, `ingest` reads the `body` and finds the source by
//! its `credentials` in the `directory`, `rate_limit` and `suppression` say what is admitted, `intake` turns the body into
//! jobs without I/O, `ingest` stores them. What is no event yet goes through `webhook`.

mod alarm;
mod answer;
mod body;
mod budget;
mod certificate_end;
mod connection;
mod cors;
mod credentials;
mod directory;
mod docs;
mod events;
mod http2;
mod ingest;
mod intake;
mod internal;
mod internal_batch;
mod job_runs;
mod listener;
mod live;
mod marks;
mod own_port;
mod pages;
mod pixel;
mod rate_limit;
mod routes;
mod server;
mod socket;
mod sockets;
mod source_config;
mod suppression;
mod tls;
mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::backend_config::Snapshots;
use crate::clock::Clock;
use crate::jobsdb::{JobsDb, JobsDbError};
use crate::settings::Live;
use crate::telemetry::LiveTaps;

pub use internal::InternalApi;
pub use listener::serve;
pub use own_port::{OwnConnection, OwnPort, reachable};
pub use sockets::{Inherited, Listeners, bind};
pub use tls::TlsError;

/// What the gateway works with.
pub struct Deps {
    /// Where jobs are stored.
    pub jobs: JobsDb,
    /// Sources and their keys.
    pub config: Snapshots,
    /// Limits and timeouts.
    pub settings: Live,
    /// The time that events are received at.
    pub clock: Clock,
    /// What passes, for who watches.
    pub live: LiveTaps,
    /// What `/version` and `/health` say about the node.
    pub about: About,
    /// Where the admin listener finds the internal tree.
    pub internal: InternalApi,
}

/// What the node says about itself.
#[derive(Clone, Debug)]
pub struct About {
    /// Its version.
    pub version: String,
    /// The commit that it was built from, or empty.
    pub commit: String,
    /// When it was built, or empty.
    pub build_date: String,
    /// Who built it, or empty.
    pub built_by: String,
    /// Whether events are delivered, or only accepted.
    pub routes_events: bool,
    /// Whether the workspace comes from a file and not from a control plane.
    pub config_from_file: bool,
}

/// Why the gateway cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; free the port or change Gateway.listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The unix socket cannot be made.
    #[error("cannot listen on {}: {source}; choose another path for Gateway.socket", path.display())]
    BindUnix {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What the service manager passed cannot be listened on.
    #[error("cannot use a socket of the service manager: {0}; mend the socket unit")]
    Inherited(std::io::Error),
    /// Certificate or key cannot be used.
    #[error("TLS of the ingest port: {0}")]
    Tls(#[from] TlsError),
    /// The store cannot be read.
    #[error("cannot read which users are suppressed: {0}")]
    Store(#[from] JobsDbError),
    /// No address is configured.
    #[error("Gateway.listen names no address; name at least one")]
    NoAddress,
    /// The owner of the configuration is gone.
    #[error("the configuration has no owner any more; restart the node")]
    NoConfiguration,
}

impl GatewayError {
    /// Whether a restart cannot help.
    pub fn needs_human(&self) -> bool {
        matches!(self, GatewayError::Tls(_) | GatewayError::NoAddress)
    }
}

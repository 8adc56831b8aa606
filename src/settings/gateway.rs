//! The ingest listener: addresses, limits, timeouts (gateway.md 13, security.md 2.1).

use std::net::SocketAddr;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;
use super::storage::Profile;

pub(super) const KEYS: &[Key] = &[
    Key::new("Gateway.listen", Kind::List, "127.0.0.1:8080", "Addresses of the ingest listener."),
    Key::new("Gateway.webPort", Kind::Int, "8080", "Given alone: listen on all interfaces at this port."),
    Key::new("Gateway.maxReqSizeInKB", Kind::Bytes(1024), "4000", "Most bytes of a request body, decompressed.").hot(),
    Key::new(
        "Gateway.hardCapFactor",
        Kind::Int,
        "4",
        "A body this many times over maxReqSizeInKB is not read to its end.",
    )
    .hot(),
    Key::new(
        "Gateway.maxExpandedBytes",
        Kind::Bytes(1),
        "",
        "Most bytes that the jobs of one request may hold (64MiB, small 16MiB).",
    ),
    Key::new(
        "Gateway.maxInFlightBytes",
        Kind::Bytes(1),
        "",
        "Most bytes of all request bodies held at once (128MiB, small 32MiB, large 512MiB).",
    ),
    Key::new("Gateway.maxJsonDepth", Kind::Int, "1200", "Deepest nesting of a request body.").hot(),
    Key::new("Gateway.maxConcurrentRequests", Kind::Int, "50000", "Most requests at once; 0 = no limit."),
    Key::new(
        "Gateway.maxConnections",
        Kind::Text,
        "auto",
        "Most connections; auto = by the limit of open files, at most 50000 (small 4096).",
    ),
    Key::new("Gateway.maxConnectionsPerIP", Kind::Int, "0", "Most connections of one peer address; 0 = no limit."),
    Key::new(
        "Gateway.bodyIdleTimeout",
        Kind::Duration(Unit::Second),
        "10s",
        "Longest pause between two parts of a request body.",
    )
    .hot(),
    Key::new(
        "Gateway.bodyMinRate",
        Kind::Bytes(1),
        "1KiB",
        "Least bytes a second of a request body, judged after 30 s.",
    )
    .hot(),
    Key::new(
        "Gateway.allowReqsWithoutUserIDAndAnonymousID",
        Kind::Bool,
        "false",
        "Accept events that have neither id.",
    )
    .hot(),
    Key::new("Gateway.internalEndpointsEnabled", Kind::Bool, "false", "Serve /internal on the ingest listener too."),
    Key::new(
        "Gateway.requireDestinationIdHeader",
        Kind::Bool,
        "false",
        "Refuse reverse-ETL requests without a destination.",
    )
    .hot(),
    Key::new("ReadHeaderTimeout", Kind::Duration(Unit::Second), "10s", "Longest time for a request head.")
        .also(&["ReadHeaderTimeoutInSec"]),
    Key::new("WriteTimeout", Kind::Duration(Unit::Second), "10s", "Longest wait for the durable store.")
        .also(&["WriteTimeOutInSec"]),
    Key::new(
        "IdleTimeout",
        Kind::Duration(Unit::Second),
        "720s",
        "Longest time that a connection without a request is kept.",
    )
    .also(&["IdleTimeoutInSec"]),
    Key::new("MaxHeaderBytes", Kind::Bytes(1), "524288", "Most bytes of a request head."),
    Key::new(
        "GracefulShutdownTimeout",
        Kind::Duration(Unit::Second),
        "15s",
        "Longest wait for requests in flight when stopping.",
    ),
];

/// Settings of the gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Most bytes of a request body after decompression.
    pub max_req_bytes: u64,
    /// Bytes of a body, on the wire or decompressed, at which reading ends.
    pub hard_cap_bytes: u64,
    /// Most bytes that the jobs of one request may hold.
    pub max_expanded_bytes: u64,
    /// Most bytes of request bodies and unfinished heads held at once.
    pub max_in_flight_bytes: u64,
    /// Deepest nesting of a body.
    pub max_json_depth: usize,
    /// Most requests at once; `None` = no limit.
    pub max_concurrent_requests: Option<usize>,
    /// Most connections; `None` = by the limit of open files.
    pub max_connections: Option<usize>,
    /// Bound of the automatic connection limit.
    pub max_connections_auto: usize,
    /// Most connections of one peer address; `None` = no limit.
    pub max_connections_per_ip: Option<usize>,
    /// Longest pause between two parts of a body.
    pub body_idle_timeout: Duration,
    /// Least bytes a second of a body, after its first 30 s.
    pub body_min_rate: u64,
    /// Whether events without any id are accepted.
    pub allow_without_identity: bool,
    /// Whether `/internal` is served on the ingest listener.
    pub internal_endpoints: bool,
    /// Whether reverse-ETL requests must name their destination.
    pub require_destination_id: bool,
    /// Longest time for a request head, from its first byte.
    pub read_header_timeout: Duration,
    /// Longest wait for the durable store.
    pub write_timeout: Duration,
    /// Longest time that an idle connection is kept.
    pub idle_timeout: Duration,
    /// Most bytes of a request head.
    pub max_header_bytes: usize,
    /// Longest wait for requests in flight when stopping.
    pub graceful_shutdown_timeout: Duration,
}

impl GatewaySettings {
    pub(super) fn read(r: &Reader<'_>, profile: Profile) -> GatewaySettings {
        let listen = if r.is_set("Gateway.webPort") && !r.is_set("Gateway.listen") {
            let port = u16::try_from(r.int("Gateway.webPort")).unwrap_or(8080);
            vec![SocketAddr::from(([0, 0, 0, 0], port))]
        } else {
            r.addresses("Gateway.listen")
        };
        let by_profile = |name: &str, small: u64, default: u64, large: u64| {
            if r.is_set(name) {
                return r.bytes(name);
            }
            match profile {
                Profile::Small => small,
                Profile::Default => default,
                Profile::Large => large,
            }
        };
        let limit = |name: &str| Some(r.count(name)).filter(|&most| most > 0);
        let max_req_bytes = r.bytes("Gateway.maxReqSizeInKB");
        let factor = u64::try_from(r.int("Gateway.hardCapFactor")).unwrap_or_default().max(1);
        let connections = r.text("Gateway.maxConnections");
        GatewaySettings {
            listen,
            max_req_bytes,
            hard_cap_bytes: max_req_bytes.saturating_mul(factor),
            max_expanded_bytes: by_profile("Gateway.maxExpandedBytes", 16 << 20, 64 << 20, 64 << 20),
            max_in_flight_bytes: by_profile("Gateway.maxInFlightBytes", 32 << 20, 128 << 20, 512 << 20),
            max_json_depth: r.count("Gateway.maxJsonDepth").max(1),
            max_concurrent_requests: limit("Gateway.maxConcurrentRequests"),
            max_connections: if connections == "auto" { None } else { limit("Gateway.maxConnections") },
            max_connections_auto: if profile == Profile::Small { 4_096 } else { 50_000 },
            max_connections_per_ip: limit("Gateway.maxConnectionsPerIP"),
            body_idle_timeout: r.duration("Gateway.bodyIdleTimeout"),
            body_min_rate: r.bytes("Gateway.bodyMinRate"),
            allow_without_identity: r.flag("Gateway.allowReqsWithoutUserIDAndAnonymousID"),
            internal_endpoints: r.flag("Gateway.internalEndpointsEnabled"),
            require_destination_id: r.flag("Gateway.requireDestinationIdHeader"),
            read_header_timeout: r.duration("ReadHeaderTimeout"),
            write_timeout: r.duration("WriteTimeout"),
            idle_timeout: r.duration("IdleTimeout"),
            max_header_bytes: usize::try_from(r.bytes("MaxHeaderBytes")).unwrap_or(524_288).max(8_192),
            graceful_shutdown_timeout: r.duration("GracefulShutdownTimeout"),
        }
    }
}

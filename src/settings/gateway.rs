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
        "Gateway.maxExpandedBytes",
        Kind::Bytes(1),
        "",
        "Most bytes that the jobs of one request may hold (64MiB, small 16MiB).",
    ),
    Key::new("WriteTimeout", Kind::Duration(Unit::Second), "10s", "Longest wait for the durable store.")
        .also(&["WriteTimeOutInSec"]),
];

/// Settings of the gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Most bytes of a request body after decompression.
    pub max_req_bytes: u64,
    /// Most bytes that the jobs of one request may hold.
    pub max_expanded_bytes: u64,
    /// Longest wait for the durable store.
    pub write_timeout: Duration,
}

impl GatewaySettings {
    pub(super) fn read(r: &Reader<'_>, profile: Profile) -> GatewaySettings {
        let listen = if r.is_set("Gateway.webPort") && !r.is_set("Gateway.listen") {
            let port = u16::try_from(r.int("Gateway.webPort")).unwrap_or(8080);
            vec![SocketAddr::from(([0, 0, 0, 0], port))]
        } else {
            r.addresses("Gateway.listen")
        };
        GatewaySettings {
            listen,
            max_req_bytes: r.bytes("Gateway.maxReqSizeInKB"),
            max_expanded_bytes: if r.is_set("Gateway.maxExpandedBytes") {
                r.bytes("Gateway.maxExpandedBytes")
            } else if profile == Profile::Small {
                16 << 20
            } else {
                64 << 20
            },
            write_timeout: r.duration("WriteTimeout"),
        }
    }
}

//! How the ingest port is reached: TLS, HTTP/2, a unix socket, proxies (security.md 3.6, 3.7).

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new("Gateway.socket", Kind::Text, "", "Path of a unix socket that takes events as well; empty = none."),
    Key::new(
        "Gateway.tls.certFile",
        Kind::Text,
        "",
        "Certificate chain (PEM) of the ingest listener; with keyFile, every TCP address speaks TLS only.",
    ),
    Key::new(
        "Gateway.tls.keyFile",
        Kind::Text,
        "",
        "Private key (PEM) of the ingest listener; no other user may read it.",
    ),
    Key::new(
        "Gateway.tls.handshakeTimeout",
        Kind::Duration(Unit::Second),
        "10s",
        "Longest time of a TLS handshake, from the accept on.",
    ),
    Key::new("Gateway.http2", Kind::Bool, "false", "Offer HTTP/2 to clients that connect with TLS."),
    Key::new(
        "Gateway.trustedProxies",
        Kind::List,
        "",
        "Addresses or networks whose X-Forwarded-For is believed; empty = everybody's.",
    )
    .hot(),
];

/// How the ingest port is reached.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where a unix socket takes events, if anywhere.
    pub socket: Option<PathBuf>,
    /// Certificate and key; `None` = plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Longest time of a TLS handshake.
    pub handshake_timeout: Duration,
    /// Whether HTTP/2 is offered with TLS.
    pub http2: bool,
    /// Whose `X-Forwarded-For` is believed; empty = everybody's.
    pub trusted_proxies: Vec<IpNet>,
}

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, leaf first.
    pub cert_file: PathBuf,
    /// The private key of the leaf.
    pub key_file: PathBuf,
}

impl ListenerSettings {
    pub(super) fn read(r: &Reader<'_>) -> ListenerSettings {
        let path = |name: &str| Some(r.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from);
        let tls = match (path("Gateway.tls.certFile"), path("Gateway.tls.keyFile")) {
            (Some(cert_file), Some(key_file)) => Some(TlsFiles { cert_file, key_file }),
            (None, None) => None,
            (Some(_), None) => {
                r.reject("Gateway.tls.keyFile", "\"\" is no key for Gateway.tls.certFile; set both or neither");
                None
            }
            (None, Some(_)) => {
                r.reject("Gateway.tls.certFile", "\"\" is no certificate for Gateway.tls.keyFile; set both or neither");
                None
            }
        };
        let http2 = r.flag("Gateway.http2");
        if http2 && tls.is_none() {
            r.reject("Gateway.http2", "true needs TLS; set Gateway.tls.certFile and Gateway.tls.keyFile");
        }
        let mut trusted_proxies = Vec::new();
        for text in r.list("Gateway.trustedProxies") {
            match text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(network) => trusted_proxies.push(network),
                Err(_) => r.reject(
                    "Gateway.trustedProxies",
                    format!("{text:?} is neither an address nor a network such as \"10.0.0.0/8\""),
                ),
            }
        }
        ListenerSettings {
            socket: path("Gateway.socket"),
            tls,
            handshake_timeout: r.duration("Gateway.tls.handshakeTimeout"),
            http2,
            trusted_proxies,
        }
    }

    /// Whether this peer's word about the client's address counts.
    pub fn believes(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.is_empty() || self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_proxies_are_believed_once_there_are_any() {
        let mut settings = super::super::Settings::defaults().listener;
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(settings.believes(peer("203.0.113.9")));
        settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        for (address, believed) in
            [("10.1.2.3", true), ("11.0.0.1", false), ("::1", true), ("127.0.0.1", false), ("0.0.0.0", false)]
        {
            assert_eq!(settings.believes(peer(address)), believed, "{address}");
        }
    }
}

//! Which addresses an object store may have (security.md 4): never a cloud's metadata service, and with
//! `blockPrivateIPs` no private address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use object_store::client::{DnsFuture, DnsResolver};

use super::StoreError;
use crate::destination::resolve;

/// The rule for one destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressRule {
    pub(super) block_private: bool,
}

impl AddressRule {
    /// Why the address is refused.
    fn refusal(self, address: IpAddr) -> Option<&'static str> {
        let address = unwrapped(address);
        if is_metadata(address) {
            Some("it is a cloud metadata service")
        } else if self.block_private && is_private(address) {
            Some("access to private IPs is blocked")
        } else {
            None
        }
    }

    /// Judges the host of an endpoint if it is an address; names are judged when they are resolved.
    pub(super) fn judge_endpoint(self, endpoint: &url::Url) -> Result<(), StoreError> {
        let literal = match endpoint.host() {
            Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match literal.and_then(|address| self.refusal(address)) {
            Some(why) => Err(StoreError::Misconfigured(format!("the endpoint {endpoint} is refused: {why}"))),
            None => Ok(()),
        }
    }
}

impl DnsResolver for AddressRule {
    fn resolve(&self, host: &str) -> DnsFuture {
        let rule = *self;
        let host = host.to_owned();
        Box::pin(async move {
            let addresses = resolve::resolve(&host).await?;
            match addresses.iter().find_map(|&address| rule.refusal(address)) {
                Some(why) => Err(format!("{host} is refused: {why}").into()),
                None => Ok(addresses),
            }
        })
    }
}

/// The address that is really meant by mapped, compatible, NAT64 and 6to4 forms.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, _] => address,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            v4(high, low)
        }
        _ => address,
    }
}

fn is_metadata(address: IpAddr) -> bool {
    const V4: [Ipv4Addr; 4] = [
        Ipv4Addr::new(169, 254, 169, 254),
        Ipv4Addr::new(169, 254, 170, 2),
        Ipv4Addr::new(100, 100, 100, 200),
        Ipv4Addr::new(192, 0, 0, 192),
    ];
    match address {
        IpAddr::V4(v4) => V4.contains(&v4),
        IpAddr::V6(v6) => v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || a == 0 || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_never_reached_and_private_addresses_only_when_allowed() {
        let open = AddressRule { block_private: false };
        let blocking = AddressRule { block_private: true };
        for (endpoint, open_allows, blocking_allows) in [
            ("http://169.254.169.254/", false, false),
            ("http://[::ffff:a9fe:a9fe]/", false, false),
            ("http://0xa9fea9fe/", false, false),
            ("http://127.0.0.1:9000/", true, false),
            ("http://10.1.2.3/", true, false),
            ("http://[::1]/", true, false),
            ("http://[fd12::1]/", true, false),
            ("http://8.8.8.8/", true, true),
            ("http://minio.example/", true, true),
        ] {
            let url = endpoint.parse().unwrap();
            assert_eq!(open.judge_endpoint(&url).is_ok(), open_allows, "{endpoint}");
            assert_eq!(blocking.judge_endpoint(&url).is_ok(), blocking_allows, "{endpoint}");
        }
    }
}

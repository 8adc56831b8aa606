//! Which addresses a delivery or a transformation may connect to (router.md 6.5, security.md 4).
//!
//! [`AddressRules`] judges one address; the wrapped forms of IPv4 inside IPv6 are unwrapped first. Whoever connects
//! resolves once, lets every answer be judged, and connects only to what was judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Code of a delivery that was refused.
pub const REFUSED_CODE: i32 = 403;
/// Text of a delivery that was refused.
pub const REFUSED_TEXT: &str = "403: access to private IPs is blocked";

/// Always part of the private ranges, besides the configured ones.
const ALWAYS_PRIVATE: [&str; 3] = ["::1/128", "::/128", "0.0.0.0/8"];

/// Addresses where clouds hand out credentials; denied whatever else is allowed.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// A block of addresses, as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    first: IpAddr,
    prefix: u8,
}

impl Range {
    /// Reads `10.0.0.0/8`, or a single address.
    pub fn parse(text: &str) -> Option<Range> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let first: IpAddr = address.trim().parse().ok()?;
        let longest = if first.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.trim().parse().ok().filter(|prefix| *prefix <= longest)?,
            None => longest,
        };
        Some(Range { first, prefix })
    }

    /// Whether the address lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.prefix);
                u32::from(first).checked_shr(shift) == u32::from(address).checked_shr(shift)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.prefix);
                u128::from(first).checked_shr(shift) == u128::from(address).checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// The IPv4 address inside an IPv6 form (mapped, compatible, NAT64, 6to4), else the address itself.
pub fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let [front @ .., high, low] = v6.segments();
    let inner = |high: u16, low: u16| {
        let [h0, h1] = high.to_be_bytes();
        let [l0, l1] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(h0, h1, l0, l1))
    };
    match front {
        [0, 0, 0, 0, 0, 0xffff] | [0x0064, 0xff9b, 0, 0, 0, 0] => inner(high, low),
        [0, 0, 0, 0, 0, 0] if high != 0 || low > 1 => inner(high, low),
        [0x2002, high, low, ..] => inner(high, low),
        _ => address,
    }
}

/// The rule for the addresses of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressRules {
    /// Ranges that are refused; empty = none.
    pub refused: Vec<Range>,
    /// Whether the clouds' metadata addresses may be reached.
    pub allows_metadata: bool,
    /// Addresses of this node that may not be reached through the port at hand.
    pub own: Vec<IpAddr>,
}

impl AddressRules {
    /// The ranges that count as private when blocking is on.
    pub fn private(configured: &[String]) -> Vec<Range> {
        let configured = configured.iter().flat_map(|text| text.split([',', ' '])).map(str::trim);
        configured.chain(ALWAYS_PRIVATE).filter_map(Range::parse).collect()
    }

    /// Whether the address may be reached.
    pub fn allows(&self, address: IpAddr) -> bool {
        let inner = unwrapped(address);
        let within = |range: &Range| range.contains(inner) || range.contains(address);
        let is_own = self.own.iter().any(|own| {
            let own_is_local = own.is_unspecified() || own.is_loopback();
            *own == inner || own_is_local && (inner.is_loopback() || inner.is_unspecified())
        });
        !(self.refused.iter().any(within) || is_own || !self.allows_metadata && METADATA.contains(&inner))
    }

    /// Whether a name with these addresses may be reached: one bad address refuses all.
    pub fn allow_all(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().all(|address| self.allows(*address))
    }
}

/// A connection that the rules refuse; found again in the error of the HTTP client.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{REFUSED_TEXT}")]
pub struct AddressRefused;

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded() -> AddressRules {
        let defaults = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.0/8,169.254.0.0/16,fc00::/7,fe80::/10";
        AddressRules { refused: AddressRules::private(&[defaults.to_owned()]), ..AddressRules::default() }
    }

    #[test]
    fn private_addresses_are_refused_in_every_form() {
        let rules = guarded();
        for text in [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(!rules.allows(text.parse().unwrap()), "{text}");
        }
        for text in ["93.184.216.34", "172.32.0.1", "11.0.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(rules.allows(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn one_bad_address_refuses_the_name() {
        let addresses: Vec<IpAddr> = ["93.184.216.34", "10.0.0.1"].iter().map(|text| text.parse().unwrap()).collect();
        assert!(!guarded().allow_all(&addresses));
        assert!(guarded().allow_all(&addresses[..1]));
    }

    #[test]
    fn credentials_of_a_cloud_and_the_nodes_own_listeners_are_out_of_reach() {
        let open = AddressRules::default();
        assert!(open.allows("10.0.0.1".parse().unwrap()) && open.allows("127.0.0.1".parse().unwrap()));
        for text in ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254"] {
            assert!(!open.allows(text.parse().unwrap()), "{text}");
        }
        let own = AddressRules { own: vec!["127.0.0.1".parse().unwrap()], ..AddressRules::default() };
        assert!(!own.allows("127.0.0.2".parse().unwrap()) && !own.allows("::1".parse().unwrap()));
        assert!(own.allows("10.0.0.1".parse().unwrap()));
    }
}

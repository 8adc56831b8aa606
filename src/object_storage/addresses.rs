//! Which addresses an object store may have (security.md 4): never a cloud's metadata service, and with
//! `blockPrivateIPs` no private address.

use std::net::IpAddr;
use std::sync::Arc;

use object_store::client::{DnsFuture, DnsResolver};

use super::StoreError;
use crate::destination::judged_names::JudgedNames;
use crate::destination::private_address::{AddressRefused, AddressRules};
use crate::destination::resolve::{self, NameSource};

/// What counts as private besides the addresses of this machine.
const PRIVATE: &str =
    "10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16,127.0.0.0/8,169.254.0.0/16,fc00::/7,fe80::/10";

/// The rule for one destination.
#[derive(Clone, Debug)]
pub struct AddressRule(Arc<AddressRules>);

impl AddressRule {
    /// The rule, with or without private addresses.
    pub fn new(block_private: bool) -> AddressRule {
        let refused = if block_private { AddressRules::private(&[PRIVATE.to_owned()]) } else { Vec::new() };
        AddressRule(Arc::new(AddressRules { refused, ..AddressRules::default() }))
    }

    /// Whether the address may be reached.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.0.allows(address)
    }

    /// The resolver of an HTTP client under the rule.
    pub(super) fn names(&self) -> JudgedNames {
        let rules = Arc::clone(&self.0);
        JudgedNames::new(NameSource::default(), move |found| rules.allow_all(found))
    }

    /// The addresses of a host, all of which may be reached.
    ///
    /// # Errors
    /// The name does not resolve, or to an address that is refused.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        let addresses = match host.trim_matches(['[', ']']).parse() {
            Ok(address) => vec![address],
            Err(_) => resolve::resolve(host).await?,
        };
        if self.0.allow_all(&addresses) { Ok(addresses) } else { Err(Box::new(AddressRefused)) }
    }

    /// Judges the host of an endpoint if it is an address; names are judged when they are resolved.
    pub(super) fn judge_endpoint(&self, endpoint: &url::Url) -> Result<(), StoreError> {
        let literal = match endpoint.host() {
            Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            // `127.0.0.1.` is a name to the URL and an address to the connector.
            Some(url::Host::Domain(name)) => name.trim_end_matches('.').parse().ok(),
            None => None,
        };
        match literal.filter(|address| !self.allows(*address)) {
            Some(_) => Err(StoreError::Misconfigured(format!("the endpoint {endpoint} is refused: {AddressRefused}"))),
            None => Ok(()),
        }
    }
}

impl DnsResolver for AddressRule {
    fn resolve(&self, host: &str) -> DnsFuture {
        let (rule, host) = (self.clone(), host.to_owned());
        Box::pin(async move { AddressRule::resolve(&rule, &host).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_never_reached_and_private_addresses_only_when_allowed() {
        let open = AddressRule::new(false);
        let blocking = AddressRule::new(true);
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

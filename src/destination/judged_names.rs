//! Host names for HTTP clients: resolved once, and only addresses that were judged are handed out (security.md 4.2).

use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns;
use tower_service::Service;

use super::private_address::AddressRefused;
use super::resolve::NameSource;

type BoxError = Box<dyn Error + Send + Sync>;
type Found = std::vec::IntoIter<SocketAddr>;

/// The resolver of a client.
#[derive(Clone)]
pub struct JudgedNames {
    names: NameSource,
    allows: Arc<dyn Fn(&[IpAddr]) -> bool + Send + Sync>,
}

impl JudgedNames {
    /// A resolver that judges all addresses of a name together.
    pub fn new(names: NameSource, allows: impl Fn(&[IpAddr]) -> bool + Send + Sync + 'static) -> JudgedNames {
        JudgedNames { names, allows: Arc::new(allows) }
    }

    async fn addresses(self, name: String) -> Result<Found, BoxError> {
        let addresses = self.names.resolve(&name).await?;
        if !(self.allows)(&addresses) {
            return Err(Box::new(AddressRefused));
        }
        // The connector knows the port.
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect();
        Ok(addresses.into_iter())
    }
}

impl Service<dns::Name> for JudgedNames {
    type Response = Found;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Found, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        Box::pin(self.clone().addresses(name.as_str().to_owned()))
    }
}

impl reqwest::dns::Resolve for JudgedNames {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let found = self.clone().addresses(name.as_str().to_owned());
        Box::pin(async move { Ok(Box::new(found.await?) as reqwest::dns::Addrs) })
    }
}

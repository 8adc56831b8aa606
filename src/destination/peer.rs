//! Whether a connection stands where it was judged to go (security.md 4.2, point 3).
//!
//! Names are judged when they are resolved and literal addresses before; this looks at the far end of the finished
//! connection, before a byte of a request is sent. Not for connections through a proxy, whose far end is the proxy.

use std::error::Error;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::{Connection, HttpInfo};
use tower_layer::Layer;
use tower_service::Service;

use super::private_address::AddressRefused;

/// Variables that name a proxy, as HTTP clients read them.
const PROXY_VARIABLES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Whether clients that take proxies from the environment may find one there.
pub fn environment_names_a_proxy() -> bool {
    static NAMED: LazyLock<bool> = LazyLock::new(|| {
        PROXY_VARIABLES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    });
    *NAMED
}

type BoxError = Box<dyn Error + Send + Sync>;

/// The check, as a layer of an HTTP client's connector.
#[derive(Clone)]
pub struct PeerCheck(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl PeerCheck {
    /// A check by this rule.
    pub fn new(allows: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> PeerCheck {
        PeerCheck(Arc::new(allows))
    }

    /// A far end that cannot be told is refused like a wrong one.
    fn judge(&self, peer: Option<SocketAddr>) -> Result<(), AddressRefused> {
        peer.filter(|peer| self.0(peer.ip())).map(|_| ()).ok_or(AddressRefused)
    }
}

impl fmt::Debug for PeerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerCheck")
    }
}

impl<S> Layer<S> for PeerCheck {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked { inner, check: self.clone() }
    }
}

/// A connector whose connections are checked.
#[derive(Clone, Debug)]
pub struct Checked<S> {
    inner: S,
    check: PeerCheck,
}

impl<S, R> Service<R> for Checked<S>
where
    S: Service<R>,
    S::Response: Connection + Send,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let (connecting, check) = (self.inner.call(target), self.check.clone());
        Box::pin(async move {
            let connection = connecting.await.map_err(Into::into)?;
            let mut facts = hyper::http::Extensions::new();
            connection.connected().get_extras(&mut facts);
            check.judge(facts.get::<HttpInfo>().map(HttpInfo::remote_addr))?;
            Ok(connection)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_ends_elsewhere_carries_no_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // As if the name had been judged by another address: nothing looks at it but the check at the far end.
        let client = reqwest::Client::builder()
            .no_proxy()
            .connector_layer(PeerCheck::new(|address| !address.is_loopback()))
            .build()
            .unwrap();
        let asked = tokio::spawn(client.get(format!("http://localhost:{}/", address.port())).send());
        let (mut stream, _) = listener.accept().await.unwrap();
        let error = asked.await.unwrap().unwrap_err();
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        let mut refused = false;
        while let Some(current) = cause {
            refused |= current.is::<AddressRefused>();
            cause = current.source();
        }
        assert!(refused, "{error:?}");
        let mut sent = Vec::new();
        assert_eq!(stream.read_to_end(&mut sent).await.unwrap(), 0);
    }
}

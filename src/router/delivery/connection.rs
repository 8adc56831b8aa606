//! Connections to destinations: opened under the address rules, pooled, without what a delivery does not need.
//!
//! The hot path of a delivery: a client with redirects, cookies, retries and decoding of its own costs more than the
//! request itself. A machine whose environment names a proxy goes through `reqwest`, which knows how to.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use reqwest::{Url, redirect};
use tokio_rustls::rustls::ClientConfig;
use tower_layer::Layer as _;
use tower_service::Service;

use super::ClientKind;
use crate::destination::judged_names::JudgedNames;
use crate::destination::peer::{Checked, PeerCheck, environment_names_a_proxy};
use crate::destination::resolve::NameSource;
use crate::stream::{system_authorities, trusting};

/// Idle connections are closed after this time.
const IDLE: Duration = Duration::from_secs(90);
/// Time between keep-alive probes of a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

type BoxError = Box<dyn StdError + Send + Sync>;
type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;
type Pool = Client<InTime<HttpsConnector<Checked<HttpConnector<JudgedNames>>>>, Full<bytes::Bytes>>;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<bytes::Bytes, BoxError>;

/// The system's authorities, read once: that takes long.
static TLS: LazyLock<Result<ClientConfig, String>> = LazyLock::new(|| {
    let roots = system_authorities();
    if roots.is_empty() {
        tracing::warn!(
            "no certificate authorities on this system: https destinations cannot be verified; install ca-certificates"
        );
    }
    trusting(roots).map_err(|error| error.to_string())
});

/// A pool of connections under one rule.
#[derive(Clone, Debug)]
pub(super) enum Connections {
    /// Straight to the destination.
    Direct(Direct),
    /// Through the proxy of the environment.
    Proxied(reqwest::Client),
}

/// A pool of the node's own.
#[derive(Clone, Debug)]
pub(super) struct Direct(Box<Pool>);

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// No connection came about.
    pub(super) is_connect: bool,
    /// With its causes.
    pub(super) error: BoxError,
}

impl Connections {
    /// A pool for deliveries of the kind.
    pub(super) fn new(kind: &ClientKind, names: &NameSource) -> Result<Connections, NoAnswer> {
        let judge = kind.addresses.clone();
        let resolver = JudgedNames::new(names.clone(), move |found| judge.allow_all(found));
        if kind.uses_proxy && environment_names_a_proxy() {
            return proxied(kind, resolver).map(Connections::Proxied).map_err(NoAnswer::from);
        }
        let tls = match &*TLS {
            Ok(tls) => tls.clone(),
            Err(error) => return Err(NoAnswer { is_connect: false, error: error.clone().into() }),
        };
        let mut http = HttpConnector::new_with_resolver(resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(KEEP_ALIVE));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let addresses = kind.addresses.clone();
        let checked = PeerCheck::new(move |address| addresses.allows(address)).layer(http);
        let https = if kind.force_http1 {
            https.enable_http1().wrap_connector(checked)
        } else {
            https.enable_all_versions().wrap_connector(checked)
        };
        let pool = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(kind.idle_per_host)
            .pool_timer(TokioTimer::new())
            // One copy of a small body is cheaper than a write from several pieces.
            .http1_writev(false)
            .timer(TokioTimer::new())
            .build(InTime { inner: https, limit: kind.connect_timeout });
        Ok(Connections::Direct(Direct(Box::new(pool))))
    }

    /// Sends one request; the head of its answer.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<bytes::Bytes>,
    ) -> Result<Response<Body>, NoAnswer> {
        match self {
            Connections::Direct(Direct(pool)) => {
                let uri =
                    Uri::try_from(url.as_str()).map_err(|error| NoAnswer { is_connect: false, error: error.into() })?;
                let mut request = hyper::Request::new(Full::new(body.unwrap_or_default()));
                *request.method_mut() = method;
                *request.uri_mut() = uri;
                *request.headers_mut() = headers;
                let response = pool.request(request).await?;
                Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
            }
            Connections::Proxied(client) => {
                let mut request = reqwest::Request::new(method, url.clone());
                *request.headers_mut() = headers;
                *request.body_mut() = body.map(reqwest::Body::from);
                let response = client.execute(request).await?;
                Ok(Response::from(response).map(|body| body.map_err(BoxError::from).boxed_unsync()))
            }
        }
    }
}

impl From<PoolError> for NoAnswer {
    fn from(error: PoolError) -> NoAnswer {
        NoAnswer { is_connect: error.is_connect(), error: error.into() }
    }
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> NoAnswer {
        NoAnswer { is_connect: error.is_connect(), error: error.without_url().into() }
    }
}

fn proxied(kind: &ClientKind, resolver: JudgedNames) -> Result<reqwest::Client, reqwest::Error> {
    let builder = reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(kind.connect_timeout)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(kind.idle_per_host)
        .tcp_keepalive(KEEP_ALIVE)
        .tcp_nodelay(true)
        .no_gzip()
        .dns_resolver(resolver);
    if kind.force_http1 { builder.http1_only() } else { builder }.build()
}

/// A connection stands, TLS included, within a time.
#[derive(Clone)]
struct InTime<C> {
    inner: C,
    limit: Duration,
}

impl<C> Service<Uri> for InTime<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Future: Send + 'static,
    C::Response: Send,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Boxed<C::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move {
            connecting.await.unwrap_or_else(|_| {
                Err(Box::new(io::Error::new(io::ErrorKind::TimedOut, "connecting took too long")) as BoxError)
            })
        })
    }
}

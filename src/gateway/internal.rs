//! The `/internal` tree for the admin listener, where it always is (gateway.md 3): the same handlers, with the same
//! limits, as on the ingest port.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};

use super::answer::Refusal;
use super::body::RequestBody;
use super::connection::{Connection, Timeouts};
use super::server::{self, Shared};

/// Where internal requests are answered, while the gateway serves.
#[derive(Clone, Default)]
pub struct InternalApi(Arc<ArcSwapOption<Shared>>);

impl InternalApi {
    pub(super) fn open(&self, shared: &Arc<Shared>) {
        self.0.store(Some(Arc::clone(shared)));
    }

    pub(super) fn close(&self) {
        self.0.store(None);
    }

    /// Answers a request whose path begins with `/internal/`. Who may ask is the caller's decision.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(shared) = self.0.load_full() else {
            return Refusal::Unavailable.answer();
        };
        let timeouts = Timeouts::of(&shared.live.load().gateway);
        let connection = Connection::new(IpAddr::V4(Ipv4Addr::LOCALHOST), timeouts, Arc::clone(&shared.budget));
        connection.request_begins();
        let (parts, incoming) = request.into_parts();
        let mut body = RequestBody::new(incoming);
        Box::pin(server::route_internal(&shared, &connection, &parts, &mut body)).await
    }
}

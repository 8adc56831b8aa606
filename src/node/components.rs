//! Where the components are wired: what each of them is given, and how it is started.
//!
//! This is the only file that knows every component's entry point.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::NodeError;
use super::supervisor::{Component, Ended, Start};
use crate::backend_config::BackendConfig;
use crate::clock::Clock;
use crate::jobsdb::JobsDb;
use crate::telemetry::LiveTaps;
use crate::transform::CodeListener;
use crate::warehouse::Warehouse;
use crate::{admin, batch_router, gateway, processor, router, settings};

/// What every component is built from.
#[derive(Clone)]
pub(super) struct Parts {
    pub jobs: JobsDb,
    pub config: BackendConfig,
    pub settings: settings::Live,
    pub clock: Clock,
    pub data_dir: PathBuf,
    pub live: LiveTaps,
    pub router_board: Arc<router::Board>,
    pub batch_board: Arc<batch_router::Board>,
    /// Uploads of warehouses.
    pub warehouse: Warehouse,
    /// The addresses that the ingest port got.
    pub gateway_addresses: Arc<OnceLock<Vec<std::net::SocketAddr>>>,
    /// Sockets that the service manager passed.
    pub inherited: gateway::Inherited,
    /// The way to the own ingest port.
    pub own_port: gateway::OwnPort,
    /// The internal tree, for the admin listener.
    pub internal: gateway::InternalApi,
}

/// Events become jobs.
pub(super) fn processor(parts: &Parts) -> Component {
    let parts = parts.clone();
    let start: Start = Arc::new(move |stop| {
        let deps = processor::Deps {
            jobs: parts.jobs.clone(),
            config: parts.config.subscribe(),
            settings: parts.settings.clone(),
            clock: parts.clock.clone(),
            live: parts.live.clone(),
        };
        Box::pin(async move { processor::run(deps, stop).await.map_err(|error| Ended::of(&error)) })
    });
    Component { name: "processor", start }
}

/// Jobs become requests.
pub(super) fn router(parts: &Parts) -> Component {
    let parts = parts.clone();
    let start: Start = Arc::new(move |stop| {
        let deps = router::Deps {
            jobs: parts.jobs.clone(),
            config: parts.config.subscribe(),
            settings: parts.settings.clone(),
            clock: parts.clock.clone(),
            live: parts.live.clone(),
            board: Arc::clone(&parts.router_board),
        };
        Box::pin(async move { router::run(deps, stop).await.map_err(|error| Ended::of(&error)) })
    });
    Component { name: "router", start }
}

/// Jobs become files.
pub(super) fn batch_router(parts: &Parts) -> Component {
    let parts = parts.clone();
    let start: Start = Arc::new(move |stop| {
        let deps = batch_router::Deps {
            jobs: parts.jobs.clone(),
            config: parts.config.subscribe(),
            settings: parts.settings.clone(),
            clock: parts.clock.clone(),
            data_dir: parts.data_dir.clone(),
            board: Arc::clone(&parts.batch_board),
            delivers: parts.settings.load().router.enabled,
        };
        Box::pin(async move { batch_router::run(deps, stop).await.map_err(|error| Ended::of(&error)) })
    });
    Component { name: "batch_router", start }
}

/// Staging files become tables.
pub(super) fn warehouse(parts: &Parts) -> Component {
    let warehouse = parts.warehouse.clone();
    let start: Start = Arc::new(move |stop| {
        let warehouse = warehouse.clone();
        Box::pin(async move { warehouse.run(stop).await.map_err(|error| Ended::of(&error)) })
    });
    Component { name: "warehouse", start }
}

/// Events come in. The first start uses the listeners that are bound already; a later one binds the same
/// addresses again.
pub(super) fn gateway(parts: &Parts, listeners: gateway::Listeners) -> Component {
    let parts = parts.clone();
    let bound = Arc::new(Mutex::new(Some(listeners)));
    let start: Start = Arc::new(move |stop| {
        let (parts, listeners) = (parts.clone(), bound.lock().take());
        Box::pin(async move {
            let listeners = match listeners {
                Some(listeners) => listeners,
                None => bind_again(&parts).await?,
            };
            let deps = gateway::Deps {
                jobs: parts.jobs.clone(),
                config: parts.config.subscribe(),
                settings: parts.settings.clone(),
                clock: parts.clock.clone(),
                live: parts.live.clone(),
                about: about(&parts.settings.load()),
                internal: parts.internal.clone(),
            };
            gateway::serve(listeners, deps, stop).await.map_err(|error| Ended::of(&error))
        })
    });
    Component { name: "gateway", start }
}

/// What the ingest port says about the node: how it was built, and whether it delivers.
fn about(settings: &settings::Settings) -> gateway::About {
    gateway::About {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: option_env!("PINTLE_COMMIT").unwrap_or_default().to_owned(),
        build_date: option_env!("PINTLE_BUILD_DATE").unwrap_or_default().to_owned(),
        built_by: option_env!("PINTLE_BUILT_BY").unwrap_or_default().to_owned(),
        routes_events: settings.router.enabled,
        config_from_file: settings.backend_config.hosted.is_none(),
    }
}

/// Opens the ingest port and notes the addresses that it got.
pub(super) async fn open_ingest_port(parts: &Parts) -> Result<gateway::Listeners, NodeError> {
    let listeners = gateway::bind(&parts.settings.load(), &parts.inherited).await.map_err(|error| {
        let reason = Ended::of(&error).reason;
        if error.needs_human() { NodeError::ListenerSettings(reason) } else { NodeError::Listen(reason) }
    })?;
    // A second set keeps the first: a restart binds the same addresses.
    parts.gateway_addresses.get_or_init(|| listeners.addresses().to_vec());
    parts.own_port.is_at(&listeners);
    Ok(listeners)
}

async fn bind_again(parts: &Parts) -> Result<gateway::Listeners, Ended> {
    let mut settings = settings::Settings::clone(&parts.settings.load());
    if let Some(addresses) = parts.gateway_addresses.get() {
        settings.gateway.listen.clone_from(addresses);
    }
    let listeners = gateway::bind(&settings, &parts.inherited).await.map_err(|error| Ended::of(&error))?;
    parts.own_port.is_at(&listeners);
    Ok(listeners)
}

/// Code for an external transformer. The first start uses the listener that is bound already; a later one binds the
/// same address again.
pub(super) fn code_listener(parts: &Parts, address: std::net::SocketAddr, listener: CodeListener) -> Component {
    let parts = parts.clone();
    let bound = Arc::new(Mutex::new(Some(listener)));
    let start: Start = Arc::new(move |stop| {
        let (parts, listener) = (parts.clone(), bound.lock().take());
        Box::pin(async move {
            let listener = match listener {
                Some(listener) => listener,
                None => CodeListener::bind(address).await.map_err(|error| Ended::of(&error))?,
            };
            listener.serve(parts.config.subscribe(), stop).await;
            Ok(())
        })
    });
    Component { name: "code_listener", start }
}

/// Alerts.
pub(super) fn alerts(deps: &admin::Deps) -> Component {
    let deps = deps.clone();
    let start: Start = Arc::new(move |stop| {
        let deps = deps.clone();
        Box::pin(async move {
            admin::alerts::run(deps, stop).await;
            Ok(())
        })
    });
    Component { name: "alerts", start }
}

/// The admin API. The first start uses the listeners that are bound already.
pub(super) fn admin(deps: admin::Deps, listeners: admin::Listeners) -> Component {
    let bound = Arc::new(Mutex::new(Some(listeners)));
    let start: Start = Arc::new(move |stop| {
        let (deps, listeners) = (deps.clone(), bound.lock().take());
        Box::pin(async move {
            let listeners = match listeners {
                Some(listeners) => listeners,
                None => admin::bind(&deps.settings.load()).await.map_err(|error| Ended::of(&error))?,
            };
            admin::serve(listeners, deps, stop).await.map_err(|error| Ended::of(&error))
        })
    });
    Component { name: "admin", start }
}

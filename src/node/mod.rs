//! The composition root: builds every component from settings, starts them, keeps them at work, stops them.
//!
//! In: settings. Out: a process that serves until it is told to stop, or a [`NodeError`] with its exit code.
//!
//! Start, in order: log, admin sockets, store, queues, workspace configuration, processor, routers, and the
//! ingest port last (gateway.md 1), so that whoever can connect is served. The admin API answers from the
//! moment the queues are open and says what the node waits for. Stop is the reverse of an event's way: the
//! gateway answers what is in flight, then deliveries and the processor end, then the store (gateway.md 8); each
//! step has a bound, the whole has [`STOP_BOUND`]. What is still busy at its bound is cut off: its events are in
//! the store and are delivered again. A component that fails is started again and nobody else
//! notices; a store that fails ends the process, because only opening it again can help.

mod addresses;
mod backoff;
mod components;
mod default_archive;
mod events;
mod metrics_upkeep;
mod process;
mod progress;
mod reload;
mod signals;
mod stopping;
mod supervisor;
mod systemd;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, AdminError, Components, Phase, Vitals};
use crate::backend_config::{self, BackendConfig, Mode, Snapshot, StartError};
use crate::clock::Clock;
use crate::jobsdb::{Gate, JobsDb};
use crate::settings::{Live, Loaded, Profile, Settings, Sources};
use crate::storage::{Storage, StorageError};
use crate::telemetry::LiveTaps;
use crate::telemetry::Metrics;
use crate::telemetry::logs::{self, Logs, LogsError};
use crate::transform::CodeListener;
use crate::warehouse::{self, Warehouse};
use crate::{batch_router, gateway, router};

use components::Parts;
use reload::Reloader;
use stopping::Step;
use supervisor::{Supervised, Watch};

/// Longest time of a whole stop; after it the process ends with code 1.
const STOP_BOUND: Duration = Duration::from_secs(15);
/// How often a slow step of the start asks the service manager for more time, and for how much.
const START_TICK: Duration = Duration::from_secs(10);
const START_EXTENSION: Duration = Duration::from_secs(60);

/// Why the node ended, or did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The runtime cannot be built.
    #[error("cannot start threads: {0}")]
    Runtime(std::io::Error),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The log cannot be written as the settings say.
    #[error(transparent)]
    Logs(#[from] LogsError),
    /// The workspace cannot be used.
    #[error(transparent)]
    Configuration(#[from] StartError),
    /// The admin API cannot be served.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The ingest port cannot be opened.
    #[error("cannot open the ingest port: {0}")]
    Listen(String),
    /// The ingest port cannot be opened as the settings say.
    #[error("cannot open the ingest port: {0}")]
    ListenerSettings(String),
    /// A file of the data directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store failed while the node ran.
    #[error("the store failed: {0}; nothing that was acknowledged is lost, start the node again")]
    StoreFailed(String),
    /// Something did not end in time.
    #[error("the node did not stop in an orderly way within 15 s")]
    StopTooLong,
}

impl NodeError {
    /// The exit code of the process (appliance.md 1).
    pub fn exit_code(&self) -> u8 {
        match self {
            NodeError::Store(error) if error.needs_human() => 78,
            NodeError::Admin(error) if error.needs_human() => 78,
            NodeError::ListenerSettings(_)
            | NodeError::Configuration(StartError::Hosted(_))
            | NodeError::Logs(LogsError::Journal(_)) => 78,
            NodeError::Configuration(_) | NodeError::Store(_) | NodeError::StoreFailed(_) => 75,
            NodeError::Runtime(_)
            | NodeError::Logs(_)
            | NodeError::Admin(_)
            | NodeError::Listen(_)
            | NodeError::File { .. }
            | NodeError::StopTooLong => 1,
        }
    }
}

/// What the operator may want to know once the node accepts events.
#[derive(Clone, Debug)]
pub struct Started {
    /// The addresses of the ingest port.
    pub gateway: Vec<SocketAddr>,
    /// Whether these speak TLS.
    pub is_tls: bool,
    /// The address of the admin API, when it listens on TCP.
    pub admin: Option<SocketAddr>,
    /// The path of the admin socket.
    pub admin_socket: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The configuration in force.
    pub configuration: Arc<Snapshot>,
    /// Whether that is the embedded default.
    pub is_embedded_default: bool,
}

/// Runs a node until it is told to stop. `on_started` is called once, when events are accepted.
///
/// # Errors
/// See [`NodeError`].
pub fn run(sources: Sources, loaded: Loaded, on_started: impl FnOnce(&Started)) -> Result<(), NodeError> {
    // Before there is another thread: it ends the environment variables that announce the sockets.
    let inherited = gateway::Inherited::take().map_err(|problem| NodeError::Listen(problem.to_string()))?;
    let warnings = process::prepare();
    let logs = logs::init(&loaded.settings.log)?;
    process::tell(&warnings);
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let runtime = build_runtime(&loaded.settings)?;
    let ended = runtime.block_on(live(sources, loaded, logs, inherited, on_started));
    runtime.shutdown_background();
    ended
}

fn build_runtime(settings: &Settings) -> Result<runtime::Runtime, NodeError> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let blocking = match settings.storage.profile {
        Profile::Small => 16,
        Profile::Default => 64,
        Profile::Large => 128,
    };
    runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .max_blocking_threads(blocking)
        .thread_name("pintle-worker")
        // Parsing, walking and dropping JSON that is nested as deeply as we accept recurses (security.md 2.4).
        .thread_stack_size(8 << 20)
        .enable_all()
        .build()
        .map_err(NodeError::Runtime)
}

async fn live(
    sources: Sources,
    loaded: Loaded,
    logs: Logs,
    inherited: gateway::Inherited,
    on_started: impl FnOnce(&Started),
) -> Result<(), NodeError> {
    let stop = signals::stop_signal().map_err(NodeError::Runtime)?;
    let mut hangups = signals::reload_signal().map_err(NodeError::Runtime)?;
    let metrics = Metrics::install();
    let tidying = CancellationToken::new();
    let _stop_tidying = tidying.clone().drop_guard();
    tokio::spawn(metrics_upkeep::run(metrics.clone(), tidying));
    let clock = Clock::system();
    let Loaded { raw, settings, .. } = loaded;
    let data_dir = settings.data_dir.clone();
    info!(version = env!("CARGO_PKG_VERSION"), data_dir = %data_dir.display(), profile = ?settings.storage.profile, "starting");

    let vitals = Arc::new(Vitals::new(clock.now_ms()));
    let jobs = patiently("opening the store", &vitals, open_queues(&settings, &clock)).await?;
    let live = Live::new(settings);
    let watch = Watch {
        components: Arc::new(Components::default()),
        clock: clock.clone(),
        store_failure: watch::Sender::new(None),
    };
    let configuring = CancellationToken::new();
    let deps = backend_config::Deps { jobs: jobs.clone(), settings: live.clone(), clock: clock.clone() };
    let config = BackendConfig::start(deps, configuring.clone()).await;
    let config = match config {
        Ok(config) => config,
        Err(problem) => {
            close(jobs, Instant::now() + STOP_BOUND).await?;
            return Err(NodeError::Configuration(problem));
        }
    };
    let warehouse = match open_warehouse(&jobs, &config, &live, &clock, &data_dir).await {
        Ok(warehouse) => warehouse,
        Err(problem) => {
            close(jobs, Instant::now() + STOP_BOUND).await?;
            return Err(problem);
        }
    };
    live.store(default_archive::complete(Settings::clone(&live.load()), config.state().mode));
    let parts = Parts {
        jobs: jobs.clone(),
        config: config.clone(),
        settings: live.clone(),
        clock: clock.clone(),
        data_dir: data_dir.clone(),
        live: LiveTaps::default(),
        router_board: Arc::new(router::Board::default()),
        batch_board: Arc::new(batch_router::Board::default()),
        warehouse,
        gateway_addresses: Arc::new(OnceLock::new()),
        inherited,
        own_port: gateway::OwnPort::default(),
        internal: gateway::InternalApi::default(),
    };
    let (reloads, mut reload_requests) = mpsc::channel(1);
    let drain_bound = live.load().gateway.graceful_shutdown_timeout;
    let mut running =
        Running { jobs, configuring, vitals: Arc::clone(&vitals), data_dir, started: Vec::new(), drain_bound };
    let served = serve(
        &mut running,
        Serving {
            parts: &parts,
            watch: &watch,
            metrics,
            reloads,
            reloader: Reloader::new(sources, raw, live, config, logs),
        },
        &stop,
        &mut hangups,
        &mut reload_requests,
        on_started,
    )
    .await;
    drop(parts);
    let stopped = running.stop().await;
    served.and(stopped)
}

/// What [`serve`] builds the node from.
struct Serving<'a> {
    parts: &'a Parts,
    watch: &'a Watch,
    metrics: Metrics,
    reloads: admin::ReloadRequests,
    reloader: Reloader,
}

/// Lets an external transformer fetch code where the settings say so; the address that it may do so at.
async fn serve_code(running: &mut Running, parts: &Parts, watch: &Watch) -> Result<Option<SocketAddr>, NodeError> {
    let Some(address) = parts.settings.load().transform.code_listen else { return Ok(None) };
    let failed = |error: std::io::Error| NodeError::Listen(format!("ConfigBackend.listen: {address}: {error}"));
    let listener = CodeListener::bind(address).await.map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    running.keep(Step::Work, Supervised::start(components::code_listener(parts, address, listener), watch.clone()));
    Ok(Some(address))
}

/// Starts the components and looks after the node until it is to stop, or has to.
async fn serve(
    running: &mut Running,
    serving: Serving<'_>,
    stop: &CancellationToken,
    hangups: &mut tokio::signal::unix::Signal,
    reload_requests: &mut mpsc::Receiver<tokio::sync::oneshot::Sender<Result<admin::Reloaded, String>>>,
    on_started: impl FnOnce(&Started),
) -> Result<(), NodeError> {
    let Serving { parts, watch, metrics, reloads, mut reloader } = serving;
    let admin_listeners = admin::bind(&parts.settings.load()).await?;
    let (admin_address, admin_socket) = (admin_listeners.address(), admin_listeners.socket_path().to_owned());
    if let Some(problem) = admin_listeners.tcp_problem() {
        let now_ms = parts.clock.now_ms();
        watch.components.note("admin_tcp", admin::ComponentState::Off, Some(problem.to_owned()), now_ms);
    }
    let admin_deps = admin::Deps {
        jobs: parts.jobs.clone(),
        config: parts.config.clone(),
        settings: parts.settings.clone(),
        clock: parts.clock.clone(),
        metrics,
        data_dir: parts.data_dir.clone(),
        vitals: Arc::clone(&running.vitals),
        components: Arc::clone(&watch.components),
        live: parts.live.clone(),
        router_board: Arc::clone(&parts.router_board),
        batch_board: Arc::clone(&parts.batch_board),
        warehouse: Some(parts.warehouse.clone()),
        gateway_addresses: Arc::clone(&parts.gateway_addresses),
        own_port: parts.own_port.clone(),
        internal: parts.internal.clone(),
        backlogs: Arc::default(),
        alerts: Arc::default(),
        reloads,
    };
    running.keep(Step::Work, Supervised::start(components::alerts(&admin_deps), watch.clone()));
    running.keep(Step::Admin, Supervised::start(components::admin(admin_deps, admin_listeners), watch.clone()));

    let waiting = wait_for_configuration(&parts.config);
    let configuration = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        configuration = patiently("waiting for configuration", &running.vitals, waiting) => configuration?,
    };
    let (processes, delivers) = {
        let settings = parts.settings.load();
        (settings.processor.enabled, settings.router.enabled)
    };
    if processes {
        running.keep(Step::Work, Supervised::start(components::processor(parts), watch.clone()));
    } else {
        switched_off(watch, "processor", "enableProcessor is false; accepted events wait");
    }
    running.keep(Step::Work, Supervised::start(components::batch_router(parts), watch.clone()));
    if delivers {
        running.keep(Step::Work, Supervised::start(components::router(parts), watch.clone()));
        running.keep(Step::Work, Supervised::start(components::warehouse(parts), watch.clone()));
    } else {
        switched_off(watch, "warehouse", "enableRouter is false; staging files wait");
        switched_off(watch, "router", "enableRouter is false; events wait for delivery");
    }
    let listeners = components::open_ingest_port(parts).await?;
    let is_tls = listeners.is_tls();
    running.keep(Step::Gateway, Supervised::start(components::gateway(parts, listeners), watch.clone()));

    let code_address = serve_code(running, parts, watch).await?;

    let gateway = parts.gateway_addresses.get().cloned().unwrap_or_default();
    addresses::write(&parts.data_dir, &gateway, admin_address, &admin_socket, code_address)
        .map_err(|source| NodeError::File { path: parts.data_dir.join("tmp/addresses.json"), source })?;
    let probing = CancellationToken::new();
    let _stop_probing = probing.clone().drop_guard();
    tokio::spawn(progress::watch(parts.jobs.clone(), parts.own_port.clone(), Arc::clone(&running.vitals), probing));
    let summary = format!("accepting events on {}", list(&gateway));
    running.vitals.enter(Phase::Running);
    systemd::ready(&summary);
    info!(gateway = %list(&gateway), admin_socket = %admin_socket.display(), "accepting events");
    on_started(&Started {
        gateway,
        is_tls,
        admin: admin_address,
        admin_socket,
        data_dir: parts.data_dir.clone(),
        configuration,
        is_embedded_default: parts.config.state().mode == Mode::Embedded,
    });

    let mut gate = parts.jobs.gate();
    let mut store_failure = watch.store_failure.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            reason = poisoned(&mut gate) => return Err(NodeError::StoreFailed(reason)),
            reason = told(&mut store_failure) => return Err(NodeError::StoreFailed(reason)),
            _ = hangups.recv() => {
                // Logged and counted; a signal has no answer.
                drop(reloader.reload(&summary).await);
            }
            Some(answer) = reload_requests.recv() => {
                let outcome = reloader.reload(&summary).await;
                if answer.send(outcome).is_err() {
                    info!("whoever asked for the reload did not wait for its outcome");
                }
            }
        }
    }
}

/// A component that the settings leave out.
fn switched_off(watch: &Watch, name: &'static str, reason: &str) {
    warn!(component = name, "{reason}");
    watch.components.note(name, admin::ComponentState::Off, Some(reason.to_owned()), watch.clock.now_ms());
}

/// Opens the store and the queues on a thread that may block.
async fn open_queues(settings: &Settings, clock: &Clock) -> Result<JobsDb, NodeError> {
    let (settings, clock) = (settings.clone(), clock.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let storage = Storage::open(&settings.data_dir, &settings.storage, &clock)?;
        Ok(JobsDb::open(storage, &settings, clock)?)
    });
    opened.await.map_err(|failure| NodeError::StoreFailed(failure.to_string()))?
}

/// Reads which uploads the last run left.
async fn open_warehouse(
    jobs: &JobsDb,
    config: &BackendConfig,
    live: &Live,
    clock: &Clock,
    data_dir: &Path,
) -> Result<Warehouse, NodeError> {
    let deps = warehouse::Deps {
        jobs: jobs.clone(),
        config: config.subscribe(),
        settings: live.clone(),
        clock: clock.clone(),
        data_dir: data_dir.to_owned(),
    };
    let opened = tokio::task::spawn_blocking(move || Warehouse::open(deps)).await;
    let failed = |failure: String| NodeError::StoreFailed(failure);
    opened.map_err(|failure| failed(failure.to_string()))?.map_err(|failure| failed(failure.to_string()))
}

async fn wait_for_configuration(config: &BackendConfig) -> Result<Arc<Snapshot>, NodeError> {
    let mut snapshots = config.subscribe();
    let known = snapshots.wait_for(Option::is_some).await.map(|snapshot| snapshot.clone());
    match known {
        Ok(Some(snapshot)) => Ok(snapshot),
        // The sender lives in `config` itself.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

/// Waits for a step of the start, tells what it is, and asks the service manager for time.
async fn patiently<T>(
    step: &str,
    vitals: &Vitals,
    work: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    vitals.enter(Phase::Starting(step.to_owned()));
    let mut ticks = tokio::time::interval(START_TICK);
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => systemd::starting(step, START_EXTENSION),
        }
    }
}

async fn poisoned(gate: &mut watch::Receiver<Gate>) -> String {
    match gate.wait_for(|gate| matches!(gate, Gate::Poisoned(_))).await.map(|gate| gate.clone()) {
        Ok(Gate::Poisoned(reason)) => reason,
        Ok(_) => String::new(),
        Err(_) => "its writer is gone".to_owned(),
    }
}

async fn told(store_failure: &mut watch::Receiver<Option<String>>) -> String {
    match store_failure.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
        Ok(Some(reason)) => reason,
        // The sender lives as long as the loop that asks.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What has been started, so that it can be stopped in order.
struct Running {
    jobs: JobsDb,
    configuring: CancellationToken,
    vitals: Arc<Vitals>,
    data_dir: PathBuf,
    started: Vec<(Step, Supervised)>,
    /// How long the gateway waits for requests in flight.
    drain_bound: Duration,
}

impl Running {
    fn keep(&mut self, step: Step, supervised: Supervised) {
        self.started.push((step, supervised));
    }

    /// Stops everything, each step within its bound, and closes the store.
    async fn stop(self) -> Result<(), NodeError> {
        let began = Instant::now();
        let deadline = began + STOP_BOUND;
        cut_off_at(deadline);
        self.vitals.enter(Phase::Stopping);
        systemd::stopping();
        if let Err(problem) = addresses::remove(&self.data_dir) {
            warn!(%problem, "tmp/addresses.json stays behind");
        }
        stopping::stop_all(self.started, stopping::Bounds::new(self.drain_bound), began).await;
        self.configuring.cancel();
        close(self.jobs, deadline).await?;
        info!("stopped");
        Ok(())
    }
}

/// Closes the queues on a thread that may block: the final flush and the mark of a clean stop.
async fn close(jobs: JobsDb, deadline: Instant) -> Result<(), NodeError> {
    let closing = tokio::task::spawn_blocking(move || jobs.close());
    match tokio::time::timeout_at(deadline.into(), closing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(NodeError::StoreFailed(failure.to_string())),
        Err(_) => Err(NodeError::StopTooLong),
    }
}

/// Ends the process at the deadline even when every worker is stuck.
fn cut_off_at(deadline: Instant) {
    let waiting = std::thread::Builder::new().name("pintle-stop".to_owned()).spawn(move || {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(200));
        error!("the node did not stop in time; what was acknowledged is in the store");
        std::process::exit(1);
    });
    if let Err(problem) = waiting {
        warn!(%problem, "the bound of the stop is not watched");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobsdb::JobsDbError;

    #[test]
    fn exit_codes_tell_a_restart_from_a_human() {
        let locked = StorageError::Locked { directory: PathBuf::from("/d") };
        for (error, code) in [
            (NodeError::Store(locked), 78),
            (NodeError::Store(StorageError::Poisoned { reason: "flush".to_owned() }), 75),
            (NodeError::StoreFailed("flush".to_owned()), 75),
            (NodeError::Configuration(StartError::Hosted("no client".to_owned())), 78),
            (NodeError::Configuration(StartError::Store(JobsDbError::Timeout)), 75),
            (NodeError::Admin(AdminError::NotLoopback { address: "0.0.0.0:1".parse().unwrap() }), 78),
            (NodeError::Admin(AdminError::SocketInUse { path: PathBuf::from("/s") }), 1),
            (NodeError::Listen("in use".to_owned()), 1),
            (NodeError::ListenerSettings("no key".to_owned()), 78),
            (NodeError::StopTooLong, 1),
        ] {
            assert_eq!(error.exit_code(), code, "{error}");
        }
    }
}

//! Settings: from `pintle.toml`, the environment and flags to typed, validated values.
//!
//! In: the settings file, the environment, flags; [`load`] gathers them in [`Raw`], the texts with their
//! origins. Out: [`Settings`], one plain struct per component.
//! This is the only module that knows configuration key names, and every default lives in the
//! [`catalogue`], once (spec: appliance.md 3, gateway.md 12). Nothing past start-up sees the raw form.
//!
//! Precedence: flag > environment > file > default. Keys match without case. A key's section file
//! (`settings/gateway.rs`, ...) lists its keys and turns them into its struct.

mod catalogue;
mod effective;
mod elsewhere;
mod file;
mod load;
mod names;
mod no_effect;
mod raw;

mod admin;
mod admission;
mod alert;
mod backend_config;
mod batch_router;
mod flag;
mod gateway;
mod jobsdb;
mod kafka;
mod listener;
mod log;
mod processor;
mod router;
mod runs;
mod storage;
mod transform;
mod transformer;
mod warehouse;
mod warehouse_rows;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use admin::AdminSettings;
pub use admission::{AdmissionSettings, RateLimit, SuppressionFeed};
pub use alert::AlertSettings;
pub use backend_config::{BackendConfigSettings, HostedWorkspace, Token};
pub use batch_router::{ArchivalSettings, BatchRouterSettings, BatchRouterTypeSettings};
pub use catalogue::{Key, Kind, Unit, all_keys};
pub use effective::{Effective, Reload, effective, is_secret_name, reference, reload};
pub use elsewhere::{Elsewhere, ElsewhereError, VARIABLE_PREFIX};
pub use flag::Flag;
pub use gateway::GatewaySettings;
pub use jobsdb::{JobsDbSettings, QueueSettings};
pub use kafka::{KafkaCompression, KafkaSettings};
pub use listener::{ListenerSettings, TlsFiles};
pub use load::{Loaded, Sources, load};
pub use log::{LogFormat, LogLevel, LogSettings};
pub use processor::ProcessorSettings;
pub use raw::{Origin, Raw, Reader, SettingsError};
pub use router::{AdaptiveSettings, EventUrls, RouterSettings, RouterTypeSettings};
pub use runs::RunSettings;
pub use storage::{Profile, StorageSettings};
pub use transform::TransformSettings;
pub use transformer::{AskedRepeats, CallRules, TransformerSettings};
pub use warehouse::{WarehouseSettings, WarehouseTypeSettings, settings_name};
pub use warehouse_rows::WarehouseRowSettings;
pub use webhook::WebhookSettings;

/// Every setting of the node, validated.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data directory: everything that a backup needs.
    pub data_dir: PathBuf,
    /// The ingest listener and its limits.
    pub gateway: GatewaySettings,
    /// How the ingest listener is reached.
    pub listener: ListenerSettings,
    /// Who may send how much.
    pub admission: AdmissionSettings,
    /// Webhook sources and their transformer.
    pub webhook: WebhookSettings,
    /// The external transformer.
    pub transformer: TransformerSettings,
    /// The admin listener.
    pub admin: AdminSettings,
    /// Where the workspace comes from.
    pub backend_config: BackendConfigSettings,
    /// The processor's limits.
    pub processor: ProcessorSettings,
    /// User transformations.
    pub transform: TransformSettings,
    /// Real-time delivery.
    pub router: RouterSettings,
    /// Delivery in files.
    pub batch_router: BatchRouterSettings,
    /// Loading of warehouses.
    pub warehouse: WarehouseSettings,
    /// The archive of gateway events.
    pub archival: ArchivalSettings,
    /// Queues and their retention.
    pub jobsdb: JobsDbSettings,
    /// Runs of reverse-ETL sources.
    pub runs: RunSettings,
    /// The store: memory, flushes, disk guard.
    pub storage: StorageSettings,
    /// Logs.
    pub log: LogSettings,
    /// Alerts.
    pub alert: AlertSettings,
    /// From events to staging files of warehouses.
    pub warehouse_rows: WarehouseRowSettings,
}

impl Settings {
    /// Turns raw settings into typed ones.
    ///
    /// # Errors
    /// Every value that does not parse or contradicts another, all at once.
    pub fn from_raw(raw: &Arc<Raw>) -> Result<Settings, Vec<SettingsError>> {
        let reader = Reader::new(raw);
        let storage = StorageSettings::read(&reader);
        let admin = AdminSettings::read(&reader);
        let own_listeners = admin.listen.into_iter().collect();
        let settings = Settings {
            transform: TransformSettings::read(&reader, storage.profile, own_listeners),
            admin,
            data_dir: PathBuf::from(reader.text("dataDir")),
            gateway: GatewaySettings::read(&reader, storage.profile),
            listener: ListenerSettings::read(&reader),
            admission: AdmissionSettings::read(&reader, raw),
            webhook: WebhookSettings::read(&reader),
            transformer: TransformerSettings::read(&reader),
            backend_config: BackendConfigSettings::read(&reader),
            processor: ProcessorSettings::read(&reader, raw),
            router: RouterSettings::read(&reader, raw),
            batch_router: BatchRouterSettings::read(&reader, raw),
            warehouse: WarehouseSettings::read(&reader, raw),
            archival: ArchivalSettings::read(&reader),
            jobsdb: JobsDbSettings::read(&reader, storage.profile),
            runs: RunSettings::read(&reader),
            storage,
            log: log::read(&reader),
            alert: AlertSettings::read(&reader),
            warehouse_rows: WarehouseRowSettings::read(&reader),
        };
        let mut errors = reader.into_errors();
        settings.contradictions(&mut errors);
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    /// The defaults, as a node without file, environment and flags has them.
    #[allow(clippy::expect_used, reason = "a default that does not parse is a bug that the tests of this module find")]
    pub fn defaults() -> Settings {
        Settings::from_raw(&Arc::new(Raw::default())).expect("every default parses")
    }

    fn contradictions(&self, errors: &mut Vec<SettingsError>) {
        if self.gateway.max_expanded_bytes > self.storage.max_pending_bytes {
            errors.push(SettingsError::contradiction(
                "Gateway.maxExpandedBytes",
                "is larger than Storage.maxPendingBytes, so the largest requests could never be stored; lower the first or raise the second",
            ));
        }
    }
}

/// The settings in force, swapped as a whole on reload. Cheap to clone; read once per unit of work.
#[derive(Clone, Debug)]
pub struct Live(Arc<ArcSwap<Settings>>);

impl Live {
    /// Wraps the settings that the node starts with.
    pub fn new(settings: Settings) -> Live {
        Live(Arc::new(ArcSwap::from_pointee(settings)))
    }

    /// The settings in force now.
    pub fn load(&self) -> Arc<Settings> {
        self.0.load_full()
    }

    /// Puts new settings in force.
    pub fn store(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}

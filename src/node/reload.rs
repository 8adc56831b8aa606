//! SIGHUP and `pintle reload`: settings and workspace are read again; a bad one is refused and the old stays.

use std::sync::Arc;

use super::{events, systemd};
use crate::admin::Reloaded;
use crate::backend_config::BackendConfig;
use crate::settings::{self, Raw, Settings, Sources};
use crate::telemetry::logs::Logs;

/// What a reload needs to know.
pub(super) struct Reloader {
    sources: Sources,
    raw: Arc<Raw>,
    live: settings::Live,
    config: BackendConfig,
    logs: Logs,
}

impl Reloader {
    pub(super) fn new(
        sources: Sources,
        raw: Arc<Raw>,
        live: settings::Live,
        config: BackendConfig,
        logs: Logs,
    ) -> Reloader {
        Reloader { sources, raw, live, config, logs }
    }

    /// Reads both again. Settings that need a restart are named and stay as they are.
    pub(super) async fn reload(&mut self, ready_summary: &str) -> Result<Reloaded, String> {
        systemd::reloading();
        let outcome = self.read_again().await;
        match &outcome {
            Ok(reloaded) => events::reloaded(&reloaded.applied, &reloaded.needs_restart),
            Err(reason) => events::reload_refused(reason),
        }
        systemd::ready(ready_summary);
        outcome
    }

    async fn read_again(&mut self) -> Result<Reloaded, String> {
        let sources = self.sources.clone();
        let loaded = tokio::task::spawn_blocking(move || settings::load(sources)).await;
        let loaded = loaded.map_err(|failure| failure.to_string())?.map_err(|errors| join(&errors))?;
        let change = settings::reload(&self.raw, &loaded.raw);
        let raw = Arc::new(change.in_force);
        let typed = Settings::from_raw(&raw).map_err(|errors| join(&errors))?;
        // The workspace first: when it is refused, nothing changes at all.
        self.config.reload().await.map_err(|error| error.to_string())?;
        self.logs.apply(&typed.log);
        self.live.store(typed);
        self.raw = raw;
        Ok(Reloaded { applied: change.applied, needs_restart: change.need_restart, warnings: loaded.warnings })
    }
}

fn join(errors: &[settings::SettingsError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

//! Metrics and logs.
//!
//! Metrics go through the `metrics` crate's macros; each subsystem names its own in its `events.rs`.
//! [`Metrics`] owns the recorder and renders Prometheus text. [`logs`] sets up the log; [`may_log`] keeps a line
//! that could repeat for every event down to one per source or destination and ten seconds.

pub mod logs;

mod events;
mod once_per;

pub use once_per::{OncePer, may_log};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// The recorder behind every metric of the process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder; only the first call of a process does, later ones share it.
    pub fn install() -> Metrics {
        use std::sync::OnceLock;
        static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = INSTALLED.get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            // A recorder that a test put in place first stays; ours then renders an empty page.
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::debug!("another metrics recorder is in place");
            }
            handle
        });
        Metrics { handle: handle.clone() }
    }

    /// Takes what histograms gathered since the last call into their summaries, and frees it. Without it the
    /// samples pile up until somebody scrapes.
    pub fn tidy(&self) {
        self.handle.run_upkeep();
    }

    /// Every metric as Prometheus text.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

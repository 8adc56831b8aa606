//! Metrics and logs.
//!
//! Metrics go through the `metrics` crate's macros; each subsystem names its own in its `events.rs`.
//! [`Metrics`] owns the recorder and renders Prometheus text. [`logs`] sets up the log; [`may_log`] keeps a line
//! that could repeat for every event down to one per source or destination and ten seconds.

pub mod logs;

mod events;
mod live;
mod once_per;
mod tally;

pub use live::{LivePage, LiveRecord, LiveTaps, Viewer};
pub use once_per::{OncePer, may_log};
pub use tally::Tally;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets of every histogram: fine where durations in seconds lie, coarse for counts and bytes.
const BUCKETS: [f64; 28] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0,
    100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 1e7,
];

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
            // Only an empty list is refused.
            let builder = PrometheusBuilder::new();
            let builder = PrometheusBuilder::new().set_buckets(&BUCKETS).unwrap_or(builder);
            let recorder = builder.build_recorder();
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
        tally::publish();
        self.handle.render()
    }
}

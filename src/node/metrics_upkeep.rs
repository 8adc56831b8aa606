//! Keeps the samples of histograms from piling up while nobody scrapes.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::telemetry::Metrics;

/// Time between two rounds. A round over histograms without samples costs some microseconds.
const INTERVAL: Duration = Duration::from_secs(5);

/// Tidies until `stop`.
pub(super) async fn run(metrics: Metrics, stop: CancellationToken) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let metrics = metrics.clone();
        if let Err(failure) = tokio::task::spawn_blocking(move || metrics.tidy()).await {
            error!(%failure, "the samples of histograms were not tidied up");
        }
    }
}

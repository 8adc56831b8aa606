//! What the telemetry itself counts.

use metrics::counter;

/// A line of the log was above `Log.maxLinesPerSecond`.
pub(super) fn log_line_dropped() {
    counter!("pintle_log_lines_dropped_total").increment(1);
}

//! Runs of reverse-ETL sources: counters, failed records, cancellations (gateway.md 7.8 and 13, jobsdb.md 8).

use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new("Rsources.retention", Kind::Duration(Unit::Hour), "72h", "Runs without news for this long are forgotten."),
    Key::new(
        "Rsources.stats.cleanup.interval",
        Kind::Duration(Unit::Hour),
        "1h",
        "How often runs to be forgotten are looked for.",
    ),
    Key::new("Rsources.maxRuns", Kind::Int, "100000", "Most rows of run counters; further ones are not counted."),
    Key::new("Router.failedKeysEnabled", Kind::Bool, "true", "Whether the failed records of runs are kept."),
    Key::new("drain.age", Kind::Duration(Unit::Hour), "24h", "How long a cancelled run stays cancelled."),
];

/// Settings of runs.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Runs without news for this long are forgotten.
    pub retention: Duration,
    /// How often they are looked for.
    pub cleanup_interval: Duration,
    /// Most rows of counters, and most runs with failed records.
    pub max_rows: usize,
    /// Whether failed records are kept.
    pub keeps_failed_records: bool,
    /// How long a cancelled run stays cancelled.
    pub cancellation_age: Duration,
}

impl RunSettings {
    pub(super) fn read(r: &Reader<'_>) -> RunSettings {
        RunSettings {
            retention: r.duration("Rsources.retention"),
            cleanup_interval: r.duration("Rsources.stats.cleanup.interval").max(Duration::from_secs(1)),
            max_rows: r.count("Rsources.maxRuns"),
            keeps_failed_records: r.flag("Router.failedKeysEnabled"),
            cancellation_age: r.duration("drain.age"),
        }
    }
}

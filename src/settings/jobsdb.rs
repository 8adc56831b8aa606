//! Queues: dataset bounds, ages, retention (jobsdb.md 12).

use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;
use super::storage::Profile;

pub(super) const KEYS: &[Key] = &[
    Key::new("JobsDB.maxDSSize", Kind::Int, "100000", "Most rows of a dataset.").also(&["JobsDB.<queue>.maxDSSize"]),
    Key::new("JobsDB.maxTableSizeInMB", Kind::Bytes(1_000_000), "300", "Most bytes of a dataset.")
        .also(&["JobsDB.<queue>.maxTableSizeInMB"]),
    Key::new("JobsDB.maxDSRetention", Kind::Duration(Unit::Minute), "90m", "Greatest age of an open dataset.")
        .also(&["JobsDB.<queue>.maxDSRetention"]),
    Key::new(
        "JobsDB.minDSRetention",
        Kind::Duration(Unit::Minute),
        "0m",
        "Finished datasets are kept at least this long.",
    )
    .also(&["JobsDB.<queue>.minDSRetention"]),
    Key::new(
        "JobsDB.compactionLoopSleepDuration",
        Kind::Duration(Unit::Second),
        "30s",
        "How often stragglers are copied out.",
    )
    .also(&[
        "JobsDB.migrateDSLoopSleepDuration",
        "JobsDB.<queue>.compactionLoopSleepDuration",
        "JobsDB.<queue>.migrateDSLoopSleepDuration",
    ]),
    Key::new(
        "JobsDB.jobMinRowsLeftCompactionThreshold",
        Kind::Float,
        "0.6",
        "Share of pending rows below which an old dataset is copied out.",
    )
    .also(&[
        "JobsDB.jobMinRowsLeftMigrateThreshold",
        "JobsDB.<queue>.jobMinRowsLeftCompactionThreshold",
        "JobsDB.<queue>.jobMinRowsLeftMigrateThreshold",
    ]),
    Key::new(
        "JobsDB.compactionMinDSAge",
        Kind::Duration(Unit::Minute),
        "2m",
        "A dataset younger than this is not copied out.",
    )
    .also(&["JobsDB.<queue>.compactionMinDSAge"]),
    Key::new("JobsDB.jobMaxAge", Kind::Duration(Unit::Hour), "720h", "Pending jobs older than this are aborted.")
        .also(&["JobsDB.<queue>.jobMaxAge"]),
    Key::new("JobsDB.arc.jobMaxAge", Kind::Duration(Unit::Hour), "168h", "The same for the archive queue.")
        .also(&["archival.jobRetention"]),
    Key::new("JobsDB.proc_error.jobMaxAge", Kind::Duration(Unit::Hour), "168h", "Dead letters older than this go."),
    Key::new("JobsDB.proc_error.maxBytes", Kind::Bytes(1), "", "Most bytes of dead letters (1GiB, small 128MiB)."),
];

/// Settings of one queue.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// Most rows of a dataset.
    pub max_rows: u64,
    /// Most payload bytes of a dataset.
    pub max_bytes: u64,
    /// Greatest age of an open dataset.
    pub max_age: Duration,
    /// Finished datasets are kept at least this long.
    pub min_retention: Duration,
    /// How often stragglers are looked for.
    pub straggler_interval: Duration,
    /// Share of pending rows below which a dataset older than `max_age` is copied out.
    pub straggler_share: f64,
    /// A dataset younger than this is not copied out.
    pub straggler_min_age: Duration,
    /// Pending jobs older than this are aborted.
    pub job_max_age: Duration,
}

/// Settings of all queues.
#[derive(Clone, Debug)]
pub struct JobsDbSettings {
    /// Gateway events.
    pub gw: QueueSettings,
    /// Real-time deliveries.
    pub rt: QueueSettings,
    /// File deliveries.
    pub batch_rt: QueueSettings,
    /// Events on their way to the archive.
    pub arc: QueueSettings,
    /// Dead letters.
    pub proc_error: QueueSettings,
    /// Most bytes of dead letters.
    pub dead_letter_max_bytes: u64,
}

impl JobsDbSettings {
    pub(super) fn read(r: &Reader<'_>, profile: Profile) -> JobsDbSettings {
        let queue = |name: &str, max_age_key: &str| {
            let scoped = r.within(&[format!("JobsDB.{name}")]);
            let settings = QueueSettings {
                max_rows: u64::try_from(scoped.int("JobsDB.maxDSSize")).unwrap_or(1).max(1),
                max_bytes: scoped.bytes("JobsDB.maxTableSizeInMB").max(1),
                max_age: scoped.duration("JobsDB.maxDSRetention"),
                min_retention: scoped.duration("JobsDB.minDSRetention"),
                straggler_interval: scoped.duration("JobsDB.compactionLoopSleepDuration"),
                straggler_share: scoped.float("JobsDB.jobMinRowsLeftCompactionThreshold"),
                straggler_min_age: scoped.duration("JobsDB.compactionMinDSAge"),
                job_max_age: scoped.duration(max_age_key),
            };
            r.absorb(scoped);
            settings
        };
        JobsDbSettings {
            gw: queue("gw", "JobsDB.jobMaxAge"),
            rt: queue("rt", "JobsDB.jobMaxAge"),
            batch_rt: queue("batch_rt", "JobsDB.jobMaxAge"),
            arc: queue("arc", "JobsDB.arc.jobMaxAge"),
            proc_error: queue("proc_error", "JobsDB.proc_error.jobMaxAge"),
            dead_letter_max_bytes: if r.is_set("JobsDB.proc_error.maxBytes") {
                r.bytes("JobsDB.proc_error.maxBytes")
            } else if profile == Profile::Small {
                128 << 20
            } else {
                1 << 30
            },
        }
    }
}

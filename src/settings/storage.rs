//! The store: memory profile, flushes, batch bounds, disk guard (storage-design.md 6, 10, 12).

use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

/// The memory budget of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Machines of about 512 MB.
    Small,
    /// Machines of 2 to 4 GB.
    Default,
    /// Machines of 8 GB and more.
    Large,
}

pub(super) const KEYS: &[Key] = &[
    Key::new("profile", Kind::Text, "auto", "Memory budget: auto (by memory or cgroup limit), small, default, large."),
    Key::new("Storage.maxBatchBytes", Kind::Bytes(1), "4MiB", "Most bytes that one write batch gathers."),
    Key::new("Storage.maxBatchTx", Kind::Int, "2048", "Most transactions that one write batch gathers."),
    Key::new(
        "Storage.lazyFlushInterval",
        Kind::Duration(Unit::Milli),
        "100ms",
        "Longest time that a hand-over waits for a flush.",
    ),
    Key::new("Storage.maxPendingBytes", Kind::Bytes(1), "", "Most bytes waiting for the writer (64MiB, small 16MiB)."),
    Key::new("Storage.maxTxBytes", Kind::Bytes(1), "256MiB", "Most bytes of one transaction."),
    Key::new(
        "Storage.softFree",
        Kind::Bytes(1),
        "0",
        "Free space below which ingestion pauses; 0 = max(1GiB, 5 %) capped at 10 % of the disk.",
    ),
    Key::new(
        "Storage.hardFree",
        Kind::Bytes(1),
        "0",
        "Free space below which the processor pauses; 0 = half of softFree.",
    ),
    Key::new("Storage.ballast", Kind::Bytes(1), "", "Space reserved for emergencies (256MiB, small 64MiB; 0 = none)."),
    Key::new(
        "Storage.datasetTargetBytes",
        Kind::Bytes(1),
        "4MiB",
        "Size at which a dataset is sealed while the queue is short.",
    ),
    Key::new("Storage.datasetTargetAge", Kind::Duration(Unit::Second), "10s", "Age at which a dataset is sealed."),
    Key::new("Storage.keepAborted", Kind::Bool, "true", "Keep the status of aborted jobs until their dataset goes."),
    Key::new("Storage.snapshotKeep", Kind::Int, "2", "Most snapshots kept under snapshots/."),
    Key::new("Storage.blobMinSize", Kind::Bytes(1), "0", "Payloads from this size on go to blob files; 0 = off."),
    Key::new(
        "Storage.allowUnsafeFs",
        Kind::Bool,
        "false",
        "Accept a data directory on a file system that does not keep what it flushed (tmpfs, overlay).",
    ),
];

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// The memory budget.
    pub profile: Profile,
    /// Most bytes of one write batch.
    pub max_batch_bytes: u64,
    /// Most transactions of one write batch.
    pub max_batch_tx: usize,
    /// Longest wait of a lazy write for its flush.
    pub lazy_flush_interval: Duration,
    /// Most bytes waiting for the writer.
    pub max_pending_bytes: u64,
    /// Most bytes of one transaction.
    pub max_tx_bytes: u64,
    /// Ingestion pauses below this many free bytes; `None` = by the size of the disk.
    pub soft_free: Option<u64>,
    /// The processor pauses below this many free bytes; `None` = half of soft.
    pub hard_free: Option<u64>,
    /// Bytes reserved for emergencies.
    pub ballast: u64,
    /// A dataset is sealed at this size while the queue is short.
    pub dataset_target_bytes: u64,
    /// A dataset is sealed at this age.
    pub dataset_target_age: Duration,
    /// Whether the status of aborted jobs is kept.
    pub keep_aborted: bool,
    /// Most snapshots kept.
    pub snapshot_keep: usize,
    /// Payloads from this size on go to blob files; 0 = off.
    pub blob_min_size: u64,
    /// Whether tmpfs and overlay are accepted.
    pub allow_unsafe_fs: bool,
}

impl StorageSettings {
    pub(super) fn read(r: &Reader<'_>) -> StorageSettings {
        let profile = match r.text("profile").as_str() {
            "small" => Profile::Small,
            "default" => Profile::Default,
            "large" => Profile::Large,
            _ => profile_by_memory(memory_limit()),
        };
        let by_profile = |name: &str, small: u64, other: u64| {
            if r.is_set(name) {
                r.bytes(name)
            } else if profile == Profile::Small {
                small
            } else {
                other
            }
        };
        let bound = |name: &str| Some(r.bytes(name)).filter(|&bytes| bytes > 0);
        StorageSettings {
            profile,
            max_batch_bytes: r.bytes("Storage.maxBatchBytes"),
            max_batch_tx: r.count("Storage.maxBatchTx"),
            lazy_flush_interval: r.duration("Storage.lazyFlushInterval"),
            max_pending_bytes: by_profile("Storage.maxPendingBytes", 16 << 20, 64 << 20),
            max_tx_bytes: r.bytes("Storage.maxTxBytes"),
            soft_free: bound("Storage.softFree"),
            hard_free: bound("Storage.hardFree"),
            ballast: by_profile("Storage.ballast", 64 << 20, 256 << 20),
            dataset_target_bytes: r.bytes("Storage.datasetTargetBytes"),
            dataset_target_age: r.duration("Storage.datasetTargetAge"),
            keep_aborted: r.flag("Storage.keepAborted"),
            snapshot_keep: r.count("Storage.snapshotKeep"),
            blob_min_size: r.bytes("Storage.blobMinSize"),
            allow_unsafe_fs: r.flag("Storage.allowUnsafeFs"),
        }
    }
}

fn profile_by_memory(bytes: u64) -> Profile {
    const GIB: u64 = 1 << 30;
    if bytes < 3 * GIB / 2 {
        Profile::Small
    } else if bytes < 8 * GIB {
        Profile::Default
    } else {
        Profile::Large
    }
}

/// The smaller of the machine's memory and the control group's limit, in bytes.
fn memory_limit() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(4 << 30, |kib| kib << 10);
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    group.map_or(machine, |limit: u64| limit.min(machine))
}

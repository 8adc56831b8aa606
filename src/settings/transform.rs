//! Limits and reach of user transformations (processor.md 7.7, security.md 2.2).

use std::net::SocketAddr;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;
use super::storage::Profile;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "Transform.threads",
        Kind::Int,
        "0",
        "Threads that run transformations; 0 = as many as processors (small profile: 1).",
    )
    .hot(),
    Key::new(
        "Transform.maxLostThreads",
        Kind::Int,
        "2",
        "Threads that transformations may hold beyond their time before the code that does so is paused.",
    )
    .hot(),
    Key::new(
        "IVM_EXECUTION_TIMEOUT",
        Kind::Duration(Unit::Milli),
        "4s",
        "Longest time that a transformation may compute without waiting.",
    )
    .hot(),
    Key::new(
        "USER_TRANSFORM_TIMEOUT",
        Kind::Duration(Unit::Milli),
        "600s",
        "Longest time of one batch of a transformation, waiting included.",
    )
    .hot(),
    Key::new(
        "ISOLATE_VM_MEMORY",
        Kind::Bytes(1 << 20),
        "128MiB",
        "Memory of one transformation thread (small profile: 48 MiB).",
    )
    .hot(),
    Key::new("Processor.UserTransformer.batchSize", Kind::Int, "200", "Most events of one call of a transformation.")
        .also(&["Processor.userTransformBatchSize"])
        .hot(),
    Key::new("Fetch.enabled", Kind::Bool, "true", "Whether transformations may send requests.").hot(),
    Key::new("Fetch.maxPerBatch", Kind::Int, "1000", "Most requests of one batch of a transformation.").hot(),
    Key::new("Fetch.maxConcurrent", Kind::Int, "10", "Most requests of one batch at a time.").hot(),
    Key::new("Fetch.timeout", Kind::Duration(Unit::Second), "10s", "Longest time of one request of a transformation.")
        .hot(),
    Key::new(
        "Fetch.maxResponseBytes",
        Kind::Bytes(1),
        "8MiB",
        "Most bytes of an answer to a request of a transformation.",
    )
    .hot(),
    Key::new("BLOCK_IP_RANGES", Kind::Text, "", "Ranges that transformations may not reach, besides private ones.")
        .hot(),
    Key::new("ALLOW_IP_RANGES", Kind::Text, "", "Ranges that transformations may reach although they are private.")
        .hot(),
    Key::new("BLOCK_HOST_NAMES", Kind::Text, "", "Host names that transformations may not reach.").hot(),
    Key::new(
        "ConfigBackend.listen",
        Kind::Text,
        "",
        "Address where an external transformer may fetch code, libraries and tracking plans; empty = off.",
    ),
    Key::new("GEOLOCATION_URL", Kind::Text, "", "Service that finds the place of an address for transformations.")
        .hot(),
];

/// Settings of user transformations.
#[derive(Clone, Debug)]
pub struct TransformSettings {
    /// Threads that run code.
    pub threads: usize,
    /// Threads that may be lost at a time before code is paused.
    pub max_lost_threads: usize,
    /// Longest time of code without a wait.
    pub slice: Duration,
    /// Longest time of a batch.
    pub total: Duration,
    /// Heap of one thread.
    pub heap_bytes: usize,
    /// Most events of one call.
    pub batch_size: usize,
    /// Whether code may send requests.
    pub fetch_enabled: bool,
    /// Most requests of one batch.
    pub fetch_max_per_batch: usize,
    /// Most requests of one batch at a time.
    pub fetch_max_concurrent: usize,
    /// Longest time of one request.
    pub fetch_timeout: Duration,
    /// Most bytes of an answer.
    pub fetch_max_response_bytes: u64,
    /// More ranges that are out of reach.
    pub blocked_ip_ranges: Vec<String>,
    /// Ranges that are in reach nevertheless.
    pub allowed_ip_ranges: Vec<String>,
    /// Names that are out of reach.
    pub blocked_host_names: Vec<String>,
    /// The service for places; empty = none.
    pub geolocation_url: String,
    /// Where an external transformer may fetch code; `None` = nowhere.
    pub code_listen: Option<SocketAddr>,
    /// Listeners of this node that no request may reach.
    pub own_listeners: Vec<SocketAddr>,
}

/// Memory of a transformation thread in the small profile.
const SMALL_HEAP: usize = 48 << 20;

impl TransformSettings {
    pub(super) fn read(r: &Reader<'_>, profile: Profile, own_listeners: Vec<SocketAddr>) -> TransformSettings {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let is_small = profile == Profile::Small;
        let threads = match r.count("Transform.threads") {
            0 if is_small => 1,
            0 => cores,
            threads => threads,
        };
        let heap_bytes = if is_small && !r.is_set("ISOLATE_VM_MEMORY") {
            SMALL_HEAP
        } else {
            usize::try_from(r.bytes("ISOLATE_VM_MEMORY")).unwrap_or(usize::MAX)
        };
        TransformSettings {
            threads,
            max_lost_threads: r.count("Transform.maxLostThreads"),
            slice: r.duration("IVM_EXECUTION_TIMEOUT").max(Duration::from_millis(10)),
            total: r.duration("USER_TRANSFORM_TIMEOUT").max(Duration::from_millis(10)),
            // Less than this holds no context.
            heap_bytes: heap_bytes.max(4 << 20),
            batch_size: r.count_at_least("Processor.UserTransformer.batchSize", 1),
            fetch_enabled: r.flag("Fetch.enabled"),
            fetch_max_per_batch: r.count("Fetch.maxPerBatch"),
            fetch_max_concurrent: r.count_at_least("Fetch.maxConcurrent", 1),
            fetch_timeout: r.duration("Fetch.timeout"),
            fetch_max_response_bytes: r.bytes("Fetch.maxResponseBytes"),
            blocked_ip_ranges: words(&r.text("BLOCK_IP_RANGES")),
            allowed_ip_ranges: words(&r.text("ALLOW_IP_RANGES")),
            blocked_host_names: words(&r.text("BLOCK_HOST_NAMES")),
            geolocation_url: r.text("GEOLOCATION_URL"),
            code_listen: r.addresses("ConfigBackend.listen").first().copied(),
            own_listeners,
        }
    }
}

/// The parts of a list that is written with commas or blanks.
fn words(text: &str) -> Vec<String> {
    text.split([',', ' ']).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Settings;

    #[test]
    fn limits_are_those_of_the_peer_unless_set() {
        let settings = Settings::defaults().transform;
        assert_eq!((settings.slice.as_millis(), settings.total.as_secs()), (4_000, 600));
        assert_eq!((settings.heap_bytes, settings.batch_size), (128 << 20, 200));
        assert!(settings.threads >= 1 && settings.allowed_ip_ranges.is_empty());
    }
}

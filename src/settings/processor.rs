//! The processor's limits and rules (processor.md 17).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::{Raw, Reader};

pub(super) const KEYS: &[Key] = &[
    Key::new("enableProcessor", Kind::Bool, "true", "Whether accepted events are processed; if not, they wait."),
    Key::new("Processor.maxLoopProcessEvents", Kind::Int, "2000", "Most jobs of one read.").hot(),
    Key::new("Processor.payloadLimit", Kind::Bytes(1), "20MiB", "Most payload bytes of one read.").hot(),
    Key::new(
        "Processor.pingerSleep",
        Kind::Duration(Unit::Second),
        "1s",
        "Longest time until a source with new events is noticed.",
    )
    .hot(),
    Key::new(
        "Processor.maxLoopSleep",
        Kind::Duration(Unit::Second),
        "10s",
        "Longest time between two looks at a source without new events.",
    )
    .hot(),
    Key::new(
        "Processor.transformAt",
        Kind::Text,
        "",
        "Where events of one destination type are transformed: processor, router, none.",
    )
    .also(&["Processor.<TYPE>.transformAt"])
    .hot(),
    Key::new("BotEnrichment.enabled", Kind::Bool, "true", "Mark events of bots whose source asks for it.").hot(),
    Key::new("Dedup.enableDedup", Kind::Bool, "false", "Drop events whose message id was seen before.").hot(),
    Key::new("Dedup.dedupWindow", Kind::Duration(Unit::Second), "3600s", "How long a message id is remembered.")
        .also(&["Dedup.dedupWindowInS"])
        .hot(),
    Key::new(
        "GeoEnrichment.enabled",
        Kind::Bool,
        "false",
        "Write places of addresses into events of sources that ask for it; needs Geolocation.db.path.",
    )
    .hot(),
    Key::new(
        "Geolocation.db.path",
        Kind::Text,
        "",
        "MaxMind City database (.mmdb), read again when the file is replaced; empty: no places.",
    )
    .hot(),
    Key::new("Reporting.enabled", Kind::Bool, "true", "Count what becomes of events, stage by stage.").hot(),
    Key::new("Reporting.retention", Kind::Duration(Unit::Day), "30d", "How long those figures are kept.").hot(),
    Key::new("drain.jobRunIDs", Kind::List, "", "Reverse-ETL runs whose events are given up.").hot(),
];

/// Settings of the processor.
#[derive(Clone, Debug)]
pub struct ProcessorSettings {
    /// Whether the processor runs.
    pub enabled: bool,
    /// Most jobs (and events) of one read.
    pub max_loop_process_events: usize,
    /// Most payload bytes of one read.
    pub payload_limit: u64,
    /// Longest time until a source with new events is noticed.
    pub pinger_sleep: Duration,
    /// Longest time between two looks at a source without new events.
    pub max_loop_sleep: Duration,
    /// Whether events of bots are marked where their source asks for it.
    pub bot_enrichment: bool,
    /// Deduplication by message id.
    pub dedup: DedupSettings,
    /// Places of addresses.
    pub geo: GeoSettings,
    /// Figures of what becomes of events.
    pub reporting: ReportingSettings,
    /// Reverse-ETL runs whose events are given up.
    pub drained_job_runs: Vec<String>,
    raw: Arc<Raw>,
}

/// Settings of the deduplication.
#[derive(Clone, Copy, Debug)]
pub struct DedupSettings {
    /// Whether events whose message id was seen before are dropped.
    pub enabled: bool,
    /// How long a message id is remembered.
    pub window: Duration,
}

/// Settings of the geolocation.
#[derive(Clone, Debug)]
pub struct GeoSettings {
    /// Whether places are written into events of sources that ask for it.
    pub enabled: bool,
    /// The MaxMind City database.
    pub database: Option<PathBuf>,
}

/// Settings of the figures of what becomes of events.
#[derive(Clone, Copy, Debug)]
pub struct ReportingSettings {
    /// Whether they are stored.
    pub enabled: bool,
    /// How long.
    pub retention: Duration,
}

impl ProcessorSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> ProcessorSettings {
        ProcessorSettings {
            enabled: r.flag("enableProcessor"),
            max_loop_process_events: r.count("Processor.maxLoopProcessEvents").max(1),
            payload_limit: r.bytes("Processor.payloadLimit"),
            pinger_sleep: r.duration("Processor.pingerSleep").max(Duration::from_millis(10)),
            max_loop_sleep: r.duration("Processor.maxLoopSleep").max(Duration::from_secs(1)),
            bot_enrichment: r.flag("BotEnrichment.enabled"),
            dedup: DedupSettings { enabled: r.flag("Dedup.enableDedup"), window: r.duration("Dedup.dedupWindow") },
            geo: GeoSettings {
                enabled: r.flag("GeoEnrichment.enabled"),
                database: Some(r.text("Geolocation.db.path")).filter(|path| !path.is_empty()).map(PathBuf::from),
            },
            reporting: ReportingSettings {
                enabled: r.flag("Reporting.enabled"),
                retention: r.duration("Reporting.retention"),
            },
            drained_job_runs: r.list("drain.jobRunIDs"),
            raw: Arc::clone(raw),
        }
    }

    /// `Processor.<TYPE>.transformAt`, which overrides what the destination's definition says.
    pub fn transform_at(&self, destination_type: &str) -> Option<String> {
        let scope = format!("Processor.{destination_type}");
        Some(Reader::scoped(&self.raw, &[scope]).text("Processor.transformAt")).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn transform_at_is_set_for_one_destination_type() {
        let mut raw = Raw::default();
        raw.file.insert("processor.ga4.transformat".to_owned(), (vec!["none".to_owned()], None));
        let settings = Settings::from_raw(&Arc::new(raw)).unwrap();
        assert_eq!(settings.processor.transform_at("GA4").as_deref(), Some("none"));
        assert_eq!(settings.processor.transform_at("WEBHOOK"), None);
        assert!(settings.processor.enabled && settings.router.enabled);
        assert_eq!(settings.processor.max_loop_process_events, 2_000);
        assert_eq!(settings.processor.payload_limit, 20 << 20);
    }
}

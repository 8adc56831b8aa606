//! Delivery in files, and the archive of gateway events (router.md 24, jobsdb.md 14).

use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::{Raw, Reader};

pub(super) const KEYS: &[Key] = &[
    Key::new("BatchRouter.uploadFreq", Kind::Duration(Unit::Second), "30s", "Time between two cuts.").also(&[
        "BatchRouter.uploadFreqInS",
        "BatchRouter.<TYPE>.uploadFreq",
        "BatchRouter.<TYPE>.uploadFreqInS",
    ]),
    Key::new("archival.Enabled", Kind::Bool, "true", "Archive gateway events where a storage exists."),
];

/// Settings of the batch router; those of one destination type through [`BatchRouterSettings::of_type`].
#[derive(Clone, Debug)]
pub struct BatchRouterSettings {
    raw: Arc<Raw>,
}

/// Settings of one destination type.
#[derive(Clone, Debug)]
pub struct BatchRouterTypeSettings {
    /// Time between two cuts.
    pub upload_freq: Duration,
}

/// Settings of the gateway archive.
#[derive(Clone, Debug)]
pub struct ArchivalSettings {
    /// Whether gateway events are archived at all.
    pub enabled: bool,
}

impl BatchRouterSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> BatchRouterSettings {
        let general = r.within(&[]);
        let _general_is_valid = BatchRouterTypeSettings::read(&general);
        r.absorb(general);
        BatchRouterSettings { raw: Arc::clone(raw) }
    }

    /// Settings of the destination type (`S3`).
    pub fn of_type(&self, destination_type: &str) -> BatchRouterTypeSettings {
        BatchRouterTypeSettings::read(&Reader::scoped(&self.raw, &[format!("BatchRouter.{destination_type}")]))
    }
}

impl BatchRouterTypeSettings {
    fn read(r: &Reader<'_>) -> BatchRouterTypeSettings {
        BatchRouterTypeSettings { upload_freq: r.duration("BatchRouter.uploadFreq") }
    }
}

impl ArchivalSettings {
    pub(super) fn read(r: &Reader<'_>) -> ArchivalSettings {
        ArchivalSettings { enabled: r.flag("archival.Enabled") }
    }
}

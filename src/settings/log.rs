//! Logs (appliance.md 7).

use super::catalogue::{Key, Kind};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new("Log.level", Kind::Text, "info", "error, warn, info, debug or trace.").also(&["LOG_LEVEL"]).hot(),
    Key::new("Log.format", Kind::Text, "auto", "auto, text, json or journald."),
];

/// Settings of the log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: String,
    /// The format.
    pub format: String,
}

impl LogSettings {
    pub(super) fn read(r: &Reader<'_>) -> LogSettings {
        LogSettings { level: r.text("Log.level").to_ascii_lowercase(), format: r.text("Log.format") }
    }
}

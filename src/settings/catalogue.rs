//! The list of every key: name, accepted other names, kind, default, whether it reloads, one line of help.

use std::collections::HashMap;
use std::sync::LazyLock;

/// How a value is written and what a bare number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`, `1`, `0`, `t`, `f`.
    Bool,
    /// A whole number, possibly negative.
    Int,
    /// A decimal number.
    Float,
    /// Any text.
    Text,
    /// A TOML array, or words separated by blanks.
    List,
    /// `15ms`, `5s`, `1h30m`; a bare number takes the unit.
    Duration(Unit),
    /// `512MiB`, `10MB`, `4096`; a bare number is multiplied by this many bytes.
    Bytes(u64),
}

/// The unit of a bare number in a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Milli,
    /// Seconds.
    Second,
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Days.
    Day,
}

/// One configuration key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted name, or a name in capitals for the keys that are environment names.
    pub name: &'static str,
    /// Other names that are read when `name` is not set, in order. `<X>` in a segment stands for any text.
    pub also: &'static [&'static str],
    /// How the value is written.
    pub kind: Kind,
    /// The default, written as a user would.
    pub default: &'static str,
    /// Whether a change takes effect without a restart.
    pub hot: bool,
    /// One line of help.
    pub help: &'static str,
}

impl Key {
    /// A key that needs a restart, without other names.
    pub const fn new(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
        Key { name, also: &[], kind, default, hot: false, help }
    }

    /// The same key, read again on reload.
    pub const fn hot(mut self) -> Key {
        self.hot = true;
        self
    }

    /// The same key with other names.
    pub const fn also(mut self, names: &'static [&'static str]) -> Key {
        self.also = names;
        self
    }
}

/// Keys that belong to no section.
const GENERAL: &[Key] = &[
    Key::new("dataDir", Kind::Text, "/var/lib/pintle", "The data directory."),
    Key::new("INSTANCE_ID", Kind::Text, "1", "Name of this node in object keys and metadata."),
];

/// Every key, section by section.
pub fn all_keys() -> impl Iterator<Item = &'static Key> {
    [
        GENERAL,
        super::admin::KEYS,
        super::admission::KEYS,
        super::backend_config::KEYS,
        super::batch_router::KEYS,
        super::gateway::KEYS,
        super::jobsdb::KEYS,
        super::kafka::KEYS,
        super::listener::KEYS,
        super::log::KEYS,
        super::processor::KEYS,
        super::router::KEYS,
        super::runs::KEYS,
        super::storage::KEYS,
        super::transform::KEYS,
        super::transformer::KEYS,
        super::warehouse_rows::KEYS,
        super::warehouse::KEYS,
        super::webhook::KEYS,
        super::alert::KEYS,
    ]
    .into_iter()
    .flatten()
}

/// The key with this exact name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static Key>> =
        LazyLock::new(|| all_keys().map(|key| (key.name, key)).collect());
    BY_NAME.get(name).copied()
}

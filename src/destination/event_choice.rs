//! Maps from events to names: topics, delivery streams, attributes (destinations.md 12.7).
//!
//! The row of an event's name counts first, then that of its type, then that of `*`. Names match without case.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::message::Message;

/// The rows of one map, read once.
#[derive(Clone, Debug, Default)]
pub(super) struct EventChoice(HashMap<String, Vec<String>>);

impl EventChoice {
    /// Reads rows of `from` and `to`.
    pub(super) fn read(config: &Map<String, Value>, key: &str) -> EventChoice {
        let mut rows: HashMap<String, Vec<String>> = HashMap::new();
        for row in config.get(key).and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::trim).unwrap_or_default();
            if !text("from").is_empty() {
                rows.entry(text("from").to_lowercase()).or_default().push(text("to").to_owned());
            }
        }
        EventChoice(rows)
    }

    /// The one name for an event; the last row of several counts.
    pub(super) fn one(&self, message: &Message<'_>) -> Option<&str> {
        self.rows_of(message).filter_map(|names| names.last()).find(|name| !name.is_empty()).map(String::as_str)
    }

    /// All names for an event.
    pub(super) fn all(&self, message: &Message<'_>) -> &[String] {
        self.rows_of(message).next().map_or(&[], Vec::as_slice)
    }

    fn rows_of(&self, message: &Message<'_>) -> impl Iterator<Item = &Vec<String>> {
        let lower = |key: &str| message.text(key).map(|text| text.trim().to_lowercase());
        [lower("event"), lower("type"), Some("*".to_owned())].into_iter().flatten().filter_map(|key| self.0.get(&key))
    }
}

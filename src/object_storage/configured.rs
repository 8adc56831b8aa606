//! Reads a destination's configuration: names match without case, values may be written as text.

use serde_json::{Map, Value};

use super::StoreError;

pub(super) struct Configured<'a>(pub(super) &'a Map<String, Value>);

impl Configured<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.0
            .get(name)
            .or_else(|| self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }

    /// The member's text, without surrounding blanks; empty when it is missing or no text.
    pub(super) fn text(&self, name: &str) -> String {
        self.value(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
    }

    /// The first of these members that is not empty.
    pub(super) fn first_text(&self, names: &[&str]) -> String {
        names.iter().map(|name| self.text(name)).find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// The member's truth value; `None` when it is missing.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "t" => Some(true),
                "false" | "0" | "f" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The URL of a host and port as people write them, with or without a scheme, which `plain` overrules.
pub(super) fn endpoint(written: &str, plain: bool) -> Result<url::Url, StoreError> {
    let (scheme, bare) = match written.split_once("://") {
        Some(("http", bare)) => ("http", bare),
        Some(("https", bare)) => ("https", bare),
        _ => ("https", written),
    };
    let scheme = if plain { "http" } else { scheme };
    format!("{scheme}://{bare}")
        .parse()
        .map_err(|error| StoreError::Misconfigured(format!("the endPoint {written:?} is not a host and port: {error}")))
}

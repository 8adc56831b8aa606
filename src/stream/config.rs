//! Reads a destination's configuration: names match without case, values may be written as text.

use serde_json::{Map, Value};

/// A configuration.
#[derive(Clone, Copy)]
pub(super) struct Config<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Config<'a> {
    /// The member of this name.
    pub(super) fn value(self, name: &str) -> Option<&'a Value> {
        let any_case = || self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        self.0.get(name).or_else(any_case)
    }

    /// The member's text, without blanks around it; empty when it is missing or no text.
    pub(super) fn text(self, name: &str) -> String {
        self.value(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
    }

    /// The first of these members that is not empty.
    pub(super) fn first_text(self, names: &[&str]) -> String {
        names.iter().map(|name| self.text(name)).find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// The member's truth value; `None` when it is missing.
    pub(super) fn flag(self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }
}

/// Whether two configurations are the same for a client (router.md 14).
pub(super) fn are_alike(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let of_interest = |config: &Map<String, Value>| {
        let mut config = config.clone();
        config.retain(|key, _| key != "eventDelivery" && key != "eventDeliveryTS");
        config
    };
    of_interest(one) == of_interest(other)
}

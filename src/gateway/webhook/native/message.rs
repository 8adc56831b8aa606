//! An event that is put together field by field.

use serde_json::{Map, Value, json};

use super::{Batch, Outcome};
use crate::event::time::Moment;

/// An event of an integration.
pub(super) struct Message(Map<String, Value>);

impl Message {
    /// An event of this type, which says where it is from and does not go back there.
    pub(super) fn new(kind: &str, integration: &str) -> Message {
        let event = json!({
            "context": {
                "library": {"name": "unknown", "version": "unknown"},
                "integration": {"name": integration},
            },
            "integrations": {integration: false},
            "type": kind,
        });
        Message(event.as_object().cloned().unwrap_or_default())
    }

    /// Whether there is something at the path, and not null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| !value.is_null())
    }

    /// Sets the value at a path whose names are separated by dots. Null is nothing at the top, as anywhere else.
    pub(super) fn set(&mut self, path: &str, value: Value) {
        if value.is_null() {
            return;
        }
        let mut place = &mut self.0;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                place.insert(name.to_owned(), value);
                return;
            }
            let inner = place.entry(name).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            let Some(object) = inner.as_object_mut() else { return };
            place = object;
        }
    }

    /// The event as the only one of its request.
    pub(super) fn finish(self) -> Outcome {
        let text = Value::Object(self.0).to_string();
        let mut batch = Batch::new(text.len());
        batch.push(text.as_bytes());
        Outcome::events(batch)
    }
}

/// The value at a path of objects whose names are separated by dots; `None` for null.
pub(super) fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |place, name| place.get(name)).filter(|value| !value.is_null())
}

/// Whether JavaScript takes the value for true.
pub(super) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// Seconds since the epoch, a number or the text of one, as events write times; `None` when it is no number.
pub(super) fn time_of_seconds(value: &Value) -> Option<String> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    let milliseconds: i64 = format!("{:.0}", (seconds * 1000.0).trunc()).parse().ok()?;
    jiff::Timestamp::from_millisecond(milliseconds).ok().map(|timestamp| Moment::utc(timestamp).to_text())
}

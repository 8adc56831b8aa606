//! Dynamic configuration: `{{ path || fallback }}` in a destination's config, resolved per event
//! (processor.md 9.2, destinations.md 10).
//!
//! A value that the event provides replaces the whole string with its own JSON type and leaves the event.

use serde_json::{Map, Value};

use super::message::{Message, Unreadable};

/// The config for this event, and the event's JSON without the values that went into it.
pub(super) fn resolve(
    config: &Map<String, Value>,
    message: &Message<'_>,
    metadata: &dyn Fn() -> Value,
) -> Result<(Map<String, Value>, String), Unreadable> {
    let mut envelope = Map::new();
    envelope.insert("message".to_owned(), message.to_tree()?);
    envelope.insert("metadata".to_owned(), metadata());
    let mut envelope = Value::Object(envelope);
    let mut resolved = Map::new();
    for (key, value) in config {
        resolved.insert(key.clone(), resolve_value(value, &mut envelope));
    }
    let event = envelope.get("message").map_or_else(String::new, Value::to_string);
    Ok((resolved, event))
}

/// Whether any value is a template.
pub(super) fn has_template(config: &Map<String, Value>) -> bool {
    fn holds(value: &Value) -> bool {
        match value {
            Value::String(text) => template(text).is_some(),
            Value::Array(items) => items.iter().any(holds),
            Value::Object(members) => members.values().any(holds),
            _ => false,
        }
    }
    config.values().any(holds)
}

fn resolve_value(value: &Value, envelope: &mut Value) -> Value {
    match value {
        Value::String(text) => match template(text) {
            Some((path, fallback)) => take(envelope, &path).unwrap_or_else(|| Value::String(fallback)),
            None => value.clone(),
        },
        Value::Array(items) => Value::Array(items.iter().map(|item| resolve_value(item, envelope)).collect()),
        Value::Object(object) => {
            Value::Object(object.iter().map(|(key, inner)| (key.clone(), resolve_value(inner, envelope))).collect())
        }
        _ => value.clone(),
    }
}

/// The path's segments and the fallback of a template; `None` when the text is none and stays literal.
fn template(text: &str) -> Option<(Vec<&str>, String)> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    let (path, fallback) = inner.split_once("||")?;
    let mut segments: Vec<&str> = path.trim().split('.').collect();
    if !segments.iter().all(|segment| is_name(segment)) {
        return None;
    }
    if let [root @ "event", _, ..] = segments.as_mut_slice() {
        *root = "message";
    }
    Some((segments, fallback.replace('"', "").trim().to_owned()))
}

fn is_name(segment: &str) -> bool {
    segment.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Takes the value at the path out of the envelope, unless it is missing or null.
fn take(envelope: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, way) = path.split_last()?;
    // The message as a whole is no configuration value.
    if way.is_empty() {
        return None;
    }
    let mut at = envelope;
    for segment in way {
        at = at.get_mut(segment)?;
    }
    let object = at.as_object_mut()?;
    if object.get(*last)?.is_null() { None } else { object.shift_remove(*last) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolved(config: Value, event: &str) -> (Value, Value) {
        let message = Message::parse(event).unwrap();
        let metadata = || json!({ "sourceId": "src" });
        let (config, event) = resolve(config.as_object().unwrap(), &message, &metadata).unwrap();
        (Value::Object(config), serde_json::from_str(&event).unwrap())
    }

    #[test]
    fn a_value_of_the_event_replaces_the_text_and_leaves_the_event() {
        let config = json!({
            "url": "{{ message.context.url || \"https://fallback.example\" }}", "n": " {{event.n||1}} ", "deep": [{ "x": "{{ message.gone || \"a b\" }}" }],
            "source": "{{ metadata.sourceId || none }}",
        });
        let (config, event) =
            resolved(config, r#"{"n":5,"context":{"url":"https://event.example","k":1},"gone":null}"#);
        assert_eq!(
            config,
            json!({ "url": "https://event.example", "n": 5, "deep": [{ "x": "a b" }], "source": "src" })
        );
        assert_eq!(event, json!({ "context": { "k": 1 }, "gone": null }));
    }

    #[test]
    fn texts_that_are_no_templates_stay_literal() {
        let config =
            json!({ "a": "{{ x }}", "b": "x {{ a || b }}", "c": "{{ 1a || b }}", "d": "{{ a-b || c }}", "e": 5 });
        assert_eq!(resolved(config.clone(), "{}").0, config);
        assert_eq!(resolved(json!({ "a": "{{ message || x }}" }), "{}").0, json!({ "a": "x" }));
    }
}

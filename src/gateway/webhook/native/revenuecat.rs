//! RevenueCat: purchases as track events.

use serde_json::{Map, Value};

use super::Outcome;
use super::message::{Message, get};

pub(super) fn transform(mut body: Value) -> Outcome {
    let Some(Value::Object(event)) = body.get_mut("event").map(Value::take) else {
        return Outcome::failed("Missing the required event data");
    };
    let event = Value::Object(event);
    let at = |path: &str| get(&event, path).cloned().unwrap_or_default();
    let mut message = Message::new("track", "RevenueCat");
    message.set("event", at("type"));
    message.set("userId", at("app_user_id"));
    message.set("messageId", at("id"));
    let members = event.as_object().into_iter().flatten();
    let properties: Map<String, Value> =
        members.filter(|(_, value)| !value.is_null()).map(|(name, value)| (camel(name), value.clone())).collect();
    message.set("properties", Value::Object(properties));
    message.finish()
}

/// `event_timestamp_ms` as `eventTimestampMs`.
fn camel(name: &str) -> String {
    let mut words = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut written = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        written.extend(letters.next().into_iter().flat_map(char::to_uppercase));
        written.push_str(letters.as_str());
    }
    written
}

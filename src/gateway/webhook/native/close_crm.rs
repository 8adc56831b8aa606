//! Close CRM: changes of objects as track events.

use serde_json::{Value, json};
use uuid::Uuid;

use super::Outcome;
use super::message::{Message, get};

/// What describes a change in full and is left out.
const LEFT_OUT: [&str; 2] = ["changed_fields", "previous_data"];

pub(super) fn transform(mut body: Value) -> Outcome {
    let subscription = body.get_mut("subscription_id").map(Value::take).unwrap_or_default();
    let Some(Value::Object(mut event)) = body.get_mut("event").map(Value::take) else {
        return Outcome::failed("Missing the required event data");
    };
    for name in LEFT_OUT {
        event.shift_remove(name);
    }
    if !subscription.is_null() {
        event.insert("subscription_id".to_owned(), subscription);
    }
    let event = Value::Object(event);
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut message = Message::new("track", "CloseCRM");
    message.set("event", json!(format!("{} {}", text("object_type"), text("action")).trim()));
    match get(&event, "lead_id") {
        Some(id) => message.set("userId", id.clone()),
        None => message.set("anonymousId", json!(Uuid::new_v4().to_string())),
    }
    message.set("messageId", get(&event, "id").cloned().unwrap_or_default());
    message.set("originalTimestamp", get(&event, "date_updated").cloned().unwrap_or_default());
    message.set("properties", event);
    message.finish()
}

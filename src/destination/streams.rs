//! Streams that are cloud APIs: KINESIS, FIREHOSE, EVENTBRIDGE, SQS, GOOGLEPUBSUB (destinations.md 12.7, router.md
//! 17 and 18).
//!
//! Out comes a record: the event as it is, whose user it is, and where it goes. SQS is an addition of this product.

use serde_json::{Map, Value};

use super::dotted_path::{is_truthy_value, value_anywhere};
use super::event_choice::EventChoice;
use super::message::{Message, is_truthy, push_json_string};
use super::refusal::Refusal;
use crate::backend_config::Destination;

/// One destination of these types, its configuration read once.
#[derive(Clone, Debug)]
pub(super) enum Stream {
    /// KINESIS and SQS: the event and its user.
    Plain,
    /// FIREHOSE: delivery streams by event.
    Firehose(EventChoice),
    /// EVENTBRIDGE.
    EventBridge(EventBus),
    /// GOOGLEPUBSUB: topics and attributes by event.
    PubSub { topics: EventChoice, attributes: EventChoice },
}

/// What every event of an EVENTBRIDGE destination goes out with.
#[derive(Clone, Debug)]
pub(super) struct EventBus {
    has_config: bool,
    detail_type: Option<Value>,
    bus: Option<Value>,
    resources: Option<Value>,
}

impl Stream {
    /// The stream of this type; `None` for other types.
    pub(super) fn of(type_name: &str, destination: &Destination) -> Option<Stream> {
        let config = &destination.config;
        Some(match type_name {
            "KINESIS" | "SQS" => Stream::Plain,
            "FIREHOSE" => Stream::Firehose(EventChoice::read(config, "mapEvents")),
            "EVENTBRIDGE" => Stream::EventBridge(EventBus::read(config)),
            "GOOGLEPUBSUB" => Stream::PubSub {
                topics: EventChoice::read(config, "eventToTopicMap"),
                attributes: EventChoice::read(config, "eventToAttributesMap"),
            },
            _ => return None,
        })
    }

    /// The record.
    ///
    /// # Errors
    /// [`Refusal`] when the configuration has no place for the event.
    pub(super) fn transform(&self, message: &Message<'_>) -> Result<Vec<u8>, Refusal> {
        match self {
            Stream::Plain => Ok(record(message, user(message), &[])),
            Stream::Firehose(streams) => {
                let stream = streams
                    .one(message)
                    .ok_or_else(|| Refusal::configuration("No delivery stream set for this event"))?;
                let user = message.get("anonymousId").filter(|json| *json != "null");
                Ok(record(message, user, &[("deliveryStreamMapTo", json_text(stream))]))
            }
            Stream::EventBridge(bus) => bus.transform(message),
            Stream::PubSub { topics, attributes } => {
                if !message.get("type").is_some_and(is_truthy) {
                    return Err(Refusal::configuration("type is required for event"));
                }
                let topic = topics.one(message).ok_or_else(|| Refusal::configuration("No topic set for this event"))?;
                let attributes = named_attributes(message, attributes.all(message))?;
                Ok(record(message, user(message), &[("topicId", json_text(topic)), ("attributes", attributes)]))
            }
        }
    }
}

impl EventBus {
    fn read(config: &Map<String, Value>) -> EventBus {
        let given = |key: &str| config.get(key).filter(|value| !value.is_null()).cloned();
        let arns = |rows: &Vec<Value>| rows.iter().filter_map(|row| row.get("arn")).cloned().collect::<Vec<_>>();
        EventBus {
            has_config: !config.is_empty(),
            detail_type: given("detailType"),
            bus: given("eventBusName"),
            resources: config.get("resourceID").and_then(Value::as_array).map(arns).map(Value::from),
        }
    }

    fn transform(&self, message: &Message<'_>) -> Result<Vec<u8>, Refusal> {
        if !self.has_config {
            return Err(Refusal::configuration("EventBridge: received empty config, dropping event"));
        }
        let mut out = b"{\"Detail\":".to_vec();
        push_json_string(&mut out, &message.to_json());
        out.extend_from_slice(b",\"Source\":\"rudderstack\"");
        let bus = [("DetailType", &self.detail_type), ("EventBusName", &self.bus), ("Resources", &self.resources)];
        for (key, value) in bus.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            push_member(&mut out, key, &value.to_string());
        }
        if let Some(user) = user(message) {
            push_member(&mut out, "userId", user);
        }
        out.push(b'}');
        Ok(out)
    }
}

/// The event, its user, and more members in JSON.
fn record(message: &Message<'_>, user: Option<&str>, more: &[(&str, String)]) -> Vec<u8> {
    let bytes = message.members().map(|(key, json)| key.len() + json.len() + 4).sum::<usize>();
    let mut out = Vec::with_capacity(bytes + 128);
    out.extend_from_slice(b"{\"message\":");
    message.write(&mut out);
    if let Some(user) = user {
        push_member(&mut out, "userId", user);
    }
    for (key, json) in more {
        push_member(&mut out, key, json);
    }
    out.push(b'}');
    out
}

fn push_member(out: &mut Vec<u8>, key: &str, json: &str) {
    out.push(b',');
    push_json_string(out, key);
    out.push(b':');
    out.extend_from_slice(json.as_bytes());
}

fn json_text(text: &str) -> String {
    Value::from(text).to_string()
}

/// `userId`, else `anonymousId`, in JSON.
fn user<'m>(message: &'m Message<'_>) -> Option<&'m str> {
    ["userId", "anonymousId"].iter().find_map(|key| message.get(key).filter(|json| is_truthy(json)))
}

/// The values at these paths, each under the last part of its path; what is no text is written as JSON.
fn named_attributes(message: &Message<'_>, paths: &[String]) -> Result<String, Refusal> {
    if paths.is_empty() {
        return Ok("{}".to_owned());
    }
    let event = message.to_tree().map_err(|error| Refusal::instrumentation(&error.to_string()))?;
    let mut attributes = Map::new();
    for path in paths {
        let name = path.rsplit('.').next().unwrap_or_default();
        if let Some(value) = value_anywhere(&event, path, is_truthy_value) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            attributes.insert(name.to_owned(), text.into());
        }
    }
    Ok(Value::Object(attributes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn transform(type_name: &str, config: Value, event: &Value) -> Result<Value, String> {
        let destination = Destination { config: config.as_object().cloned().unwrap(), ..Destination::default() };
        let text = event.to_string();
        let stream = Stream::of(type_name, &destination).unwrap();
        let made = stream.transform(&Message::parse(&text).unwrap());
        made.map(|payload| serde_json::from_slice(&payload).unwrap()).map_err(|refusal| refusal.message)
    }

    #[test]
    fn a_delivery_stream_is_chosen_by_name_then_type_then_for_all() {
        let config = json!({ "mapEvents": [
            { "from": "Track", "to": "by-type" }, { "from": "*", "to": "rest" }, { "from": " Bought ", "to": "by-name" },
        ] });
        for (event, expected) in [
            (json!({ "type": "track", "event": "BOUGHT" }), "by-name"),
            (json!({ "type": "track", "event": 5 }), "by-type"),
            (json!({ "type": "page", "event": "" }), "rest"),
        ] {
            assert_eq!(transform("FIREHOSE", config.clone(), &event).unwrap()["deliveryStreamMapTo"], expected);
        }
        let none = transform("FIREHOSE", json!({}), &json!({ "type": "track" }));
        assert_eq!(none, Err("No delivery stream set for this event".to_owned()));
    }

    #[test]
    fn attributes_are_texts_under_the_last_part_of_their_path() {
        let config = json!({
            "eventToTopicMap": [{ "from": "track", "to": "t" }],
            "eventToAttributesMap": [{ "from": "track", "to": "a.b" }, { "from": "track", "to": "list" },
                { "from": "track", "to": "none" }, { "from": "track", "to": "email" }],
        });
        let event = json!({
            "type": "track", "userId": "", "anonymousId": "anon", "properties": { "a": { "b": "x" }, "list": [1] },
            "context": { "traits": { "email": "e" } },
        });
        let made = transform("GOOGLEPUBSUB", config.clone(), &event).unwrap();
        assert_eq!(made["attributes"], json!({ "b": "x", "list": "[1]", "email": "e" }));
        assert_eq!((&made["topicId"], &made["userId"], &made["message"]), (&json!("t"), &json!("anon"), &event));
        let refused = |event: Value| transform("GOOGLEPUBSUB", config.clone(), &event).unwrap_err();
        assert_eq!(refused(json!({ "type": "page" })), "No topic set for this event");
        assert_eq!(refused(json!({})), "type is required for event");
    }

    #[test]
    fn what_the_configuration_of_a_bus_does_not_say_is_left_out() {
        let event = json!({ "userId": "u" });
        let made = transform("EVENTBRIDGE", json!({ "eventBusName": "bus" }), &event).unwrap();
        let expected =
            json!({ "Detail": event.to_string(), "EventBusName": "bus", "Source": "rudderstack", "userId": "u" });
        assert_eq!(made, expected);
    }
}

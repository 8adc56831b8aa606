//! Brokers: the event as it is, with the topic that it goes to (destinations.md 12.7, router.md 15).
//!
//! KAFKA chooses topics by type and name of events and knows schemas; so do MQTT and NATS, which are extras of this
//! product. CONFLUENT_CLOUD and AZURE_EVENT_HUB have one topic, which an event may change.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::message::{Message, is_truthy, push_json_string, text_of};
use crate::backend_config::Destination;

/// Names under which an event's `integrations` may hold settings for a destination of the type, in order.
fn integrations_names(type_name: &str) -> [&'static str; 3] {
    match type_name {
        "CONFLUENT_CLOUD" => ["CONFLUENT_CLOUD", "confluent_cloud", "ConfluentCloud"],
        "AZURE_EVENT_HUB" => ["AZURE_EVENT_HUB", "azure_event_hub", "AzureEventHub"],
        "MQTT" => ["MQTT", "mqtt", "Mqtt"],
        "NATS" => ["NATS", "nats", "Nats"],
        _ => ["KAFKA", "kafka", "Kafka"],
    }
}

/// Types of events whose topic is chosen by type.
const BY_TYPE: [&str; 5] = ["identify", "screen", "page", "group", "alias"];

/// The configuration of one destination, read once.
#[derive(Clone, Debug)]
pub(super) struct Kafka {
    names: [&'static str; 3],
    has_schemas: bool,
    topic: Option<String>,
    has_many_topics: bool,
    /// By type in small letters.
    topic_of_type: HashMap<String, String>,
    /// By the exact name of a track event.
    topic_of_event: HashMap<String, String>,
}

impl Kafka {
    pub(super) fn new(type_name: &str, destination: &Destination) -> Kafka {
        let config = &destination.config;
        let is_hosted = matches!(type_name, "CONFLUENT_CLOUD" | "AZURE_EVENT_HUB");
        Kafka {
            names: integrations_names(type_name),
            has_schemas: !is_hosted,
            topic: config.get("topic").and_then(Value::as_str).filter(|topic| !topic.is_empty()).map(str::to_owned),
            has_many_topics: !is_hosted && config.get("enableMultiTopic") == Some(&Value::Bool(true)),
            topic_of_type: topics(config, "eventTypeToTopicMap")
                .into_iter()
                .map(|(kind, topic)| (kind.to_lowercase(), topic))
                .collect(),
            topic_of_event: topics(config, "eventToTopicMap"),
        }
    }

    /// The record, and its topic.
    pub(super) fn transform(&self, message: &Message<'_>) -> (Vec<u8>, Option<String>) {
        let integrations = message.object("integrations");
        let own = integrations.as_ref().and_then(|integrations| {
            let name = self.names.iter().find(|name| integrations.get(name).is_some_and(is_truthy))?;
            integrations.object(name)
        });
        let chosen = |key: &str| own.as_ref().and_then(|own| own.get_present(key));
        let topic = chosen("topic").and_then(text_of).filter(|topic| !topic.is_empty());
        let topic = topic.or_else(|| self.topic_for(message).map(Cow::Borrowed)).map(Cow::into_owned);

        let bytes = message.members().map(|(key, json)| key.len() + json.len() + 4).sum::<usize>();
        let mut out = Vec::with_capacity(bytes + 256);
        out.extend_from_slice(b"{\"message\":");
        message.write(&mut out);
        let user = ["userId", "anonymousId"].iter().find_map(|key| message.get(key).filter(|json| is_truthy(json)));
        for (key, json) in [("userId", user), ("schemaId", chosen("schemaId").filter(|_| self.has_schemas))] {
            if let Some(json) = json {
                out.push(b',');
                push_json_string(&mut out, key);
                out.push(b':');
                out.extend_from_slice(json.as_bytes());
            }
        }
        if let Some(topic) = &topic {
            out.extend_from_slice(b",\"topic\":");
            push_json_string(&mut out, topic);
        }
        out.push(b'}');
        (out, topic)
    }

    fn topic_for(&self, message: &Message<'_>) -> Option<&str> {
        let mut mapped = None;
        if self.has_many_topics {
            let kind = message.text("type").unwrap_or_default().to_lowercase();
            if BY_TYPE.contains(&kind.as_str()) {
                mapped = self.topic_of_type.get(&kind);
            } else if kind == "track" {
                mapped = message.text("event").and_then(|event| self.topic_of_event.get(&*event));
            }
        }
        mapped.or(self.topic.as_ref()).map(String::as_str)
    }
}

/// The rows of a map that are filled in; the first of a name counts.
fn topics(config: &Map<String, Value>, key: &str) -> HashMap<String, String> {
    let mut topics = HashMap::new();
    for row in config.get(key).and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| row.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let (Some(from), Some(to)) = (text("from"), text("to")) {
            topics.entry(from.to_owned()).or_insert_with(|| to.to_owned());
        }
    }
    topics
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_topic_is_the_events_own_then_that_of_its_type_or_name_then_the_configured_one() {
        let config = json!({
            "topic": "usual", "enableMultiTopic": true,
            "eventTypeToTopicMap": [{ "from": "Identify", "to": "people" }, { "from": "page", "to": "" }],
            "eventToTopicMap": [{ "from": "Order Done", "to": "orders" }],
        });
        let destination = Destination { config: config.as_object().cloned().unwrap(), ..Destination::default() };
        let kafka = Kafka::new("KAFKA", &destination);
        for (event, expected) in [
            (json!({ "type": "identify" }), "people"),
            (json!({ "type": "track", "event": "Order Done" }), "orders"),
            (json!({ "type": "track", "event": "order done" }), "usual"),
            (json!({ "type": "track", "event": 5 }), "usual"),
            (json!({ "type": "page" }), "usual"),
            (json!({ "type": "identify", "integrations": { "kafka": { "topic": "own" } } }), "own"),
            (json!({ "type": "identify", "integrations": { "Kafka": true } }), "people"),
        ] {
            let text = event.to_string();
            let (payload, topic) = kafka.transform(&Message::parse(&text).unwrap());
            assert_eq!(topic.as_deref(), Some(expected), "{event}");
            let payload: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(payload, json!({ "message": event, "topic": expected }));
        }
    }

    #[test]
    fn the_record_carries_the_user_and_the_schema_if_there_are_any() {
        let kafka = Kafka::new("KAFKA", &Destination::default());
        let transform = |event: Value| {
            let text = event.to_string();
            let (payload, topic) = kafka.transform(&Message::parse(&text).unwrap());
            assert_eq!(topic, None);
            let mut payload: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(payload.as_object_mut().unwrap().remove("message"), Some(event));
            payload
        };
        assert_eq!(transform(json!({ "userId": "", "anonymousId": "a" })), json!({ "userId": "a" }));
        let with_schema = json!({ "userId": "u", "integrations": { "KAFKA": { "schemaId": "s" } } });
        assert_eq!(transform(with_schema), json!({ "userId": "u", "schemaId": "s" }));
        assert_eq!(transform(json!({})), json!({}));
    }

    #[test]
    fn hosted_clusters_have_one_topic_that_an_event_may_change() {
        let config = json!({
            "topic": "usual", "enableMultiTopic": true, "eventTypeToTopicMap": [{ "from": "identify", "to": "people" }],
        });
        let destination = Destination { config: config.as_object().cloned().unwrap(), ..Destination::default() };
        let own = json!({ "topic": "own", "schemaId": "s" });
        for (type_name, name, chosen, usual) in [
            ("CONFLUENT_CLOUD", "ConfluentCloud", "own", "usual"),
            ("AZURE_EVENT_HUB", "azure_event_hub", "own", "usual"),
            ("AZURE_EVENT_HUB", "Kafka", "usual", "usual"),
            ("MQTT", "Mqtt", "own", "people"),
            ("NATS", "NATS", "own", "people"),
        ] {
            let kafka = Kafka::new(type_name, &destination);
            let topic_of = |event: Value| {
                let (payload, topic) = kafka.transform(&Message::parse(&event.to_string()).unwrap());
                let payload: Value = serde_json::from_slice(&payload).unwrap();
                let is_hosted = !matches!(type_name, "MQTT" | "NATS");
                assert!(!is_hosted || payload.get("schemaId").is_none());
                topic.unwrap()
            };
            assert_eq!(topic_of(json!({ "type": "identify" })), usual, "{type_name}");
            let expected = if chosen == "own" { "own" } else { usual };
            let event = json!({ "type": "identify", "integrations": { name: own } });
            assert_eq!(topic_of(event), expected, "{type_name} {name}");
        }
    }
}

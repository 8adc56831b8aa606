//! The event filter: what a destination supports (processor.md 8).

use serde_json::{Map, Value};

use super::transform_at::TransformAt;
use crate::backend_config::{Destination, Source};
use crate::destination::Message;

/// The verdict about one event for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// On purpose not delivered (298).
    Filtered(&'static str),
    /// It failed: status and text.
    Failed(u16, &'static str),
}

/// The filter of one destination behind one source, read once.
#[derive(Clone, Debug)]
pub struct EventFilter {
    is_off: bool,
    supported_types: Option<Vec<String>>,
    /// Types that a hybrid destination takes from the node; `None` = all that it supports.
    hybrid_types: Option<Vec<String>>,
    conversions: Option<Vec<String>>,
}

impl EventFilter {
    /// From the definitions and the destination's config.
    pub fn new(source: &Source, destination: &Destination, transform_at: TransformAt) -> EventFilter {
        EventFilter {
            is_off: transform_at == TransformAt::None,
            supported_types: supported_types(destination),
            hybrid_types: hybrid_types(source, destination),
            conversions: conversions(&destination.config),
        }
    }

    /// Judges an event. `is_drained`: its job run is cancelled.
    pub fn judge(&self, event: &Message<'_>, is_drained: bool) -> Verdict {
        if is_drained {
            return Verdict::Failed(410, "cancelled jobRunId");
        }
        if self.is_off {
            return Verdict::Pass;
        }
        if let Some(supported) = &self.supported_types {
            let message_type = event.text("type").map(|text| text.trim().to_lowercase()).unwrap_or_default();
            if message_type.is_empty() {
                return Verdict::Failed(400, "Invalid message type. Type assertion failed");
            }
            if !supported.contains(&message_type) {
                return Verdict::Filtered("Message type not supported");
            }
            if self.hybrid_types.as_ref().is_some_and(|types| !types.contains(&message_type)) {
                return Verdict::Filtered("Filtering event based on hybridModeFilter");
            }
        }
        if let Some(conversions) = &self.conversions {
            let Some(name) = event.text("event") else {
                return Verdict::Failed(400, "Invalid message event. Type assertion failed");
            };
            if !conversions.iter().any(|conversion| *conversion == name) {
                return Verdict::Filtered("Event not supported");
            }
        }
        Verdict::Pass
    }
}

fn supported_types(destination: &Destination) -> Option<Vec<String>> {
    let listed = destination.definition.config.get("supportedMessageTypes")?.as_array()?;
    let takes_identify = destination.config.get("enableServerSideIdentify") != Some(&Value::Bool(false));
    let types = listed.iter().filter_map(Value::as_str).filter(|name| takes_identify || *name != "identify");
    Some(types.map(str::to_owned).collect())
}

fn hybrid_types(source: &Source, destination: &Destination) -> Option<Vec<String>> {
    let source_type = source.definition.kind.trim();
    if source_type.is_empty() || destination.config.get("connectionMode").and_then(Value::as_str) != Some("hybrid") {
        return None;
    }
    let rule = destination.definition.config.get("hybridModeCloudEventsFilter")?.get(source_type)?.as_object()?;
    let types = rule.get("messageType")?.as_array()?;
    let names: Option<Vec<String>> = types.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    names.filter(|names| !names.is_empty())
}

/// One malformed element switches the list off; an empty list supports nothing.
fn conversions(config: &Map<String, Value>) -> Option<Vec<String>> {
    let listed = config.get("listOfConversions")?.as_array()?;
    listed.iter().map(|entry| entry.get("conversions").and_then(Value::as_str).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::{DestinationDefinition, SourceDefinition};
    use serde_json::json;

    fn judged(config: Value, definition: Value, event: &str) -> Verdict {
        let source = Source {
            definition: SourceDefinition { kind: "web".to_owned(), ..SourceDefinition::default() },
            ..Source::default()
        };
        let destination = Destination {
            config: config.as_object().cloned().unwrap(),
            definition: DestinationDefinition {
                config: definition.as_object().cloned().unwrap(),
                ..DestinationDefinition::default()
            },
            ..Destination::default()
        };
        EventFilter::new(&source, &destination, TransformAt::Processor).judge(&Message::parse(event).unwrap(), false)
    }

    #[test]
    fn a_destination_gets_the_types_that_it_supports() {
        let definition = || json!({ "supportedMessageTypes": ["identify", "track"] });
        let table = [
            (json!({}), r#"{"type":" TRACK "}"#, Verdict::Pass),
            (json!({}), r#"{"type":"group"}"#, Verdict::Filtered("Message type not supported")),
            (json!({}), r#"{"type":5}"#, Verdict::Failed(400, "Invalid message type. Type assertion failed")),
            (json!({}), r#"{"type":"  "}"#, Verdict::Failed(400, "Invalid message type. Type assertion failed")),
            (
                json!({ "enableServerSideIdentify": false }),
                r#"{"type":"identify"}"#,
                Verdict::Filtered("Message type not supported"),
            ),
            (json!({ "enableServerSideIdentify": "false" }), r#"{"type":"identify"}"#, Verdict::Pass),
        ];
        for (config, event, expected) in table {
            assert_eq!(judged(config, definition(), event), expected, "{event}");
        }
        assert_eq!(
            judged(json!({}), json!({ "supportedMessageTypes": { "cloud": ["track"] } }), r#"{"type":"group"}"#),
            Verdict::Pass
        );
    }

    #[test]
    fn a_hybrid_destination_gets_the_types_of_its_rule() {
        let definition = |rule: Value| json!({ "supportedMessageTypes": ["identify", "track"], "hybridModeCloudEventsFilter": { "web": rule } });
        let identify = r#"{"type":"identify"}"#;
        let hybrid = || json!({ "connectionMode": "hybrid" });
        let filtered = Verdict::Filtered("Filtering event based on hybridModeFilter");
        assert_eq!(judged(hybrid(), definition(json!({ "messageType": ["track"] })), identify), filtered);
        assert_eq!(
            judged(hybrid(), definition(json!({ "messageType": ["track"] })), r#"{"type":"track"}"#),
            Verdict::Pass
        );
        for rule in [
            json!({}),
            json!({ "messageType": [] }),
            json!({ "messageType": [1] }),
            json!({ "messageType": "track" }),
            json!({ "other": 1 }),
        ] {
            assert_eq!(judged(hybrid(), definition(rule), identify), Verdict::Pass);
        }
        assert_eq!(
            judged(json!({ "connectionMode": "cloud" }), definition(json!({ "messageType": ["track"] })), identify),
            Verdict::Pass
        );
        let without_types = json!({ "hybridModeCloudEventsFilter": { "web": { "messageType": ["track"] } } });
        assert_eq!(judged(hybrid(), without_types, identify), Verdict::Pass);
    }

    #[test]
    fn a_list_of_conversions_names_the_events() {
        let list = |entries: Value| json!({ "listOfConversions": entries });
        let paid = r#"{"type":"track","event":"Paid"}"#;
        assert_eq!(judged(list(json!([{ "conversions": "Paid" }])), json!({}), paid), Verdict::Pass);
        assert_eq!(
            judged(list(json!([{ "conversions": "paid" }])), json!({}), paid),
            Verdict::Filtered("Event not supported")
        );
        assert_eq!(judged(list(json!([])), json!({}), paid), Verdict::Filtered("Event not supported"));
        assert_eq!(judged(list(json!([{ "conversions": "x" }, {}])), json!({}), paid), Verdict::Pass);
        let nameless = Verdict::Failed(400, "Invalid message event. Type assertion failed");
        assert_eq!(judged(list(json!([{ "conversions": "x" }])), json!({}), r#"{"type":"page"}"#), nameless);
    }
}

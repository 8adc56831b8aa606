//! Which transformation a destination type has, compiled for one destination.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::calls::{self, Calls};
use super::dynamic_config;
use super::http::{self, Http};
use super::kafka::Kafka;
use super::message::{Message, Unreadable};
use super::redis::Redis;
use super::refusal::Refusal;
use super::routed::Routed;
use super::streams::Stream;
use super::warehouse::Dialect;
use super::webhook::Webhook;
use crate::backend_config::Destination;

/// The payload of one job: JSON, as the router or the batch router takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// A delivery request for HTTP types (destinations.md 2.4), the record for streams, the event itself for object
    /// stores.
    pub payload: Vec<u8>,
    /// The topic that the record goes to: order holds per user and topic (router.md 15.1).
    pub topic: Option<String>,
}

impl Output {
    /// A payload without a topic.
    pub fn of(payload: Vec<u8>) -> Output {
        Output { payload, topic: None }
    }
}

/// The transformation of one destination, with its configuration read once.
#[derive(Clone, Debug)]
pub struct Plan(Way);

#[derive(Clone, Debug)]
enum Way {
    /// Object stores take the event as it is.
    Identity,
    Webhook(Webhook),
    Http(Box<Http>),
    Kafka(Kafka),
    Redis(Redis),
    Stream(Stream),
    Calls(Calls),
    /// The configuration holds templates, so that each event has its own plan.
    PerEvent(Arc<Destination>, String),
    /// Neither native nor covered by a transformer.
    Unavailable(String),
}

/// Types that object stores and the local directory have (processor.md 9.5).
const IDENTITY: [&str; 6] = ["S3", "GCS", "AZURE_BLOB", "MINIO", "DIGITAL_OCEAN_SPACES", "LOCAL"];

/// Types whose jobs go to the batch router (processor.md 10.3).
const BATCH: [&str; 33] = [
    "S3",
    "GCS",
    "MINIO",
    "RS",
    "BQ",
    "AZURE_BLOB",
    "SNOWFLAKE",
    "POSTGRES",
    "CLICKHOUSE",
    "DIGITAL_OCEAN_SPACES",
    "MSSQL",
    "AZURE_SYNAPSE",
    "S3_DATALAKE",
    "MARKETO_BULK_UPLOAD",
    "GCS_DATALAKE",
    "AZURE_DATALAKE",
    "DELTALAKE",
    "BINGADS_AUDIENCE",
    "ELOQUA",
    "YANDEX_METRICA_OFFLINE_EVENTS",
    "SFTP",
    "BINGADS_OFFLINE_CONVERSIONS",
    "KLAVIYO_BULK_UPLOAD",
    "LYTICS_BULK_UPLOAD",
    "SNOWPIPE_STREAMING",
    "SALESFORCE_BULK_UPLOAD",
    "BQSTREAM_ALL_EVENTS",
    "LOCAL",
    "LOCAL_DATALAKE",
    "DUCKDB",
    "SQLITE",
    "DELTA_LOCAL",
    "ICEBERG_LOCAL",
];

/// Types with a mapping of their own.
const MAPPED: [&str; 17] = [
    "WEBHOOK",
    "HTTP",
    "KAFKA",
    "CONFLUENT_CLOUD",
    "AZURE_EVENT_HUB",
    "REDIS",
    "MQTT",
    "NATS",
    "KINESIS",
    "FIREHOSE",
    "EVENTBRIDGE",
    "LAMBDA",
    "SQS",
    "GOOGLEPUBSUB",
    "GOOGLE_CLOUD_FUNCTION",
    "BQSTREAM",
    "GOOGLESHEETS",
];

/// Whether the node transforms this type itself.
pub fn is_mapped(type_name: &str) -> bool {
    MAPPED.contains(&type_name) || IDENTITY.contains(&type_name) || is_warehouse(type_name)
}

/// Whether the node transforms this type itself and delivers to it.
pub fn is_native(type_name: &str) -> bool {
    is_mapped(type_name)
}

/// Whether events for this type become rows (see [`warehouse`](super::warehouse)) that are loaded from staging files.
pub fn is_warehouse(type_name: &str) -> bool {
    Dialect::of_type(type_name).is_some_and(|dialect| !dialect.is_streamed())
}

/// Whether jobs of this type go to the batch router instead of the router.
pub fn is_batch(type_name: &str) -> bool {
    BATCH.contains(&type_name)
}

impl Plan {
    /// The transformation of this destination, by its definition name.
    pub fn new(destination: &Arc<Destination>) -> Plan {
        Plan::of_type(&destination.definition.name, destination)
    }

    /// The transformation of this type with the destination's configuration.
    pub fn of_type(type_name: &str, destination: &Arc<Destination>) -> Plan {
        let destination = &without_filtered_config(destination);
        let is_per_event = destination.has_dynamic_config && dynamic_config::has_template(&destination.config);
        if is_per_event && MAPPED.contains(&type_name) {
            Plan(Way::PerEvent(Arc::clone(destination), type_name.to_owned()))
        } else {
            Plan::fixed(type_name, destination)
        }
    }

    fn fixed(type_name: &str, destination: &Destination) -> Plan {
        Plan(match type_name {
            "WEBHOOK" => Way::Webhook(Webhook::new(destination)),
            "HTTP" => Way::Http(Box::new(Http::new(destination))),
            "KAFKA" | "CONFLUENT_CLOUD" | "AZURE_EVENT_HUB" | "MQTT" | "NATS" => {
                Way::Kafka(Kafka::new(type_name, destination))
            }
            "REDIS" => Way::Redis(Redis::new(destination)),
            _ if IDENTITY.contains(&type_name) => Way::Identity,
            _ => match (Stream::of(type_name, destination), Calls::of(type_name, destination)) {
                (Some(stream), _) => Way::Stream(stream),
                (_, Some(calls)) => Way::Calls(calls),
                _ => Way::Unavailable(type_name.to_owned()),
            },
        })
    }

    /// What the event becomes. `metadata` is only asked when the configuration refers to it.
    ///
    /// # Errors
    /// [`Refusal`] when the destination does not take the event; it is final.
    pub fn transform(&self, message: &Message<'_>, metadata: &dyn Fn() -> Value) -> Result<Vec<Output>, Refusal> {
        let payload = match &self.0 {
            Way::Identity => message.to_json().into_bytes(),
            Way::Webhook(webhook) => webhook.transform(&with_time_of_record(message))?,
            Way::Http(http) => http.transform(&with_time_of_record(message))?,
            Way::Kafka(kafka) => {
                let (payload, topic) = kafka.transform(&with_time_of_record(message));
                return Ok(vec![Output { payload, topic }]);
            }
            Way::Redis(redis) => redis.transform(&with_time_of_record(message), metadata)?,
            Way::Stream(stream) => stream.transform(&with_time_of_record(message))?,
            Way::Calls(calls) => calls.transform(&with_time_of_record(message))?,
            Way::PerEvent(destination, type_name) => {
                let (plan, event) = resolved(destination, type_name, message, metadata)?;
                let message = Message::parse(&event).map_err(unreadable)?;
                return plan.transform(&message, metadata);
            }
            Way::Unavailable(type_name) => return Err(Refusal::unavailable(type_name)),
        };
        Ok(vec![Output::of(payload)])
    }

    /// Whether events may share a request, so that it is worth waiting for more of them.
    pub fn joins_events(&self) -> bool {
        match &self.0 {
            Way::Http(http) => http.joins_events(),
            Way::Calls(calls) => calls.joins_events(),
            Way::PerEvent(destination, type_name) if type_name == "HTTP" => http::may_batch(&destination.config),
            Way::PerEvent(_, type_name) => calls::TYPES.contains(&type_name.as_str()),
            _ => false,
        }
    }

    /// What events become that share calls; `None` for the types that make requests.
    pub(super) fn calls_of(&self, events: &[(Message<'_>, &dyn Fn() -> Value)]) -> Option<Vec<Routed>> {
        match &self.0 {
            Way::Calls(calls) => {
                let events: Vec<Message<'_>> =
                    events.iter().map(|(event, _)| with_time_of_record(event).into_owned()).collect();
                Some(calls.route(&events))
            }
            Way::PerEvent(destination, type_name) if calls::TYPES.contains(&type_name.as_str()) => {
                Some(calls_per_config(destination, type_name, events))
            }
            _ => None,
        }
    }

    /// The request that an HTTP destination makes of the event, before it is written; `None` for other types and
    /// for what was transformed before.
    pub(super) fn http_request(
        &self,
        message: &Message<'_>,
        metadata: &dyn Fn() -> Value,
    ) -> Option<Result<http::Request, Refusal>> {
        if http::was_transformed(message) {
            return None;
        }
        match &self.0 {
            Way::Http(http) => Some(http.request(&with_time_of_record(message))),
            Way::PerEvent(destination, type_name) if type_name == "HTTP" => {
                let (plan, event) = match resolved(destination, type_name, message, metadata) {
                    Ok(resolved) => resolved,
                    Err(refusal) => return Some(Err(refusal)),
                };
                match Message::parse(&event) {
                    Ok(message) => plan.http_request(&message, metadata),
                    Err(error) => Some(Err(unreadable(error))),
                }
            }
            _ => None,
        }
    }
}

/// Events whose templates come to the same configuration share calls.
fn calls_per_config(
    destination: &Arc<Destination>,
    type_name: &str,
    events: &[(Message<'_>, &dyn Fn() -> Value)],
) -> Vec<Routed> {
    let mut routed = Vec::new();
    let mut groups: Vec<(Value, Vec<(usize, String)>)> = Vec::new();
    for (place, (event, metadata)) in events.iter().enumerate() {
        match dynamic_config::resolve(&destination.config, event, *metadata) {
            Ok((config, event)) => {
                let config = Value::Object(config);
                match groups.iter_mut().find(|(known, _)| *known == config) {
                    Some((_, group)) => group.push((place, event)),
                    None => groups.push((config, vec![(place, event)])),
                }
            }
            Err(error) => routed.push(Routed::alone(place, Err(unreadable(error)))),
        }
    }
    for (config, group) in groups {
        let Value::Object(config) = config else { continue };
        let resolved = Destination { config, has_dynamic_config: false, ..Destination::clone(destination) };
        let Some(calls) = Calls::of(type_name, &resolved) else { continue };
        let mut places = Vec::new();
        let mut messages = Vec::new();
        for (place, event) in &group {
            match Message::parse(event) {
                Ok(message) => {
                    places.push(*place);
                    messages.push(with_time_of_record(&message).into_owned());
                }
                Err(error) => routed.push(Routed::alone(*place, Err(unreadable(error)))),
            }
        }
        routed.extend(calls.route(&messages).into_iter().map(|one| one.placed(&places)));
    }
    routed
}

/// The plan for one event of a destination with templates, and the event without what went into them.
fn resolved(
    destination: &Arc<Destination>,
    type_name: &str,
    message: &Message<'_>,
    metadata: &dyn Fn() -> Value,
) -> Result<(Plan, String), Refusal> {
    let (config, event) = dynamic_config::resolve(&destination.config, message, metadata).map_err(unreadable)?;
    let resolved = Destination { config, has_dynamic_config: false, ..Destination::clone(destination) };
    Ok((Plan::fixed(type_name, &resolved), event))
}

fn unreadable(error: Unreadable) -> Refusal {
    Refusal::instrumentation(&error.to_string())
}

/// The destination without the config keys that its definition keeps from transformations (processor.md 6.1).
pub fn without_filtered_config(destination: &Arc<Destination>) -> Arc<Destination> {
    let listed = destination.definition.config.get("configFilters").and_then(Value::as_array);
    let Some(keys) = listed.filter(|keys| !keys.is_empty()) else { return Arc::clone(destination) };
    let mut filtered = Destination::clone(destination);
    filtered.config.retain(|key, _| !keys.iter().any(|hidden| hidden == key.as_str()));
    Arc::new(filtered)
}

/// Records of reverse-ETL sources carry their own time (destinations.md 5.10).
fn with_time_of_record<'m, 't>(message: &'m Message<'t>) -> Cow<'m, Message<'t>> {
    if message.get("channel") != Some("\"sources\"") {
        return Cow::Borrowed(message);
    }
    let context = message.object("context").unwrap_or_default();
    if context.get_present("mappedToDestination").is_some() {
        return Cow::Borrowed(message);
    }
    let context_traits = context.object("traits");
    let traits = message.object("traits");
    let properties = message.object("properties");
    let within = |object: &'_ Option<Message<'_>>| {
        object.as_ref().and_then(|object| object.get_present("timestamp")).map(str::to_owned)
    };
    let own = |key: &str| message.get_present(key).map(str::to_owned);
    let candidates = match message.text("type").as_deref() {
        Some("identify") => vec![
            context.get_present("timestamp").map(str::to_owned),
            within(&context_traits),
            within(&traits),
            own("timestamp"),
            own("originalTimestamp"),
        ],
        Some("track") => vec![within(&properties), own("timestamp"), own("originalTimestamp")],
        _ => Vec::new(),
    };
    match candidates.into_iter().flatten().find(|json| json != "\"\"") {
        Some(time) => {
            let mut timed = message.clone();
            timed.set("timestamp", time);
            Cow::Owned(timed)
        }
        None => Cow::Borrowed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::DestinationDefinition;
    use serde_json::json;

    fn destination(type_name: &str, config: Value) -> Arc<Destination> {
        Arc::new(Destination {
            config: config.as_object().cloned().unwrap(),
            has_dynamic_config: config.to_string().contains("{{"),
            definition: DestinationDefinition { name: type_name.to_owned(), ..DestinationDefinition::default() },
            ..Destination::default()
        })
    }

    fn outputs(destination: &Arc<Destination>, event: &str) -> Result<Vec<Value>, Refusal> {
        let message = Message::parse(event).unwrap();
        let outputs = Plan::new(destination).transform(&message, &|| Value::Null)?;
        Ok(outputs.iter().map(|output| serde_json::from_slice(&output.payload).unwrap()).collect())
    }

    #[test]
    fn object_stores_take_the_event_as_it_is() {
        for type_name in IDENTITY {
            assert!(is_native(type_name) && is_batch(type_name));
            assert_eq!(outputs(&destination(type_name, json!({})), r#"{"a":1}"#), Ok(vec![json!({ "a": 1 })]));
        }
    }

    #[test]
    fn warehouses_that_load_files_are_native() {
        for type_name in ["RS", "SNOWFLAKE", "POSTGRES", "S3_DATALAKE", "LOCAL_DATALAKE", "SQLITE"] {
            assert!(is_native(type_name) && is_batch(type_name) && is_warehouse(type_name), "{type_name}");
        }
        // These are streamed to, and this build has no client for that.
        assert!(!is_warehouse("SNOWPIPE_STREAMING") && !is_native("BQSTREAM_ALL_EVENTS") && !is_warehouse("S3"));
    }

    #[test]
    fn a_type_without_transformation_refuses_every_event() {
        let refusal = outputs(&destination("GA4", json!({})), "{}").unwrap_err();
        assert_eq!((refusal.status(), refusal.to_string().as_str()), (404, "transformer for GA4 not available"));
        assert!(!is_native("GA4") && !is_batch("GA4"));
    }

    #[test]
    fn config_keys_that_the_definition_hides_are_not_there() {
        let mut webhook = Destination::clone(&destination(
            "WEBHOOK",
            json!({ "webhookUrl": "https://a.example", "webhookMethod": "PUT" }),
        ));
        webhook.definition.config.insert("configFilters".to_owned(), json!(["webhookMethod"]));
        assert_eq!(outputs(&Arc::new(webhook), "{}").unwrap()[0]["method"], "POST");
    }

    #[test]
    fn a_template_in_the_config_is_resolved_for_each_event() {
        let webhook = destination("WEBHOOK", json!({ "webhookUrl": "{{ message.to || https://a.example }}" }));
        let sent = outputs(&webhook, r#"{"to":"https://b.example","x":1}"#).unwrap();
        assert_eq!(sent[0]["endpoint"], "https://b.example");
        assert_eq!(sent[0]["body"]["JSON"], json!({ "x": 1 }));
        assert_eq!(outputs(&webhook, "{}").unwrap()[0]["endpoint"], "https://a.example");
    }

    #[test]
    fn records_of_reverse_etl_sources_carry_their_own_time() {
        let webhook = destination("WEBHOOK", json!({ "webhookUrl": "https://a.example" }));
        let table = [
            (r#"{"channel":"sources","type":"track","timestamp":"t","properties":{"timestamp":"p"}}"#, json!("p")),
            (r#"{"channel":"sources","type":"track","timestamp":"t","properties":{"timestamp":""}}"#, json!("t")),
            (
                r#"{"channel":"sources","type":"identify","context":{"traits":{"timestamp":1}},"traits":{"timestamp":2}}"#,
                json!(1),
            ),
            (
                r#"{"channel":"sources","type":"track","timestamp":"t","context":{"mappedToDestination":true},"properties":{"timestamp":"p"}}"#,
                json!("t"),
            ),
            (r#"{"channel":"web","type":"track","timestamp":"t","properties":{"timestamp":"p"}}"#, json!("t")),
        ];
        for (event, expected) in table {
            assert_eq!(outputs(&webhook, event).unwrap()[0]["body"]["JSON"]["timestamp"], expected, "{event}");
        }
    }
}

//! Streams of AWS: KINESIS, FIREHOSE, EVENTBRIDGE, LAMBDA and, as an addition of this product, SQS (router.md 17).
//!
//! In: what [`crate::destination`] made of an event. Out: a record in the stream. Records that are sent at the same
//! time share a call where the service takes several; what the service says of one record judges that record only.

mod account;
mod answer;
pub mod signing;
pub mod sts;

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::config::{Config, are_alike};
use super::fault::Fault;
use super::together::{Batches, Bounds, Together};
use super::{RESERVED, Surroundings};
use account::{Account, Call};

/// Longest name of a group or of a message of a FIFO queue.
const FIFO_NAME: usize = 128;

/// One of the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Kinesis,
    Firehose,
    EventBridge,
    Lambda,
    Sqs,
}

/// The client of one destination.
pub struct Aws {
    service: Service,
    config: Map<String, Value>,
    around: Surroundings,
    setup: OnceLock<Result<Setup, Fault>>,
    together: Together<Value>,
}

/// The configuration, read once.
struct Setup {
    account: Account,
    /// Stream or queue, where the configuration names it.
    target: String,
    /// KINESIS: partitions by event instead of by user.
    by_message_id: bool,
}

impl std::fmt::Debug for Aws {
    /// Without the configuration, which holds keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("service", &self.service).finish_non_exhaustive()
    }
}

/// What a destination transformation makes of an event for KINESIS, FIREHOSE and SQS.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(rename = "userId")]
    user_id: Option<Value>,
    #[serde(rename = "deliveryStreamMapTo")]
    stream: Option<String>,
}

/// The member of an event that is asked for.
#[derive(Deserialize)]
struct Identified {
    #[serde(rename = "messageId")]
    message_id: Option<Value>,
}

/// What a destination transformation makes of events for LAMBDA.
#[derive(Deserialize)]
struct Invocation {
    #[serde(default)]
    payload: String,
    #[serde(rename = "destConfig", default)]
    call: Map<String, Value>,
}

impl Service {
    fn of(type_name: &str) -> Option<Service> {
        Some(match type_name {
            "KINESIS" => Service::Kinesis,
            "FIREHOSE" => Service::Firehose,
            "EVENTBRIDGE" => Service::EventBridge,
            "LAMBDA" => Service::Lambda,
            "SQS" => Service::Sqs,
            _ => return None,
        })
    }

    /// The name that calls are signed for; also the first part of the host.
    fn name(self) -> &'static str {
        match self {
            Service::Kinesis => "kinesis",
            Service::Firehose => "firehose",
            Service::EventBridge => "events",
            Service::Lambda => "lambda",
            Service::Sqs => "sqs",
        }
    }

    /// The name in the usual name of a session.
    fn session_name(self) -> &'static str {
        if self == Service::EventBridge { "eventbridge" } else { self.name() }
    }

    /// The operation that takes several records, and the version of its protocol.
    fn operation(self) -> (&'static str, &'static str) {
        match self {
            Service::Kinesis => ("Kinesis_20131202.PutRecords", "1.1"),
            Service::Firehose => ("Firehose_20150804.PutRecordBatch", "1.1"),
            Service::EventBridge => ("AWSEvents.PutEvents", "1.1"),
            Service::Lambda => ("Invoke", "1.1"),
            Service::Sqs => ("AmazonSQS.SendMessageBatch", "1.0"),
        }
    }

    fn bounds(self) -> Bounds {
        match self {
            Service::Kinesis => Bounds { records: 500, bytes: 4 << 20 },
            Service::Firehose => Bounds { records: 500, bytes: 3 << 20 },
            Service::EventBridge | Service::Sqs => Bounds { records: 10, bytes: 240 << 10 },
            Service::Lambda => Bounds { records: 1, bytes: 0 },
        }
    }
}

impl Aws {
    /// The client of this type; `None` for other types. What is wrong with the configuration is told with every
    /// record.
    pub fn of(type_name: &str, config: &Map<String, Value>, around: &Surroundings) -> Option<Aws> {
        let service = Service::of(type_name)?;
        Some(Aws {
            service,
            config: config.clone(),
            around: around.clone(),
            setup: OnceLock::new(),
            together: Together::new(service.bounds()),
        })
    }

    /// Whether both come from the same configuration.
    pub fn is_configured_like(&self, other: &Aws) -> bool {
        self.service == other.service
            && are_alike(&self.config, &other.config)
            && self.around.addresses == other.around.addresses
    }

    /// Sends a payload.
    ///
    /// # Errors
    /// As [`super::Client::send`].
    pub async fn send(&self, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let setup = self.setup.get_or_init(|| self.read()).as_ref().map_err(Fault::clone)?;
        if self.service == Service::Lambda {
            return self.invoke(setup, payload, timeout).await;
        }
        let (target, record) = self.record(setup, payload)?;
        self.together.send(self, target, payload.len().saturating_mul(4) / 3 + 256, record, timeout).await
    }

    fn read(&self) -> Result<Setup, Fault> {
        let config = Config(&self.config);
        let account = Account::read(config, self.service.session_name(), &self.around)?;
        let target = match self.service {
            Service::Kinesis => config.text("stream"),
            Service::Sqs => config.first_text(&["queueUrl", "queueURL"]),
            _ => String::new(),
        };
        let needs_target = matches!(self.service, Service::Kinesis | Service::Sqs);
        if needs_target && target.is_empty() {
            let key = if self.service == Service::Sqs { "queueUrl" } else { "stream" };
            return Err(Fault::Configuration(format!("{key} is missing")));
        }
        Ok(Setup { account, target, by_message_id: config.flag("useMessageId") == Some(true) })
    }

    /// What a record is called with its service, and where it goes.
    fn record(&self, setup: &Setup, payload: &[u8]) -> Result<(String, Value), Fault> {
        let unreadable = |error: serde_json::Error| Fault::Payload(format!("unreadable record: {error}"));
        if self.service == Service::EventBridge {
            let mut entry: Map<String, Value> = serde_json::from_slice(payload).map_err(unreadable)?;
            entry.shift_remove("userId");
            return Ok((String::new(), Value::Object(entry)));
        }
        let Payload { message, user_id, stream } = serde_json::from_slice(payload).map_err(unreadable)?;
        let Some(message) = message.map(RawValue::get).filter(|text| *text != "null") else {
            return Err(Fault::Payload("Empty Payload".to_owned()));
        };
        let message_id = || {
            let event: Option<Identified> = serde_json::from_str(message).ok();
            event.and_then(|event| event.message_id).map(|id| text_of(&id)).filter(|id| !id.is_empty())
        };
        let user = user_id.as_ref().map(text_of).unwrap_or_default();
        Ok(match self.service {
            Service::Kinesis => {
                let by_message = if setup.by_message_id || user.is_empty() { message_id() } else { None };
                let key = by_message.unwrap_or(user);
                (setup.target.clone(), json!({ "Data": STANDARD.encode(message), "PartitionKey": key }))
            }
            Service::Firehose => {
                let stream = stream.filter(|stream| !stream.is_empty());
                let stream =
                    stream.ok_or_else(|| Fault::Payload("No delivery stream set for this event".to_owned()))?;
                (stream, json!({ "Data": STANDARD.encode(message) }))
            }
            _ => {
                let mut entry = Map::from_iter([("MessageBody".to_owned(), message.into())]);
                if setup.target.strip_suffix(".fifo").is_some() {
                    entry.insert("MessageGroupId".to_owned(), fifo_name(&user).into());
                    let id = fifo_name(&message_id().unwrap_or_default());
                    entry.insert("MessageDeduplicationId".to_owned(), id.into());
                }
                (setup.target.clone(), Value::Object(entry))
            }
        })
    }

    async fn invoke(&self, setup: &Setup, payload: &[u8], timeout: Duration) -> Result<(), Fault> {
        let invocation: Option<Invocation> = serde_json::from_slice(payload).ok();
        let Some(Invocation { payload, call }) = invocation.filter(|invocation| !invocation.payload.is_empty()) else {
            return Err(Fault::Payload("[Lambda] error :: Invalid payload".to_owned()));
        };
        let text = |key: &str| call.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("lambda").is_empty() {
            return Err(Fault::Configuration("lambda is missing: name the function in the configuration".to_owned()));
        }
        let kind = if text("invocationType").is_empty() { "Event" } else { text("invocationType") };
        let mut headers = vec![("x-amz-invocation-type", kind.to_owned())];
        let context = text("clientContext").trim();
        if !context.is_empty() {
            // The API wants it encoded; what is written as JSON is not.
            let is_json = context.starts_with('{');
            headers.push(("x-amz-client-context", if is_json { STANDARD.encode(context) } else { context.to_owned() }));
        }
        let function = utf8_percent_encode(text("lambda"), RESERVED).to_string();
        let path = format!("/2015-03-31/functions/{function}/invocations");
        let call = Call { service: "lambda", path: &path, headers, body: payload.into() };
        let reply = setup.account.call(call, timeout).await?;
        answer::of_call(&reply).map(|_| ())
    }
}

impl Batches for Aws {
    type Record = Value;

    async fn send_batch(
        &self,
        target: &str,
        records: &[Value],
        timeout: Duration,
    ) -> Result<Vec<Result<(), Fault>>, Fault> {
        let setup = self.setup.get_or_init(|| self.read()).as_ref().map_err(Fault::clone)?;
        let body = match self.service {
            Service::Kinesis if target.starts_with("arn:") => json!({ "StreamARN": target, "Records": records }),
            Service::Kinesis => json!({ "StreamName": target, "Records": records }),
            Service::Firehose => json!({ "DeliveryStreamName": target, "Records": records }),
            Service::EventBridge | Service::Lambda => json!({ "Entries": records }),
            Service::Sqs => json!({ "QueueUrl": target, "Entries": numbered(records) }),
        };
        let (operation, version) = self.service.operation();
        let headers =
            vec![("content-type", format!("application/x-amz-json-{version}")), ("x-amz-target", operation.to_owned())];
        let call = Call { service: self.service.name(), path: "/", headers, body: body.to_string().into() };
        let reply = setup.account.call(call, timeout).await?;
        let said = match answer::of_call(&reply) {
            Ok(said) => said,
            Err(fault) => {
                if answer::says_expired(&reply) {
                    setup.account.forget_role().await;
                }
                return Err(fault);
            }
        };
        Ok(match self.service {
            Service::Sqs => answer::of_numbered(&said, records.len()),
            Service::Firehose => answer::of_entries(&said, "RequestResponses"),
            Service::Kinesis => answer::of_entries(&said, "Records"),
            Service::EventBridge | Service::Lambda => answer::of_entries(&said, "Entries"),
        })
    }
}

/// Entries with ids, by which the answer speaks of them.
fn numbered(records: &[Value]) -> Vec<Value> {
    let numbered = |(n, record): (usize, &Value)| {
        let mut record = record.clone();
        if let Some(members) = record.as_object_mut() {
            members.insert("Id".to_owned(), n.to_string().into());
        }
        record
    };
    records.iter().enumerate().map(numbered).collect()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A name as FIFO queues take it: itself where that is allowed, else its digest.
fn fifo_name(name: &str) -> String {
    let is_allowed = !name.is_empty() && name.len() <= FIFO_NAME && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_allowed { name.to_owned() } else { format!("{:032x}", xxhash_rust::xxh3::xxh3_128(name.as_bytes())) }
}

//! What destination transformations make for brokers: an event, its user, and where it goes (destinations.md 12.7).

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fault::Fault;
use crate::event::json::compact;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The event as compact JSON.
    pub(super) message: Vec<u8>,
    /// Possibly empty.
    pub(super) user_id: String,
    /// The topic that it was given; `None` = that of the configuration.
    pub(super) topic: Option<String>,
    /// Name of the schema that it is written by.
    pub(super) schema_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload<'a> {
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(default)]
    user_id: Value,
    #[serde(default)]
    topic: Value,
    #[serde(default)]
    schema_id: Value,
}

impl Record {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Fault::Payload`] when there is no event in it.
    pub(super) fn read(payload: &[u8]) -> Result<Record, Fault> {
        let unreadable = |error: &dyn std::fmt::Display| Fault::Payload(format!("unreadable record: {error}"));
        let payload: Payload<'_> = serde_json::from_slice(payload).map_err(|error| unreadable(&error))?;
        let Some(message) = payload.message.filter(|message| message.get() != "null") else {
            return Err(Fault::Payload("Invalid message".to_owned()));
        };
        Ok(Record {
            message: compact(message.get().as_bytes()).map_err(|error| unreadable(&error))?,
            user_id: text_of(payload.user_id).unwrap_or_default(),
            topic: text_of(payload.topic).filter(|topic| !topic.is_empty()),
            schema_id: text_of(payload.schema_id).filter(|id| !id.is_empty()),
        })
    }

    /// The event's own id, for texts that name it.
    pub(super) fn message_id(&self) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Identified {
            #[serde(default)]
            message_id: Value,
        }
        let identified = serde_json::from_slice::<Identified>(&self.message);
        identified.ok().and_then(|identified| text_of(identified.message_id)).unwrap_or_default()
    }
}

fn text_of(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_an_event_without_blanks_and_what_belongs_to_it() {
        let record = Record::read(br#"{"message": {"messageId": "m 1", "n": [1, 2]}, "userId": "u", "topic": ""}"#);
        let record = record.unwrap();
        assert_eq!(record.message, br#"{"messageId":"m 1","n":[1,2]}"#);
        assert_eq!((record.user_id.as_str(), &record.topic, &record.schema_id), ("u", &None, &None));
        assert_eq!(record.message_id(), "m 1");
        let record = Record::read(br#"{"message":{},"userId":7,"topic":"t","schemaId":"s"}"#).unwrap();
        assert_eq!((record.user_id.as_str(), record.topic.as_deref()), ("7", Some("t")));
        assert_eq!((record.schema_id.as_deref(), record.message_id()), (Some("s"), String::new()));
    }

    #[test]
    fn a_payload_without_an_event_is_never_taken() {
        for payload in [&b"{}"[..], br#"{"message":null}"#, b"nonsense", br#"{"message":{}"#] {
            assert_eq!(Record::read(payload).unwrap_err().code(), 400);
        }
        assert_eq!(Record::read(b"{}").unwrap_err().to_string(), "Invalid message");
    }
}

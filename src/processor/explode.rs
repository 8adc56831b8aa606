//! From a gateway job to its events: parameters and payload (processor.md 1.1).

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::bots::BotVerdict;
use super::timefields::Received;
use crate::destination::Message;

/// What the processor reads of a gateway job's parameters.
#[derive(Clone, Debug, Default)]
pub struct JobParameters<'p> {
    /// The source; must be known to the workspace.
    pub source_id: Cow<'p, str>,
    /// Run of a reverse-ETL job, possibly empty.
    pub source_job_run_id: Cow<'p, str>,
    /// Task of that run, possibly empty.
    pub source_task_run_id: Cow<'p, str>,
    /// Trace of the request, possibly empty.
    pub traceparent: Cow<'p, str>,
    /// The only destination that the job is for; empty = all.
    pub destination_id: Cow<'p, str>,
    /// The operator sends the event again: it is no duplicate, and it is in the archive.
    pub is_replay: bool,
    /// What the gateway found out about bots and blocked events.
    pub bots: BotVerdict<'p>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Written<'p> {
    #[serde(borrow)]
    source_id: Cow<'p, str>,
    #[serde(borrow)]
    source_job_run_id: Cow<'p, str>,
    #[serde(borrow)]
    source_task_run_id: Cow<'p, str>,
    #[serde(borrow)]
    traceparent: Cow<'p, str>,
    #[serde(borrow)]
    destination_id: Cow<'p, str>,
    is_bot: bool,
    #[serde(borrow)]
    bot_action: Cow<'p, str>,
    #[serde(borrow)]
    bot_name: Cow<'p, str>,
    #[serde(borrow)]
    bot_url: Cow<'p, str>,
    bot_is_invalid_browser: bool,
    is_event_blocked: bool,
    is_replay: bool,
}

impl<'p> JobParameters<'p> {
    /// Parses the parameters of a gateway job.
    ///
    /// # Errors
    /// What is wrong with the JSON. It never happens with jobs of this node's gateway.
    pub fn parse(parameters: &'p [u8]) -> Result<JobParameters<'p>, serde_json::Error> {
        let written: Written<'p> = serde_json::from_slice(parameters)?;
        Ok(JobParameters {
            source_id: written.source_id,
            source_job_run_id: written.source_job_run_id,
            source_task_run_id: written.source_task_run_id,
            traceparent: written.traceparent,
            destination_id: written.destination_id,
            is_replay: written.is_replay,
            bots: BotVerdict {
                is_bot: written.is_bot,
                bot_action: written.bot_action,
                bot_name: written.bot_name,
                bot_url: written.bot_url,
                bot_is_invalid_browser: written.bot_is_invalid_browser,
                is_event_blocked: written.is_event_blocked,
            },
        })
    }
}

/// A gateway job's payload, taken apart.
#[derive(Clone, Debug)]
pub struct Stored<'p> {
    /// Its events; the gateway stores one a job, older data may hold more.
    pub events: Vec<Message<'p>>,
    /// The sender's address, as a JSON string.
    pub request_ip: &'p str,
    /// When it was received.
    pub received: Received,
}

/// Takes a payload apart with one scan.
///
/// # Errors
/// Why it is not readable: no JSON, no list of objects, or a `receivedAt` that is not RFC 3339.
pub fn explode(payload: &[u8]) -> Result<Stored<'_>, String> {
    #[derive(Deserialize)]
    struct Payload<'p> {
        #[serde(borrow)]
        batch: Vec<Message<'p>>,
        #[serde(borrow, default, rename = "requestIP")]
        request_ip: Option<&'p RawValue>,
        #[serde(borrow, rename = "receivedAt")]
        received_at: Cow<'p, str>,
    }
    let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // Values are skipped, not descended into, so that depth costs no stack.
    deserializer.disable_recursion_limit();
    let payload = Payload::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    let received = Received::parse(&payload.received_at).ok_or_else(|| "receivedAt is not RFC 3339".to_owned())?;
    let request_ip = payload.request_ip.map_or("\"\"", RawValue::get);
    match request_ip {
        "null" => Ok(Stored { events: payload.batch, request_ip: "\"\"", received }),
        text if text.starts_with('"') => Ok(Stored { events: payload.batch, request_ip: text, received }),
        _ => Err("requestIP is not a string".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_payload_holds_events_address_and_time() {
        let payload = br#"{"batch":[{"a":1},{"b":[{}]}],"requestIP":"1.2.3.4","writeKey":"wk","receivedAt":"2025-03-10T12:00:10.5+01:00"}"#;
        let stored = explode(payload).unwrap();
        assert_eq!(stored.events.iter().map(Message::to_json).collect::<Vec<_>>(), [r#"{"a":1}"#, r#"{"b":[{}]}"#]);
        assert_eq!(stored.request_ip, "\"1.2.3.4\"");
        assert_eq!(stored.received.text(), "2025-03-10T12:00:10.500+01:00");
    }

    #[test]
    fn what_is_not_readable_is_an_error() {
        let table = [
            "",
            "{",
            "[]",
            r#"{"batch":[],"requestIP":""}"#,
            r#"{"batch":[5],"receivedAt":"2025-03-10T12:00:10Z"}"#,
            r#"{"batch":{},"receivedAt":"2025-03-10T12:00:10Z"}"#,
            r#"{"batch":[],"receivedAt":"2025-03-10"}"#,
            r#"{"batch":[],"receivedAt":"2025-03-10T12:00:10Z","requestIP":5}"#,
            r#"{"batch":[],"receivedAt":"2025-03-10T12:00:10Z"}x"#,
        ];
        for payload in table {
            assert!(explode(payload.as_bytes()).is_err(), "{payload}");
        }
        assert!(explode(br#"{"batch":[],"receivedAt":"2025-03-10T12:00:10Z","requestIP":null}"#).is_ok());
        assert!(explode(b"{\"batch\":[{\"a\":\"\xff\"}],\"receivedAt\":\"2025-03-10T12:00:10Z\"}").is_err());
    }

    #[test]
    fn parameters_may_lack_anything() {
        let parameters =
            JobParameters::parse(br#"{"source_id":"src","is_bot":true,"bot_action":"drop","other":[1]}"#).unwrap();
        assert_eq!(parameters.source_id, "src");
        assert_eq!(parameters.destination_id, "");
        assert!(parameters.bots.drops().is_some());
        assert!(JobParameters::parse(b"{").is_err());
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _read = (explode(&payload).is_ok(), JobParameters::parse(&payload).is_ok());
        }
    }
}

//! Parameters of the jobs that the processor produces (processor.md 10.1, jobsdb.md 8.1).
//!
//! What is the same for every event of a connection is written once per read; what an event adds is written
//! once per event and shared by its destinations.

use std::borrow::Cow;

use super::explode::JobParameters;
use crate::backend_config::{Destination, Source};
use crate::destination::{Message, push_json_string};

/// An error text in a dead letter is at most this long, in bytes.
const LONGEST_ERROR: usize = 10 << 10;

/// What an event says about itself, read once.
#[derive(Clone, Debug, Default)]
pub(super) struct EventFacts {
    pub(super) message_id: String,
    pub(super) event_name: String,
    pub(super) event_type: String,
    pub(super) source_job_id: String,
    /// JSON text.
    pub(super) record_id: String,
}

impl EventFacts {
    pub(super) fn of(event: &Message<'_>, source_job_id: String) -> EventFacts {
        let text = |key: &str| event.text(key).map(Cow::into_owned).unwrap_or_default();
        EventFacts {
            message_id: message_id(event).into_owned(),
            event_name: text("event"),
            event_type: text("type"),
            source_job_id,
            record_id: event.get("recordId").unwrap_or("null").to_owned(),
        }
    }
}

/// The event's message id: a string as it is, another value as JSON, nothing as "".
pub(super) fn message_id<'m>(event: &'m Message<'_>) -> Cow<'m, str> {
    event.text("messageId").unwrap_or_else(|| Cow::Borrowed(event.get_present("messageId").unwrap_or_default()))
}

/// The members that every job of a connection has: the beginning of an object.
pub(super) fn of_connection(source: &Source, destination: &Destination, transform_at: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let members = [
        ("source_id", source.id.as_str()),
        ("source_name", source.name.as_str()),
        ("destination_id", destination.id.as_str()),
        ("transform_at", transform_at),
        ("source_definition_id", source.definition.id.as_str()),
        ("destination_definition_id", destination.definition.id.as_str()),
        ("source_category", source.definition.category.as_str()),
        ("workspaceId", source.workspace_id.as_str()),
    ];
    out.push(b'{');
    for (key, text) in members {
        push_text_member(&mut out, key, text);
    }
    push_text_member(&mut out, "connection_id", &format!("{}:{}", source.id, destination.id));
    out
}

/// The members that an event adds: the rest of the object.
pub(super) fn of_event(
    out: &mut Vec<u8>,
    facts: &EventFacts,
    job: &JobParameters<'_>,
    received_at: &str,
    gateway_job_id: u64,
) {
    let members = [
        ("received_at", received_at),
        ("message_id", facts.message_id.as_str()),
        ("source_task_run_id", &job.source_task_run_id),
        ("source_job_id", facts.source_job_id.as_str()),
        ("source_job_run_id", &job.source_job_run_id),
        ("event_name", facts.event_name.as_str()),
        ("event_type", facts.event_type.as_str()),
        ("traceparent", &job.traceparent),
    ];
    for (key, text) in members {
        push_text_member(out, key, text);
    }
    out.extend_from_slice(b"\"gateway_job_id\":");
    out.extend_from_slice(gateway_job_id.to_string().as_bytes());
    out.extend_from_slice(b",\"record_id\":");
    out.extend_from_slice(facts.record_id.as_bytes());
    out.push(b'}');
}

/// Why an event failed for a destination.
#[derive(Clone, Debug)]
pub(super) struct Failure<'a> {
    pub(super) stage: &'static str,
    pub(super) status: u16,
    pub(super) error: &'a str,
    pub(super) transform_at: &'static str,
    /// RFC 3339.
    pub(super) at: &'a str,
    /// JSON text of what departs from the tracking plan.
    pub(super) violations: Option<&'a str>,
}

/// Parameters of a dead letter; `destination_id` is empty where the event failed for all.
pub(super) fn of_dead_letter(
    out: &mut Vec<u8>,
    source: &Source,
    destination_id: &str,
    facts: &EventFacts,
    job: &JobParameters<'_>,
    failure: &Failure<'_>,
) {
    out.push(b'{');
    let connection_id = format!("{}:{destination_id}", source.id);
    let members = [
        ("source_id", source.id.as_str()),
        ("destination_id", destination_id),
        ("source_job_run_id", &job.source_job_run_id),
        ("source_task_run_id", &job.source_task_run_id),
        ("connection_id", connection_id.as_str()),
        ("message_id", facts.message_id.as_str()),
        ("event_name", facts.event_name.as_str()),
        ("event_type", facts.event_type.as_str()),
        ("transform_at", failure.transform_at),
        ("stage", failure.stage),
        ("error", shortened(failure.error)),
        ("first_attempted_at", failure.at),
    ];
    for (key, text) in members {
        push_text_member(out, key, text);
    }
    out.extend_from_slice(b"\"status_code\":");
    out.extend_from_slice(failure.status.to_string().as_bytes());
    out.extend_from_slice(b",\"attempt\":1,\"record_id\":");
    out.extend_from_slice(facts.record_id.as_bytes());
    if let Some(violations) = failure.violations {
        out.extend_from_slice(b",\"violationErrors\":");
        out.extend_from_slice(violations.as_bytes());
    }
    out.push(b'}');
}

/// Parameters of the dead letter of a whole gateway job.
pub(super) fn of_lost_job(out: &mut Vec<u8>, source_id: &str, at: &str) {
    out.push(b'{');
    let members = [
        ("source_id", source_id),
        ("destination_id", ""),
        ("stage", "processor"),
        ("error", "internal error"),
        ("first_attempted_at", at),
    ];
    for (key, text) in members {
        push_text_member(out, key, text);
    }
    out.extend_from_slice(b"\"status_code\":500,\"attempt\":1}");
}

/// `"key":"text",`
fn push_text_member(out: &mut Vec<u8>, key: &str, text: &str) {
    push_json_string(out, key);
    out.push(b':');
    push_json_string(out, text);
    out.push(b',');
}

fn shortened(error: &str) -> &str {
    let mut end = error.len().min(LONGEST_ERROR);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let long = "é".repeat(LONGEST_ERROR);
        assert_eq!(shortened(&long).len(), LONGEST_ERROR);
        assert_eq!(shortened(&format!("x{long}")).len(), LONGEST_ERROR - 1);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn a_message_id_that_is_no_text_is_written_as_json() {
        let id = |event: &str| EventFacts::of(&Message::parse(event).unwrap(), String::new()).message_id;
        assert_eq!(id(r#"{"messageId":"m"}"#), "m");
        assert_eq!(id(r#"{"messageId":5}"#), "5");
        assert_eq!(id(r#"{"messageId":null}"#), "");
        assert_eq!(id("{}"), "");
    }
}

//! What viewers see of events that fail in the processor (processor.md 15): made only while somebody watches.

use serde::Deserialize;
use serde_json::Value;

use crate::jobsdb::NewJob;
use crate::telemetry::LiveRecord;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    message_id: String,
    event_name: String,
    event_type: String,
    stage: String,
    error: String,
    status_code: Value,
}

/// The record of a dead letter.
pub(super) fn record(letter: &NewJob<'_>, at_ms: i64) -> LiveRecord {
    let named: Named = serde_json::from_slice(letter.parameters).unwrap_or_default();
    LiveRecord {
        at_ms,
        stage: named.stage,
        source_id: letter.source_id.to_owned(),
        destination_id: letter.destination_id.to_owned(),
        user_id: letter.user_id.rsplit("<<>>").next().unwrap_or_default().to_owned(),
        message_id: named.message_id,
        event_type: named.event_type,
        event_name: named.event_name,
        job_state: "aborted".to_owned(),
        error_code: named.status_code.to_string(),
        attempt_num: 1,
        error: named.error,
        payload: LiveRecord::payload_of(&letter.payload.concat()),
    }
}

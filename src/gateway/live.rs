//! What viewers see of events that came in (processor.md 15): made only while somebody watches.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::jobsdb::NewJob;
use crate::telemetry::LiveRecord;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    batch: Vec<&'a RawValue>,
}

/// Members of an event that are shown; what is no text stays empty.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow, rename = "messageId")]
    message_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "userId")]
    user_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "anonymousId")]
    anonymous_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

/// The record of an accepted event.
pub(super) fn record(job: &NewJob<'_>, at_ms: i64) -> Option<LiveRecord> {
    let envelope = job.payload.concat();
    let envelope: Envelope<'_> = serde_json::from_slice(&envelope).ok()?;
    let event = envelope.batch.first()?.get();
    let named: Named<'_> = serde_json::from_str(event).ok()?;
    let text = |json: Option<&RawValue>| {
        let text = json.and_then(|json| serde_json::from_str::<Cow<'_, str>>(json.get()).ok());
        text.map(Cow::into_owned).unwrap_or_default()
    };
    let first = |one: String, other: Option<&RawValue>| if one.is_empty() { text(other) } else { one };
    Some(LiveRecord {
        at_ms,
        stage: "gateway".to_owned(),
        source_id: job.source_id.to_owned(),
        user_id: first(text(named.user_id), named.anonymous_id),
        message_id: text(named.message_id),
        event_type: text(named.kind),
        event_name: first(text(named.event), named.name),
        job_state: "accepted".to_owned(),
        error_code: "200".to_owned(),
        attempt_num: 1,
        payload: LiveRecord::payload_of(event.as_bytes()),
        ..LiveRecord::default()
    })
}

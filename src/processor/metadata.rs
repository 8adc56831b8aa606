//! What is known about an event beside the event itself, under the names that users know (processor.md 3.1).
//! Made only where something asks for it.

use serde_json::{Map, Value};

use super::explode::JobParameters;
use super::parameters::EventFacts;
use crate::backend_config::{Destination, Source};
use crate::jobsdb::Job;

/// The same for the user transformation: with its ids, and for replays under the ids of the originals, which code
/// knows (processor.md 7.1).
pub(super) fn for_transformation(mut metadata: Value, source: &Source, destination: &Destination) -> String {
    if let (Some(members), Some(transformation)) = (metadata.as_object_mut(), destination.transformations.first()) {
        let ids = [("transformationId", &transformation.id), ("transformationVersionId", &transformation.version_id)];
        for (key, id) in ids.into_iter().filter(|(_, id)| !id.is_empty()) {
            members.insert(key.to_owned(), Value::from(id.as_str()));
        }
        let replays = [
            ("sourceId", "originalSourceId", &source.id, &source.original_id),
            ("destinationId", "originalDestinationId", &destination.id, &destination.original_id),
        ];
        for (key, original_key, id, original) in replays.into_iter().filter(|(.., original)| !original.is_empty()) {
            members.insert(key.to_owned(), Value::from(original.as_str()));
            members.insert(original_key.to_owned(), Value::from(id.as_str()));
        }
    }
    metadata.to_string()
}

/// The metadata object of one event for one destination. Empty members are left out where the list says so.
pub(super) fn object(
    job: &Job,
    parameters: &JobParameters<'_>,
    source: &Source,
    destination: &Destination,
    facts: &EventFacts,
    received_at: &str,
) -> Value {
    let mut metadata = Map::new();
    metadata.insert("jobId".to_owned(), Value::from(job.id));
    let always = [
        ("workspaceId", source.workspace_id.as_str()),
        ("messageId", &facts.message_id),
        ("sourceId", &source.id),
        ("originalSourceId", &source.original_id),
        ("sourceName", &source.name),
        ("sourceType", &source.definition.name),
        ("sourceCategory", &source.definition.category),
        ("destinationId", &destination.id),
        ("destinationName", &destination.name),
        ("destinationType", &destination.definition.name),
    ];
    for (key, text) in always {
        metadata.insert(key.to_owned(), Value::from(text));
    }
    let unless_empty = [
        ("rudderId", job.user_id.as_str()),
        ("receivedAt", received_at),
        ("eventName", &facts.event_name),
        ("eventType", &facts.event_type),
        ("sourceDefinitionId", &source.definition.id),
        ("sourceJobId", &facts.source_job_id),
        ("sourceJobRunId", &parameters.source_job_run_id),
        ("sourceTaskRunId", &parameters.source_task_run_id),
        ("traceparent", &parameters.traceparent),
        ("originalDestinationId", &destination.original_id),
        ("destinationDefinitionId", &destination.definition.id),
    ];
    for (key, text) in unless_empty.into_iter().filter(|(_, text)| !text.is_empty()) {
        metadata.insert(key.to_owned(), Value::from(text));
    }
    if let Ok(record_id) = serde_json::from_str::<Value>(&facts.record_id)
        && !record_id.is_null()
    {
        metadata.insert("recordId".to_owned(), record_id);
    }
    Value::Object(metadata)
}

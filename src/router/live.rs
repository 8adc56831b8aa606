//! What viewers see of deliveries (router.md 11): one record per job, made only while somebody watches.

use serde::Deserialize;
use serde_json::Value;

use super::status_table::Verdict;
use super::worker::Finished;
use crate::telemetry::LiveRecord;

/// Codes that are no delivery.
const NOT_SENT: [i32; 2] = [super::status_table::UNDECODABLE, super::worker_batch::SKIPPED_CODE];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    message_id: String,
    event_name: String,
    event_type: String,
}

/// The records of jobs that ended, without those that were held back.
pub(super) fn records(batch: &[Finished]) -> Vec<LiveRecord> {
    batch.iter().filter(|finished| !NOT_SENT.contains(&finished.end.code)).map(record).collect()
}

fn record(finished: &Finished) -> LiveRecord {
    let (job, end) = (&finished.held.job, &finished.end);
    let parameters: Value = serde_json::from_slice(&job.parameters).unwrap_or_default();
    let named: Named = serde_json::from_value(parameters).unwrap_or_default();
    let attempt = end.status.as_ref().map(|status| status.attempt);
    LiveRecord {
        at_ms: end.at_ms,
        stage: "router".to_owned(),
        source_id: job.partition.source_id.clone(),
        destination_id: job.partition.destination_id.clone(),
        user_id: job.user_id.rsplit("<<>>").next().unwrap_or_default().to_owned(),
        message_id: named.message_id,
        event_type: named.event_type,
        event_name: named.event_name,
        job_state: match end.judged.verdict {
            Verdict::Succeeded => "succeeded",
            Verdict::Filtered => "filtered",
            Verdict::Aborted => "aborted",
            Verdict::Failed => "failed",
        }
        .to_owned(),
        error_code: end.judged.code.clone(),
        attempt_num: attempt.unwrap_or_else(|| super::outcome::Before::of(job).attempt.saturating_add(1)),
        error: end.error_text.clone(),
        payload: LiveRecord::payload_of(&job.payload),
    }
}

//! What webhook sources count and log (gateway.md 14).

use std::time::Duration;

use hyper::StatusCode;
use metrics::{counter, histogram};

use super::super::events as gateway;
use super::{Refusal, SourceEntry};
use crate::gateway::routes::Call;
use crate::telemetry::may_log;

/// A request was transformed, natively or by asking.
pub(super) fn transformed(kind: &str, elapsed: Duration) {
    // The kinds are those of the configuration, hence few.
    histogram!("webhook.transformation_time", "sourceType" => kind.to_owned()).record(elapsed);
}

/// A transformation failed or refused the request.
pub(super) fn failed(entry: &SourceEntry, status: StatusCode) {
    let source = &entry.source;
    // Texts of a transformer are not a bounded set.
    let reason = if status.is_server_error() { "source transformer" } else { "refused by source transformation" };
    counter!(
        "webhook_num_errors",
        "writeKey" => source.write_key.clone(),
        "workspaceId" => source.workspace_id.clone(),
        "sourceID" => source.id.clone(),
        "sourceType" => source.definition.name.to_lowercase(),
        "statusCode" => status.as_str().to_owned(),
        "reason" => reason,
    )
    .increment(1);
    gateway::refused(entry, Call::Webhook, Refusal::SourceTransformer);
    if let Some(silenced) = may_log("webhook.failed", &source.id) {
        // Not the text: it may hold parts of the event.
        tracing::warn!(source = %source.id, status = status.as_u16(), silenced, "a webhook request was refused");
    }
}

/// Requests go to the external transformer.
pub(super) fn sent(kind: &str, requests: usize) {
    counter!("webhook.transformer_sent", "sourceType" => kind.to_owned()).increment(requests as u64);
    counter!("webhook_num_events", "sourceType" => kind.to_owned()).increment(requests as u64);
}

/// The external transformer answered.
pub(super) fn received(kind: &str, outputs: usize, elapsed: Duration) {
    counter!("webhook.transformer_received", "sourceType" => kind.to_owned()).increment(outputs as u64);
    counter!("webhook_num_output_events", "sourceType" => kind.to_owned()).increment(outputs as u64);
    histogram!("webhook_dest_transform", "sourceType" => kind.to_owned()).record(elapsed);
}

/// The external transformer could not be asked, or answered nonsense. `problem` holds no URL.
pub(super) fn transformer_failed(kind: &str, requests: usize, problem: &str) {
    counter!("webhook.transformer_failed", "sourceType" => kind.to_owned()).increment(requests as u64);
    if let Some(silenced) = may_log("webhook.transformer", kind) {
        tracing::error!(
            source_type = kind,
            problem,
            silenced,
            "the external transformer of webhook sources failed; senders are told so"
        );
    }
}

/// Nothing can transform requests of this kind of source.
pub(super) fn unsupported(kind: &str) {
    if let Some(silenced) = may_log("webhook.unsupported", kind) {
        tracing::error!(
            source_type = kind,
            silenced,
            "this node cannot transform webhook sources of this type by itself; name an external transformer in DEST_TRANSFORM_URL"
        );
    }
}

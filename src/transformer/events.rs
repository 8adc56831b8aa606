//! What calls of an external transformer count and log (processor.md 18).

use std::time::Duration;

use metrics::{counter, histogram};

use super::remote::What;
use crate::telemetry::may_log;

/// Events go out.
pub(super) fn sent(what: &What<'_>, events: usize, bytes: usize) {
    counter!("processor_transformer_sent", "stage" => what.stage()).increment(events as u64);
    counter!("processor_transformer_request_batch_count", "stage" => what.stage()).increment(1);
    counter!("transformer_client_request_total_bytes", "stage" => what.stage()).increment(bytes as u64);
}

/// Results came back, or the events fail.
pub(super) fn ended(what: &What<'_>, results: usize, success: bool, elapsed: Duration) {
    counter!("processor_transformer_received", "stage" => what.stage()).increment(results as u64);
    let success = if success { "true" } else { "false" };
    histogram!("processor_transformer_request_time", "stage" => what.stage(), "success" => success).record(elapsed);
}

/// An answer came.
pub(super) fn answered(what: &What<'_>, bytes: usize) {
    counter!("transformer_client_response_total_bytes", "stage" => what.stage()).increment(bytes as u64);
}

/// A call is repeated. `problem` holds no URL.
pub(super) fn repeated(what: &What<'_>, code_is_away: bool, problem: &str) {
    if code_is_away {
        counter!("processor_user_transformer_cp_down_retries").increment(1);
        counter!("processor_control_plane_down").increment(1);
    } else {
        counter!("processor_user_transformer_http_retries", "stage" => what.stage()).increment(1);
    }
    if let Some(silenced) = may_log("transformer.repeated", what.name()) {
        tracing::warn!(
            stage = what.stage(),
            of = what.name(),
            problem,
            silenced,
            "the external transformer failed; the call is repeated"
        );
    }
}

/// No repetition helped so far, and there will be more: nothing of these sources is processed meanwhile.
pub(super) fn helpless(what: &What<'_>, problem: &str) {
    counter!("transformer_calls_helpless_total", "stage" => what.stage()).increment(1);
    if let Some(silenced) = may_log("transformer.helpless", what.name()) {
        tracing::error!(
            stage = what.stage(),
            of = what.name(),
            problem,
            silenced,
            "the external transformer does not recover; events wait for it. Start it, or set failOnError to fail them"
        );
    }
}

/// The transformer does not say what it can do.
pub(super) fn features_missing(problem: &str) {
    if let Some(silenced) = may_log("transformer.features", "") {
        tracing::warn!(problem, silenced, "the external transformer does not say what it can do");
    }
}

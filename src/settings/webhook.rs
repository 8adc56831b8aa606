//! Webhook sources and the transformer that makes events of what they send (gateway.md 10, 13).

use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new("Gateway.webhook.maxBatchSize", Kind::Int, "32", "Most webhook requests in one call of the transformer.")
        .hot(),
    Key::new(
        "Gateway.webhook.batchTimeout",
        Kind::Duration(Unit::Milli),
        "20ms",
        "How long webhook requests are gathered for one call of the transformer.",
    )
    .also(&["Gateway.webhook.batchTimeoutInMS"])
    .hot(),
    Key::new("Gateway.webhook.maxTransformerProcess", Kind::Int, "64", "Most calls of the transformer at once."),
    Key::new("Gateway.webhook.maxRetry", Kind::Int, "5", "Most repetitions of a call that failed.").hot(),
    Key::new(
        "Gateway.webhook.minRetryTime",
        Kind::Duration(Unit::Milli),
        "100ms",
        "Pause before the first repetition.",
    )
    .hot(),
    Key::new("Gateway.webhook.maxRetryTime", Kind::Duration(Unit::Second), "1s", "Longest pause between two tries.")
        .hot(),
    Key::new(
        "Gateway.webhook.maxElapsedTime",
        Kind::Duration(Unit::Second),
        "10s",
        "No repetition begins later than this.",
    )
    .hot(),
    Key::new("Gateway.webhook.backoffMultiplier", Kind::Float, "1.5", "How much longer each pause is.").hot(),
    Key::new(
        "Gateway.webhook.forwardGetRequestForSrcs",
        Kind::List,
        "adjust",
        "Webhook sources whose GET requests are events; others get an empty answer.",
    )
    .hot(),
    Key::new(
        "HttpClient.sourceTransformer.timeout",
        Kind::Duration(Unit::Second),
        "30s",
        "Longest time of one call of the transformer.",
    )
    .also(&["HttpClient.webhook.timeout"])
    .hot(),
];

/// Settings of webhook sources.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Most requests in one call.
    pub max_batch_size: usize,
    /// How long requests are gathered.
    pub batch_timeout: Duration,
    /// Most calls at once.
    pub max_calls: usize,
    /// Most repetitions of a call.
    pub max_retry: usize,
    /// Pause before the first repetition.
    pub min_retry_time: Duration,
    /// Longest pause.
    pub max_retry_time: Duration,
    /// No repetition begins later than this after the first try.
    pub max_elapsed_time: Duration,
    /// Factor of each pause to the one before.
    pub backoff_multiplier: f64,
    /// Definition names, in lower case, whose GET requests are events.
    pub forward_get_for: Vec<String>,
    /// Longest time of one call.
    pub timeout: Duration,
}

impl WebhookSettings {
    pub(super) fn read(r: &Reader<'_>) -> WebhookSettings {
        let multiplier = r.float("Gateway.webhook.backoffMultiplier");
        if !(1.0..=100.0).contains(&multiplier) {
            r.reject("Gateway.webhook.backoffMultiplier", "is not between 1 and 100");
        }
        WebhookSettings {
            max_batch_size: r.count("Gateway.webhook.maxBatchSize").max(1),
            batch_timeout: r.duration("Gateway.webhook.batchTimeout"),
            max_calls: r.count("Gateway.webhook.maxTransformerProcess").clamp(1, 10_000),
            max_retry: r.count("Gateway.webhook.maxRetry"),
            min_retry_time: r.duration("Gateway.webhook.minRetryTime"),
            max_retry_time: r.duration("Gateway.webhook.maxRetryTime"),
            max_elapsed_time: r.duration("Gateway.webhook.maxElapsedTime"),
            backoff_multiplier: multiplier.clamp(1.0, 100.0),
            forward_get_for: r
                .list("Gateway.webhook.forwardGetRequestForSrcs")
                .iter()
                .map(|name| name.to_lowercase())
                .collect(),
            timeout: r.duration("HttpClient.sourceTransformer.timeout").max(Duration::from_millis(1)),
        }
    }
}

//! Settings of the external transformer (processor.md 7.2, 9.2 to 9.4, 17). Without a URL there is none.

use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "DEST_TRANSFORM_URL",
        Kind::Text,
        "",
        "Base URL of an external transformer, for destinations and webhook sources that the node does not know itself; empty = none.",
    )
    .hot(),
    Key::new(
        "USER_TRANSFORM_URL",
        Kind::Text,
        "",
        "Base URL of a transformer for user transformations that the node cannot run itself; empty = DEST_TRANSFORM_URL.",
    )
    .hot(),
    Key::new(
        "PYTHON_TRANSFORM_URL",
        Kind::Text,
        "",
        "Base URL of a transformer for user transformations in Python; empty = USER_TRANSFORM_URL.",
    )
    .hot(),
    Key::new(
        "Transformer.pollInterval",
        Kind::Duration(Unit::Second),
        "10s",
        "How long what the transformer says of itself is believed.",
    )
    .hot(),
    Key::new(
        "Transformer.maxResponseBytes",
        Kind::Bytes(1),
        "128MiB",
        "Most bytes of a transformer's answer, decompressed.",
    )
    .hot(),
    Key::new(
        "Transformer.Client.maxHTTPConnections",
        Kind::Int,
        "100",
        "Most calls of the processor to transformers at once.",
    ),
    Key::new(
        "Transformer.Client.retryRudderErrors.enabled",
        Kind::Bool,
        "true",
        "Repeat a call at once when the transformer asks for it.",
    )
    .hot(),
    Key::new(
        "Transformer.Client.retryRudderErrors.maxRetry",
        Kind::Int,
        "-1",
        "Most such repetitions; -1 = as many as it asks for.",
    )
    .hot(),
    Key::new(
        "Transformer.Client.retryRudderErrors.initialInterval",
        Kind::Duration(Unit::Second),
        "1s",
        "Pause before the first of them.",
    )
    .hot(),
    Key::new(
        "Transformer.Client.retryRudderErrors.maxInterval",
        Kind::Duration(Unit::Second),
        "30s",
        "Longest pause between two of them.",
    )
    .hot(),
    Key::new(
        "Transformer.Client.retryRudderErrors.multiplier",
        Kind::Float,
        "2",
        "How much longer each of these pauses is.",
    )
    .hot(),
    Key::new(
        "HttpClient.procTransformer.timeout",
        Kind::Duration(Unit::Second),
        "600s",
        "Longest time of one call of the processor to a transformer.",
    )
    .hot(),
    Key::new(
        "HttpClient.routerTransformer.timeout",
        Kind::Duration(Unit::Second),
        "600s",
        "Longest time of one call of the router to a transformer.",
    )
    .also(&["HttpClient.backendProxy.timeout"])
    .hot(),
    Key::new("Processor.maxRetry", Kind::Int, "30", "Most repetitions of a call before the log says so loudly.").hot(),
    Key::new(
        "Processor.maxRetryBackoffInterval",
        Kind::Duration(Unit::Second),
        "30s",
        "Longest pause between two calls.",
    )
    .hot(),
    Key::new(
        "Processor.Transformer.failOnError",
        Kind::Bool,
        "false",
        "Fail the events when no repetition helped, instead of going on with repetitions.",
    )
    .hot(),
    Key::new("Processor.UserTransformer.maxRetry", Kind::Int, "30", "The same for user transformations alone.").hot(),
    Key::new(
        "Processor.UserTransformer.maxRetryBackoffInterval",
        Kind::Duration(Unit::Second),
        "30s",
        "The same for user transformations alone.",
    )
    .hot(),
    Key::new(
        "Processor.UserTransformer.failOnError",
        Kind::Bool,
        "false",
        "The same for user transformations alone.",
    )
    .hot(),
    Key::new(
        "Processor.UserTransformer.failOnUserTransformTimeout",
        Kind::Bool,
        "false",
        "Fail the events when no repetition of a user transformation ended in time.",
    )
    .hot(),
    Key::new(
        "Processor.UserTransformer.cpDownEndlessRetries",
        Kind::Bool,
        "true",
        "Repeat without end while the transformer cannot fetch code.",
    )
    .hot(),
    Key::new(
        "Processor.DestinationTransformer.maxRetry",
        Kind::Int,
        "30",
        "The same for destination transformations alone.",
    )
    .hot(),
    Key::new(
        "Processor.DestinationTransformer.maxRetryBackoffInterval",
        Kind::Duration(Unit::Second),
        "30s",
        "The same for destination transformations alone.",
    )
    .hot(),
    Key::new(
        "Processor.DestinationTransformer.failOnError",
        Kind::Bool,
        "false",
        "The same for destination transformations alone.",
    )
    .hot(),
    Key::new(
        "Processor.DestinationTransformer.batchSize",
        Kind::Int,
        "100",
        "Most events of one call for a destination.",
    )
    .also(&["Processor.transformBatchSize"])
    .hot(),
];

/// Where the external transformer is, and how it is asked.
#[derive(Clone, Debug)]
pub struct TransformerSettings {
    /// For destinations and webhook sources, without a slash at its end. May name a user: not to be logged.
    pub destination_url: Option<String>,
    /// For user transformations that the node cannot run; that of destinations unless set.
    pub user_url: Option<String>,
    /// Whether the URL for user transformations is set on its own.
    pub has_own_user_url: bool,
    /// For user transformations in Python.
    pub python_url: Option<String>,
    /// How long its features are believed.
    pub poll_interval: Duration,
    /// Most bytes of an answer, decompressed.
    pub max_response_bytes: u64,
    /// Most calls at once.
    pub max_calls: usize,
    /// Longest time of one call.
    pub timeout: Duration,
    /// Longest time of one call of the router.
    pub router_timeout: Duration,
    /// Repetitions that the transformer itself asks for.
    pub asked: AskedRepeats,
    /// Calls for user transformations.
    pub user: CallRules,
    /// Calls for destination transformations.
    pub destination: CallRules,
    /// Whether a user transformation that does not end in time fails its events.
    pub fails_on_timeout: bool,
    /// Whether a transformer that cannot fetch code is asked without end.
    pub repeats_while_code_is_away: bool,
    /// Most events of one call for a destination.
    pub destination_batch_size: usize,
}

/// When a call that the transformer wants repeated is repeated.
#[derive(Clone, Debug)]
pub struct AskedRepeats {
    /// Whether at all.
    pub enabled: bool,
    /// How often; `None` = as often as it asks.
    pub most: Option<usize>,
    /// The first pause.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// Factor of each pause to the one before.
    pub multiplier: f64,
}

/// How calls of one kind are repeated.
#[derive(Clone, Debug)]
pub struct CallRules {
    /// Most repetitions in a row.
    pub max_retry: usize,
    /// Longest pause between two.
    pub longest_pause: Duration,
    /// Whether the events fail after the last one.
    pub fails: bool,
}

impl TransformerSettings {
    pub(super) fn read(r: &Reader<'_>) -> TransformerSettings {
        let destination_url = url(r, "DEST_TRANSFORM_URL");
        let own_user_url = url(r, "USER_TRANSFORM_URL");
        let has_own_user_url = own_user_url.is_some();
        let user_url = own_user_url.or_else(|| destination_url.clone());
        let multiplier = r.float("Transformer.Client.retryRudderErrors.multiplier");
        if !(1.0..=100.0).contains(&multiplier) {
            r.reject("Transformer.Client.retryRudderErrors.multiplier", "is not between 1 and 100");
        }
        TransformerSettings {
            python_url: url(r, "PYTHON_TRANSFORM_URL").or_else(|| user_url.clone()),
            destination_url,
            user_url,
            has_own_user_url,
            poll_interval: r.duration("Transformer.pollInterval").max(Duration::from_millis(100)),
            max_response_bytes: r.bytes("Transformer.maxResponseBytes"),
            max_calls: r.count("Transformer.Client.maxHTTPConnections").clamp(1, 10_000),
            timeout: r.duration("HttpClient.procTransformer.timeout").max(Duration::from_millis(1)),
            router_timeout: r.duration("HttpClient.routerTransformer.timeout").max(Duration::from_millis(1)),
            asked: AskedRepeats {
                enabled: r.flag("Transformer.Client.retryRudderErrors.enabled"),
                most: usize::try_from(r.int("Transformer.Client.retryRudderErrors.maxRetry")).ok(),
                first_pause: r.duration("Transformer.Client.retryRudderErrors.initialInterval"),
                longest_pause: r.duration("Transformer.Client.retryRudderErrors.maxInterval"),
                multiplier: multiplier.clamp(1.0, 100.0),
            },
            user: CallRules {
                max_retry: r.count(own_or(r, "Processor.UserTransformer.maxRetry", "Processor.maxRetry")),
                longest_pause: r.duration(own_or(
                    r,
                    "Processor.UserTransformer.maxRetryBackoffInterval",
                    "Processor.maxRetryBackoffInterval",
                )),
                fails: r.flag(own_or(r, "Processor.UserTransformer.failOnError", "Processor.Transformer.failOnError")),
            },
            destination: CallRules {
                max_retry: r.count(own_or(r, "Processor.DestinationTransformer.maxRetry", "Processor.maxRetry")),
                longest_pause: r.duration(own_or(
                    r,
                    "Processor.DestinationTransformer.maxRetryBackoffInterval",
                    "Processor.maxRetryBackoffInterval",
                )),
                fails: r.flag(own_or(
                    r,
                    "Processor.DestinationTransformer.failOnError",
                    "Processor.Transformer.failOnError",
                )),
            },
            fails_on_timeout: r.flag("Processor.UserTransformer.failOnUserTransformTimeout"),
            repeats_while_code_is_away: r.flag("Processor.UserTransformer.cpDownEndlessRetries"),
            destination_batch_size: r.count_at_least("Processor.DestinationTransformer.batchSize", 1),
        }
    }
}

/// The key of one kind of call where it is set, else the key of all kinds.
fn own_or<'k>(r: &Reader<'_>, own: &'k str, of_all: &'k str) -> &'k str {
    if r.is_set(own) { own } else { of_all }
}

/// A base URL without a slash at its end.
fn url(r: &Reader<'_>, name: &str) -> Option<String> {
    let url = r.text(name).trim().trim_end_matches('/').to_owned();
    if url.is_empty() {
        return None;
    }
    if !url::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
        r.reject(name, "is no http or https URL; write it as http://localhost:9090");
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::super::{Raw, Settings, TransformerSettings};

    fn read(set: &[(&str, &str)]) -> TransformerSettings {
        let flags: HashMap<String, Vec<String>> =
            set.iter().map(|(key, value)| (key.to_ascii_lowercase(), vec![(*value).to_owned()])).collect();
        Settings::from_raw(&Arc::new(Raw { flags, ..Raw::default() })).unwrap().transformer
    }

    #[test]
    fn without_a_url_there_is_no_transformer() {
        let settings = Settings::defaults().transformer;
        assert_eq!((settings.destination_url, settings.user_url, settings.python_url), (None, None, None));
        assert_eq!((settings.user.max_retry, settings.timeout.as_secs()), (30, 600));
    }

    #[test]
    fn urls_and_rules_fall_back_to_the_wider_ones() {
        let settings = read(&[("DEST_TRANSFORM_URL", "http://a:9090/"), ("Processor.maxRetry", "3")]);
        assert_eq!(settings.python_url.as_deref(), Some("http://a:9090"));
        assert!(!settings.has_own_user_url);
        assert_eq!((settings.user.max_retry, settings.destination.max_retry), (3, 3));
        let settings = read(&[
            ("DEST_TRANSFORM_URL", "http://a"),
            ("USER_TRANSFORM_URL", "http://b"),
            ("Processor.maxRetry", "3"),
            ("Processor.UserTransformer.maxRetry", "5"),
        ]);
        assert_eq!((settings.python_url.as_deref(), settings.has_own_user_url), (Some("http://b"), true));
        assert_eq!((settings.user.max_retry, settings.destination.max_retry), (5, 3));
    }
}

//! Everything that the gateway counts and logs (gateway.md 14).
//!
//! Requests look their counters up in a cache of their thread, so that no lock and no label is made on the way.
//! Labels are bounded: sources of the configuration, the routes, the table of refusals, and fifty SDK versions.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Label, counter, gauge, histogram};
use parking_lot::Mutex;

use super::answer::Refusal;
use super::directory::SourceEntry;
use super::intake::Prepared;
use super::routes::Call;
use super::suppression::feed::FeedError;
use super::tls::TlsError;
use crate::jobsdb::JobsDbError;
use crate::telemetry::Tally;

/// Most SDK versions that are told apart.
const MOST_SDKS: usize = 50;
/// Longest SDK label.
const LONGEST_SDK: usize = 64;
/// Counters that a thread keeps at hand; beyond that it starts afresh.
const MOST_CACHED: usize = 4096;
/// One log line per place and this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How often an ending certificate is complained about.
const EXPIRY_INTERVAL: Duration = Duration::from_hours(24);

/// What a request stored.
pub(super) struct Accepted {
    pub(super) events: u64,
    pub(super) bots: u64,
    /// The SDK, by its number.
    pub(super) sdk: Sdk,
}

struct SourceCounters {
    requests: Tally,
    outcome: Tally,
    events: Tally,
    successful_events: Tally,
    bot_events: Tally,
}

/// What a thread found once and keeps.
#[derive(Default)]
struct Cache {
    stored: HashMap<(u64, Call, Sdk), SourceCounters>,
    refused: HashMap<(u64, Call, Refusal), (Counter, Counter)>,
    answered: HashMap<(&'static str, u16), Histogram>,
    sizes: Option<(Histogram, Histogram, Tally, Tally)>,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

fn cached<K: Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, make: impl FnOnce() -> V) -> &V {
    if map.len() >= MOST_CACHED {
        map.clear();
    }
    map.entry(key).or_insert_with(make)
}

/// A request was answered; `pattern` is its route as the table writes it.
pub(super) fn answered(pattern: &'static str, method: &str, code: u16, elapsed: Duration) {
    CACHE.with_borrow_mut(|cache| {
        let make = || {
            let method = known_method(method);
            histogram!("gateway.response_time", "reqType" => pattern, "method" => method, "code" => code.to_string())
        };
        cached(&mut cache.answered, (pattern, code), make).record(elapsed);
    });
}

fn known_method(method: &str) -> &'static str {
    let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    known.into_iter().find(|name| *name == method).unwrap_or("other")
}

/// Events passed every check and go to the store.
pub(super) fn prepared(prepared: &Prepared<'_>, body_bytes: usize) {
    CACHE.with_borrow_mut(|cache| {
        let (batch_size, request_size, writes, _) = cache.sizes();
        #[allow(clippy::cast_precision_loss, reason = "sizes of requests are far below 2^53")]
        batch_size.record(prepared.len() as f64);
        #[allow(clippy::cast_precision_loss, reason = "sizes of requests are far below 2^53")]
        request_size.record(body_bytes as f64);
        writes.add(1);
    });
}

/// A request came without the header that keeps its sender's requests in order.
pub(super) fn empty_anonymous_id() {
    CACHE.with_borrow_mut(|cache| cache.sizes().3.add(1));
}

impl Cache {
    fn sizes(&mut self) -> &(Histogram, Histogram, Tally, Tally) {
        self.sizes.get_or_insert_with(|| {
            (
                histogram!("gateway.batch_size"),
                histogram!("gateway.request_size"),
                Tally::of(counter!("gateway.db_writes")),
                Tally::of(counter!("gateway.empty_anonymous_id_header")),
            )
        })
    }
}

/// A request's events are durable.
pub(super) fn stored(entry: &SourceEntry, call: Call, accepted: &Accepted) {
    let sdk = accepted.sdk;
    CACHE.with_borrow_mut(|cache| {
        let make = || {
            let labels = labels(entry, call, &sdk.label());
            SourceCounters {
                requests: Tally::of(counter!("gateway.write_key_requests", labels.clone())),
                outcome: Tally::of(counter!("gateway.write_key_successful_requests", labels.clone())),
                events: Tally::of(counter!("gateway.write_key_events", labels.clone())),
                successful_events: Tally::of(counter!("gateway.write_key_successful_events", labels.clone())),
                bot_events: Tally::of(counter!("gateway.write_key_bot_events", labels)),
            }
        };
        let counters = cached(&mut cache.stored, (entry.serial, call, sdk), make);
        counters.requests.add(1);
        counters.outcome.add(1);
        counters.events.add(accepted.events);
        counters.successful_events.add(accepted.events);
        if accepted.bots > 0 {
            counters.bot_events.add(accepted.bots);
        }
    });
}

/// A request of a known source was refused.
pub(super) fn refused(entry: &SourceEntry, call: Call, refusal: Refusal) {
    CACHE.with_borrow_mut(|cache| {
        let make = || {
            let mut labels = labels(entry, call, "");
            let requests = counter!("gateway.write_key_requests", labels.clone());
            labels.push(Label::from_static_parts("reason", reason(refusal)));
            (requests, counter!("gateway.write_key_failed_requests", labels))
        };
        let (requests, failed) = cached(&mut cache.refused, (entry.serial, call, refusal), make);
        requests.increment(1);
        failed.increment(1);
        if matches!(refusal, Refusal::RateLimited { .. }) {
            counter!("gateway.write_key_dropped_requests", labels(entry, call, "")).increment(1);
        }
    });
}

/// Events of suppressed users were left out; `whole` when that were all of a request.
pub(super) fn suppressed(entry: &SourceEntry, call: Call, events: u64, whole: bool) {
    let labels = labels(entry, call, "");
    if whole {
        counter!("gateway.write_key_requests", labels.clone()).increment(1);
        counter!("gateway.write_key_suppressed_requests", labels.clone()).increment(1);
    }
    counter!("gateway.write_key_suppressed_events", labels).increment(events);
}

/// An internal batch was not throttled.
pub(super) fn throttle_skipped(reason: &'static str) {
    counter!("gateway.internal_batch_throttle_skip", "reason" => reason).increment(1);
}

/// The list of suppressed users was read.
pub(super) fn suppression_feed_read() {
    counter!("pintle_suppression_feed_requests", "outcome" => "read").increment(1);
}

/// The list of suppressed users could not be read; what was read before stays in force.
pub(super) fn suppression_feed_failed(error: &FeedError) {
    counter!("pintle_suppression_feed_requests", "outcome" => "failed").increment(1);
    if at_most_every(&FEED_FAILED, LOG_INTERVAL) {
        tracing::warn!(%error, "there is no news of suppressed users; what is known stays in force");
    }
}

/// A handshake failed, or took too long.
pub(super) fn handshake_failed() {
    counter!("pintle_gateway_tls_handshakes_failed").increment(1);
}

/// A new certificate is in force.
pub(super) fn certificate_read() {
    tracing::info!("the certificate of the ingest port was read again and is in force");
}

/// A new certificate cannot be used; the old one stays in force.
pub(super) fn certificate_refused(error: &TlsError) {
    counter!("pintle_gateway_tls_reloads_refused").increment(1);
    tracing::error!(%error, "the new certificate of the ingest port is refused; the old one stays in force");
}

/// When the certificate in force ends, and whether that is soon.
pub(super) fn certificate(not_after_ms: i64, ends_soon: bool) {
    #[allow(clippy::cast_precision_loss, reason = "times are far below 2^53")]
    gauge!("pintle_gateway_tls_certificate_end_seconds").set(not_after_ms as f64 / 1000.0);
    if ends_soon && at_most_every(&ENDS_SOON, EXPIRY_INTERVAL) {
        let end = jiff::Timestamp::from_millisecond(not_after_ms).map(|end| end.to_string()).unwrap_or_default();
        tracing::warn!(end, "the certificate of the ingest port has ended or ends within 14 days; renew it");
    }
}

/// A request named no source, or none that may send.
pub(super) fn unidentified(call: Call, refusal: Refusal) {
    let placeholder = match refusal {
        Refusal::NoWriteKeyInHeader | Refusal::NoWriteKeyInQuery => "noWriteKey",
        Refusal::NoSourceId => "noSourceIDInHeader",
        Refusal::InvalidSourceId | Refusal::InvalidReplaySource => "InvalidSourceId",
        Refusal::SourceDisabled => "disabledSource",
        _ => "invalidWriteKey",
    };
    CACHE.with_borrow_mut(|cache| {
        let make = || {
            let mut labels: Vec<Label> = ["source", "sourceID", "writeKey"]
                .into_iter()
                .map(|name| Label::from_static_parts(name, placeholder))
                .collect();
            labels.push(Label::from_static_parts("reqType", call.name()));
            let requests = counter!("gateway.write_key_requests", labels.clone());
            labels.push(Label::from_static_parts("reason", reason(refusal)));
            (requests, counter!("gateway.write_key_failed_requests", labels))
        };
        let (requests, failed) = cached(&mut cache.refused, (u64::MAX, call, refusal), make);
        requests.increment(1);
        failed.increment(1);
    });
    if at_most_every(&UNIDENTIFIED, LOG_INTERVAL) {
        tracing::warn!(call = call.name(), reason = refusal.message(), "a request named no source that may send");
    }
}

static UNIDENTIFIED: AtomicU64 = AtomicU64::new(0);
static STORE_FAILED: AtomicU64 = AtomicU64::new(0);
static ACCEPT_FAILED: AtomicU64 = AtomicU64::new(0);
static LIMIT_REACHED: AtomicU64 = AtomicU64::new(0);
static FEED_FAILED: AtomicU64 = AtomicU64::new(0);
static ENDS_SOON: AtomicU64 = AtomicU64::new(0);

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unavailable | Refusal::StoreTimeout => "storeFailed",
        Refusal::BodyUnreadable => "requestBodyReadFailed",
        Refusal::InvalidWriteKey => "invalidWriteKey",
        other => other.message(),
    }
}

/// The store did not take a request's jobs.
pub(super) fn store_failed(error: &JobsDbError) {
    if at_most_every(&STORE_FAILED, LOG_INTERVAL) {
        tracing::error!(%error, "events could not be stored; clients are asked to retry");
    }
}

/// A limit of security.md 2.1 refused something.
pub(super) fn limit_reached(limit: &'static str) {
    counter!("pintle_limit_total", "limit" => limit).increment(1);
    if at_most_every(&LIMIT_REACHED, LOG_INTERVAL) {
        tracing::warn!(limit, "a limit of the ingest port was reached");
    }
}

/// The system gave no connection.
pub(super) fn accept_failed(error: &std::io::Error) {
    if at_most_every(&ACCEPT_FAILED, LOG_INTERVAL) {
        tracing::warn!(%error, "a connection could not be accepted");
    }
}

/// What is going on now.
pub(super) fn gauges(requests: usize, connections: usize, in_flight_bytes: u64) {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let value = |count: u64| count as f64;
    gauge!("gateway.concurrent_requests_count").set(value(requests as u64));
    gauge!("pintle_gateway_connections").set(value(connections as u64));
    gauge!("pintle_gateway_in_flight_bytes").set(value(in_flight_bytes));
}

/// True once per interval.
fn at_most_every(last_ms: &AtomicU64, interval: Duration) -> bool {
    static STARTED: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let now = u64::try_from(STARTED.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
    let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    let last = last_ms.load(Ordering::Relaxed);
    (last == 0 || now.saturating_sub(last) >= interval)
        && last_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// The labels of a source.
fn labels(entry: &SourceEntry, call: Call, sdk: &str) -> Vec<Label> {
    let source = &entry.source;
    let name: String = source.name.chars().take(15).collect::<String>().replace(':', "-");
    let key_end: String = source.write_key.chars().rev().take(6).collect::<Vec<_>>().into_iter().rev().collect();
    vec![
        Label::new("source", format!("{name}_{key_end}")),
        Label::new("writeKey", source.write_key.clone()),
        Label::from_static_parts("reqType", call.name()),
        Label::new("workspaceId", source.workspace_id.clone()),
        Label::new("sourceID", source.id.clone()),
        Label::new("sourceType", source.definition.kind.clone()),
        Label::new("sdkVersion", sdk.to_owned()),
        Label::new("sourceDefName", source.definition.name.to_lowercase()),
    ]
}

/// An SDK as metrics know it: none, one of the first fifty, or another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Sdk(usize);

/// The labels of the SDKs that are told apart, by number less one.
static SDKS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The number of every other one.
const OTHER_SDK: Sdk = Sdk(MOST_SDKS + 1);

/// What a thread knows of SDKs.
#[derive(Default)]
struct KnownSdks {
    numbers: HashMap<String, usize>,
    /// Name, version and number of the last one: most requests come from the same.
    last: (String, String, Sdk),
}

impl Sdk {
    /// The SDK with this name and version. They come from events, hence from anyone: after fifty the rest are
    /// `other`.
    pub(super) fn of(name: &str, version: &str) -> Sdk {
        thread_local! {
            static KNOWN: RefCell<KnownSdks> = RefCell::default();
        }
        KNOWN.with_borrow_mut(|known| {
            let (last_name, last_version, sdk) = &known.last;
            if last_name == name && last_version == version && !name.is_empty() {
                return *sdk;
            }
            let sdk = known.find(name, version);
            if name.len() + version.len() <= LONGEST_SDK {
                known.last = (name.to_owned(), version.to_owned(), sdk);
            }
            sdk
        })
    }

    fn label(self) -> String {
        match self.0.checked_sub(1) {
            None => String::new(),
            Some(place) => SDKS.lock().get(place).cloned().unwrap_or_else(|| "other".to_owned()),
        }
    }
}

impl KnownSdks {
    fn find(&mut self, name: &str, version: &str) -> Sdk {
        let label = format!("{name}/{}", if is_semver(version) { version } else { "invalid" });
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/+-".contains(&byte);
        if label.len() > LONGEST_SDK || !label.bytes().all(plain) {
            return OTHER_SDK;
        }
        if let Some(number) = self.numbers.get(&label) {
            return Sdk(*number);
        }
        let mut all = SDKS.lock();
        let number = match all.iter().position(|seen| *seen == label) {
            Some(place) => place + 1,
            None if all.len() < MOST_SDKS => {
                all.push(label.clone());
                all.len()
            }
            None => return OTHER_SDK,
        };
        self.numbers.insert(label, number);
        Sdk(number)
    }
}

/// `1.2.3`, perhaps with something behind it.
fn is_semver(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.');
    let numeric =
        |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    numeric(parts.next()) && numeric(parts.next()) && numeric(parts.next()) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sdk_labels_are_bounded() {
        let label = |name: &str, version: &str| Sdk::of(name, version).label();
        assert_eq!(label("analytics-js", "not a version"), "analytics-js/invalid");
        assert_eq!(label("bad name", "1.0.0"), "other");
        assert_eq!(label(&"n".repeat(100), "1.0.0"), "other");
        for number in 0..1000 {
            label("flood", &format!("1.0.{number}"));
        }
        assert_eq!(label("flood", "9.9.9"), "other");
        assert_eq!(label("analytics-js", "not a version"), "analytics-js/invalid");
        assert_eq!(label("analytics-js", "not a version"), "analytics-js/invalid");
        assert_eq!(Sdk::default().label(), "");
    }
}

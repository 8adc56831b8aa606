//! Real-time delivery: `Router.<TYPE>.K`, then `Router.K` (router.md 24).

use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::kafka::KafkaSettings;
use super::raw::{Raw, Reader, parse_duration};

const SECOND: Kind = Kind::Duration(Unit::Second);
const MINUTE: Kind = Kind::Duration(Unit::Minute);

/// Says in one line that a key of the peer is known here and does nothing.
const WITHOUT_EFFECT: &str = "Accepted for compatibility; has no effect.";

pub(super) const KEYS: &[Key] = &[
    Key::new("enableRouter", Kind::Bool, "true", "Whether events are delivered; if not, they wait for delivery."),
    Key::new("Router.noOfWorkers", Kind::Int, "64", "Workers of one destination.")
        .also(&["Router.<TYPE>.noOfWorkers", "Router.<TYPE>.<DESTINATION>.noOfWorkers"]),
    Key::new("Router.httpTimeout", SECOND, "10s", "Longest time of one request.").also(&[
        "Router.httpTimeoutInS",
        "Router.<TYPE>.httpTimeout",
        "Router.<TYPE>.httpTimeoutInS",
    ]),
    Key::new("Router.httpMaxIdleConnsPerHost", Kind::Int, "0", "Idle connections kept per host; 0 = noOfWorkers.")
        .also(&["Router.httpMaxIdleConns", "Router.<TYPE>.httpMaxIdleConnsPerHost", "Router.<TYPE>.httpMaxIdleConns"]),
    Key::new("Router.forceHTTP1", Kind::Bool, "false", "Never use HTTP/2.").also(&["Router.<TYPE>.forceHTTP1"]),
    Key::new("Router.blockPrivateIPs", Kind::Bool, "false", "Refuse to deliver to private addresses.")
        .also(&["Router.<TYPE>.blockPrivateIPs"]),
    Key::new(
        "privateIPRanges",
        Kind::List,
        "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 127.0.0.0/8 169.254.0.0/16 fc00::/7 fe80::/10",
        "Address ranges that count as private.",
    ),
    Key::new("Router.allowMetadataIPs", Kind::Bool, "false", "Allow deliveries to the metadata addresses of clouds.")
        .hot(),
    Key::new("Router.eventURLs", Kind::Text, "public", "URLs that an event chose: public addresses only, any, or off.")
        .also(&["Router.<TYPE>.eventURLs"])
        .hot(),
    Key::new("Router.eventURLHosts", Kind::List, "", "Hosts that events may choose as if they were configured.")
        .also(&["Router.<TYPE>.eventURLHosts"])
        .hot(),
    Key::new(
        "Router.guardedUsesProxy",
        Kind::Bool,
        "false",
        "Use the proxy of the environment also where addresses are checked.",
    ),
    Key::new("Router.userAgent", Kind::Text, "RudderLabs", "User agent of deliveries that bring none.").hot(),
    Key::new("Router.Network.IncludeInstanceIdInHeader", Kind::Bool, "false", "Send X-Rudder-Instance-Id.").hot(),
    Key::new("disableEgress", Kind::Bool, "false", "Send nothing; every delivery counts as done.").hot(),
    Key::new("Router.jobQueryBatchSize", Kind::Int, "10000", "Most jobs of one pick-up query.")
        .also(&["Router.<TYPE>.jobQueryBatchSize"])
        .hot(),
    Key::new(
        "Router.maxJobQueryBatchSize",
        Kind::Int,
        "10000",
        "Most jobs of one query while rate limits are in force.",
    )
    .also(&["Router.<TYPE>.maxJobQueryBatchSize"])
    .hot(),
    Key::new("Router.PayloadLimit", Kind::Bytes(1), "100MB", "Most payload bytes of one destination in memory.")
        .also(&["Router.<TYPE>.PayloadLimit"])
        .hot(),
    Key::new("Router.jobIterator.maxQueries", Kind::Int, "50", "Most queries of one pick-up pass.")
        .also(&["Router.<TYPE>.jobIterator.maxQueries"])
        .hot(),
    Key::new(
        "Router.jobIterator.discardedPercentageTolerance",
        Kind::Int,
        "10",
        "Share of jobs that may be discarded without another query, percent.",
    )
    .also(&["Router.<TYPE>.jobIterator.discardedPercentageTolerance"])
    .hot(),
    Key::new("Router.updateStatusBatchSize", Kind::Int, "1000", "Most statuses of one transaction.")
        .also(&["Router.<TYPE>.updateStatusBatchSize"])
        .hot(),
    Key::new(
        "Router.maxStatusUpdateWait",
        SECOND,
        "5s",
        "Longest time that a status waits; an idle writer writes at once.",
    )
    .also(&["Router.<TYPE>.maxStatusUpdateWait"])
    .hot(),
    Key::new("Router.readSleep", SECOND, "1s", "Safety tick of pick-up; it is woken by what happens.")
        .also(&["Router.<TYPE>.readSleep"])
        .hot(),
    Key::new(
        "Router.maxReadSleep",
        SECOND,
        "0s",
        "Longest safety tick of an idle destination; 0 = ten times readSleep.",
    )
    .also(&["Router.<TYPE>.maxReadSleep"])
    .hot(),
    Key::new("Router.noOfJobsPerChannel", Kind::Int, "1000", "Jobs that wait for one worker when the size is fixed.")
        .also(&["Router.<TYPE>.noOfJobsPerChannel"]),
    Key::new("Router.maxNoOfJobsPerChannel", Kind::Int, "10000", "Most jobs that ever wait for one worker.")
        .also(&["Router.<TYPE>.maxNoOfJobsPerChannel"]),
    Key::new("Router.noOfJobsToBatchInAWorker", Kind::Int, "20", "Jobs that a worker transforms together.")
        .also(&["Router.<TYPE>.noOfJobsToBatchInAWorker"])
        .hot(),
    Key::new("Router.jobsBatchTimeout", SECOND, "5s", "Longest wait for events that may share a request.")
        .also(&["Router.<TYPE>.jobsBatchTimeout"])
        .hot(),
    Key::new("Router.enableDynamicBufferSizeCalculator", Kind::Bool, "true", "Size a worker's queue by its pace.")
        .also(&["Router.<TYPE>.enableDynamicBufferSizeCalculator"])
        .hot(),
    Key::new("Router.dynamicBufferSizeScalingFactor", Kind::Float, "2.0", "Queue size per unit of pace.")
        .also(&["Router.<TYPE>.dynamicBufferSizeScalingFactor"])
        .hot(),
    Key::new("Router.dynamicBufferSizeMinimum", Kind::Int, "500", "Smallest queue of a worker that is not slow.")
        .also(&["Router.<TYPE>.dynamicBufferSizeMinimum"])
        .hot(),
    Key::new("Router.guaranteeUserEventOrder", Kind::Bool, "true", "Deliver the events of one user in order.")
        .also(&["Router.<TYPE>.guaranteeUserEventOrder"]),
    Key::new("Router.eventOrderKeyThreshold", Kind::Int, "200", "Most jobs of one user in flight; 0 = no bound.")
        .also(&["Router.<TYPE>.eventOrderKeyThreshold"])
        .hot(),
    Key::new("Router.eventOrderDisabledStateDuration", MINUTE, "20m", "How long order stays off for a user.")
        .also(&["Router.<TYPE>.eventOrderDisabledStateDuration"])
        .hot(),
    Key::new("Router.eventOrderHalfEnabledStateDuration", MINUTE, "10m", "How long order is watched afterwards.")
        .also(&["Router.<TYPE>.eventOrderHalfEnabledStateDuration"])
        .hot(),
    Key::new(
        "Router.eventOrderDrainedConcurrencyLimit",
        Kind::Int,
        "1",
        "Jobs of a user in flight after one was given up; 0 = no bound.",
    )
    .also(&["Router.<TYPE>.eventOrderDrainedConcurrencyLimit"])
    .hot(),
    Key::new("Router.orderingDisabledWorkspaceIDs", Kind::List, "", "Workspaces without order.")
        .also(&["Router.<TYPE>.orderingDisabledWorkspaceIDs"])
        .hot(),
    Key::new("Router.orderingDisabledDestinationIDs", Kind::List, "", "Destinations without order.")
        .also(&["Router.<TYPE>.orderingDisabledDestinationIDs"])
        .hot(),
    Key::new("Router.minRetryBackoff", SECOND, "10s", "Delay after the first failure; it doubles.")
        .also(&["Router.minRetryBackoffInS", "Router.<TYPE>.minRetryBackoff", "Router.<TYPE>.minRetryBackoffInS"])
        .hot(),
    Key::new("Router.maxRetryBackoff", SECOND, "300s", "Longest delay between two attempts.")
        .also(&["Router.maxRetryBackoffInS", "Router.<TYPE>.maxRetryBackoff", "Router.<TYPE>.maxRetryBackoffInS"])
        .hot(),
    Key::new(
        "Router.honorRetryAfter",
        Kind::Bool,
        "false",
        "Wait as long as a 429 or 503 asks for, up to maxRetryBackoff.",
    )
    .also(&["Router.<TYPE>.honorRetryAfter"])
    .hot(),
    Key::new("Router.maxFailedCountForJob", Kind::Int, "3", "Attempts before a job can be given up.")
        .also(&["Router.<TYPE>.maxFailedCountForJob"])
        .hot(),
    Key::new("Router.retryTimeWindow", MINUTE, "180m", "Time since the first attempt before a job can be given up.")
        .also(&["Router.retryTimeWindowInMins", "Router.<TYPE>.retryTimeWindow", "Router.<TYPE>.retryTimeWindowInMins"])
        .hot(),
    Key::new("Router.RSources.maxFailedCountForJob", Kind::Int, "3", "The same for jobs of a run.")
        .also(&["Router.<TYPE>.RSources.maxFailedCountForJob"])
        .hot(),
    Key::new("Router.RSources.retryTimeWindow", MINUTE, "1m", "The same for jobs of a run.")
        .also(&["Router.<TYPE>.RSources.retryTimeWindow"])
        .hot(),
    Key::new("Router.unreachableCountsForRetryLimit", Kind::Bool, "false", "Count attempts that reached nobody.").hot(),
    Key::new(
        "Router.unreachableProbeMax",
        SECOND,
        "60s",
        "Longest time between two probes of an unreachable destination.",
    )
    .hot(),
    Key::new(
        "Router.unknownDestinationGrace",
        Kind::Duration(Unit::Hour),
        "1h",
        "Time before jobs of an unknown destination are given up.",
    )
    .hot(),
    Key::new("Router.jobRetention", Kind::Duration(Unit::Hour), "720h", "Age at which a job is given up.")
        .also(&["Router.<DESTINATION>.jobRetention"])
        .hot(),
    Key::new("Router.toAbortDestinationIDs", Kind::List, "", "Destinations whose jobs are given up.").hot(),
    Key::new("drain.jobRunIDs", Kind::List, "", "Job runs whose jobs are given up.").hot(),
    Key::new("Router.saveDestinationResponseOverride", Kind::Bool, "false", "Keep the body of successful answers.")
        .also(&["Router.<TYPE>.saveDestinationResponseOverride"])
        .hot(),
    Key::new("Router.reportJobsdbPayload", Kind::Bool, "true", "Let the stored payload stand for what was sent.")
        .also(&["Router.<TYPE>.reportJobsdbPayload"])
        .hot(),
    Key::new("Router.storeDeliveredWithWarningPayload", Kind::Bool, "false", "Show what was sent with a warning.")
        .also(&["Router.<TYPE>.storeDeliveredWithWarningPayload"])
        .hot(),
    Key::new("Router.deliveredWithWarningsEnabledWorkspaceIDs", Kind::List, "", "Workspaces that keep the code 296.")
        .also(&["Router.<TYPE>.deliveredWithWarningsEnabledWorkspaceIDs"])
        .hot(),
    Key::new("Router.throttler.limit", Kind::Int, "0", "Jobs per window; 0 = no limit.")
        .also(&[
            "Router.throttler.<TYPE>.limit",
            "Router.throttler.<TYPE>.<DESTINATION>.limit",
            "Router.throttler.<TYPE>.<DESTINATION>.<EVENT>.limit",
        ])
        .hot(),
    Key::new("Router.throttler.timeWindow", SECOND, "1s", "Window of the limit, in whole seconds.")
        .also(&[
            "Router.throttler.<TYPE>.timeWindow",
            "Router.throttler.<TYPE>.<DESTINATION>.timeWindow",
            "Router.throttler.<TYPE>.<DESTINATION>.<EVENT>.timeWindow",
        ])
        .hot(),
    Key::new("Router.throttler.minLimit", Kind::Int, "1", "Lowest limit that adapting leads to.")
        .also(&["Router.throttler.<TYPE>.minLimit", "Router.throttler.<TYPE>.<DESTINATION>.minLimit"])
        .hot(),
    Key::new("Router.throttler.defaultMaxLimit", Kind::Int, "1000", "Highest limit of adapting when no limit is set.")
        .hot(),
    Key::new("Router.throttler.throttlerPerEventType", Kind::Bool, "false", "One limit per event type.")
        .also(&[
            "Router.throttler.<TYPE>.throttlerPerEventType",
            "Router.throttler.<TYPE>.<DESTINATION>.throttlerPerEventType",
        ])
        .hot(),
    Key::new("Router.throttler.ignoreThrottlingCosts", Kind::Bool, "true", "Let every job cost 1.").hot(),
    Key::new("Router.throttler.adaptiveIgnoreThrottlingCosts", Kind::Bool, "true", "The same while the limit adapts.")
        .hot(),
    Key::new("Router.throttler.adaptiveEnabled", Kind::Bool, "false", "Let the limit follow refusals.")
        .also(&["Router.throttler.<TYPE>.adaptiveEnabled", "Router.throttler.<TYPE>.<DESTINATION>.adaptiveEnabled"])
        .hot(),
    Key::new("Router.throttler.adaptiveIncreaseWindowMultiplier", Kind::Int, "2", "Windows between two increases.")
        .also(&["Router.throttler.<TYPE>.adaptiveIncreaseWindowMultiplier"])
        .hot(),
    Key::new("Router.throttler.adaptiveIncreasePercentage", Kind::Int, "10", "Step up, percent.")
        .also(&["Router.throttler.<TYPE>.adaptiveIncreasePercentage"])
        .hot(),
    Key::new(
        "Router.throttler.adaptiveThrottleTolerancePercentage",
        Kind::Int,
        "10",
        "Tolerated share of refusals, percent.",
    )
    .also(&["Router.throttler.<TYPE>.adaptiveThrottleTolerancePercentage"])
    .hot(),
    Key::new("Router.throttler.adaptiveDecreasePercentage", Kind::Int, "30", "Step down, percent.")
        .also(&["Router.throttler.<TYPE>.adaptiveDecreasePercentage"])
        .hot(),
    Key::new(
        "Router.throttler.adaptiveDecreaseWaitWindowMultiplier",
        Kind::Int,
        "1",
        "Windows to wait after a decrease.",
    )
    .also(&["Router.throttler.<TYPE>.adaptiveDecreaseWaitWindowMultiplier"])
    .hot(),
    Key::new("Router.throttler.delivery.limit", Kind::Int, "0", "Requests per window and endpoint; 0 = no limit.")
        .also(&[
            "Router.throttler.delivery.<TYPE>.<ENDPOINT>.limit",
            "Router.throttler.delivery.<TYPE>.<DESTINATION>.<ENDPOINT>.limit",
        ])
        .hot(),
    Key::new("Router.throttler.delivery.timeWindow", SECOND, "1s", "Window of that limit.")
        .also(&[
            "Router.throttler.delivery.<TYPE>.<ENDPOINT>.timeWindow",
            "Router.throttler.delivery.<TYPE>.<DESTINATION>.<ENDPOINT>.timeWindow",
        ])
        .hot(),
    Key::new("Router.deliveryThrottlerTimeout", MINUTE, "5m", "Longest wait for that limit; the request is sent then.")
        .also(&["Router.<TYPE>.deliveryThrottlerTimeout"])
        .hot(),
    Key::new("Router.throttler.algorithm", Kind::Text, "gcra", WITHOUT_EFFECT),
    Key::new("Router.fixedLoopSleep", Kind::Text, "", WITHOUT_EFFECT).also(&["Router.<TYPE>.fixedLoopSleep"]),
    Key::new("Router.minSleep", Kind::Text, "", WITHOUT_EFFECT).also(&["Router.<TYPE>.minSleep"]),
    Key::new("Router.maxSleep", Kind::Text, "", WITHOUT_EFFECT).also(&["Router.<TYPE>.maxSleep"]),
    Key::new("Router.pickupFlushInterval", Kind::Text, "", WITHOUT_EFFECT).also(&["Router.<TYPE>.pickupFlushInterval"]),
    Key::new("Router.useTestSink", Kind::Text, "", WITHOUT_EFFECT),
    Key::new("Router.allowAbortedUserJobsCountForProcessing", Kind::Text, "", WITHOUT_EFFECT)
        .also(&["Router.<TYPE>.allowAbortedUserJobsCountForProcessing"]),
    Key::new("Router.transformerProxyRetryCount", Kind::Text, "", WITHOUT_EFFECT),
];

/// Settings of the router; those of one destination type through [`RouterSettings::of_type`].
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Whether events are delivered at all, in requests and in files.
    pub enabled: bool,
    pub(super) raw: Arc<Raw>,
}

/// What may be done with a URL that an event chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventUrls {
    /// Deliver to public addresses, without what the configuration added.
    Public,
    /// Deliver as to any other URL.
    Any,
    /// Do not deliver.
    Off,
}

/// Settings of one destination type, or of one destination where a key can name one.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each field is the key of the same name; the catalogue holds the help")]
pub struct RouterTypeSettings {
    pub workers: usize,
    pub http_timeout: Duration,
    pub idle_connections_per_host: usize,
    pub force_http1: bool,
    pub block_private_ips: bool,
    pub private_ip_ranges: Vec<String>,
    pub allow_metadata_ips: bool,
    pub event_urls: EventUrls,
    pub event_url_hosts: Vec<String>,
    pub guarded_uses_proxy: bool,
    pub user_agent: String,
    pub instance_id: Option<String>,
    pub disable_egress: bool,
    pub job_query_batch_size: usize,
    pub max_job_query_batch_size: usize,
    pub payload_limit: u64,
    pub max_queries: usize,
    pub discarded_tolerance_percent: usize,
    pub update_status_batch_size: usize,
    pub max_status_update_wait: Duration,
    pub read_sleep: Duration,
    pub max_read_sleep: Duration,
    pub jobs_per_worker: usize,
    pub max_jobs_per_worker: usize,
    pub jobs_to_batch_in_a_worker: usize,
    pub jobs_batch_timeout: Duration,
    pub dynamic_buffer: bool,
    pub dynamic_buffer_factor: f64,
    pub dynamic_buffer_minimum: usize,
    pub guarantee_user_order: bool,
    pub order_key_threshold: usize,
    pub order_disabled: Duration,
    pub order_half_enabled: Duration,
    pub order_drain_limit: usize,
    pub ordering_disabled_workspaces: Vec<String>,
    pub ordering_disabled_destinations: Vec<String>,
    pub min_retry_backoff: Duration,
    pub max_retry_backoff: Duration,
    pub honor_retry_after: bool,
    pub max_failed_count: u32,
    pub retry_time_window: Duration,
    pub sources_max_failed_count: u32,
    pub sources_retry_time_window: Duration,
    pub unreachable_counts: bool,
    pub unreachable_probe_max: Duration,
    pub unknown_destination_grace: Duration,
    pub job_retention: Duration,
    pub to_abort_destinations: Vec<String>,
    pub cancelled_job_runs: Vec<String>,
    pub save_destination_response: bool,
    pub report_jobsdb_payload: bool,
    pub store_delivered_with_warning_payload: bool,
    pub delivered_with_warnings_workspaces: Vec<String>,
    pub delivery_throttler_timeout: Duration,
    pub throttle_per_event_type: bool,
    pub ignore_throttling_costs: bool,
    pub adaptive: Option<AdaptiveSettings>,
}

/// How the rate limit of a destination follows refusals (router.md 9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the key of the same name; the catalogue holds the help")]
pub struct AdaptiveSettings {
    pub min_limit: usize,
    pub default_max_limit: usize,
    pub ignore_costs: bool,
    pub increase_windows: u32,
    pub increase_percent: u32,
    pub tolerance_percent: u32,
    pub decrease_percent: u32,
    pub decrease_wait_windows: u32,
}

impl RouterSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> RouterSettings {
        let general = r.within(&[]);
        let of_all_types = RouterTypeSettings::read(&general);
        let _kafka_is_valid = KafkaSettings::read(&general, of_all_types.workers);
        r.absorb(general);
        RouterSettings { enabled: r.flag("enableRouter"), raw: Arc::clone(raw) }
    }

    /// Settings of the destination type (`WEBHOOK`).
    pub fn of_type(&self, destination_type: &str) -> RouterTypeSettings {
        let mut settings =
            RouterTypeSettings::read(&Reader::scoped(&self.raw, &[format!("Router.{destination_type}")]));
        settings.apply_preset(destination_type, |key| {
            [format!("Router.{destination_type}.{key}"), format!("Router.{key}")]
                .iter()
                .any(|name| self.raw.lookup(name).is_some())
        });
        settings
    }

    /// Settings of one destination of the type.
    pub fn of_destination(&self, destination_type: &str, destination_id: &str) -> RouterTypeSettings {
        let mut settings = self.of_type(destination_type);
        let workers = self.first(&[format!("Router.{destination_type}.{destination_id}.noOfWorkers")]);
        if let Some(workers) = workers.and_then(|text| text.parse::<usize>().ok()) {
            settings.workers = workers.max(1);
        }
        let retention = self.first(&[format!("Router.{destination_id}.jobRetention")]);
        if let Some(retention) = retention.and_then(|text| parse_duration(&text, Unit::Hour)) {
            settings.job_retention = retention;
        }
        let throttler = |key: &str| {
            let own = format!("Router.throttler.{destination_type}.{destination_id}.{key}");
            self.first(&[own, format!("Router.throttler.{destination_type}.{key}"), format!("Router.throttler.{key}")])
        };
        let is_on = |key: &str, otherwise: bool| {
            throttler(key).map_or(otherwise, |text| matches!(text.to_ascii_lowercase().as_str(), "true" | "1" | "t"))
        };
        let number = |key: &str, otherwise: u32| throttler(key).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
        settings.throttle_per_event_type = is_on("throttlerPerEventType", false);
        if is_on("adaptiveEnabled", false) {
            let ignores = settings.ignore_throttling_costs;
            settings.adaptive = Some(AdaptiveSettings {
                min_limit: usize::try_from(number("minLimit", 1)).unwrap_or(1),
                default_max_limit: usize::try_from(number("defaultMaxLimit", 1000)).unwrap_or(1000),
                ignore_costs: is_on("adaptiveIgnoreThrottlingCosts", ignores),
                increase_windows: number("adaptiveIncreaseWindowMultiplier", 2),
                increase_percent: number("adaptiveIncreasePercentage", 10),
                tolerance_percent: number("adaptiveThrottleTolerancePercentage", 10),
                decrease_percent: number("adaptiveDecreasePercentage", 30),
                decrease_wait_windows: number("adaptiveDecreaseWaitWindowMultiplier", 1),
            });
        }
        settings
    }

    /// Limit and window of pick-up for the destination, for one event type if that is given (router.md 9.1).
    pub fn throttle(&self, destination_type: &str, destination_id: &str, event_type: Option<&str>) -> (u64, Duration) {
        let base = format!("Router.throttler.{destination_type}");
        let mut scopes = vec![format!("{base}.{destination_id}")];
        if let Some(event_type) = event_type.filter(|event_type| !event_type.is_empty()) {
            scopes.insert(0, format!("{base}.{destination_id}.{event_type}"));
            scopes.push(format!("{base}.{event_type}"));
        }
        scopes.push(base);
        let preset = if destination_type == "MARKETO" { (45, 20) } else { (0, 1) };
        self.limit_and_window(&scopes, preset)
    }

    /// Limit and window of requests to one endpoint of the destination (router.md 9.3).
    pub fn delivery_throttle(&self, destination_type: &str, destination_id: &str, endpoint: &str) -> (u64, Duration) {
        let base = format!("Router.throttler.delivery.{destination_type}");
        self.limit_and_window(&[format!("{base}.{destination_id}.{endpoint}"), format!("{base}.{endpoint}")], (0, 1))
    }

    fn limit_and_window(&self, scopes: &[String], preset: (u64, u64)) -> (u64, Duration) {
        let names = |key: &str| scopes.iter().map(|scope| format!("{scope}.{key}")).collect::<Vec<_>>();
        let limit = self.first(&names("limit")).and_then(|text| text.parse().ok()).unwrap_or(preset.0);
        let window = self.first(&names("timeWindow")).and_then(|text| parse_duration(&text, Unit::Second));
        let whole_seconds = window.map_or(preset.1, |window| window.as_secs());
        (limit, Duration::from_secs(whole_seconds))
    }

    fn first(&self, names: &[String]) -> Option<String> {
        names.iter().find_map(|name| self.raw.lookup(name)).map(|(texts, _)| texts.join(" ").trim().to_owned())
    }
}

impl RouterTypeSettings {
    fn read(r: &Reader<'_>) -> RouterTypeSettings {
        let workers = r.count("Router.noOfWorkers").max(1);
        let idle = r.count("Router.httpMaxIdleConnsPerHost");
        let read_sleep = r.duration("Router.readSleep").max(Duration::from_secs(1));
        let max_read_sleep = r.duration("Router.maxReadSleep");
        let instance_id = r.text("INSTANCE_ID");
        let attempts = |key: &str| u32::try_from(r.count(key)).unwrap_or(u32::MAX);
        RouterTypeSettings {
            workers,
            http_timeout: r.duration("Router.httpTimeout").max(Duration::from_millis(1)),
            idle_connections_per_host: if idle == 0 { workers } else { idle },
            force_http1: r.flag("Router.forceHTTP1"),
            block_private_ips: r.flag("Router.blockPrivateIPs"),
            private_ip_ranges: r.list("privateIPRanges"),
            allow_metadata_ips: r.flag("Router.allowMetadataIPs"),
            event_urls: match r.text("Router.eventURLs").to_ascii_lowercase().as_str() {
                "any" => EventUrls::Any,
                "off" => EventUrls::Off,
                _ => EventUrls::Public,
            },
            event_url_hosts: r.list("Router.eventURLHosts"),
            guarded_uses_proxy: r.flag("Router.guardedUsesProxy"),
            user_agent: r.text("Router.userAgent"),
            instance_id: Some(instance_id)
                .filter(|id| !id.is_empty() && r.flag("Router.Network.IncludeInstanceIdInHeader")),
            disable_egress: r.flag("disableEgress"),
            job_query_batch_size: r.count("Router.jobQueryBatchSize").max(1),
            max_job_query_batch_size: r.count("Router.maxJobQueryBatchSize").max(1),
            payload_limit: r.bytes("Router.PayloadLimit").max(1),
            max_queries: r.count("Router.jobIterator.maxQueries").max(1),
            discarded_tolerance_percent: r.count("Router.jobIterator.discardedPercentageTolerance"),
            update_status_batch_size: r.count("Router.updateStatusBatchSize").max(1),
            max_status_update_wait: r.duration("Router.maxStatusUpdateWait"),
            read_sleep,
            max_read_sleep: if max_read_sleep.is_zero() { read_sleep * 10 } else { max_read_sleep.max(read_sleep) },
            jobs_per_worker: r.count("Router.noOfJobsPerChannel").max(1),
            max_jobs_per_worker: r.count("Router.maxNoOfJobsPerChannel").max(1),
            jobs_to_batch_in_a_worker: r.count("Router.noOfJobsToBatchInAWorker").max(1),
            jobs_batch_timeout: r.duration("Router.jobsBatchTimeout"),
            dynamic_buffer: r.flag("Router.enableDynamicBufferSizeCalculator"),
            dynamic_buffer_factor: r.float("Router.dynamicBufferSizeScalingFactor"),
            dynamic_buffer_minimum: r.count("Router.dynamicBufferSizeMinimum"),
            guarantee_user_order: r.flag("Router.guaranteeUserEventOrder"),
            order_key_threshold: r.count("Router.eventOrderKeyThreshold"),
            order_disabled: r.duration("Router.eventOrderDisabledStateDuration"),
            order_half_enabled: r.duration("Router.eventOrderHalfEnabledStateDuration"),
            order_drain_limit: r.count("Router.eventOrderDrainedConcurrencyLimit"),
            ordering_disabled_workspaces: r.list("Router.orderingDisabledWorkspaceIDs"),
            ordering_disabled_destinations: r.list("Router.orderingDisabledDestinationIDs"),
            min_retry_backoff: r.duration("Router.minRetryBackoff"),
            max_retry_backoff: r.duration("Router.maxRetryBackoff"),
            honor_retry_after: r.flag("Router.honorRetryAfter"),
            max_failed_count: attempts("Router.maxFailedCountForJob"),
            retry_time_window: r.duration("Router.retryTimeWindow"),
            sources_max_failed_count: attempts("Router.RSources.maxFailedCountForJob"),
            sources_retry_time_window: r.duration("Router.RSources.retryTimeWindow"),
            unreachable_counts: r.flag("Router.unreachableCountsForRetryLimit"),
            unreachable_probe_max: r.duration("Router.unreachableProbeMax").max(Duration::from_secs(1)),
            unknown_destination_grace: r.duration("Router.unknownDestinationGrace"),
            job_retention: r.duration("Router.jobRetention"),
            to_abort_destinations: r.list("Router.toAbortDestinationIDs"),
            cancelled_job_runs: r.list("drain.jobRunIDs"),
            save_destination_response: r.flag("Router.saveDestinationResponseOverride"),
            report_jobsdb_payload: r.flag("Router.reportJobsdbPayload"),
            store_delivered_with_warning_payload: r.flag("Router.storeDeliveredWithWarningPayload"),
            delivered_with_warnings_workspaces: r.list("Router.deliveredWithWarningsEnabledWorkspaceIDs"),
            delivery_throttler_timeout: r.duration("Router.deliveryThrottlerTimeout"),
            throttle_per_event_type: r.flag("Router.throttler.throttlerPerEventType"),
            ignore_throttling_costs: r.flag("Router.throttler.ignoreThrottlingCosts"),
            adaptive: None,
        }
    }

    /// Values that a type has when nobody set its key.
    fn apply_preset(&mut self, destination_type: &str, is_set: impl Fn(&str) -> bool) {
        let workers = match destination_type {
            "GOOGLESHEETS" => Some(1),
            "MARKETO" => Some(4),
            _ => None,
        };
        if let Some(workers) = workers.filter(|_| !is_set("noOfWorkers")) {
            self.workers = workers;
        }
        if destination_type == "BRAZE" {
            if !is_set("httpTimeout") && !is_set("httpTimeoutInS") {
                self.http_timeout = Duration::from_secs(120);
            }
            if !is_set("forceHTTP1") {
                self.force_http1 = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> RouterSettings {
        let mut raw = Raw::default();
        for (name, text) in pairs {
            raw.flags.insert(name.to_ascii_lowercase(), vec![(*text).to_owned()]);
        }
        RouterSettings { enabled: true, raw: Arc::new(raw) }
    }

    #[test]
    fn the_type_goes_before_the_general_key_and_the_destination_before_the_type() {
        let router = settings(&[
            ("Router.noOfWorkers", "10"),
            ("Router.WEBHOOK.noOfWorkers", "20"),
            ("Router.WEBHOOK.d1.noOfWorkers", "30"),
            ("Router.d1.jobRetention", "2h"),
        ]);
        assert_eq!(router.of_type("HTTP").workers, 10);
        assert_eq!(router.of_type("WEBHOOK").workers, 20);
        let one = router.of_destination("WEBHOOK", "d1");
        assert_eq!((one.workers, one.job_retention), (30, Duration::from_secs(7_200)));
        assert_eq!(router.of_destination("WEBHOOK", "d2").job_retention, Duration::from_secs(720 * 3_600));
    }

    #[test]
    fn limits_are_looked_up_from_the_most_particular_name() {
        let router = settings(&[
            ("Router.throttler.WEBHOOK.limit", "5"),
            ("Router.throttler.WEBHOOK.d1.limit", "7"),
            ("Router.throttler.WEBHOOK.d1.track.limit", "9"),
            ("Router.throttler.WEBHOOK.timeWindow", "1500ms"),
        ]);
        assert_eq!(router.throttle("WEBHOOK", "d1", None), (7, Duration::from_secs(1)));
        assert_eq!(router.throttle("WEBHOOK", "d1", Some("track")).0, 9);
        assert_eq!(router.throttle("WEBHOOK", "d2", Some("track")).0, 5);
        assert_eq!(router.throttle("MARKETO", "d2", None), (45, Duration::from_secs(20)));
        assert_eq!(router.throttle("HTTP", "d2", None).0, 0);
    }

    #[test]
    fn a_type_has_its_preset_until_someone_sets_the_key() {
        assert_eq!(settings(&[]).of_type("BRAZE").http_timeout, Duration::from_secs(120));
        assert_eq!(settings(&[("Router.httpTimeout", "5s")]).of_type("BRAZE").http_timeout, Duration::from_secs(5));
        assert_eq!(settings(&[]).of_type("GOOGLESHEETS").workers, 1);
    }
}

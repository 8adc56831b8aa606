//! Who may send how much, and whose events are not taken (gateway.md 9, 13).

use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::{Raw, Reader};

pub(super) const KEYS: &[Key] = &[
    Key::new("Gateway.enableRateLimit", Kind::Bool, "false", "Limit the events of a workspace per time (RateLimit.*).")
        .hot(),
    Key::new("Gateway.throttler.algorithm", Kind::Text, "gcra", "How rates are limited; only gcra exists."),
    Key::new("RateLimit.eventLimit", Kind::Int, "1000", "Most events of a workspace in a window; 0 = no limit.")
        .also(&["RateLimit.<WORKSPACE>.eventLimit"]),
    Key::new("RateLimit.rateLimitWindow", Kind::Duration(Unit::Second), "60s", "The window, whole seconds.")
        .also(&["RateLimit.<WORKSPACE>.rateLimitWindow"]),
    Key::new(
        "RateLimit.jobRunsExempt",
        Kind::Bool,
        "true",
        "Whether requests of a job run pass without limit; anybody can name a run.",
    )
    .hot(),
    Key::new(
        "Gateway.internalBatchThrottleEvents",
        Kind::Int,
        "0",
        "Most events in a window through /internal/v1/batch; 0 = no limit.",
    )
    .hot(),
    Key::new(
        "Gateway.internalBatchThrottleWindow",
        Kind::Duration(Unit::Second),
        "1s",
        "Window of internalBatchThrottleEvents.",
    )
    .hot(),
    Key::new("Gateway.enableSuppressUserFeature", Kind::Bool, "true", "Take no events of suppressed users."),
    Key::new(
        "SUPPRESS_USER_BACKEND_URL",
        Kind::Text,
        "https://api.rudderstack.com",
        "Where the list of suppressed users comes from when a workspace token is set.",
    ),
    Key::new(
        "BackendConfig.Regulations.pollInterval",
        Kind::Duration(Unit::Second),
        "300s",
        "How often that list is asked for news.",
    )
    .also(&["BackendConfig.Regulations.pollIntervalInS"])
    .hot(),
    Key::new("BackendConfig.Regulations.pageSize", Kind::Int, "5000", "Most entries of one page of that list."),
    Key::new(
        "HttpClient.suppressUser.timeout",
        Kind::Duration(Unit::Second),
        "30s",
        "Longest time of one such request.",
    ),
];

/// Shortest interval between two requests for news of suppressed users.
const LEAST_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Who may send how much.
#[derive(Clone, Debug)]
pub struct AdmissionSettings {
    /// Whether the events of workspaces are limited.
    pub limits_rate: bool,
    /// Whether requests that name a job run pass without limit.
    pub job_runs_exempt: bool,
    /// The limit of `/internal/v1/batch`, for the whole node; `None` = none.
    pub internal_batch: Option<RateLimit>,
    /// Whether events of suppressed users are left out.
    pub suppresses_users: bool,
    /// The list of suppressed users that somebody else keeps; `None` without a workspace token.
    pub suppression_feed: Option<SuppressionFeed>,
    raw: Arc<Raw>,
}

/// So many events in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Events.
    pub events: u32,
    /// Time.
    pub window: Duration,
}

/// Where suppressed users are asked for.
#[derive(Clone)]
pub struct SuppressionFeed {
    /// Scheme, host and port.
    pub url: String,
    /// User name of HTTP Basic.
    pub token: String,
    /// Time between two requests.
    pub poll_interval: Duration,
    /// Entries of one page.
    pub page_size: usize,
    /// Longest time of one request.
    pub timeout: Duration,
}

impl std::fmt::Debug for SuppressionFeed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SuppressionFeed { url, token: _, poll_interval, page_size, timeout } = self;
        formatter
            .debug_struct("SuppressionFeed")
            .field("url", url)
            .field("token", &"***")
            .field("poll_interval", poll_interval)
            .field("page_size", page_size)
            .field("timeout", timeout)
            .finish()
    }
}

impl AdmissionSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> AdmissionSettings {
        r.one_of("Gateway.throttler.algorithm", &["gcra"]);
        let general = r.within(&[]);
        let _general_is_valid = rate_limit(&general);
        r.absorb(general);
        let window = r.duration("Gateway.internalBatchThrottleWindow");
        let events = u32::try_from(r.int("Gateway.internalBatchThrottleEvents").max(0)).unwrap_or(u32::MAX);
        let token = r.text("WORKSPACE_TOKEN");
        let has_token = !matches!(token.as_str(), "" | "<your_token_here>");
        let suppresses_users = r.flag("Gateway.enableSuppressUserFeature");
        let feed = SuppressionFeed {
            url: r.text("SUPPRESS_USER_BACKEND_URL").trim_end_matches('/').to_owned(),
            token,
            poll_interval: r.duration("BackendConfig.Regulations.pollInterval").max(LEAST_POLL_INTERVAL),
            page_size: r.count_at_least("BackendConfig.Regulations.pageSize", 1),
            timeout: r.duration("HttpClient.suppressUser.timeout"),
        };
        AdmissionSettings {
            limits_rate: r.flag("Gateway.enableRateLimit"),
            job_runs_exempt: r.flag("RateLimit.jobRunsExempt"),
            internal_batch: RateLimit { events, window }.if_it_limits(),
            suppresses_users,
            suppression_feed: Some(feed).filter(|feed| suppresses_users && has_token && !feed.url.is_empty()),
            raw: Arc::clone(raw),
        }
    }

    /// The limit of a workspace; `None` = none.
    pub fn rate_limit_of(&self, workspace_id: &str) -> Option<RateLimit> {
        rate_limit(&Reader::scoped(&self.raw, &[format!("RateLimit.{workspace_id}")])).if_it_limits()
    }
}

fn rate_limit(r: &Reader<'_>) -> RateLimit {
    RateLimit {
        events: u32::try_from(r.int("RateLimit.eventLimit").max(0)).unwrap_or(u32::MAX),
        window: Duration::from_secs(r.duration("RateLimit.rateLimitWindow").as_secs()),
    }
}

impl RateLimit {
    fn if_it_limits(self) -> Option<RateLimit> {
        Some(self).filter(|limit| limit.events > 0 && !limit.window.is_zero())
    }
}

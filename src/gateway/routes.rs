//! The routes of the ingest port (gateway.md 3): path and method to what answers.

use hyper::Method;

/// What kind of call an event came by. Its name is the event's `type` on routes of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Identify,
    Track,
    Page,
    Screen,
    Group,
    Alias,
    Merge,
    Extract,
    AudienceList,
    Batch,
    Import,
    Retl,
    Replay,
    Webhook,
}

impl Call {
    /// The name, with the quotes of a JSON string.
    pub(super) fn quoted(self) -> &'static str {
        match self {
            Call::Identify => "\"identify\"",
            Call::Track => "\"track\"",
            Call::Page => "\"page\"",
            Call::Screen => "\"screen\"",
            Call::Group => "\"group\"",
            Call::Alias => "\"alias\"",
            Call::Merge => "\"merge\"",
            Call::Extract => "\"extract\"",
            Call::AudienceList => "\"audiencelist\"",
            Call::Batch => "\"batch\"",
            Call::Import => "\"import\"",
            Call::Retl => "\"retl\"",
            Call::Replay => "\"replay\"",
            Call::Webhook => "\"webhook\"",
        }
    }

    /// The name.
    pub(super) fn name(self) -> &'static str {
        self.quoted().trim_matches('"')
    }

    /// Whether the body is one event, whose type the route decides.
    pub(super) fn is_single(self) -> bool {
        !matches!(self, Call::Batch | Call::Import | Call::Retl | Call::Replay | Call::Webhook)
    }
}

/// Where a request says which source it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identification {
    /// Write key as the user name of HTTP Basic.
    Basic,
    /// Write key as `writeKey` of the query.
    Query,
    /// As `Basic`, else `writeKey` of the body: old Segment browser SDKs send no header.
    BasicOrBody,
    /// Header `X-Rudder-Source-Id`, and a destination of that source.
    SourceId,
    /// Header `X-Rudder-Source-Id` of a replay source.
    ReplaySourceId,
}

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Events in the body.
    Events(Call, Identification),
    /// One event in the query, answered by an image.
    Pixel(Call),
    /// Anything that a webhook source sends.
    Webhook,
    /// Messages that another ingestion tier has checked.
    InternalBatch,
    /// Users are suppressed, or no longer.
    ChangeSuppressions,
    /// Whether a user is suppressed.
    TellSuppressions,
    Health,
    Version,
    Robots,
    Docs,
    OpenApi,
    ClusterInfo,
    SegmentSettings,
    SourceConfig,
    /// What came of a reverse-ETL run.
    JobStatus,
    ForgetJobStatus,
    FailedRecords,
    ForgetFailedRecords,
    /// Gives up a reverse-ETL run.
    DrainRun,
}

/// One line of the table.
pub(super) struct Entry {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    pub(super) route: Route,
    pub(super) about: &'static str,
}

const fn get(path: &'static str, route: Route, about: &'static str) -> Entry {
    Entry { path, method: "GET", route, about }
}

const fn post(path: &'static str, route: Route, about: &'static str) -> Entry {
    Entry { path, method: "POST", route, about }
}

const fn call(path: &'static str, call: Call, about: &'static str) -> Entry {
    post(path, Route::Events(call, Identification::Basic), about)
}

const fn segment(path: &'static str, call: Call) -> Entry {
    post(path, Route::Events(call, Identification::BasicOrBody), "As Segment's SDKs send it.")
}

const fn delete(path: &'static str, route: Route, about: &'static str) -> Entry {
    Entry { path, method: "DELETE", route, about }
}

/// Found with any number of slashes around it, as SDKs join paths differently (clients.md 1, rule 11).
const SOURCE_CONFIG: &str = "/sourceConfig";
/// Stands for a segment that may be empty, which its route then refuses.
const RUN_ID: &str = "{job_run_id}";
const JOB_STATUS: &str = "/internal/v2/job-status/{job_run_id}";
const FAILED_RECORDS: &str = "/internal/v2/job-status/{job_run_id}/failed-records";
const DRAIN_RUN: &str = "/internal/drain/job/{job_run_id}";

/// The table, most used first. A segment in braces stands for any text.
pub(super) const TABLE: &[Entry] = &[
    call("/v1/track", Call::Track, "One track event."),
    call("/v1/batch", Call::Batch, "Events of any type: {\"batch\": [event, ...]}."),
    call("/v1/identify", Call::Identify, "One identify event."),
    call("/v1/page", Call::Page, "One page event."),
    call("/v1/screen", Call::Screen, "One screen event."),
    call("/v1/group", Call::Group, "One group event."),
    call("/v1/alias", Call::Alias, "One alias event."),
    call("/v1/merge", Call::Merge, "One merge event."),
    call("/v1/import", Call::Import, "Events of many users; valid users are stored even when others are refused."),
    call("/v1/audiencelist", Call::AudienceList, "One audience list, without the size limit of events."),
    post("/beacon/v1/batch", Route::Events(Call::Batch, Identification::Query), "A batch, write key in the query."),
    post("/v1/webhook", Route::Webhook, "Anything, for a webhook source."),
    get("/v1/webhook", Route::Webhook, "As POST for a few webhook sources; an empty answer for the others."),
    get("/pixel/v1/track", Route::Pixel(Call::Track), "A track event in the query, answered by an image."),
    get("/pixel/v1/page", Route::Pixel(Call::Page), "A page event in the query, answered by an image."),
    get("/health", Route::Health, "Whether events are accepted."),
    get("/", Route::Health, "As /health."),
    get("/version", Route::Version, "What runs here."),
    get("/robots.txt", Route::Robots, "Nothing for crawlers."),
    get("/docs", Route::Docs, "This page."),
    get("/docs/openapi.json", Route::OpenApi, "The same as an OpenAPI document."),
    get("/cluster-info", Route::ClusterInfo, "How many nodes there are: one."),
    segment("/v1/t", Call::Track),
    segment("/v1/i", Call::Identify),
    segment("/v1/p", Call::Page),
    segment("/v1/s", Call::Screen),
    segment("/v1/g", Call::Group),
    segment("/v1/a", Call::Alias),
    segment("/v1/b", Call::Batch),
    get(SOURCE_CONFIG, Route::SourceConfig, "What SDKs in apps and browsers need to start; public."),
    get("/v1/projects/{writeKey}/settings", Route::SegmentSettings, "Settings for Segment's browser SDK."),
];

/// The routes that only an operator's own services use; on the ingest port by setting.
pub(super) const INTERNAL_TABLE: &[Entry] = &[
    call("/internal/v1/extract", Call::Extract, "One extract event, without ids."),
    call("/internal/v1/audiencelist", Call::AudienceList, "One audience list."),
    post("/internal/v1/retl", Route::Events(Call::Retl, Identification::SourceId), "Events of a reverse-ETL run."),
    post("/internal/v1/replay", Route::Events(Call::Replay, Identification::ReplaySourceId), "Events sent again."),
    post("/internal/v1/batch", Route::InternalBatch, "Messages checked elsewhere."),
    get(JOB_STATUS, Route::JobStatus, "Counters of a reverse-ETL run."),
    delete(JOB_STATUS, Route::ForgetJobStatus, "Forgets the counters of a completed run."),
    get(FAILED_RECORDS, Route::FailedRecords, "Records of a run that failed."),
    delete(FAILED_RECORDS, Route::ForgetFailedRecords, "Forgets them."),
    Entry { path: DRAIN_RUN, method: "PUT", route: Route::DrainRun, about: "Gives up the pending jobs of a run." },
    post("/internal/v1/suppressions", Route::ChangeSuppressions, "Users whose events are not taken."),
    get("/internal/v1/suppressions", Route::TellSuppressions, "Whether a user's events are not taken."),
];

/// What the table says about a request.
pub(super) enum Found {
    /// This answers.
    Route(&'static Entry),
    /// The path exists, with these methods only.
    OtherMethods(Vec<&'static str>),
    /// Nothing is there.
    Nothing,
}

/// Looks the request up.
pub(super) fn find(method: &Method, path: &str, internal: bool) -> Found {
    let tables = [TABLE, if internal { INTERNAL_TABLE } else { &[] }];
    let path = if is_source_config(path) { SOURCE_CONFIG } else { path };
    let mut others: Vec<&'static str> = Vec::new();
    for fits in
        [|entry: &Entry, path: &str| entry.path == path, |entry: &Entry, path: &str| matches_pattern(entry.path, path)]
    {
        for entry in tables.iter().flat_map(|table| table.iter()).filter(|entry| fits(entry, path)) {
            if entry.method == method.as_str() {
                return Found::Route(entry);
            }
            others.push(entry.method);
        }
        if !others.is_empty() {
            return Found::OtherMethods(others);
        }
    }
    Found::Nothing
}

fn is_source_config(path: &str) -> bool {
    path.len() > SOURCE_CONFIG.len()
        && path.starts_with('/')
        && path.trim_matches('/') == SOURCE_CONFIG.trim_matches('/')
}

fn matches_pattern(pattern: &str, path: &str) -> bool {
    if !pattern.contains('{') {
        return false;
    }
    let mut segments = path.split('/');
    let fits = pattern.split('/').all(|wanted| match segments.next() {
        Some(segment) => wanted == segment || (wanted.starts_with('{') && (!segment.is_empty() || wanted == RUN_ID)),
        None => false,
    });
    fits && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: Method, path: &str) -> String {
        verdict_in(method, path, false)
    }

    fn verdict_in(method: Method, path: &str, internal: bool) -> String {
        match find(&method, path, internal) {
            Found::Route(entry) => format!("{:?}", entry.route),
            Found::OtherMethods(allowed) => format!("405 {}", allowed.join(" ")),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn paths_match_exactly_and_methods_are_told() {
        for (method, path, expected) in [
            (Method::POST, "/v1/track", "Events(Track, Basic)"),
            (Method::POST, "/v1/track/", "404"),
            (Method::POST, "/V1/track", "404"),
            (Method::GET, "/v1/track", "405 POST"),
            (Method::HEAD, "/health", "405 GET"),
            (Method::PUT, "/v1/webhook", "405 POST GET"),
            (Method::OPTIONS, "/v1/batch", "405 POST"),
            (Method::POST, "/transform", "404"),
            (Method::POST, "/internal/v1/extract", "404"),
            (Method::GET, "/v1/projects/key/settings", "SegmentSettings"),
            (Method::GET, "/v1/projects//settings", "404"),
            (Method::GET, "/v1/projects/a/b/settings", "404"),
            (Method::GET, "//sourceConfig/", "SourceConfig"),
            (Method::POST, "/sourceConfig/", "405 GET"),
            (Method::GET, "/sourceconfig", "404"),
            (Method::GET, "/sourceConfig/x", "404"),
            (Method::GET, "/internal/v2/job-status/r", "404"),
            (Method::GET, "/v1/job-status/r", "404"),
            (Method::CONNECT, "", "404"),
        ] {
            assert_eq!(verdict(method, path), expected, "{path}");
        }
    }

    #[test]
    fn internal_routes_exist_only_when_enabled() {
        for (method, path, expected) in [
            (Method::POST, "/internal/v1/batch", "InternalBatch"),
            (Method::GET, "/internal/v2/job-status/r", "JobStatus"),
            (Method::DELETE, "/internal/v2/job-status/r", "ForgetJobStatus"),
            (Method::PUT, "/internal/v2/job-status/r", "405 GET DELETE"),
            (Method::GET, "/internal/v2/job-status/", "JobStatus"),
            (Method::GET, "/internal/v2/job-status", "404"),
            (Method::GET, "/internal/v2/job-status/r/failed-records", "FailedRecords"),
            (Method::GET, "/internal/v2/job-status/r/other", "404"),
            (Method::PUT, "/internal/drain/job/r", "DrainRun"),
        ] {
            assert_eq!(verdict_in(method, path, true), expected, "{path}");
        }
    }
}

//! Answers that are not about events: health, version, SDK settings (gateway.md 7.1 to 7.3, clients.md 2, 6).

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HOST, HeaderValue};
use hyper::http::request::Parts;
use jiff::Timestamp;
use serde_json::json;

use super::answer::{self, Answer, Refusal};
use super::server::Shared;

/// `/health`: whether the node takes events.
pub(super) fn health(shared: &Shared) -> Answer {
    if !shared.is_healthy() {
        return Refusal::NoDatabase.answer();
    }
    let changed = Timestamp::from_millisecond(shared.directory().snapshot.changed_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let body = json!({
        "appType": "EMBEDDED",
        "server": "UP",
        "db": "UP",
        "acceptingEvents": "TRUE",
        "routingEvents": if shared.about.routes_events { "TRUE" } else { "FALSE" },
        "mode": "NORMAL",
        "backendConfigMode": if shared.about.config_from_file { "JSON" } else { "API" },
        "lastSync": format!("{changed:.0}"),
        "lastRegulationSync": "",
    });
    answer::with_body(StatusCode::OK, answer::JSON, body.to_string())
}

/// `/version`: what runs here.
pub(super) fn version(shared: &Shared) -> Answer {
    let about = &shared.about;
    let body = json!({
        "BuildDate": about.build_date,
        "BuiltBy": about.built_by,
        "Commit": about.commit,
        "Features": ["gzip-req-payload"],
        "Version": about.version,
    });
    answer::with_body(StatusCode::OK, answer::JSON, body.to_string())
}

/// `/robots.txt`: nothing for crawlers.
pub(super) fn robots() -> Answer {
    answer::with_body(StatusCode::OK, answer::TEXT, Bytes::from_static(b"User-agent: * \nDisallow: / \n"))
}

/// `/cluster-info`: one node, as SDKs that spread their load ask.
pub(super) fn cluster_info() -> Answer {
    answer::with_body(StatusCode::OK, answer::JSON, Bytes::from_static(b"{\"nodeCount\":1}"))
}

/// Settings for Segment's browser SDK, which sends nothing without them.
pub(super) fn segment_settings(shared: &Shared, parts: &Parts) -> Answer {
    let write_key = parts.uri.path().split('/').nth(3).unwrap_or_default();
    if let Err(refusal) = shared.directory().by_write_key(write_key) {
        return refusal.answer();
    }
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The SDK sends to whatever stands here, so it is a name and nothing else.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    if !host.bytes().all(is_name) {
        return answer::refused(StatusCode::BAD_REQUEST, "invalid host");
    }
    let body = json!({
        "integrations": {
            "Segment.io": {"apiKey": write_key, "apiHost": format!("{host}/v1"), "protocol": "http"},
        },
    });
    let mut answer = answer::with_body(StatusCode::OK, answer::JSON, body.to_string());
    answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

//! The `ErrorResponse` of a status (router.md 7.5, 8.3), always a JSON object.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::drain::Reason;

/// Where an attempt went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorAt {
    /// The event could not be made into a request.
    Transformation,
    /// The destination did not take it.
    Delivery,
}

/// What the previous status says that later ones need.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Previous {
    /// When the job was first attempted.
    #[serde(default, rename = "firstAttemptedAt")]
    first_attempted_at: Value,
    /// The last attempt reached nobody.
    #[serde(default)]
    unreachable: Value,
}

impl Previous {
    /// Reads a stored object; anything else says nothing.
    pub fn read(stored: &[u8]) -> Previous {
        serde_json::from_slice(stored).unwrap_or_default()
    }

    /// When the job was first attempted, as stored.
    pub fn first_attempted_at(&self) -> Option<&str> {
        self.first_attempted_at.as_str()
    }

    /// The same in milliseconds since the epoch; `None` when it is missing or no time.
    pub fn first_attempted_ms(&self) -> Option<i64> {
        self.first_attempted_at()?.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
    }

    /// Whether the last attempt reached nobody.
    pub fn was_unreachable(&self) -> bool {
        self.unreachable == Value::Bool(true)
    }
}

/// The result of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// What is stored of the body.
    pub body: &'a str,
    /// The answer's content type, possibly empty.
    pub content_type: &'a str,
    /// When the job was first attempted, as text.
    pub first_attempted_at: &'a str,
    /// Where it went wrong; `None` = it did not.
    pub error_at: Option<ErrorAt>,
    /// Whether the stored payload stands for what was sent (`reportJobsdbPayload`).
    pub reports_stored_payload: bool,
    /// The destination warned, and the delivered payload is to be seen with the warning.
    pub keeps_warning_payload: bool,
    /// No connection came about.
    pub unreachable: bool,
    /// The job must not be batched again.
    pub dont_batch: bool,
}

#[derive(Serialize)]
struct Stored<'a> {
    response: &'a str,
    #[serde(rename = "firstAttemptedAt")]
    first_attempted_at: &'a str,
    #[serde(rename = "content-type")]
    content_type: &'a str,
    #[serde(rename = "routerSubStage", skip_serializing_if = "Option::is_none")]
    sub_stage: Option<&'static str>,
    #[serde(rename = "payloadStage", skip_serializing_if = "Option::is_none")]
    payload_stage: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unreachable: bool,
    #[serde(rename = "dontBatch", skip_serializing_if = "std::ops::Not::not")]
    dont_batch: bool,
}

/// The object after an attempt.
pub fn after_attempt(attempt: &Attempt<'_>) -> Vec<u8> {
    let payload_stage = match attempt.error_at {
        Some(ErrorAt::Delivery) if !attempt.reports_stored_payload => Some("delivery"),
        Some(_) => Some("router_input"),
        None => attempt.keeps_warning_payload.then_some("delivery"),
    };
    let stored = Stored {
        response: attempt.body.trim(),
        first_attempted_at: attempt.first_attempted_at,
        content_type: attempt.content_type,
        sub_stage: attempt.error_at.map(|at| match at {
            ErrorAt::Transformation => "router_dest_transformer",
            ErrorAt::Delivery => "router_dest_delivery",
        }),
        payload_stage,
        unreachable: attempt.unreachable,
        dont_batch: attempt.dont_batch,
    };
    serde_json::to_vec(&stored).unwrap_or_else(|_| b"{}".to_vec())
}

/// The object of a job that is given up without another attempt: the previous one and the reason.
pub fn after_drain(previous: &[u8], reason: Reason) -> Vec<u8> {
    let mut object: Map<String, Value> = serde_json::from_slice(previous).unwrap_or_default();
    object.insert("reason".to_owned(), Value::from(reason.text()));
    object.insert("payloadStage".to_owned(), Value::from("router_input"));
    serde_json::to_vec(&object).unwrap_or_else(|_| b"{}".to_vec())
}

/// The time of the first attempt that the next status carries: kept, unless it is missing or the last attempt
/// reached nobody, so that an outage never eats the retry window (7.4).
pub fn first_attempted_at(previous: &Previous, now: Timestamp, unreachable_counts: bool) -> String {
    let restarts = previous.was_unreachable() && !unreachable_counts;
    match previous.first_attempted_at().filter(|text| !restarts && !text.is_empty()) {
        Some(text) => text.to_owned(),
        None => time_text(now),
    }
}

/// A time as statuses write it: `2024-03-10T12:00:00.000Z`.
pub fn time_text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(error_at: Option<ErrorAt>) -> Attempt<'static> {
        Attempt {
            body: " text ",
            content_type: "text/plain",
            first_attempted_at: "t",
            error_at,
            reports_stored_payload: true,
            keeps_warning_payload: false,
            unreachable: false,
            dont_batch: false,
        }
    }

    #[test]
    fn the_object_says_where_an_attempt_went_wrong() {
        let text = |attempt: &Attempt<'_>| String::from_utf8(after_attempt(attempt)).unwrap();
        let base = r#"{"response":"text","firstAttemptedAt":"t","content-type":"text/plain""#;
        assert_eq!(text(&attempt(None)), format!("{base}}}"));
        assert_eq!(
            text(&Attempt { unreachable: true, ..attempt(Some(ErrorAt::Delivery)) }),
            format!(
                r#"{base},"routerSubStage":"router_dest_delivery","payloadStage":"router_input","unreachable":true}}"#
            )
        );
        assert_eq!(
            text(&Attempt { reports_stored_payload: false, ..attempt(Some(ErrorAt::Delivery)) }),
            format!(r#"{base},"routerSubStage":"router_dest_delivery","payloadStage":"delivery"}}"#)
        );
        assert_eq!(
            text(&Attempt { reports_stored_payload: false, ..attempt(Some(ErrorAt::Transformation)) }),
            format!(r#"{base},"routerSubStage":"router_dest_transformer","payloadStage":"router_input"}}"#)
        );
        assert_eq!(
            text(&Attempt { keeps_warning_payload: true, ..attempt(None) }),
            format!(r#"{base},"payloadStage":"delivery"}}"#)
        );
    }

    #[test]
    fn the_first_attempt_is_kept_but_restarts_after_an_outage() {
        let now: Timestamp = "2024-03-10T12:00:00Z".parse().unwrap();
        let text = |stored: &str, counts| first_attempted_at(&Previous::read(stored.as_bytes()), now, counts);
        let fresh = "2024-03-10T12:00:00.000Z";
        assert_eq!(text("{}", false), fresh);
        assert_eq!(text("not json", false), fresh);
        assert_eq!(text(r#"{"firstAttemptedAt":"x"}"#, false), "x");
        assert_eq!(text(r#"{"firstAttemptedAt":"x","unreachable":true}"#, false), fresh);
        assert_eq!(text(r#"{"firstAttemptedAt":"x","unreachable":true}"#, true), "x");
    }

    #[test]
    fn a_drained_job_keeps_what_was_known() {
        let stored = after_drain(br#"{"response":"boom"}"#, Reason::RetryLimit);
        let expected = r#"{"response":"boom","reason":"retry limit reached","payloadStage":"router_input"}"#;
        assert_eq!(String::from_utf8(stored).unwrap(), expected);
    }
}

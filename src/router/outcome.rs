//! How an attempt is stored: status, back-off, dead letter (router.md 7, 8.3; jobsdb.md 3.1, 8.1).

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

use super::backoff;
use super::drain::{DRAIN_CODE, Reason};
use super::error_response::{Attempt, ErrorAt, Previous, after_attempt, after_drain, first_attempted_at};
use super::retry_limit::{LastAttempt, Limit, reached_at_ms};
use super::status_table::{DELIVERED_WITH_WARNING, Verdict, is_success, stored_code, verdict};
use crate::jobsdb::{DeadLetter, EncodedJob, Job, JobsDb, Status};
use crate::settings::RouterTypeSettings;

/// What the router reads from a job's parameters.
#[derive(Clone, Debug, Default)]
pub struct JobFacts {
    /// The run that the job belongs to, possibly empty.
    pub job_run_id: String,
    /// The event's type, possibly empty.
    pub event_type: String,
    /// The category of the source, possibly empty.
    pub source_category: String,
    /// When the event was received, milliseconds since the epoch.
    pub received_ms: Option<i64>,
    /// The event still has to be transformed.
    pub untransformed: bool,
}

impl JobFacts {
    /// Reads the parameters; what is missing or of another type stays empty.
    pub fn read(parameters: &[u8]) -> JobFacts {
        #[derive(Default, Deserialize)]
        struct Known<'a> {
            #[serde(borrow, default)]
            source_job_run_id: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            event_type: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            source_category: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            received_at: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            transform_at: Option<Cow<'a, str>>,
        }
        let known: Known<'_> = serde_json::from_slice(parameters).unwrap_or_default();
        let text = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned).unwrap_or_default();
        let received = known.received_at.and_then(|text| text.parse::<Timestamp>().ok());
        JobFacts {
            job_run_id: text(known.source_job_run_id),
            event_type: text(known.event_type),
            source_category: text(known.source_category),
            received_ms: received.map(Timestamp::as_millisecond),
            untransformed: known.transform_at.as_deref() == Some("router"),
        }
    }
}

/// The result of an attempt, before it is judged.
#[derive(Clone, Debug, Default)]
pub struct Attempted {
    /// The code.
    pub code: i32,
    /// What is stored of the body.
    pub text: String,
    /// Content type of the answer, possibly empty.
    pub content_type: String,
    /// Where it went wrong, if it did.
    pub error_at: Option<ErrorAt>,
    /// No connection came about.
    pub unreachable: bool,
    /// The wait that the destination asked for.
    pub retry_after: Option<std::time::Duration>,
}

/// What the last status says of a job.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// Attempts so far.
    pub attempt: u32,
    /// The stored error response.
    pub error_response: &'a [u8],
}

impl<'a> Before<'a> {
    /// Reads it from a job; a job without status has made no attempt.
    pub fn of(job: &'a Job) -> Before<'a> {
        let status = job.last.as_ref().map(|last| &last.status);
        Before {
            attempt: status.map_or(0, |status| status.attempt),
            error_response: status.map_or(b"{}", |status| &status.error_response),
        }
    }
}

/// A judged attempt: its state and the code to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The state.
    pub verdict: Verdict,
    /// The code as text.
    pub code: String,
    /// A warning was stored as a plain success.
    pub downgraded: bool,
}

/// Judges a code; `keeps_warnings` leaves 296 as it is.
pub fn judge(code: i32, keeps_warnings: bool) -> Judged {
    let stored = stored_code(code, keeps_warnings);
    Judged { verdict: verdict(code), code: stored.to_string(), downgraded: stored != code }
}

/// The retry limit that holds for a job.
pub fn limit_of(settings: &RouterTypeSettings, job_run_id: &str) -> Limit {
    if job_run_id.is_empty() {
        Limit { window: settings.retry_time_window, attempts: settings.max_failed_count }
    } else {
        Limit { window: settings.sources_retry_time_window, attempts: settings.sources_max_failed_count }
    }
}

/// The status after an attempt.
pub fn status_after_attempt(
    attempted: &Attempted,
    judged: &Judged,
    before: &Before<'_>,
    job_run_id: &str,
    settings: &RouterTypeSettings,
    now: Timestamp,
) -> Status {
    let previous = Previous::read(before.error_response);
    let first = first_attempted_at(&previous, now, settings.unreachable_counts);
    let attempt = before.attempt.saturating_add(1);
    let drops_body = is_success(attempted.code) && !settings.save_destination_response;
    let error_response = after_attempt(&Attempt {
        body: if drops_body { "" } else { &attempted.text },
        content_type: &attempted.content_type,
        first_attempted_at: &first,
        error_at: attempted.error_at,
        reports_stored_payload: settings.report_jobsdb_payload,
        keeps_warning_payload: settings.store_delivered_with_warning_payload
            && attempted.code == DELIVERED_WITH_WARNING
            && !judged.downgraded,
        unreachable: attempted.unreachable,
        dont_batch: false,
    });
    let exec_ms = now.as_millisecond();
    let mut retry_ms = exec_ms;
    if judged.verdict == Verdict::Failed {
        let ordinary = backoff::delay(attempt, settings.min_retry_backoff, settings.max_retry_backoff);
        let asked = attempted.retry_after.filter(|_| settings.honor_retry_after);
        let delay = backoff::delay_as_asked(ordinary, asked, settings.max_retry_backoff);
        let due = exec_ms.saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
        let last = LastAttempt {
            error_code: &judged.code,
            attempt,
            first_attempted_ms: first.parse::<Timestamp>().ok().map(Timestamp::as_millisecond),
            unreachable: attempted.unreachable,
        };
        // A job that is given up anyway need not wait longer than until then.
        let given_up = reached_at_ms(&last, limit_of(settings, job_run_id), settings.unreachable_counts);
        retry_ms = given_up.map_or(due, |at| due.min(at)).max(exec_ms);
    }
    Status { attempt, exec_ms, retry_ms, error_code: judged.code.clone(), error_response, parameters: b"{}".to_vec() }
}

/// The status of a job that is given up without another attempt.
pub fn status_after_drain(before: &Before<'_>, reason: Reason, now_ms: i64) -> Status {
    Status {
        attempt: before.attempt,
        exec_ms: now_ms,
        retry_ms: now_ms,
        error_code: DRAIN_CODE.to_string(),
        error_response: after_drain(before.error_response, reason),
        parameters: b"{}".to_vec(),
    }
}

/// The dead letter of an aborted job.
pub fn dead_letter(jobs: &JobsDb, job: &Job, status: &Status, error: &str) -> EncodedJob {
    jobs.encode_dead_letter(&DeadLetter {
        partition: &job.partition,
        user_id: &job.user_id,
        parameters: &job.parameters,
        payload: &job.payload,
        event_count: job.event_count,
        stage: "router",
        status_code: status.error_code.parse().unwrap_or_default(),
        error,
        attempt: status.attempt,
        first_attempted_at: Previous::read(&status.error_response).first_attempted_at(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn now() -> Timestamp {
        "2024-03-10T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_job_that_will_be_given_up_is_due_at_that_moment() {
        let settings = Settings::defaults().router.of_type("WEBHOOK");
        let attempted = Attempted { code: 500, error_at: Some(ErrorAt::Delivery), ..Attempted::default() };
        let retry_after = |before: &str, attempt: u32| {
            let before = Before { attempt, error_response: before.as_bytes() };
            let status = status_after_attempt(&attempted, &judge(500, false), &before, "", &settings, now());
            (status.attempt, status.retry_ms - status.exec_ms)
        };
        assert_eq!(retry_after("{}", 0), (1, 10_000));
        assert_eq!(retry_after("{}", 9), (10, 300_000));
        assert_eq!(retry_after(r#"{"firstAttemptedAt":"2024-03-10T09:01:00.000Z"}"#, 9), (10, 60_001));
        assert_eq!(retry_after(r#"{"firstAttemptedAt":"2024-03-10T01:00:00.000Z"}"#, 9), (10, 0));
        assert_eq!(retry_after(r#"{"firstAttemptedAt":"2024-03-10T01:00:00.000Z"}"#, 1), (2, 20_000));
    }

    #[test]
    fn parameters_are_read_leniently() {
        let facts = JobFacts::read(br#"{"event_type":"track","transform_at":"router","received_at":"2024-03-10T12:00:00.000Z","record_id":{"a":1}}"#);
        assert!(facts.untransformed && facts.job_run_id.is_empty());
        assert_eq!((facts.event_type.as_str(), facts.received_ms), ("track", Some(now().as_millisecond())));
        assert!(JobFacts::read(b"[]").event_type.is_empty());
    }
}

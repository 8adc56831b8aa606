//! From the result of an upload to the state of its jobs (router.md 19.5, 7.7).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::jobsdb::{JobState, LastStatus};

/// How an attempt to store a file ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The object is in the storage.
    Uploaded,
    /// Nothing may leave the node; counted as done.
    EgressDisabled,
    /// Nobody here knows this storage.
    Unsupported(&'a str),
    /// What was to be delivered, or where, cannot be right: no use in trying again.
    Rejected(&'a str),
    /// Anything else.
    Failed {
        /// What the storage or the node said.
        error: &'a str,
        /// No connection came about: the attempt does not use up the retry limit.
        unreachable: bool,
    },
}

impl Verdict<'_> {
    /// Whether the jobs are done, so that nothing about them needs to be kept.
    pub fn is_success(self) -> bool {
        matches!(self, Verdict::Uploaded | Verdict::EgressDisabled)
    }
}

/// What is remembered of earlier attempts of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Previous {
    /// Attempts so far.
    pub attempt: u32,
    /// When the first attempt that counts was made, milliseconds since the epoch.
    pub first_attempted_ms: Option<i64>,
    /// The last attempt did not reach the storage.
    pub unreachable: bool,
}

/// When a job is given up: both bounds must be passed.
#[derive(Clone, Copy, Debug)]
pub struct RetryLimit {
    /// Least number of attempts.
    pub attempts: u32,
    /// Least time since the first one.
    pub window: Duration,
}

/// The state that a job gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// Succeeded, failed or aborted.
    pub state: JobState,
    /// Attempts, this one included.
    pub attempt: u32,
    /// `""` or `"410"`.
    pub error_code: &'static str,
    /// JSON object.
    pub response: Map<String, Value>,
}

/// Members of an error response that later attempts read.
#[derive(serde::Deserialize)]
struct Remembered {
    #[serde(default, rename = "firstAttemptedAt")]
    first_attempted_at: Option<String>,
    #[serde(default)]
    unreachable: bool,
}

impl Previous {
    /// Reads it from the stored status.
    pub fn of(last: Option<&LastStatus>) -> Previous {
        let Some(last) = last else { return Previous::default() };
        let remembered = serde_json::from_slice::<Remembered>(&last.status.error_response).ok();
        let first = remembered.as_ref().and_then(|response| response.first_attempted_at.as_deref());
        Previous {
            attempt: last.status.attempt,
            first_attempted_ms: first.and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_millisecond),
            unreachable: remembered.is_some_and(|response| response.unreachable),
        }
    }

    /// The start of the retry window as of an attempt at `now_ms`: attempts that reached nobody do not open it.
    pub fn window_start_ms(&self, now_ms: i64) -> i64 {
        self.first_attempted_ms.filter(|_| !self.unreachable).unwrap_or(now_ms)
    }

    /// Whether another failure gives the job up.
    pub fn limit_reached(&self, limit: RetryLimit, now_ms: i64) -> bool {
        let window = i64::try_from(limit.window.as_millis()).unwrap_or(i64::MAX);
        now_ms.saturating_sub(self.window_start_ms(now_ms)) > window && self.attempt >= limit.attempts
    }
}

/// The state that the verdict gives to a job with this history.
pub fn resolve(verdict: Verdict<'_>, previous: Previous, limit: RetryLimit, now_ms: i64) -> Resolved {
    let mut response = Map::new();
    let (state, error_code) = match verdict {
        Verdict::Uploaded => {
            response.insert("success".to_owned(), "OK".into());
            (JobState::Succeeded, "")
        }
        Verdict::EgressDisabled => {
            response.insert("success".to_owned(), "200: outgoing disabled".into());
            (JobState::Succeeded, "")
        }
        Verdict::Unsupported(provider) => {
            response.insert("reason".to_owned(), unsupported_reason(provider).into());
            (JobState::Aborted, "")
        }
        Verdict::Rejected(error) => {
            response.insert("Error".to_owned(), error.into());
            (JobState::Aborted, "400")
        }
        Verdict::Failed { error, unreachable } => {
            response.insert("Error".to_owned(), error.into());
            if unreachable {
                response.insert("unreachable".to_owned(), true.into());
                (JobState::Failed, "")
            } else if previous.limit_reached(limit, now_ms) {
                (JobState::Aborted, "410")
            } else {
                (JobState::Failed, "")
            }
        }
    };
    response.insert("firstAttemptedAt".to_owned(), time_text(previous.window_start_ms(now_ms)).into());
    Resolved { state, attempt: previous.attempt.saturating_add(1), error_code, response }
}

/// Why a job of an unknown storage is given up.
pub fn unsupported_reason(provider: &str) -> String {
    format!("service provider not supported: {provider}")
}

/// A moment as statuses write it: three fractional digits, UTC.
pub fn time_text(ms: i64) -> String {
    let moment = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobsdb::Status;

    const LIMIT: RetryLimit = RetryLimit { attempts: 128, window: Duration::from_secs(10_800) };
    const NOW: i64 = 1_700_000_000_000;

    fn after(attempt: u32, ago_s: Option<i64>) -> Previous {
        Previous { attempt, first_attempted_ms: ago_s.map(|s| NOW - s * 1000), unreachable: false }
    }

    #[test]
    fn a_job_is_given_up_only_when_both_bounds_are_passed() {
        let denied = Verdict::Failed { error: "denied", unreachable: false };
        for (previous, state, code) in [
            (after(0, None), JobState::Failed, ""),
            (after(200, None), JobState::Failed, ""),
            (after(128, Some(10_800)), JobState::Failed, ""),
            (after(128, Some(10_801)), JobState::Aborted, "410"),
            (after(127, Some(99_999)), JobState::Failed, ""),
        ] {
            let resolved = resolve(denied, previous, LIMIT, NOW);
            assert_eq!((resolved.state, resolved.error_code), (state, code), "{previous:?}");
            assert_eq!(resolved.attempt, previous.attempt + 1);
            assert_eq!(resolved.response["Error"], "denied");
        }
    }

    #[test]
    fn an_unreachable_storage_never_gives_a_job_up() {
        let gone = Verdict::Failed { error: "refused", unreachable: true };
        let resolved = resolve(gone, after(500, Some(99_999)), LIMIT, NOW);
        assert_eq!(resolved.state, JobState::Failed);
        assert_eq!(resolved.response["unreachable"], true);
        let back = Previous { unreachable: true, ..after(500, Some(99_999)) };
        let denied = resolve(Verdict::Failed { error: "denied", unreachable: false }, back, LIMIT, NOW);
        assert_eq!(denied.state, JobState::Failed, "the window restarts with the first answer");
        assert_eq!(denied.response["firstAttemptedAt"], time_text(NOW));
    }

    #[test]
    fn an_unknown_storage_gives_its_jobs_up_at_once() {
        let resolved = resolve(Verdict::Unsupported("FTP"), after(0, None), LIMIT, NOW);
        assert_eq!((resolved.state, resolved.error_code), (JobState::Aborted, ""));
        assert_eq!(resolved.response["reason"], "service provider not supported: FTP");
    }

    #[test]
    fn history_is_read_back_from_the_status_it_was_written_to() {
        let resolved = resolve(Verdict::Failed { error: "x", unreachable: false }, after(3, Some(60)), LIMIT, NOW);
        let status = Status {
            attempt: resolved.attempt,
            error_response: serde_json::to_vec(&resolved.response).unwrap(),
            ..Status::default()
        };
        let read = Previous::of(Some(&LastStatus { state: JobState::Failed, status }));
        assert_eq!(read, Previous { attempt: 4, first_attempted_ms: Some(NOW - 60_000), unreachable: false });
        assert_eq!(time_text(1_709_251_198_007), "2024-02-29T23:59:58.007Z");
    }
}

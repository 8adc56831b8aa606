//! Jobs that are given up, kept for the operator (jobsdb.md 8.1).

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::jobsdb::{EncodedJob, Job, JobsDb, NewJob, Partition, Queue};

use super::result::time_text;

/// Longest error text that is kept, in bytes.
const MAX_ERROR_BYTES: usize = 10 << 10;

/// Parameters of the job that the dead letter keeps.
const KEPT: [&str; 10] = [
    "source_id",
    "destination_id",
    "source_job_run_id",
    "source_task_run_id",
    "record_id",
    "connection_id",
    "message_id",
    "event_name",
    "event_type",
    "transform_at",
];

/// What a dead letter takes from its job, apart from the payload. Copied, so that no payload is held by it.
#[derive(Clone, Debug)]
pub(super) struct LetterParts {
    user_id: String,
    parameters: Vec<u8>,
    event_count: u32,
}

/// Why the job was given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure<'a> {
    pub(super) status_code: u16,
    pub(super) error: &'a str,
    pub(super) attempt: u32,
    pub(super) first_attempted_ms: i64,
}

impl LetterParts {
    pub(super) fn of(job: &Job) -> LetterParts {
        LetterParts { user_id: job.user_id.clone(), parameters: job.parameters.to_vec(), event_count: job.event_count }
    }

    /// The job for the queue of dead letters.
    pub(super) fn encode(
        &self,
        jobs: &JobsDb,
        partition: &Partition,
        payload: &[u8],
        failure: Failure<'_>,
    ) -> EncodedJob {
        let parameters = Value::Object(self.letter_parameters(failure)).to_string();
        jobs.encode(
            Queue::ProcError,
            &NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: &partition.workspace_id,
                custom_val: &partition.custom_val,
                source_id: &partition.source_id,
                destination_id: &partition.destination_id,
                user_id: &self.user_id,
                parameters: parameters.as_bytes(),
                payload: &[payload],
                event_count: self.event_count,
            },
        )
    }

    fn letter_parameters(&self, failure: Failure<'_>) -> Map<String, Value> {
        let mut of_job: Map<String, Value> = serde_json::from_slice(&self.parameters).unwrap_or_default();
        let mut parameters = Map::new();
        for name in KEPT {
            if let Some(value) = of_job.remove(name) {
                parameters.insert(name.to_owned(), value);
            }
        }
        parameters.insert("stage".to_owned(), "batch_router".into());
        parameters.insert("status_code".to_owned(), failure.status_code.into());
        parameters.insert("error".to_owned(), cut_text(failure.error, MAX_ERROR_BYTES).into());
        parameters.insert("attempt".to_owned(), failure.attempt.into());
        parameters.insert("first_attempted_at".to_owned(), time_text(failure.first_attempted_ms).into());
        parameters
    }
}

/// The text's beginning, at most this long, not cut within a character.
pub(super) fn cut_text(text: &str, max_bytes: usize) -> &str {
    let end = (0..=max_bytes.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_says_what_failed_where_and_how_often() {
        let parts = LetterParts {
            user_id: "u".to_owned(),
            parameters: br#"{"source_id":"s","message_id":"m","record_id":{"n":1},"received_at":"x"}"#.to_vec(),
            event_count: 1,
        };
        let failure = Failure { status_code: 410, error: "gone", attempt: 4, first_attempted_ms: 0 };
        let expected = serde_json::json!({
            "source_id": "s", "record_id": {"n": 1}, "message_id": "m", "stage": "batch_router", "status_code": 410,
            "error": "gone", "attempt": 4, "first_attempted_at": "1970-01-01T00:00:00.000Z",
        });
        assert_eq!(Value::Object(parts.letter_parameters(failure)), expected);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut_text("h\u{e9}llo", 2), "h");
        assert_eq!(cut_text("h\u{e9}llo", 3), "h\u{e9}");
        assert_eq!(cut_text("short", 100), "short");
    }
}

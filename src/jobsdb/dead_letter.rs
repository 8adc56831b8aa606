//! Jobs that are given up, kept for the operator (jobsdb.md 8.1): what the dead letter of a delivery holds.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::JobsDb;
use super::api::{EncodedJob, NewJob, Partition, Queue};

/// Longest error text that is kept, in bytes.
const LONGEST_ERROR: usize = 10 << 10;

/// A job that was given up, and why.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetter<'a> {
    /// Where the job belongs.
    pub partition: &'a Partition,
    /// The job's user.
    pub user_id: &'a str,
    /// The job's parameters.
    pub parameters: &'a [u8],
    /// The job's payload.
    pub payload: &'a [u8],
    /// Events in it.
    pub event_count: u32,
    /// Who gave it up: `router`, `batch_router`.
    pub stage: &'a str,
    /// The code that it ended with.
    pub status_code: i64,
    /// What went wrong; kept up to 10 KiB.
    pub error: &'a str,
    /// Attempts that were made.
    pub attempt: u32,
    /// When the first one was made, RFC 3339, if one was.
    pub first_attempted_at: Option<&'a str>,
}

impl DeadLetter<'_> {
    /// Parameters of the job that the dead letter keeps, and that the job gets back when it is replayed.
    pub const KEPT: [&'static str; 10] = [
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

    fn parameters(&self) -> Map<String, Value> {
        let mut of_job: Map<String, Value> = serde_json::from_slice(self.parameters).unwrap_or_default();
        let mut parameters = Map::new();
        for name in Self::KEPT {
            if let Some(value) = of_job.remove(name) {
                parameters.insert(name.to_owned(), value);
            }
        }
        let error = self.error.get(..self.error.floor_char_boundary(LONGEST_ERROR)).unwrap_or(self.error);
        parameters.insert("stage".to_owned(), self.stage.into());
        parameters.insert("status_code".to_owned(), self.status_code.into());
        parameters.insert("error".to_owned(), error.into());
        parameters.insert("attempt".to_owned(), self.attempt.into());
        if let Some(first) = self.first_attempted_at {
            parameters.insert("first_attempted_at".to_owned(), first.into());
        }
        parameters
    }
}

impl JobsDb {
    /// The job for the queue of dead letters.
    pub fn encode_dead_letter(&self, letter: &DeadLetter<'_>) -> EncodedJob {
        let parameters = Value::Object(letter.parameters()).to_string();
        self.encode(
            Queue::ProcError,
            &NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: &letter.partition.workspace_id,
                custom_val: &letter.partition.custom_val,
                source_id: &letter.partition.source_id,
                destination_id: &letter.partition.destination_id,
                user_id: letter.user_id,
                parameters: parameters.as_bytes(),
                payload: &[letter.payload],
                event_count: letter.event_count,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_dead_letter_says_what_failed_where_and_how_often() {
        let long = "\u{e9}".repeat(LONGEST_ERROR);
        let mut letter = DeadLetter {
            partition: &Partition::default(),
            user_id: "u",
            parameters: br#"{"source_id":"s","message_id":"m","record_id":{"n":1},"received_at":"x"}"#,
            payload: b"{}",
            event_count: 1,
            stage: "router",
            status_code: 410,
            error: "gone",
            attempt: 4,
            first_attempted_at: Some("1970-01-01T00:00:00.000Z"),
        };
        let expected = json!({
            "source_id": "s", "record_id": {"n": 1}, "message_id": "m", "stage": "router", "status_code": 410,
            "error": "gone", "attempt": 4, "first_attempted_at": "1970-01-01T00:00:00.000Z",
        });
        assert_eq!(Value::Object(letter.parameters()), expected);
        (letter.error, letter.first_attempted_at) = (&long, None);
        let parameters = letter.parameters();
        assert_eq!(parameters["error"].as_str().unwrap().len(), LONGEST_ERROR);
        assert!(!parameters.contains_key("first_attempted_at"));
    }
}

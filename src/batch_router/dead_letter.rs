//! What a dead letter takes from a job whose payload is in a file by now (jobsdb.md 8.1).

use crate::jobsdb::{DeadLetter, EncodedJob, Job, JobsDb, Partition};

use super::result::time_text;

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
        jobs.encode_dead_letter(&DeadLetter {
            partition,
            user_id: &self.user_id,
            parameters: &self.parameters,
            payload,
            event_count: self.event_count,
            stage: "batch_router",
            status_code: failure.status_code.into(),
            error: failure.error,
            attempt: failure.attempt,
            first_attempted_at: Some(&time_text(failure.first_attempted_ms)),
        })
    }
}

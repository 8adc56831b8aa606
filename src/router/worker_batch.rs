//! Several requests of one worker batch (router.md 4.7): what is still sent after a failure, and what becomes of
//! the jobs. Pure rules over job ids and order keys.

use std::collections::{HashMap, HashSet};

use super::status_table::{Verdict, verdict};

/// Code of a job that was not sent because an earlier one of its user failed.
pub const SKIPPED_CODE: i32 = 500;
/// Body of such a job.
pub const SKIPPED_TEXT: &str = "skipping sending to destination because previous job (of user) in batch failed.";

/// A job of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchJob {
    /// Its id.
    pub id: u64,
    /// Its order key.
    pub key: String,
    /// Whether order matters for it: ordering is on and not disabled for its key.
    pub ordered: bool,
}

/// A request of a batch: one or more jobs that share one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRequest {
    /// The jobs.
    pub jobs: Vec<BatchJob>,
}

impl BatchRequest {
    /// The lowest id of its jobs, by which requests are handled in order.
    pub fn lowest_job(&self) -> u64 {
        self.jobs.iter().map(|job| job.id).min().unwrap_or(u64::MAX)
    }
}

/// The order in which requests are handled: by their lowest job id.
pub fn sort(requests: &mut [BatchRequest]) {
    requests.sort_by_key(BatchRequest::lowest_job);
}

/// Remembers which keys failed earlier in the batch.
#[derive(Debug, Default)]
pub struct FailedKeys(HashSet<String>);

impl FailedKeys {
    /// Whether the request must not be sent.
    pub fn hold_back(&self, request: &BatchRequest) -> bool {
        request.jobs.iter().any(|job| job.ordered && self.0.contains(&job.key))
    }

    /// Takes note of how a request ended.
    pub fn ended(&mut self, request: &BatchRequest, code: i32) {
        if verdict(code) == Verdict::Failed {
            self.0.extend(request.jobs.iter().filter(|job| job.ordered).map(|job| job.key.clone()));
        }
    }
}

/// What becomes of a job of the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As its code says.
    ByCode,
    /// Back to the queue, unchanged, behind this job.
    Waits {
        /// The first retryable job of the same key.
        behind: u64,
    },
}

/// The fates of jobs with their keys and codes: per key only the first retryable one counts as failed.
///
/// The answer is in ascending job id.
pub fn fates(results: &[(u64, String, i32)]) -> Vec<(u64, Fate)> {
    let mut ascending: Vec<&(u64, String, i32)> = results.iter().collect();
    ascending.sort_by_key(|(id, ..)| *id);
    let mut first_failed: HashMap<&str, u64> = HashMap::new();
    let mut fates = Vec::with_capacity(ascending.len());
    for (id, key, code) in ascending {
        if verdict(*code) != Verdict::Failed {
            fates.push((*id, Fate::ByCode));
            continue;
        }
        let behind = *first_failed.entry(key.as_str()).or_insert(*id);
        fates.push((*id, if behind == *id { Fate::ByCode } else { Fate::Waits { behind } }));
    }
    fates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(jobs: &[(u64, &str)]) -> BatchRequest {
        let jobs = jobs.iter().map(|(id, key)| BatchJob { id: *id, key: (*key).to_owned(), ordered: true });
        BatchRequest { jobs: jobs.collect() }
    }

    #[test]
    fn a_request_is_held_back_when_one_of_its_users_failed_before() {
        let mut requests = vec![request(&[(3, "A"), (2, "C")]), request(&[(1, "A")]), request(&[(4, "B")])];
        sort(&mut requests);
        assert_eq!(requests[0], request(&[(1, "A")]));
        let mut failed = FailedKeys::default();
        failed.ended(&requests[0], 503);
        assert!(failed.hold_back(&requests[1]) && !failed.hold_back(&requests[2]));
        failed.ended(&requests[1], SKIPPED_CODE);
        assert!(failed.hold_back(&request(&[(9, "C")])));
        let mut unordered = request(&[(9, "C")]);
        unordered.jobs[0].ordered = false;
        assert!(!failed.hold_back(&unordered));
    }

    #[test]
    fn only_the_first_retryable_job_of_a_key_fails() {
        let results =
            [(2, "A".to_owned(), 500), (1, "A".to_owned(), 429), (3, "B".to_owned(), 500), (4, "A".to_owned(), 400)];
        assert_eq!(
            fates(&results),
            [(1, Fate::ByCode), (2, Fate::Waits { behind: 1 }), (3, Fate::ByCode), (4, Fate::ByCode)]
        );
    }
}

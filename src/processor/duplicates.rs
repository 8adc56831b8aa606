//! The deduplication stage over the store: keys as hashes, windows as the settings say (processor.md 3.7).

use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::dedup::{Claims, InFlight};
use crate::jobsdb::{JobsDb, JobsDbError};

/// Finds duplicates for one read.
pub struct Duplicates<'a> {
    jobs: &'a JobsDb,
    window: Duration,
    claims: Claims<u128>,
}

impl<'a> Duplicates<'a> {
    /// Over the keys of this store and those in flight.
    pub fn new(jobs: &'a JobsDb, in_flight: &Arc<InFlight<u128>>, window: Duration) -> Duplicates<'a> {
        Duplicates { jobs, window, claims: Claims::new(in_flight) }
    }

    /// Whether an event is a duplicate. Its key is the message id with the job run behind it, whatever source
    /// it is of. An event without a message id never is.
    pub(super) fn is_duplicate(&mut self, message_id: &str, job_run_id: &str) -> Result<bool, JobsDbError> {
        if message_id.is_empty() {
            return Ok(false);
        }
        let mut hasher = Xxh3::with_seed(self.jobs.salt());
        hasher.update(message_id.as_bytes());
        hasher.update(job_run_id.as_bytes());
        let key = hasher.digest128();
        let (jobs, window) = (self.jobs, self.window);
        let is_stored = || Ok(jobs.dedup_seen(&[key], window)?.first().copied().unwrap_or_default());
        self.claims.claim(&key, is_stored).map(|is_new| !is_new)
    }

    /// The keys claimed since the last call.
    pub(super) fn take_claims(&mut self) -> Claims<u128> {
        self.claims.split_off()
    }
}

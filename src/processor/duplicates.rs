//! The deduplication stage over the store: keys as hashes, windows as the settings say (processor.md 3.7).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::dedup::{Claims, InFlight};
use crate::jobsdb::{JobsDb, JobsDbError};

/// Finds duplicates for one read.
pub struct Duplicates<'a> {
    jobs: &'a JobsDb,
    window: Duration,
    in_flight: Arc<InFlight<u128>>,
    /// Keys of this read that are new, until their first event takes them.
    new: HashMap<u128, Claims<u128>>,
    claims: Claims<u128>,
}

impl<'a> Duplicates<'a> {
    /// Over the keys of this store and those in flight.
    pub fn new(jobs: &'a JobsDb, in_flight: &Arc<InFlight<u128>>, window: Duration) -> Duplicates<'a> {
        Duplicates {
            jobs,
            window,
            in_flight: Arc::clone(in_flight),
            new: HashMap::new(),
            claims: Claims::new(in_flight),
        }
    }

    /// The key of an event: the message id with the job run behind it, whatever source it is of; `None` without
    /// a message id.
    pub(super) fn key(&self, message_id: &str, job_run_id: &str) -> Option<u128> {
        if message_id.is_empty() {
            return None;
        }
        let mut hasher = Xxh3::with_seed(self.jobs.salt());
        hasher.update(message_id.as_bytes());
        hasher.update(job_run_id.as_bytes());
        Some(hasher.digest128())
    }

    /// Claims the keys of a read's events and looks them up in the store, all at once.
    pub(super) fn look_up(&mut self, keys: impl IntoIterator<Item = u128>) -> Result<(), JobsDbError> {
        for key in keys {
            let mut claim = Claims::new(&self.in_flight);
            if claim.hold(&key) {
                self.new.insert(key, claim);
            }
        }
        let held: Vec<u128> = self.new.keys().copied().collect();
        for (key, is_stored) in held.iter().zip(self.jobs.dedup_seen(&held, self.window)?) {
            if is_stored {
                self.new.remove(key);
            }
        }
        Ok(())
    }

    /// Whether an event whose key was looked up is a duplicate. One without a key never is.
    pub(super) fn is_duplicate(&mut self, key: Option<u128>) -> bool {
        let Some(key) = key else { return false };
        match self.new.remove(&key) {
            Some(claim) => {
                self.claims.absorb(claim);
                false
            }
            None => true,
        }
    }

    /// The keys of the events that were new since the last call.
    pub(super) fn take_claims(&mut self) -> Claims<u128> {
        self.claims.split_off()
    }
}

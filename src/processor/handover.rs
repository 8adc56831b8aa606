//! The hand-over: what one read produced, together with the end of its gateway jobs, in one transaction
//! (processor.md 11, jobsdb.md 4.1).
//!
//! A read is split into several transactions only where one would be larger than half of
//! `Storage.maxTxBytes`, between gateway jobs where that is possible. The outputs of one gateway job larger
//! than that go ahead of its end, so that a crash in between repeats them and loses nothing.

use super::dedup::Claims;
use crate::jobsdb::{Durability, EncodedJob, Lease, Outcome, Queue, Tx};

/// Transactions in the order in which they must be committed.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) parts: Vec<Part>,
    limit: u64,
}

/// Message ids of one gateway job, to be remembered until a time in milliseconds since the epoch.
pub(super) struct MessageIds {
    pub(super) claims: Claims<u128>,
    pub(super) expiry_ms: i64,
}

/// One transaction and the leases that it ends.
#[derive(Debug)]
pub(super) struct Part {
    tx: Tx,
    pub(super) leases: Vec<Lease>,
    /// Message ids that end with this transaction: dropped when its fate is known.
    claims: Vec<Claims<u128>>,
    bytes: u64,
}

impl Part {
    fn new() -> Part {
        Part { tx: Tx::new(Durability::Lazy), leases: Vec::new(), claims: Vec::new(), bytes: 0 }
    }

    /// The transaction, for the commit; what it ends stays here until the verdict.
    pub(super) fn take_tx(&mut self) -> Tx {
        std::mem::replace(&mut self.tx, Tx::new(Durability::Lazy))
    }
}

impl Handover {
    /// An empty hand-over whose transactions may have this many bytes.
    pub(super) fn new(max_tx_bytes: u64) -> Handover {
        Handover { parts: vec![Part::new()], limit: (max_tx_bytes / 2).max(1) }
    }

    /// Adds a gateway job: what it became, and its end. Returns the bytes added.
    pub(super) fn add(&mut self, lease: Lease, outputs: &mut Vec<(Queue, EncodedJob)>, ids: Option<MessageIds>) -> u64 {
        let bytes: u64 = outputs.iter().map(|(_, job)| job.stored_bytes() as u64).sum();
        if self.last().bytes > 0 && self.last().bytes + bytes > self.limit {
            self.parts.push(Part::new());
        }
        let limit = self.limit;
        for (queue, job) in outputs.drain(..) {
            let size = job.stored_bytes() as u64;
            if self.last().bytes > 0 && self.last().bytes + size > limit {
                self.parts.push(Part::new());
            }
            let part = self.last();
            part.bytes += size;
            part.tx.append(queue, job);
        }
        let part = self.last();
        part.tx.finish(lease, Outcome::Succeeded);
        part.leases.push(lease);
        if let Some(MessageIds { claims, expiry_ms }) = ids {
            for key in claims.keys() {
                part.tx.dedup_put(*key, expiry_ms);
            }
            part.claims.push(claims);
        }
        bytes
    }

    /// The leases of every part.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.parts.iter().flat_map(|part| part.leases.iter().copied()).collect()
    }

    fn last(&mut self) -> &mut Part {
        if self.parts.is_empty() {
            self.parts.push(Part::new());
        }
        let at = self.parts.len() - 1;
        // The list is not empty, so that there is a last part.
        #[allow(clippy::indexing_slicing, reason = "the list was filled above")]
        &mut self.parts[at]
    }
}

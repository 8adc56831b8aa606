//! The hand-over: what one read produced, together with the end of its gateway jobs, in one transaction
//! (processor.md 11, jobsdb.md 4.1).
//!
//! A read is split into several transactions only where one would be larger than half of
//! `Storage.maxTxBytes`, between gateway jobs where that is possible. The outputs of one gateway job larger
//! than that go ahead of its end, so that a crash in between repeats them and loses nothing.

use super::dedup::Claims;
use super::run_tally::RunTally;
use crate::jobsdb::{Durability, EncodedJob, Lease, Outcome, Queue, Tx};

/// Transactions in the order in which they must be committed.
#[derive(Debug)]
pub(super) struct Handover {
    full: Vec<Part>,
    open: Part,
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
        Handover { full: Vec::new(), open: Part::new(), limit: (max_tx_bytes / 2).max(1) }
    }

    /// Adds a gateway job: what it became, and its end. Returns the bytes added.
    pub(super) fn add(
        &mut self,
        lease: Lease,
        outputs: &mut Vec<(Queue, EncodedJob)>,
        ids: Option<MessageIds>,
        run: RunTally,
    ) -> u64 {
        let bytes: u64 = outputs.iter().map(|(_, job)| job.stored_bytes() as u64).sum();
        self.make_room(bytes);
        for (queue, job) in outputs.drain(..) {
            let size = job.stored_bytes() as u64;
            self.make_room(size);
            self.open.bytes += size;
            self.open.tx.append(queue, job);
        }
        let of_run = run.put(&mut self.open.tx);
        self.open.tx.finish_of_run(lease, Outcome::Succeeded, of_run);
        self.open.leases.push(lease);
        if let Some(MessageIds { claims, expiry_ms }) = ids {
            for key in claims.keys() {
                self.open.tx.dedup_put(*key, expiry_ms);
            }
            self.open.claims.push(claims);
        }
        bytes
    }

    /// The transactions, in order.
    pub(super) fn into_parts(self) -> impl Iterator<Item = Part> {
        self.full.into_iter().chain(std::iter::once(self.open))
    }

    /// The leases of every transaction.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.full.iter().chain(std::iter::once(&self.open)).flat_map(|part| part.leases.iter().copied()).collect()
    }

    /// Begins a new transaction when the open one holds something and these bytes would make it too large.
    fn make_room(&mut self, bytes: u64) {
        if self.open.bytes > 0 && self.open.bytes + bytes > self.limit {
            self.full.push(std::mem::replace(&mut self.open, Part::new()));
        }
    }
}

//! The memory that all requests together may hold (security.md 2.1): bodies, and heads beyond their first part.
//! It is taken as bytes arrive and never waited for, so two half-read bodies cannot wait for each other.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bound in bytes and what is taken of it.
#[derive(Debug)]
pub(super) struct Budget {
    taken: AtomicU64,
    limit: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget { taken: AtomicU64::new(0), limit }
    }

    /// Takes bytes, or nothing when they do not fit.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.limit;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes taken now.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Bytes of a budget that are given back when this is dropped.
pub(super) struct Charge<'b> {
    budget: &'b Budget,
    bytes: u64,
}

impl<'b> Charge<'b> {
    pub(super) fn new(budget: &'b Budget) -> Charge<'b> {
        Charge { budget, bytes: 0 }
    }

    /// Takes more bytes; false when they do not fit.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let fits = self.budget.take(bytes as u64);
        if fits {
            self.bytes += bytes as u64;
        }
        fits
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

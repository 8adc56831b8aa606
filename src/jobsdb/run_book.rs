//! The counters of runs as the writer keeps them: all rows in memory, those that changed written with the batch
//! that changed them.
//!
//! Bounded by `Rsources.maxRuns`: what would need another row is not counted, and that is told.

use std::collections::{BTreeMap, BTreeSet};

use super::api::{Namespace, Outcome};
use super::runs::{RunChange, RunOfJob, RunRecord, RunStats, namespaced, run_part};
use crate::settings::RunSettings;
use crate::storage::{Batch, Family, Storage, StorageError, codec};

/// The code of a record that was given up without one.
const NO_CODE: i64 = 500;

pub(super) struct RunBook {
    rows: BTreeMap<Vec<u8>, RunRecord>,
    /// When a record of a run was last kept, by what the keys of the run begin with.
    failed_runs: BTreeMap<Vec<u8>, i64>,
    /// Rows and runs with failed records that the batch has changed.
    changed_rows: BTreeSet<Vec<u8>>,
    changed_failed_runs: BTreeSet<Vec<u8>>,
    most: usize,
    keeps_failed: bool,
}

impl RunBook {
    /// Reads all rows.
    pub fn restore(storage: &Storage, settings: &RunSettings) -> Result<RunBook, StorageError> {
        let mut book = RunBook {
            rows: BTreeMap::new(),
            failed_runs: BTreeMap::new(),
            changed_rows: BTreeSet::new(),
            changed_failed_runs: BTreeSet::new(),
            most: settings.max_rows,
            keeps_failed: settings.keeps_failed_records,
        };
        let (from, to) = (Namespace::Rsources as u8, Namespace::FailedKeys as u8);
        let mut scan = storage.scan(Family::Records, &[from], &[to])?;
        while let Some((key, value)) = scan.next_entry()? {
            let record = codec::decode("run counters", value)?;
            book.rows.insert(key.get(1..).unwrap_or_default().to_vec(), record);
        }
        // Heads only: each is followed by as many records as have failed, which are stepped over by a new scan.
        let mut from = vec![Namespace::FailedKeys as u8];
        loop {
            let mut scan = storage.scan(Family::Records, &from, &[Namespace::FailedKeys as u8 + 1])?;
            let Some((key, value)) = scan.next_entry()? else { break };
            let run = run_part(key.get(1..).unwrap_or_default()).to_vec();
            from = namespaced(Namespace::FailedKeys, &run);
            // A head has no more than the run in its key.
            let updated_ms = if key.len() == from.len() { codec::decode("failed run", value)? } else { 0 };
            from = end_of(&from);
            book.failed_runs.insert(run, updated_ms);
        }
        Ok(book)
    }

    /// Takes one change of a transaction.
    pub fn take(&mut self, change: RunChange, now_ms: i64, batch: &mut Batch<'_>) {
        match change {
            RunChange::Count(key, stats) => self.count(key.bytes(), stats, now_ms),
            RunChange::Fail { key, record, code } => self.fail(key.bytes(), &record, code, now_ms, batch),
            RunChange::ForgetIfComplete(key) => {
                if self.rows.get(key.bytes()).is_some_and(|row| row.stats().is_complete()) {
                    self.forget_row(key.bytes(), batch);
                }
            }
            RunChange::ForgetFailedRecords(run) => self.forget_failed(&run, batch),
        }
    }

    /// A job of a run got this outcome.
    pub fn ended(&mut self, run: &RunOfJob, outcome: &Outcome, now_ms: i64, batch: &mut Batch<'_>) {
        let stats = match outcome {
            Outcome::Succeeded | Outcome::Filtered => RunStats { out: 1, ..RunStats::default() },
            Outcome::Aborted { status, .. } => {
                if let Some(record) = &run.record {
                    let code = status.error_code.parse().unwrap_or(NO_CODE);
                    self.fail(run.key.bytes(), record, code, now_ms, batch);
                }
                RunStats { failed: 1, ..RunStats::default() }
            }
            Outcome::Failed { .. } | Outcome::Importing { .. } => return,
        };
        self.count(run.key.bytes(), stats, now_ms);
    }

    /// Puts every changed row into the batch, once.
    pub fn write(&mut self, batch: &mut Batch<'_>) {
        while let Some(key) = self.changed_rows.pop_first() {
            if let Some(row) = self.rows.get(&key) {
                batch.put(Family::Records, &namespaced(Namespace::Rsources, &key), &codec::encode(row));
            }
        }
        while let Some(run) = self.changed_failed_runs.pop_first() {
            if let Some(updated_ms) = self.failed_runs.get(&run) {
                batch.put(Family::Records, &namespaced(Namespace::FailedKeys, &run), &codec::encode(updated_ms));
            }
        }
    }

    /// Forgets runs of which nothing was heard since this time.
    pub fn forget_older(&mut self, before_ms: i64, batch: &mut Batch<'_>) {
        let mut newest: BTreeMap<&[u8], i64> = BTreeMap::new();
        for (key, row) in &self.rows {
            let updated = newest.entry(run_part(key)).or_insert(row.updated_ms);
            *updated = row.updated_ms.max(*updated);
        }
        let is_old = |key: &&Vec<u8>| newest.get(run_part(key)).is_some_and(|updated| *updated < before_ms);
        let old: Vec<Vec<u8>> = self.rows.keys().filter(is_old).cloned().collect();
        for key in old {
            self.forget_row(&key, batch);
        }
        let old = self.failed_runs.iter().filter(|(_, updated)| **updated < before_ms);
        let old: Vec<Vec<u8>> = old.map(|(run, _)| run.clone()).collect();
        for run in old {
            self.forget_failed(&run, batch);
        }
    }

    fn count(&mut self, key: &[u8], stats: RunStats, now_ms: i64) {
        if !self.rows.contains_key(key) {
            if self.rows.len() >= self.most {
                super::events::run_not_counted("there are as many rows as Rsources.maxRuns allows");
                return;
            }
            self.rows.insert(key.to_vec(), RunRecord::default());
        }
        let Some(row) = self.rows.get_mut(key) else { return };
        let mut sum = row.stats();
        sum.add(stats);
        *row = RunRecord { taken_in: sum.taken_in, out: sum.out, failed: sum.failed, updated_ms: now_ms };
        if !self.changed_rows.contains(key) {
            self.changed_rows.insert(key.to_vec());
        }
    }

    fn fail(&mut self, key: &[u8], record: &[u8], code: i64, now_ms: i64, batch: &mut Batch<'_>) {
        if !self.keeps_failed {
            return;
        }
        let run = run_part(key);
        let is_full = self.failed_runs.len() >= self.most;
        match self.failed_runs.get_mut(run) {
            Some(updated_ms) => *updated_ms = now_ms,
            None if is_full => {
                super::events::failed_record_not_kept("there are as many runs as Rsources.maxRuns allows");
                return;
            }
            None => {
                self.failed_runs.insert(run.to_vec(), now_ms);
            }
        }
        self.changed_failed_runs.insert(run.to_vec());
        let mut full_key = namespaced(Namespace::FailedKeys, key);
        full_key.extend_from_slice(record);
        batch.put(Family::Records, &full_key, &codec::encode(&code));
    }

    fn forget_row(&mut self, key: &[u8], batch: &mut Batch<'_>) {
        self.rows.remove(key);
        self.changed_rows.remove(key);
        batch.delete(Family::Records, &namespaced(Namespace::Rsources, key));
    }

    fn forget_failed(&mut self, run: &[u8], batch: &mut Batch<'_>) {
        self.changed_failed_runs.remove(run);
        if self.failed_runs.remove(run).is_some() {
            let from = namespaced(Namespace::FailedKeys, run);
            batch.delete_range(Family::Records, &from, &end_of(&from));
        }
    }
}

/// The first key behind all that begin with this one, which ends with two zero bytes.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = 1;
    }
    end
}

impl super::Shared {
    /// Has the writer forget runs without news for longer than they are kept, and forgets old cancellations.
    pub(super) fn tidy_runs(&self) {
        let now_ms = self.clock.now_ms();
        let retention = super::millis(self.runs.retention);
        self.send(super::writer::Request::ForgetRuns { before_ms: now_ms.saturating_sub(retention) });
        self.forget_old_cancellations();
    }
}

//! Runs of reverse-ETL sources: what is counted of them, and which of their records failed (gateway.md 7.8).
//!
//! In: [`Tx::count_run`] with what was taken in, [`Tx::finish_of_run`] with what the end of a job counts for. Both
//! are part of the transaction that stores the jobs or ends them, so a counter is right after any crash. Out:
//! [`JobsDb::run_rows`] and [`JobsDb::failed_records`], read from the store.
//!
//! A row stands for one (run, task, source, destination); the row without a destination counts what the source
//! sent. Rows and failed records of a run go after `Rsources.retention` without news.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::api::{JobsDbError, Namespace, Queue, Tx};
use super::{JobsDb, failed};
use crate::storage::{Family, StorageError, codec};

/// Longest id that is counted, in bytes; a row with a longer one would make keys of any size.
const LONGEST_ID: usize = 512;
/// Longest JSON text of a record id that is kept.
const LONGEST_RECORD: usize = 4_096;

/// The row that something is counted in: run, task, source and destination, as the key's bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey(Vec<u8>);

impl RunKey {
    /// The row; `None` without a run, or with an id that is too long to be counted. An empty destination stands for
    /// the source itself.
    pub fn new(job_run_id: &str, task_run_id: &str, source_id: &str, destination_id: &str) -> Option<RunKey> {
        let parts = [job_run_id, task_run_id, source_id, destination_id];
        if job_run_id.is_empty() {
            return None;
        }
        if parts.iter().any(|part| part.len() > LONGEST_ID) {
            super::events::run_not_counted("an id is too long");
            return None;
        }
        let mut key = Vec::with_capacity(parts.iter().map(|part| part.len() + 2).sum());
        for part in parts {
            push_part(&mut key, part);
        }
        Some(RunKey(key))
    }

    /// The key's bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What all rows of a run begin with.
pub(super) fn run_prefix(job_run_id: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(job_run_id.len() + 2);
    push_part(&mut prefix, job_run_id);
    prefix
}

/// The beginning of a key that all rows of its run share.
pub(super) fn run_part(key: &[u8]) -> &[u8] {
    key.get(..end_of_part(key).unwrap_or(key.len())).unwrap_or(key)
}

/// Ends each part with two zero bytes; a zero byte within is followed by `ff`. Byte order is the order of the texts.
fn push_part(key: &mut Vec<u8>, part: &str) {
    for byte in part.bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 0]);
}

fn end_of_part(key: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr(0, key.get(at..)?)?;
        match key.get(at + 1) {
            Some(0) => return Some(at + 2),
            Some(_) => at += 2,
            None => return None,
        }
    }
}

/// The first part of a key, and what follows it.
fn take_part(key: &[u8]) -> Option<(String, &[u8])> {
    let (part, rest) = key.split_at_checked(end_of_part(key)?)?;
    let escaped = part.get(..part.len().checked_sub(2)?)?;
    let mut text = Vec::with_capacity(escaped.len());
    let mut after_zero = false;
    for &byte in escaped {
        if !std::mem::replace(&mut after_zero, byte == 0) {
            text.push(byte);
        }
    }
    Some((String::from_utf8(text).ok()?, rest))
}

/// What a row counts. Also a difference that is added to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStats {
    /// Events that came in.
    #[serde(rename = "in")]
    pub taken_in: u64,
    /// Events that were delivered, or left out on purpose.
    pub out: u64,
    /// Events that were given up.
    pub failed: u64,
}

impl RunStats {
    /// Events that came in.
    pub fn taken_in(events: u64) -> RunStats {
        RunStats { taken_in: events, ..RunStats::default() }
    }

    /// Whether everything that came in has ended.
    pub fn is_complete(&self) -> bool {
        self.out.saturating_add(self.failed) >= self.taken_in
    }

    pub(super) fn add(&mut self, other: RunStats) {
        self.taken_in = self.taken_in.saturating_add(other.taken_in);
        self.out = self.out.saturating_add(other.out);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// What the end of a job counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOfJob {
    /// The row.
    pub key: RunKey,
    /// The record that the job is about, as JSON; kept when the job is given up.
    pub record: Option<Vec<u8>>,
}

/// Members of a job's parameters that say what it counts for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters<'a> {
    #[serde(borrow)]
    source_job_run_id: Cow<'a, str>,
    #[serde(borrow)]
    source_task_run_id: Cow<'a, str>,
    #[serde(borrow)]
    record_id: Option<&'a RawValue>,
}

impl RunOfJob {
    /// Reads it from a job's parameters; `None` for jobs that belong to no run. Jobs of the gateway count for their
    /// source, deliveries for their destination.
    pub fn read(queue: Queue, parameters: &[u8], source_id: &str, destination_id: &str) -> Option<RunOfJob> {
        let destination_id = match queue {
            Queue::Gw => "",
            Queue::Rt | Queue::BatchRt => destination_id,
            Queue::Arc | Queue::ProcError => return None,
        };
        let read: Parameters<'_> = serde_json::from_slice(parameters).ok()?;
        let key = RunKey::new(&read.source_job_run_id, &read.source_task_run_id, source_id, destination_id)?;
        let record = read.record_id.map(|record| record.get().as_bytes()).and_then(kept_record);
        Some(RunOfJob { key, record })
    }

    pub(super) fn stored_bytes(&self) -> usize {
        self.key.0.len() + self.record.as_ref().map_or(0, Vec::len) + 48
    }
}

/// The record's text, if it is one that is kept.
fn kept_record(json: &[u8]) -> Option<Vec<u8>> {
    if json.is_empty() || json == b"null" {
        return None;
    }
    if json.len() > LONGEST_RECORD {
        super::events::failed_record_not_kept("the record's id is too long");
        return None;
    }
    Some(json.to_vec())
}

/// One change of the runs, in a transaction.
#[derive(Clone, Debug)]
pub(super) enum RunChange {
    Count(RunKey, RunStats),
    Fail { key: RunKey, record: Vec<u8>, code: i64 },
    ForgetIfComplete(RunKey),
    ForgetFailedRecords(Vec<u8>),
}

impl RunChange {
    pub fn stored_bytes(&self) -> usize {
        64 + match self {
            RunChange::Count(key, _) | RunChange::ForgetIfComplete(key) => key.0.len(),
            RunChange::Fail { key, record, .. } => key.0.len() + record.len(),
            RunChange::ForgetFailedRecords(prefix) => prefix.len(),
        }
    }
}

impl Tx {
    /// Adds to the counters of a run.
    pub fn count_run(&mut self, key: RunKey, stats: RunStats) {
        if let Some(RunChange::Count(last, sum)) = self.runs.last_mut()
            && *last == key
        {
            sum.add(stats);
            return;
        }
        self.runs.push(RunChange::Count(key, stats));
    }

    /// Counts an event as given up before it became a job, and keeps its record (`record`: JSON, `null` for none).
    pub fn fail_run(&mut self, key: RunKey, record: &[u8], code: i64) {
        if let Some(record) = kept_record(record) {
            self.runs.push(RunChange::Fail { key: key.clone(), record, code });
        }
        self.count_run(key, RunStats { taken_in: 1, out: 0, failed: 1 });
    }

    /// Removes a row, unless something of it is under way when the transaction is written.
    pub fn forget_run_row(&mut self, key: RunKey) {
        self.runs.push(RunChange::ForgetIfComplete(key));
    }

    /// Removes the failed records of a run.
    pub fn forget_failed_records(&mut self, job_run_id: &str) {
        self.runs.push(RunChange::ForgetFailedRecords(run_prefix(job_run_id)));
    }
}

/// A row as it is stored: its counters and the time of the last change, milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    pub taken_in: u64,
    pub out: u64,
    pub failed: u64,
    pub updated_ms: i64,
}

impl RunRecord {
    pub fn stats(&self) -> RunStats {
        RunStats { taken_in: self.taken_in, out: self.out, failed: self.failed }
    }
}

/// A row of a run, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// Its key, to forget it by.
    pub key: RunKey,
    /// The task.
    pub task_run_id: String,
    /// The source.
    pub source_id: String,
    /// The destination; empty for what the source sent.
    pub destination_id: String,
    /// Its counters.
    pub stats: RunStats,
}

/// A record that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRecord {
    /// The task.
    pub task_run_id: String,
    /// The source.
    pub source_id: String,
    /// The destination; empty when the source itself gave it up.
    pub destination_id: String,
    /// The record's id, as JSON.
    pub record: String,
    /// The code that it failed with.
    pub code: i64,
}

/// The place of a failed record among those of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// The task.
    pub task_run_id: String,
    /// The source.
    pub source_id: String,
    /// The destination.
    pub destination_id: String,
    /// The record's id, as JSON.
    pub record: String,
}

impl JobsDb {
    /// The rows of a run, by task, source and destination. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read or a row is damaged.
    pub fn run_rows(&self, job_run_id: &str) -> Result<Vec<RunRow>, JobsDbError> {
        let prefix = run_prefix(job_run_id);
        let mut rows = Vec::new();
        for (key, value) in self.scan(Namespace::Rsources, &prefix)? {
            let record: RunRecord = codec::decode("run counters", &value).map_err(failed)?;
            let [task_run_id, source_id, destination_id] = read_places(&key).ok_or_else(|| failed(damaged()))?.0;
            rows.push(RunRow { key: RunKey(key), task_run_id, source_id, destination_id, stats: record.stats() });
        }
        Ok(rows)
    }

    /// Failed records of a run in the order of task, source, destination and record, at most `most`, those behind
    /// `after` only. Blocks on the store.
    ///
    /// # Errors
    /// When the store cannot be read or a record is damaged.
    pub fn failed_records(
        &self,
        job_run_id: &str,
        after: Option<&RecordPlace>,
        most: usize,
    ) -> Result<Vec<FailedRecord>, JobsDbError> {
        let prefix = namespaced(Namespace::FailedKeys, &run_prefix(job_run_id));
        let to = [prefix.as_slice(), &[0xff; 64]].concat();
        // The head of the run is the prefix itself; its records follow.
        let mut from = [prefix.as_slice(), &[0]].concat();
        if let Some(after) = after {
            from.clone_from(&prefix);
            for part in [&after.task_run_id, &after.source_id, &after.destination_id] {
                push_part(&mut from, part);
            }
            from.extend_from_slice(after.record.as_bytes());
            from.push(0);
        }
        let mut records = Vec::new();
        let mut scan = self.0.shared.storage.scan(Family::Records, &from, &to).map_err(failed)?;
        while records.len() < most
            && let Some((key, value)) = scan.next_entry().map_err(failed)?
        {
            let code: i64 = codec::decode("failed record", value).map_err(failed)?;
            let read = || {
                let (places, record) = read_places(key.get(1..)?)?;
                Some((places, String::from_utf8(record.to_vec()).ok()?))
            };
            let ([task_run_id, source_id, destination_id], record) = read().ok_or_else(|| failed(damaged()))?;
            records.push(FailedRecord { task_run_id, source_id, destination_id, record, code });
        }
        Ok(records)
    }
}

/// Task, source and destination of a key, and what follows them.
fn read_places(key: &[u8]) -> Option<([String; 3], &[u8])> {
    let (_run, rest) = take_part(key)?;
    let (task_run_id, rest) = take_part(rest)?;
    let (source_id, rest) = take_part(rest)?;
    let (destination_id, rest) = take_part(rest)?;
    Some(([task_run_id, source_id, destination_id], rest))
}

/// A key of the record store.
pub(super) fn namespaced(namespace: Namespace, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(namespace as u8);
    full.extend_from_slice(key);
    full
}

fn damaged() -> StorageError {
    StorageError::Corrupt { what: "row of a run".to_owned(), reason: "its key has too few parts".to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_read_back_and_sort_as_their_parts_do(
            a in proptest::array::uniform4("[a\\x00-\\x01\u{e9}]{0,4}"),
            b in proptest::array::uniform4("[a\\x00-\\x01\u{e9}]{0,4}"),
        ) {
            let key = |parts: &[String; 4]| RunKey::new(&format!("r{}", parts[0]), &parts[1], &parts[2], &parts[3]);
            let (key_a, key_b) = (key(&a).unwrap(), key(&b).unwrap());
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            let (places, rest) = read_places(key_a.bytes()).unwrap();
            prop_assert_eq!((&places[..], rest), (&a[1..], &b""[..]));
            prop_assert_eq!(run_part(key_a.bytes()), run_prefix(&format!("r{}", a[0])));
        }
    }

    #[test]
    fn a_job_counts_for_its_source_or_its_destination() {
        let parameters = br#"{"source_job_run_id":"r","source_task_run_id":"t","record_id":{"n": 1}}"#;
        let read = |queue, parameters: &[u8]| RunOfJob::read(queue, parameters, "s", "d");
        let expected = |destination| RunOfJob {
            key: RunKey::new("r", "t", "s", destination).unwrap(),
            record: Some(br#"{"n": 1}"#.to_vec()),
        };
        assert_eq!(read(Queue::Gw, parameters), Some(expected("")));
        assert_eq!(read(Queue::BatchRt, parameters), Some(expected("d")));
        assert_eq!(read(Queue::Arc, parameters), None);
        assert_eq!(read(Queue::Rt, br#"{"source_job_run_id":"","record_id":1}"#), None);
        let without = read(Queue::Rt, br#"{"source_job_run_id":"r","record_id":null}"#).unwrap();
        assert_eq!(without.record, None);
        assert_eq!(RunKey::new(&"r".repeat(LONGEST_ID + 1), "", "s", ""), None, "an id of any size is no key");
    }
}

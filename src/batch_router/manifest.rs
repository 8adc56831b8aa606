//! The record that goes before an upload, and what it tells after a crash (router.md 19.7).
//!
//! A manifest is durable before the first byte leaves the node, and is deleted in the transaction that
//! stores the verdict of its jobs. One that is left at a start says: these jobs may or may not be in the
//! bucket; the object's length tells which.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::jobsdb::JournalRecord;

/// The operation's name in the journal.
pub const OPERATION: &str = "upload_manifest";

/// An upload that was about to start. Stored as JSON in the journal of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The destination.
    pub destination_id: String,
    /// Its type, which is also the provider.
    pub destination_type: String,
    /// The source of all jobs in the file.
    pub source_id: String,
    /// The object's final key.
    pub key: String,
    /// The object's length in bytes.
    pub bytes: u64,
    /// The local file's name in the work folder.
    pub file: String,
    /// Ids of the jobs as inclusive ranges, ascending.
    pub jobs: Vec<(u64, u64)>,
}

/// What the storage says about the object of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// It is there, as long as recorded.
    AsRecorded,
    /// It is there with another length.
    Different,
    /// It is not there.
    Absent,
    /// The storage did not answer.
    Unknown,
}

/// What happens to the jobs of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They are in the bucket.
    Succeeded,
    /// The same file goes to the same key, and then they are in the bucket.
    UploadSameFile,
    /// The manifest goes, they are delivered like any others.
    RunAgain,
    /// They wait until the storage answers.
    Hold,
    /// As [`Decision::RunAgain`], because the storage did not answer for too long.
    GiveUp,
}

/// The restart table.
pub fn decide(object: ObjectState, file_exists: bool, age: Duration, retention: Duration) -> Decision {
    match object {
        ObjectState::AsRecorded => Decision::Succeeded,
        ObjectState::Different | ObjectState::Absent if file_exists => Decision::UploadSameFile,
        ObjectState::Different | ObjectState::Absent => Decision::RunAgain,
        ObjectState::Unknown if age > retention => Decision::GiveUp,
        ObjectState::Unknown => Decision::Hold,
    }
}

impl Manifest {
    /// The journal record.
    pub fn to_record(&self, op: u64, start_ms: i64) -> JournalRecord {
        // Plain data with string keys always becomes JSON.
        let payload = serde_json::to_vec(self).unwrap_or_default();
        JournalRecord { op, operation: OPERATION.to_owned(), payload, start_ms }
    }

    /// Reads a journal record; `None` when it is something else or cannot be read.
    pub fn of_record(record: &JournalRecord) -> Option<Manifest> {
        if record.operation != OPERATION {
            return None;
        }
        serde_json::from_slice(&record.payload).ok()
    }

    /// Whether the job is in the file.
    pub fn contains(&self, job_id: u64) -> bool {
        let after = self.jobs.partition_point(|range| range.0 <= job_id);
        after.checked_sub(1).and_then(|at| self.jobs.get(at)).is_some_and(|range| job_id <= range.1)
    }

    /// Takes jobs out, because their verdict is stored. Ids in ascending order.
    pub fn remove(&mut self, job_ids: &[u64]) {
        let mut left = Vec::with_capacity(self.jobs.len());
        let mut gone = job_ids.iter().copied().peekable();
        for &(first, last) in &self.jobs {
            let mut start = Some(first);
            while let Some(&id) = gone.peek() {
                if id > last {
                    break;
                }
                gone.next();
                let Some(from) = start else { continue };
                if id < from {
                    continue;
                }
                if id > from {
                    left.push((from, id - 1));
                }
                start = (id < last).then_some(id + 1);
            }
            if let Some(from) = start {
                left.push((from, last));
            }
        }
        self.jobs = left;
    }
}

/// Ids as inclusive ranges; ascending ids give the shortest list.
pub fn ranges(job_ids: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for id in job_ids {
        match ranges.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(id) => last.1 = id,
            _ => ranges.push((id, id)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn manifest(ids: impl IntoIterator<Item = u64>) -> Manifest {
        Manifest {
            destination_id: "d".to_owned(),
            destination_type: "S3".to_owned(),
            source_id: "s".to_owned(),
            key: "k".to_owned(),
            bytes: 7,
            file: "f".to_owned(),
            jobs: ranges(ids),
        }
    }

    #[test]
    fn the_restart_table_holds() {
        let hour = Duration::from_secs(3_600);
        for (object, file_exists, age, decision) in [
            (ObjectState::AsRecorded, true, 0, Decision::Succeeded),
            (ObjectState::AsRecorded, false, 99, Decision::Succeeded),
            (ObjectState::Absent, true, 0, Decision::UploadSameFile),
            (ObjectState::Absent, false, 0, Decision::RunAgain),
            (ObjectState::Different, true, 0, Decision::UploadSameFile),
            (ObjectState::Different, false, 0, Decision::RunAgain),
            (ObjectState::Unknown, true, 24, Decision::Hold),
            (ObjectState::Unknown, true, 25, Decision::GiveUp),
        ] {
            assert_eq!(decide(object, file_exists, age * hour, 24 * hour), decision, "{object:?} {file_exists} {age}");
        }
    }

    proptest! {
        #[test]
        fn a_manifest_remembers_exactly_its_jobs(
            ids in proptest::collection::btree_set(1_u64..200, 0..60),
            gone in proptest::collection::btree_set(1_u64..200, 0..60),
        ) {
            let mut manifest = manifest(ids.iter().copied());
            for id in 0..201 {
                prop_assert_eq!(manifest.contains(id), ids.contains(&id));
            }
            let record = manifest.to_record(1, 2);
            prop_assert_eq!(Manifest::of_record(&record), Some(manifest.clone()));
            manifest.remove(&gone.iter().copied().collect::<Vec<_>>());
            let left: BTreeSet<u64> = ids.difference(&gone).copied().collect();
            prop_assert_eq!(manifest.jobs.is_empty(), left.is_empty());
            for id in 0..201 {
                prop_assert_eq!(manifest.contains(id), left.contains(&id));
            }
        }
    }
}

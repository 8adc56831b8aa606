//! Staging files of warehouses: rows in, a file and the record that tells the warehouse of it out
//! (router.md 19.3, 21; warehouse.md 7.1).
//!
//! Data lakes get a file for each UTC hour in which events were received, because their folders are hours. Rules of
//! identity resolution are written once in the life of the process; a rule counts as written when the record of its
//! file is stored, so that a failed upload loses none.

use std::io;
use std::path::Path;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

use crate::backend_config::Destination;
use crate::destination::warehouse::datetime;
use crate::jobsdb::{RowNotes, StagingFile, StagingRecord};

use super::batch_file::LineFile;
use super::cut::files;
use super::drain::Picked;
use super::pickup::JobParameters;
use super::result::time_text;

/// Rules that are remembered; when there are more, all are forgotten and written once again.
const MOST_RULES: usize = 500_000;

/// Rules of identity resolution that are in recorded staging files, as hashes of connection and properties.
#[derive(Debug, Default)]
pub(super) struct MergeRules(FxHashSet<u64>);

impl MergeRules {
    fn add(&mut self, rules: &[u64]) {
        if self.0.len().saturating_add(rules.len()) > MOST_RULES {
            self.0.clear();
        }
        self.0.extend(rules);
    }
}

/// The record of a file that is on its way, and the rules that are in it for the first time.
pub(super) struct Staged {
    pub(super) record: StagingFile,
    pub(super) new_rules: Vec<u64>,
    pub(super) rules: Arc<Mutex<MergeRules>>,
}

impl Staged {
    /// The record is stored.
    pub(super) fn is_recorded(&self) {
        self.rules.lock().add(&self.new_rules);
    }
}

/// A file of rows.
pub(super) struct Rows {
    pub(super) bytes: u64,
    pub(super) record: StagingFile,
    pub(super) new_rules: Vec<u64>,
    /// For each job whether its row is in the file.
    pub(super) is_written: Vec<bool>,
}

/// Splits jobs into files of one source and one hour, in the order in which they came.
pub(super) fn by_hour(jobs: Vec<Picked>) -> Vec<(Option<String>, Vec<Picked>)> {
    let with_hours = jobs.into_iter().map(|picked| {
        let hour = hour_of(RowNotes::read(&picked.job.payload).received_at())
            .or_else(|| hour_of(&time_text(picked.job.created_us.div_euclid(1_000))));
        (hour, picked)
    });
    let split = files(with_hours.collect(), |(hour, picked)| (picked.job.partition.id, hour.clone()));
    let hours = split.into_iter().map(|((_, hour), jobs)| (hour, jobs.into_iter().map(|(_, picked)| picked).collect()));
    hours.collect()
}

/// The beginning of the UTC hour of a time, as the record writes it.
fn hour_of(received_at: &str) -> Option<String> {
    let normal = datetime::normal_form(received_at)?;
    let hour = normal.get(..13)?;
    Some(format!("{hour}:00:00Z"))
}

/// The record of a file that begins with this job, without its rows.
pub(super) fn record_of(first: &Picked, destination: &Destination, key: &str, hour: Option<String>) -> StagingFile {
    let partition = &first.job.partition;
    let mut record = StagingFile::new(&partition.source_id, &partition.destination_id, key);
    let parameters = JobParameters::of(&first.job);
    record.workspace_id.clone_from(&partition.workspace_id);
    record.destination_revision_id.clone_from(&destination.revision_id);
    record.source_job_run_id = parameters.source_job_run_id.into_owned();
    record.source_task_run_id = parameters.source_task_run_id.into_owned();
    record.source_job_id = parameters.source_job_id.into_owned();
    if let Some(hour) = hour {
        record.time_window = hour;
    }
    record
}

/// Writes the rows of jobs into a file, in the order given, and takes note of them. Blocks.
pub(super) fn write_rows(
    path: &Path,
    jobs: &[Picked],
    record: StagingFile,
    rules: &Mutex<MergeRules>,
) -> io::Result<Rows> {
    let mut file = LineFile::create(path)?;
    let mut record = StagingRecord::new(record);
    let mut is_written = Vec::with_capacity(jobs.len());
    let mut new_rules = FxHashSet::default();
    for picked in jobs {
        let row = RowNotes::read(&picked.job.payload);
        let rule = row.merge_rule().map(|(one, two)| hash_of_rule(&picked.job.partition.source_id, one, two));
        let is_new = rule.is_none_or(|rule| !rules.lock().0.contains(&rule) && new_rules.insert(rule));
        is_written.push(is_new);
        if is_new {
            file.line(&[&picked.job.payload])?;
            record.add(picked.job.payload.len(), &row);
        }
    }
    let bytes = file.finish(path)?;
    Ok(Rows { bytes, record: record.finish(), new_rules: new_rules.into_iter().collect(), is_written })
}

fn hash_of_rule(source_id: &str, one: &str, two: &str) -> u64 {
    let mut hash = Xxh3::new();
    for part in [source_id, one, two] {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_belongs_to_the_hour_in_utc_in_which_it_was_received() {
        for (received_at, expected) in [
            ("2024-01-02T03:04:05.678Z", Some("2024-01-02T03:00:00Z")),
            ("2024-01-02T00:30:00.000+01:00", Some("2024-01-01T23:00:00Z")),
            ("2024-01-02", Some("2024-01-02T00:00:00Z")),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(hour_of(received_at).as_deref(), expected, "{received_at}");
        }
    }
}

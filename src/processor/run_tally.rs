//! What one gateway job of a reverse-ETL run counts for (gateway.md 7.8): its own end for the source, and per
//! destination the deliveries that came of it and the events that did not become one.

use super::explode::JobParameters;
use crate::jobsdb::{RunKey, RunOfJob, RunStats, Tx};

/// Empty for jobs that belong to no run.
#[derive(Debug, Default)]
pub(super) struct RunTally {
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    job_run_id: String,
    task_run_id: String,
    source_id: String,
    stats: Vec<(RunKey, RunStats)>,
    failed: Vec<(RunKey, String, u16)>,
}

impl Run {
    fn key(&self, destination_id: &str) -> Option<RunKey> {
        RunKey::new(&self.job_run_id, &self.task_run_id, &self.source_id, destination_id)
    }
}

impl RunTally {
    /// The tally of a job with these parameters.
    pub(super) fn of(parameters: &JobParameters<'_>) -> RunTally {
        let belongs_to_run = !parameters.source_job_run_id.is_empty();
        RunTally {
            run: belongs_to_run.then(|| Run {
                job_run_id: parameters.source_job_run_id.clone().into_owned(),
                task_run_id: parameters.source_task_run_id.clone().into_owned(),
                source_id: parameters.source_id.clone().into_owned(),
                stats: Vec::new(),
                failed: Vec::new(),
            }),
        }
    }

    /// Deliveries were made of an event.
    pub(super) fn stored(&mut self, destination_id: &str, deliveries: u64) {
        self.add(destination_id, RunStats::taken_in(deliveries));
    }

    /// An event is on purpose not delivered.
    pub(super) fn filtered(&mut self, destination_id: &str) {
        self.add(destination_id, RunStats { taken_in: 1, out: 1, failed: 0 });
    }

    /// An event failed; `record` is its record's id as JSON.
    pub(super) fn failed(&mut self, destination_id: &str, record: &str, code: u16) {
        if let Some(run) = &mut self.run
            && let Some(key) = run.key(destination_id)
        {
            run.failed.push((key, record.to_owned(), code));
        }
    }

    /// What was counted so far did not happen; the job itself still ends.
    pub(super) fn restart(&mut self) {
        if let Some(run) = &mut self.run {
            run.stats.clear();
            run.failed.clear();
        }
    }

    fn add(&mut self, destination_id: &str, stats: RunStats) {
        if let Some(run) = &mut self.run
            && stats != RunStats::default()
            && let Some(key) = run.key(destination_id)
        {
            run.stats.push((key, stats));
        }
    }

    /// Puts what was counted into the transaction that hands over what came of the job, and says what the job's own
    /// end counts for.
    pub(super) fn put(self, tx: &mut Tx) -> Option<RunOfJob> {
        let run = self.run?;
        let key = run.key("");
        for (key, stats) in run.stats {
            tx.count_run(key, stats);
        }
        for (key, record, code) in run.failed {
            tx.fail_run(key, record.as_bytes(), i64::from(code));
        }
        Some(RunOfJob { key: key?, record: None })
    }
}

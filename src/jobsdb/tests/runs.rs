//! Counters, failed records and cancellations of reverse-ETL runs.

use super::*;

const PARAMETERS: &str = r#"{"source_job_run_id":"r","source_task_run_id":"t","record_id":"rec-N"}"#;

impl Kit {
    /// Stores jobs of the run `r` for a destination, counted as taken in, and leases them.
    fn run_jobs(&self, records: &[&str]) -> Vec<Job> {
        let mut tx = Tx::new(Durability::Durable);
        for record in records {
            let parameters = PARAMETERS.replace("rec-N", record);
            let new = NewJob {
                uuid: uuid::Uuid::new_v4(),
                workspace_id: "w",
                custom_val: "WEBHOOK",
                source_id: "s",
                destination_id: "d",
                user_id: record,
                parameters: parameters.as_bytes(),
                payload: &[b"{}"],
                event_count: 1,
            };
            tx.append(Queue::Rt, self.jobs.encode(Queue::Rt, &new));
            tx.count_run(row("t", "d"), RunStats::taken_in(1));
        }
        self.jobs.commit_blocking(tx).unwrap();
        self.fetch(Queue::Rt, records.len())
    }

    fn end(&self, job: &Job, outcome: Outcome) -> Receipt {
        let run = RunOfJob::read(Queue::Rt, &job.parameters, "s", "d");
        let mut tx = Tx::new(Durability::Lazy);
        tx.finish_of_run(job.lease, outcome, run);
        self.jobs.commit_blocking(tx).unwrap()
    }

    fn stats(&self, run: &str) -> Vec<(String, String, [u64; 3])> {
        let rows = self.jobs.run_rows(run).unwrap().into_iter();
        let figures = |stats: RunStats| [stats.taken_in, stats.out, stats.failed];
        rows.map(|row| (row.task_run_id, row.destination_id, figures(row.stats))).collect()
    }

    fn failed(&self, after: Option<&RecordPlace>, most: usize) -> Vec<FailedRecord> {
        self.jobs.failed_records("r", after, most).unwrap()
    }

    /// Waits until the writer has done what was sent to it before.
    fn settle(&self) {
        self.jobs.commit_blocking(Tx::new(Durability::Lazy)).unwrap();
    }
}

fn row(task: &str, destination: &str) -> RunKey {
    RunKey::new("r", task, "s", destination).unwrap()
}

fn aborted(code: &str) -> Outcome {
    Outcome::Aborted { status: Status { error_code: code.to_owned(), ..failed_status() }, dead_letter: None }
}

#[test]
fn a_run_is_counted_once_by_every_end_and_by_nothing_else_also_across_a_restart() {
    let kit = Kit::new();
    let jobs = kit.run_jobs(&["a", "b", "c", "d", "e"]);
    kit.end(&jobs[0], Outcome::Succeeded);
    kit.end(&jobs[1], Outcome::Filtered);
    kit.end(&jobs[2], aborted("410"));
    let failed =
        Outcome::Failed { status: Status { retry_ms: START_MS + 60_000, ..failed_status() }, blocks_user: true };
    kit.end(&jobs[3], failed);
    assert_eq!(kit.end(&jobs[0], Outcome::Succeeded).stale, 1, "it has ended already");
    let expected = [("t".to_owned(), "d".to_owned(), [5, 2, 1])];
    assert_eq!(kit.stats("r"), expected);
    let kit = kit.reopen();
    assert_eq!(kit.stats("r"), expected);
    let again = kit.fetch(Queue::Rt, 10);
    kit.end(&again[0], Outcome::Succeeded);
    assert_eq!(kit.stats("r")[0].2, [5, 3, 1]);
    assert!(kit.jobs.run_rows("").unwrap().is_empty() && kit.jobs.run_rows("other").unwrap().is_empty());
}

#[test]
fn a_job_given_up_for_its_age_counts_as_failed() {
    let kit = Kit::new();
    let jobs = kit.run_jobs(&["a", "b"]);
    kit.jobs.release(&jobs.iter().map(|job| job.lease).collect::<Vec<_>>());
    kit.clock.advance(Duration::from_secs(721 * 3_600));
    kit.jobs.0.shared.expire_old_jobs().unwrap();
    assert_eq!(kit.stats("r")[0].2, [2, 0, 2]);
    assert_eq!(kit.failed(None, 10).len(), 2);
}

#[test]
fn failed_records_are_listed_page_by_page_in_order() {
    let kit = Kit::new();
    let jobs = kit.run_jobs(&["b", "a", "c"]);
    for job in &jobs {
        kit.end(job, aborted("400"));
    }
    let mut tx = Tx::new(Durability::Lazy);
    tx.fail_run(row("", "d"), br#"{"n":1}"#, 410);
    tx.fail_run(row("t", ""), b"null", 500);
    kit.jobs.commit_blocking(tx).unwrap();
    let first = kit.failed(None, 2);
    assert_eq!((first[0].task_run_id.as_str(), first[0].record.as_str(), first[0].code), ("", r#"{"n":1}"#, 410));
    assert_eq!((first[1].task_run_id.as_str(), first[1].record.as_str(), first[1].code), ("t", "\"a\"", 400));
    let kit = kit.reopen();
    let after = RecordPlace {
        task_run_id: "t".to_owned(),
        source_id: "s".to_owned(),
        destination_id: "d".to_owned(),
        record: "\"a\"".to_owned(),
    };
    let rest: Vec<String> = kit.failed(Some(&after), 10).into_iter().map(|failed| failed.record).collect();
    assert_eq!(rest, ["\"b\"", "\"c\""]);
    let mut tx = Tx::new(Durability::Lazy);
    tx.forget_failed_records("r");
    tx.fail_run(row("t", "d"), b"7", 400);
    kit.jobs.commit_blocking(tx).unwrap();
    let left: Vec<String> = kit.failed(None, 10).into_iter().map(|failed| failed.record).collect();
    assert_eq!(left, ["7"], "what comes after the removal stays");
}

#[test]
fn only_complete_rows_are_forgotten_and_runs_without_news() {
    let kit = Kit::new();
    let mut tx = Tx::new(Durability::Lazy);
    tx.count_run(row("t", ""), RunStats { taken_in: 2, out: 2, failed: 0 });
    tx.count_run(row("t", "d"), RunStats { taken_in: 2, out: 1, failed: 0 });
    tx.fail_run(RunKey::new("q", "t", "s", "d").unwrap(), b"1", 400);
    kit.jobs.commit_blocking(tx).unwrap();
    let mut tx = Tx::new(Durability::Lazy);
    tx.forget_run_row(row("t", ""));
    tx.forget_run_row(row("t", "d"));
    kit.jobs.commit_blocking(tx).unwrap();
    assert_eq!(kit.stats("r"), [("t".to_owned(), "d".to_owned(), [2, 1, 0])]);

    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    kit.clock.advance(hours(71));
    let mut tx = Tx::new(Durability::Lazy);
    tx.count_run(row("u", ""), RunStats::taken_in(1));
    kit.jobs.commit_blocking(tx).unwrap();
    kit.clock.advance(hours(2));
    kit.jobs.0.shared.tidy_runs();
    kit.settle();
    assert_eq!(kit.stats("r").len(), 2, "news of one row keep the run");
    assert!(kit.stats("q").is_empty() && kit.jobs.failed_records("q", None, 10).unwrap().is_empty());
    let kit = kit.reopen();
    assert_eq!(kit.stats("r").len(), 2);
    kit.clock.advance(hours(73));
    kit.jobs.0.shared.tidy_runs();
    kit.settle();
    assert!(kit.stats("r").is_empty());
}

#[test]
fn there_are_never_more_rows_than_allowed() {
    let mut settings = settings();
    settings.runs.max_rows = 3;
    let kit = Kit::with(&settings);
    for run in 0..10 {
        let mut tx = Tx::new(Durability::Lazy);
        tx.fail_run(RunKey::new(&format!("run-{run}"), "t", "s", "").unwrap(), b"1", 400);
        tx.fail_run(RunKey::new(&format!("run-{run}"), "t", "s", "").unwrap(), b"2", 400);
        kit.jobs.commit_blocking(tx).unwrap();
    }
    let counted: Vec<usize> = (0..10).filter(|run| !kit.stats(&format!("run-{run}")).is_empty()).collect();
    assert_eq!(counted, [0, 1, 2]);
    assert_eq!(kit.stats("run-1")[0].2, [2, 0, 2], "known rows still count");
    assert_eq!(kit.jobs.failed_records("run-2", None, 10).unwrap().len(), 2);
    assert!(kit.jobs.failed_records("run-3", None, 10).unwrap().is_empty());
}

#[test]
fn failed_records_are_not_kept_when_that_is_off() {
    let mut settings = settings();
    settings.runs.keeps_failed_records = false;
    let kit = Kit::with(&settings);
    let jobs = kit.run_jobs(&["a"]);
    kit.end(&jobs[0], aborted("400"));
    assert_eq!((kit.stats("r")[0].2, kit.failed(None, 10).len()), ([1, 0, 1], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_stays_cancelled_for_a_day_and_across_a_restart() {
    let kit = Kit::new();
    assert!(!kit.jobs.cancelled_runs().contains("r"));
    kit.jobs.cancel_run("r").await.unwrap();
    assert!(kit.jobs.cancelled_runs().contains("r") && !kit.jobs.cancelled_runs().contains(""));
    assert!(matches!(kit.jobs.cancel_run(&"r".repeat(600)).await, Err(CancelError::TooLong(600))));
    let kit = tokio::task::block_in_place(|| kit.reopen());
    assert!(kit.jobs.cancelled_runs().contains("r"));
    kit.clock.advance(Duration::from_secs(25 * 3_600));
    assert!(!kit.jobs.cancelled_runs().contains("r"));
    kit.jobs.0.shared.tidy_runs();
    kit.jobs.cancel_run("other").await.unwrap();
    assert!(kit.jobs.get(Namespace::Drain, b"run/r").unwrap().is_none(), "forgotten on disk too");
    assert!(kit.jobs.cancelled_runs().contains("other"));
}

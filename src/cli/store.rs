//! `pintle store`: look at the store of a data directory. Nothing is changed, and the node may run meanwhile.

use std::path::Path;

use serde_json::{Value, json};

use super::failure::{FAILED, Failure, HUMAN, UNUSABLE};
use super::flags::SettingsFlags;
use super::table::{Align, Table};
use super::{output, units};
use crate::clock::Clock;
use crate::jobsdb::{self, QueueStats};
use crate::storage::{self, StorageError, VerifyReport};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Queues and their datasets.
    Ls {
        /// Every dataset, not only the sums
        #[arg(long)]
        datasets: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Read every record and compare checksums.
    Verify {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Ls { datasets, json: as_json, flags } => {
            let data_dir = flags.load()?.settings.data_dir;
            let queues = inspect(&data_dir)?;
            if as_json {
                return output::print_json(&queues.iter().map(queue_json).collect::<Vec<_>>());
            }
            let now_ms = Clock::system().now_ms();
            output::print(&if datasets { render_datasets(&queues, now_ms) } else { render_queues(&queues, now_ms) })
        }
        Verb::Verify { json: as_json, flags } => {
            let data_dir = flags.load()?.settings.data_dir;
            require_store(&data_dir)?;
            let report = storage::verify(&data_dir).map_err(|error| store_failure(&error))?;
            if as_json {
                output::print_json(&report_json(&report))?;
            } else {
                output::print(&render_report(&report))?;
            }
            verdict(&report)
        }
    }
}

/// Figures of the queues of a data directory that has a store.
pub(super) fn inspect(data_dir: &Path) -> Result<Vec<QueueStats>, Failure> {
    require_store(data_dir)?;
    jobsdb::inspect(data_dir).map_err(|error| Failure::new(HUMAN, error.to_string(), ""))
}

fn require_store(data_dir: &Path) -> Result<(), Failure> {
    if storage::is_data_directory(data_dir) {
        return Ok(());
    }
    let message = format!("{} holds no store", data_dir.display());
    Err(Failure::new(FAILED, message, "name another --data-dir, or start a node to make one"))
}

/// The exit code tells whether a restart can help.
pub(super) fn store_failure(error: &StorageError) -> Failure {
    Failure::new(if error.needs_human() { HUMAN } else { UNUSABLE }, error.to_string(), "")
}

fn verdict(report: &VerifyReport) -> Result<(), Failure> {
    if report.problems.is_empty() {
        return Ok(());
    }
    let message = format!("{} damaged places", report.problems.len());
    Err(Failure::new(FAILED, message, "restore a snapshot (`pintle backup restore`)"))
}

fn render_queues(queues: &[QueueStats], now_ms: i64) -> String {
    let mut table = Table::new(&[
        ("QUEUE", Align::Left),
        ("WAITING", Align::Right),
        ("BYTES", Align::Right),
        ("DATASETS", Align::Right),
        ("OLDEST", Align::Right),
        ("LAST ID", Align::Right),
    ]);
    for queue in queues {
        let oldest = queue.datasets.iter().map(|set| set.created_ms).min();
        table.row([
            queue.queue.name().to_owned(),
            queue.pending.to_string(),
            units::bytes(queue.pending_bytes),
            queue.datasets.len().to_string(),
            oldest.map_or_else(|| "-".to_owned(), |oldest_ms| units::since(oldest_ms, now_ms)),
            queue.last_job_id.to_string(),
        ]);
    }
    table.render()
}

fn render_datasets(queues: &[QueueStats], now_ms: i64) -> String {
    let mut table = Table::new(&[
        ("QUEUE", Align::Left),
        ("DATASET", Align::Right),
        ("ROWS", Align::Right),
        ("WAITING", Align::Right),
        ("BYTES", Align::Right),
        ("AGE", Align::Right),
        ("STATE", Align::Left),
    ]);
    for queue in queues {
        for set in &queue.datasets {
            table.row([
                queue.queue.name().to_owned(),
                dataset_name(set.number),
                set.rows.to_string(),
                set.pending.to_string(),
                units::bytes(set.bytes),
                units::since(set.created_ms, now_ms),
                (if set.sealed_ms == 0 { "open" } else { "sealed" }).to_owned(),
            ]);
        }
    }
    table.render()
}

/// Datasets that carry stragglers over have numbers of their own.
fn dataset_name(number: u32) -> String {
    const CARRY: u32 = 1 << 31;
    if number & CARRY == 0 { number.to_string() } else { format!("c{}", number & !CARRY) }
}

fn queue_json(queue: &QueueStats) -> Value {
    let datasets: Vec<Value> = queue
        .datasets
        .iter()
        .map(|set| {
            json!({
                "number": set.number,
                "rows": set.rows,
                "pending": set.pending,
                "bytes": set.bytes,
                "createdMs": set.created_ms,
                "sealedMs": set.sealed_ms,
            })
        })
        .collect();
    json!({
        "queue": queue.queue.name(),
        "pending": queue.pending,
        "pendingBytes": queue.pending_bytes,
        "lastJobId": queue.last_job_id,
        "datasets": datasets,
    })
}

fn render_report(report: &VerifyReport) -> String {
    let mut table = Table::new(&[("RECORDS OF", Align::Left), ("COUNT", Align::Right), ("BYTES", Align::Right)]);
    for (family, count, bytes) in &report.families {
        table.row([family.clone(), count.to_string(), units::bytes(*bytes)]);
    }
    let mut text = table.render();
    for problem in &report.problems {
        output::line(&mut text, format_args!("damaged: {}", output::printable(problem)));
    }
    if report.problems.is_empty() {
        text.push_str("every record was read and is whole\n");
    }
    text
}

fn report_json(report: &VerifyReport) -> Value {
    let families: Vec<Value> = report
        .families
        .iter()
        .map(|(family, count, bytes)| json!({ "family": family, "records": count, "bytes": bytes }))
        .collect();
    json!({ "families": families, "problems": report.problems })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_shown_and_is_a_failure() {
        let mut report = VerifyReport { families: vec![("jobs".to_owned(), 3, 2048)], problems: Vec::new() };
        assert!(render_report(&report).contains("every record was read"));
        assert_eq!(verdict(&report), Ok(()));
        report.problems.push("block 7".to_owned());
        assert!(render_report(&report).contains("damaged: block 7"));
        assert_eq!(verdict(&report).unwrap_err().code, 1);
    }

    #[test]
    fn carried_datasets_are_told_apart() {
        assert_eq!(dataset_name(7), "7");
        assert_eq!(dataset_name(7 | 1 << 31), "c7");
    }
}

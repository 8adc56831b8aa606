//! Stored figures over time: the parts of a minute that is over become one record, old minutes go.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::super::{Deps, events};
use super::record::{Record, key, parts};
use super::tally::Tally;
use crate::jobsdb::{Durability, JobsDb, JobsDbError, Namespace, Tx};

/// How often it is looked after.
const INTERVAL: Duration = Duration::from_secs(60);
/// Minutes that may still get parts: a read may wait for its store.
const OPEN_MINUTES: u32 = 10;
/// Records of one transaction.
const MOST_RECORDS: usize = 5_000;
const MS_PER_MINUTE: i64 = 60_000;

/// The minute of a time.
pub(in super::super) fn minute_of(ms: i64) -> u32 {
    u32::try_from(ms.div_euclid(MS_PER_MINUTE)).unwrap_or(0)
}

/// Looks after the figures until stopped.
pub(in super::super) async fn run(deps: Deps, stop: CancellationToken) {
    let mut joined_until = 0;
    loop {
        let retention = deps.settings.load().processor.reporting.retention;
        let (jobs, now_ms) = (deps.jobs.clone(), deps.clock.now_ms());
        let done = tokio::task::spawn_blocking(move || tidy(&jobs, joined_until, now_ms, retention));
        match done.await {
            Ok(Ok(until)) => joined_until = until,
            Ok(Err(error)) => events::figures_not_tidied(&error.to_string()),
            Err(lost) => events::figures_not_tidied(&lost.to_string()),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Drops what is too old and joins what is over; returns the minute until which everything is joined. Blocks.
pub(in super::super) fn tidy(
    jobs: &JobsDb,
    joined_until: u32,
    now_ms: i64,
    retention: Duration,
) -> Result<u32, JobsDbError> {
    let now = minute_of(now_ms);
    let kept = u32::try_from(retention.as_secs() / 60).unwrap_or(u32::MAX);
    let oldest = now.saturating_sub(kept);
    while drop_before(jobs, oldest)? {}
    let end = now.saturating_sub(OPEN_MINUTES);
    let mut from = joined_until.max(oldest);
    while from < end {
        let page = jobs.scan_between(Namespace::Reporting, &from.to_be_bytes(), &end.to_be_bytes(), MOST_RECORDS)?;
        let Some(last) = page.last().and_then(|(key, _)| parts(key)).map(|(minute, _)| minute) else { break };
        let is_whole = page.len() < MOST_RECORDS;
        // A page that is full may end within a minute: that one waits, unless it alone fills the page. Then its
        // parts behind the page stay apart, which costs a reader little.
        let first = page.first().and_then(|(key, _)| parts(key)).map_or(last, |(minute, _)| minute);
        let until = if is_whole || first == last { last.saturating_add(1) } else { last };
        join(jobs, page.into_iter().filter(|(key, _)| parts(key).is_some_and(|(minute, _)| minute < until)))?;
        from = until;
        if is_whole {
            break;
        }
    }
    Ok(end)
}

fn drop_before(jobs: &JobsDb, minute: u32) -> Result<bool, JobsDbError> {
    let page = jobs.scan_between(Namespace::Reporting, &[], &minute.to_be_bytes(), MOST_RECORDS)?;
    if page.is_empty() {
        return Ok(false);
    }
    let is_full = page.len() == MOST_RECORDS;
    let mut tx = Tx::new(Durability::Lazy);
    for (key, _) in page {
        tx.delete(Namespace::Reporting, key);
    }
    jobs.commit_blocking(tx)?;
    Ok(is_full)
}

fn join(jobs: &JobsDb, records: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), JobsDbError> {
    let mut of_source: BTreeMap<(u32, String), Vec<(Vec<u8>, Vec<u8>)>> = BTreeMap::new();
    for (key, value) in records {
        if let Some((minute, source_id)) = parts(&key) {
            of_source.entry((minute, source_id.to_owned())).or_default().push((key, value));
        }
    }
    let mut tx = Tx::new(Durability::Lazy);
    for ((minute, source_id), found) in of_source.into_iter().filter(|(_, found)| found.len() > 1) {
        let mut tally = Tally::default();
        for (old, value) in found {
            match Record::decode(&value) {
                Ok(record) => tally.absorb(&record),
                Err(error) => events::figures_not_tidied(&error.to_string()),
            }
            tx.delete(Namespace::Reporting, old);
        }
        if let Some(record) = tally.to_record() {
            tx.put(Namespace::Reporting, key(minute, &source_id, 0), record.encode());
        }
    }
    if !tx.is_empty() {
        jobs.commit_blocking(tx)?;
    }
    Ok(())
}

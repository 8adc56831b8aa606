//! Figures for operators: sums over a time, by source, destination, stage and outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::{Record, parts};
use super::upkeep::minute_of;
use super::{Stage, State};
use crate::jobsdb::{JobsDb, JobsDbError, Namespace};

/// Records of one look at the store.
const PAGE: usize = 5_000;
/// Lines of one report.
const MOST_LINES: usize = 10_000;

/// What a report is about; empty parts are not asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this source.
    pub source_id: String,
    /// Only this destination.
    pub destination_id: String,
    /// Only this stage.
    pub stage: Option<Stage>,
    /// Tell event types and names apart.
    pub by_event: bool,
}

/// A sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The source.
    pub source_id: String,
    /// The destination; empty for stages before the fan-out.
    pub destination_id: String,
    /// The stage (`pu`).
    pub stage: String,
    /// The stage before (`in_pu`); possibly empty.
    pub after: String,
    /// What the stage said.
    pub state: String,
    /// Its code.
    pub status: u16,
    /// Type of the events, where they are told apart.
    pub event_type: String,
    /// Name of the events, where they are told apart.
    pub event_name: String,
    /// Type of the violations, for the tracking plan.
    pub error_type: String,
    /// Events.
    pub events: u64,
    /// Violations of that type.
    pub violations: u64,
}

/// The answer to a question about a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// First minute, milliseconds since the epoch.
    pub from_ms: i64,
    /// End of the last minute, milliseconds since the epoch.
    pub to_ms: i64,
    /// The sums, sorted.
    pub lines: Vec<Line>,
    /// Sums were left out because there are too many; ask for less.
    pub is_cut: bool,
}

/// Reads the figures of the minutes that the time touches. Blocks on the store.
///
/// # Errors
/// When the store cannot be read.
pub fn read(jobs: &JobsDb, from_ms: i64, to_ms: i64, filter: &Filter) -> Result<Report, JobsDbError> {
    let (first, last) = (minute_of(from_ms), minute_of(to_ms));
    let end = last.saturating_add(1).to_be_bytes();
    let mut from = first.to_be_bytes().to_vec();
    let mut sums: BTreeMap<Line, (u64, u64)> = BTreeMap::new();
    let mut report =
        Report { from_ms: i64::from(first) * 60_000, to_ms: (i64::from(last) + 1) * 60_000, ..Report::default() };
    loop {
        let page = jobs.scan_between(Namespace::Reporting, &from, &end, PAGE)?;
        let is_last = page.len() < PAGE;
        for (key, value) in &page {
            let Some((_, source_id)) = parts(key) else { continue };
            if !filter.source_id.is_empty() && filter.source_id != source_id {
                continue;
            }
            // A record that cannot be read is left out: figures are no events.
            let Ok(record) = Record::decode(value) else { continue };
            report.is_cut |= !add(&mut sums, source_id, &record, filter);
        }
        match page.last() {
            // The next key is the last one with a zero behind it.
            Some((key, _)) if !is_last => from = [key.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    report.lines = sums.into_iter().map(|(line, (events, violations))| Line { events, violations, ..line }).collect();
    Ok(report)
}

fn add(sums: &mut BTreeMap<Line, (u64, u64)>, source_id: &str, record: &Record, filter: &Filter) -> bool {
    let mut fits = true;
    for row in &record.rows {
        let Some(mark) = row.mark() else { continue };
        let at = (row.destination as usize).checked_sub(1);
        let destination_id = at.and_then(|at| record.destinations.get(at)).map_or("", String::as_str);
        let is_asked = (filter.destination_id.is_empty() || filter.destination_id == destination_id)
            && filter.stage.is_none_or(|stage| stage == mark.stage);
        if !is_asked {
            continue;
        }
        let kind = record.kinds.get(row.kind as usize).filter(|_| filter.by_event).cloned().unwrap_or_default();
        let line = Line {
            source_id: source_id.to_owned(),
            destination_id: destination_id.to_owned(),
            stage: mark.stage.name().to_owned(),
            after: mark.after.map_or("", Stage::name).to_owned(),
            state: State::name(mark.state).to_owned(),
            status: mark.status,
            event_type: kind.0,
            event_name: kind.1,
            error_type: error_type_name(mark.error_type).to_owned(),
            events: 0,
            violations: 0,
        };
        if sums.len() >= MOST_LINES && !sums.contains_key(&line) {
            fits = false;
            continue;
        }
        let sum = sums.entry(line).or_default();
        sum.0 = sum.0.saturating_add(row.events);
        sum.1 = sum.1.saturating_add(row.violations);
    }
    fits
}

fn error_type_name(number: u8) -> &'static str {
    super::super::tracking_plan::ViolationKind::numbered(number)
        .map_or("", super::super::tracking_plan::ViolationKind::name)
}

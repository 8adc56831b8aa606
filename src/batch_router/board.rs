//! What an operator sees of the batch router: one line a destination, one line an archived source.

use std::collections::BTreeMap;

use super::breaker::Pace;
use parking_lot::Mutex;
use serde::Serialize;

/// Whether a destination is delivered to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Yes.
    #[default]
    Closed,
    /// Not for a while, after failures in a row.
    Open,
    /// One batch is on trial.
    Trial,
}

impl From<Pace> for BreakerState {
    fn from(pace: Pace) -> BreakerState {
        match pace {
            Pace::Closed => BreakerState::Closed,
            Pace::OpenUntil(_) => BreakerState::Open,
            Pace::Trial => BreakerState::Trial,
        }
    }
}

/// Figures of one destination. Its backlog is told by `jobs.active`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationFigures {
    /// The destination.
    pub destination_id: String,
    /// Its type.
    pub destination_type: String,
    /// Where the last file went.
    pub last_location: Option<String>,
    /// When it did, milliseconds since the epoch.
    pub last_upload_ms: Option<i64>,
    /// What went wrong last; gone after the next success.
    pub last_error: Option<String>,
    /// When it did, milliseconds since the epoch.
    pub last_error_ms: Option<i64>,
    /// When the next batch is cut, milliseconds since the epoch.
    pub next_cut_ms: Option<i64>,
    /// Whether files are delivered now.
    pub breaker: BreakerState,
    /// The operator holds it.
    pub paused: bool,
    /// Failed uploads in a row.
    pub failures_in_a_row: u32,
    /// Uploads on their way.
    pub uploads_running: usize,
    /// Uploads of an earlier run whose fate the storage has not told yet.
    pub undecided_uploads: usize,
    /// Files since the start of the node.
    pub files: u64,
    /// Jobs in those files.
    pub jobs: u64,
}

/// Figures of the archive of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveFigures {
    /// The source.
    pub source_id: String,
    /// Where the last file went.
    pub last_location: Option<String>,
    /// When it did, milliseconds since the epoch.
    pub last_upload_ms: Option<i64>,
    /// What went wrong last; gone after the next success.
    pub last_error: Option<String>,
    /// Files since the start of the node.
    pub files: u64,
    /// Events in those files.
    pub events: u64,
}

/// The figures of every destination and of every archived source.
#[derive(Debug, Default)]
pub struct Board {
    destinations: Mutex<BTreeMap<String, DestinationFigures>>,
    archives: Mutex<BTreeMap<String, ArchiveFigures>>,
}

impl Board {
    /// Figures of all destinations, by id.
    pub fn snapshot(&self) -> Vec<DestinationFigures> {
        self.destinations.lock().values().cloned().collect()
    }

    /// Figures of all archived sources, by id.
    pub fn archives(&self) -> Vec<ArchiveFigures> {
        self.archives.lock().values().cloned().collect()
    }

    pub(super) fn destination(&self, id: &str, change: impl FnOnce(&mut DestinationFigures)) {
        let mut destinations = self.destinations.lock();
        let figures = destinations
            .entry(id.to_owned())
            .or_insert_with(|| DestinationFigures { destination_id: id.to_owned(), ..DestinationFigures::default() });
        change(figures);
    }

    pub(super) fn archive(&self, source_id: &str, change: impl FnOnce(&mut ArchiveFigures)) {
        let mut archives = self.archives.lock();
        let figures = archives
            .entry(source_id.to_owned())
            .or_insert_with(|| ArchiveFigures { source_id: source_id.to_owned(), ..ArchiveFigures::default() });
        change(figures);
    }

    pub(super) fn forget_destination(&self, id: &str) {
        self.destinations.lock().remove(id);
    }

    pub(super) fn forget_archive(&self, source_id: &str) {
        self.archives.lock().remove(source_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_kept_by_destination() {
        let board = Board::default();
        board.destination("b", |figures| figures.files += 1);
        board.destination("a", |figures| figures.breaker = BreakerState::Open);
        board.destination("b", |figures| figures.files += 1);
        let figures = board.snapshot();
        assert_eq!(
            figures.iter().map(|f| (f.destination_id.as_str(), f.files)).collect::<Vec<_>>(),
            [("a", 0), ("b", 2)]
        );
        assert_eq!(serde_json::to_value(&figures[0]).unwrap()["breaker"], "open");
        board.forget_destination("a");
        assert_eq!(board.snapshot().len(), 1);
    }
}

//! Stored figures: keys and values of the namespace `reporting` (storage-format.md 4).

use serde::{Deserialize, Serialize};

use super::tally::Mark;
use super::{Stage, State};
use crate::storage::{StorageError, codec};

/// Figures of one source in one minute, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Event types and names that rows refer to by place.
    pub(super) kinds: Vec<(String, String)>,
    /// Destination ids that rows refer to by place, from 1.
    pub(super) destinations: Vec<String>,
    pub(super) rows: Vec<Row>,
}

/// One sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) kind: u32,
    /// 0 = none.
    pub(super) destination: u32,
    stage: u8,
    /// 0 = none.
    after: u8,
    state: u8,
    status: u16,
    error_type: u8,
    pub(super) events: u64,
    pub(super) violations: u64,
}

impl Row {
    pub(super) fn new(kind: u32, destination: u32, mark: Mark, events: u64, violations: u64) -> Row {
        Row {
            kind,
            destination,
            stage: mark.stage as u8,
            after: mark.after.map_or(0, |stage| stage as u8),
            state: mark.state as u8,
            status: mark.status,
            error_type: mark.error_type,
            events,
            violations,
        }
    }

    /// What the row is about; `None` for numbers that this version does not know.
    pub(super) fn mark(&self) -> Option<Mark> {
        Some(Mark {
            stage: Stage::numbered(self.stage)?,
            after: if self.after == 0 { None } else { Some(Stage::numbered(self.after)?) },
            state: State::numbered(self.state)?,
            status: self.status,
            error_type: self.error_type,
        })
    }
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Record, StorageError> {
        codec::decode("figures of a minute", bytes)
    }
}

/// Minute, source id, zero, number of the first job (0 = joined).
pub(super) fn key(minute: u32, source_id: &str, first_job: u64) -> Vec<u8> {
    [&minute.to_be_bytes(), source_id.as_bytes(), &[0], &first_job.to_be_bytes()].concat()
}

/// Minute and source id of a key; `None` for other bytes.
pub(super) fn parts(key: &[u8]) -> Option<(u32, &str)> {
    let (minute, rest) = key.split_first_chunk::<4>()?;
    let (rest, _number) = rest.split_last_chunk::<8>()?;
    let (zero, source_id) = rest.split_last()?;
    if *zero == 0 { Some((u32::from_be_bytes(*minute), std::str::from_utf8(source_id).ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn golden() -> Record {
        let mark = Mark::new(Stage::EventFilter, Some(Stage::DestinationFilter), State::Filtered, 298);
        Record {
            kinds: vec![("track".to_owned(), "A".to_owned())],
            destinations: vec!["d".to_owned()],
            rows: vec![Row::new(0, 1, mark, 3, 0)],
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_page() {
        let page = include_str!("../../../storage-format.md");
        let line = page.lines().find(|line| line.starts_with("| ReportRecord | kinds (")).expect("a golden line");
        let written: String = line.rsplit('`').nth(1).unwrap().split_whitespace().collect();
        let encoded = golden().encode().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        assert_eq!(encoded, written);
        assert_eq!(Record::decode(&golden().encode()).unwrap(), golden());
    }

    #[test]
    fn keys_sort_by_minute_and_lead_back_to_it() {
        let of = |minute, source, job| key(minute, source, job);
        assert_eq!(of(0x0102_0304, "s", 5), [1, 2, 3, 4, b's', 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(parts(&of(7, "source", 9)), Some((7, "source")));
        assert!(of(7, "zzz", u64::MAX) < of(8, "", 0));
        assert_eq!(parts(b"short"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _read = (Record::decode(&bytes).is_ok(), parts(&bytes));
        }
    }
}

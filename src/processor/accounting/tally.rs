//! The figures of one read, or of several that were stored.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use super::record::{Record, Row};
use super::{Stage, State};

/// Kinds of events (type and name) that one tally tells apart; names come from outside.
const MOST_KINDS: usize = 200;
/// Rows of one tally; beyond them the kinds are not told apart.
const MOST_ROWS: usize = 4_000;
/// The name of those that are not told apart.
const OTHERS: &str = "(others)";
/// A longer name is shortened to its first and last characters.
const LONGEST_NAME: usize = 50;
const NAME_BEGINS: usize = 40;
const NAME_ENDS: usize = 10;

/// What a stage said about events, without their kind and destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in super::super) struct Mark {
    pub(in super::super) stage: Stage,
    /// The stage before.
    pub(in super::super) after: Option<Stage>,
    pub(in super::super) state: State,
    pub(in super::super) status: u16,
    /// Number of the type of violation, from 1; 0 = none.
    pub(in super::super) error_type: u8,
}

impl Mark {
    pub(in super::super) fn new(stage: Stage, after: Option<Stage>, state: State, status: u16) -> Mark {
        Mark { stage, after, state, status, error_type: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RowKey {
    kind: u32,
    /// 0 = none, else the place of its id, from 1.
    destination: u32,
    mark: Mark,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    events: u64,
    violations: u64,
}

/// Sums by kind of event, destination and outcome.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Tally {
    /// By event type, then name.
    kinds: HashMap<String, HashMap<String, u32>>,
    /// In the order of their numbers.
    kind_list: Vec<(String, String)>,
    destinations: HashMap<String, u32>,
    destination_list: Vec<String>,
    rows: FxHashMap<RowKey, Sums>,
}

impl Tally {
    /// The number of a kind of event.
    pub(in super::super) fn kind(&mut self, event_type: &str, name: &str) -> u32 {
        if let Some(kind) = self.kinds.get(event_type).and_then(|names| names.get(name)) {
            return *kind;
        }
        if self.kind_list.len() >= MOST_KINDS && (event_type, name) != ("", OTHERS) {
            return self.kind("", OTHERS);
        }
        let number = u32::try_from(self.kind_list.len()).unwrap_or(u32::MAX);
        self.kind_list.push((shortened(event_type), shortened(name)));
        self.kinds.entry(event_type.to_owned()).or_default().insert(name.to_owned(), number);
        number
    }

    fn destination(&mut self, id: &str) -> u32 {
        if id.is_empty() {
            return 0;
        }
        if let Some(number) = self.destinations.get(id) {
            return *number;
        }
        self.destination_list.push(id.to_owned());
        let number = u32::try_from(self.destination_list.len()).unwrap_or(u32::MAX);
        self.destinations.insert(id.to_owned(), number);
        number
    }

    /// Counts one event. `destination` is empty where the stage is before the fan-out.
    pub(in super::super) fn count(&mut self, kind: u32, destination: &str, mark: Mark) {
        self.add(kind, destination, mark, Sums { events: 1, violations: 0 });
    }

    /// Counts events of a stage before the fan-out.
    pub(in super::super) fn count_many(&mut self, kind: u32, mark: Mark, events: u64) {
        self.add(kind, "", mark, Sums { events, violations: 0 });
    }

    /// Counts one event with so many violations of the type of the mark.
    pub(in super::super) fn count_violations(&mut self, kind: u32, mark: Mark, violations: u64) {
        self.add(kind, "", mark, Sums { events: 1, violations });
    }

    fn add(&mut self, kind: u32, destination: &str, mark: Mark, sums: Sums) {
        let destination = self.destination(destination);
        let mut key = RowKey { kind, destination, mark };
        if self.rows.len() >= MOST_ROWS && !self.rows.contains_key(&key) {
            key.kind = self.kind("", OTHERS);
        }
        let row = self.rows.entry(key).or_default();
        row.events = row.events.saturating_add(sums.events);
        row.violations = row.violations.saturating_add(sums.violations);
    }

    /// Adds stored figures. Rows of a later version's stages and states are left out.
    pub(super) fn absorb(&mut self, record: &Record) {
        for row in &record.rows {
            let Some(mark) = row.mark() else { continue };
            let nameless = (String::new(), String::new());
            let (event_type, name) = record.kinds.get(row.kind as usize).unwrap_or(&nameless);
            let kind = self.kind(event_type, name);
            let at = (row.destination as usize).checked_sub(1);
            let destination = at.and_then(|at| record.destinations.get(at)).map_or("", String::as_str);
            self.add(kind, destination, mark, Sums { events: row.events, violations: row.violations });
        }
    }

    /// The figures in the form in which they are stored; `None` when there are none.
    pub(super) fn to_record(&self) -> Option<Record> {
        if self.rows.is_empty() {
            return None;
        }
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .map(|(key, sums)| Row::new(key.kind, key.destination, key.mark, sums.events, sums.violations))
            .collect();
        rows.sort_unstable();
        Some(Record { kinds: self.kind_list.clone(), destinations: self.destination_list.clone(), rows })
    }

    /// Key and value for the store: figures of a source in a minute, under the number of the first job that they
    /// are about.
    pub(in super::super) fn stored(&self, minute: u32, source_id: &str, first_job: u64) -> Option<(Vec<u8>, Vec<u8>)> {
        let record = self.to_record()?;
        Some((super::record::key(minute, source_id, first_job), record.encode()))
    }

    /// Events with this mark, of every kind.
    #[cfg(test)]
    pub(in super::super) fn of(&self, stage: Stage, state: State) -> u64 {
        let rows = self.rows.iter().filter(|(key, _)| (key.mark.stage, key.mark.state) == (stage, state));
        rows.map(|(_, sums)| sums.events).sum()
    }
}

/// A long name as its first and last characters.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= LONGEST_NAME {
        return name.to_owned();
    }
    let begin: String = name.chars().take(NAME_BEGINS).collect();
    let end: String = name.chars().skip(length - NAME_ENDS).collect();
    format!("{begin}...{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark::new(Stage::Gateway, None, State::Succeeded, 200)
    }

    #[test]
    fn kinds_and_rows_are_bounded_and_nothing_is_lost() {
        let mut tally = Tally::default();
        for n in 0..10_000 {
            let kind = tally.kind("track", &format!("event {n}"));
            tally.count(kind, &format!("d{}", n % 40), mark());
        }
        assert_eq!(tally.of(Stage::Gateway, State::Succeeded), 10_000);
        assert!(tally.kind_list.len() <= MOST_KINDS + 1 && tally.rows.len() <= MOST_ROWS + 40);
    }

    #[test]
    fn stored_figures_add_up() {
        let mut tally = Tally::default();
        let kind = tally.kind("track", "Signup");
        tally.count(kind, "d1", mark());
        tally.count_violations(kind, Mark { error_type: 2, ..mark() }, 3);
        let record = tally.to_record().unwrap();
        let mut sum = Tally::default();
        sum.kind("page", "");
        sum.absorb(&record);
        sum.absorb(&record);
        let joined = sum.to_record().unwrap();
        assert_eq!(joined.rows.len(), 2);
        assert_eq!(joined.rows.iter().map(|row| (row.events, row.violations)).max(), Some((2, 6)));
        assert!(joined.kinds.contains(&("track".to_owned(), "Signup".to_owned())));
        assert!(Tally::default().to_record().is_none());
    }

    #[test]
    fn a_long_name_keeps_its_ends() {
        let name = format!("{}{}", "a".repeat(100), "b".repeat(10));
        assert_eq!(shortened(&name), format!("{}...{}", "a".repeat(40), "b".repeat(10)));
        assert_eq!(shortened(&"ä".repeat(50)), "ä".repeat(50));
    }
}

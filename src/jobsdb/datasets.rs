//! When a dataset is sealed, takes stragglers, and goes (storage-design.md 8). Pure rules over the records.

use super::api::Queue;
use super::keys::CARRY_OVER;
use super::record::DatasetRecord;
use super::state::Datasets;

/// Pending bytes of a queue above which datasets grow, to keep their number small.
const LONG_QUEUE: u64 = 256 << 20;
/// Greatest size to which they grow.
const GROWN: u64 = 64 << 20;
/// An open dataset of this size without pending jobs is sealed soon, so that it can go.
const WORTH_DROPPING: u64 = 1 << 20;

/// Bounds of the datasets of one queue; bytes are payload bytes, times are milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct DatasetRules {
    pub max_rows: u64,
    pub max_bytes: u64,
    pub max_age_ms: i64,
    pub target_bytes: u64,
    pub target_age_ms: i64,
    pub min_retention_ms: i64,
    /// Small datasets finish while their bytes are still in memory. Off where jobs rest on purpose.
    pub small: bool,
}

/// Datasets whose rows were deleted, adjacent in their queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DroppedRange {
    pub queue: Queue,
    pub first: u32,
    pub last: u32,
    pub numbers: Vec<u32>,
}

impl Datasets {
    /// Seals the open dataset when it may not take another job. Returns its number.
    pub fn seal_if_full(&mut self, rules: DatasetRules, pending_bytes: u64, now_ms: i64) -> Option<u32> {
        let number = self.open?;
        if self.target_bytes == 0 {
            self.target_bytes = rules.target_bytes;
        }
        let target = self.target_bytes;
        let record = self.all.get_mut(&number)?;
        let age = now_ms.saturating_sub(record.created_ms);
        let is_big = rules.small && record.bytes >= target;
        let is_full = record.rows >= rules.max_rows
            || record.bytes >= rules.max_bytes
            || age >= rules.max_age_ms
            || is_big
            || (rules.small && age >= rules.target_age_ms);
        if record.rows == 0 || !is_full {
            return None;
        }
        record.sealed_ms = now_ms.max(1);
        self.open = None;
        if pending_bytes <= LONG_QUEUE {
            self.target_bytes = rules.target_bytes;
        } else if is_big {
            self.target_bytes = (target * 2).min(GROWN.max(rules.target_bytes));
        }
        Some(number)
    }

    /// Counts a new job in the open dataset, starting one if need be. Returns its number.
    pub fn store(&mut self, id: u64, bytes: u64, now_ms: i64) -> u32 {
        let number = match self.open {
            Some(number) => number,
            None => {
                let number = self.next.max(1);
                self.next = number + 1;
                self.all.insert(number, new_record(id, now_ms, 0));
                self.open = Some(number);
                number
            }
        };
        if let Some(record) = self.all.get_mut(&number) {
            record.add(id, bytes);
        }
        number
    }

    /// Counts a straggler in the open carry-over dataset. Returns its number, and that of a full one that was
    /// sealed before it.
    pub fn carry_over(&mut self, id: u64, bytes: u64, now_ms: i64, rules: DatasetRules) -> (u32, Option<u32>) {
        let mut sealed = None;
        if let Some(number) = self.open_carry_over
            && let Some(record) = self.all.get_mut(&number)
            && (record.bytes >= rules.target_bytes || record.rows >= rules.max_rows)
        {
            record.sealed_ms = now_ms.max(1);
            self.open_carry_over = None;
            sealed = Some(number);
        }
        let number = match self.open_carry_over {
            Some(number) => number,
            None => {
                let number = CARRY_OVER | self.next_carry_over.max(1);
                self.next_carry_over = (number & !CARRY_OVER) + 1;
                self.all.insert(number, new_record(id, now_ms, 1));
                self.open_carry_over = Some(number);
                number
            }
        };
        if let Some(record) = self.all.get_mut(&number) {
            record.add(id, bytes);
        }
        (number, sealed)
    }

    /// A job of the dataset is no longer pending there. True when it was the last one of a sealed dataset.
    pub fn ended(&mut self, number: u32, bytes: u64) -> bool {
        let Some(record) = self.all.get_mut(&number) else { return false };
        record.pending = record.pending.saturating_sub(1);
        record.pending_bytes = record.pending_bytes.saturating_sub(bytes);
        record.pending == 0 && record.sealed_ms != 0
    }

    /// Whether [`Datasets::seal_old`] or [`Datasets::drop_finished`] would do something.
    pub fn needs_upkeep(&self, rules: DatasetRules, now_ms: i64) -> bool {
        self.all.iter().any(|(number, record)| {
            if record.sealed_ms == 0 {
                self.is_old(*number, record, rules, now_ms)
            } else {
                is_finished(record, rules, now_ms)
            }
        })
    }

    fn is_old(&self, number: u32, record: &DatasetRecord, rules: DatasetRules, now_ms: i64) -> bool {
        if record.rows == 0 {
            return false;
        }
        let age = now_ms.saturating_sub(record.created_ms);
        if Some(number) == self.open_carry_over {
            return age >= rules.max_age_ms || record.pending == 0;
        }
        age >= rules.max_age_ms
            || (rules.small && age >= rules.target_age_ms)
            || (record.pending == 0 && record.bytes >= WORTH_DROPPING && age >= 1_000)
    }

    /// Seals open datasets that are old enough, or finished and worth dropping. Returns their numbers.
    pub fn seal_old(&mut self, rules: DatasetRules, now_ms: i64) -> Vec<u32> {
        let open: Vec<u32> = self.open.into_iter().chain(self.open_carry_over).collect();
        let mut sealed = Vec::new();
        for number in open {
            let is_old = self.all.get(&number).is_some_and(|record| self.is_old(number, record, rules, now_ms));
            if is_old && let Some(record) = self.all.get_mut(&number) {
                record.sealed_ms = now_ms.max(1);
                self.open = self.open.filter(|&open| open != number);
                self.open_carry_over = self.open_carry_over.filter(|&open| open != number);
                sealed.push(number);
            }
        }
        sealed
    }

    /// Forgets finished datasets. Returns runs of adjacent ones, which one range delete removes.
    pub fn drop_finished(&mut self, queue: Queue, rules: DatasetRules, now_ms: i64) -> Vec<DroppedRange> {
        let mut ranges: Vec<DroppedRange> = Vec::new();
        let mut continues = false;
        for (&number, record) in &self.all {
            if record.sealed_ms == 0 || !is_finished(record, rules, now_ms) {
                continues = false;
                continue;
            }
            let same_kind = ranges.last().is_some_and(|range| (range.last & CARRY_OVER) == (number & CARRY_OVER));
            match ranges.last_mut() {
                Some(range) if continues && same_kind => {
                    range.last = number;
                    range.numbers.push(number);
                }
                _ => ranges.push(DroppedRange { queue, first: number, last: number, numbers: vec![number] }),
            }
            continues = true;
        }
        for number in ranges.iter().flat_map(|range| &range.numbers) {
            self.all.remove(number);
        }
        ranges
    }

    /// Sealed datasets whose few pending jobs should be copied out, oldest first (8.4).
    pub fn with_stragglers(
        &self,
        rules: DatasetRules,
        min_age_ms: i64,
        share: f64,
        now_ms: i64,
        most: usize,
    ) -> Vec<u32> {
        let wants_copying = |(number, record): &(&u32, &DatasetRecord)| {
            if record.sealed_ms == 0 || record.pending == 0 {
                return false;
            }
            let age = now_ms.saturating_sub(record.created_ms);
            let is_carry_over = *number & CARRY_OVER != 0;
            let few = age >= min_age_ms && record.pending_bytes.saturating_mul(10) <= record.bytes && !is_carry_over;
            let old = age > rules.max_age_ms && (record.pending as f64) < share * (record.rows as f64);
            few || old
        };
        self.all.iter().filter(wants_copying).map(|(number, _)| *number).take(most).collect()
    }
}

impl DatasetRecord {
    fn add(&mut self, id: u64, bytes: u64) {
        self.first_job_id = self.first_job_id.min(id);
        self.last_job_id = self.last_job_id.max(id);
        self.rows += 1;
        self.pending += 1;
        self.bytes += bytes;
        self.pending_bytes += bytes;
    }
}

fn new_record(id: u64, now_ms: i64, kind: u8) -> DatasetRecord {
    DatasetRecord {
        first_job_id: id,
        last_job_id: id,
        created_ms: now_ms,
        sealed_ms: 0,
        rows: 0,
        pending: 0,
        bytes: 0,
        pending_bytes: 0,
        kind,
    }
}

fn is_finished(record: &DatasetRecord, rules: DatasetRules, now_ms: i64) -> bool {
    record.pending == 0 && now_ms.saturating_sub(record.sealed_ms).max(0) >= rules.min_retention_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> DatasetRules {
        DatasetRules {
            max_rows: 100,
            max_bytes: 1_000_000,
            max_age_ms: 60_000,
            target_bytes: 1_000,
            target_age_ms: 10_000,
            min_retention_ms: 0,
            small: true,
        }
    }

    #[test]
    fn a_dataset_is_sealed_by_rows_bytes_and_age_before_the_next_job() {
        for (jobs, bytes, at_ms) in [(100_u64, 1, 0), (2, 600, 0), (1, 1, 10_000)] {
            let mut datasets = Datasets::default();
            for id in 1..=jobs {
                assert_eq!(datasets.seal_if_full(rules(), 0, 0), None);
                assert_eq!(datasets.store(id, bytes, 0), 1);
            }
            assert_eq!(datasets.seal_if_full(rules(), 0, at_ms), Some(1), "{jobs} jobs of {bytes} bytes at {at_ms}");
            assert_eq!(datasets.store(jobs + 1, bytes, at_ms), 2);
        }
    }

    #[test]
    fn datasets_grow_while_the_queue_is_long_and_shrink_again() {
        let mut datasets = Datasets::default();
        let mut id = 0;
        let mut seal_at = |datasets: &mut Datasets, pending: u64| {
            let mut bytes = 0;
            loop {
                id += 1;
                datasets.store(id, 100, 0);
                bytes += 100;
                if datasets.seal_if_full(rules(), pending, 0).is_some() {
                    return bytes;
                }
            }
        };
        assert_eq!(seal_at(&mut datasets, LONG_QUEUE + 1), 1_000);
        assert_eq!(seal_at(&mut datasets, LONG_QUEUE + 1), 2_000);
        assert_eq!(seal_at(&mut datasets, 0), 4_000);
        assert_eq!(seal_at(&mut datasets, 0), 1_000);
    }

    #[test]
    fn finished_datasets_go_in_runs_and_numbers_are_never_used_again() {
        let mut datasets = Datasets::default();
        for id in 1..=5 {
            datasets.store(id, 600, 0);
            datasets.store(id, 600, 0);
            datasets.seal_if_full(rules(), 0, 0);
        }
        for number in [1, 2, 4, 5] {
            datasets.ended(number, 600);
            datasets.ended(number, 600);
        }
        let ranges = datasets.drop_finished(Queue::Gw, rules(), 1);
        let bounds: Vec<(u32, u32)> = ranges.iter().map(|range| (range.first, range.last)).collect();
        assert_eq!(bounds, [(1, 2), (4, 5)]);
        assert_eq!(datasets.store(11, 1, 0), 6);
        assert_eq!(datasets.all.keys().copied().collect::<Vec<_>>(), [3, 6]);
    }

    #[test]
    fn only_datasets_with_few_pending_bytes_or_great_age_have_stragglers() {
        let mut datasets = Datasets::default();
        for id in 1..=20 {
            datasets.store(id, 50, 0);
        }
        assert_eq!(datasets.seal_if_full(rules(), 0, 0), Some(1));
        assert!(datasets.with_stragglers(rules(), 1_000, 0.6, 30_000, 10).is_empty(), "everything is pending");
        for _ in 0..18 {
            datasets.ended(1, 50);
        }
        assert_eq!(datasets.with_stragglers(rules(), 1_000, 0.6, 30_000, 10), [1]);
        assert!(datasets.with_stragglers(rules(), 40_000, 0.6, 30_000, 10).is_empty(), "too young");
        assert_eq!(datasets.carry_over(19, 50, 30_000, rules()), (CARRY_OVER | 1, None));
    }
}

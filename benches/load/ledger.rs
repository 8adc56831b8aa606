//! Which events were seen: a bit per event number, the newest number per user, duplicates and order violations.
//!
//! The generator keeps one for acknowledged events, the sink one per path for delivered events; what is in the
//! first and not in the second is lost.

use std::collections::HashMap;

/// Numbers that were seen.
#[derive(Debug, Default)]
pub struct Seen {
    words: Vec<u64>,
    count: u64,
}

impl Seen {
    /// Notes a number; false when it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1024, 0);
        }
        let fresh = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(fresh);
        fresh
    }

    /// How many numbers are in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Eight bytes a word, little end first.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The form that [`Seen::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8]) -> Seen {
        let words: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect();
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Seen { words, count }
    }

    /// How many of these numbers the other does not have.
    pub fn missing_from(&self, other: &Seen) -> u64 {
        let theirs = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(theirs).map(|(mine, theirs)| u64::from((mine & !theirs).count_ones())).sum()
    }
}

/// Deliveries of one destination.
#[derive(Default)]
pub struct Ledger {
    /// Distinct events.
    pub seen: Seen,
    /// Deliveries of events that were there.
    pub duplicates: u64,
    /// First deliveries that came after a later event of the same user.
    pub order_violations: u64,
    newest: HashMap<u64, u64>,
}

impl Ledger {
    /// Notes a delivery.
    pub fn record(&mut self, user: u64, number: u64) {
        if !self.seen.insert(number) {
            self.duplicates += 1;
            return;
        }
        let newest = self.newest.entry(user).or_insert(number);
        if *newest > number {
            self.order_violations += 1;
        } else {
            *newest = number;
        }
    }
}

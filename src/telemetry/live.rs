//! Live events: what passes, for who watches (processor.md 15, router.md 11, security.md 2.2).
//!
//! In: records of the stages. Out: the newest hundred of each source and each destination, and whoever waits is told
//! of new ones. Nothing is recorded while nobody watches, so the taps then cost a look at one number. A slow viewer
//! loses records and is told how many; it never slows a stage.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;

/// Records that are kept of one source or destination.
const RECORDS: usize = 100;
/// Bytes of payloads that are kept of one source or destination.
const RING_BYTES: usize = 1 << 20;
/// Bytes of payloads that are kept in all.
const ALL_BYTES: usize = 64 << 20;
/// Longer payloads are left out.
const PAYLOAD_BYTES: usize = 64 << 10;
/// Sources and destinations that are remembered.
const RINGS: usize = 1_000;
/// Viewers at a time.
const VIEWERS: usize = 32;
/// How long records are made after somebody looked.
const INTEREST: Duration = Duration::from_mins(1);

/// What happened to one event at one stage.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveRecord {
    /// Milliseconds since the epoch.
    pub at_ms: i64,
    /// `gateway`, `router`, or the stage of the processor that failed the event.
    pub stage: String,
    /// The source.
    pub source_id: String,
    /// The destination, empty at the gateway.
    pub destination_id: String,
    /// Whose event it is.
    pub user_id: String,
    /// Its id.
    pub message_id: String,
    /// `track`, `identify`, ...
    pub event_type: String,
    /// Its name, possibly empty.
    pub event_name: String,
    /// `accepted`, `succeeded`, `filtered`, `failed`, or `aborted`.
    pub job_state: String,
    /// The code of the outcome.
    pub error_code: String,
    /// The attempt, from 1.
    pub attempt_num: u32,
    /// What went wrong, possibly empty.
    pub error: String,
    /// What came in or went out; left out when it is long.
    pub payload: Option<Box<RawValue>>,
}

impl LiveRecord {
    /// A payload as it is kept: JSON that is not too long.
    pub fn payload_of(bytes: &[u8]) -> Option<Box<RawValue>> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= PAYLOAD_BYTES)?;
        RawValue::from_string(text.to_owned()).ok()
    }

    fn bytes(&self) -> usize {
        512 + self.error.len() + self.payload.as_ref().map_or(0, |payload| payload.get().len())
    }
}

/// The taps of one node. Cheap to share.
#[derive(Clone, Debug, Default)]
pub struct LiveTaps(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// Milliseconds from `begun` until which records are made.
    watched_until: AtomicU64,
    viewers: AtomicUsize,
    rings: Mutex<Rings>,
    arrived: Notify,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            begun: Instant::now(),
            watched_until: AtomicU64::new(0),
            viewers: AtomicUsize::new(0),
            rings: Mutex::default(),
            arrived: Notify::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Rings {
    /// By kind and id: `false` for sources, `true` for destinations.
    rings: HashMap<(bool, String), Ring>,
    bytes: usize,
    /// Records so far; each has its number, from 1.
    count: u64,
}

#[derive(Debug, Default)]
struct Ring {
    records: VecDeque<(u64, Arc<LiveRecord>)>,
    bytes: usize,
}

/// A viewer; makes room for another when dropped.
#[derive(Debug)]
pub struct Viewer<'t>(&'t LiveTaps);

impl Drop for Viewer<'_> {
    fn drop(&mut self) {
        self.0.0.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Records behind a number.
#[derive(Debug, Default)]
pub struct LivePage {
    /// The records with their numbers, in order.
    pub records: Vec<(u64, Arc<LiveRecord>)>,
    /// The number to go on from.
    pub next: u64,
    /// Records that are gone already.
    pub lost: u64,
}

impl LiveTaps {
    /// Whether somebody watches, so that records are wanted.
    pub fn is_watched(&self) -> bool {
        let until = self.0.watched_until.load(Ordering::Relaxed);
        until > 0 && elapsed_ms(self.0.begun) < until
    }

    /// Keeps records and tells viewers.
    pub fn record(&self, records: impl IntoIterator<Item = LiveRecord>) {
        {
            let mut rings = self.0.rings.lock();
            for record in records {
                rings.push(record);
            }
        }
        self.0.arrived.notify_waiters();
    }

    /// The records of one event, as far as they are still there.
    pub fn of_message(&self, message_id: &str) -> Vec<Arc<LiveRecord>> {
        let rings = self.0.rings.lock();
        let records = rings.rings.values().flat_map(|ring| ring.records.iter().map(|(_, record)| record));
        records.filter(|record| record.message_id == message_id).cloned().collect()
    }

    /// A new viewer, from whose coming on records are made; `None` when there are too many.
    pub fn view(&self) -> Option<Viewer<'_>> {
        let until = elapsed_ms(self.0.begun) + u64::try_from(INTEREST.as_millis()).unwrap_or(u64::MAX / 2);
        self.0.watched_until.fetch_max(until, Ordering::Relaxed);
        let more = |viewers| (viewers < VIEWERS).then_some(viewers + 1);
        self.0.viewers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Viewer(self))
    }
}

impl Viewer<'_> {
    /// The number of the newest record.
    pub fn newest(&self) -> u64 {
        self.0.0.rings.lock().count
    }

    /// The records behind `after`, or what has come when the time is over.
    pub async fn behind(&self, after: u64, wait: Duration) -> LivePage {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let arrived = self.0.0.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let page = self.0.0.rings.lock().behind(after);
            if page.next > after || tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return page;
            }
        }
    }
}

impl Rings {
    fn push(&mut self, record: LiveRecord) {
        self.count += 1;
        let is_destination = !record.destination_id.is_empty();
        let id = if is_destination { &record.destination_id } else { &record.source_id };
        let key = (is_destination, id.clone());
        let bytes = record.bytes();
        let is_known = self.rings.contains_key(&key);
        if !is_known && self.rings.len() >= RINGS || self.bytes + bytes > ALL_BYTES + RING_BYTES {
            return;
        }
        let ring = self.rings.entry(key).or_default();
        ring.records.push_back((self.count, Arc::new(record)));
        ring.bytes += bytes;
        self.bytes += bytes;
        while ring.records.len() > RECORDS || ring.bytes > RING_BYTES || self.bytes > ALL_BYTES {
            let Some((_, oldest)) = ring.records.pop_front() else { break };
            ring.bytes = ring.bytes.saturating_sub(oldest.bytes());
            self.bytes = self.bytes.saturating_sub(oldest.bytes());
        }
    }

    fn behind(&self, after: u64) -> LivePage {
        let mut records: Vec<_> = self
            .rings
            .values()
            .flat_map(|ring| ring.records.iter().rev().take_while(|(number, _)| *number > after).cloned())
            .collect();
        records.sort_by_key(|(number, _)| *number);
        let passed = self.count.saturating_sub(after);
        LivePage { lost: passed.saturating_sub(u64::try_from(records.len()).unwrap_or(0)), records, next: self.count }
    }
}

fn elapsed_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(destination: &str, n: usize) -> LiveRecord {
        LiveRecord { destination_id: destination.to_owned(), message_id: n.to_string(), ..LiveRecord::default() }
    }

    #[tokio::test]
    async fn a_viewer_sees_the_newest_of_each_and_how_many_it_missed() {
        let taps = LiveTaps::default();
        assert!(!taps.is_watched());
        let viewer = taps.view().unwrap();
        assert!(taps.is_watched());
        taps.record((0..150).map(|n| record("busy", n)));
        taps.record([record("quiet", 150)]);
        let page = viewer.behind(0, Duration::ZERO).await;
        assert_eq!((page.records.len(), page.next, page.lost), (101, 151, 50));
        assert_eq!(page.records.last().unwrap().1.message_id, "150");
        let none = viewer.behind(page.next, Duration::from_millis(1)).await;
        assert_eq!((none.records.len(), none.next, none.lost), (0, 151, 0));
    }

    #[test]
    fn viewers_are_bounded_and_make_room_when_they_go() {
        let taps = LiveTaps::default();
        let viewers: Vec<_> = (0..VIEWERS).map(|_| taps.view().unwrap()).collect();
        assert!(taps.view().is_none());
        drop(viewers);
        assert!(taps.view().is_some());
    }

    #[test]
    fn payloads_are_bounded_in_bytes() {
        let mut rings = Rings::default();
        let payload = format!("\"{}\"", "x".repeat(60_000));
        for n in 0..50 {
            rings.push(LiveRecord { payload: LiveRecord::payload_of(payload.as_bytes()), ..record("d", n) });
        }
        assert!(rings.bytes <= RING_BYTES, "{}", rings.bytes);
        assert!(LiveRecord::payload_of(&vec![b' '; PAYLOAD_BYTES + 1]).is_none());
    }
}

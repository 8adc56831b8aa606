//! How old the oldest waiting event of each destination is, and how fast it is delivered to, from counters alone.
//!
//! Jobs are done about in the order in which they came. So when as many are done as waited at some moment, those that
//! waited then are done, and none that waits now came before that moment. Moments are taken one after the other; the
//! age that is told is at most twice the true one, and no queue is walked.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::DestinationStatus;

/// A rate is taken over at least this time.
const RATE_MS: i64 = 10_000;

/// What is remembered of each destination.
#[derive(Debug, Default)]
pub struct Backlogs(Mutex<HashMap<String, Track>>);

#[derive(Debug)]
struct Track {
    /// No waiting job came before.
    oldest_ms: i64,
    /// The moment that is waited for, the jobs that waited then, and those done before.
    mark_ms: i64,
    mark_pending: u64,
    mark_done: u64,
    /// The last two looks for the rate.
    rate_from: (i64, u64),
    rate: f64,
}

impl Backlogs {
    /// Fills in age and rate. `before_ms`: no job waits that came before, from the store's own books.
    pub(super) fn observe(&self, now_ms: i64, before_ms: i64, destinations: &mut [DestinationStatus]) {
        let mut tracks = self.0.lock();
        let known: HashSet<&str> = destinations.iter().map(|destination| destination.id.as_str()).collect();
        tracks.retain(|id, _| known.contains(id.as_str()));
        for destination in destinations {
            let pending = destination.rt.pending + destination.batch_rt.pending;
            let done = done(destination);
            let track = tracks
                .entry(destination.id.clone())
                .or_insert_with(|| Track::new(now_ms, before_ms.min(now_ms), pending, done));
            track.look(now_ms, pending, done);
            destination.oldest_ms = (pending > 0).then_some(track.oldest_ms);
            destination.done_per_second = track.rate;
        }
    }
}

/// Jobs that ended since the start of the node.
fn done(destination: &DestinationStatus) -> u64 {
    let delivery = destination.delivery.as_ref();
    let ended = delivery.map_or(0, |delivery| delivery.delivered + delivery.filtered + delivery.aborted);
    ended + destination.files.as_ref().map_or(0, |files| files.jobs)
}

impl Track {
    fn new(now_ms: i64, oldest_ms: i64, pending: u64, done: u64) -> Track {
        Track {
            oldest_ms,
            mark_ms: now_ms,
            mark_pending: pending,
            mark_done: done,
            rate_from: (now_ms, done),
            rate: 0.0,
        }
    }

    fn look(&mut self, now_ms: i64, pending: u64, done: u64) {
        if pending == 0 || done.saturating_sub(self.mark_done) >= self.mark_pending {
            self.oldest_ms = if pending == 0 { now_ms } else { self.mark_ms };
            (self.mark_ms, self.mark_pending, self.mark_done) = (now_ms, pending, done);
        }
        let (from_ms, from_done) = self.rate_from;
        if now_ms - from_ms >= RATE_MS {
            self.rate = done.saturating_sub(from_done) as f64 * 1_000.0 / (now_ms - from_ms) as f64;
            self.rate_from = (now_ms, done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_event_is_never_told_younger_than_it_is() {
        // One job a second comes; each is done after `delay` seconds.
        for delay in [0_i64, 1, 7, 60] {
            let mut track = Track::new(0, 0, 0, 0);
            for second in 1..600_i64 {
                let done = u64::try_from((second - delay).max(0)).unwrap();
                let pending = u64::try_from(second).unwrap() - done;
                track.look(second * 1_000, pending, done);
                let truly_ms = (second - delay).max(0) * 1_000;
                let told_ms = track.oldest_ms;
                assert!(pending == 0 || told_ms <= truly_ms + 1_000, "{delay} {second} {told_ms}");
                assert!(second < 200 || told_ms >= truly_ms - (delay + 2) * 1_000, "{delay} {second} {told_ms}");
            }
            assert!((track.rate - 1.0).abs() < 0.01);
        }
    }

    #[test]
    fn what_does_not_move_grows_old() {
        let mut track = Track::new(0, 0, 5, 100);
        track.look(3_600_000, 9, 104);
        assert_eq!(track.oldest_ms, 0);
        track.look(3_601_000, 8, 105);
        assert_eq!(track.oldest_ms, 0, "what waited at the start is done; what came since then may be that old");
        track.look(3_602_000, 0, 113);
        assert_eq!(track.oldest_ms, 3_602_000);
    }
}

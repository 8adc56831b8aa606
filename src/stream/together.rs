//! Records of many senders in one call.
//!
//! A sender hands its record in and waits for its own answer. While few calls are on their way a record goes out at
//! once; otherwise it goes with all that came in meanwhile. Nobody waits for a timer. As a sender has one record on
//! its way at a time, records of one user never share a call and keep their order.
//!
//! A call that is refused for good says nothing about each of its records: they are sent again one by one.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::fault::Fault;

/// Calls on their way at a time, for one destination.
const CALLS: usize = 4;

/// An API that takes several records in one call.
pub(super) trait Batches {
    /// What is sent.
    type Record: Send + Sync;

    /// Sends records of one target. Out: what became of each, in their order.
    ///
    /// # Errors
    /// What became of the call as a whole.
    fn send_batch(
        &self,
        target: &str,
        records: &[Self::Record],
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Result<(), Fault>>, Fault>> + Send;
}

/// What a call may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

/// Records that wait for a call.
#[derive(Debug)]
pub(super) struct Together<R> {
    bounds: Bounds,
    calls: Semaphore,
    waiting: Mutex<VecDeque<Waiting<R>>>,
}

#[derive(Debug)]
struct Waiting<R> {
    target: String,
    bytes: usize,
    record: R,
    answer: oneshot::Sender<Result<(), Fault>>,
}

impl<R: Send + Sync> Together<R> {
    /// Nothing waits yet.
    pub(super) fn new(bounds: Bounds) -> Together<R> {
        Together { bounds, calls: Semaphore::new(CALLS), waiting: Mutex::default() }
    }

    /// Sends a record, with others or alone.
    ///
    /// # Errors
    /// What became of it.
    pub(super) async fn send(
        &self,
        api: &impl Batches<Record = R>,
        target: String,
        bytes: usize,
        record: R,
        timeout: Duration,
    ) -> Result<(), Fault> {
        let (answer, mut answered) = oneshot::channel();
        self.waiting.lock().push_back(Waiting { target, bytes, record, answer });
        let lost = || Err(Fault::Interrupted("the call that held the record was given up".to_owned()));
        loop {
            let turn = tokio::select! {
                biased;
                result = &mut answered => return result.unwrap_or_else(|_| lost()),
                turn = self.calls.acquire() => turn,
                () = tokio::time::sleep(timeout) => {
                    return Err(Fault::Interrupted(format!("no call had room within {timeout:?}")));
                }
            };
            let Ok(turn) = turn else { return lost() };
            let batch = self.take();
            if batch.is_empty() {
                // Somebody else's call holds the record.
                drop(turn);
                let result = tokio::time::timeout(timeout.saturating_mul(2), answered).await;
                return result.ok().and_then(Result::ok).unwrap_or_else(lost);
            }
            deliver(api, batch, timeout).await;
        }
    }

    /// The records of the next call: those of one target, in the order they came.
    fn take(&self) -> Vec<Waiting<R>> {
        let mut waiting = self.waiting.lock();
        // Whoever gave up waiting has failed already.
        waiting.retain(|one| !one.answer.is_closed());
        let Some(target) = waiting.front().map(|first| first.target.clone()) else { return Vec::new() };
        let mut batch: Vec<Waiting<R>> = Vec::new();
        let mut bytes = 0_usize;
        let mut others = VecDeque::new();
        while let Some(one) = waiting.pop_front() {
            let fits = batch.is_empty() || bytes.saturating_add(one.bytes) <= self.bounds.bytes;
            if one.target == target && batch.len() < self.bounds.records && fits {
                bytes = bytes.saturating_add(one.bytes);
                batch.push(one);
            } else {
                others.push_back(one);
            }
        }
        *waiting = others;
        batch
    }
}

async fn deliver<R: Send + Sync>(api: &impl Batches<Record = R>, batch: Vec<Waiting<R>>, timeout: Duration) {
    let target = batch.first().map(|first| first.target.clone()).unwrap_or_default();
    let (records, answers): (Vec<R>, Vec<_>) = batch.into_iter().map(|one| (one.record, one.answer)).unzip();
    let results = match api.send_batch(&target, &records, timeout).await {
        Ok(results) => results,
        Err(fault) if records.len() > 1 && fault.is_final() => {
            let mut results = Vec::new();
            for record in records.chunks(1) {
                results.push(alone(api.send_batch(&target, record, timeout).await));
            }
            results
        }
        Err(fault) => records.iter().map(|_| Err(fault.clone())).collect(),
    };
    let mut results = results.into_iter();
    for answer in answers {
        let missing = || Err(Fault::Server("the answer does not speak of this record".to_owned()));
        // A sender that is gone needs no answer.
        drop(answer.send(results.next().unwrap_or_else(missing)));
    }
}

fn alone(result: Result<Vec<Result<(), Fault>>, Fault>) -> Result<(), Fault> {
    result?.into_iter().next().unwrap_or_else(|| Err(Fault::Server("the answer speaks of no record".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refuses batches that hold the word `bad`; keeps what it took.
    #[derive(Default)]
    struct Fake {
        calls: Mutex<Vec<Vec<String>>>,
    }

    impl Batches for Fake {
        type Record = String;

        async fn send_batch(
            &self,
            _target: &str,
            records: &[String],
            _timeout: Duration,
        ) -> Result<Vec<Result<(), Fault>>, Fault> {
            self.calls.lock().push(records.to_vec());
            tokio::task::yield_now().await;
            if records.iter().any(|record| record == "bad") {
                return Err(Fault::Payload("bad".to_owned()));
            }
            Ok(records.iter().map(|_| Ok(())).collect())
        }
    }

    #[tokio::test]
    async fn records_that_come_while_calls_are_out_share_the_next_and_one_bad_record_fails_alone() {
        let fake = Fake::default();
        let together = Together::new(Bounds { records: 10, bytes: 1000 });
        let second = Duration::from_secs(1);
        let send = |n: usize| {
            let record = if n == 7 { "bad".to_owned() } else { n.to_string() };
            together.send(&fake, "t".to_owned(), 10, record, second)
        };
        let results = futures_util::future::join_all((0..30).map(send)).await;
        for (n, result) in results.iter().enumerate() {
            assert_eq!(result.is_ok(), n != 7, "{n}");
        }
        let calls = fake.calls.lock();
        assert!(calls.iter().any(|call| call.len() > 1), "{calls:?}");
        assert!(calls.iter().all(|call| call.len() <= 10), "{calls:?}");
    }
}

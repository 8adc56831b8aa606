//! The group flush: one wait for the disk serves everything that was written before it.
//!
//! In: [`Flush`] requests in write order. Out: every acknowledgement, called after a flush that began
//! after its write. Writes that nobody waits for are flushed within the lazy interval; when nothing was
//! written nothing is flushed (performance.md 8, rules 1 and 2).

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{Storage, StorageError};

/// Called once with the outcome of the flush that covers a write.
pub type Acknowledge = Box<dyn FnOnce(Result<(), &StorageError>) + Send>;

/// A request about everything written before it.
pub enum Flush {
    /// Flush as soon as possible and then call these.
    Now(Vec<Acknowledge>),
    /// Flush within the lazy interval.
    Soon,
}

/// The flushing thread.
pub struct Flusher {
    requests: Sender<Flush>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(storage: Storage, lazy_interval: Duration) -> Result<Flusher, StorageError> {
        let (requests, receiver) = bounded(1_024);
        let thread = std::thread::Builder::new()
            .name("pintle-flush".to_owned())
            .spawn(move || run(&storage, lazy_interval, &receiver))
            .map_err(|source| {
                StorageError::file("start the flushing thread for", std::path::Path::new("the store"), source)
            })?;
        Ok(Flusher { requests, thread: Some(thread) })
    }

    /// Hands over a request. Waits when the disk is far behind.
    pub fn request(&self, flush: Flush) {
        if self.requests.send(flush).is_err() {
            tracing::error!("the flushing thread is gone");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let (closed, _) = bounded(0);
        self.requests = closed;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flushing thread panicked");
        }
    }
}

fn run(storage: &Storage, lazy_interval: Duration, requests: &Receiver<Flush>) {
    let mut waiting: Vec<Acknowledge> = Vec::new();
    let mut flush_by: Option<Instant> = None;
    loop {
        let next = match flush_by {
            None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => requests.recv_deadline(deadline),
        };
        let mut is_due = false;
        let mut is_over = false;
        match next {
            Ok(Flush::Now(acknowledgements)) => {
                waiting.extend(acknowledgements);
                is_due = true;
            }
            Ok(Flush::Soon) => flush_by = flush_by.or_else(|| Some(Instant::now() + lazy_interval)),
            Err(RecvTimeoutError::Timeout) => is_due = true,
            Err(RecvTimeoutError::Disconnected) => {
                is_due = flush_by.is_some();
                is_over = true;
            }
        }
        if is_due {
            for request in requests.try_iter() {
                if let Flush::Now(acknowledgements) = request {
                    waiting.extend(acknowledgements);
                }
            }
            let flushed = storage.flush();
            flush_by = None;
            for acknowledge in waiting.drain(..) {
                acknowledge(flushed.as_ref().copied());
            }
        }
        if is_over {
            return;
        }
    }
}

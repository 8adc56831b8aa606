//! What goes into the engine and what comes out.

use std::sync::Arc;

use super::code::Code;

/// Events of one source for one destination, in order.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The code that transforms them.
    pub code: Arc<Code>,
    /// The events.
    pub events: Arc<[Event]>,
    /// Stands for the source and the destination: batches of different lanes take turns, and none has all threads.
    pub lane: u64,
    /// Whether `log(...)` is kept: in test runs only.
    pub keeps_logs: bool,
}

/// One event as the engine needs it.
#[derive(Clone, Debug)]
pub struct Event {
    /// The event, a JSON object.
    pub message: String,
    /// Its metadata (processor.md 3.1), a JSON object.
    pub metadata: String,
    /// `messageId` of the metadata.
    pub message_id: String,
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// Per output, drop or failure, in the order of the events; what a batch function dropped comes first.
    pub results: Vec<Transformed>,
    /// What the code logged, if that is kept.
    pub logs: Vec<String>,
}

/// One result and the events that it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Transformed {
    /// Where it came from.
    pub origin: Origin,
    /// What it is.
    pub verdict: Verdict,
}

/// The events behind a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The event at this place of the batch.
    Event(usize),
    /// An event that the code made: metadata of the first event, with a message id of its own.
    Fresh {
        /// The new message id.
        message_id: String,
    },
    /// All events of the batch.
    All,
}

/// What a result is.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// An event, a JSON object (200).
    Output(String),
    /// Dropped on purpose (298).
    Dropped,
    /// It failed.
    Failed {
        /// HTTP-like status.
        status: u16,
        /// What went wrong, as the author of the code reads it.
        error: String,
    },
}

impl Batch {
    /// What takes turns: a lane's events with one code.
    pub(super) fn turn(&self) -> u128 {
        self.code.key() ^ u128::from(self.lane)
    }
}

impl Verdict {
    /// The ordinary failure.
    pub(super) fn failed(error: impl Into<String>) -> Verdict {
        Verdict::Failed { status: 400, error: error.into() }
    }

    /// The status that reports and dead letters carry.
    pub fn status(&self) -> u16 {
        match self {
            Verdict::Output(_) => 200,
            Verdict::Dropped => 298,
            Verdict::Failed { status, .. } => *status,
        }
    }
}

impl Reply {
    /// Every event failed in the same way.
    pub(super) fn all_failed(events: usize, status: u16, error: &str) -> Reply {
        let failed = |at| Transformed {
            origin: Origin::Event(at),
            verdict: Verdict::Failed { status, error: error.to_owned() },
        };
        Reply { results: (0..events).map(failed).collect(), logs: Vec::new() }
    }
}

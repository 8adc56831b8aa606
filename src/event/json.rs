//! JSON at the speed of one scan (gateway.md 6.1).
//!
//! In: the bytes of a request body. Out: either [`Invalid`], or the places of the events in it and of the
//! few fields that ingestion reads, without a tree. Each event says whether it must be normalised before
//! it is stored; [`normalise`] does that and only such events are ever decoded.
//!
//! Promises: linear time in the length of the input whatever it holds, no recursion that input drives,
//! nesting bounded before anything is kept per level, no panic on any bytes.

mod event;
mod keys;
mod rewrite;
mod scan;
mod text;

pub use event::{EventScan, Fields, Kind, Single, scan_batch, scan_event, scan_single};
pub use rewrite::normalise;
pub use scan::members;
pub use text::{compact, decode_string, push_string};

/// The bytes are not JSON, or nest deeper than allowed, or hold a number out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid json")]
pub struct Invalid;

/// A range of bytes of the scanned text. The default is the absent one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// Behind the last byte; 0 in the absent span.
    pub end: u32,
}

impl Span {
    /// The bytes from `start` up to `end`.
    pub fn new(start: usize, end: usize) -> Span {
        // Scanners refuse texts beyond 4 GiB, so both always fit.
        Span { start: u32::try_from(start).unwrap_or(u32::MAX), end: u32::try_from(end).unwrap_or(u32::MAX) }
    }

    /// Whether there is something.
    pub fn is_present(self) -> bool {
        self.end != 0
    }

    /// Its bytes in the text that was scanned; empty when absent.
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

//! The processor's limits (processor.md 17).

use super::catalogue::{Key, Kind};
use super::raw::Reader;

pub(super) const KEYS: &[Key] =
    &[Key::new("Processor.maxLoopProcessEvents", Kind::Int, "2000", "Most jobs of one read.").hot()];

/// Settings of the processor.
#[derive(Clone, Debug)]
pub struct ProcessorSettings {
    /// Most jobs (and events) of one read.
    pub max_loop_process_events: usize,
}

impl ProcessorSettings {
    pub(super) fn read(r: &Reader<'_>) -> ProcessorSettings {
        ProcessorSettings { max_loop_process_events: r.count("Processor.maxLoopProcessEvents") }
    }
}

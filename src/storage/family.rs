//! The column families (storage-design.md 3).

/// A column family: records that are stored and compacted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Format, queues, datasets, partitions, journal.
    Meta,
    /// Job headers and payloads.
    Jobs,
    /// One entry per pending job.
    Index,
    /// Latest status of jobs that were attempted.
    Status,
    /// Deduplication keys.
    Dedup,
    /// Records of other owners, one namespace byte first.
    Records,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 6] =
        [Family::Meta, Family::Jobs, Family::Index, Family::Status, Family::Dedup, Family::Records];

    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "default",
            Family::Jobs => "jobs",
            Family::Index => "idx",
            Family::Status => "status",
            Family::Dedup => "dedup",
            Family::Records => "kv",
        }
    }
}

//! What went wrong with an upload, when it is tried again, and when it is given up (warehouse.md 14.3).

use std::time::Duration;

use crate::jobsdb::JobsDbError;
use crate::object_storage::StoreError;

/// Messages of one state that are kept; of more, the newest.
const KEPT_MESSAGES: usize = 20;

/// What kind of failure it is, as operators sort them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// None of the others.
    Uncategorized,
    /// The node may not do that.
    Permission,
    /// A host, database, schema or table is not there.
    ResourceNotFound,
    /// The table cannot have more columns.
    ColumnCount,
    /// The value is too long for its column.
    ColumnSize,
    /// The warehouse has no room or memory left.
    InsufficientResource,
    /// The warehouse has too much to do.
    ConcurrentQueries,
}

impl Category {
    /// The text in records.
    pub fn name(self) -> &'static str {
        match self {
            Category::Uncategorized => "Uncategorized error",
            Category::Permission => "Permission error",
            Category::ResourceNotFound => "Resource not found error",
            Category::ColumnCount => "Column count error",
            Category::ColumnSize => "Column size error",
            Category::InsufficientResource => "Insufficient resource error",
            Category::ConcurrentQueries => "Concurrent queries error",
        }
    }
}

/// Why a step of an upload failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The warehouse or its object storage was not reached at all: says nothing about the upload.
    #[error("{0}")]
    Unreachable(String),
    /// The warehouse or the storage refused, or the data cannot be loaded.
    #[error("{message}")]
    Refused {
        /// What kind of failure.
        category: Category,
        /// What was said.
        message: String,
    },
    /// The node's own store failed.
    #[error("cannot use the store of the node: {0}")]
    Jobs(#[from] JobsDbError),
    /// The node stops.
    #[error("the node stops")]
    Stopped,
}

impl Failure {
    /// A refusal that fits no category.
    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::Refused { category: Category::Uncategorized, message: message.into() }
    }

    /// Whether nothing was reached (router.md 7.7).
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Failure::Unreachable(_))
    }

    /// What kind of failure it is.
    pub fn category(&self) -> Category {
        match self {
            Failure::Refused { category, .. } => *category,
            Failure::Unreachable(_) => Category::ResourceNotFound,
            Failure::Jobs(_) | Failure::Stopped => Category::Uncategorized,
        }
    }

    /// The same failure, with what was being done put in front.
    pub fn during(self, what: &str) -> Failure {
        match self {
            Failure::Unreachable(message) => Failure::Unreachable(format!("{what}: {message}")),
            Failure::Refused { category, message } => {
                Failure::Refused { category, message: format!("{what}: {message}") }
            }
            other => other,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let message = format!("object storage: {error}");
        if error.is_unreachable() { Failure::Unreachable(message) } else { Failure::refused(message) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        // A full disk passes: the upload must not be given up for it.
        let message = format!("a file of the node: {error}");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Failure::Unreachable(message),
            _ => Failure::refused(message),
        }
    }
}

impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Failure {
        Failure::refused(format!("internal error: {error}"))
    }
}

/// The failures of one state.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StateErrors {
    /// How often the state failed.
    pub attempt: u32,
    /// Of those, how often nothing was reached.
    #[serde(default)]
    pub unreachable: u32,
    /// What was said, oldest first.
    pub errors: Vec<String>,
}

impl StateErrors {
    /// Takes note of another failure.
    pub fn add(&mut self, failure: &Failure) {
        self.attempt = self.attempt.saturating_add(1);
        self.unreachable = self.unreachable.saturating_add(u32::from(failure.is_unreachable()));
        self.errors.push(failure.to_string());
        let surplus = self.errors.len().saturating_sub(KEPT_MESSAGES);
        self.errors.drain(..surplus);
    }

    /// Failures that say something about the upload.
    pub fn refusals(&self) -> u32 {
        self.attempt.saturating_sub(self.unreachable)
    }
}

/// The wait before the next attempt, after so many failures before the present one.
pub fn backoff(failures_before: u32, least: Duration, most: Duration) -> Duration {
    let factor = 2_u32.checked_pow(failures_before).unwrap_or(u32::MAX);
    least.saturating_mul(factor).min(most)
}

/// Whether the upload is given up: the state refused too often, for too long.
pub fn is_given_up(errors: &StateErrors, window_ms: i64, least_attempts: u32, window: Duration) -> bool {
    errors.refusals() > least_attempts && u128::try_from(window_ms).is_ok_and(|passed| passed > window.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let wait = |failures| backoff(failures, Duration::from_secs(60), Duration::from_secs(1_800)).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 60].map(wait), [60, 120, 240, 480, 960, 1_800, 1_800]);
    }

    #[test]
    fn only_what_was_refused_often_and_for_long_is_given_up() {
        let window = Duration::from_secs(180 * 60);
        let long = 180 * 60_000 + 1;
        let of = |attempt, unreachable| StateErrors { attempt, unreachable, errors: Vec::new() };
        assert!(is_given_up(&of(4, 0), long, 3, window));
        assert!(!is_given_up(&of(3, 0), long, 3, window));
        assert!(!is_given_up(&of(4, 0), long - 1, 3, window));
        assert!(!is_given_up(&of(400, 397), long * 10, 3, window));
        assert!(!is_given_up(&of(4, 0), -1, 3, window));
    }

    #[test]
    fn the_newest_messages_are_kept() {
        let mut errors = StateErrors::default();
        for n in 0..KEPT_MESSAGES + 5 {
            errors.add(&Failure::refused(n.to_string()));
        }
        errors.add(&Failure::Unreachable("away".to_owned()));
        assert_eq!((errors.attempt, errors.unreachable, errors.errors.len()), (26, 1, KEPT_MESSAGES));
        assert_eq!(errors.errors.last().map(String::as_str), Some("away"));
    }
}

//! Pauses of destinations by the operator (router.md 7.8). The router's board keeps them, in memory and in the
//! store; here is who may be paused and for how long.

use std::time::Duration;

use hyper::StatusCode;

use super::{Deps, PauseStatus};
use crate::jobsdb::JobsDbError;

/// Why a pause cannot be set or lifted.
#[derive(Debug, thiserror::Error)]
pub(super) enum PauseError {
    /// Nobody knows the destination.
    #[error("no destination {id:?} in the configuration in force; `pintle destination ls` lists them")]
    Unknown {
        /// What was asked for.
        id: String,
    },
    /// The store refused.
    #[error("the pause cannot be stored: {0}")]
    Store(#[from] JobsDbError),
}

impl PauseError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            PauseError::Unknown { .. } => StatusCode::NOT_FOUND,
            PauseError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Holds delivery to a destination, for a while or until it is resumed. Durable when this returns.
pub(super) async fn pause(deps: &Deps, id: &str, lasting: Option<Duration>) -> Result<PauseStatus, PauseError> {
    let is_known = deps.config.current().is_some_and(|snapshot| snapshot.destination_by_id.contains_key(id));
    if !is_known {
        return Err(PauseError::Unknown { id: id.to_owned() });
    }
    let now_ms = deps.clock.now_ms();
    let until_ms = lasting.map(|lasting| now_ms.saturating_add(i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX)));
    deps.router_board.pause(&deps.jobs, &deps.clock, id, until_ms).await?;
    Ok(PauseStatus { since_ms: now_ms, until_ms })
}

/// Lifts a pause; whether there was one. Works for destinations that are no longer configured, too.
pub(super) async fn resume(deps: &Deps, id: &str) -> Result<bool, PauseError> {
    let was_paused = deps.router_board.pause_of(id, deps.clock.now_ms()).is_some();
    deps.router_board.resume(&deps.jobs, id).await?;
    Ok(was_paused)
}

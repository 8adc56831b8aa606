//! What became of events, stage by stage (processor.md 14): how many went in, out, were filtered, failed, and why.
//!
//! A read gathers its figures in a [`Tally`], which is stored in the transaction of its batch: a repeated read is
//! counted once. Stored figures are [`record`]s by minute and source; [`upkeep`] joins those of a minute that is over
//! and drops old ones; [`report`] reads them for operators.
//!
//! Promises: no allocation for an event whose type, name and outcome were seen in the read; the figures of a read
//! and the names in them are bounded.

mod record;
mod report;
mod tally;
mod upkeep;

pub(super) use tally::{Mark, Tally};
#[cfg(test)]
pub(super) use upkeep::tidy;
pub(super) use upkeep::{minute_of, run as run_upkeep};

pub use report::{Filter, Line, Report, read};

/// A stage of the way of an event. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Accepted by the gateway and read by the processor.
    Gateway = 1,
    /// Sent by a bot.
    BotManagement = 2,
    /// Blocked by name.
    EventBlocking = 3,
    /// Seen before.
    Dedup = 4,
    /// Whether any destination wants it.
    DestinationFilter = 5,
    /// Held against the tracking plan.
    TrackingPlanValidator = 7,
    /// The user's own code.
    UserTransformer = 8,
    /// Whether the destination takes its type.
    EventFilter = 9,
    /// Put into the destination's form.
    DestTransformer = 10,
}

impl Stage {
    const ALL: [Stage; 9] = [
        Stage::Gateway,
        Stage::BotManagement,
        Stage::EventBlocking,
        Stage::Dedup,
        Stage::DestinationFilter,
        Stage::TrackingPlanValidator,
        Stage::UserTransformer,
        Stage::EventFilter,
        Stage::DestTransformer,
    ];

    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Gateway => "gateway",
            Stage::BotManagement => "bot_management",
            Stage::EventBlocking => "event_blocking",
            Stage::Dedup => "dedup",
            Stage::DestinationFilter => "destination_filter",
            Stage::TrackingPlanValidator => "tracking_plan_validator",
            Stage::UserTransformer => "user_transformer",
            Stage::EventFilter => "event_filter",
            Stage::DestTransformer => "dest_transformer",
        }
    }

    /// The stage of a name.
    pub fn named(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    fn numbered(number: u8) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| *stage as u8 == number)
    }
}

/// What a stage said about an event. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// It went on.
    Succeeded = 1,
    /// On purpose it goes no further.
    Filtered = 2,
    /// It failed.
    Aborted = 3,
    /// It went on although it departs from the plan.
    SucceededWithViolations = 4,
    /// It went on and is as planned.
    SucceededWithoutViolations = 5,
    /// A bot sent it.
    BotDetected = 6,
    /// A bot sent it, and it says so.
    BotFlagged = 7,
}

impl State {
    const ALL: [State; 7] = [
        State::Succeeded,
        State::Filtered,
        State::Aborted,
        State::SucceededWithViolations,
        State::SucceededWithoutViolations,
        State::BotDetected,
        State::BotFlagged,
    ];

    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            State::Succeeded => "succeeded",
            State::Filtered => "filtered",
            State::Aborted => "aborted",
            State::SucceededWithViolations => "succeeded_with_violations",
            State::SucceededWithoutViolations => "succeeded_without_violations",
            State::BotDetected => "bot_detected",
            State::BotFlagged => "bot_flagged",
        }
    }

    fn numbered(number: u8) -> Option<State> {
        State::ALL.into_iter().find(|state| *state as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_number_and_name_leads_back_to_its_stage_and_state() {
        for stage in Stage::ALL {
            assert_eq!(Stage::numbered(stage as u8), Some(stage));
            assert_eq!(Stage::named(stage.name()), Some(stage));
        }
        for state in State::ALL {
            assert_eq!(State::numbered(state as u8), Some(state));
        }
    }
}

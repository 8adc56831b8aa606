//! The states of an upload, and the one function that leads from one to the next (warehouse.md 8.2).
//!
//! Every step may be done again: a node that dies in the middle of one does it once more from its start.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A step of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// The schemas of the staging files become one.
    UploadSchema,
    /// Each table gets a record.
    TableUploads,
    /// Staging files become load files.
    LoadFiles,
    /// Each table learns how many rows it gets.
    TableCounts,
    /// The warehouse gets the schema, dataset or database.
    RemoteSchema,
    /// The tables get their columns and rows.
    Export,
}

/// Names of each step: in progress, failed, completed.
const NAMES: [(Step, [&str; 3]); 6] = [
    (Step::UploadSchema, ["generating_upload_schema", "generating_upload_schema_failed", "generated_upload_schema"]),
    (Step::TableUploads, ["creating_table_uploads", "creating_table_uploads_failed", "created_table_uploads"]),
    (Step::LoadFiles, ["generating_load_files", "generating_load_files_failed", "generated_load_files"]),
    (
        Step::TableCounts,
        ["updating_table_uploads_counts", "updating_table_uploads_counts_failed", "updated_table_uploads_counts"],
    ),
    (Step::RemoteSchema, ["creating_remote_schema", "creating_remote_schema_failed", "created_remote_schema"]),
    (Step::Export, ["exporting_data", "exporting_data_failed", "exported_data"]),
];

impl Step {
    /// The step after this one.
    fn following(self) -> Option<Step> {
        NAMES.iter().map(|(step, _)| *step).find(|step| *step > self)
    }
}

/// The state of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing was done yet.
    Waiting,
    /// The step is being done.
    Doing(Step),
    /// The step failed.
    Failed(Step),
    /// The step is done.
    Done(Step),
    /// Something failed before any step.
    InternalFailure,
    /// Given up.
    Aborted,
}

/// What happens to an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is taken up.
    Begin,
    /// The step went well.
    Succeed,
    /// The step failed.
    Fail,
    /// It failed before any step.
    FailInternally,
    /// It is given up.
    GiveUp,
    /// Everything is to be done again from the start.
    StartOver,
}

impl State {
    /// The state after the event; `None` when the event cannot happen in this state.
    pub fn after(self, event: Event) -> Option<State> {
        match (self, event) {
            (_, Event::StartOver) => Some(State::Waiting),
            (State::Done(Step::Export) | State::Aborted, _) | (State::Doing(_), Event::FailInternally) => None,
            (State::Waiting | State::InternalFailure, Event::Begin) => Some(State::Doing(Step::UploadSchema)),
            (State::Doing(step) | State::Failed(step), Event::Begin) => Some(State::Doing(step)),
            (State::Done(step), Event::Begin) => step.following().map(State::Doing),
            (State::Doing(step), Event::Succeed) => Some(State::Done(step)),
            (State::Doing(step), Event::Fail) => Some(State::Failed(step)),
            (_, Event::FailInternally) => Some(State::InternalFailure),
            (_, Event::GiveUp) => Some(State::Aborted),
            (_, Event::Succeed | Event::Fail) => None,
        }
    }

    /// Whether nothing will happen any more by itself.
    pub fn is_final(self) -> bool {
        matches!(self, State::Done(Step::Export) | State::Aborted)
    }

    /// The name in records and answers.
    pub fn name(self) -> &'static str {
        let of = |step: Step, which: usize| {
            NAMES.iter().find(|(named, _)| *named == step).and_then(|(_, names)| names.get(which)).copied()
        };
        match self {
            State::Waiting => "waiting",
            State::Doing(step) => of(step, 0).unwrap_or_default(),
            State::Failed(step) => of(step, 1).unwrap_or_default(),
            State::Done(step) => of(step, 2).unwrap_or_default(),
            State::InternalFailure => "internal_processing_failed",
            State::Aborted => "aborted",
        }
    }

    /// The state of this name. A name that is not known stands for one from which everything starts.
    pub fn of_name(name: &str) -> State {
        match name {
            "waiting" => return State::Waiting,
            "aborted" => return State::Aborted,
            _ => {}
        }
        for (step, [doing, failed, done]) in NAMES {
            if name == doing {
                return State::Doing(step);
            } else if name == failed {
                return State::Failed(step);
            } else if name == done {
                return State::Done(step);
            }
        }
        State::InternalFailure
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<State, D::Error> {
        String::deserialize(deserializer).map(|name| State::of_name(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_taken_up_where_it_was_left() {
        let table = [
            ("waiting", "generating_upload_schema"),
            ("something else", "generating_upload_schema"),
            ("internal_processing_failed", "generating_upload_schema"),
            ("generating_upload_schema", "generating_upload_schema"),
            ("generating_upload_schema_failed", "generating_upload_schema"),
            ("generated_upload_schema", "creating_table_uploads"),
            ("creating_table_uploads", "creating_table_uploads"),
            ("created_table_uploads", "generating_load_files"),
            ("generating_load_files_failed", "generating_load_files"),
            ("generated_load_files", "updating_table_uploads_counts"),
            ("updated_table_uploads_counts", "creating_remote_schema"),
            ("creating_remote_schema", "creating_remote_schema"),
            ("created_remote_schema", "exporting_data"),
            ("exporting_data", "exporting_data"),
            ("exporting_data_failed", "exporting_data"),
        ];
        for (stored, next) in table {
            assert_eq!(State::of_name(stored).after(Event::Begin).map(State::name), Some(next), "{stored}");
        }
        for end in ["exported_data", "aborted"] {
            for event in [Event::Begin, Event::Succeed, Event::Fail, Event::FailInternally, Event::GiveUp] {
                assert_eq!(State::of_name(end).after(event), None, "{end} {event:?}");
            }
            assert_eq!(State::of_name(end).after(Event::StartOver), Some(State::Waiting));
        }
    }

    #[test]
    fn steps_succeed_fail_and_are_given_up() {
        for (step, [doing, failed, done]) in NAMES {
            let state = State::of_name(doing);
            assert_eq!(state, State::Doing(step));
            assert_eq!(state.after(Event::Succeed).map(State::name), Some(done));
            assert_eq!(state.after(Event::Fail).map(State::name), Some(failed));
            assert_eq!(state.after(Event::GiveUp), Some(State::Aborted));
            assert_eq!(State::of_name(failed).after(Event::Succeed), None);
            assert_eq!(State::of_name(done).after(Event::Fail), None);
        }
        assert_eq!(State::Waiting.after(Event::FailInternally), Some(State::InternalFailure));
        assert!(State::Done(Step::Export).is_final() && State::Aborted.is_final() && !State::Waiting.is_final());
    }
}

//! Why an event gives no rows. The texts are those that users of the reference know.

/// An event that gives no rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not one of the types that have tables.
    #[error("Unknown event type: \"{0}\"")]
    UnknownType(String),
    /// `context` is there and no object.
    #[error("context is not a map")]
    ContextIsNoObject,
    /// The source has records and the event names none.
    #[error("recordId cannot be empty for cloud sources events")]
    NoRecordId,
    /// An extract event without the name of its table.
    #[error("cannot create event table with empty event name, event name is missing in the payload")]
    NoEventName,
    /// Nothing is left of the event's name as a name of a table.
    #[error("Table name cannot be empty.")]
    NoTableName,
    /// `mergeProperties` is missing or has not two elements.
    #[error("either or both identifiers missing in mergeProperties")]
    NoTwoIdentifiers,
    /// `mergeProperties` is no array of objects with `type` and `value`.
    #[error("mergeProperties contains null values for expected inputs")]
    BlankIdentifier,
    /// A row would have more columns than a warehouse takes.
    #[error("{0} transformer: Too many columns outputted from the event")]
    TooManyColumns(String),
    /// Nested names would multiply the event beyond proportion (security.md 2.2).
    #[error("event is too large to flatten")]
    TooLarge,
    /// The event cannot be read.
    #[error("the event is no JSON or nested too deep")]
    Unreadable,
}

impl Refused {
    /// The HTTP-like status.
    pub fn status(&self) -> u16 {
        match self {
            Refused::ContextIsNoObject => 500,
            _ => 400,
        }
    }
}

//! The types of events that have tables.

/// What an event is about, by its member `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventType {
    /// Something happened.
    Track,
    /// Who somebody is.
    Identify,
    /// A page was seen.
    Page,
    /// A screen was seen.
    Screen,
    /// Somebody belongs to a group.
    Group,
    /// Two ids are one.
    Alias,
    /// A record of a source of records.
    Extract,
    /// Two identifiers are of one user.
    Merge,
}

impl EventType {
    /// By its name in lower case.
    pub(super) fn of_name(name: &str) -> Option<EventType> {
        Some(match name {
            "track" => EventType::Track,
            "identify" => EventType::Identify,
            "page" => EventType::Page,
            "screen" => EventType::Screen,
            "group" => EventType::Group,
            "alias" => EventType::Alias,
            "extract" => EventType::Extract,
            "merge" => EventType::Merge,
            _ => return None,
        })
    }
}

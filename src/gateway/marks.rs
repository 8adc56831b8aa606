//! Marks that an event's job carries for the processor: sent by a bot, blocked by name (gateway.md 9.3, 9.4).
//! The gateway marks, the processor drops.

use super::directory::SourceEntry;
use super::routes::Call;
use crate::event::json::{self, Fields};

/// The word in the user agent that says that a program sent the event.
pub(super) fn bot_keyword(text: &[u8], fields: &Fields) -> Option<&'static str> {
    let agent = fields.user_agent.of(text);
    let holds = |word: &str| agent.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    ["bot", "crawler", "spider"].into_iter().find(|word| holds(word))
}

/// Whether the workspace blocks this event by its name.
pub(super) fn is_blocked(entry: &SourceEntry, call: Call, text: &[u8], fields: &Fields) -> bool {
    let Some(names) = &entry.blocked_events else {
        return false;
    };
    let is_track = if call.is_single() { call == Call::Track } else { fields.kind.of(text) == b"\"track\"" };
    is_track && string(fields.event.of(text)).is_some_and(|name| names.contains(name.as_ref()))
}

/// The text of a value that is a string.
pub(super) fn string(value: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        [b'"', raw @ .., b'"'] => Some(json::decode_string(raw)),
        _ => None,
    }
}

/// Appends the marks to a job's parameters, whose closing brace is still missing.
pub(super) fn write(parameters: &mut Vec<u8>, entry: &SourceEntry, call: Call, text: &[u8], fields: &Fields) {
    if let Some((action, keyword)) = entry.bot_action.zip(bot_keyword(text, fields)) {
        let (name, action) = (keyword, action.name());
        parameters
            .extend_from_slice(format!(r#","is_bot":true,"bot_name":"{name}","bot_action":"{action}""#).as_bytes());
    }
    if is_blocked(entry, call, text, fields) {
        parameters.extend_from_slice(br#","is_event_blocked":true"#);
    }
}

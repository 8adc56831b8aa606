//! Marks that an event's job carries for the processor: sent by a bot, blocked by name (gateway.md 9.3, 9.4).
//! The gateway marks, the processor drops.

use super::directory::SourceEntry;
use super::routes::Call;
use crate::event::json::{self, Fields};

/// The word in the user agent that says that a program sent the event.
pub(super) fn bot_keyword(text: &[u8], fields: &Fields) -> Option<&'static str> {
    let mut rest = fields.user_agent.of(text);
    let mut found = None;
    let begins = |rest: &[u8], word: &str| {
        rest.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word.as_bytes()))
    };
    // One pass for all three, because every event comes here; the first of the list counts.
    while let [first, behind @ ..] = rest {
        match first | 0x20 {
            b'b' if begins(rest, "bot") => return Some("bot"),
            b'c' if begins(rest, "crawler") => found = Some("crawler"),
            b's' if found.is_none() && begins(rest, "spider") => found = Some("spider"),
            _ => {}
        }
        rest = behind;
    }
    found
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
    if let Some(action) = entry.bot_action
        && let Some(keyword) = bot_keyword(text, fields)
    {
        let (name, action) = (keyword, action.name());
        parameters
            .extend_from_slice(format!(r#","is_bot":true,"bot_name":"{name}","bot_action":"{action}""#).as_bytes());
    }
    if is_blocked(entry, call, text, fields) {
        parameters.extend_from_slice(br#","is_event_blocked":true"#);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::json::Span;

    #[test]
    fn the_first_word_of_the_list_names_the_bot() {
        for (agent, word) in [
            ("Googlebot/2.1", Some("bot")),
            ("a Spider, a CRAWLER", Some("crawler")),
            ("crawler bot", Some("bot")),
            ("spider", Some("spider")),
            ("bo crawle spide", None),
            ("", None),
        ] {
            let fields = Fields { user_agent: Span::new(0, agent.len()), ..Fields::default() };
            assert_eq!(bot_keyword(agent.as_bytes(), &fields), word, "{agent}");
        }
    }
}

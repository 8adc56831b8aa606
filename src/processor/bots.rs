//! Bots and blocked events: what the gateway found out is acted upon (processor.md 3.5, 3.6).
//!
//! The gateway puts its verdict in the job's parameters; nothing is judged here.

use std::borrow::Cow;

use serde::Deserialize;

use crate::destination::{Message, push_json_string};

/// The gateway's verdict about a job, from its parameters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BotVerdict<'p> {
    /// A bot sent it.
    pub is_bot: bool,
    /// `drop`, `flag` or anything else, which is only counted.
    #[serde(borrow)]
    pub bot_action: Cow<'p, str>,
    /// The bot's name, possibly empty.
    #[serde(borrow)]
    pub bot_name: Cow<'p, str>,
    /// The bot's page, possibly empty.
    #[serde(borrow)]
    pub bot_url: Cow<'p, str>,
    /// The browser that it claims to be cannot be.
    pub bot_is_invalid_browser: bool,
    /// The workspace blocks events of this name.
    pub is_event_blocked: bool,
}

/// Why an event goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Sent by a bot whose events are not wanted.
    Bot,
    /// Of a name that the workspace blocks.
    Blocked,
}

impl BotVerdict<'_> {
    /// Marks the event where the verdict asks for it: `context.isBot` and `context.bot`.
    pub fn enrich(&self, event: &mut Message<'_>) {
        if !self.is_bot || self.bot_action != "flag" {
            return;
        }
        let is_object = event.get("context").is_none_or(|json| json.starts_with('{'));
        if !is_object {
            return;
        }
        let mut bot = vec![b'{'];
        for (key, text) in [("name", &self.bot_name), ("url", &self.bot_url)] {
            if !text.is_empty() {
                push_member(&mut bot, key);
                push_json_string(&mut bot, text);
            }
        }
        if self.bot_is_invalid_browser {
            push_member(&mut bot, "isInvalidBrowser");
            bot.extend_from_slice(b"true");
        }
        bot.push(b'}');
        let mut context = event.object("context").unwrap_or_default();
        context.set("isBot", "true");
        context.set("bot", String::from_utf8(bot).unwrap_or_default());
        let context = context.to_json();
        event.set("context", context);
    }

    /// Whether the event goes no further, and why.
    pub fn drops(&self) -> Option<Drop> {
        if self.is_bot && self.bot_action == "drop" {
            Some(Drop::Bot)
        } else if self.is_event_blocked {
            Some(Drop::Blocked)
        } else {
            None
        }
    }
}

fn push_member(object: &mut Vec<u8>, key: &str) {
    if object.len() > 1 {
        object.push(b',');
    }
    push_json_string(object, key);
    object.push(b':');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enriched(verdict: &BotVerdict<'_>, event: &str) -> String {
        let mut event = Message::parse(event).unwrap();
        verdict.enrich(&mut event);
        event.to_json()
    }

    #[test]
    fn a_flagged_bot_is_marked_in_the_context() {
        let verdict = BotVerdict {
            is_bot: true,
            bot_action: "flag".into(),
            bot_name: "Crawler \"X\"".into(),
            bot_is_invalid_browser: true,
            ..BotVerdict::default()
        };
        let marks = r#""isBot":true,"bot":{"name":"Crawler \"X\"","isInvalidBrowser":true}"#;
        assert_eq!(enriched(&verdict, "{}"), format!("{{\"context\":{{{marks}}}}}"));
        assert_eq!(enriched(&verdict, r#"{"context":{"a":1}}"#), format!("{{\"context\":{{\"a\":1,{marks}}}}}"));
        assert_eq!(enriched(&verdict, r#"{"context":{"isBot":false}}"#), format!("{{\"context\":{{{marks}}}}}"));
        assert_eq!(enriched(&verdict, r#"{"context":5}"#), r#"{"context":5}"#);
    }

    #[test]
    fn only_drop_and_blocked_stop_an_event() {
        let bot =
            |action: &'static str| BotVerdict { is_bot: true, bot_action: action.into(), ..BotVerdict::default() };
        assert_eq!(bot("drop").drops(), Some(Drop::Bot));
        assert_eq!(bot("flag").drops(), None);
        assert_eq!(bot("disable").drops(), None);
        assert_eq!(enriched(&bot("disable"), "{}"), "{}");
        let not_a_bot = BotVerdict { bot_action: "drop".into(), ..BotVerdict::default() };
        assert_eq!(not_a_bot.drops(), None);
        let blocked = BotVerdict { is_event_blocked: true, ..BotVerdict::default() };
        assert_eq!(blocked.drops(), Some(Drop::Blocked));
    }
}

//! Columns that every row of a table has, and where in the event their values are (warehouse.md 2.4).
//!
//! Properties of users never survive under the name of such a column, even when the event has no value for it.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::event_type::EventType;
use super::names::Naming;

/// Columns of nearly every table.
pub(super) const DEFAULT: [&str; 11] = [
    "id",
    "anonymous_id",
    "user_id",
    "sent_at",
    "timestamp",
    "received_at",
    "original_timestamp",
    "channel",
    "context_ip",
    "context_request_ip",
    "context_passed_ip",
];

/// Further columns, each of one or a few tables.
const FURTHER: [&str; 7] = ["event_text", "record_id", "name", "group_id", "previous_id", "event", "rudder_event"];

/// Whether a column of this safe name belongs to a rule of this type of event.
pub(super) fn is_rule_column(event_type: EventType, name: &str) -> bool {
    let is = |rule: &&str| rule.eq_ignore_ascii_case(name);
    let own: &[&str] = match event_type {
        EventType::Extract => return ["id", "received_at", "event"].iter().any(is),
        EventType::Track => &["event_text", "record_id"],
        EventType::Page | EventType::Screen => &["name"],
        EventType::Group => &["group_id"],
        EventType::Alias => &["previous_id"],
        EventType::Identify | EventType::Merge => &[],
    };
    own.iter().chain(&DEFAULT).any(is)
}

/// The safe names of the rule columns, made once.
#[derive(Clone, Debug)]
pub(super) struct RuleNames {
    naming: Naming,
    names: FxHashMap<&'static str, Arc<str>>,
}

impl RuleNames {
    pub(super) fn new(naming: Naming) -> RuleNames {
        let names = DEFAULT.iter().chain(&FURTHER).map(|rule| (*rule, Arc::from(naming.safe((*rule).to_owned()))));
        RuleNames { naming, names: names.collect() }
    }

    /// The safe name of a rule column.
    pub(super) fn of(&self, rule: &'static str) -> Arc<str> {
        match self.names.get(rule) {
            Some(name) => Arc::clone(name),
            None => Arc::from(self.naming.safe(rule.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dialect;
    use super::*;

    #[test]
    fn each_type_of_event_has_its_own_rule_columns() {
        for (event_type, name, expected) in [
            (EventType::Track, "ID", true),
            (EventType::Track, "event_text", true),
            (EventType::Track, "event", false),
            (EventType::Page, "event_text", false),
            (EventType::Page, "name", true),
            (EventType::Group, "group_id", true),
            (EventType::Alias, "PREVIOUS_ID", true),
            (EventType::Identify, "context_passed_ip", true),
            (EventType::Extract, "event", true),
            (EventType::Extract, "user_id", false),
        ] {
            assert_eq!(is_rule_column(event_type, name), expected, "{event_type:?} {name}");
        }
    }

    #[test]
    fn rule_columns_have_safe_names() {
        let naming = |dialect, keeps_reserved_words| Naming {
            dialect,
            divides_numbers: false,
            keeps_words_together: false,
            keeps_reserved_words,
        };
        for (dialect, keeps_reserved_words, expected) in [
            (Dialect::Redshift, false, "timestamp"),
            (Dialect::S3Datalake, false, "_timestamp"),
            (Dialect::S3Datalake, true, "timestamp"),
            (Dialect::Snowflake, false, "TIMESTAMP"),
        ] {
            assert_eq!(&*RuleNames::new(naming(dialect, keeps_reserved_words)).of("timestamp"), expected);
        }
    }
}

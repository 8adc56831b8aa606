//! Members that users keep as JSON instead of flattening them (warehouse.md 2.9).
//!
//! `track.properties.cart` names a member of one type of event; `cart` alone, the older way, a member of the
//! properties of track events. A path matches the joined keys at the depth that it was written with: `a.b` is not the
//! member `a_b`.

use super::event_type::EventType;

/// The JSON paths that hold for one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JsonPaths(Vec<JsonPath>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct JsonPath {
    /// The parts joined with `_`.
    key: String,
    /// Levels above the member.
    level: usize,
    /// Whether it begins with the type of event.
    names_event_type: bool,
}

const EVENT_TYPES: [&str; 7] = ["track.", "identify.", "page.", "screen.", "alias.", "group.", "extract."];

impl JsonPaths {
    /// Adds the paths of another list.
    pub(super) fn extend(&mut self, others: &JsonPaths) {
        self.0.extend_from_slice(&others.0);
    }

    /// Adds a path as it was written. Empty ones are left out.
    pub(super) fn add(&mut self, written: &str) {
        let path = written.trim();
        if path.is_empty() {
            return;
        }
        let names_event_type = EVENT_TYPES
            .iter()
            .any(|event_type| path.get(..event_type.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(event_type)));
        self.0.push(JsonPath { key: path.replace('.', "_"), level: path.matches('.').count(), names_event_type });
    }

    /// Whether a member is kept as JSON: by its joined keys below the flattened object, and by those that begin with
    /// the type of event, each with its level.
    pub(super) fn holds(&self, event_type: EventType, below: (&str, usize), full: (&str, usize), key: &str) -> bool {
        let is_at = |path: &JsonPath, (prefix, level): (&str, usize)| {
            path.level == level && path.key.strip_prefix(prefix).is_some_and(|rest| rest == key)
        };
        self.0.iter().any(|path| {
            if path.names_event_type { is_at(path, full) } else { event_type == EventType::Track && is_at(path, below) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_its_member_at_its_level() {
        let table = [
            // Path, type of event, full prefix and level, key, whether it matches.
            ("track.properties.cart", EventType::Track, ("track_properties_", 2), "cart", true),
            (" track.properties.cart ", EventType::Track, ("track_properties_", 2), "cart", true),
            ("track.properties.cart", EventType::Page, ("page_properties_", 2), "cart", false),
            ("track.properties.a.b", EventType::Track, ("track_properties_a_", 3), "b", true),
            ("track.properties.a_b", EventType::Track, ("track_properties_a_", 3), "b", false),
            ("identify.context.traits.plan", EventType::Identify, ("identify_context_traits_", 3), "plan", true),
            ("Track.properties.cart", EventType::Track, ("track_properties_", 2), "cart", false),
            ("", EventType::Track, ("track_properties_", 2), "cart", false),
        ];
        for (path, event_type, full, key, expected) in table {
            let mut paths = JsonPaths::default();
            paths.add(path);
            assert_eq!(paths.holds(event_type, ("", 0), full, key), expected, "{path} {key}");
        }
    }

    #[test]
    fn the_older_way_counts_for_track_events_only() {
        let mut paths = JsonPaths::default();
        paths.add("cart");
        paths.add("a.b");
        for (event_type, below, key, expected) in [
            (EventType::Track, ("", 0), "cart", true),
            (EventType::Track, ("cart_", 1), "cart", false),
            (EventType::Track, ("a_", 1), "b", true),
            (EventType::Track, ("", 0), "a_b", false),
            (EventType::Group, ("", 0), "cart", false),
        ] {
            assert_eq!(paths.holds(event_type, below, ("x_", 9), key), expected, "{event_type:?} {below:?} {key}");
        }
    }
}

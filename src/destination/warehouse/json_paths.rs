//! Members that users keep as JSON instead of flattening them (warehouse.md 2.9).
//!
//! `track.properties.cart` names a member of one type of event; `cart` alone, the older way, a member of the
//! properties of track events. A path matches the joined keys at the depth that it was written with: `a.b` is not the
//! member `a_b`.

use std::collections::HashMap;

use super::event_type::EventType;

/// The JSON paths that hold for one event. Looked up by hash: an event may name as many as it has room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct JsonPaths {
    /// Those that begin with the type of event.
    full: Levels,
    /// Those of properties of track events.
    below: Levels,
}

/// The parts of paths joined with `_`, each with the numbers of levels above the member.
type Levels = HashMap<String, Vec<usize>>;

const EVENT_TYPES: [&str; 7] = ["track.", "identify.", "page.", "screen.", "alias.", "group.", "extract."];

impl JsonPaths {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.below.is_empty()
    }

    /// Adds the paths of another list.
    pub(super) fn extend(&mut self, others: &JsonPaths) {
        for (own, others) in [(&mut self.full, &others.full), (&mut self.below, &others.below)] {
            for (key, levels) in others {
                for level in levels {
                    insert(own, key.clone(), *level);
                }
            }
        }
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
        let paths = if names_event_type { &mut self.full } else { &mut self.below };
        insert(paths, path.replace('.', "_"), path.matches('.').count());
    }

    /// Whether a member is kept as JSON: by its joined keys below the flattened object, and by those that begin with
    /// the type of event, each with its level.
    pub(super) fn holds(&self, event_type: EventType, below: (&str, usize), full: (&str, usize)) -> bool {
        let holds = |paths: &Levels, (key, level)| paths.get(key).is_some_and(|levels| levels.contains(&level));
        holds(&self.full, full) || event_type == EventType::Track && holds(&self.below, below)
    }
}

fn insert(paths: &mut Levels, key: String, level: usize) {
    let levels = paths.entry(key).or_default();
    if !levels.contains(&level) {
        levels.push(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_its_member_at_its_level() {
        let table = [
            // Path, type of event, joined keys and their level, whether it matches.
            ("track.properties.cart", EventType::Track, ("track_properties_cart", 2), true),
            (" track.properties.cart ", EventType::Track, ("track_properties_cart", 2), true),
            ("track.properties.cart", EventType::Page, ("page_properties_cart", 2), false),
            ("track.properties.a.b", EventType::Track, ("track_properties_a_b", 3), true),
            ("track.properties.a_b", EventType::Track, ("track_properties_a_b", 3), false),
            ("identify.context.traits.plan", EventType::Identify, ("identify_context_traits_plan", 3), true),
            ("Track.properties.cart", EventType::Track, ("track_properties_cart", 2), false),
            ("", EventType::Track, ("track_properties_cart", 2), false),
        ];
        for (path, event_type, full, expected) in table {
            let mut paths = JsonPaths::default();
            paths.add(path);
            assert_eq!(paths.holds(event_type, ("other", 0), full), expected, "{path}");
        }
    }

    #[test]
    fn the_older_way_counts_for_track_events_only() {
        let mut paths = JsonPaths::default();
        paths.add("cart");
        paths.add("a.b");
        for (event_type, below, expected) in [
            (EventType::Track, ("cart", 0), true),
            (EventType::Track, ("cart", 1), false),
            (EventType::Track, ("a_b", 1), true),
            (EventType::Track, ("a_b", 0), false),
            (EventType::Group, ("cart", 0), false),
        ] {
            assert_eq!(paths.holds(event_type, below, ("other", 9)), expected, "{event_type:?} {below:?}");
        }
        let mut more = JsonPaths::default();
        assert!(more.is_empty());
        more.extend(&paths);
        assert_eq!(more, paths);
    }
}

//! What an event and the destination's configuration say about its rows (warehouse.md 2.9, 2.11).

use serde_json::{Map, Value};

use super::json_paths::JsonPaths;
use super::refused::Refused;
use super::value::Json;
use crate::destination::Message;

/// The destination's configuration, as far as rows depend on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) skips_tracks: bool,
    pub(super) skips_users: bool,
    pub(super) divides_numbers: bool,
    pub(super) flattens_context_traits: bool,
    pub(super) stores_full_event: bool,
    pub(super) json_paths: JsonPaths,
}

impl Config {
    pub(super) fn read(config: &Map<String, Value>) -> Config {
        let is_true = |key: &str| config.get(key) == Some(&Value::Bool(true));
        let mut json_paths = JsonPaths::default();
        if let Some(Value::String(list)) = config.get("jsonPaths") {
            list.split(',').for_each(|path| json_paths.add(path));
        }
        Config {
            skips_tracks: is_true("skipTracksTable"),
            skips_users: is_true("skipUsersTable"),
            divides_numbers: is_true("underscoreDivideNumbers"),
            flattens_context_traits: is_true("allowUsersContextTraits"),
            stores_full_event: is_true("storeFullEvent"),
            json_paths,
        }
    }
}

/// What one event says, under `integrations.<TYPE>.options`.
#[derive(Clone, Debug, Default)]
pub(super) struct EventOptions {
    pub(super) keeps_reserved_words: bool,
    pub(super) keeps_words_together: bool,
    pub(super) skips_tracks: bool,
    pub(super) skips_users: bool,
    /// Also those for any warehouse, under `DATA_WAREHOUSE`.
    pub(super) json_paths: JsonPaths,
}

impl EventOptions {
    pub(super) fn read(message: &Message<'_>, destination_type: &str) -> Result<EventOptions, Refused> {
        let mut options = EventOptions::default();
        // Most events name no warehouse: their integrations are not looked into.
        let mentioned = message.get("integrations").filter(|json| json.contains("options") || json.contains('\\'));
        let Some(json) = mentioned else { return Ok(options) };
        let integrations = Json::parse(json)?;
        let of = |name: &str| integrations.get(name).and_then(|integration| integration.get("options"));
        let own = of(destination_type);
        let is_true = |key: &str| own.and_then(|own| own.get(key)) == Some(&Json::Bool(true));
        options.keeps_reserved_words = is_true("skipReservedKeywordsEscaping");
        options.keeps_words_together = is_true("useBlendoCasing");
        options.skips_tracks = is_true("skipTracksTable");
        options.skips_users = is_true("skipUsersTable");
        for paths in [of("DATA_WAREHOUSE"), own].into_iter().flatten() {
            let Some(Json::Array(paths)) = paths.get("jsonPaths") else { continue };
            for path in paths {
                if let Json::Text(path) = path {
                    options.json_paths.add(path);
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn paths(written: &[&str]) -> JsonPaths {
        let mut paths = JsonPaths::default();
        for path in written {
            paths.add(path);
        }
        paths
    }

    #[test]
    fn configuration_counts_when_it_is_exactly_true() {
        let config = json!({
            "skipTracksTable": true, "skipUsersTable": "true", "underscoreDivideNumbers": 1, "storeFullEvent": true,
            "jsonPaths": "a, b.c,,",
        });
        let config = Config::read(config.as_object().unwrap());
        assert!(config.skips_tracks && config.stores_full_event);
        assert!(!config.skips_users && !config.divides_numbers && !config.flattens_context_traits);
        assert_eq!(config.json_paths, paths(&["a", "b.c"]));
    }

    #[test]
    fn an_event_speaks_to_the_type_it_names() {
        let text = r#"{"integrations":{"All":true,"DATA_WAREHOUSE":{"options":{"jsonPaths":["a"],"skipTracksTable":true}},
            "MSSQL":{"options":{"skipUsersTable":true,"useBlendoCasing":"true","jsonPaths":["b",1]}},"RS":true}}"#;
        let message = Message::parse(text).unwrap();
        let options = EventOptions::read(&message, "MSSQL").unwrap();
        assert!(options.skips_users && !options.skips_tracks && !options.keeps_words_together);
        assert_eq!(options.json_paths, paths(&["a", "b"]));
        let others = EventOptions::read(&message, "RS").unwrap();
        assert!(!others.skips_users);
        assert_eq!(others.json_paths, paths(&["a"]));
    }
}

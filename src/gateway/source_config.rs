//! `/sourceConfig`: what an SDK in an app or a browser needs to start (gateway.md 7.11, clients.md 5).
//!
//! The document is public, as the write key is. So it names only destinations that run on the device, and of
//! their settings only what their definition says is for the client. It is rendered once per configuration,
//! source and platform, and served from memory.

use std::collections::HashMap;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::http::request::Parts;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_128;

use super::answer::{self, Answer, Refusal};
use super::credentials::{query_parameters, with_basic_user};
use super::server::Shared;
use crate::backend_config::{Destination, Source};

/// Documents of one configuration, by source and platform.
#[derive(Debug, Default)]
pub(super) struct Rendered(Mutex<HashMap<(String, &'static str), Document>>);

#[derive(Clone, Debug)]
struct Document {
    body: Bytes,
    tag: HeaderValue,
}

/// Answers the request.
pub(super) fn answer(shared: &Shared, parts: &Parts) -> Answer {
    let mut write_key = with_basic_user(&parts.headers, |user| Ok(user.to_owned())).ok();
    let mut platform = "";
    for (name, value) in query_parameters(parts.uri.query().unwrap_or_default()) {
        match name.as_str() {
            // Unity names it `w`.
            "writeKey" | "w" if write_key.is_none() && !value.is_empty() => write_key = Some(value),
            "p" => platform = platform_of(&value),
            _ => {}
        }
    }
    let directory = shared.directory();
    let entry = write_key.and_then(|key| directory.any_by_write_key(&key));
    let Some(entry) = entry else { return Refusal::NoSourceConfig.answer() };
    let document = {
        let mut rendered = directory.source_configs.0.lock();
        let render = || Document::new(&entry.source, platform, directory.snapshot.changed_ms);
        rendered.entry((entry.source.id.clone(), platform)).or_insert_with(render).clone()
    };
    let is_known = parts.headers.get(IF_NONE_MATCH).is_some_and(|known| *known == document.tag);
    let mut answer = if is_known {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        answer::with_body(StatusCode::OK, answer::JSON, document.body)
    };
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.headers_mut().insert(ETAG, document.tag);
    answer
}

impl Document {
    fn new(source: &Source, platform: &'static str, changed_ms: i64) -> Document {
        let body = Bytes::from(document(source, platform, changed_ms).to_string());
        let tag = HeaderValue::try_from(format!("\"{:032x}\"", xxh3_128(&body)));
        Document { body, tag: tag.unwrap_or(HeaderValue::from_static("\"\"")) }
    }
}

/// The list of a definition that holds the keys for an SDK that calls itself `p`; empty for unknown ones.
fn platform_of(p: &str) -> &'static str {
    match p.to_ascii_lowercase().as_str() {
        "npm" | "cdn" | "web" | "browser" => "web",
        "android" | "kotlin" => "android",
        "ios" | "swift" => "ios",
        "unity" => "unity",
        "reactnative" | "react-native" => "reactnative",
        "flutter" => "flutter",
        "cordova" => "cordova",
        "amp" => "amp",
        _ => "",
    }
}

fn document(source: &Source, platform: &str, changed_ms: i64) -> Value {
    let changed = Timestamp::from_millisecond(changed_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let changed = format!("{changed:.3}");
    let or_changed = |at: &str| if at.is_empty() { changed.clone() } else { at.to_owned() };
    let definition = &source.definition;
    let display_name = if definition.display_name.is_empty() { &definition.name } else { &definition.display_name };
    let destinations: Vec<Value> = source
        .destinations
        .iter()
        .filter(|destination| destination.enabled && runs_on_device(destination, platform))
        .map(|destination| {
            json!({
                "id": destination.id,
                "name": destination.name,
                "enabled": true,
                "deleted": false,
                "config": public_config(destination, platform),
                "destinationDefinitionId": destination.definition.id,
                "destinationDefinition": {
                    "name": destination.definition.name,
                    "displayName": destination.definition.display_name,
                },
                "shouldApplyDeviceModeTransformation": false,
                "propagateEventsUntransformedOnError": false,
                "updatedAt": or_changed(&destination.updated_at),
            })
        })
        .collect();
    json!({
        "source": {
            "id": source.id,
            "name": source.name,
            "writeKey": source.write_key,
            "enabled": source.enabled,
            "workspaceId": source.workspace_id,
            "sourceDefinitionId": definition.id,
            "sourceDefinition": {
                "id": definition.id,
                "name": definition.name,
                "displayName": display_name,
                "category": if definition.category.is_empty() { Value::Null } else { definition.category.clone().into() },
            },
            "config": source_config(&source.config),
            "connections": [],
            "destinations": destinations,
            "updatedAt": or_changed(&source.updated_at),
            "deleted": false,
        },
        "updatedAt": changed,
    })
}

/// Whether the destination runs, at least in part, on the device.
fn runs_on_device(destination: &Destination, platform: &str) -> bool {
    let for_platform = |key: &str| match destination.config.get(key) {
        Some(Value::Object(by_platform)) => by_platform.get(platform),
        value => value,
    };
    let mode = for_platform("connectionMode").and_then(Value::as_str);
    matches!(mode, Some("device" | "hybrid")) || for_platform("useNativeSDK") == Some(&Value::Bool(true))
}

/// The settings of a destination that its definition gives to clients.
fn public_config(destination: &Destination, platform: &str) -> Value {
    let definition = &destination.definition.config;
    let included = texts(definition.get("includeKeys"));
    let wanted = if included.is_empty() {
        let lists = definition.get("destConfig");
        let of = |name: &str| texts(lists.and_then(|lists| lists.get(name)));
        let mut wanted = of("defaultConfig");
        if !platform.is_empty() {
            wanted.extend(of(platform));
        }
        wanted
    } else {
        included
    };
    let mut public = Value::Object(Map::new());
    for path in wanted {
        pick(&destination.config, path, &mut public);
    }
    for hidden in ["excludeKeys", "secretKeys"] {
        for path in texts(definition.get(hidden)) {
            remove(&mut public, path);
        }
    }
    public
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Copies what is at a key, or at a path of keys joined by dots, to the same place.
fn pick(config: &Map<String, Value>, path: &str, into: &mut Value) {
    let Some(into) = into.as_object_mut() else { return };
    if let Some(value) = config.get(path) {
        into.insert(path.to_owned(), value.clone());
    } else if let Some((first, rest)) = path.split_once('.')
        && let Some(Value::Object(inner)) = config.get(first)
    {
        pick(inner, rest, into.entry(first).or_insert_with(|| Value::Object(Map::new())));
    }
}

/// Removes a key, or a path of keys joined by dots, in whatever case it is written and in every element of lists.
fn remove(value: &mut Value, path: &str) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(|element| remove(element, path)),
        Value::Object(map) => {
            map.retain(|key, _| !key.eq_ignore_ascii_case(path));
            let Some((first, rest)) = path.split_once('.') else { return };
            for (_, inner) in map.iter_mut().filter(|(key, _)| key.eq_ignore_ascii_case(first)) {
                remove(inner, rest);
            }
        }
        _ => {}
    }
}

/// Words in names of settings that are nobody else's business (security.md 6.1).
const SECRET_WORDS: [&str; 12] = [
    "password",
    "secret",
    "token",
    "apikey",
    "api_key",
    "accesskey",
    "privatekey",
    "credential",
    "connectionstring",
    "sas",
    "passphrase",
    "auth",
];

/// The settings of a source, without secrets. No definition says what of them is public, so names decide. SDKs must
/// not report errors and metrics to a node that has no place for them.
fn source_config(config: &Map<String, Value>) -> Value {
    let mut public = json!({ "statsCollection": { "errors": { "enabled": false }, "metrics": { "enabled": false } } });
    let mut rest = Value::Object(config.clone());
    remove(&mut rest, "statsCollection");
    without_secrets(&mut rest);
    if let (Some(public), Value::Object(rest)) = (public.as_object_mut(), rest) {
        public.extend(rest);
    }
    public
}

fn without_secrets(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(without_secrets),
        Value::Object(map) => {
            map.retain(|key, _| {
                let key = key.to_ascii_lowercase();
                !SECRET_WORDS.iter().any(|word| key.contains(word))
            });
            map.values_mut().for_each(without_secrets);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::DestinationDefinition;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn destination(config: &Value, definition: &Value) -> Destination {
        Destination {
            enabled: true,
            config: object(config),
            definition: DestinationDefinition { config: object(definition), ..DestinationDefinition::default() },
            ..Destination::default()
        }
    }

    #[test]
    fn only_destinations_on_the_device_are_named() {
        for (config, platform, expected) in [
            (json!({}), "web", false),
            (json!({"connectionMode": "cloud"}), "web", false),
            (json!({"connectionMode": "device"}), "web", true),
            (json!({"connectionMode": "hybrid"}), "", true),
            (json!({"connectionMode": {"web": "device", "ios": "cloud"}}), "web", true),
            (json!({"connectionMode": {"web": "device", "ios": "cloud"}}), "ios", false),
            (json!({"useNativeSDK": true}), "android", true),
            (json!({"useNativeSDK": "true"}), "android", false),
            (json!({"useNativeSDK": {"web": true}}), "web", true),
            (json!({"useNativeSDK": {"web": true}}), "android", false),
        ] {
            assert_eq!(runs_on_device(&destination(&config, &json!({})), platform), expected, "{config} {platform}");
        }
    }

    #[test]
    fn of_their_settings_only_those_for_the_client_are_told() {
        let config = json!({
            "publicId": "p", "apiSecret": "s", "host": "h", "appKey": "a", "nested": {"id": 1, "secret": 2},
            "list": [{"name": "n", "key": "k"}], "flat.key": true,
        });
        for (definition, platform, expected) in [
            (json!({}), "web", json!({})),
            (json!({"includeKeys": ["publicId", "missing"]}), "web", json!({"publicId": "p"})),
            (
                json!({"includeKeys": ["publicId", "apiSecret", "nested"], "secretKeys": ["APISECRET", "nested.secret"]}),
                "web",
                json!({"publicId": "p", "nested": {"id": 1}}),
            ),
            (json!({"includeKeys": ["nested.id", "flat.key"]}), "", json!({"nested": {"id": 1}, "flat.key": true})),
            (
                json!({"includeKeys": ["list", "host"], "excludeKeys": ["list.key", "host"]}),
                "web",
                json!({"list": [{"name": "n"}]}),
            ),
            (
                json!({"destConfig": {"defaultConfig": ["publicId", "apiSecret"], "web": ["appKey"], "ios": ["host"]},
                    "secretKeys": ["apiSecret"]}),
                "web",
                json!({"publicId": "p", "appKey": "a"}),
            ),
            (
                json!({"includeKeys": [], "destConfig": {"defaultConfig": ["publicId"], "web": ["appKey"]}}),
                "",
                json!({"publicId": "p"}),
            ),
        ] {
            assert_eq!(public_config(&destination(&config, &definition), platform), expected, "{definition}");
        }
    }

    #[test]
    fn the_document_has_what_clients_refuse_to_start_without() {
        let mut source = Source { id: "s".to_owned(), write_key: "k".to_owned(), ..Source::default() };
        source.config = object(&json!({
            "statsCollection": {"errors": {"enabled": true}}, "webhookSecret": "x", "shown": {"authKey": "x", "n": 1},
        }));
        source.updated_at = "2024-01-01T00:00:00.000Z".to_owned();
        let read = document(&source, "web", 0);
        let expected = json!({
            "id": "s", "name": "", "writeKey": "k", "enabled": false, "workspaceId": "", "sourceDefinitionId": "",
            "sourceDefinition": {"id": "", "name": "", "displayName": "", "category": null},
            "config": {
                "statsCollection": {"errors": {"enabled": false}, "metrics": {"enabled": false}}, "shown": {"n": 1},
            },
            "connections": [], "destinations": [], "updatedAt": "2024-01-01T00:00:00.000Z", "deleted": false,
        });
        assert_eq!(read["source"], expected);
        assert_eq!(read["updatedAt"], "1970-01-01T00:00:00.000Z");
    }
}

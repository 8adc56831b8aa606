//! REDIS: what is known of a user, under the user's key (destinations.md 12.7, router.md 16).
//!
//! Out come the key and its fields for a hash, the value for the JSON module, or one field of a profile's hash.

use serde_json::{Map, Value, json};

use super::flatten::flatten_objects;
use super::message::{Message, Unreadable, is_truthy, text_or_json, tree_of};
use super::refusal::Refusal;
use crate::backend_config::Destination;

/// The configuration of one Redis destination, read once.
#[derive(Clone, Debug)]
pub(super) struct Redis {
    /// Before the key, with its colon; possibly empty.
    prefix: String,
    has_json_module: bool,
    destination_id: String,
    workspace_id: String,
}

impl Redis {
    pub(super) fn new(destination: &Destination) -> Redis {
        let prefix = destination.config.get("prefix").and_then(Value::as_str).unwrap_or_default().trim();
        Redis {
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}:") },
            has_json_module: destination.config.get("useJSONModule") == Some(&Value::Bool(true)),
            destination_id: destination.id.clone(),
            workspace_id: destination.workspace_id.clone(),
        }
    }

    pub(super) fn transform(&self, message: &Message<'_>, metadata: &dyn Fn() -> Value) -> Result<Vec<u8>, Refusal> {
        if !message.text("type").is_some_and(|kind| kind.eq_ignore_ascii_case("identify")) {
            return Err(Refusal::instrumentation("Only Identify calls are supported"));
        }
        let user = message.get("userId").filter(|json| is_truthy(json));
        let Some(user_json) = user.filter(|json| !text_or_json(json).trim().is_empty()) else {
            return Err(Refusal::instrumentation("Blank userId passed in identify event"));
        };
        let user = text_or_json(user_json);
        let context = message.object("context").unwrap_or_default();
        let record = if let Some([entity, id_type, model]) = profile(&context) {
            let workspace = self.workspace(metadata);
            let hash = format!("{workspace}:{}:{entity}:{id_type}:{user}", self.destination_id);
            let traits = traits_of(message).map_err(unreadable)?;
            if self.has_json_module {
                let traits = traits.or(traits_of(&context).map_err(unreadable)?);
                json!({ "key": hash, "path": model, "value": traits.ok_or_else(nothing_known)? })
            } else {
                let text = traits.ok_or_else(nothing_known)?.to_string();
                json!({ "hash": hash, "key": model, "value": text })
            }
        } else {
            let key = format!("{}user:{user}", self.prefix);
            if self.has_json_module {
                let own = traits_of(message).map_err(unreadable)?;
                let traits = own.or(traits_of(&context).map_err(unreadable)?);
                json!({ "key": key, "value": traits.ok_or_else(nothing_known)? })
            } else {
                json!({ "key": key, "fields": fields(message, &context)? })
            }
        };
        Ok(format!("{{\"message\":{record},\"userId\":{user_json}}}").into_bytes())
    }

    fn workspace(&self, metadata: &dyn Fn() -> Value) -> String {
        if !self.workspace_id.is_empty() {
            return self.workspace_id.clone();
        }
        metadata().get("workspaceId").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

/// Entity, kind of id and model, of events that carry a profile.
fn profile(context: &Message<'_>) -> Option<[String; 3]> {
    let sources = context.object("sources")?;
    let named = |key: &str| sources.get(key).filter(|json| is_truthy(json)).map(|json| text_or_json(json).into_owned());
    Some([named("profiles_entity")?, named("profiles_id_type")?, named("profiles_model")?])
}

fn traits_of(object: &Message<'_>) -> Result<Option<Value>, Unreadable> {
    object.get("traits").filter(|json| is_truthy(json)).map(tree_of).transpose()
}

/// Traits of the context under those of the event, one text a field.
fn fields(message: &Message<'_>, context: &Message<'_>) -> Result<Map<String, Value>, Refusal> {
    let mut fields = Map::new();
    for traits in [traits_of(context), traits_of(message)] {
        let Some(Value::Object(traits)) = traits.map_err(unreadable)? else { continue };
        for (name, value) in flatten_objects(traits)? {
            let text = match value {
                Value::Null | Value::Object(_) => continue,
                Value::String(text) => text,
                other => other.to_string(),
            };
            fields.insert(name, text.into());
        }
    }
    if fields.is_empty() { Err(nothing_known()) } else { Ok(fields) }
}

fn nothing_known() -> Refusal {
    Refusal::instrumentation("context or context.traits or traits is empty")
}

fn unreadable(error: Unreadable) -> Refusal {
    Refusal::instrumentation(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(config: Value, event: Value) -> Result<Value, String> {
        let destination = Destination {
            config: config.as_object().cloned().unwrap(),
            id: "d".to_owned(),
            workspace_id: "w".to_owned(),
            ..Destination::default()
        };
        let text = event.to_string();
        let payload = Redis::new(&destination).transform(&Message::parse(&text).unwrap(), &|| Value::Null);
        let payload: Value = serde_json::from_slice(&payload.map_err(|refusal| refusal.message)?).unwrap();
        assert_eq!(payload["userId"], event["userId"]);
        Ok(payload["message"].clone())
    }

    #[test]
    fn traits_become_fields_of_the_users_hash() {
        let event = json!({
            "type": "identify", "userId": "u", "traits": { "a": "new", "list": [1, { "x": 2 }], "n": 1.5, "none": null, "o": {} },
            "context": { "traits": { "a": "old", "deep": { "er": true } } },
        });
        let fields = json!({ "a": "new", "deep.er": "true", "list": "[1,{\"x\":2}]", "n": "1.5" });
        assert_eq!(
            record(json!({ "prefix": " p " }), event.clone()),
            Ok(json!({ "key": "p:user:u", "fields": fields }))
        );
        assert_eq!(record(json!({}), event).unwrap()["key"], "user:u");
    }

    #[test]
    fn the_json_module_gets_the_traits_as_they_are() {
        let config = json!({ "useJSONModule": true });
        let event = json!({ "type": "identify", "userId": 7, "traits": { "a": null, "b": { "c": 1 } } });
        let expected = json!({ "key": "user:7", "value": { "a": null, "b": { "c": 1 } } });
        assert_eq!(record(config.clone(), event), Ok(expected));
        let event = json!({ "type": "identify", "userId": "u", "context": { "traits": { "x": 1 } } });
        assert_eq!(record(config, event).unwrap()["value"], json!({ "x": 1 }));
    }

    #[test]
    fn profiles_have_a_hash_of_their_own() {
        let event = json!({
            "type": "identify", "userId": "u", "traits": { "s": 1 },
            "context": { "sources": { "profiles_entity": "e", "profiles_id_type": "t", "profiles_model": "m" } },
        });
        assert_eq!(
            record(json!({ "prefix": "p" }), event.clone()),
            Ok(json!({ "hash": "w:d:e:t:u", "key": "m", "value": "{\"s\":1}" }))
        );
        assert_eq!(
            record(json!({ "useJSONModule": true }), event),
            Ok(json!({ "key": "w:d:e:t:u", "path": "m", "value": { "s": 1 } }))
        );
    }

    #[test]
    fn what_says_nothing_of_a_user_is_refused() {
        for (event, text) in [
            (json!({ "type": "track", "userId": "u" }), "Only Identify calls are supported"),
            (json!({ "userId": "u" }), "Only Identify calls are supported"),
            (json!({ "type": "identify", "userId": " " }), "Blank userId passed in identify event"),
            (json!({ "type": "identify", "userId": "u" }), "context or context.traits or traits is empty"),
            (
                json!({ "type": "identify", "userId": "u", "traits": { "a": null, "b": {} } }),
                "context or context.traits or traits is empty",
            ),
        ] {
            assert_eq!(record(json!({}), event.clone()), Err(text.to_owned()), "{event}");
        }
    }
}

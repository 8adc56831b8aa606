//! WEBHOOK: the event itself, sent to a URL of the user's choice (destinations.md 12.1).
//!
//! The event may choose the URL (`fullPath`), lengthen it (`appendPath`) and add headers (`header`). That the
//! origin was chosen by an event is not marked here: the delivery compares the origin of the final URL with
//! that of `webhookUrl` (security.md 4.3), which also catches `appendPath` texts that change the host.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::flatten::flatten;
use super::message::{Message, is_truthy, may_hold_key, push_json_string, text_of, text_or_json, tree_of};
use super::refusal::Refusal;
use crate::backend_config::Destination;

/// Names under which an event's `integrations` may hold settings for this destination.
const INTEGRATIONS_NAMES: [&str; 4] = ["webhook", "Webhook", "WebHook", "WEBHOOK"];

/// Bytes of a request beside its body and URL.
const ENVELOPE_BYTES: usize = 512;

/// The configuration of one webhook, read once.
#[derive(Clone, Debug)]
pub(super) struct Webhook {
    /// Absent or empty: every event is refused.
    url: Option<String>,
    method: String,
    /// Lower-cased name and value, each name once.
    headers: Vec<(String, String)>,
    /// The variant that runs for a destination without a definition name.
    plain: bool,
}

impl Webhook {
    pub(super) fn new(destination: &Destination) -> Webhook {
        let config = &destination.config;
        let text = |key: &str| config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let mut headers = Vec::new();
        for entry in config.get("headers").and_then(Value::as_array).into_iter().flatten() {
            let name = entry.get("from").and_then(Value::as_str).unwrap_or_default();
            let value = match entry.get("to") {
                Some(Value::String(value)) => value.clone(),
                Some(Value::Null) | None => continue,
                Some(other) => other.to_string(),
            };
            if !name.trim().is_empty() {
                set_header(&mut headers, name.to_lowercase(), value);
            }
        }
        Webhook {
            url: text("webhookUrl").map(str::to_owned),
            method: text("webhookMethod").unwrap_or("POST").to_owned(),
            headers,
            plain: destination.definition.name.is_empty(),
        }
    }

    pub(super) fn transform(&self, message: &Message<'_>) -> Result<Vec<u8>, Refusal> {
        // Transformed before, for example by a user transformation that answers a finished request.
        if message.get("statusCode").is_some_and(is_truthy) {
            return Ok(message.to_json().into_bytes());
        }
        let Some(url) = &self.url else {
            let refusal = Refusal::configuration("Invalid URL in destination config");
            return Err(if self.plain { refusal } else { refusal.at_step("validateInput") });
        };
        let sends_body = matches!(self.method.as_str(), "POST" | "PUT" | "PATCH");
        let integrations = message.object("integrations");
        let own_settings = integrations.as_ref().and_then(own_settings);
        let chosen = |key: &str| -> Option<Cow<'_, str>> {
            let json = message.get_present(key).or_else(|| own_settings.as_ref().and_then(|own| own.get_present(key)));
            json.map(text_or_json)
        };

        let payload_bytes = message.members().map(|(key, json)| key.len() + json.len() + 4).sum::<usize>();
        let mut out = Vec::with_capacity(ENVELOPE_BYTES + payload_bytes);
        out.extend_from_slice(br#"{"version":"1","type":"REST","method":"#);
        push_json_string(&mut out, &self.method);
        out.extend_from_slice(br#","endpoint":"#);
        let base = chosen("fullPath").unwrap_or(Cow::Borrowed(url));
        match chosen("appendPath") {
            Some(path) => push_json_string(&mut out, &format!("{base}{path}")),
            None => push_json_string(&mut out, &base),
        }
        out.extend_from_slice(br#","headers":"#);
        self.write_headers(&mut out, message, sends_body);
        out.extend_from_slice(br#","params":"#);
        if matches!(self.method.as_str(), "GET" | "DELETE") {
            out.extend_from_slice(Value::Object(params(message)?).to_string().as_bytes());
        } else {
            out.extend_from_slice(b"{}");
        }
        out.extend_from_slice(br#","body":{"JSON":"#);
        if sends_body {
            write_body(&mut out, message);
        } else {
            out.extend_from_slice(b"{}");
        }
        out.extend_from_slice(br#","JSON_ARRAY":{},"XML":{},"FORM":{}},"files":{},"userId":"#);
        let user_id = message.get("anonymousId").filter(|json| is_truthy(json)).map(text_or_json);
        push_json_string(&mut out, user_id.as_deref().unwrap_or_default());
        out.push(b'}');
        Ok(out)
    }

    fn write_headers(&self, out: &mut Vec<u8>, message: &Message<'_>, sends_body: bool) {
        let own_type = self.headers.iter().any(|(name, _)| name == "content-type");
        let by_event = message.object("header").unwrap_or_default();
        let replaced = |name: &str| by_event.get(name).is_some_and(|json| self.header_value(json).is_some());
        let mut first = true;
        let mut push = |name: &str, value: &str| {
            out.push(if first { b'{' } else { b',' });
            first = false;
            push_json_string(out, name);
            out.push(b':');
            push_json_string(out, value);
        };
        if sends_body && !own_type && !replaced("content-type") {
            push("content-type", "application/json");
        }
        for (name, value) in self.headers.iter().filter(|(name, _)| !replaced(name)) {
            push(name, value);
        }
        for (name, json) in by_event.members() {
            if let Some(value) = self.header_value(json) {
                push(name, &value);
            }
        }
        if first {
            out.push(b'{');
        }
        out.push(b'}');
    }

    /// A header that the event sets: strings as they are, other values as JSON, or dropped in the plain variant.
    fn header_value<'j>(&self, json: &'j str) -> Option<Cow<'j, str>> {
        if self.plain { text_of(json) } else { Some(text_or_json(json)) }
    }
}

/// The first truthy settings object under one of this destination's names.
fn own_settings<'m>(integrations: &'m Message<'_>) -> Option<Message<'m>> {
    let name = INTEGRATIONS_NAMES.iter().find(|name| integrations.get(name).is_some_and(is_truthy))?;
    integrations.object(name)
}

/// The event without what steers the request, with the sender's address in its context.
fn write_body(out: &mut Vec<u8>, message: &Message<'_>) {
    let goes_out = |key: &str, json: &str| !matches!(key, "fullPath" | "appendPath" | "header") && json != "null";
    match context_with_ip(message) {
        Some(context) => {
            let mut patched = message.clone();
            patched.set("context", context);
            patched.write_where(out, goes_out);
        }
        None => message.write_where(out, goes_out),
    }
}

/// `context` with `ip` from `request_ip`; `None` when it is to stay as it is.
fn context_with_ip(message: &Message<'_>) -> Option<String> {
    let request_ip = message.get("request_ip").filter(|json| is_truthy(json))?;
    match message.get_present("context") {
        None => Some(format!("{{\"ip\":{request_ip}}}")),
        Some(json) if json.starts_with('{') && !may_hold_key(json, "\"ip\"") => {
            let rest = json.get(1..).unwrap_or_default();
            let separator = if rest.trim_start() == "}" { "" } else { "," };
            Some(format!("{{\"ip\":{request_ip}{separator}{rest}"))
        }
        Some(_) => {
            let context = message.object("context")?;
            if context.get_present("ip").is_some() {
                return None;
            }
            let mut patched = context.clone();
            patched.set("ip", request_ip);
            Some(patched.to_json())
        }
    }
}

/// Query parameters of requests without a body.
fn params(message: &Message<'_>) -> Result<Map<String, Value>, Refusal> {
    let context = message.object("context");
    let source = if message.text("type").as_deref() == Some("identify") {
        let in_context = context.as_ref().and_then(|context| context.get("traits"));
        message.get("traits").filter(|json| is_truthy(json) || matches!(*json, "false" | "0")).or(in_context)
    } else {
        message.get("properties")
    };
    match source.map(tree_of) {
        Some(Ok(Value::Object(object))) => flatten(object),
        _ => Ok(Map::new()),
    }
}

fn set_header(headers: &mut Vec<(String, String)>, name: String, value: String) {
    match headers.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => headers.push((name, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::DestinationDefinition;
    use serde_json::json;

    fn request(config: &Value, event: &Value) -> Value {
        let destination = Destination {
            config: config.as_object().cloned().unwrap(),
            definition: DestinationDefinition { name: "WEBHOOK".to_owned(), ..DestinationDefinition::default() },
            ..Destination::default()
        };
        let text = event.to_string();
        let message = Message::parse(&text).unwrap();
        serde_json::from_slice(&Webhook::new(&destination).transform(&message).unwrap()).unwrap()
    }

    #[test]
    fn an_event_goes_out_whole_but_for_what_steers_the_request() {
        let event = json!({
            "type": "track", "event": "A", "anonymousId": "anon", "properties": { "n": 1, "nothing": null }, "gone": null,
            "fullPath": "https://other.example/", "appendPath": "x?y=1", "header": { "X-One": "1", "two": 2, "three": { "k": [1] } },
        });
        let out = request(
            &json!({ "webhookUrl": "https://a.example", "headers": [{ "from": "Auth", "to": "s" }, { "from": "", "to": "" }] }),
            &event,
        );
        assert_eq!(
            out,
            json!({
                "version": "1", "type": "REST", "method": "POST", "endpoint": "https://other.example/x?y=1",
                "headers": { "content-type": "application/json", "auth": "s", "X-One": "1", "two": "2", "three": "{\"k\":[1]}" },
                "params": {}, "files": {}, "userId": "anon",
                "body": {
                    "JSON": { "type": "track", "event": "A", "anonymousId": "anon", "properties": { "n": 1, "nothing": null } },
                    "JSON_ARRAY": {}, "XML": {}, "FORM": {},
                },
            })
        );
    }

    #[test]
    fn the_senders_address_fills_a_missing_context_ip() {
        let config = json!({ "webhookUrl": "https://a.example" });
        let table = [
            (json!({ "request_ip": "1.1.1.1" }), json!({ "ip": "1.1.1.1" })),
            (json!({ "request_ip": "1.1.1.1", "context": null }), json!({ "ip": "1.1.1.1" })),
            (json!({ "request_ip": "1.1.1.1", "context": { "a": 1 } }), json!({ "a": 1, "ip": "1.1.1.1" })),
            (json!({ "request_ip": "1.1.1.1", "context": {} }), json!({ "ip": "1.1.1.1" })),
            (json!({ "request_ip": "1.1.1.1", "context": { "zip": 1 } }), json!({ "zip": 1, "ip": "1.1.1.1" })),
            (json!({ "request_ip": "1.1.1.1", "context": { "ip": null } }), json!({ "ip": "1.1.1.1" })),
            (json!({ "request_ip": "1.1.1.1", "context": { "ip": "2.2.2.2" } }), json!({ "ip": "2.2.2.2" })),
            (json!({ "request_ip": "", "context": { "a": 1 } }), json!({ "a": 1 })),
            (json!({ "request_ip": "1.1.1.1", "context": "text" }), json!("text")),
        ];
        for (event, expected) in table {
            assert_eq!(request(&config, &event)["body"]["JSON"]["context"], expected, "{event}");
        }
    }

    #[test]
    fn settings_in_the_integrations_object_choose_the_endpoint_too() {
        let config = json!({ "webhookUrl": "https://a.example" });
        let endpoint = |event: Value| request(&config, &event)["endpoint"].clone();
        assert_eq!(
            endpoint(json!({ "integrations": { "Webhook": { "fullPath": "https://b.example", "appendPath": "/c" } } })),
            "https://b.example/c"
        );
        assert_eq!(
            endpoint(json!({ "integrations": { "webhook": true, "WEBHOOK": { "fullPath": "https://b.example" } } })),
            "https://a.example"
        );
        assert_eq!(
            endpoint(json!({ "integrations": { "webhook": false, "WEBHOOK": { "appendPath": "/d" } } })),
            "https://a.example/d"
        );
        assert_eq!(endpoint(json!({ "fullPath": null, "appendPath": "/e" })), "https://a.example/e");
    }

    #[test]
    fn requests_without_a_body_carry_flattened_properties_or_traits() {
        let config = json!({ "webhookUrl": "https://a.example", "webhookMethod": "GET" });
        let params = |event: Value| request(&config, &event)["params"].clone();
        assert_eq!(params(json!({ "type": "track", "properties": { "a": { "b": [1] } } })), json!({ "a.b[0]": 1 }));
        assert_eq!(
            params(json!({ "type": "identify", "traits": { "a": 1 }, "context": { "traits": { "b": 2 } } })),
            json!({ "a": 1 })
        );
        assert_eq!(params(json!({ "type": "identify", "context": { "traits": { "b": 2 } } })), json!({ "b": 2 }));
        assert_eq!(params(json!({ "type": "identify", "traits": {}, "context": { "traits": { "b": 2 } } })), json!({}));
        assert_eq!(params(json!({ "type": "track", "properties": [1] })), json!({}));
        assert_eq!(request(&config, &json!({ "anonymousId": 5 }))["userId"], "5");
        assert_eq!(request(&config, &json!({}))["headers"], json!({}));
    }

    #[test]
    fn later_headers_replace_earlier_ones() {
        let config = json!({ "webhookUrl": "https://a.example", "headers": [{ "from": "Content-Type", "to": "application/xml" }, { "from": "A", "to": "1" }, { "from": "a", "to": "2" }] });
        assert_eq!(request(&config, &json!({}))["headers"], json!({ "content-type": "application/xml", "a": "2" }));
        assert_eq!(
            request(&config, &json!({ "header": { "a": "3", "content-type": "text/plain" } }))["headers"],
            json!({ "a": "3", "content-type": "text/plain" })
        );
        assert_eq!(request(&config, &json!({ "header": "text" }))["headers"]["a"], "2");
    }

    #[test]
    fn a_finished_request_passes_through() {
        let event = json!({ "statusCode": 200, "endpoint": "x", "header": {} });
        assert_eq!(request(&json!({ "webhookUrl": "https://a.example" }), &event), event);
    }
}

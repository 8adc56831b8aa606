//! Where an event may steer a delivery (security.md 4.3).
//!
//! Some destinations let an event choose the URL. The final URL's origin is compared with the configured one; a
//! foreign origin is reached only at public addresses, and without what the configuration added to the request.

use std::collections::HashSet;

use reqwest::Url;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, PROXY_AUTHORIZATION, USER_AGENT,
};
use serde_json::Value;

use super::wire::{WireRequest, remove_from_query};
use crate::backend_config::Destination;

/// Origins of earlier configurations that are remembered, for jobs that were mapped under them.
const EARLIER_ORIGINS: usize = 16;
/// Configured texts shorter than this say nothing about where a header came from.
const TELLING_LENGTH: usize = 4;

/// What the configuration of one destination says about its origins and secrets.
#[derive(Debug, Default)]
pub struct ConfiguredOrigins {
    /// The integration chooses the URL, no event can.
    fixed: bool,
    origins: Vec<Origin>,
    hosts: HashSet<String>,
    texts: Vec<String>,
    names: HashSet<String>,
}

impl ConfiguredOrigins {
    /// Reads the configuration of a destination; `extra_hosts` count as configured.
    pub fn of(destination: &Destination, extra_hosts: &[String]) -> ConfiguredOrigins {
        let key = match destination.definition.name.as_str() {
            "WEBHOOK" => Some("webhookUrl"),
            "HTTP" => Some("apiUrl"),
            _ => None,
        };
        let configured = |key: &str| destination.config.get(key).and_then(Value::as_str).map(fallback_of_template);
        let origin = key.and_then(configured).and_then(|text| Url::parse(text.trim()).ok()).map(|url| Origin::of(&url));
        let templated = |(name, value): (&String, &Value)| {
            let name = name.to_ascii_lowercase();
            let names_a_place = ["url", "host", "endpoint", "domain", "server"].iter().any(|part| name.contains(part));
            names_a_place && value.as_str().is_some_and(|text| text.contains("{{"))
        };
        let mut origins = ConfiguredOrigins {
            fixed: key.is_none() && !(destination.has_dynamic_config && destination.config.iter().any(templated)),
            origins: origin.into_iter().collect(),
            hosts: extra_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            ..ConfiguredOrigins::default()
        };
        for (name, value) in &destination.config {
            if Some(name.as_str()) != key {
                origins.remember(value);
            }
        }
        origins
    }

    /// Whether an event chose the origin of the URL.
    pub fn is_foreign(&self, url: &Url) -> bool {
        let is_listed = || url.host_str().is_some_and(|host| self.hosts.contains(&host.to_ascii_lowercase()));
        !(self.fixed || self.origins.iter().any(|origin| origin.has(url)) || is_listed())
    }

    /// Headers that came from the configuration, as far as can be told, and those that always carry credentials.
    pub fn private_headers(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        let harmless = [CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT];
        let private = |name: &HeaderName, value: &[u8]| {
            [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name)
                || self.names.contains(name.as_str())
                || self.has_configured_text(value)
        };
        let telling = headers.iter().filter(|(name, _)| !harmless.contains(name));
        telling.filter(|(name, value)| private(name, value.as_bytes())).map(|(name, _)| name.clone()).collect()
    }

    /// Lets the origins of an earlier configuration count too: jobs that wait were mapped under it.
    pub fn remember_earlier(&mut self, earlier: &ConfiguredOrigins) {
        for origin in earlier.origins.iter().take(EARLIER_ORIGINS) {
            if !self.origins.contains(origin) {
                self.origins.push(origin.clone());
            }
        }
    }

    /// Removes from the request what the configuration added to it.
    pub fn strip(&self, request: &mut WireRequest) {
        for name in self.private_headers(&request.headers) {
            request.headers.remove(name);
        }
        remove_from_query(&mut request.url, |name, text| {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            self.names.contains(&name) || self.has_configured_text(text)
        });
    }

    fn has_configured_text(&self, value: &[u8]) -> bool {
        let value = String::from_utf8_lossy(value);
        self.texts.iter().any(|text| value.contains(text.as_str()))
    }

    /// Texts of the configuration, and the names in its lists of headers and parameters.
    fn remember(&mut self, value: &Value) {
        match value {
            Value::String(text) if text.len() >= TELLING_LENGTH => self.texts.push(text.clone()),
            Value::Array(items) => items.iter().for_each(|item| self.remember(item)),
            Value::Object(members) => {
                for side in ["from", "to"] {
                    if let Some(name) = members.get(side).and_then(Value::as_str).filter(|name| !name.is_empty()) {
                        self.names.insert(name.to_ascii_lowercase());
                    }
                }
                members.values().for_each(|member| self.remember(member));
            }
            _ => {}
        }
    }
}

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    /// In lower case, without the dot of the root.
    host: String,
    port: u16,
}

impl Origin {
    fn of(url: &Url) -> Origin {
        Origin {
            scheme: url.scheme().to_owned(),
            host: host_of(url).to_ascii_lowercase(),
            port: url.port_or_known_default().unwrap_or_default(),
        }
    }

    /// Whether it is the URL's; asked for every event, so nothing is allocated.
    fn has(&self, url: &Url) -> bool {
        self.scheme == url.scheme()
            && self.port == url.port_or_known_default().unwrap_or_default()
            && self.host.eq_ignore_ascii_case(host_of(url))
    }
}

fn host_of(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_end_matches('.')
}

/// `{{ path || fallback }}` stands for its fallback, any other text for itself.
fn fallback_of_template(text: &str) -> &str {
    let inside = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    match inside.and_then(|inside| inside.split_once("||")) {
        Some((_, fallback)) => fallback.trim().trim_matches('"'),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::backend_config::DestinationDefinition;
    use crate::router::wire::{Identity, Wire, read};

    fn destination(kind: &str, config: Value) -> Destination {
        let Value::Object(config) = config else { panic!("an object") };
        let definition = DestinationDefinition { name: kind.to_owned(), ..DestinationDefinition::default() };
        Destination { config, definition, has_dynamic_config: true, ..Destination::default() }
    }

    fn request(endpoint: &str) -> WireRequest {
        let payload = format!(
            r#"{{"type":"REST","endpoint":"{endpoint}","params":{{"key":"S3CRETVALUE","q":"1"}},
                "headers":{{"authorization":"Bearer x","x-token":"n","x-copy":"a S3CRETVALUE","x-event":"7","content-type":"text/x"}}}}"#
        );
        let identity = Identity { user_agent: "RudderLabs".to_owned(), instance_id: None };
        match read(&Bytes::from(payload), &identity) {
            Wire::Send(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_parsed_origin_decides_not_a_prefix() {
        let origins = ConfiguredOrigins::of(
            &destination("WEBHOOK", json!({"webhookUrl": "https://api.example"})),
            &["other.test".to_owned()],
        );
        for (url, foreign) in [
            ("https://api.example/x?y=1", false),
            ("https://API.example:443/", false),
            ("https://other.test:8443/", false),
            ("http://api.example/", true),
            ("https://api.example:444/", true),
            ("https://api.example.evil.test/", true),
            ("https://api.example@evil.test/", true),
        ] {
            assert_eq!(origins.is_foreign(&Url::parse(url).unwrap()), foreign, "{url}");
        }
        let mut moved =
            ConfiguredOrigins::of(&destination("WEBHOOK", json!({"webhookUrl": "https://new.example"})), &[]);
        moved.remember_earlier(&origins);
        assert!(!moved.is_foreign(&Url::parse("https://api.example/").unwrap()));
        assert!(!moved.is_foreign(&Url::parse("https://new.example/").unwrap()));
        let template = json!({"webhookUrl": "{{ message.url || \"https://api.example\" }}"});
        let origins = ConfiguredOrigins::of(&destination("WEBHOOK", template), &[]);
        assert!(!origins.is_foreign(&Url::parse("https://api.example/").unwrap()));
        let native = ConfiguredOrigins::of(&destination("SLACK", json!({"channel": "{{ a || b }}"})), &[]);
        assert!(!native.is_foreign(&Url::parse("https://hooks.slack.test/").unwrap()));
        let dynamic = ConfiguredOrigins::of(&destination("BRAZE", json!({"endPointUrl": "{{ a || b }}"})), &[]);
        assert!(dynamic.is_foreign(&Url::parse("https://anything.test/").unwrap()));
    }

    #[test]
    fn what_the_configuration_added_stays_home() {
        let config = json!({
            "webhookUrl": "https://api.example",
            "headers": [{"from": "X-Token", "to": "n"}],
            "secret": "S3CRETVALUE"
        });
        let origins = ConfiguredOrigins::of(&destination("WEBHOOK", config), &[]);
        let mut request = request("https://evil.test/steal");
        origins.strip(&mut request);
        let mut left: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "user-agent", "x-event"]);
        assert_eq!(request.url.as_str(), "https://evil.test/steal?q=1");
    }
}

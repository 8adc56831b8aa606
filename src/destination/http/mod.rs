//! HTTP: an event mapped into a request of the user's own making (router.md 13, destinations.md 12.3).
//!
//! In: the configuration, read once into an [`Http`], and events as trees. Out: [`Request`]s, alone or, where the
//! destination takes lists, joined by [`batch`]. A configuration that cannot work refuses every event with the
//! text that says why.

pub(super) mod batch;
mod json_path;
mod mapping;
mod xml;

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use self::json_path::Path;
use self::mapping::{Mappings, without_nulls};
use super::message::{Message, is_truthy};
use super::refusal::Refusal;
use crate::backend_config::Destination;

/// What stays as it is in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The configuration of one HTTP destination, read once.
#[derive(Clone, Debug)]
pub(super) struct Http(Result<Setup, Refusal>);

#[derive(Clone, Debug)]
struct Setup {
    method: String,
    url: String,
    /// What proves who we are.
    auth: Option<(String, String)>,
    headers: Mappings,
    params: Mappings,
    path: Vec<PathPart>,
    body: Body,
    format: Format,
    root: String,
    /// Events of one request; `None` = each event has its own.
    batch: Option<usize>,
}

#[derive(Clone, Debug)]
enum PathPart {
    Literal(String),
    Path(Path),
    /// Refuses every event.
    Unusable(Refusal),
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Whole,
    Mapped(Mappings),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Xml,
    Form,
}

/// One request, before it is written as a payload.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    method: String,
    endpoint: String,
    /// In the order in which later ones replace earlier ones of the same name, whatever its case.
    headers: Map<String, Value>,
    params: Map<String, Value>,
    body: RequestBody,
    /// Events that may share a request with this one.
    batch: Option<usize>,
}

#[derive(Clone, Debug, PartialEq)]
enum RequestBody {
    Json(Map<String, Value>),
    /// A list, as its text.
    List(String),
    Form(Map<String, Value>),
    Xml(String),
    None,
}

impl Http {
    pub(super) fn new(destination: &Destination) -> Http {
        Http(Setup::read(&destination.config))
    }

    /// The request for one event.
    pub(super) fn request(&self, message: &Message<'_>) -> Result<Request, Refusal> {
        let setup = self.0.as_ref().map_err(Refusal::clone)?;
        let event = message.to_tree().map_err(|error| Refusal::instrumentation(&error.to_string()))?;
        setup.request(event)
    }

    /// Whether events may share a request.
    pub(super) fn joins_events(&self) -> bool {
        self.0.as_ref().is_ok_and(|setup| setup.batch.is_some_and(|size| size > 1))
    }

    /// The payload of the request for one event.
    pub(super) fn transform(&self, message: &Message<'_>) -> Result<Vec<u8>, Refusal> {
        if was_transformed(message) {
            return Ok(message.to_json().into_bytes());
        }
        Ok(self.request(message)?.payload())
    }
}

/// A finished request, for example from a user transformation, passes as it is.
pub(super) fn was_transformed(message: &Message<'_>) -> bool {
    message.get("statusCode").is_some_and(is_truthy)
}

/// Whether the destination may join events in a request. A template may say so for some events only.
pub(super) fn may_batch(config: &Map<String, Value>) -> bool {
    let is_json = !matches!(config.get("format").and_then(Value::as_str), Some("XML" | "FORM"));
    is_json && config.get("isBatchingEnabled").is_some_and(|value| value.is_string() || *value == Value::Bool(true))
}

impl Setup {
    fn read(config: &Map<String, Value>) -> Result<Setup, Refusal> {
        let text = |key: &str| config.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let needed = |key: &str, refusal: &str| {
            text(key).ok_or_else(|| Refusal::configuration(refusal).at_step("validateInput"))
        };
        let mappings = |key: &str, step: &'static str| {
            Mappings::read(config.get(key))
                .map_err(|fault| Refusal::configuration(&format!("Error in custom mappings: {fault}")).at_step(step))
        };
        let url = needed("apiUrl", "API URL is required. Aborting")?.to_owned();
        let auth = match text("auth") {
            Some("basicAuth") => {
                let user = needed("username", "Username is required for Basic Authentication. Aborting")?;
                let proof = STANDARD.encode(format!("{user}:{}", text("password").unwrap_or_default()));
                Some(("Authorization".to_owned(), format!("Basic {proof}")))
            }
            Some("bearerTokenAuth") => {
                let token = needed("bearerToken", "Token is required for Bearer Token Authentication. Aborting")?;
                Some(("Authorization".to_owned(), format!("Bearer {token}")))
            }
            Some("apiKeyAuth") => {
                let name = needed("apiKeyName", "API Key Name is required for API Key Authentication. Aborting")?;
                let value = needed("apiKeyValue", "API Key Value is required for API Key Authentication. Aborting")?;
                Some((name.to_owned(), value.to_owned()))
            }
            _ => None,
        };
        let format = match text("format") {
            Some("XML") => Format::Xml,
            Some("FORM") => Format::Form,
            _ => Format::Json,
        };
        let properties = mappings("propertiesMapping", "prepareBody")?;
        let body = match config.get("isDefaultMapping") {
            Some(Value::Bool(true)) => Body::Whole,
            _ if properties.is_empty() => Body::None,
            _ => Body::Mapped(properties),
        };
        Ok(Setup {
            method: text("method").unwrap_or("POST").to_owned(),
            url,
            auth,
            headers: mappings("headers", "buildHeaders")?,
            params: mappings("queryParams", "prepareParams")?,
            path: config
                .get("pathParams")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(PathPart::read)
                .collect(),
            body,
            format,
            root: text("xmlRootKey").unwrap_or("root").to_owned(),
            batch: (format == Format::Json && config.get("isBatchingEnabled") == Some(&Value::Bool(true)))
                .then(|| batch_size(config.get("maxBatchSize"))),
        })
    }

    fn request(&self, event: Value) -> Result<Request, Refusal> {
        let headers = self.headers_for(&event)?;
        let params = match self.params.apply(&event) {
            Value::Object(params) => params,
            _ => Map::new(),
        };
        let endpoint = self.endpoint_for(&event)?;
        let body = self.body_for(event)?;
        Ok(Request { method: self.method.clone(), endpoint, headers, params, body, batch: self.batch })
    }

    fn headers_for(&self, event: &Value) -> Result<Map<String, Value>, Refusal> {
        let mut headers = Map::new();
        if let Some((name, value)) = &self.auth {
            headers.insert(name.clone(), value.as_str().into());
        }
        if let Value::Object(mapped) = self.headers.apply(event) {
            for (name, value) in mapped {
                let kind = match &value {
                    Value::String(_) => {
                        put_last(&mut headers, name, value);
                        continue;
                    }
                    Value::Null => continue,
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "number",
                    Value::Array(_) | Value::Object(_) => "object",
                };
                let text = format!("Header \"{name}\" has a non-string value of type \"{kind}\"");
                return Err(Refusal::instrumentation(&text).at_step("buildHeaders"));
            }
        }
        let content_type = match self.format {
            Format::Json => "application/json",
            Format::Xml => "application/xml",
            Format::Form => "application/x-www-form-urlencoded",
        };
        put_last(&mut headers, "Content-Type".to_owned(), content_type.into());
        Ok(headers)
    }

    fn endpoint_for(&self, event: &Value) -> Result<String, Refusal> {
        let mut endpoint = self.url.clone();
        for part in &self.path {
            let text = match part {
                PathPart::Literal(text) => Cow::Borrowed(text.as_str()),
                PathPart::Path(path) => match path.select(event).first() {
                    Some(Value::String(text)) => Cow::Owned(text.clone()),
                    Some(Value::Null) | None => {
                        let refusal = Refusal::configuration("Path not found in the object.");
                        return Err(refusal.at_step("deduceEndPoint"));
                    }
                    Some(other) => Cow::Owned(other.to_string()),
                },
                PathPart::Unusable(refusal) => return Err(refusal.clone()),
            };
            endpoint.push('/');
            endpoint.extend(utf8_percent_encode(&text, SEGMENT));
        }
        Ok(without_repeated_slashes(&endpoint))
    }

    fn body_for(&self, event: Value) -> Result<RequestBody, Refusal> {
        let mut content = match &self.body {
            Body::None => return Ok(RequestBody::None),
            Body::Whole => event,
            Body::Mapped(mappings) => mappings.apply(&event),
        };
        without_nulls(&mut content);
        match (content, self.format) {
            (Value::Object(members), _) if members.is_empty() => Ok(RequestBody::None),
            (content @ (Value::Object(_) | Value::Array(_)), Format::Xml) => {
                Ok(RequestBody::Xml(xml::document(&self.root, &content)))
            }
            (Value::Object(members), Format::Json) => Ok(RequestBody::Json(members)),
            (Value::Object(members), Format::Form) => {
                let texts = members.into_iter().map(|(key, value)| match value {
                    Value::String(_) => (key, value),
                    other => (key, other.to_string().into()),
                });
                Ok(RequestBody::Form(texts.collect()))
            }
            (list @ Value::Array(_), Format::Json) => Ok(RequestBody::List(list.to_string())),
            _ => {
                let text = "Error in custom mappings: the mapped body is neither an object nor a list";
                Err(Refusal::configuration(text).at_step("prepareBody"))
            }
        }
    }
}

impl PathPart {
    fn read(entry: &Value) -> Option<PathPart> {
        let text = match entry.get("path")? {
            Value::String(text) => text.clone(),
            other @ Value::Number(_) => other.to_string(),
            _ => return None,
        };
        let unusable = |text: &str| PathPart::Unusable(Refusal::configuration(text).at_step("deduceEndPoint"));
        if text.trim().is_empty() {
            return None;
        }
        Some(if text.contains('/') {
            unusable("Path value cannot contain \"/\"")
        } else if text.contains('$') {
            match Path::parse(&text) {
                Ok(path) => PathPart::Path(path),
                Err(fault) => unusable(&format!("Error in custom mappings: {fault}")),
            }
        } else {
            PathPart::Literal(text)
        })
    }
}

impl Request {
    /// As the router takes it.
    pub(super) fn payload(self) -> Vec<u8> {
        let empty = || Value::Object(Map::new());
        let (mut object, mut list, mut xml, mut form) = (empty(), empty(), empty(), empty());
        match self.body {
            RequestBody::Json(members) => object = members.into(),
            RequestBody::List(text) => list = json!({ "batch": text }),
            RequestBody::Form(members) => form = members.into(),
            RequestBody::Xml(text) => xml = json!({ "payload": text }),
            RequestBody::None => {}
        }
        let request = json!({
            "version": "1",
            "type": "REST",
            "method": self.method,
            "endpoint": self.endpoint,
            "headers": self.headers,
            "params": self.params,
            "body": { "JSON": object, "JSON_ARRAY": list, "XML": xml, "FORM": form },
            "files": {},
            "userId": "",
        });
        request.to_string().into_bytes()
    }
}

/// Sets a header behind all others: of two names that differ in case only, the last one is sent.
fn put_last(headers: &mut Map<String, Value>, name: String, value: Value) {
    headers.shift_remove(&name);
    headers.insert(name, value);
}

/// A number or its text; anything else leaves a batch as large as what is transformed together.
fn batch_size(value: Option<&Value>) -> usize {
    let size = match value {
        Some(Value::Number(number)) => number.as_u64().and_then(|number| usize::try_from(number).ok()),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    size.filter(|size| *size > 0).unwrap_or(usize::MAX)
}

fn without_repeated_slashes(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    // The two slashes behind a colon belong to it.
    let mut last_two = ('\0', '\0');
    for c in url.chars() {
        if c == '/' && last_two.1 == '/' && last_two.0 != ':' {
            continue;
        }
        out.push(c);
        last_two = (last_two.1, c);
    }
    out
}

#[cfg(test)]
mod tests;

//! A request as JSON, as transformations of webhook sources read it (gateway.md 10.3).
//!
//! The body stays a text: it need not be JSON. Characters U+0000 are removed, and cookies of the admin port are
//! (security.md 3.5), because browsers send those to the ingest port too.

use std::collections::BTreeMap;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use serde::Serialize;
use serde_json::{Value, json};

use super::form;
use super::{Failure, Refusal};
use crate::gateway::credentials::query_parameters;

/// Parameters beyond this many are ignored.
const MOST_PARAMETERS: usize = 1000;
/// Cookies of the admin port begin so.
const OWN_COOKIES: &str = "pintle_";

/// Names with their values, in the order of the names.
pub(super) type Values = BTreeMap<String, Vec<String>>;

/// A described request. The order of its members is that of the JSON.
#[derive(Debug, Default, Serialize)]
pub(super) struct Description {
    pub(super) method: String,
    /// Path and query.
    pub(super) url: String,
    pub(super) proto: String,
    /// Names as `Canonical-Name`.
    pub(super) headers: Values,
    pub(super) body: String,
    pub(super) query_parameters: Values,
}

impl Description {
    /// Describes a request with this body.
    ///
    /// # Errors
    /// The body is no form although it says so.
    pub(super) async fn of(parts: &Parts, body: &[u8]) -> Result<Description, Failure> {
        let mut headers = headers_of(&parts.headers);
        let content_type = parts.headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let content_type = content_type.unwrap_or_default();
        let lower = content_type.to_ascii_lowercase();
        let text = if lower.contains("application/x-www-form-urlencoded") {
            // A GET has no form.
            let fields = if parts.method == Method::POST { form::url_encoded(body)? } else { Values::new() };
            if fields.is_empty() {
                String::new()
            } else {
                headers.insert("Content-Type".to_owned(), vec!["application/json".to_owned()]);
                json!(fields).to_string()
            }
        } else if lower.contains("multipart/form-data") {
            form::multipart(&content_type, body).await?.to_string()
        } else {
            String::from_utf8_lossy(body).into_owned()
        };
        Ok(Description {
            method: parts.method.as_str().to_owned(),
            url: parts.uri.path_and_query().map(|target| without_nul(target.as_str())).unwrap_or_default(),
            proto: format!("{:?}", parts.version),
            headers,
            body: if text.is_empty() { "{}".to_owned() } else { without_nul(&text) },
            query_parameters: collect(query_parameters(parts.uri.query().unwrap_or_default())),
        })
    }

    /// The JSON text.
    pub(super) fn to_json(&self) -> Vec<u8> {
        // Texts and lists of texts can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// All of it but the body, lists of one value as that value (gateway.md 10.5).
    pub(super) fn context(&self) -> Value {
        let single = |values: &Values| {
            let members = values.iter().filter(|(_, values)| !values.is_empty());
            members
                .map(|(name, values)| {
                    let value = match values.as_slice() {
                        [only] => json!(only),
                        several => json!(several),
                    };
                    (name.clone(), value)
                })
                .collect::<serde_json::Map<String, Value>>()
        };
        json!({
            "method": self.method,
            "url": self.url,
            "proto": self.proto,
            "headers": single(&self.headers),
            "query_parameters": single(&self.query_parameters),
        })
    }
}

/// Gathers values by name.
pub(super) fn collect(pairs: impl Iterator<Item = (String, String)>) -> Values {
    let mut values = Values::new();
    for (name, value) in pairs.take(MOST_PARAMETERS) {
        values.entry(without_nul(&name)).or_default().push(without_nul(&value));
    }
    values
}

fn headers_of(headers: &HeaderMap) -> Values {
    let mut values = Values::new();
    for (name, value) in headers {
        // These two say how the request was sent, not what it is.
        if name == HOST || name == TRANSFER_ENCODING {
            continue;
        }
        let mut text = without_nul(&String::from_utf8_lossy(value.as_bytes()));
        if name == COOKIE {
            let others = text.split(';').filter(|cookie| !cookie.trim_start().starts_with(OWN_COOKIES));
            let others = others.collect::<Vec<_>>().join(";");
            others.trim_start().clone_into(&mut text);
            if text.is_empty() {
                continue;
            }
        }
        values.entry(canonical(name)).or_default().push(text);
    }
    values
}

/// `content-type` as `Content-Type`.
pub(super) fn canonical(name: &HeaderName) -> String {
    let mut begins = true;
    let letter = |c: char| {
        let written = if begins { c.to_ascii_uppercase() } else { c };
        begins = c == '-';
        written
    };
    name.as_str().chars().map(letter).collect()
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "")
}

impl From<form::Broken> for Failure {
    fn from(broken: form::Broken) -> Failure {
        Failure::Refused(match broken {
            form::Broken::Form => Refusal::BrokenForm,
            form::Broken::Multipart => Refusal::BrokenMultipart,
        })
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    async fn describe(method: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Value, Failure> {
        let mut request = Request::builder().method(method).uri("/v1/webhook?writeKey=k&a=1&a=2%00");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        Ok(serde_json::from_slice(&Description::of(&parts, body).await?.to_json()).unwrap())
    }

    #[tokio::test]
    async fn a_request_is_described_as_it_was_sent() {
        let headers = [("host", "h"), ("x-two", "1"), ("x-two", "2"), ("cookie", "a=1; pintle_admin_1=s; b=2")];
        assert_eq!(
            describe("POST", &headers, b"no \0json \xff").await.unwrap(),
            json!({
                "method": "POST",
                "url": "/v1/webhook?writeKey=k&a=1&a=2%00",
                "proto": "HTTP/1.1",
                "headers": {"X-Two": ["1", "2"], "Cookie": ["a=1; b=2"]},
                "body": "no json \u{fffd}",
                "query_parameters": {"writeKey": ["k"], "a": ["1", "2"]},
            })
        );
        let only_own = describe("GET", &[("cookie", "pintle_admin_1=s")], b"").await.unwrap();
        assert_eq!((&only_own["body"], &only_own["headers"]), (&json!("{}"), &json!({})));
    }

    #[tokio::test]
    async fn a_form_becomes_json() {
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        for (method, body, expected) in [
            ("POST", "a=1&a=2&b=x+y%26", r#"{"a":["1","2"],"b":["x y&"]}"#),
            ("POST", "flag", r#"{"flag":[""]}"#),
            ("POST", "", "{}"),
            ("GET", "a=1", "{}"),
        ] {
            let described = describe(method, &form, body.as_bytes()).await.unwrap();
            assert_eq!(described["body"], expected, "{body}");
        }
        let described = describe("POST", &form, b"a=1").await.unwrap();
        assert_eq!(described["headers"]["Content-Type"], json!(["application/json"]));
        for broken in ["a=%zz", "a=1;b=2", "%"] {
            let refused = describe("POST", &form, broken.as_bytes()).await.unwrap_err();
            assert_eq!(refused, Failure::Refused(Refusal::BrokenForm), "{broken}");
        }
    }

    #[tokio::test]
    async fn the_parts_of_a_multipart_body_become_values_and_files() {
        let kind = [("content-type", "multipart/form-data; boundary=b")];
        let body = "--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nv1\r\n\
                    --b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nv2\r\n\
                    --b\r\nContent-Disposition: form-data; name=\"up\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n\
                    --b--\r\n";
        let described = describe("POST", &kind, body.as_bytes()).await.unwrap();
        let parsed: Value = serde_json::from_str(described["body"].as_str().unwrap()).unwrap();
        assert_eq!(
            parsed,
            json!({
                "Value": {"f": ["v1", "v2"]},
                "File": {"up": [{
                    "Filename": "a.txt",
                    "Header": {
                        "Content-Disposition": ["form-data; name=\"up\"; filename=\"a.txt\""],
                        "Content-Type": ["text/plain"],
                    },
                    "Size": 5,
                }]},
            })
        );
        let part = "--b\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nv\r\n";
        let long =
            format!("--b\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\nv\r\n--b--\r\n", "n".repeat(5000));
        for broken in ["", "no parts", "--b\r\n", &format!("{}--b--\r\n", part.repeat(101)), &long] {
            let refused = describe("POST", &kind, broken.as_bytes()).await.unwrap_err();
            assert_eq!(refused, Failure::Refused(Refusal::BrokenMultipart), "{broken:.60}");
        }
        assert!(describe("POST", &kind, format!("{}--b--\r\n", part.repeat(100)).as_bytes()).await.is_ok());
        assert!(describe("POST", &[("content-type", "multipart/form-data")], body.as_bytes()).await.is_err());
    }
}

//! The description of the routes, for people and for programs (gateway.md 3): `/docs` and `/docs/openapi.json`.
//!
//! The document is written by hand; a test holds it against the table that serves the routes.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::Value;

use super::answer::{self, Answer};
use super::routes;

const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
/// The OpenAPI document.
const DOCUMENT: &str = include_str!("openapi.json");

/// `/docs/openapi.json`.
pub(super) fn document() -> Answer {
    answer::with_body(StatusCode::OK, answer::JSON, Bytes::from_static(DOCUMENT.as_bytes()))
}

/// `/docs`: each route with what it takes and the statuses that it answers. Nothing is loaded from elsewhere.
pub(super) fn page() -> Answer {
    static PAGE: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(render()));
    answer::with_body(StatusCode::OK, HTML, PAGE.clone())
}

fn render() -> String {
    // A test reads the document, so it is JSON.
    let document: Value = serde_json::from_str(DOCUMENT).unwrap_or_default();
    let row = |entry: &routes::Entry| {
        let method = entry.method.to_ascii_lowercase();
        let responses =
            document.pointer("/paths").and_then(|paths| paths.get(entry.path)?.get(method)?.get("responses"));
        let statuses: Vec<&str> = responses
            .and_then(Value::as_object)
            .map(|all| all.keys().map(String::as_str).collect())
            .unwrap_or_default();
        format!(
            "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>\n",
            entry.method,
            entry.path,
            entry.about,
            statuses.join(", ")
        )
    };
    let rows: String = routes::TABLE.iter().map(row).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Pintle</title></head><body>\n\
         <h1>Sending events to this node</h1>\n\
         <p>Send the write key of the source as the user name of HTTP Basic, with an empty password. Bodies are JSON, \
         optionally with <code>Content-Encoding: gzip</code>. An answer 200 <code>ok</code> means that every event of \
         the request is stored durably; 503 and 429 say with <code>Retry-After</code> when to send again.</p>\n\
         <p>For programs: <a href=\"/docs/openapi.json\">OpenAPI</a>.</p>\n\
         <table>\n<tr><th>Method</th><th>Path</th><th>What it takes</th><th>Answers</th></tr>\n{rows}</table>\n\
         </body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_document_has_every_route_of_the_tables_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys().filter(|name| *name != "parameters");
                methods.map(|method| (path.clone(), method.to_uppercase())).collect::<Vec<_>>()
            })
            .collect();
        let served: BTreeSet<(String, String)> = routes::TABLE
            .iter()
            .chain(routes::INTERNAL_TABLE)
            .map(|entry| (entry.path.to_owned(), entry.method.to_owned()))
            .collect();
        let missing: Vec<_> = served.difference(&described).collect();
        let invented: Vec<_> = described.difference(&served).collect();
        assert!(missing.is_empty() && invented.is_empty(), "missing {missing:?}, not served {invented:?}");
    }

    #[test]
    fn the_page_shows_every_public_route_with_its_statuses() {
        let page = render();
        for entry in routes::TABLE {
            assert!(page.contains(&format!("<code>{}</code>", entry.path)), "{}", entry.path);
        }
        assert!(page.contains("200, 400, 401"), "{page}");
        assert!(!page.contains("<td></td>"), "every route says what it answers");
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing is loaded from elsewhere");
    }
}

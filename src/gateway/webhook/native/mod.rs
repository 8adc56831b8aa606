//! Transformations of webhook sources that the node does itself (gateway.md 10.5).
//!
//! In: a described request whose body must be JSON. Out: events as a batch, an answer to the sender, or a text
//! that refuses the request. What a source sends is data: nothing here trusts its shape.
//!
//! Sources whose events are the body itself are rewritten as slices, so that numbers keep every digit; those that
//! are mapped field by field use a tree, which is bounded in depth.

mod close_crm;
mod customerio;
mod message;
mod pipedream;
mod revenuecat;
mod slack;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use uuid::Uuid;

use super::description::Description;
use super::{ToSource, Transformed};
use crate::clock::Clock;
use crate::event::json;
use crate::gateway::directory::SourceEntry;

/// What refuses a body that is no JSON.
const MALFORMED: &str = "Malformed JSON in request body";
/// What a node of a JSON tree takes in memory, about.
const NODE_BYTES: usize = 96;

/// A kind of source that the node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Native {
    CloseCrm,
    CustomerIo,
    MoEngage,
    Monday,
    Pipedream,
    RevenueCat,
    Segment,
    Slack,
    Webhook,
}

/// What a transformation came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// There are events, or an answer.
    Done(Transformed),
    /// The request is refused with this text and status 400.
    Failed(String),
    /// The node knows only some requests of the source, and not this one.
    Unknown,
}

impl Outcome {
    fn failed(text: &str) -> Outcome {
        Outcome::Failed(text.to_owned())
    }

    fn events(batch: Batch) -> Outcome {
        Outcome::Done(Transformed { output: Some(batch.finish()), to_source: None })
    }

    fn json_to_source(body: impl Into<Bytes>) -> Outcome {
        let to_source = ToSource { body: body.into(), content_type: "application/json".to_owned() };
        Outcome::Done(Transformed { output: None, to_source: Some(to_source) })
    }
}

impl Native {
    /// The kind with this name, in lower case. Where the node knows only the outline of a transformation, an
    /// external transformer that is there is asked instead.
    pub(super) fn of(kind: &str, has_transformer: bool) -> Option<Native> {
        match kind {
            "close_crm" => Some(Native::CloseCrm),
            "customerio" => Some(Native::CustomerIo),
            "moengage" => Some(Native::MoEngage),
            "monday" => Some(Native::Monday),
            "pipedream" => Some(Native::Pipedream),
            "revenuecat" if !has_transformer => Some(Native::RevenueCat),
            "segment" => Some(Native::Segment),
            "slack" => Some(Native::Slack),
            "webhook" => Some(Native::Webhook),
            _ => None,
        }
    }

    /// Whether the body is read into a tree.
    fn uses_tree(self) -> bool {
        matches!(self, Native::CloseCrm | Native::CustomerIo | Native::RevenueCat | Native::Slack)
    }

    /// Transforms a request.
    pub(super) fn transform(
        self,
        request: &Description,
        entry: &SourceEntry,
        clock: &Clock,
        max_depth: usize,
    ) -> Outcome {
        let body = request.body.trim_matches([' ', '\t', '\n', '\r']);
        if json::scan_event(body.as_bytes(), max_depth).is_err() {
            return Outcome::failed(MALFORMED);
        }
        if self.uses_tree() {
            let text = json::normalise(body.as_bytes()).unwrap_or_default();
            let Ok(tree) = serde_json::from_slice::<Value>(&text) else {
                return Outcome::failed(MALFORMED);
            };
            return match self {
                Native::CloseCrm => close_crm::transform(tree),
                Native::CustomerIo => customerio::transform(&tree),
                Native::RevenueCat => revenuecat::transform(tree),
                _ => slack::transform(tree, clock.now()),
            };
        }
        match self {
            Native::Segment => pass(body, max_depth),
            Native::MoEngage => pass(truthy(lookup(body, &["batch"], max_depth)).unwrap_or(body), max_depth),
            Native::Monday if truthy(lookup(body, &["challenge"], max_depth)).is_some() => {
                Outcome::json_to_source(body.to_owned())
            }
            Native::Monday => Outcome::Unknown,
            Native::Pipedream => pipedream::transform(body, max_depth),
            _ => webhook(body, request, entry),
        }
    }
}

/// Bytes that transforming this body takes, at most.
pub(super) fn memory(native: Native, body: &str) -> usize {
    let nodes = if native.uses_tree() {
        memchr::memchr3_iter(b',', b'[', b'{', body.as_bytes()).count().saturating_add(1)
    } else {
        0
    };
    nodes.saturating_mul(NODE_BYTES).saturating_add(2 * body.len())
}

/// A batch in the making.
struct Batch {
    text: Vec<u8>,
    is_empty: bool,
}

impl Batch {
    fn new(room: usize) -> Batch {
        let mut text = Vec::with_capacity(room + 256);
        text.extend_from_slice(b"{\"batch\":[");
        Batch { text, is_empty: true }
    }

    fn push(&mut self, event: &[u8]) {
        if !self.is_empty {
            self.text.push(b',');
        }
        self.is_empty = false;
        self.text.extend_from_slice(event);
    }

    /// Adds an event without its null members, and with a context. What is no object is left for the checks.
    fn push_clean(&mut self, event: &str, max_depth: usize) {
        let mut clean = vec![b'{'];
        let mut has_context = false;
        let members = json::members(event.as_bytes(), max_depth, |key, value| {
            if value != b"null" {
                has_context |= json::decode_string(key) == "context";
                push_member(&mut clean, key, value);
            }
        });
        if members.is_err() {
            return self.push(event.as_bytes());
        }
        if !has_context {
            push_member(&mut clean, b"context", b"{}");
        }
        clean.push(b'}');
        self.push(&clean);
    }

    fn finish(mut self) -> Bytes {
        self.text.extend_from_slice(b"]}");
        Bytes::from(self.text)
    }
}

/// Adds a member to an object that is being written; the key is given as it stands between its quotes.
fn push_member(object: &mut Vec<u8>, raw_key: &[u8], value: &[u8]) {
    if object.len() > 1 {
        object.push(b',');
    }
    object.push(b'"');
    object.extend_from_slice(raw_key);
    object.extend_from_slice(b"\":");
    object.extend_from_slice(value);
}

/// The body as the event, or its elements as the events.
fn pass(body: &str, max_depth: usize) -> Outcome {
    let mut batch = Batch::new(body.len());
    if body.starts_with('[') {
        let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(body) else {
            return Outcome::failed(MALFORMED);
        };
        for element in elements {
            batch.push_clean(element.get(), max_depth);
        }
    } else {
        batch.push_clean(body, max_depth);
    }
    Outcome::events(batch)
}

/// Any body as the properties of a track event.
fn webhook(body: &str, request: &Description, entry: &SourceEntry) -> Outcome {
    let wants_details = entry.source.config.get("putRequestDetailsInContext") == Some(&Value::Bool(true));
    let context = if wants_details { request.context() } else { json!({}) };
    let mut event = Vec::with_capacity(body.len() + 256);
    event.extend_from_slice(br#"{"type":"track","event":"webhook_source_event""#);
    if body != "null" {
        push_member(&mut event, b"properties", body.as_bytes());
    }
    push_member(&mut event, b"anonymousId", quoted(&Uuid::new_v4().to_string()).as_slice());
    push_member(&mut event, b"context", context.to_string().as_bytes());
    event.push(b'}');
    let mut batch = Batch::new(event.len());
    batch.push(&event);
    Outcome::events(batch)
}

/// The text as a JSON string.
fn quoted(text: &str) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    json::push_string(&mut quoted, text);
    quoted
}

/// The value at a path of objects, as it is written.
fn lookup<'t>(text: &'t str, path: &[&str], max_depth: usize) -> Option<&'t str> {
    let mut place = text;
    for name in path {
        let mut found = None;
        let object = json::members(place.as_bytes(), max_depth, |key, value| {
            if found.is_none() && json::decode_string(key) == *name {
                found = std::str::from_utf8(value).ok();
            }
        });
        object.ok()?;
        place = found?;
    }
    Some(place)
}

/// The value, unless it is one that JavaScript takes for false.
fn truthy(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !matches!(*value, "null" | "false" | "\"\"" | "0" | "-0" | "0.0"))
}

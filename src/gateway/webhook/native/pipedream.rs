//! Pipedream: events pass, anything else becomes the properties of one.

use uuid::Uuid;

use super::{Batch, Outcome, lookup, pass, push_member, quoted, truthy};
use crate::event::json::decode_string;

const TYPES: [&str; 6] = ["identify", "track", "page", "screen", "group", "alias"];

/// Where an id may be, in the order in which it is looked for.
const ID_PATHS: [&[&str]; 6] = [
    &["userId"],
    &["traits", "userId"],
    &["context", "traits", "userId"],
    &["traits", "id"],
    &["context", "traits", "id"],
    &["anonymousId"],
];

pub(super) fn transform(body: &str, max_depth: usize) -> Outcome {
    let at = |path: &[&str]| truthy(lookup(body, path, max_depth));
    let kind = at(&["type"]).and_then(|raw| raw.strip_prefix('"')?.strip_suffix('"'));
    let is_known = kind.is_some_and(|raw| TYPES.contains(&decode_string(raw.as_bytes()).to_lowercase().as_str()));
    if is_known && (at(&["userId"]).is_some() || at(&["anonymousId"]).is_some()) {
        return pass(body, max_depth);
    }
    let id = ID_PATHS.iter().find_map(|path| at(path)).map(|id| id.as_bytes().to_vec());
    let id = id.unwrap_or_else(|| quoted(&Uuid::new_v4().to_string()));
    let mut event = Vec::with_capacity(body.len() + 256);
    event.extend_from_slice(
        br#"{"context":{"library":{"name":"unknown","version":"unknown"},"integration":{"name":"PIPEDREAM"}}"#,
    );
    push_member(&mut event, b"integrations", br#"{"PIPEDREAM":false}"#);
    push_member(&mut event, b"type", b"\"track\"");
    push_member(&mut event, b"event", b"\"pipedream_source_event\"");
    if body != "null" {
        push_member(&mut event, b"properties", body.as_bytes());
    }
    push_member(&mut event, b"anonymousId", &id);
    event.push(b'}');
    let mut batch = Batch::new(event.len());
    batch.push(&event);
    Outcome::events(batch)
}

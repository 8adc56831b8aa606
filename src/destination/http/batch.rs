//! Requests of one destination joined into lists (router.md 13).
//!
//! In: what events became, in job order. Out: requests with the places of their events: first the joined ones,
//! then those that go alone, then the refused events. Each event is in exactly one.

use std::collections::HashMap;

use serde_json::Value;

use super::{Request, RequestBody};
use crate::destination::refusal::Refusal;
use crate::destination::routed::Routed;

/// What an event became.
pub(in crate::destination) enum Made {
    /// A request, and the run that the event belongs to; events of different runs do not meet in a request.
    Request(Box<Request>, String),
    /// A payload that goes as it is.
    Payload(Vec<u8>),
    /// Nothing.
    Refused(Refusal),
}

/// Joins what may be joined.
pub(in crate::destination) fn join(made: Vec<Made>) -> Vec<Routed> {
    let mut groups: Vec<Vec<(usize, Request)>> = Vec::new();
    let mut group_of: HashMap<String, usize> = HashMap::new();
    let mut alone = Vec::new();
    let mut refused = Vec::new();
    for (place, made) in made.into_iter().enumerate() {
        match made {
            Made::Request(request, run) if request.batch.is_some() => {
                let at = *group_of.entry(group_key(&request, &run)).or_insert(groups.len());
                if at == groups.len() {
                    groups.push(Vec::new());
                }
                if let Some(group) = groups.get_mut(at) {
                    group.push((place, *request));
                }
            }
            Made::Request(request, _) => alone.push(Routed::alone(place, Ok(request.payload()))),
            Made::Payload(payload) => alone.push(Routed::alone(place, Ok(payload))),
            Made::Refused(refusal) => refused.push(Routed::alone(place, Err(refusal))),
        }
    }
    let mut routed = Vec::new();
    for group in groups {
        let size = group.first().and_then(|(_, request)| request.batch).unwrap_or(1);
        for chunk in group.chunks(size) {
            routed.extend(joined(chunk));
        }
    }
    routed.extend(alone);
    routed.extend(refused);
    routed
}

/// What requests of one batch have in common.
fn group_key(request: &Request, run: &str) -> String {
    let parts = [
        Value::from(run),
        request.method.as_str().into(),
        request.endpoint.as_str().into(),
        Value::Object(request.headers.clone()),
        Value::Object(request.params.clone()),
        request.batch.into(),
    ];
    Value::from(parts.to_vec()).to_string()
}

fn joined(chunk: &[(usize, Request)]) -> Option<Routed> {
    let (_, first) = chunk.first()?;
    let mut list = String::from("[");
    for (_, request) in chunk {
        let element = match &request.body {
            RequestBody::Json(members) => Value::Object(members.clone()).to_string(),
            RequestBody::List(text) => text.clone(),
            RequestBody::Form(_) | RequestBody::Xml(_) | RequestBody::None => continue,
        };
        if list.len() > 1 {
            list.push(',');
        }
        list.push_str(&element);
    }
    list.push(']');
    let request = Request { body: RequestBody::List(list), ..first.clone() };
    let places = chunk.iter().map(|(place, _)| *place).collect();
    Some(Routed { places, payload: Ok(request.payload()), is_batch: true })
}

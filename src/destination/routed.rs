//! Events that the router transforms, several at a time (destinations.md 2.2).

use std::borrow::Cow;

use super::calls;
use super::http::batch::{self, Made};
use super::message::{Message, may_hold_key};
use super::plan::Plan;
use super::refusal::Refusal;
use serde_json::Value;

/// What one or more events of a batch became: a payload to deliver, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The places of its events in the batch.
    pub places: Vec<usize>,
    /// A delivery request.
    pub payload: Result<Vec<u8>, Refusal>,
    /// Whether events were joined.
    pub is_batch: bool,
}

impl Routed {
    pub(super) fn alone(place: usize, payload: Result<Vec<u8>, Refusal>) -> Routed {
        Routed { places: vec![place], payload, is_batch: false }
    }

    /// The same with places of another list, which `places` gives for each.
    pub fn placed(mut self, places: &[usize]) -> Routed {
        self.places = self.places.iter().filter_map(|place| places.get(*place).copied()).collect();
        self
    }
}

/// Types that the router transforms (destinations.md 2.3), of those that are native.
pub fn is_transformed_by_router(type_name: &str) -> bool {
    type_name == "HTTP" || calls::TYPES.contains(&type_name)
}

impl Plan {
    /// What the events of one destination become, each in exactly one place.
    pub fn route(&self, events: &[(Message<'_>, &dyn Fn() -> Value)]) -> Vec<Routed> {
        if let Some(routed) = self.calls_of(events) {
            return routed;
        }
        let made = events.iter().map(|(event, metadata)| self.make(event, *metadata)).collect();
        batch::join(made)
    }

    fn make(&self, event: &Message<'_>, metadata: &dyn Fn() -> Value) -> Made {
        match self.http_request(event, metadata) {
            Some(Ok(request)) => return Made::Request(Box::new(request), run_of(event)),
            Some(Err(refusal)) => return Made::Refused(refusal),
            None => {}
        }
        match self.transform(event, metadata) {
            Ok(outputs) => match outputs.into_iter().next() {
                Some(output) => Made::Payload(output.payload),
                None => Made::Refused(Refusal::instrumentation("the transformation gave nothing")),
            },
            Err(refusal) => Made::Refused(refusal),
        }
    }
}

/// `context.sources.job_id`, which keeps the events of different runs apart.
fn run_of(event: &Message<'_>) -> String {
    let may_have = event.get("context").is_some_and(|context| may_hold_key(context, "\"sources\""));
    let context = if may_have { event.object("context") } else { None };
    let sources = context.as_ref().and_then(|context| context.object("sources"));
    sources.as_ref().and_then(|sources| sources.text("job_id")).map(Cow::into_owned).unwrap_or_default()
}

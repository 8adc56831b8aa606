//! Tracking plans: what an event of a type and name must look like, and what becomes of one that does not
//! (processor.md 5).
//!
//! In: an event as a tree, after its time fields were set. Out: a [`Verdict`]: the violations, whether the event is
//! dropped, and whether its context tells the destinations. [`settings`] reads what a source asks for, [`rules`]
//! finds the schema of an event, [`schema`] compiles it once and checks, [`violation`] says what was found in the
//! words that users know, [`strictness`] says what the hosted validator would refuse.
//!
//! Promises: schemas are compiled once per plan version, when they are needed first; a plan that cannot be used
//! never stops an event; no schema is fetched from anywhere; the findings of one event are bounded.

mod formats;
mod plans;
mod rules;
mod schema;
mod settings;
mod strictness;
mod violation;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Value, json};

pub use plans::{Plans, SourcePlan};
pub use violation::{Violation, ViolationKind};

use crate::destination::{Message, push_json_string};

/// What came of the check of one event.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Where the event departs from the plan.
    pub violations: Vec<Violation>,
    /// The settings say that such an event goes no further.
    pub is_dropped: bool,
    /// Whether the event's context gets the three keys.
    pub is_annotated: bool,
    /// Why the event could not be checked; it passes.
    pub problem: Option<Arc<str>>,
}

impl Verdict {
    /// 200 for an event that goes on, 400 for one that is dropped.
    pub fn status(&self) -> u16 {
        if self.is_dropped { 400 } else { 200 }
    }

    /// The violations as events and dead letters carry them.
    pub fn violations_json(&self) -> String {
        Value::Array(self.violations.iter().map(Violation::to_json).collect()).to_string()
    }

    /// The violations grouped by type, as the text of an error.
    pub fn error_text(&self) -> String {
        let mut groups = serde_json::Map::new();
        for violation in &self.violations {
            let group = groups.entry(violation.kind.name()).or_insert_with(|| json!([]));
            if let Value::Array(group) = group {
                group.push(violation.to_error_json());
            }
        }
        Value::Object(groups).to_string()
    }
}

/// Writes what was found into the event's context, which is made where it is missing; a context that is no object
/// stays as it is.
pub fn annotate(event: &mut Message<'_>, plan_id: &str, version: i64, violations_json: String) {
    let mut context = match event.get_present("context") {
        None => Message::default(),
        Some(_) => match event.object("context") {
            Some(context) => context,
            None => return,
        },
    };
    let mut id = Vec::with_capacity(plan_id.len() + 2);
    push_json_string(&mut id, plan_id);
    context.set("trackingPlanId", String::from_utf8(id).unwrap_or_default());
    context.set("trackingPlanVersion", version.to_string());
    context.set("violationErrors", violations_json);
    let context = context.to_json();
    event.set("context", context);
}

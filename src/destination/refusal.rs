//! Why a transformation gave no output (destinations.md 6).

use serde_json::{Map, Value, json};

/// What is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The event: a field is missing or of a wrong type.
    Instrumentation,
    /// The destination's configuration.
    Configuration,
    /// The node: there is no transformation for this type.
    Unavailable,
}

/// An event that a destination does not take, with the status and text that users know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is at fault.
    pub kind: Kind,
    /// The text, without decoration.
    pub message: String,
    /// The step that refused, for the types whose published error texts name it.
    pub step: Option<&'static str>,
}

impl Refusal {
    /// The destination's configuration is at fault.
    pub fn configuration(message: &str) -> Refusal {
        Refusal { kind: Kind::Configuration, message: message.to_owned(), step: None }
    }

    /// The event is at fault.
    pub fn instrumentation(message: &str) -> Refusal {
        Refusal { kind: Kind::Instrumentation, message: message.to_owned(), step: None }
    }

    /// There is no transformation for this destination type (processor.md 9.5).
    pub fn unavailable(destination_type: &str) -> Refusal {
        Refusal {
            kind: Kind::Unavailable,
            message: format!("transformer for {destination_type} not available"),
            step: None,
        }
    }

    /// The same refusal with the step that made it.
    pub fn at_step(mut self, step: &'static str) -> Refusal {
        self.step = Some(step);
        self
    }

    /// The HTTP-like status.
    pub fn status(&self) -> u16 {
        match self.kind {
            Kind::Instrumentation | Kind::Configuration => 400,
            Kind::Unavailable => 404,
        }
    }

    /// The text as the processor's wire form shows it: with the step, where the type's texts name one.
    pub fn processor_text(&self) -> String {
        match self.step {
            Some(step) => format!(
                "{message}: Workflow: procWorkflow, Step: {step}, ChildStep: undefined, OriginalError: {message}",
                message = self.message
            ),
            None => self.message.clone(),
        }
    }

    /// `statTags` of the wire form, without those that depend on the destination.
    pub fn stat_tags(&self) -> Map<String, Value> {
        let tags = match self.kind {
            Kind::Instrumentation => json!({ "errorCategory": "dataValidation", "errorType": "instrumentation" }),
            Kind::Configuration => json!({ "errorCategory": "dataValidation", "errorType": "configuration" }),
            Kind::Unavailable => json!({ "errorCategory": "platform", "errorType": "unsupported" }),
        };
        match tags {
            Value::Object(tags) => tags,
            _ => Map::new(),
        }
    }
}

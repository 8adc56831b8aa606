//! Where events of a destination are transformed (processor.md 9.1).

use serde_json::Value;

use crate::backend_config::Destination;
use crate::settings::ProcessorSettings;

/// Where the transformation happens; job parameter `transform_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransformAt {
    /// Here.
    Processor,
    /// Nowhere: the event goes out as it is.
    None,
}

impl TransformAt {
    /// From the settings, else from the destination's definition.
    ///
    /// `router` counts as here: no type that the node transforms itself is transformed by the router, and a
    /// definition that asks for more than there is falls back to the processor.
    pub fn of(settings: &ProcessorSettings, destination: &Destination) -> TransformAt {
        let set = settings.transform_at(&destination.definition.name);
        let defined = destination.definition.config.get("transformAtV1").and_then(Value::as_str);
        TransformAt::named(set.as_deref().or(defined).unwrap_or("processor"))
    }

    /// From its name.
    pub fn named(name: &str) -> TransformAt {
        if name == "none" { TransformAt::None } else { TransformAt::Processor }
    }

    /// The job parameter.
    pub fn name(self) -> &'static str {
        match self {
            TransformAt::Processor => "processor",
            TransformAt::None => "none",
        }
    }
}

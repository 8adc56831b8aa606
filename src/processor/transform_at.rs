//! Where events of a destination are transformed (processor.md 9.1).

use serde_json::Value;

use crate::backend_config::Destination;
use crate::destination::is_transformed_by_router;
use crate::settings::ProcessorSettings;

/// Where the transformation happens; job parameter `transform_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransformAt {
    /// Here.
    Processor,
    /// By the router, several events at a time.
    Router,
    /// Nowhere: the event goes out as it is.
    None,
}

impl TransformAt {
    /// From the settings, else from the destination's definition, else what is usual for the type.
    ///
    /// `router` counts as here for types that the router does not transform.
    pub fn of(settings: &ProcessorSettings, destination: &Destination) -> TransformAt {
        let type_name = &destination.definition.name;
        let set = settings.transform_at(type_name);
        let defined = destination.definition.config.get("transformAtV1").and_then(Value::as_str);
        let by_router = is_transformed_by_router(type_name);
        let usual = if by_router { "router" } else { "processor" };
        match TransformAt::named(set.as_deref().or(defined).unwrap_or(usual)) {
            TransformAt::Router if !by_router => TransformAt::Processor,
            transform_at => transform_at,
        }
    }

    /// From its name.
    pub fn named(name: &str) -> TransformAt {
        match name {
            "none" => TransformAt::None,
            "router" => TransformAt::Router,
            _ => TransformAt::Processor,
        }
    }

    /// The job parameter.
    pub fn name(self) -> &'static str {
        match self {
            TransformAt::Processor => "processor",
            TransformAt::Router => "router",
            TransformAt::None => "none",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::DestinationDefinition;
    use crate::settings::Settings;

    #[test]
    fn the_router_transforms_only_what_it_can() {
        let settings = Settings::defaults().processor;
        let of = |name: &str, defined: Option<&str>| {
            let mut definition = DestinationDefinition { name: name.to_owned(), ..DestinationDefinition::default() };
            if let Some(defined) = defined {
                definition.config.insert("transformAtV1".to_owned(), defined.into());
            }
            TransformAt::of(&settings, &Destination { definition, ..Destination::default() }).name()
        };
        for (name, defined, expected) in [
            ("HTTP", Some("router"), "router"),
            ("HTTP", None, "router"),
            ("HTTP", Some("processor"), "processor"),
            ("HTTP", Some("none"), "none"),
            ("WEBHOOK", Some("router"), "processor"),
            ("WEBHOOK", None, "processor"),
            ("GA4", Some("router"), "processor"),
        ] {
            assert_eq!(of(name, defined), expected, "{name} {defined:?}");
        }
    }
}

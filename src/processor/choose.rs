//! Choosing destinations: the static rules, the `integrations` object, consent (processor.md 6).

use std::sync::Arc;

use super::consent::{DestinationConsent, EventConsent};
use crate::backend_config::{Destination, Source};
use crate::destination::Message;

/// A destination that may get events of a source, with what the choice needs read once.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The destination.
    pub destination: Arc<Destination>,
    consent: DestinationConsent,
}

/// The destinations that the static rules leave, in the order of the configuration.
pub fn candidates(source: &Source) -> Vec<Candidate> {
    if !source.enabled {
        return Vec::new();
    }
    let eligible =
        source.destinations.iter().filter(|destination| destination.enabled && destination.is_processor_enabled);
    eligible
        .map(|destination| Candidate {
            destination: Arc::clone(destination),
            consent: DestinationConsent::of(&destination.config),
        })
        .collect()
}

/// What one event says about its destinations.
#[derive(Clone, Debug)]
pub struct Wishes {
    integrations: Integrations,
    consent: Option<EventConsent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Integrations {
    All,
    Nothing,
    /// Display names with their verdict, and the verdict for the others.
    Named(Vec<(String, bool)>, bool),
}

impl Wishes {
    /// Reads `integrations` and, from the event's `context`, `consentManagement`.
    pub fn of(event: &Message<'_>, context: Option<&Message<'_>>) -> Wishes {
        Wishes { integrations: Integrations::of(event), consent: context.and_then(EventConsent::of) }
    }

    /// Whether the event may go to the candidate. `only` is the destination that the job is pinned to.
    pub fn allow(&self, candidate: &Candidate, only: Option<&str>) -> bool {
        let destination = &candidate.destination;
        only.is_none_or(|id| destination.id == id)
            && self.integrations.allow(&destination.definition.display_name)
            && self.consent.as_ref().is_none_or(|consent| candidate.consent.keeps(consent))
    }
}

impl Integrations {
    fn of(event: &Message<'_>) -> Integrations {
        if event.get("integrations").is_none() {
            return Integrations::All;
        }
        let Some(integrations) = event.object("integrations") else {
            return Integrations::Nothing;
        };
        let others = match integrations.get("All") {
            None | Some("true") => true,
            Some("false") => false,
            Some(_) => return Integrations::Nothing,
        };
        let mut named = Vec::new();
        for (name, json) in integrations.members().filter(|(name, _)| *name != "All") {
            let verdict = match json {
                "true" => true,
                "false" => false,
                object if object.starts_with('{') => true,
                // Values of other types say nothing.
                _ => continue,
            };
            named.push((name.to_owned(), verdict));
        }
        if named.is_empty() && others { Integrations::All } else { Integrations::Named(named, others) }
    }

    fn allow(&self, display_name: &str) -> bool {
        match self {
            Integrations::All => true,
            Integrations::Nothing => false,
            Integrations::Named(named, others) => {
                named.iter().find(|(name, _)| name == display_name).map_or(*others, |(_, verdict)| *verdict)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::DestinationDefinition;

    fn destination(id: &str, display_name: &str) -> Destination {
        Destination {
            id: id.to_owned(),
            enabled: true,
            is_processor_enabled: true,
            definition: DestinationDefinition {
                display_name: display_name.to_owned(),
                ..DestinationDefinition::default()
            },
            ..Destination::default()
        }
    }

    fn chosen(source: &Source, event: &str, only: Option<&str>) -> Vec<String> {
        let event = Message::parse(event).unwrap();
        let wishes = Wishes::of(&event, None);
        let candidates = candidates(source);
        candidates.iter().filter(|c| wishes.allow(c, only)).map(|c| c.destination.id.clone()).collect()
    }

    #[test]
    fn the_integrations_object_decides_by_display_name() {
        let source = Source {
            enabled: true,
            destinations: vec![Arc::new(destination("w", "Webhook")), Arc::new(destination("s", "Amazon S3"))],
            ..Source::default()
        };
        let table: [(&str, &[&str]); 13] = [
            ("{}", &["w", "s"]),
            (r#"{"integrations":{}}"#, &["w", "s"]),
            (r#"{"integrations":{"All":false}}"#, &[]),
            (r#"{"integrations":{"All":false,"Amazon S3":true}}"#, &["s"]),
            (r#"{"integrations":{"Webhook":false}}"#, &["s"]),
            (r#"{"integrations":{"All":false,"Webhook":{}}}"#, &["w"]),
            (r#"{"integrations":{"All":false,"Webhook":"true"}}"#, &[]),
            (r#"{"integrations":{"All":true,"Webhook":null}}"#, &["w", "s"]),
            (r#"{"integrations":null}"#, &[]),
            (r#"{"integrations":["Webhook"]}"#, &[]),
            (r#"{"integrations":{"All":"false","Webhook":true}}"#, &[]),
            (r#"{"integrations":{"All":0}}"#, &[]),
            (r#"{"integrations":{"All":false,"webhook":true,"WEBHOOK":true}}"#, &[]),
        ];
        for (event, expected) in table {
            assert_eq!(chosen(&source, event, None), expected, "{event}");
        }
        assert_eq!(chosen(&source, "{}", Some("s")), ["s"]);
        assert!(chosen(&source, "{}", Some("x")).is_empty());
    }

    #[test]
    fn what_is_off_gets_nothing() {
        let on = Arc::new(destination("on", "A"));
        let off = Arc::new(Destination { enabled: false, ..destination("off", "B") });
        let device = Arc::new(Destination { is_processor_enabled: false, ..destination("device", "C") });
        let mut source = Source { enabled: true, destinations: vec![off, device, on], ..Source::default() };
        assert_eq!(chosen(&source, "{}", None), ["on"]);
        source.enabled = false;
        assert!(chosen(&source, "{}", None).is_empty());
    }
}

//! Consent: a destination whose purposes the user denied gets nothing (processor.md 6.3).
//!
//! Only denied ids count. Without any, nothing is filtered.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::destination::Message;

/// What an event says about consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventConsent {
    provider: String,
    strategy: String,
    denied: Vec<String>,
}

impl EventConsent {
    /// From `context.consentManagement`; `None` when nothing is denied or the object is not as it should be.
    pub fn of(context: &Message<'_>) -> Option<EventConsent> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Written {
            #[serde(default)]
            provider: Option<String>,
            #[serde(default)]
            resolution_strategy: Option<String>,
            #[serde(default)]
            denied_consent_ids: Option<Vec<Option<String>>>,
        }
        let json = context.get("consentManagement").filter(|json| json.starts_with('{'))?;
        let written: Written = serde_json::from_str(json).ok()?;
        let denied: Vec<String> =
            written.denied_consent_ids?.into_iter().flatten().filter(|id| !id.is_empty()).collect();
        if denied.is_empty() {
            return None;
        }
        Some(EventConsent {
            provider: written.provider.unwrap_or_default(),
            strategy: written.resolution_strategy.unwrap_or_default(),
            denied,
        })
    }

    fn denies(&self, consent: &String) -> bool {
        self.denied.contains(consent)
    }
}

/// What a destination needs consent for, read from its config once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationConsent {
    generic: Vec<Generic>,
    one_trust: Vec<String>,
    ketch: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Generic {
    provider: String,
    strategy: String,
    consents: Vec<String>,
}

impl DestinationConsent {
    /// From a destination's `config`.
    pub fn of(config: &Map<String, Value>) -> DestinationConsent {
        let generic = match config.get("consentManagement") {
            Some(entries) => generic_entries(entries).unwrap_or_default(),
            None => Vec::new(),
        };
        DestinationConsent {
            generic,
            one_trust: named(config, "oneTrustCookieCategories", "oneTrustCookieCategory"),
            ketch: named(config, "ketchConsentPurposes", "purpose"),
        }
    }

    /// Whether the event may go to the destination.
    pub fn keeps(&self, event: &EventConsent) -> bool {
        if let Some(generic) = self.generic.iter().find(|entry| entry.provider == event.provider) {
            let strategy = if event.provider == "custom" { &generic.strategy } else { &event.strategy };
            return if strategy == "or" {
                !generic.consents.iter().all(|consent| event.denies(consent))
            } else {
                !generic.consents.iter().any(|consent| event.denies(consent))
            };
        }
        if matches!(event.provider.as_str(), "" | "oneTrust") && !self.one_trust.is_empty() {
            return !self.one_trust.iter().any(|category| event.denies(category));
        }
        if matches!(event.provider.as_str(), "" | "ketch") && !self.ketch.is_empty() {
            return !self.ketch.iter().all(|purpose| event.denies(purpose));
        }
        true
    }
}

/// The usable entries; `None` when the value is no list of entries at all. A later entry of one provider
/// replaces an earlier one.
fn generic_entries(value: &Value) -> Option<Vec<Generic>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        #[serde(default)]
        provider: Option<String>,
        #[serde(default)]
        resolution_strategy: Option<String>,
        #[serde(default)]
        consents: Option<Vec<Consent>>,
    }
    #[derive(Deserialize)]
    struct Consent {
        #[serde(default)]
        consent: Option<String>,
    }
    let entries: Vec<Entry> = Vec::deserialize(value).ok()?;
    let mut usable: Vec<Generic> = Vec::new();
    for entry in entries {
        let provider = entry.provider.unwrap_or_default();
        let consents: Vec<String> = entry
            .consents
            .unwrap_or_default()
            .into_iter()
            .filter_map(|consent| consent.consent)
            .filter(|consent| !consent.is_empty())
            .collect();
        if provider.is_empty() || consents.is_empty() {
            continue;
        }
        usable.retain(|known| known.provider != provider);
        usable.push(Generic { provider, strategy: entry.resolution_strategy.unwrap_or_default(), consents });
    }
    Some(usable)
}

fn named(config: &Map<String, Value>, list: &str, name: &str) -> Vec<String> {
    let entries = config.get(list).and_then(Value::as_array).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.get(name).and_then(Value::as_str));
    names.filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keeps(config: &Value, consent: &Value) -> bool {
        let context = json!({ "consentManagement": consent }).to_string();
        let event = EventConsent::of(&Message::parse(&context).unwrap());
        let destination = DestinationConsent::of(config.as_object().unwrap());
        event.is_none_or(|event| destination.keeps(&event))
    }

    #[test]
    fn the_truth_table_of_two_consents() {
        let generic = |strategy: &str| json!({ "consentManagement": [{ "provider": "custom", "resolutionStrategy": strategy, "consents": [{ "consent": "a" }, { "consent": "b" }] }] });
        let one_trust = json!({ "oneTrustCookieCategories": [{ "oneTrustCookieCategory": "a" }, { "oneTrustCookieCategory": "b" }] });
        let ketch = json!({ "ketchConsentPurposes": [{ "purpose": "a" }, { "purpose": "b" }] });
        for (denied, by_and, by_or) in [
            (json!([]), true, true),
            (json!(["a"]), false, true),
            (json!(["b", "c"]), false, true),
            (json!(["a", "b"]), false, false),
            (json!(["c"]), true, true),
        ] {
            let custom = json!({ "provider": "custom", "deniedConsentIds": denied });
            let unnamed = json!({ "deniedConsentIds": denied });
            assert_eq!(keeps(&generic("and"), &custom), by_and, "and {denied}");
            assert_eq!(keeps(&generic("or"), &custom), by_or, "or {denied}");
            assert_eq!(keeps(&one_trust, &unnamed), by_and, "OneTrust {denied}");
            assert_eq!(keeps(&ketch, &unnamed), by_or, "Ketch {denied}");
        }
    }

    #[test]
    fn only_custom_takes_the_strategy_of_the_destination() {
        let config = json!({ "consentManagement": [{ "provider": "iubenda", "resolutionStrategy": "or", "consents": [{ "consent": "a" }, { "consent": "b" }] }] });
        assert!(!keeps(
            &config,
            &json!({ "provider": "iubenda", "resolutionStrategy": "and", "deniedConsentIds": ["a"] })
        ));
        assert!(keeps(
            &config,
            &json!({ "provider": "iubenda", "resolutionStrategy": "or", "deniedConsentIds": ["a"] })
        ));
    }

    #[test]
    fn malformed_consent_data_counts_as_none() {
        let config = json!({ "oneTrustCookieCategories": [{ "oneTrustCookieCategory": "a" }] });
        for consent in [
            json!("a"),
            json!(null),
            json!({ "deniedConsentIds": "a" }),
            json!({ "provider": 5, "deniedConsentIds": ["a"] }),
            json!({ "deniedConsentIds": [""] }),
        ] {
            assert!(keeps(&config, &consent), "{consent}");
        }
        for entries in [json!("x"), json!([5]), json!([{ "provider": "custom", "consents": "a" }])] {
            let config = json!({ "consentManagement": entries });
            assert!(keeps(&config, &json!({ "provider": "custom", "deniedConsentIds": ["a"] })), "{entries}");
        }
    }
}

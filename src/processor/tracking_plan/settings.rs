//! What a source asks of its plan, by event type (processor.md 5.1).

use serde_json::{Map, Value};

use super::violation::{Violation, ViolationKind};

/// Settings of one event type: the merged ones decide, the source's own hold options of the validator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TypeSettings {
    /// Neither of the two maps is empty.
    pub(super) is_checked: bool,
    drops_unplanned_events: bool,
    drops_unplanned_properties: bool,
    drops_other_violations: bool,
    /// Whether the events tell what was found.
    pub(super) is_annotated: bool,
    pub(super) options: ValidatorOptions,
}

/// Options of the validator that have a meaning here; the others of `ajvOptions` are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValidatorOptions {
    /// All findings of an event, not only the first.
    pub(super) all_errors: bool,
    /// Whether `format` is checked.
    pub(super) formats: bool,
}

impl Default for ValidatorOptions {
    fn default() -> ValidatorOptions {
        ValidatorOptions { all_errors: true, formats: true }
    }
}

impl TypeSettings {
    /// From the source's settings (by `global` or event type) and its merged settings, when it has some.
    pub(super) fn of(config: &Map<String, Value>, merged: Option<&Map<String, Value>>, event_type: &str) -> Self {
        let section = |name: &str| config.get(name).and_then(Value::as_object);
        let overlaid;
        let merged = match merged {
            Some(merged) => merged,
            None => {
                let mut settings = section("global").cloned().unwrap_or_default();
                settings.extend(section(event_type).cloned().unwrap_or_default());
                overlaid = settings;
                &overlaid
            }
        };
        let is = |key: &str, wanted: &str| {
            merged.get(key).and_then(text_of).is_some_and(|value| value.eq_ignore_ascii_case(wanted))
        };
        let mut options = ValidatorOptions::default();
        for section in ["global", event_type].into_iter().filter_map(section) {
            let Some(given) = section.get("ajvOptions").and_then(Value::as_object) else { continue };
            let flag = |key: &str, otherwise: bool| given.get(key).and_then(Value::as_bool).unwrap_or(otherwise);
            options = ValidatorOptions {
                all_errors: flag("allErrors", options.all_errors),
                formats: flag("validateFormats", options.formats),
            };
        }
        TypeSettings {
            is_checked: !config.is_empty() && !merged.is_empty(),
            drops_unplanned_events: is("allowUnplannedEvents", "false"),
            drops_unplanned_properties: is("unplannedProperties", "drop"),
            drops_other_violations: is("anyOtherViolation", "drop"),
            is_annotated: merged.get("propagateValidationErrors").and_then(Value::as_str) != Some("false"),
            options,
        }
    }

    /// Whether an event with these violations goes no further.
    pub(super) fn drops(&self, violations: &[Violation]) -> bool {
        violations.iter().any(|violation| match violation.kind {
            ViolationKind::UnplannedEvent => self.drops_unplanned_events,
            ViolationKind::AdditionalProperties => self.drops_unplanned_properties,
            ViolationKind::Unknown
            | ViolationKind::DatatypeMismatch
            | ViolationKind::RequiredMissing
            | ViolationKind::AdvanceRules => self.drops_other_violations,
        })
    }
}

/// Settings are texts; older ones are written as booleans.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(config: Value, merged: Option<Value>, event_type: &str) -> TypeSettings {
        let merged = merged.map(|merged| merged.as_object().cloned().unwrap());
        TypeSettings::of(config.as_object().unwrap(), merged.as_ref(), event_type)
    }

    #[test]
    fn settings_of_a_type_lie_over_the_global_ones_unless_merged_ones_are_given() {
        let config = json!({"global": {"unplannedProperties": "drop", "allowUnplannedEvents": "FALSE"},
            "track": {"unplannedProperties": "forward"}});
        let of_track = settings(config.clone(), None, "track");
        assert!(of_track.is_checked && of_track.drops_unplanned_events && !of_track.drops_unplanned_properties);
        assert!(settings(config.clone(), None, "page").drops_unplanned_properties);
        let merged = settings(config.clone(), Some(json!({"anyOtherViolation": "Drop"})), "track");
        assert!(merged.drops_other_violations && !merged.drops_unplanned_events);
        assert!(!settings(config, Some(json!({})), "track").is_checked);
        assert!(!settings(json!({}), Some(json!({"anyOtherViolation": "drop"})), "track").is_checked);
    }

    #[test]
    fn only_the_exact_text_false_keeps_the_findings_out_of_events() {
        for (value, is_annotated) in [(json!("false"), false), (json!("FALSE"), true), (json!(false), true)] {
            let config = json!({"global": {"propagateValidationErrors": value}});
            assert_eq!(settings(config, None, "track").is_annotated, is_annotated, "{value}");
        }
    }

    #[test]
    fn options_of_the_validator_are_read_from_the_source_and_its_type() {
        let config = json!({"global": {"ajvOptions": {"allErrors": false, "validateFormats": false}},
            "page": {"ajvOptions": {"validateFormats": true}}});
        let of = |event_type| settings(config.clone(), None, event_type).options;
        assert_eq!(of("track"), ValidatorOptions { all_errors: false, formats: false });
        assert_eq!(of("page"), ValidatorOptions { all_errors: false, formats: true });
    }
}

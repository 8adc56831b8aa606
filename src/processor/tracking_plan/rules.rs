//! The schema that a plan has for an event, in either form of a plan (processor.md 5.3).

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Types whose events are checked; events of other types are always as planned.
pub(super) const CHECKED_TYPES: [&str; 5] = ["track", "identify", "page", "screen", "group"];

/// Schemas by event type and name; the name is empty for types other than `track`.
pub(super) type Schemas<T> = HashMap<(&'static str, String), T>;

/// Takes the schemas out of a plan. Of several for one event the first counts.
pub(super) fn schemas(plan: &Map<String, Value>) -> Schemas<Value> {
    let mut schemas = Schemas::new();
    let mut add = |event_type: &str, name: &str, schema: Option<&Value>| {
        let known = CHECKED_TYPES.iter().find(|known| **known == event_type);
        let name = if event_type == "track" { name } else { "" };
        if let (Some(event_type), Some(schema)) = (known, schema.filter(|schema| !schema.is_null())) {
            schemas.entry((*event_type, name.to_owned())).or_insert_with(|| schema.clone());
        }
    };
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(events) = plan.get("events") {
        for entry in events.as_array().into_iter().flatten() {
            let (event_type, name) = (text(entry, "eventType"), text(entry, "name"));
            if event_type == "track" || name.is_empty() {
                add(&event_type, &name, entry.get("rules"));
            }
        }
        return schemas;
    }
    let rules = plan.get("rules");
    let events = rules.and_then(|rules| rules.get("events")).and_then(Value::as_array);
    for entry in events.into_iter().flatten() {
        if let Some(name) = entry.get("name").and_then(Value::as_str) {
            add("track", name, entry.get("rules"));
        }
    }
    for event_type in CHECKED_TYPES.iter().filter(|event_type| **event_type != "track") {
        add(event_type, "", rules.and_then(|rules| rules.get(event_type)));
    }
    schemas
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(plan: &Value) -> Vec<(String, i64)> {
        let schemas = schemas(plan.as_object().unwrap());
        let mut found: Vec<_> = schemas
            .into_iter()
            .map(|((event_type, name), schema)| (format!("{event_type} {name}"), schema["n"].as_i64().unwrap()))
            .collect();
        found.sort();
        found
    }

    fn expected(list: &[(&str, i64)]) -> Vec<(String, i64)> {
        list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    #[test]
    fn both_forms_of_a_plan_are_read() {
        let old = json!({"rules": {
            "events": [{"name": "A", "rules": {"n": 1}}, {"name": "A", "rules": {"n": 2}}, {"name": "B"}],
            "identify": {"n": 3}, "alias": {"n": 4}, "page": null,
        }});
        assert_eq!(found(&old), expected(&[("identify ", 3), ("track A", 1)]));
        let new = json!({"rules": {"identify": {"n": 9}}, "events": [
            {"name": "A", "eventType": "track", "rules": {"n": 1}},
            {"name": "", "eventType": "page", "rules": {"n": 2}},
            {"name": "named", "eventType": "screen", "rules": {"n": 3}},
        ]});
        assert_eq!(found(&new), expected(&[("page ", 2), ("track A", 1)]));
        assert_eq!(found(&json!({"events": []})), []);
        assert_eq!(found(&json!({"rules": 5})), []);
    }
}

use super::*;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn plan(rules: Value) -> SourcePlan {
    let document = json!({"events": [{"name": "E", "eventType": "track", "rules": rules}]});
    let config = map(json!({"global": {"anyOtherViolation": "drop"}}));
    SourcePlan::new("tp_1", 3, &config, None).with_version(&Plans::default(), 3, 1, &map(document))
}

/// Type, message and place in the schema of what one event violates.
fn found(rules: Value, properties: Value) -> Vec<String> {
    let event = json!({"type": "track", "event": "E", "p": properties});
    let rules = json!({"properties": {"p": rules}});
    let verdict = plan(rules).check(&event, 3);
    assert_eq!(verdict.problem, None);
    let mut found: Vec<String> =
        verdict.violations.iter().map(|v| format!("{}: {}", v.kind.name(), v.message)).collect();
    found.sort();
    found
}

#[test]
fn every_keyword_has_its_type_and_its_words() {
    let twice = "must NOT have duplicate items (items ## ";
    let table: Vec<(Value, Value, Vec<String>)> = [
        (json!({"type": "integer"}), json!(1.5), vec!["Datatype-Mismatch: must be integer"]),
        (json!({"type": ["null", "string"]}), json!(1), vec!["Datatype-Mismatch: must be null,string"]),
        (json!({"minimum": 5.0}), json!(1), vec!["Advance-Rules-Violation: must be >= 5"]),
        (json!({"maximum": 5}), json!(6), vec!["Advance-Rules-Violation: must be <= 5"]),
        (json!({"exclusiveMinimum": 5}), json!(5), vec!["Advance-Rules-Violation: must be > 5"]),
        (json!({"exclusiveMaximum": 5.5}), json!(6), vec!["Advance-Rules-Violation: must be < 5.5"]),
        (json!({"multipleOf": 5}), json!(6), vec!["Advance-Rules-Violation: must be multiple of 5"]),
        (json!({"minLength": 3}), json!("ab"), vec!["Advance-Rules-Violation: must NOT have fewer than 3 characters"]),
        (json!({"maxLength": 3}), json!("äöüx"), vec!["Advance-Rules-Violation: must NOT have more than 3 characters"]),
        (json!({"minItems": 1}), json!([]), vec!["Advance-Rules-Violation: must NOT have fewer than 1 items"]),
        (json!({"maxItems": 1}), json!([1, 2]), vec!["Advance-Rules-Violation: must NOT have more than 1 items"]),
        (json!({"format": "date"}), json!("2023-02-29"), vec!["Advance-Rules-Violation: must match format \"date\""]),
        (json!({"enum": [1]}), json!(2), vec!["Advance-Rules-Violation: must be equal to one of the allowed values"]),
        (json!({"const": 1}), json!(2), vec!["Unknown-Violation: must be equal to constant"]),
        (json!({"not": {"type": "string"}}), json!("x"), vec!["Unknown-Violation: must NOT be valid"]),
        (json!({"minProperties": 1}), json!({}), vec!["Unknown-Violation: must NOT have fewer than 1 properties"]),
        (
            json!({"required": ["a", "b"]}),
            json!({}),
            vec![
                "Required-Missing: must have required property 'a'",
                "Required-Missing: must have required property 'b'",
            ],
        ),
        (
            json!({"properties": {"a": {}}, "additionalProperties": false}),
            json!({"a": 1, "b": 2, "c": 3}),
            vec![
                "Additional-Properties: must NOT have additional properties 'b'",
                "Additional-Properties: must NOT have additional properties 'c'",
            ],
        ),
        (
            json!({"additionalProperties": false}),
            json!({"b": 2, "c": 3}),
            vec![
                "Additional-Properties: must NOT have additional properties 'b'",
                "Additional-Properties: must NOT have additional properties 'c'",
            ],
        ),
        (
            json!({"properties": {"additionalProperties": false}}),
            json!({"additionalProperties": {"x": 1}}),
            vec!["Unknown-Violation: boolean schema is false"],
        ),
        (
            json!({"properties": {"a": {}}, "unevaluatedProperties": false}),
            json!({"b": 2}),
            vec!["Additional-Properties: must NOT have unevaluated properties 'b'"],
        ),
        (
            json!({"dependentRequired": {"a": ["b"]}}),
            json!({"a": 1}),
            vec!["Unknown-Violation: must have property b when property a is present"],
        ),
        (
            json!({"dependencies": {"a": ["b", "c"]}}),
            json!({"a": 1, "c": 1}),
            vec!["Unknown-Violation: must have properties b, c when property a is present"],
        ),
        (
            json!({"propertyNames": {"maxLength": 1}}),
            json!({"ab": 1, "c": 2}),
            vec![
                "Advance-Rules-Violation: must NOT have more than 1 characters",
                "Unknown-Violation: property name must be valid",
            ],
        ),
        (json!({"properties": {"a": false}}), json!({"a": 1}), vec!["Unknown-Violation: boolean schema is false"]),
        (
            json!({"items": [{"type": "string"}], "additionalItems": false}),
            json!(["a", 1]),
            vec!["Unknown-Violation: must NOT have more than 1 items"],
        ),
    ]
    .into_iter()
    .map(|(rules, value, list)| (rules, value, list.into_iter().map(str::to_owned).collect()))
    .chain([
        (
            json!({"uniqueItems": true}),
            json!([{"a": 1}, 2, {"a": 1}]),
            vec![format!("Advance-Rules-Violation: {twice}0 and 2 are identical)")],
        ),
        (
            json!({"uniqueItems": true, "items": {"type": "number"}}),
            json!([7, 7, 1]),
            vec![format!("Advance-Rules-Violation: {twice}1 and 0 are identical)")],
        ),
    ])
    .collect();
    for (rules, value, expected) in table {
        assert_eq!(found(rules.clone(), value.clone()), expected, "{rules} {value}");
    }
}

#[test]
fn composite_keywords_tell_what_is_inside_of_them() {
    let string = json!({"type": "string"});
    let nothing = json!({"type": "null"});
    let table = [
        (json!({"allOf": [string]}), json!(1), vec!["Datatype-Mismatch: must be string"]),
        (
            json!({"anyOf": [string, nothing]}),
            json!(1),
            vec![
                "Datatype-Mismatch: must be null",
                "Datatype-Mismatch: must be string",
                "Unknown-Violation: must match a schema in anyOf",
            ],
        ),
        (
            json!({"oneOf": [string, {"maxLength": 1}]}),
            json!("a"),
            vec!["Unknown-Violation: must match exactly one schema in oneOf"],
        ),
        (
            json!({"oneOf": [string, {"minimum": 3}]}),
            json!(1),
            vec![
                "Advance-Rules-Violation: must be >= 3",
                "Datatype-Mismatch: must be string",
                "Unknown-Violation: must match exactly one schema in oneOf",
            ],
        ),
        (
            json!({"contains": {"const": 1}}),
            json!([2, 3]),
            vec![
                "Unknown-Violation: must be equal to constant",
                "Unknown-Violation: must be equal to constant",
                "Unknown-Violation: must contain at least 1 valid item(s)",
            ],
        ),
        (
            json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c", "d"]}}),
            json!({}),
            vec![
                "Advance-Rules-Violation: must match \"else\" schema",
                "Required-Missing: must have required property 'c'",
                "Required-Missing: must have required property 'd'",
            ],
        ),
        (
            json!({"items": {"if": {"type": "number"}, "then": {"minimum": 5}}}),
            json!([1, 2, 9]),
            vec![
                "Advance-Rules-Violation: must be >= 5",
                "Advance-Rules-Violation: must be >= 5",
                "Advance-Rules-Violation: must match \"then\" schema",
                "Advance-Rules-Violation: must match \"then\" schema",
            ],
        ),
    ];
    for (rules, value, expected) in table {
        assert_eq!(found(rules.clone(), value), expected, "{rules}");
    }
    let rules = json!({"properties": {"p": {"$ref": "#/definitions/s"}}, "definitions": {"s": {"then": true, "type": "string"}}});
    let verdict = plan(rules).check(&json!({"type": "track", "event": "E", "p": 1}), 3);
    assert_eq!(
        verdict.violations_json(),
        r##"[{"type":"Datatype-Mismatch","message":"must be string","meta":{"instancePath":"/p","schemaPath":"#/definitions/s/type"},"property":""}]"##
    );
}

#[test]
fn a_schema_of_draft_4_keeps_its_rules() {
    let rules = json!({"$schema": "http://json-schema.org/draft-04/schema#", "version": 5,
        "properties": {"p": {"minimum": 5, "exclusiveMinimum": true}}});
    let verdict = plan(rules).check(&json!({"type": "track", "event": "E", "p": 5}), 3);
    assert_eq!(verdict.violations.iter().map(|v| v.message.as_str()).collect::<Vec<_>>(), ["must be > 5"]);
}

#[test]
fn violations_are_told_with_their_places() {
    let rules =
        json!({"properties": {"p": {"additionalProperties": false, "required": ["q"], "properties": {"q": {}}}}});
    let verdict = plan(rules).check(&json!({"type": "track", "event": "E", "p": {"x": 1}}), 3);
    assert_eq!(verdict.status(), 400);
    let groups: Value = serde_json::from_str(&verdict.error_text()).unwrap();
    assert_eq!(
        groups,
        json!({
            "Additional-Properties": [{"property": "x", "message": "must NOT have additional properties 'x'",
                "schemaPath": "#/properties/p/additionalProperties"}],
            "Required-Missing": [{"property": "q", "message": "must have required property 'q'",
                "schemaPath": "#/properties/p/required"}],
        })
    );
    let unplanned = plan(json!({})).check(&json!({"type": "track", "event": "F"}), 3);
    assert_eq!(
        unplanned.violations_json(),
        r#"[{"type":"Unplanned-Event","message":"no schema for event: F","meta":{},"property":""}]"#
    );
    assert_eq!(Verdict::default().error_text(), "{}");
}

#[test]
fn a_plan_that_cannot_be_used_lets_events_pass() {
    let event = json!({"type": "track", "event": "E"});
    for (rules, version) in [
        (json!({"type": 5}), 3),
        (json!({"$ref": "https://plans.example/other.json"}), 3),
        (json!({"properties": {"p": {"pattern": "("}}}), 3),
        (json!({"required": ["x"]}), 4),
    ] {
        let verdict = plan(rules.clone()).check(&event, version);
        assert!(
            verdict.problem.is_some_and(|problem| problem.starts_with("Error occurred while validating: ")),
            "{rules}"
        );
        assert!(!verdict.is_dropped && verdict.is_annotated && verdict.violations.is_empty());
    }
}

#[test]
fn one_event_has_a_bounded_number_of_violations() {
    let properties: Map<String, Value> = (0..20_000).map(|n| (format!("k{n}"), json!(1))).collect();
    assert_eq!(found(json!({"additionalProperties": false}), Value::Object(properties.clone())).len(), 500);
    assert_eq!(found(json!({"additionalProperties": {"type": "string"}}), Value::Object(properties)).len(), 500);
}

#[test]
fn an_event_may_name_the_version_that_it_was_made_for() {
    let plan = plan(json!({}));
    for (typer, version) in [
        (json!({"trackingPlanId": "tp_1", "trackingPlanVersion": 2}), 2),
        (json!({"trackingPlanId": "tp_2", "trackingPlanVersion": 2}), 3),
        (json!({"trackingPlanId": "tp_1", "trackingPlanVersion": 0}), 3),
        (json!({"trackingPlanId": "tp_1", "trackingPlanVersion": "2"}), 3),
        (json!(5), 3),
    ] {
        assert_eq!(plan.version_for(&json!({"context": {"ruddertyper": typer}})), version, "{typer}");
    }
}

#[test]
fn the_context_tells_what_was_found() {
    let annotated = |text: &str| {
        let mut event = Message::parse(text).unwrap();
        annotate(&mut event, "tp\"1", 2, "[]".to_owned());
        event.to_json()
    };
    let keys = r#""trackingPlanId":"tp\"1","trackingPlanVersion":2,"violationErrors":[]"#;
    assert_eq!(annotated("{}"), format!(r#"{{"context":{{{keys}}}}}"#));
    assert_eq!(annotated(r#"{"context":null}"#), format!(r#"{{"context":{{{keys}}}}}"#));
    assert_eq!(annotated(r#"{"context":{"a":1}}"#), format!(r#"{{"context":{{"a":1,{keys}}}}}"#));
    assert_eq!(annotated(r#"{"context":[]}"#), r#"{"context":[]}"#);
}

#[test]
fn plans_are_compiled_once_for_all_sources() {
    let plans = Plans::default();
    let document = map(json!({"events": [{"name": "E", "eventType": "track", "rules": {}}]}));
    let config = map(json!({"global": {"anyOtherViolation": "drop"}}));
    for _ in 0..3 {
        let source = SourcePlan::new("tp", 1, &config, None).with_version(&plans, 1, 7, &document);
        assert!(source.check(&json!({"type": "track", "event": "E"}), 1).violations.is_empty());
    }
    assert_eq!(plans.kept(), 1);
    for hash in 0..200 {
        let _source = SourcePlan::new("tp", 1, &config, None).with_version(&plans, 1, hash, &document);
    }
    assert!(plans.kept() <= 64, "{}", plans.kept());
}

proptest! {
    #[test]
    fn no_event_makes_the_check_panic(text in "[\\[\\]{}:,\"a1E.-]{0,40}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let rules = json!({"anyOf": [{"type": "string"}, {"items": {"contains": {"const": 1}}}], "uniqueItems": true,
                "propertyNames": {"maxLength": 0}, "if": {"type": "array"}, "then": {"minItems": 9}});
            let _found = found(rules, value.clone());
            let _verdict = plan(json!({})).check(&value, 3);
        }
    }
}

//! What the hosted validator, which is strict, would refuse about a schema: then it lets every event pass unseen.
//! Here such a schema is used, and the operator is told once (processor.md 5.2).

use serde_json::{Map, Value};

/// Keywords whose value is one schema.
const ONE: [&str; 13] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$recursiveRef",
];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "items"];
/// Keywords whose value holds schemas by name.
const NAMED: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];
/// The other keywords.
const PLAIN: [&str; 38] = [
    "$anchor",
    "$comment",
    "$id",
    "$recursiveAnchor",
    "$ref",
    "$schema",
    "$vocabulary",
    "const",
    "contentEncoding",
    "contentMediaType",
    "default",
    "dependentRequired",
    "deprecated",
    "description",
    "discriminator",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "id",
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "nullable",
    "pattern",
    "readOnly",
    "required",
    "title",
    "type",
];
/// Keywords that stand alone or are read elsewhere.
const REST: [&str; 3] = ["uniqueItems", "version", "writeOnly"];

/// The first thing that the hosted validator would refuse: its place and what it is.
pub(super) fn first_refusal(schema: &Value) -> Option<String> {
    let Value::Object(members) = schema else { return None };
    of_object(members, "#")
}

fn of_schema(schema: &Value, path: &str) -> Option<String> {
    schema.as_object().and_then(|members| of_object(members, path))
}

fn of_object(members: &Map<String, Value>, path: &str) -> Option<String> {
    let properties = members.get("properties").and_then(Value::as_object);
    let required = members.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if properties.is_none_or(|properties| !properties.contains_key(name)) {
            return Some(format!("{path}/required names {name:?}, which is not among its properties"));
        }
    }
    members.iter().find_map(|(keyword, value)| {
        let below = format!("{path}/{keyword}");
        let keyword = keyword.as_str();
        if NAMED.contains(&keyword) {
            return value
                .as_object()
                .into_iter()
                .flatten()
                .find_map(|(name, schema)| of_schema(schema, &format!("{below}/{name}")));
        }
        if let (true, Some(list)) = (LIST.contains(&keyword), value.as_array()) {
            return list.iter().enumerate().find_map(|(at, schema)| of_schema(schema, &format!("{below}/{at}")));
        }
        if ONE.contains(&keyword) {
            return of_schema(value, &below);
        }
        let is_known = PLAIN.contains(&keyword) || LIST.contains(&keyword) || REST.contains(&keyword);
        (!is_known).then(|| format!("{below} is not a keyword"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_hosted_validator_refuses_is_named_with_its_place() {
        let table = [
            (json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}), None),
            (json!({"version": "1-0-0", "items": [{"uniqueItems": true}], "anyOf": [{}]}), None),
            (json!({"properties": {"a": {"typ": "string"}}}), Some("#/properties/a/typ is not a keyword")),
            (
                json!({"then": {"required": ["b"]}}),
                Some("#/then/required names \"b\", which is not among its properties"),
            ),
            (json!({"allOf": [{}, {"foo": 1}]}), Some("#/allOf/1/foo is not a keyword")),
            (json!(true), None),
        ];
        for (schema, expected) in table {
            assert_eq!(first_refusal(&schema).as_deref(), expected, "{schema}");
        }
    }
}

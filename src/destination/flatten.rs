//! Flattening: nested values under one level of joined keys (destinations.md 5.4).

use serde_json::{Map, Value};

/// `{"a":{"b":[1,{"c":2}]}}` becomes `{"a.b[0]":1,"a.b[1].c":2}`. Empty containers stay as they are.
pub(super) fn flatten(object: Map<String, Value>) -> Map<String, Value> {
    let mut flat = Map::new();
    for (key, value) in object {
        insert(&mut flat, key, value);
    }
    flat
}

fn insert(flat: &mut Map<String, Value>, key: String, value: Value) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (inner, value) in object {
                insert(flat, format!("{key}.{inner}"), value);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, value) in items.into_iter().enumerate() {
                insert(flat, format!("{key}[{index}]"), value);
            }
        }
        leaf => {
            flat.insert(key, leaf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_keys_are_joined_and_empty_containers_stay() {
        let Value::Object(nested) = json!({
            "k1": "v1", "k2": { "k3": "c3", "k4": { "k5": 5 } }, "list": [1, { "x": null }, [true]], "e": {}, "f": [],
        }) else {
            unreachable!()
        };
        let expected = json!({
            "k1": "v1", "k2.k3": "c3", "k2.k4.k5": 5, "list[0]": 1, "list[1].x": null, "list[2][0]": true, "e": {}, "f": [],
        });
        assert_eq!(Value::Object(flatten(nested)), expected);
    }
}

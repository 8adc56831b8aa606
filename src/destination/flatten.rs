//! Flattening: nested values under one level of joined keys (destinations.md 5.4).

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// Most leaves of one event.
const MOST_LEAVES: usize = 20_000;

/// Most bytes of joined keys of one event: a long way down over many leaves multiplies.
const MOST_KEY_BYTES: usize = 16 << 20;

/// `{"a":{"b":[1,{"c":2}]}}` becomes `{"a.b[0]":1,"a.b[1].c":2}`. Empty containers stay as they are.
///
/// # Errors
/// A refusal of the event when the result would be out of proportion (security.md 2.2).
pub(super) fn flatten(object: Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    Flat::default().flattened(object)
}

/// The same with lists as leaves: `{"a":{"b":[1]}}` becomes `{"a.b":[1]}`.
///
/// # Errors
/// As [`flatten`].
pub(super) fn flatten_objects(object: Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
    Flat { keeps_lists: true, ..Flat::default() }.flattened(object)
}

#[derive(Default)]
struct Flat {
    leaves: Map<String, Value>,
    key_bytes: usize,
    keeps_lists: bool,
}

impl Flat {
    fn flattened(mut self, object: Map<String, Value>) -> Result<Map<String, Value>, Refusal> {
        for (key, value) in object {
            self.insert(key, value)?;
        }
        Ok(self.leaves)
    }

    fn insert(&mut self, key: String, value: Value) -> Result<(), Refusal> {
        match value {
            Value::Object(object) if !object.is_empty() => {
                for (inner, value) in object {
                    self.insert(format!("{key}.{inner}"), value)?;
                }
            }
            Value::Array(items) if !items.is_empty() && !self.keeps_lists => {
                for (index, value) in items.into_iter().enumerate() {
                    self.insert(format!("{key}[{index}]"), value)?;
                }
            }
            leaf => {
                self.key_bytes += key.len();
                if self.leaves.len() >= MOST_LEAVES || self.key_bytes > MOST_KEY_BYTES {
                    return Err(Refusal::instrumentation("event is too large to flatten"));
                }
                self.leaves.insert(key, leaf);
            }
        }
        Ok(())
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
        assert_eq!(flatten(nested.clone()).map(Value::Object), Ok(expected));
        let expected = json!({
            "k1": "v1", "k2.k3": "c3", "k2.k4.k5": 5, "list": [1, { "x": null }, [true]], "e": {}, "f": [],
        });
        assert_eq!(flatten_objects(nested).map(Value::Object), Ok(expected));
    }

    #[test]
    fn an_event_that_would_grow_out_of_proportion_is_refused() {
        let wide: Map<String, Value> = (0..=MOST_LEAVES).map(|n| (n.to_string(), Value::Null)).collect();
        assert!(flatten(wide).is_err());
        let mut deep = Value::from((0..MOST_LEAVES).map(Value::from).collect::<Vec<Value>>());
        for _ in 0..1_000 {
            deep = json!({ "k": deep });
        }
        let Value::Object(deep) = deep else { unreachable!() };
        assert_eq!(flatten(deep), Err(Refusal::instrumentation("event is too large to flatten")));
    }
}

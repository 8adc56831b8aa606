//! Reads a member of an event by a dotted path (destinations.md 3.2).

use serde_json::Value;

/// The value at the path. Keys that hold dots themselves are found: a segment that leads nowhere is tried together
/// with those behind it, and a whole path that is a key wins at once.
pub(super) fn value_at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if let Some(found) = step(value, path) {
        return Some(found);
    }
    let mut from = 0;
    while let Some(dot) = path.get(from..).and_then(|rest| rest.find('.')).map(|at| from + at) {
        let (head, tail) = (path.get(..dot)?, path.get(dot + 1..)?);
        if let Some(inner) = step(value, head) {
            return value_at(inner, tail);
        }
        from = dot + 1;
    }
    None
}

fn step<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(members) => members.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    }
}

/// The value at the path in the event, else in its `properties`, `traits`, or `context.traits`: the first that
/// `accepts` takes.
pub(super) fn value_anywhere<'v>(event: &'v Value, path: &str, accepts: impl Fn(&Value) -> bool) -> Option<&'v Value> {
    let places = [Some(event), event.get("properties"), event.get("traits"), event.pointer("/context/traits")];
    places.into_iter().flatten().filter_map(|place| value_at(place, path)).find(|found| accepts(found))
}

/// Whether a value counts as there, by the rules of the language that mappings come from.
pub(super) fn is_truthy_value(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Array(_) | Value::Object(_) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_with_dots_are_found_like_nested_ones() {
        let event = json!({ "a": { "b": 1, "c.d": 2 }, "a.x": 3, "list": [{ "y": 4 }], "e.f": { "g": 5 } });
        for (path, expected) in
            [("a.b", Some(1)), ("a.c.d", Some(2)), ("a.x", Some(3)), ("list.0.y", Some(4)), ("e.f.g", Some(5))]
        {
            assert_eq!(value_at(&event, path).and_then(Value::as_i64), expected, "{path}");
        }
        for path in ["a.q", "list.y", "a.b.c", "", "."] {
            assert_eq!(value_at(&event, path), None, "{path}");
        }
    }

    #[test]
    fn the_event_itself_comes_before_its_properties_and_those_before_traits() {
        let event = json!({ "n": "", "properties": { "n": 1, "p": 2 }, "traits": { "p": 3 }, "context": { "traits": { "c": 4 } } });
        let find = |path| value_anywhere(&event, path, is_truthy_value).and_then(Value::as_i64);
        assert_eq!((find("n"), find("p"), find("c"), find("z")), (Some(1), Some(2), Some(4), None));
    }
}

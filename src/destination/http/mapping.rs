//! Mappings: lists of `{from, to}` that build an object out of an event (destinations.md 12.3).
//!
//! `from` is a path or a literal text, `to` a path into the result or a plain key. What a path does not find sets
//! nothing. `[*]` on both sides goes element by element.

use serde_json::{Map, Value};

use super::json_path::{Path, Selected, Step};

/// Mappings, read once.
#[derive(Clone, Debug, Default)]
pub(super) struct Mappings(Vec<Mapping>);

#[derive(Clone, Debug)]
struct Mapping {
    from: From,
    to: Path,
}

#[derive(Clone, Debug)]
enum From {
    Literal(Value),
    Path(Path),
}

impl Mappings {
    /// Reads a list from a destination's config. Rows that are not filled in are left out.
    ///
    /// # Errors
    /// What is wrong with a path.
    pub(super) fn read(list: Option<&Value>) -> Result<Mappings, String> {
        let mut mappings = Vec::new();
        for row in list.and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| match row.get(key) {
                Some(Value::String(text)) => text.clone(),
                Some(other @ (Value::Number(_) | Value::Bool(_))) => other.to_string(),
                _ => String::new(),
            };
            let (from, to) = (text("from"), text("to"));
            if from.trim().is_empty() || to.trim().is_empty() {
                continue;
            }
            let to = if to.contains('$') { Path::parse(&to)? } else { Path(vec![Step::Key(to.trim().to_owned())]) };
            mappings.push(Mapping { from: From::read(&from)?, to });
        }
        Ok(Mappings(mappings))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the mappings make of the event: an object, unless one of them sets the whole.
    pub(super) fn apply(&self, event: &Value) -> Value {
        let mut result = Value::Object(Map::new());
        for Mapping { from, to } in &self.0 {
            let selected = match from {
                From::Literal(text) => Selected::One(text),
                From::Path(path) => path.select(event),
            };
            lay(&mut result, &to.0, &selected);
        }
        result
    }
}

impl From {
    fn read(text: &str) -> Result<From, String> {
        let trimmed = text.trim();
        if let Some(literal) = trimmed.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            return Ok(From::Literal(literal.into()));
        }
        if trimmed.contains('$') { Path::parse(trimmed).map(From::Path) } else { Ok(From::Literal(trimmed.into())) }
    }
}

/// Lays what was found at the place; nothing found leaves no trace but the list of a `[*]` that met no element.
fn lay(place: &mut Value, to: &[Step], found: &Selected<'_>) {
    let Some((step, rest)) = to.split_first() else {
        if let Some(value) = found.to_value() {
            *place = value;
        }
        return;
    };
    let leads_to_list = matches!(found, Selected::Each(_)) && to.contains(&Step::All);
    if found.is_nothing() && !leads_to_list {
        return;
    }
    match step {
        Step::Key(key) => {
            if let Some(members) = as_object(place) {
                lay(members.entry(key.as_str()).or_insert(Value::Null), rest, found);
            }
        }
        Step::Index(index) => {
            if let Some(element) = as_list(place, index.saturating_add(1)).and_then(|list| list.get_mut(*index)) {
                lay(element, rest, found);
            }
        }
        Step::All => lay_each(place, rest, found),
    }
}

fn lay_each(place: &mut Value, rest: &[Step], found: &Selected<'_>) {
    let elements: Vec<Selected<'_>> = match found {
        Selected::Each(elements) => elements.clone(),
        Selected::One(Value::Array(items)) => items.iter().map(Selected::One).collect(),
        Selected::One(_) => {
            // One value for a list: every element that there is gets it.
            for element in as_list(place, 1).into_iter().flatten() {
                lay(element, rest, found);
            }
            return;
        }
        Selected::Nothing => return,
    };
    let Some(list) = as_list(place, elements.len()) else { return };
    for (element, found) in list.iter_mut().zip(&elements) {
        if matches!(rest.first(), Some(Step::Key(_))) {
            as_object(element);
        }
        lay(element, rest, found);
    }
}

/// The place as an object; whatever else was there is replaced.
fn as_object(place: &mut Value) -> Option<&mut Map<String, Value>> {
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    place.as_object_mut()
}

/// The place as a list of at least this many elements; whatever else was there is replaced.
fn as_list(place: &mut Value, elements: usize) -> Option<&mut Vec<Value>> {
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    let list = place.as_array_mut()?;
    if list.len() < elements {
        list.resize(elements, Value::Null);
    }
    Some(list)
}

/// Takes null members away, at every depth; nulls in lists keep their places.
pub(super) fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mapped(rows: &[(&str, &str)], event: &Value) -> Value {
        let rows: Vec<Value> = rows.iter().map(|(from, to)| json!({ "from": from, "to": to })).collect();
        Mappings::read(Some(&rows.into())).unwrap().apply(event)
    }

    #[test]
    fn values_and_literals_go_where_they_are_told() {
        let event = json!({ "a": { "b c": 1 }, "l": ["x", "y"], "n": null });
        for (rows, expected) in [
            (
                vec![("$.a['b c']", "$.x.y"), ("'t'", "$['k k']"), ("2", "plain.key")],
                json!({ "x": { "y": 1 }, "k k": "t", "plain.key": "2" }),
            ),
            (vec![("$.missing", "$.x.y"), ("$.n", "$.n")], json!({ "n": null })),
            (vec![("$.a", "$"), ("'v'", "$.k")], json!({ "b c": 1, "k": "v" })),
            (vec![("$", "$.whole")], json!({ "whole": event })),
            (vec![("$.l[1]", "$.m[2]")], json!({ "m": [null, null, "y"] })),
            (vec![("'it''s'", "q"), ("", "$.e"), ("'x'", "")], json!({ "q": "it''s" })),
        ] {
            assert_eq!(mapped(&rows, &event), expected, "{rows:?}");
        }
    }

    #[test]
    fn lists_go_element_by_element() {
        let event = json!({ "p": [{ "id": 1, "t": ["a", "b"] }, { "t": [] }], "names": ["x", "y"] });
        for (rows, expected) in [
            (
                vec![("$.p[*].id", "$.i[*].k"), ("$.p[*].t[*]", "$.i[*].tags[*].n"), ("'c'", "$.i[*].lit")],
                json!({ "i": [{ "k": 1, "tags": [{ "n": "a" }, { "n": "b" }], "lit": "c" }, { "tags": [], "lit": "c" }] }),
            ),
            (vec![("$.p[*].id", "$.ids")], json!({ "ids": [1] })),
            (vec![("$.p[*].t[*]", "$.all")], json!({ "all": ["a", "b"] })),
            (vec![("$.names", "$.i[*].name")], json!({ "i": [{ "name": "x" }, { "name": "y" }] })),
            (vec![("$.none[*].id", "$.i[*].k"), ("$.none[*].id", "$.ids")], json!({ "i": [] })),
        ] {
            assert_eq!(mapped(&rows, &event), expected, "{rows:?}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_read_is_an_error() {
        for (from, to) in [("$.a[?(@.b)]", "$.x"), ("$.a", "$..x"), ("costs $5", "x")] {
            assert!(Mappings::read(Some(&json!([{ "from": from, "to": to }]))).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn nulls_leave_objects_but_not_lists() {
        let mut value = json!({ "a": null, "b": { "c": null, "d": [null, { "e": null }] } });
        without_nulls(&mut value);
        assert_eq!(value, json!({ "b": { "d": [null, {}] } }));
    }
}

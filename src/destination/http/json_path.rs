//! The paths that users write in mappings: dotted and bracketed names, `[n]`, `[*]`, `$` for the whole
//! (destinations.md 12.3).
//!
//! A path is read once, when the configuration is, and then walked over trees. What a `[*]` meets stays apart, so
//! that a mapping can lay element by element what it took element by element.

use serde_json::Value;

/// Largest index that a path may name; a larger one would only make a huge list of nothing.
const LARGEST_INDEX: usize = 10_000;

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into the member of an object.
    Key(String),
    /// Into the element of a list.
    Index(usize),
    /// Into every element.
    All,
}

/// A path, from the root down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

/// What a path leads to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Selected<'v> {
    /// A value.
    One(&'v Value),
    /// One for every element that a `[*]` met, in order.
    Each(Vec<Selected<'v>>),
    /// Nothing is there.
    Nothing,
}

impl Selected<'_> {
    /// Whether there is no value in it.
    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Selected::One(_) => false,
            Selected::Each(all) => all.iter().all(Selected::is_nothing),
            Selected::Nothing => true,
        }
    }

    /// The first value.
    pub(super) fn first(&self) -> Option<&Value> {
        match self {
            Selected::One(value) => Some(value),
            Selected::Each(all) => all.iter().find_map(Selected::first),
            Selected::Nothing => None,
        }
    }

    /// The value, or a flat list of the values that were met.
    pub(super) fn to_value(&self) -> Option<Value> {
        match self {
            Selected::One(value) => Some(Value::clone(value)),
            Selected::Each(_) => {
                let mut values = Vec::new();
                self.collect(&mut values);
                if values.is_empty() { None } else { Some(Value::Array(values)) }
            }
            Selected::Nothing => None,
        }
    }

    fn collect(&self, into: &mut Vec<Value>) {
        match self {
            Selected::One(value) => into.push(Value::clone(value)),
            Selected::Each(all) => all.iter().for_each(|one| one.collect(into)),
            Selected::Nothing => {}
        }
    }
}

impl Path {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(super) fn parse(text: &str) -> Result<Path, String> {
        let fault = |what: &str| format!("{what} in path {text:?}");
        let mut rest = text.trim().strip_prefix('$').ok_or_else(|| fault("no leading $"))?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, left) = if let Some(inside) = rest.strip_prefix('[') {
                let (step, left) = bracketed(inside).ok_or_else(|| fault("unreadable [...]"))?;
                (step, left)
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.starts_with(['.', '[']) || after.is_empty() {
                    return Err(fault("unsupported or empty step"));
                }
                match quoted(after) {
                    Some((name, left)) => (Step::Key(name), left),
                    None => {
                        let end = after.find(['.', '[']).unwrap_or(after.len());
                        let (name, left) = after.split_at(end);
                        (if name == "*" { Step::All } else { Step::Key(name.to_owned()) }, left)
                    }
                }
            } else {
                return Err(fault("expected . or ["));
            };
            if matches!(step, Step::Index(index) if index > LARGEST_INDEX) {
                return Err(fault("too large an index"));
            }
            steps.push(step);
            rest = left;
        }
        Ok(Path(steps))
    }

    /// What the path leads to in the tree.
    pub(super) fn select<'v>(&self, root: &'v Value) -> Selected<'v> {
        select(Some(root), &self.0)
    }
}

/// `'name']`, `"name"]`, `12]`, `*]`: the step and what comes after it.
fn bracketed(inside: &str) -> Option<(Step, &str)> {
    let inside = inside.trim_start();
    if let Some((name, left)) = quoted(inside) {
        return Some((Step::Key(name), left.trim_start().strip_prefix(']')?));
    }
    let (content, left) = inside.split_once(']')?;
    let step = match content.trim() {
        "*" => Step::All,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Step::Index(digits.parse().ok()?),
        _ => return None,
    };
    Some((step, left))
}

/// A text in quotes of either kind, with `\` before a quote or a backslash that belongs to it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut name = String::new();
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if is_escaped {
            name.push(c);
            is_escaped = false;
        } else if c == '\\' {
            is_escaped = true;
        } else if c == quote {
            return Some((name, text.get(at + 1..)?));
        } else {
            name.push(c);
        }
    }
    None
}

fn select<'v>(value: Option<&'v Value>, steps: &[Step]) -> Selected<'v> {
    let Some((step, rest)) = steps.split_first() else {
        return value.map_or(Selected::Nothing, Selected::One);
    };
    match step {
        Step::Key(key) => select(value.and_then(|value| value.get(key.as_str())), rest),
        Step::Index(index) => select(value.and_then(|value| value.get(*index)), rest),
        Step::All => Selected::Each(match value {
            Some(Value::Array(items)) => items.iter().map(|item| select(Some(item), rest)).collect(),
            Some(Value::Object(members)) => members.values().map(|item| select(Some(item), rest)).collect(),
            _ => Vec::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn paths_are_read_in_every_spelling() {
        let keys = |names: &[&str]| Path(names.iter().map(|name| Step::Key((*name).to_owned())).collect());
        for (text, path) in [
            ("$", keys(&[])),
            ("$.a.b", keys(&["a", "b"])),
            ("$['a b'].c", keys(&["a b", "c"])),
            ("$.'a-b'", keys(&["a-b"])),
            ("$.a-b", keys(&["a-b"])),
            (r#"$["it's"]['d\'e']"#, keys(&["it's", "d'e"])),
            ("$.a[0]", Path(vec![Step::Key("a".into()), Step::Index(0)])),
            (" $.a[*].b ", Path(vec![Step::Key("a".into()), Step::All, Step::Key("b".into())])),
        ] {
            assert_eq!(Path::parse(text), Ok(path), "{text}");
        }
        for text in ["a", "$a", "$.", "$..a", "$[", "$[?(@.a)]", "$['a]", "$[99999]", "US$"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_leads_to_a_value_to_each_element_or_nowhere() {
        let tree = json!({ "a": [{ "b": 1 }, {}, { "b": [2, 3] }], "n": null });
        let value = |text: &str| Path::parse(text).unwrap().select(&tree).to_value();
        assert_eq!(value("$.a[2].b[1]"), Some(json!(3)));
        assert_eq!(value("$.a[*].b"), Some(json!([1, [2, 3]])));
        assert_eq!(value("$.a[*].b[*]"), Some(json!([2, 3])));
        assert_eq!((value("$.n"), value("$.x[*]"), value("$.n.x")), (Some(Value::Null), None, None));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[$.\\[\\]'\"*a0\\\\é ]{0,20}") {
            if let Ok(path) = Path::parse(&text) {
                path.select(&json!({ "a": [0] }));
            }
        }
    }
}

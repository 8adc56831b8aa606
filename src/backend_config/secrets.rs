//! Values of a workspace that stand elsewhere (gateway.md 11.7): `"env.NAME"`, `"${NAME}"`, `"file:/path"`.
//!
//! The parsed document gets the values; the text that is kept and shown never does.

use serde_json::Value;

use super::locate::{Step, path_text};
use crate::settings::Elsewhere;

/// How references are read.
pub(super) struct References<'a> {
    /// What a value begins with that names a variable; `None` = values are taken as written.
    pub(super) prefix: Option<&'a str>,
    /// Looks up a variable.
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// What was replaced and what could not be.
#[derive(Default)]
pub(super) struct Replaced {
    /// The values that were found.
    pub(super) found: Vec<String>,
    /// Places whose value could not be had, and why; the text there stays as it was.
    pub(super) unresolved: Vec<(Vec<Step>, String)>,
    /// Some value came from a file, which can change without a change of the document.
    pub(super) from_files: bool,
}

impl Replaced {
    /// One line for every value that could not be had.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        self.unresolved.iter().map(|(steps, why)| format!("{}: {why}", path_text(steps)))
    }
}

/// Replaces every whole text that is a reference, at any depth; keys are left alone.
pub(super) fn replace(document: &mut Value, references: &References<'_>) -> Replaced {
    let mut replaced = Replaced::default();
    if let Some(prefix) = references.prefix {
        walk(document, prefix, references, &mut Vec::new(), &mut replaced);
    }
    replaced
}

fn walk(value: &mut Value, prefix: &str, references: &References<'_>, steps: &mut Vec<Step>, replaced: &mut Replaced) {
    match value {
        Value::String(text) => {
            let Some(elsewhere) = Elsewhere::parse(text, prefix) else { return };
            replaced.from_files |= matches!(elsewhere, Elsewhere::File(_));
            match elsewhere.resolve(references.variable) {
                Ok(found) => {
                    replaced.found.push(found.clone());
                    *text = found;
                }
                Err(error) => replaced.unresolved.push((steps.clone(), error.to_string())),
            }
        }
        Value::Array(list) => {
            for (index, element) in list.iter_mut().enumerate() {
                steps.push(Step::Index(index));
                walk(element, prefix, references, steps, replaced);
                steps.pop();
            }
        }
        Value::Object(map) => {
            for (key, member) in map.iter_mut() {
                steps.push(Step::Key(key.clone()));
                walk(member, prefix, references, steps, replaced);
                steps.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_texts_at_any_depth_are_replaced_and_keys_are_not() {
        let mut document = json!({
            "env.A": "env.A", "list": [{"x": " env.A "}, "${A}"], "in text": "say env.A", "gone": "env.GONE", "n": 1
        });
        let variable = |name: &str| (name == "A").then(|| "value".to_owned());
        let replaced = replace(&mut document, &References { prefix: Some("env."), variable: &variable });
        let expected = json!({
            "env.A": "value", "list": [{"x": "value"}, "value"], "in text": "say env.A", "gone": "env.GONE", "n": 1
        });
        assert_eq!(document, expected);
        let lines: Vec<String> = replaced.lines().collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("gone: environment variable GONE is not set"), "{lines:?}");
    }

    #[test]
    fn nothing_is_replaced_when_it_is_switched_off() {
        let mut document = json!({"x": "env.A"});
        replace(&mut document, &References { prefix: None, variable: &|_| Some("v".to_owned()) });
        assert_eq!(document, json!({"x": "env.A"}));
    }
}

//! Checking a workspace file before it is used: every error, and what will not do what its author expects.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::code_files::{self, CodeFiles, Texts};
use super::decode::{Problem, decode};
use super::file;
use super::locate::{Step, locate, path_text};
use super::secrets::References;
use super::shape::{self, DOCUMENT, Findings};

/// What a good workspace file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Id of the workspace.
    pub workspace_id: String,
    /// Number of sources.
    pub sources: usize,
    /// Number of connections between sources and destinations.
    pub destinations: usize,
    /// What is accepted but will not do what its author expects, in the order of lines.
    pub warnings: Vec<Problem>,
}

/// Checks the file as a node would read it. `variable_prefix` is
/// [`crate::settings::BackendConfigSettings::variable_prefix`]; `known` tells what this node
/// can do. Blocks.
///
/// # Errors
/// Everything for which a node would refuse the file.
pub fn check_file(path: &Path, variable_prefix: Option<&str>, known: &Known<'_>) -> Result<Summary, Vec<Problem>> {
    let missing = || vec![Problem::whole("does not exist", "create it with `pintle init`")];
    let bytes = file::read(path).map_err(|problem| vec![problem])?.ok_or_else(missing)?;
    let variable = |name: &str| std::env::var(name).ok();
    let (code, code_problems) = code_files::read(file::beside(path), &Texts::new());
    let files = CodeFiles::of(&code);
    let decoded = decode(&bytes, &References { prefix: variable_prefix, variable: &variable }, &files)?;

    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let mut warnings = Warnings { text: text.strip_prefix('\u{feff}').unwrap_or(text), found: Vec::new() };
    warnings.mode(path);
    warnings.found.extend(code_problems.into_iter().chain(files.problems));
    for missing in decoded.missing {
        warnings.found.push(Problem::whole(missing.what, missing.hint));
    }
    for (steps, why) in &decoded.replaced.unresolved {
        warnings.add(steps, format!("cannot be had: {why}"), "without it the text itself is used");
    }
    for unknown in &decoded.unknown {
        let Some(Step::Key(key)) = unknown.steps.last() else { continue };
        let near = unknown
            .unset
            .iter()
            .find(|known| strsim::damerau_levenshtein(&key.to_lowercase(), &known.to_lowercase()) <= 2);
        if let Some(near) = near {
            warnings.add(&unknown.steps, "is not read", &format!("did you mean {near}?"));
        }
    }
    // A second reading that keeps the places of sources and destinations, which decoding sorts.
    let document = serde_json::from_str(warnings.text).unwrap_or(Value::Null);
    let document = shape::bring(document, &DOCUMENT, &mut Vec::new(), &mut Findings::default());
    warnings.sources(&document, known);
    warnings.found.sort_by_key(|problem| (problem.line, problem.column));

    let workspace = decoded.workspace;
    Ok(Summary {
        workspace_id: workspace.id,
        sources: workspace.sources.len(),
        destinations: workspace.sources.iter().map(|source| source.destinations.len()).sum(),
        warnings: warnings.found,
    })
}

/// What a node can do, as far as the check needs to know.
pub struct Known<'a> {
    /// Whether it delivers to destinations of a type.
    pub delivers_to: &'a dyn Fn(&str) -> bool,
    /// Whether it runs transformations in a language.
    pub runs: &'a dyn Fn(&str) -> bool,
}

struct Warnings<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl Warnings<'_> {
    fn add(&mut self, steps: &[Step], message: impl Into<String>, hint: &str) {
        let (line, column) = locate(self.text, steps);
        self.found.push(Problem {
            line,
            column,
            path: path_text(steps),
            message: message.into(),
            hint: hint.to_owned(),
        });
    }

    fn mode(&mut self, path: &Path) {
        let is_open = std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0);
        if is_open {
            self.found.push(Problem::whole(
                "can be read by every user of this machine, and it may hold secrets",
                "take that away with chmod o-r",
            ));
        }
    }

    fn sources(&mut self, document: &Value, known: &Known<'_>) {
        let mut write_keys: HashMap<&str, usize> = HashMap::new();
        let mut ids: HashMap<&str, usize> = HashMap::new();
        for (index, source) in elements(document, "sources").enumerate() {
            let at = |key: &str| vec![key_step("sources"), Step::Index(index), key_step(key)];
            let (id, write_key) = (text(source, "id"), text(source, "writeKey"));
            if id.is_empty() {
                self.add(&at("id"), "is empty", "give every source an id of its own");
            } else if let Some(first) = ids.insert(id, index) {
                self.add(
                    &at("id"),
                    format!("is also the id of sources[{first}]"),
                    "give every source an id of its own",
                );
            }
            if write_key.is_empty() {
                self.add(&at("writeKey"), "is empty, so no app can send to this source", "");
            } else if let Some(first) = write_keys.insert(write_key, index) {
                let message = format!("is also the write key of sources[{first}], so one of both gets nothing");
                self.add(&at("writeKey"), message, "give every source a key of its own");
            }
            if source.get("enabled").is_none() {
                self.add(&at("enabled"), "is missing, so the source is off", "add \"enabled\": true");
            }
            for (inner, destination) in elements(source, "destinations").enumerate() {
                let mut base = at("destinations");
                base.push(Step::Index(inner));
                self.destination(destination, &base, known);
            }
        }
    }

    fn destination(&mut self, destination: &Value, base: &[Step], known: &Known<'_>) {
        let at = |keys: &[&str]| base.iter().cloned().chain(keys.iter().map(|key| key_step(key))).collect::<Vec<_>>();
        if destination.get("enabled").is_none() {
            self.add(&at(&["enabled"]), "is missing, so the destination is off", "add \"enabled\": true");
            return;
        }
        if !flag(destination, "enabled") {
            return;
        }
        let config = destination.get("config").unwrap_or(&Value::Null);
        if destination.get("isProcessorEnabled").is_none() && text(config, "connectionMode") != "device" {
            self.add(
                &at(&["isProcessorEnabled"]),
                "is missing, so this node delivers nothing to the destination",
                "add \"isProcessorEnabled\": true unless the app delivers by itself",
            );
            return;
        }
        let transformation = destination.get("transformations").and_then(|list| list.get(0)).unwrap_or(&Value::Null);
        let language = text(transformation, "language");
        if !(known.runs)(language) {
            let message = format!(
                "has a transformation in {language}, which this node cannot run: its events end as dead letters"
            );
            self.add(
                &at(&["transformations"]),
                message,
                "write the transformation in JavaScript, or name a transformer in PYTHON_TRANSFORM_URL",
            );
        }
        let kind =
            destination.get("destinationDefinition").map(|definition| text(definition, "name")).unwrap_or_default();
        if kind.is_empty() {
            self.add(&at(&["destinationDefinition", "name"]), "is empty, so it is not known how to deliver", "");
        } else if flag(destination, "isProcessorEnabled") && !(known.delivers_to)(kind) {
            let message = format!("is {kind}, which this node cannot deliver to: its events end as dead letters");
            self.add(&at(&["destinationDefinition", "name"]), message, "`pintle destination ls` lists what it can");
        }
    }
}

fn key_step(key: &str) -> Step {
    Step::Key(key.to_owned())
}

fn elements<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK_ONLY: Known<'_> = Known { delivers_to: &|kind| kind == "WEBHOOK", runs: &str::is_empty };

    fn check(document: &str) -> Result<Summary, Vec<Problem>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workspaceConfig.json");
        std::fs::write(&path, document).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        check_file(&path, Some("env."), &WEBHOOK_ONLY)
    }

    #[test]
    fn every_error_has_its_place_and_no_value() {
        let problems = check("{\n \"sources\": [\n  {\"id\": 7, \"enabled\": \"s3cret\"}\n ]\n}").unwrap_err();
        let told: Vec<String> = problems.iter().map(Problem::to_string).collect();
        let expected = [
            "line 3, column 10: sources[0].id is a number where text belongs",
            "line 3, column 24: sources[0].enabled is text where true or false belongs",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_will_not_work_as_its_author_expects_is_told() {
        let summary = check(
            r#"{
            "sources": [
                {"id": "a", "WriteKey": "k", "enabled": true, "destinations": [
                    {"id": "d1", "enabled": true, "isProcessorEnabled": true, "destinationDefinition": {"name": "WEBHOOK"}},
                    {"id": "d2", "enabled": true, "isProcessorEnabled": true, "destinationDefinition": {"name": "NOBODY"}},
                    {"id": "d3", "enabled": true, "destinationDefinition": {"name": "WEBHOOK"}, "config": {"x": "env.NOT_SET_HERE"}},
                    {"id": "d4", "enabled": false, "destinationDefinition": {"name": "NOBODY"}}
                ]},
                {"id": "b", "writeKey": "k", "enabeld": true}
            ]}"#,
        )
        .unwrap();
        assert_eq!((summary.sources, summary.destinations), (2, 4));
        let told: Vec<(usize, &str)> = summary.warnings.iter().map(|w| (w.line, w.path.as_str())).collect();
        let expected = [
            (5, "sources[0].destinations[1].destinationDefinition.name"),
            (6, "sources[0].destinations[2].isProcessorEnabled"),
            (6, "sources[0].destinations[2].config.x"),
            (9, "sources[1].enabled"),
            (9, "sources[1].writeKey"),
            (9, "sources[1].enabeld"),
        ];
        assert_eq!(told, expected);
        assert!(summary.warnings.iter().any(|w| w.hint == "did you mean enabled?"));
    }

    #[test]
    fn a_missing_file_and_one_that_everybody_reads_are_told() {
        assert!(check_file(Path::new("/nowhere.json"), None, &WEBHOOK_ONLY).is_err());
        assert!(check_file(Path::new("/dev/null"), None, &WEBHOOK_ONLY).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.json");
        std::fs::write(&path, "{}").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(check_file(&path, None, &WEBHOOK_ONLY).unwrap().warnings.len(), 1);
    }
}

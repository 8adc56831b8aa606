//! From the text of a workspace document to a [`Workspace`] (gateway.md 11.2, 11.5, 11.6).
//!
//! A document is taken whole or refused whole, with every reason and its place. Nothing that is reported
//! holds a value of the document: values can be secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::locate::{line_and_column, locate, path_text};
use super::model::{
    Connection, Destination, DestinationDefinition, Source, SourceDefinition, Transformation, Workspace,
};
use super::replay;
use super::secrets::{self, References, Replaced};
use super::shape::{self, DOCUMENT, Findings, UnknownKey};

/// Most bytes of a workspace document (security.md 2.2).
pub const MOST_DOCUMENT_BYTES: u64 = 64 << 20;

/// Something to say about a place in the workspace document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// Path of the value, such as `sources[0].enabled`; empty when it is about the whole.
    pub path: String,
    /// What is wrong; never a value of the document.
    pub message: String,
    /// How to mend it; possibly empty.
    pub hint: String,
}

impl Problem {
    pub(super) fn whole(message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { line: 0, column: 0, path: String::new(), message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

/// A document that was accepted.
pub(super) struct Decoded {
    pub(super) workspace: Workspace,
    pub(super) replaced: Replaced,
    pub(super) unknown: Vec<UnknownKey>,
}

/// Decodes a document.
pub(super) fn decode(bytes: &[u8], references: &References<'_>) -> Result<Decoded, Vec<Problem>> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_DOCUMENT_BYTES {
        let message = format!("is larger than {MOST_DOCUMENT_BYTES} bytes");
        return Err(vec![Problem::whole(message, "split the workspace")]);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok());
        let (line, column) = valid.map_or((1, 1), |valid| line_and_column(valid, valid.len()));
        let message = "the file is not UTF-8 text".to_owned();
        vec![Problem { line, column, path: String::new(), message, hint: "save it as UTF-8".to_owned() }]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The parser's own bound of 128 levels stays in force: no workspace is deeper, and walking one recurses.
    let mut document: Value = serde_json::from_str(text).map_err(|error| {
        // The parser's message names what it expected, never what it found beyond one character.
        let full = error.to_string();
        let message = full.split(" at line ").next().unwrap_or(&full);
        vec![Problem {
            line: error.line().max(1),
            column: error.column().max(1),
            path: String::new(),
            message: format!("the file is not valid JSON: {message}"),
            hint: String::new(),
        }]
    })?;
    let replaced = secrets::replace(&mut document, references);
    let mut findings = Findings::default();
    let document = shape::bring(document, &DOCUMENT, &mut Vec::new(), &mut findings);
    if !findings.wrong.is_empty() {
        let problems = findings.wrong.into_iter().map(|wrong| {
            let (line, column) = locate(text, &wrong.steps);
            let path = path_text(&wrong.steps);
            Problem { line, column, path, message: wrong.message, hint: String::new() }
        });
        return Err(problems.collect());
    }
    let workspace = workspace(object(document));
    Ok(Decoded { workspace, replaced, unknown: findings.unknown })
}

fn workspace(mut map: Map<String, Value>) -> Workspace {
    let mut id = text(&mut map, "workspaceId");
    let mut sources: Vec<Source> = list(&mut map, "sources").map(source).collect();
    if id.is_empty() {
        // A document without a top-level id still belongs to the workspace that its sources name.
        id = sources.iter().map(|source| source.workspace_id.clone()).find(|id| !id.is_empty()).unwrap_or_default();
    }
    for source in &mut sources {
        if source.workspace_id.is_empty() {
            source.workspace_id.clone_from(&id);
        }
    }
    sources.sort_by(|a, b| a.id.cmp(&b.id));
    let connections =
        members(&mut map, "connections").map(|(id, value)| (id, connection(value))).collect::<BTreeMap<_, _>>();
    let replays = object(map.remove("eventReplays").unwrap_or_default());
    let settings = object(map.remove("settings").unwrap_or_default());
    map.remove("enableMetrics");
    map.remove("updatedAt");
    let sources = sources.into_iter().map(Arc::new).collect();
    let mut workspace = Workspace { id, sources, connections, settings, other: map };
    replay::expand(&mut workspace, &replays);
    workspace
}

fn source(value: Value) -> Source {
    let mut map = object(value);
    let mut definition = object(map.remove("sourceDefinition").unwrap_or_default());
    let workspace_id = text(&mut map, "workspaceId");
    let mut destinations: Vec<Destination> = list(&mut map, "destinations").map(destination).collect();
    for destination in &mut destinations {
        if destination.workspace_id.is_empty() {
            destination.workspace_id.clone_from(&workspace_id);
        }
    }
    Source {
        id: text(&mut map, "id"),
        name: text(&mut map, "name"),
        write_key: text(&mut map, "writeKey"),
        enabled: flag(&mut map, "enabled"),
        workspace_id,
        original_id: text(&mut map, "originalId"),
        config: object(map.remove("config").unwrap_or_default()),
        definition: SourceDefinition {
            id: text(&mut definition, "id"),
            name: text(&mut definition, "name"),
            display_name: text(&mut definition, "displayName"),
            category: text(&mut definition, "category"),
            kind: text(&mut definition, "type"),
            options: definition.remove("options").unwrap_or_default(),
        },
        destinations: destinations.into_iter().map(Arc::new).collect(),
        transient: flag(&mut map, "transient"),
        geo_enrichment: flag(&mut object(map.remove("geoEnrichment").unwrap_or_default()), "enabled"),
        tracking_plan: map.remove("dgSourceTrackingPlanConfig"),
        updated_at: text(&mut map, "updatedAt"),
    }
}

fn destination(value: Value) -> Destination {
    let mut map = object(value);
    let mut definition = object(map.remove("destinationDefinition").unwrap_or_default());
    let config = object(map.remove("config").unwrap_or_default());
    let transformations = list(&mut map, "transformations").map(|value| {
        let mut map = object(value);
        Transformation {
            id: text(&mut map, "id"),
            version_id: text(&mut map, "versionId"),
            config: map.remove("config").unwrap_or_default(),
            language: text(&mut map, "language"),
        }
    });
    Destination {
        transformations: transformations.collect(),
        id: text(&mut map, "id"),
        name: text(&mut map, "name"),
        enabled: flag(&mut map, "enabled"),
        workspace_id: text(&mut map, "workspaceId"),
        revision_id: text(&mut map, "revisionId"),
        original_id: text(&mut map, "originalId"),
        is_processor_enabled: flag(&mut map, "isProcessorEnabled"),
        definition: DestinationDefinition {
            id: text(&mut definition, "id"),
            name: text(&mut definition, "name"),
            display_name: text(&mut definition, "displayName"),
            config: object(definition.remove("config").unwrap_or_default()),
        },
        has_dynamic_config: config.values().any(has_template),
        updated_at: text(&mut map, "updatedAt"),
        config,
    }
}

fn connection(value: Value) -> Connection {
    let mut map = object(value);
    Connection {
        source_id: text(&mut map, "sourceId"),
        destination_id: text(&mut map, "destinationId"),
        enabled: flag(&mut map, "enabled"),
        config: map.remove("config").unwrap_or_default(),
        processor_enabled: flag(&mut map, "processorEnabled"),
    }
}

/// Whether a text at any depth holds a `{{ path || fallback }}` template.
fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => text
            .split_once("{{")
            .and_then(|(_, rest)| rest.split_once("||"))
            .is_some_and(|(_, rest)| rest.contains("}}")),
        Value::Array(list) => list.iter().any(has_template),
        Value::Object(map) => map.values().any(has_template),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn text(map: &mut Map<String, Value>, key: &str) -> String {
    match map.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    }
}

fn flag(map: &mut Map<String, Value>, key: &str) -> bool {
    matches!(map.remove(key), Some(Value::Bool(true)))
}

fn list(map: &mut Map<String, Value>, key: &str) -> std::vec::IntoIter<Value> {
    match map.remove(key) {
        Some(Value::Array(list)) => list.into_iter(),
        _ => Vec::new().into_iter(),
    }
}

fn members(map: &mut Map<String, Value>, key: &str) -> serde_json::map::IntoIter {
    object(map.remove(key).unwrap_or_default()).into_iter()
}

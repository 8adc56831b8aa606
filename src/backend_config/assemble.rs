//! From a document in its shape to a [`Workspace`]: defaults, code and plans from beside it, accounts, replays
//! (gateway.md 11.2, 11.5, 11.6; processor.md 5.1, 7.3).
//!
//! What the document names and nobody has is noted, and only what needs it is off.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::code::{
    Account, AccountDefinition, Credential, Library, SourceTrackingPlan, TrackingPlan, TransformationCode,
};
use super::code_files::CodeFiles;
use super::decode::Missing;
use super::model::{
    Connection, Destination, DestinationDefinition, Source, SourceDefinition, Transformation, Workspace,
};
use super::replay;

/// The workspace that a document describes, and what it names that is not there.
pub(super) fn assemble(document: Value, files: &CodeFiles) -> (Workspace, Vec<Missing>) {
    let mut map = object(document);
    let mut assembly =
        Assembly { files, accounts: accounts(&mut map), plans: files.plans.clone(), missing: BTreeSet::new() };
    let workspace = assembly.workspace(map);
    (workspace, assembly.missing.into_iter().map(|(what, hint)| Missing { what, hint }).collect())
}

/// What is needed while the parts are read.
struct Assembly<'a> {
    files: &'a CodeFiles,
    accounts: BTreeMap<String, Arc<Account>>,
    /// Those of the files and those that the document holds.
    plans: BTreeMap<(String, i64), Arc<TrackingPlan>>,
    /// What is missing and what that means, once each.
    missing: BTreeSet<(String, String)>,
}

impl Assembly<'_> {
    fn workspace(&mut self, mut map: Map<String, Value>) -> Workspace {
        let mut id = text(&mut map, "workspaceId");
        let mut sources: Vec<Source> = list(&mut map, "sources").map(|value| self.source(value)).collect();
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
        let libraries = list(&mut map, "libraries").filter_map(|value| self.library(value)).collect();
        let replays = object(map.remove("eventReplays").unwrap_or_default());
        let mut workspace = Workspace {
            id,
            sources: sources.into_iter().map(Arc::new).collect(),
            connections: members(&mut map, "connections").map(|(id, value)| (id, connection(value))).collect(),
            settings: object(map.remove("settings").unwrap_or_default()),
            libraries,
            credentials: members(&mut map, "credentials").map(|(id, value)| credential(id, value)).collect(),
            tracking_plans: std::mem::take(&mut self.plans),
            resolved: Vec::new(),
        };
        replay::expand(&mut workspace, &replays);
        workspace
    }

    fn source(&mut self, value: Value) -> Source {
        let mut map = object(value);
        let id = text(&mut map, "id");
        let mut definition = object(map.remove("sourceDefinition").unwrap_or_default());
        let workspace_id = text(&mut map, "workspaceId");
        let mut destinations: Vec<Destination> =
            list(&mut map, "destinations").map(|value| self.destination(value)).collect();
        for destination in &mut destinations {
            if destination.workspace_id.is_empty() {
                destination.workspace_id.clone_from(&workspace_id);
            }
        }
        Source {
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
            updated_at: text(&mut map, "updatedAt"),
            tracking_plan: self.tracking_plan(&id, map.remove("dgSourceTrackingPlanConfig").unwrap_or_default()),
            id,
        }
    }

    fn tracking_plan(&mut self, source_id: &str, value: Value) -> Option<SourceTrackingPlan> {
        let mut map = object(value);
        let mut plan = object(map.remove("trackingPlan").unwrap_or_default());
        let id = text(&mut plan, "id");
        if id.is_empty() {
            return None;
        }
        let version = plan.get("version").and_then(Value::as_i64).unwrap_or_default();
        let key = (id.clone(), version);
        if plan.contains_key("events") || plan.contains_key("rules") {
            // The one in the document is nearer to the source than a file.
            self.plans.insert(key.clone(), Arc::new(TrackingPlan::new(&id, version, plan)));
        }
        let plan = self.plans.get(&key).cloned();
        if plan.is_none() {
            let hint = format!("its events pass unchecked; put the plan into tracking-plans/{id}@{version}.json");
            self.miss(format!("source {source_id:?}: tracking plan {id:?} version {version} is not here"), hint);
        }
        Some(SourceTrackingPlan {
            id,
            version,
            config: object(map.remove("config").unwrap_or_default()),
            merged_config: map.remove("mergedConfig").map(object),
            plan,
        })
    }

    fn destination(&mut self, value: Value) -> Destination {
        let mut map = object(value);
        let id = text(&mut map, "id");
        let enabled = flag(&mut map, "enabled");
        let mut definition = object(map.remove("destinationDefinition").unwrap_or_default());
        let config = object(map.remove("config").unwrap_or_default());
        let transformations: Vec<Transformation> =
            list(&mut map, "transformations").map(|value| self.transformation(value)).collect();
        // Only the first one is ever run.
        if let Some(first) = transformations.first().filter(|first| enabled && first.code.is_none()) {
            let version_id = &first.version_id;
            let hint = format!("its events fail with 404; put the code into transformations/{version_id}.js");
            self.miss(format!("destination {id:?}: transformation {version_id:?} has no code here"), hint);
        }
        Destination {
            transformations,
            name: text(&mut map, "name"),
            enabled,
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
            updated_at: text(&mut map, "updatedAt"),
            has_dynamic_config: config.values().any(has_template),
            delivery_account: self.account(&id, enabled, &config, "rudderAccountId"),
            delete_account: self.account(&id, enabled, &config, "rudderDeleteAccountId"),
            config,
            id,
        }
    }

    /// The account that a key of the config names; only enabled destinations get theirs.
    fn account(
        &mut self,
        destination_id: &str,
        enabled: bool,
        config: &Map<String, Value>,
        key: &str,
    ) -> Option<Arc<Account>> {
        let id = config.get(key).and_then(Value::as_str).filter(|id| enabled && !id.is_empty())?;
        let account = self.accounts.get(id).cloned();
        if account.is_none() {
            let hint = "it works without that account; add it to accounts".to_owned();
            self.miss(format!("destination {destination_id:?}: {key} names an account that is not here"), hint);
        }
        account
    }

    fn transformation(&mut self, value: Value) -> Transformation {
        let mut map = object(value);
        let version_id = text(&mut map, "versionId");
        let (name, code_version) = (text(&mut map, "name"), text(&mut map, "codeVersion"));
        let inline = text(&mut map, "code");
        let mut language = text(&mut map, "language");
        let code = if inline.is_empty() {
            self.files.transformations.get(&version_id).map(|file| {
                if language.is_empty() {
                    language.clone_from(&file.language);
                }
                Arc::clone(&file.code)
            })
        } else {
            Some(Arc::new(TransformationCode::new(&version_id, &name, &code_version, inline)))
        };
        if language.is_empty() {
            "javascript".clone_into(&mut language);
        }
        Transformation {
            id: text(&mut map, "id"),
            version_id,
            config: map.remove("config").unwrap_or_default(),
            language,
            code,
        }
    }

    fn library(&mut self, value: Value) -> Option<Arc<Library>> {
        let mut map = object(value);
        let version_id = text(&mut map, "versionId");
        let (name, import_name) = (text(&mut map, "name"), text(&mut map, "importName"));
        let inline = text(&mut map, "code");
        if !inline.is_empty() {
            return Some(Arc::new(Library::new(&version_id, &name, &import_name, inline)));
        }
        let library = self.files.libraries.get(&version_id).cloned();
        if library.is_none() {
            let hint = format!("importing it fails; put its code into libraries/{version_id}.js");
            self.miss(format!("library {version_id:?} has no code here"), hint);
        }
        library
    }

    fn miss(&mut self, what: String, hint: String) {
        self.missing.insert((what, hint));
    }
}

fn accounts(map: &mut Map<String, Value>) -> BTreeMap<String, Arc<Account>> {
    let definitions: BTreeMap<String, AccountDefinition> = members(map, "accountDefinitions")
        .map(|(key, value)| {
            let mut map = object(value);
            let name = text(&mut map, "name");
            let definition = AccountDefinition {
                name: if name.is_empty() { key.clone() } else { name },
                config: object(map.remove("config").unwrap_or_default()),
                authentication_type: text(&mut map, "authenticationType"),
            };
            (key, definition)
        })
        .collect();
    members(map, "accounts")
        .map(|(id, value)| {
            let mut map = object(value);
            let definition_name = text(&mut map, "accountDefinitionName");
            let account = Account {
                id: id.clone(),
                options: object(map.remove("options").unwrap_or_default()),
                secret: map.remove("secret").unwrap_or_default(),
                definition: definitions.get(&definition_name).cloned(),
                definition_name,
            };
            (id, Arc::new(account))
        })
        .collect()
}

fn credential(id: String, value: Value) -> Credential {
    let mut map = object(value);
    Credential { id, key: text(&mut map, "key"), value: text(&mut map, "value"), is_secret: flag(&mut map, "isSecret") }
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

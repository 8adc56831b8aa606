//! Code and plans that belong to a workspace: transformations, libraries, credentials, tracking plans
//! (processor.md 5.1, 7.3). Plain data; the text is kept as written and never interpreted here.
//!
//! `Debug` shows sizes and names, never code, rules or credentials: people keep secrets in all of them.

use std::fmt;

use serde_json::{Map, Value};

/// The code of one version of a transformation.
#[derive(Clone, Default, PartialEq)]
pub struct TransformationCode {
    /// The name that stack traces show; the version id when it has none.
    pub name: String,
    /// `"1"` (the default) or `"0"`: which contract the code follows (processor.md 7.4, 7.8).
    pub code_version: String,
    /// The code.
    pub text: String,
    /// Hash of the text. With the version id and `code_version` the key under which compiled code may be kept:
    /// an edited file has another one.
    pub hash: u128,
}

/// A library that transformations of the workspace can import (processor.md 7.6).
#[derive(Clone, Default, PartialEq)]
pub struct Library {
    /// Its version.
    pub version_id: String,
    /// Its name; imported as `camelCase(name)`.
    pub name: String,
    /// The specifier that imports it, when it is not the one made from the name (`@rs/hash/v1`); else empty.
    pub import_name: String,
    /// The code.
    pub text: String,
    /// Hash of the text.
    pub hash: u128,
}

/// A value that transformations of the workspace can ask for by key.
#[derive(Clone, Default, PartialEq)]
pub struct Credential {
    /// Its id.
    pub id: String,
    /// The key that code asks with.
    pub key: String,
    /// The value.
    pub value: String,
    /// Whether the value is a secret.
    pub is_secret: bool,
}

/// One version of a tracking plan.
#[derive(Clone, Default, PartialEq)]
pub struct TrackingPlan {
    /// Its id (`tp_...`).
    pub id: String,
    /// Its version.
    pub version: i64,
    /// The plan as written: `name`, `version` and either `events` (the new form) or `rules` (the old one)
    /// (processor.md 5.3).
    pub document: Map<String, Value>,
    /// Hash of the document. With id and version the key under which compiled schemas may be kept.
    pub hash: u128,
}

/// What a source asks of a tracking plan: `dgSourceTrackingPlanConfig` with a plan id.
#[derive(Clone, Default, PartialEq)]
pub struct SourceTrackingPlan {
    /// Id of the plan; never empty.
    pub id: String,
    /// The version of the plan that holds unless an event names another one.
    pub version: i64,
    /// `config`: settings by `global` or event type.
    pub config: Map<String, Value>,
    /// `mergedConfig`, when the document has one.
    pub merged_config: Option<Map<String, Value>>,
    /// The plan itself, of [`SourceTrackingPlan::version`]; `None` when this node does not have it. Other versions:
    /// [`super::Workspace::tracking_plan`].
    pub plan: Option<std::sync::Arc<TrackingPlan>>,
}

/// An account that destinations deliver or delete with (gateway.md 11.5).
#[derive(Clone, Default, PartialEq)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// The name of its definition.
    pub definition_name: String,
    /// Settings, as written.
    pub options: Map<String, Value>,
    /// Its secret, as written.
    pub secret: Value,
    /// Its definition; `None` when the name is unknown.
    pub definition: Option<AccountDefinition>,
}

/// The kind of an account.
#[derive(Clone, Default, PartialEq)]
pub struct AccountDefinition {
    /// Its name.
    pub name: String,
    /// Settings, as written.
    pub config: Map<String, Value>,
    /// `oauth` marks OAuth.
    pub authentication_type: String,
}

impl TransformationCode {
    /// The code with its hash. An empty `code_version` is `"1"`, an empty name the version id.
    pub fn new(version_id: &str, name: &str, code_version: &str, text: String) -> TransformationCode {
        TransformationCode {
            name: first_set(name, version_id),
            code_version: first_set(code_version, "1"),
            hash: xxhash_rust::xxh3::xxh3_128(text.as_bytes()),
            text,
        }
    }
}

impl Library {
    /// A library with its hash. An empty name is the version id.
    pub fn new(version_id: &str, name: &str, import_name: &str, text: String) -> Library {
        Library {
            version_id: version_id.to_owned(),
            name: first_set(name, version_id),
            import_name: import_name.to_owned(),
            hash: xxhash_rust::xxh3::xxh3_128(text.as_bytes()),
            text,
        }
    }
}

impl TrackingPlan {
    /// A plan with its hash.
    pub fn new(id: &str, version: i64, document: Map<String, Value>) -> TrackingPlan {
        // A map of JSON values always has a text.
        let text = serde_json::to_vec(&document).unwrap_or_default();
        TrackingPlan { id: id.to_owned(), version, hash: xxhash_rust::xxh3::xxh3_128(&text), document }
    }
}

fn first_set(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
}

impl fmt::Debug for TransformationCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransformationCode")
            .field("name", &self.name)
            .field("code_version", &self.code_version)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("version_id", &self.version_id)
            .field("name", &self.name)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for TrackingPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackingPlan").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

impl fmt::Debug for SourceTrackingPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceTrackingPlan")
            .field("id", &self.id)
            .field("version", &self.version)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("definition_name", &self.definition_name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AccountDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountDefinition").field("name", &self.name).finish_non_exhaustive()
    }
}

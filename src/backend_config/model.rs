//! The model of a workspace (gateway.md 11.2, 11.3), as the rest of the house reads it.
//!
//! Free-form settings can hold secrets, so `Debug` shows their keys and `***`, never a value.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::code::{Account, Credential, Library, SourceTrackingPlan, TrackingPlan, TransformationCode};
use super::scrub::Scrubber;

/// One consistent view of every workspace, with the look-ups that hot paths need.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Workspace id to workspace. A single node usually has one.
    pub workspaces: BTreeMap<String, Arc<Workspace>>,
    /// Write key to source. Of two sources with one key the last by id wins.
    pub source_by_write_key: HashMap<String, Arc<Source>>,
    /// Source id to source.
    pub source_by_id: HashMap<String, Arc<Source>>,
    /// Destination id to destination, enabled or not.
    pub destination_by_id: HashMap<String, Arc<Destination>>,
    /// Takes the secrets of this configuration out of texts that come from outside.
    pub scrubber: Arc<Scrubber>,
    /// When this configuration last changed, milliseconds since the epoch.
    pub changed_ms: i64,
}

/// One workspace document.
#[derive(Clone, Default, PartialEq)]
pub struct Workspace {
    /// Its id.
    pub id: String,
    /// Its sources, sorted by id.
    pub sources: Vec<Arc<Source>>,
    /// Connections by id.
    pub connections: BTreeMap<String, Connection>,
    /// `settings`, as written.
    pub settings: Map<String, Value>,
    /// Libraries that its transformations can import, in the document's order; only those whose code is here.
    pub libraries: Vec<Arc<Library>>,
    /// Values that its transformations can ask for.
    pub credentials: Vec<Credential>,
    /// Tracking plans by id and version, also those that no source names.
    pub tracking_plans: BTreeMap<(String, i64), Arc<TrackingPlan>>,
    /// Values that stand elsewhere (gateway.md 11.7) as they were found; all of them are secrets.
    pub resolved: Vec<String>,
}

/// An app that sends events.
#[derive(Clone, Default, PartialEq)]
pub struct Source {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The public key it sends with.
    pub write_key: String,
    /// Off: 404 at ingest, no deliveries.
    pub enabled: bool,
    /// The workspace that jobs carry.
    pub workspace_id: String,
    /// Non-empty for replay sources.
    pub original_id: String,
    /// Settings of the source, keys kept as written.
    pub config: Map<String, Value>,
    /// What kind of source it is.
    pub definition: SourceDefinition,
    /// Destinations that it is connected to.
    pub destinations: Vec<Arc<Destination>>,
    /// Personal data: no archive, no copies.
    pub transient: bool,
    /// Geolocation is on.
    pub geo_enrichment: bool,
    /// What is asked of its events; `None` without a plan id (processor.md 5.1).
    pub tracking_plan: Option<SourceTrackingPlan>,
    /// When it was last changed, as written, possibly empty.
    pub updated_at: String,
}

/// What kind of source it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceDefinition {
    /// Its id.
    pub id: String,
    /// Its name (`Javascript`, `webhook`).
    pub name: String,
    /// Its name as people read it, possibly empty.
    pub display_name: String,
    /// `""` for event streams, `webhook`, `cloud`, `warehouse`, ...
    pub category: String,
    /// `web`, `android`, `cloud`, ...
    pub kind: String,
    /// `options`, as written.
    pub options: Value,
}

/// A configured target.
#[derive(Clone, Default, PartialEq)]
pub struct Destination {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Off: no new jobs, queued ones are drained.
    pub enabled: bool,
    /// Its workspace.
    pub workspace_id: String,
    /// Changes with its configuration.
    pub revision_id: String,
    /// Non-empty for replay destinations.
    pub original_id: String,
    /// The node delivers (cloud and hybrid mode). Missing = false.
    pub is_processor_enabled: bool,
    /// Settings of the destination, keys kept as written.
    pub config: Map<String, Value>,
    /// User transformations; the first one is used.
    pub transformations: Vec<Transformation>,
    /// Its type.
    pub definition: DestinationDefinition,
    /// Whether its config holds a `{{ path || fallback }}` template.
    pub has_dynamic_config: bool,
    /// The account that it delivers with; only for enabled destinations.
    pub delivery_account: Option<Arc<Account>>,
    /// The account that it deletes users with; only for enabled destinations.
    pub delete_account: Option<Arc<Account>>,
    /// When it was last changed, as written, possibly empty.
    pub updated_at: String,
}

/// The type of a destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationDefinition {
    /// Its id.
    pub id: String,
    /// Its name in capitals (`WEBHOOK`), which selects the integration.
    pub name: String,
    /// Its name as events write it in `integrations`.
    pub display_name: String,
    /// `transformAtV1`, `supportedMessageTypes`, ... as written.
    pub config: Map<String, Value>,
}

/// A reference to a user transformation.
#[derive(Clone, Default, PartialEq)]
pub struct Transformation {
    /// Its id.
    pub id: String,
    /// The version in force.
    pub version_id: String,
    /// Its settings, as written.
    pub config: Value,
    /// `javascript` (the default) or `pythonfaas`.
    pub language: String,
    /// Its code, from the document or from a file; `None` when this node does not have it: then every event of the
    /// destination fails with 404 (processor.md 7.3).
    pub code: Option<Arc<TransformationCode>>,
}

/// A source-destination pair with its own settings.
#[derive(Clone, Default, PartialEq)]
pub struct Connection {
    /// The source.
    pub source_id: String,
    /// The destination.
    pub destination_id: String,
    /// Whether it is on. The processor does not read it (processor.md 6.1).
    pub enabled: bool,
    /// Its settings, as written.
    pub config: Value,
    /// Whether the node delivers.
    pub processor_enabled: bool,
}

impl Workspace {
    /// A version of a tracking plan, if this node has it.
    pub fn tracking_plan(&self, id: &str, version: i64) -> Option<&Arc<TrackingPlan>> {
        self.tracking_plans.get(&(id.to_owned(), version))
    }
}

impl Snapshot {
    /// Builds the look-ups over the workspaces.
    pub fn new(workspaces: Vec<Workspace>, changed_ms: i64) -> Snapshot {
        let scrubber = Arc::new(Scrubber::of(&workspaces));
        let mut snapshot = Snapshot { scrubber, changed_ms, ..Snapshot::default() };
        for mut workspace in workspaces {
            workspace.sources.sort_by(|a, b| a.id.cmp(&b.id));
            for source in &workspace.sources {
                // A source without a key cannot be sent to; an empty key must not find it.
                if !source.write_key.is_empty() {
                    snapshot.source_by_write_key.insert(source.write_key.clone(), Arc::clone(source));
                }
                snapshot.source_by_id.insert(source.id.clone(), Arc::clone(source));
                for destination in &source.destinations {
                    snapshot.destination_by_id.insert(destination.id.clone(), Arc::clone(destination));
                }
            }
            snapshot.workspaces.insert(workspace.id.clone(), Arc::new(workspace));
        }
        snapshot
    }
}

/// The keys of a free-form object, each with `***`.
struct Keys<'a>(&'a Map<String, Value>);

impl fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|key| (key, format_args!("***")))).finish()
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace")
            .field("id", &self.id)
            .field("sources", &self.sources)
            .field("connections", &self.connections)
            .field("settings", &Keys(&self.settings))
            .field("libraries", &self.libraries)
            .field("credentials", &self.credentials)
            .field("tracking_plans", &self.tracking_plans)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The write key is public to its app, but a log is read by more people than that.
        f.debug_struct("Source")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("enabled", &self.enabled)
            .field("workspace_id", &self.workspace_id)
            .field("original_id", &self.original_id)
            .field("config", &Keys(&self.config))
            .field("definition", &self.definition.name)
            .field("destinations", &self.destinations)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("enabled", &self.enabled)
            .field("revision_id", &self.revision_id)
            .field("is_processor_enabled", &self.is_processor_enabled)
            .field("config", &Keys(&self.config))
            .field("transformations", &self.transformations)
            .field("definition", &self.definition.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Transformation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transformation")
            .field("id", &self.id)
            .field("version_id", &self.version_id)
            .field("language", &self.language)
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("source_id", &self.source_id)
            .field("destination_id", &self.destination_id)
            .field("enabled", &self.enabled)
            .field("processor_enabled", &self.processor_enabled)
            .finish_non_exhaustive()
    }
}

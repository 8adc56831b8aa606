//! A connection as the warehouse sees it: its configuration with what settings override, its namespace, its storage.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::failure::Failure;
use super::load_files::Format;
use super::places::{self, Place, Surroundings};
use super::providers::{self, Opening, Provider};
use crate::backend_config::{Destination, Snapshot, Source};
use crate::destination::warehouse::{Choice, Dialect};
use crate::settings::{Settings, WarehouseTypeSettings};

/// Sources whose rows replace others, whatever the destination prefers.
const REPLACING_CATEGORIES: [&str; 2] = ["cloud", "singer-protocol"];

/// A source and a warehouse that its events go to.
#[derive(Clone)]
pub struct Connection {
    /// Where events come from.
    pub source: Arc<Source>,
    /// Where they go to.
    pub destination: Arc<Destination>,
    /// Whose rules hold.
    pub dialect: Dialect,
    /// The destination's configuration, with what settings override.
    pub config: Map<String, Value>,
    /// Settings of the type.
    pub settings: WarehouseTypeSettings,
}

impl Connection {
    /// The connection of these ids, if the configuration has it and its destination is a warehouse.
    pub fn find(snapshot: &Snapshot, settings: &Settings, source_id: &str, destination_id: &str) -> Option<Connection> {
        let source = snapshot.source_by_id.get(source_id)?;
        let destination = source.destinations.iter().find(|destination| destination.id == destination_id)?;
        Connection::of(settings, source, destination)
    }

    /// Every connection to a warehouse.
    pub fn all(snapshot: &Snapshot, settings: &Settings) -> Vec<Connection> {
        let sources = snapshot.workspaces.values().flat_map(|workspace| &workspace.sources);
        let pairs = sources.flat_map(|source| source.destinations.iter().map(move |destination| (source, destination)));
        pairs.filter_map(|(source, destination)| Connection::of(settings, source, destination)).collect()
    }

    fn of(settings: &Settings, source: &Arc<Source>, destination: &Arc<Destination>) -> Option<Connection> {
        let dialect = Dialect::of_type(&destination.definition.name)?;
        let mut config = destination.config.clone();
        for (key, value) in &mut config {
            if value.is_string()
                && let Some(text) = settings.warehouse.overridden(&source.id, &destination.id, key)
            {
                *value = Value::String(text);
            }
        }
        Some(Connection {
            source: Arc::clone(source),
            destination: Arc::clone(destination),
            dialect,
            config,
            settings: settings.warehouse.of_type(&destination.definition.name),
        })
    }

    /// The type of the destination.
    pub fn kind(&self) -> &str {
        &self.destination.definition.name
    }

    /// The format of its load files.
    pub fn format(&self) -> Format {
        Format::of_type(self.kind())
    }

    /// Its namespace; `recorded` is the one that it had before.
    pub fn namespace(&self, recorded: Option<&str>) -> String {
        let text = |key: &str| self.config.get(key).and_then(Value::as_str);
        Choice {
            database: text("database"),
            namespace: text("namespace"),
            prefix: &self.settings.dataset_prefix,
            recorded,
            source_name: &self.source.name,
            keeps_words_together: self.settings.keeps_words_together,
        }
        .namespace(self.dialect)
    }

    /// A truth value of the configuration.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.config.get(key)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => Some(text.eq_ignore_ascii_case("true")),
            _ => None,
        }
    }

    /// Whether rows that are in a table already are replaced (warehouse.md 11.3).
    pub fn merges(&self, is_retried: bool, job_run_id: &str) -> bool {
        if !self.settings.allows_merge {
            return false;
        }
        let can_append = job_run_id.is_empty()
            && self.source.original_id.is_empty()
            && !REPLACING_CATEGORIES.contains(&self.source.definition.category.as_str())
            && !is_retried;
        let prefers_append = self.flag("preferAppend").unwrap_or(self.kind() == "BQ")
            || self.settings.append_destinations.contains(&self.destination.id);
        !(can_append && prefers_append)
    }

    /// The warehouse.
    ///
    /// # Errors
    /// This build has no such warehouse, or the configuration cannot work.
    pub fn open(&self, namespace: &str, around: &Surroundings) -> Result<Arc<dyn Provider>, Failure> {
        providers::open(Opening {
            destination_type: self.kind(),
            config: &self.config,
            namespace,
            data_dir: &around.data_dir,
            timeout: self.settings.connection_timeout,
            columns_batch: self.settings.columns_batch,
        })
    }

    /// The storage of its staging files.
    ///
    /// # Errors
    /// The storage is not reached or its configuration cannot work.
    pub async fn staging_place(&self, is_own: bool, around: &Surroundings) -> Result<Place, Failure> {
        let (destination, workspace) = (&self.destination.id, &self.destination.workspace_id);
        places::of_files(destination, workspace, self.kind(), &self.config, is_own, around).await
    }

    /// The storage of its load files.
    ///
    /// # Errors
    /// The storage is not reached or its configuration cannot work.
    pub async fn load_place(&self, is_own: bool, around: &Surroundings) -> Result<Place, Failure> {
        if self.kind() == "LOCAL_DATALAKE" {
            return places::of_local_lake(&self.config, &around.data_dir);
        }
        self.staging_place(is_own, around).await
    }

    /// Whether staging and load files lie in the node's own folder, which the node keeps clean.
    pub fn keeps_own_files(&self, is_own: bool) -> bool {
        places::is_nodes_own(self.kind(), &self.config, is_own)
    }
}

//! The sources of a configuration, prepared for requests: everything that is the same for all requests of a
//! source is rendered once per configuration, not once per request.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::answer::Refusal;
use super::source_config::Rendered;
use crate::backend_config::{Snapshot, Source, Workspace};
use crate::event::json;

/// What a source wants done with events of bots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BotAction {
    Flag,
    Drop,
}

impl BotAction {
    /// The word in job parameters.
    pub(super) fn name(self) -> &'static str {
        match self {
            BotAction::Flag => "flag",
            BotAction::Drop => "drop",
        }
    }
}

/// A source, as requests need it.
#[derive(Debug)]
pub(super) struct SourceEntry {
    /// Differs between all entries of the process; the key of cached metrics.
    pub(super) serial: u64,
    pub(super) source: Arc<Source>,
    /// `eventStream` when the definition has none.
    pub(super) category: String,
    /// The write key as a JSON string.
    pub(super) quoted_write_key: Vec<u8>,
    pub(super) bot_action: Option<BotAction>,
    /// Names of track events that are blocked.
    pub(super) blocked_events: Option<Arc<HashSet<String>>>,
}

/// Every source of a configuration.
#[derive(Debug, Default)]
pub(super) struct Directory {
    by_write_key: HashMap<String, Arc<SourceEntry>>,
    by_id: HashMap<String, Arc<SourceEntry>>,
    pub(super) snapshot: Arc<Snapshot>,
    /// What `/sourceConfig` answers, once somebody asked.
    pub(super) source_configs: Rendered,
}

impl Directory {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Directory {
        let blocked: HashMap<&str, Arc<HashSet<String>>> = snapshot
            .workspaces
            .iter()
            .filter_map(|(id, workspace)| Some((id.as_str(), Arc::new(blocked_events(workspace)?))))
            .collect();
        let entry =
            |source: &Arc<Source>| Arc::new(SourceEntry::new(source, blocked.get(source.workspace_id.as_str())));
        let by_id: HashMap<String, Arc<SourceEntry>> =
            snapshot.source_by_id.iter().map(|(id, source)| (id.clone(), entry(source))).collect();
        let by_write_key = snapshot
            .source_by_write_key
            .iter()
            .map(|(key, source)| (key.clone(), by_id.get(&source.id).map_or_else(|| entry(source), Arc::clone)))
            .collect();
        Directory { by_write_key, by_id, snapshot, source_configs: Rendered::default() }
    }

    /// The enabled source with this write key.
    ///
    /// # Errors
    /// The key is unknown, or the source is off.
    pub(super) fn by_write_key(&self, write_key: &str) -> Result<&Arc<SourceEntry>, Refusal> {
        enabled(self.any_by_write_key(write_key).ok_or(Refusal::InvalidWriteKey)?)
    }

    /// The enabled webhook source with this write key.
    ///
    /// # Errors
    /// The key is unknown or that of another kind of source, or the source is off.
    pub(super) fn webhook_by_write_key(&self, write_key: &str) -> Result<&Arc<SourceEntry>, Refusal> {
        let entry = self.any_by_write_key(write_key).ok_or(Refusal::InvalidWriteKey)?;
        if entry.source.definition.category == "webhook" { enabled(entry) } else { Err(Refusal::InvalidWriteKey) }
    }

    /// The source with this write key, whatever its state.
    pub(super) fn any_by_write_key(&self, write_key: &str) -> Option<&Arc<SourceEntry>> {
        let found = self.by_write_key.get(write_key);
        found.filter(|entry| same(entry.source.write_key.as_bytes(), write_key.as_bytes()))
    }

    /// The enabled source with this id.
    ///
    /// # Errors
    /// The id is unknown, or the source is off.
    pub(super) fn by_id(&self, id: &str) -> Result<&Arc<SourceEntry>, Refusal> {
        enabled(self.by_id.get(id).ok_or(Refusal::InvalidSourceId)?)
    }

    /// The source with this id, whatever its state.
    pub(super) fn any_by_id(&self, id: &str) -> Option<&Arc<SourceEntry>> {
        self.by_id.get(id)
    }
}

impl SourceEntry {
    fn new(source: &Arc<Source>, blocked: Option<&Arc<HashSet<String>>>) -> SourceEntry {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let definition = &source.definition;
        let mut quoted_write_key = Vec::new();
        json::push_string(&mut quoted_write_key, &source.write_key);
        let bot_action = match source.config.get("botAction").and_then(Value::as_str) {
            Some("flag") => Some(BotAction::Flag),
            Some("drop") => Some(BotAction::Drop),
            _ => None,
        };
        let blockable = matches!(definition.category.as_str(), "" | "webhook");
        SourceEntry {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            source: Arc::clone(source),
            category: if definition.category.is_empty() {
                "eventStream".to_owned()
            } else {
                definition.category.clone()
            },
            quoted_write_key,
            bot_action,
            blocked_events: blocked.filter(|_| blockable).map(Arc::clone),
        }
    }
}

fn enabled(entry: &Arc<SourceEntry>) -> Result<&Arc<SourceEntry>, Refusal> {
    if entry.source.enabled { Ok(entry) } else { Err(Refusal::SourceDisabled) }
}

/// `settings.eventBlocking.events.track`, when it names anything.
fn blocked_events(workspace: &Workspace) -> Option<HashSet<String>> {
    let names = workspace.settings.get("eventBlocking")?.get("events")?.get("track")?.as_array()?;
    let names: HashSet<String> =
        names.iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() { None } else { Some(names) }
}

/// Compares in a time that depends on the length only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

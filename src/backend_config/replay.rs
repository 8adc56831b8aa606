//! Replay sources (gateway.md 11.6): for each entry of `eventReplays` and each of its sources, a copy of the
//! original source with copies of the listed destinations.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::model::{Destination, Source, Workspace};

/// Adds the sources that `eventReplays` asks for. Only those with at least one destination are added.
pub(super) fn expand(workspace: &mut Workspace, replays: &Map<String, Value>) {
    let mut added: Vec<Arc<Source>> = Vec::new();
    for replay in replays.values() {
        let originals = |kind: &str| replay.get(kind).and_then(Value::as_object);
        for (new_id, entry) in originals("sources").into_iter().flatten() {
            let original_id = text(entry, "originalId");
            let Some(original) = workspace.sources.iter().find(|source| source.id == original_id) else { continue };
            let wanted: Vec<&str> = replay
                .get("connections")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|connection| text(connection, "sourceId") == new_id)
                .map(|connection| text(connection, "destinationId"))
                .collect();
            let mut destinations: Vec<Arc<Destination>> = Vec::new();
            for (new_destination_id, entry) in originals("destinations").into_iter().flatten() {
                let original_destination_id = text(entry, "originalId");
                let found = original.destinations.iter().find(|destination| destination.id == original_destination_id);
                if let (true, Some(destination)) = (wanted.contains(&new_destination_id.as_str()), found) {
                    destinations.push(Arc::new(Destination {
                        id: new_destination_id.clone(),
                        original_id: destination.id.clone(),
                        is_processor_enabled: true,
                        ..Destination::clone(destination)
                    }));
                }
            }
            if destinations.is_empty() {
                continue;
            }
            let mut config = original.config.clone();
            config.shift_remove("eventUpload");
            added.push(Arc::new(Source {
                id: new_id.clone(),
                write_key: new_id.clone(),
                original_id: original.id.clone(),
                config,
                destinations,
                ..Source::clone(original)
            }));
        }
    }
    workspace.sources.extend(added);
    workspace.sources.sort_by(|a, b| a.id.cmp(&b.id));
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

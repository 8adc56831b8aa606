//! Whether events are copied to the archive (processor.md 3.8, jobsdb.md 14).

use serde_json::{Map, Value};

use crate::backend_config::Source;
use crate::settings::ArchivalSettings;

/// Whether an archive storage exists: a local directory, or the workspace stores its gateway dumps.
pub fn exists(settings: &ArchivalSettings, workspace_settings: Option<&Map<String, Value>>) -> bool {
    if !settings.enabled {
        return false;
    }
    let gateway_dumps = workspace_settings
        .and_then(|settings| settings.get("dataRetention"))
        .and_then(|retention| retention.get("storagePreferences"))
        .and_then(|preferences| preferences.get("gatewayDumps"));
    settings.local_path.is_some() || gateway_dumps == Some(&Value::Bool(true))
}

/// Whether events of this source and run may be archived at all.
pub fn takes(source: &Source, source_job_run_id: &str) -> bool {
    source_job_run_id.is_empty() && !source.transient
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_archived_only_where_there_is_a_storage() {
        let mut nowhere = crate::settings::Settings::defaults().archival;
        nowhere.local_path = None;
        let dumps = |on: bool| {
            json!({ "dataRetention": { "storagePreferences": { "gatewayDumps": on } } }).as_object().cloned().unwrap()
        };
        assert!(!exists(&nowhere, None));
        assert!(!exists(&nowhere, Some(&dumps(false))));
        assert!(exists(&nowhere, Some(&dumps(true))));
        let mut local = nowhere.clone();
        local.local_path = Some("/var/lib/pintle/archive/gw".into());
        assert!(exists(&local, None));
        local.enabled = false;
        assert!(!exists(&local, Some(&dumps(true))));
    }

    #[test]
    fn personal_and_reverse_etl_events_are_not_archived() {
        assert!(takes(&Source::default(), ""));
        assert!(!takes(&Source::default(), "run"));
        assert!(!takes(&Source { transient: true, ..Source::default() }, ""));
    }
}

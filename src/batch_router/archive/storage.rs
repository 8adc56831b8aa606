//! Which storage takes the archive of a workspace (jobsdb.md 14).

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::backend_config::Workspace;
use crate::settings::ArchivalSettings;

use super::super::object_key::joined;
use crate::object_storage::key_prefix;

/// Where archive files go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Choice {
    /// A bucket.
    Bucket {
        /// `S3`, `MINIO`, ...
        provider: String,
        /// As a destination of that type would have it.
        config: Map<String, Value>,
        /// Before every key.
        prefix: String,
    },
    /// A directory on this machine.
    Local(PathBuf),
    /// Nowhere.
    None,
}

impl Choice {
    /// Provider, configuration and key prefix.
    pub(super) fn as_destination(&self) -> (&str, Map<String, Value>, String) {
        match self {
            Choice::Bucket { provider, config, prefix } => (provider, config.clone(), prefix.clone()),
            Choice::Local(path) => {
                let mut config = Map::new();
                config.insert("path".to_owned(), path.to_string_lossy().into_owned().into());
                ("LOCAL", config, String::new())
            }
            Choice::None => ("", Map::new(), String::new()),
        }
    }
}

/// The workspace's own choice, then the local directory.
pub(super) fn choose(settings: &ArchivalSettings, workspace: Option<&Workspace>) -> Choice {
    if !settings.enabled {
        return Choice::None;
    }
    if let Some(bucket) = workspace.and_then(|workspace| bucket_of(settings, workspace)) {
        return bucket;
    }
    settings.local_path.clone().map_or(Choice::None, Choice::Local)
}

fn bucket_of(settings: &ArchivalSettings, workspace: &Workspace) -> Option<Choice> {
    let retention = workspace.settings.get("dataRetention")?;
    if retention.pointer("/storagePreferences/gatewayDumps") != Some(&Value::Bool(true)) {
        return None;
    }
    if retention.get("useSelfStorage") == Some(&Value::Bool(true)) {
        let bucket = retention.get("storageBucket")?;
        let provider = bucket.get("type")?.as_str().filter(|provider| !provider.is_empty())?.to_owned();
        let mut config = bucket.get("config")?.as_object()?.clone();
        if provider == "S3" {
            config.retain(|name, _| !name.eq_ignore_ascii_case("region"));
            if config.keys().any(|name| name.eq_ignore_ascii_case("iamRoleArn")) {
                config.insert("externalID".to_owned(), workspace.id.clone().into());
            }
        }
        let prefix = key_prefix(&config);
        return Some(Choice::Bucket { provider, config, prefix });
    }
    let backup = &settings.backup;
    if backup.bucket.is_empty() {
        return None;
    }
    let config = match backup.provider.as_str() {
        "MINIO" => json!({
            "bucketName": backup.bucket, "endPoint": backup.minio_endpoint, "accessKeyID": backup.minio_access_key_id,
            "secretAccessKey": backup.minio_secret_access_key, "useSSL": backup.minio_ssl,
        }),
        _ => json!({ "bucketName": backup.bucket }),
    };
    let further = match retention.get("retentionPeriod").and_then(Value::as_str) {
        Some("default") => backup.default_prefix.as_str(),
        _ => "",
    };
    Some(Choice::Bucket {
        provider: backup.provider.clone(),
        config: config.as_object().cloned().unwrap_or_default(),
        prefix: joined(&backup.provider, &[&backup.prefix, further]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn workspace(retention: Value) -> Workspace {
        let mut settings = Map::new();
        settings.insert("dataRetention".to_owned(), retention);
        Workspace { id: "ws".into(), settings, ..Workspace::default() }
    }

    #[test]
    fn the_workspace_chooses_first_and_the_local_directory_is_the_rest() {
        let mut settings = Settings::defaults().archival;
        assert_eq!(choose(&settings, None), Choice::None);
        settings.local_path = Some(PathBuf::from("/a"));
        assert_eq!(choose(&settings, None), Choice::Local(PathBuf::from("/a")));

        let own = json!({ "useSelfStorage": true, "storagePreferences": { "gatewayDumps": true },
            "storageBucket": { "type": "S3", "config": { "bucketName": "b", "prefix": "p", "region": "x", "iamRoleArn": "r" } } });
        let Choice::Bucket { provider, config, prefix } = choose(&settings, Some(&workspace(own.clone()))) else {
            panic!("a bucket is configured");
        };
        assert_eq!((provider.as_str(), prefix.as_str()), ("S3", "p"));
        assert_eq!(
            Value::Object(config),
            json!({ "bucketName": "b", "prefix": "p", "iamRoleArn": "r", "externalID": "ws" })
        );

        let mut off = own;
        off["storagePreferences"]["gatewayDumps"] = false.into();
        assert_eq!(choose(&settings, Some(&workspace(off.clone()))), Choice::Local(PathBuf::from("/a")));
        settings.local_path = None;
        assert_eq!(choose(&settings, Some(&workspace(off))), Choice::None);
    }

    #[test]
    fn the_nodes_own_backup_bucket_serves_workspaces_without_one() {
        let mut settings = Settings::defaults().archival;
        let retention = json!({ "storagePreferences": { "gatewayDumps": true }, "retentionPeriod": "default" });
        assert_eq!(choose(&settings, Some(&workspace(retention.clone()))), Choice::None);
        settings.backup.bucket = "bk".to_owned();
        settings.backup.prefix = "x".to_owned();
        let Choice::Bucket { provider, prefix, .. } = choose(&settings, Some(&workspace(retention.clone()))) else {
            panic!("a bucket is configured");
        };
        assert_eq!((provider.as_str(), prefix.as_str()), ("S3", "x/7dayretention"));
        settings.enabled = false;
        assert_eq!(choose(&settings, Some(&workspace(retention))), Choice::None);
    }
}

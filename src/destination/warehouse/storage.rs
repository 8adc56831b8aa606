//! Where the files of a warehouse lie between the node and its tables (router.md 21, warehouse.md 18.4).

use serde_json::{Map, Value};

/// The storage of staging and load files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStorage {
    /// `warehouse/objects` of the data directory: the destination has no bucket.
    Local,
    /// The destination's own, of this provider (`S3`).
    Provider(&'static str),
}

/// Providers that a destination can name.
const PROVIDERS: [&str; 5] = ["S3", "GCS", "AZURE_BLOB", "MINIO", "DIGITAL_OCEAN_SPACES"];

impl FileStorage {
    /// The storage of a destination.
    ///
    /// # Errors
    /// The name of a provider that nobody knows.
    pub fn of_warehouse(destination_type: &str, config: &Map<String, Value>) -> Result<FileStorage, String> {
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        if config.get("useRudderStorage") == Some(&Value::Bool(true)) {
            return Ok(FileStorage::Local);
        }
        let provider = match destination_type {
            "LOCAL_DATALAKE" | "DUCKDB" | "SQLITE" | "DELTA_LOCAL" | "ICEBERG_LOCAL" => "LOCAL",
            "RS" | "S3_DATALAKE" => "S3",
            "BQ" | "GCS_DATALAKE" => "GCS",
            "AZURE_DATALAKE" => "AZURE_BLOB",
            "SNOWFLAKE" => match text("cloudProvider") {
                "GCP" => "GCS",
                "AZURE" => "AZURE_BLOB",
                _ => "S3",
            },
            _ => text("bucketProvider"),
        };
        if matches!(provider, "" | "LOCAL") {
            return Ok(FileStorage::Local);
        }
        let known = PROVIDERS.into_iter().find(|known| *known == provider);
        known.map(FileStorage::Provider).ok_or_else(|| provider.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_type_or_its_configuration_chooses_the_storage() {
        let table = [
            ("RS", json!({}), Ok(FileStorage::Provider("S3"))),
            ("BQ", json!({ "bucketProvider": "S3" }), Ok(FileStorage::Provider("GCS"))),
            ("S3_DATALAKE", json!({ "useRudderStorage": true }), Ok(FileStorage::Local)),
            ("SNOWFLAKE", json!({}), Ok(FileStorage::Provider("S3"))),
            ("SNOWFLAKE", json!({ "cloudProvider": "AZURE" }), Ok(FileStorage::Provider("AZURE_BLOB"))),
            ("POSTGRES", json!({}), Ok(FileStorage::Local)),
            ("POSTGRES", json!({ "bucketProvider": "LOCAL" }), Ok(FileStorage::Local)),
            ("CLICKHOUSE", json!({ "bucketProvider": "MINIO" }), Ok(FileStorage::Provider("MINIO"))),
            ("MSSQL", json!({ "bucketProvider": "FTP" }), Err("FTP".to_owned())),
            ("LOCAL_DATALAKE", json!({ "bucketProvider": "S3" }), Ok(FileStorage::Local)),
        ];
        for (kind, config, expected) in table {
            assert_eq!(FileStorage::of_warehouse(kind, config.as_object().unwrap()), expected, "{kind} {config}");
        }
    }
}

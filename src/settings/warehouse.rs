//! Loading of warehouses: `Warehouse.<name>.K`, then `Warehouse.K` (warehouse.md 19).

use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::{Raw, Reader};

pub(super) const KEYS: &[Key] = &[
    Key::new("Warehouse.noOfWorkers", Kind::Int, "8", "Uploads of one warehouse type at a time.")
        .also(&["Warehouse.<name>.noOfWorkers"]),
    Key::new("Warehouse.runningMode", Kind::Text, "", "\"degraded\" = uploads are shown but not worked on.").hot(),
    Key::new(
        "Warehouse.maxConcurrentUploadJobs",
        Kind::Int,
        "1",
        "Uploads of one namespace of a destination at a time, of different sources.",
    )
    .also(&["Warehouse.<name>.maxConcurrentUploadJobs"])
    .hot(),
    Key::new(
        "Warehouse.maxParallelLoads",
        Kind::Int,
        "8",
        "Tables of one upload that are loaded at a time (bigquery: 20, azure_synapse: 1 unless set).",
    )
    .also(&["Warehouse.<name>.maxParallelLoads"])
    .hot(),
    Key::new("Warehouse.columnsBatchSize", Kind::Int, "100", "Columns that one statement adds.")
        .also(&["Warehouse.<name>.columnsBatchSize"])
        .hot(),
    Key::new("Warehouse.allowMerge", Kind::Bool, "true", "Rows that are in a table already are replaced.")
        .also(&["Warehouse.<name>.allowMerge"])
        .hot(),
    Key::new(
        "Warehouse.skipDedupDestinationIDs",
        Kind::List,
        "",
        "Destinations whose rows are appended even if they are in the table already.",
    )
    .also(&["Warehouse.<name>.skipDedupDestinationIDs"])
    .hot(),
    Key::new(
        "Warehouse.skipComputingUserLatestTraits",
        Kind::Bool,
        "false",
        "The table users is loaded as it comes instead of being computed from identifies.",
    )
    .also(&["Warehouse.<name>.skipComputingUserLatestTraits"])
    .hot(),
    Key::new(
        "Warehouse.customDatasetPrefix",
        Kind::Text,
        "",
        "First word of namespaces that are named after the source.",
    )
    .also(&["Warehouse.<name>.customDatasetPrefix"])
    .hot(),
    Key::new(
        "Warehouse.skipNamespaceSnakeCasing",
        Kind::Bool,
        "false",
        "Words in the names of namespaces stay together.",
    )
    .also(&["Warehouse.<name>.skipNamespaceSnakeCasing"])
    .hot(),
    Key::new(
        "Warehouse.noOfSlaveWorkerRoutines",
        Kind::Int,
        "4",
        "Groups of staging files that become load files at a time; at most the number of processors.",
    ),
    Key::new(
        "Warehouse.numLoadFileUploadWorkers",
        Kind::Int,
        "8",
        "Load files of one group that are stored at a time.",
    )
    .hot(),
    Key::new("Warehouse.slaveUploadTimeout", Kind::Duration(Unit::Minute), "10m", "Longest time to store one file.")
        .also(&["Warehouse.slaveUploadTimeoutInMin"])
        .hot(),
    Key::new(
        "Warehouse.loadFiles.maxSizeInMB",
        Kind::Bytes(1 << 20),
        "512",
        "Most bytes of one table, uncompressed, in one group of staging files.",
    )
    .hot(),
    Key::new(
        "Warehouse.maxStagingFileReadBufferCapacityInK",
        Kind::Bytes(1 << 10),
        "10240",
        "Longest line of a staging file.",
    )
    .hot(),
    Key::new("Warehouse.stagingFilesBatchSize", Kind::Int, "960", "Most staging files of one upload.").hot(),
    Key::new("Warehouse.mainLoopSleep", Kind::Duration(Unit::Second), "5s", "Time between two looks for due uploads.")
        .also(&["Warehouse.mainLoopSleepInS"])
        .hot(),
    Key::new(
        "Warehouse.uploadFreqInS",
        Kind::Duration(Unit::Second),
        "1800",
        "Time between two uploads of a connection whose destination has no schedule.",
    )
    .also(&["Warehouse.uploadFreq"])
    .hot(),
    Key::new(
        "Warehouse.warehouseSyncFreqIgnore",
        Kind::Bool,
        "false",
        "Uploads keep to Warehouse.uploadFreqInS whatever the destinations say.",
    )
    .hot(),
    Key::new("Warehouse.enableJitterForSyncs", Kind::Bool, "false", "New uploads wait up to 15 s.").hot(),
    Key::new(
        "Warehouse.minRetryAttempts",
        Kind::Int,
        "3",
        "Failures of one step after which an upload may be given up.",
    )
    .hot(),
    Key::new(
        "Warehouse.retryTimeWindow",
        Kind::Duration(Unit::Minute),
        "180m",
        "An upload is not given up before this time.",
    )
    .also(&["Warehouse.retryTimeWindowInMins"])
    .hot(),
    Key::new("Warehouse.minUploadBackoff", Kind::Duration(Unit::Second), "60s", "Wait after the first failure.")
        .also(&["Warehouse.minUploadBackoffInS"])
        .hot(),
    Key::new("Warehouse.maxUploadBackoff", Kind::Duration(Unit::Second), "1800s", "Longest wait after a failure.")
        .also(&["Warehouse.maxUploadBackoffInS"])
        .hot(),
    Key::new(
        "Warehouse.skipPreviouslyFailedTables",
        Kind::Bool,
        "false",
        "Tables are loaded even if an earlier upload could not load them.",
    )
    .hot(),
    Key::new(
        "Warehouse.schemaTTLInMinutes",
        Kind::Duration(Unit::Minute),
        "720",
        "After this time the tables of a warehouse are looked at again.",
    )
    .hot(),
    Key::new(
        "Warehouse.enableConstraintsViolations",
        Kind::Bool,
        "true",
        "Merge rules with identifiers that are too long are discarded.",
    )
    .hot(),
    Key::new(
        "Warehouse.archiveUploadRelatedRecords",
        Kind::Bool,
        "true",
        "Records and local files of old finished uploads are removed.",
    )
    .hot(),
    Key::new("Warehouse.uploadsArchivalTimeInDays", Kind::Duration(Unit::Day), "5", "Age at which that happens.").hot(),
    Key::new(
        "Warehouse.archiverTickerTime",
        Kind::Duration(Unit::Minute),
        "360m",
        "Time between two looks for old uploads.",
    )
    .also(&["Warehouse.archiverTickerTimeInMin"])
    .hot(),
    Key::new("Warehouse.canDeleteUploads", Kind::Bool, "false", "Old finished uploads are forgotten.").hot(),
    Key::new("Warehouse.uploadRetentionTimeInDays", Kind::Duration(Unit::Day), "90", "Age at which that happens.")
        .hot(),
    Key::new("Warehouse.connectionTimeout", Kind::Duration(Unit::Hour), "3h", "Longest time of one statement.")
        .also(&["Warehouse.<name>.connectionTimeout"])
        .hot(),
    Key::new(
        "Warehouse.Validations.ObjectStorageTimeout",
        Kind::Duration(Unit::Second),
        "15s",
        "Longest time to try a destination's object storage.",
    )
    .hot(),
    Key::new(
        "Warehouse.Validations.QueryTimeout",
        Kind::Duration(Unit::Second),
        "25s",
        "Longest time to try a connection to a warehouse.",
    )
    .hot(),
    Key::new(
        "WAREHOUSE_BUCKET_LOAD_OBJECTS_FOLDER_NAME",
        Kind::Text,
        "rudder-warehouse-load-objects",
        "Folder of load files below the configured prefix.",
    ),
    Key::new("WAREHOUSE_DATALAKE_FOLDER_NAME", Kind::Text, "rudder-datalake", "Folder of the tables of data lakes."),
    Key::new(
        "RUDDER_CONNECTION_TESTING_BUCKET_FOLDER_NAME",
        Kind::Text,
        "rudder-test-payload",
        "Folder of the files by which an object storage is tried.",
    ),
];

/// Settings of the warehouse; those of one type through [`WarehouseSettings::of_type`].
#[derive(Clone, Debug)]
pub struct WarehouseSettings {
    raw: Arc<Raw>,
    /// Whether uploads rest.
    pub is_degraded: bool,
    /// Groups of staging files that become load files at a time.
    pub load_file_workers: usize,
    /// Load files of one group that are stored at a time.
    pub load_file_uploads: usize,
    /// Longest time to store or fetch one file.
    pub storage_timeout: Duration,
    /// Most uncompressed bytes of one table in one group.
    pub group_bytes: u64,
    /// Longest line of a staging file.
    pub longest_line: u64,
    /// Most staging files of one upload.
    pub files_of_upload: usize,
    /// Time between two looks for due uploads.
    pub main_loop_sleep: Duration,
    /// Time between two uploads of a connection whose destination has no schedule.
    pub upload_frequency: Duration,
    /// Whether that time rules whatever the destinations say.
    pub ignores_sync_frequency: bool,
    /// Whether new uploads wait a little.
    pub has_jitter: bool,
    /// Failures of one step after which an upload may be given up.
    pub min_retry_attempts: u32,
    /// An upload is not given up before this time.
    pub retry_time_window: Duration,
    /// Wait after the first failure.
    pub min_backoff: Duration,
    /// Longest wait after a failure.
    pub max_backoff: Duration,
    /// Whether tables are loaded even if an earlier upload could not load them.
    pub ignores_failed_tables: bool,
    /// After this time the tables of a warehouse are looked at again.
    pub schema_ttl: Duration,
    /// Whether merge rules with identifiers that are too long are discarded.
    pub checks_constraints: bool,
    /// Whether records and local files of old finished uploads are removed.
    pub archives_uploads: bool,
    /// Age at which that happens.
    pub archive_after: Duration,
    /// Time between two looks for old uploads.
    pub archive_every: Duration,
    /// Whether old finished uploads are forgotten.
    pub deletes_uploads: bool,
    /// Age at which that happens.
    pub delete_after: Duration,
    /// Longest time to try an object storage.
    pub storage_trial: Duration,
    /// Longest time to try a connection.
    pub query_trial: Duration,
    /// Folder of load files.
    pub load_folder: String,
    /// Folder of the tables of data lakes.
    pub lake_folder: String,
    /// Folder of trial files.
    pub trial_folder: String,
}

/// Settings of one warehouse type.
#[derive(Clone, Debug)]
pub struct WarehouseTypeSettings {
    /// Uploads of the type at a time.
    pub workers: usize,
    /// Uploads of one namespace at a time.
    pub uploads_of_namespace: usize,
    /// Tables of one upload that are loaded at a time.
    pub parallel_loads: usize,
    /// Columns that one statement adds.
    pub columns_batch: usize,
    /// Whether rows that are in a table already are replaced.
    pub allows_merge: bool,
    /// Destinations whose rows are appended.
    pub append_destinations: Vec<String>,
    /// Whether `users` is loaded as it comes.
    pub loads_users_as_they_come: bool,
    /// Longest time of one statement.
    pub connection_timeout: Duration,
    /// First word of namespaces that are named after the source; empty = none.
    pub dataset_prefix: String,
    /// Words in the names of namespaces stay together.
    pub keeps_words_together: bool,
}

impl WarehouseSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> WarehouseSettings {
        let general = r.within(&[]);
        let _general_is_valid = WarehouseTypeSettings::read(&general, "");
        r.absorb(general);
        WarehouseSettings {
            raw: Arc::clone(raw),
            is_degraded: r.text("Warehouse.runningMode").eq_ignore_ascii_case("degraded"),
            load_file_workers: r.count_at_least("Warehouse.noOfSlaveWorkerRoutines", 1),
            load_file_uploads: r.count_at_least("Warehouse.numLoadFileUploadWorkers", 1),
            storage_timeout: r.duration("Warehouse.slaveUploadTimeout"),
            group_bytes: r.bytes("Warehouse.loadFiles.maxSizeInMB").max(1),
            longest_line: r.bytes("Warehouse.maxStagingFileReadBufferCapacityInK").max(1024),
            files_of_upload: r.count_at_least("Warehouse.stagingFilesBatchSize", 1),
            main_loop_sleep: r.duration("Warehouse.mainLoopSleep").max(Duration::from_millis(100)),
            upload_frequency: r.duration("Warehouse.uploadFreqInS"),
            ignores_sync_frequency: r.flag("Warehouse.warehouseSyncFreqIgnore"),
            has_jitter: r.flag("Warehouse.enableJitterForSyncs"),
            min_retry_attempts: u32::try_from(r.count("Warehouse.minRetryAttempts")).unwrap_or(u32::MAX),
            retry_time_window: r.duration("Warehouse.retryTimeWindow"),
            min_backoff: r.duration("Warehouse.minUploadBackoff"),
            max_backoff: r.duration("Warehouse.maxUploadBackoff"),
            ignores_failed_tables: r.flag("Warehouse.skipPreviouslyFailedTables"),
            schema_ttl: r.duration("Warehouse.schemaTTLInMinutes"),
            checks_constraints: r.flag("Warehouse.enableConstraintsViolations"),
            archives_uploads: r.flag("Warehouse.archiveUploadRelatedRecords"),
            archive_after: r.duration("Warehouse.uploadsArchivalTimeInDays"),
            archive_every: r.duration("Warehouse.archiverTickerTime").max(Duration::from_secs(1)),
            deletes_uploads: r.flag("Warehouse.canDeleteUploads"),
            delete_after: r.duration("Warehouse.uploadRetentionTimeInDays"),
            storage_trial: r.duration("Warehouse.Validations.ObjectStorageTimeout"),
            query_trial: r.duration("Warehouse.Validations.QueryTimeout"),
            load_folder: r.text("WAREHOUSE_BUCKET_LOAD_OBJECTS_FOLDER_NAME"),
            lake_folder: r.text("WAREHOUSE_DATALAKE_FOLDER_NAME"),
            trial_folder: r.text("RUDDER_CONNECTION_TESTING_BUCKET_FOLDER_NAME"),
        }
    }

    /// Settings of the destination type (`POSTGRES`).
    pub fn of_type(&self, destination_type: &str) -> WarehouseTypeSettings {
        let name = settings_name(destination_type);
        let own = Reader::scoped(&self.raw, &[format!("Warehouse.{name}")]);
        WarehouseTypeSettings::read(&own, &name)
    }

    /// The destination setting `key` of a connection when it is overridden here.
    pub fn overridden(&self, source_id: &str, destination_id: &str, key: &str) -> Option<String> {
        let name = format!("Warehouse.pipeline.{source_id}.{destination_id}.{key}");
        self.raw.lookup(&name).map(|(texts, _)| texts.join(" "))
    }
}

/// What settings call a destination type (warehouse.md 6).
pub fn settings_name(destination_type: &str) -> String {
    match destination_type {
        "BQ" => "bigquery".to_owned(),
        "RS" => "redshift".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

impl WarehouseTypeSettings {
    fn read(r: &Reader<'_>, name: &str) -> WarehouseTypeSettings {
        let parallel_loads = if r.is_set("Warehouse.maxParallelLoads") {
            r.count_at_least("Warehouse.maxParallelLoads", 1)
        } else {
            match name {
                "bigquery" => 20,
                "azure_synapse" => 1,
                _ => r.count_at_least("Warehouse.maxParallelLoads", 1),
            }
        };
        WarehouseTypeSettings {
            workers: r.count_at_least("Warehouse.noOfWorkers", 1),
            uploads_of_namespace: r.count_at_least("Warehouse.maxConcurrentUploadJobs", 1),
            parallel_loads,
            columns_batch: r.count_at_least("Warehouse.columnsBatchSize", 1),
            allows_merge: r.flag("Warehouse.allowMerge"),
            append_destinations: r.list("Warehouse.skipDedupDestinationIDs"),
            loads_users_as_they_come: r.flag("Warehouse.skipComputingUserLatestTraits"),
            connection_timeout: r.duration("Warehouse.connectionTimeout"),
            dataset_prefix: r.text("Warehouse.customDatasetPrefix"),
            keeps_words_together: r.flag("Warehouse.skipNamespaceSnakeCasing"),
        }
    }
}

/// What the tests of the warehouse turn, and a node on which nothing takes long.
#[cfg(test)]
impl WarehouseSettings {
    pub(crate) fn quick_node(more: &[(&str, &str)]) -> super::Settings {
        let always = [
            ("Storage.ballast", "0"),
            ("Storage.softFree", "1"),
            ("Storage.allowUnsafeFs", "true"),
            ("profile", "small"),
            ("Warehouse.mainLoopSleep", "100ms"),
        ];
        let mut raw = Raw::default();
        for (name, text) in always.iter().chain(more) {
            raw.file.insert(name.to_ascii_lowercase(), (vec![(*text).to_owned()], None));
        }
        super::Settings::from_raw(&Arc::new(raw)).unwrap()
    }
}

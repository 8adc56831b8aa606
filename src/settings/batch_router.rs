//! Delivery in files: `BatchRouter.<TYPE>.K`, then `BatchRouter.K` (router.md 24), and the archive of
//! gateway events (jobsdb.md 14).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::catalogue::{Key, Kind, Unit};
use super::raw::{Raw, Reader};

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "BatchRouter.uploadFreq",
        Kind::Duration(Unit::Second),
        "30s",
        "Time between two cuts (LOCAL and embedded warehouses: 10s unless set).",
    )
    .also(&["BatchRouter.uploadFreqInS", "BatchRouter.<TYPE>.uploadFreq", "BatchRouter.<TYPE>.uploadFreqInS"])
    .hot(),
    Key::new("BatchRouter.maxEventsInABatch", Kind::Int, "10000", "Jobs that cut a batch before its time.")
        .also(&["BatchRouter.<TYPE>.maxEventsInABatch"])
        .hot(),
    Key::new(
        "BatchRouter.asyncUploadTimeout",
        Kind::Duration(Unit::Minute),
        "30m",
        "Time between two files of records (SFTP) of destinations that set no uploadInterval.",
    )
    .also(&["BatchRouter.<TYPE>.asyncUploadTimeout"])
    .hot(),
    Key::new(
        "BatchRouter.maxPayloadSizeInBytes",
        Kind::Bytes(1),
        "10000",
        "Payload bytes that fill a file of records (SFTP) before its time.",
    )
    .also(&["BatchRouter.<TYPE>.maxPayloadSizeInBytes"])
    .hot(),
    Key::new("BatchRouter.jobQueryBatchSize", Kind::Int, "20000", "Most jobs read at once.")
        .also(&["BatchRouter.<TYPE>.jobQueryBatchSize"])
        .hot(),
    Key::new(
        "BatchRouter.PayloadLimit",
        Kind::Bytes(1),
        "64MiB",
        "Most payload bytes in memory, over all destinations that write a file.",
    ),
    Key::new("BatchRouter.maxFailedCountForJob", Kind::Int, "128", "Attempts after which a job may be given up.")
        .also(&["BatchRouter.<TYPE>.maxFailedCountForJob"])
        .hot(),
    Key::new(
        "BatchRouter.retryTimeWindow",
        Kind::Duration(Unit::Minute),
        "180m",
        "A job is not given up before this time since its first attempt.",
    )
    .also(&["BatchRouter.<TYPE>.retryTimeWindow"])
    .hot(),
    Key::new("BatchRouter.RSources.maxFailedCountForJob", Kind::Int, "3", "The same for jobs of a reverse-ETL run.")
        .hot(),
    Key::new(
        "BatchRouter.RSources.retryTimeWindow",
        Kind::Duration(Unit::Minute),
        "1m",
        "The same for jobs of a reverse-ETL run.",
    )
    .hot(),
    Key::new(
        "BatchRouter.pingFrequency",
        Kind::Duration(Unit::Second),
        "1s",
        "Least time between two looks at the backlog of a destination.",
    )
    .also(&["BatchRouter.<TYPE>.pingFrequency"])
    .hot(),
    Key::new("BatchRouter.partitionWorker.concurrency", Kind::Int, "10", "Uploads of one destination at a time.")
        .also(&["BatchRouter.<TYPE>.partitionWorker.concurrency"])
        .hot(),
    Key::new("BatchRouter.Limiter.upload.limit", Kind::Int, "200", "Uploads of one destination type at a time.")
        .also(&["BatchRouter.<TYPE>.Limiter.upload.limit"]),
    Key::new(
        "BatchRouter.maxConsecutiveFailures",
        Kind::Int,
        "3",
        "Failed uploads in a row that open the circuit breaker of a destination.",
    )
    .also(&["BatchRouter.<TYPE>.maxConsecutiveFailures"])
    .hot(),
    Key::new(
        "BatchRouter.timeout",
        Kind::Duration(Unit::Second),
        "30s",
        "How long an open circuit breaker stays open; also a fallback of the storage timeout.",
    )
    .also(&["BatchRouter.<TYPE>.timeout"])
    .hot(),
    Key::new("FileManager.timeout", Kind::Duration(Unit::Second), "120s", "Longest time of one storage operation.")
        .also(&["FileManager.<PROVIDER>.timeout"])
        .hot(),
    Key::new(
        "BatchRouter.datePrefixOverride",
        Kind::Text,
        "",
        "Date layout of object keys: MM-DD-YYYY, or any other text for YYYY-MM-DD.",
    )
    .also(&[
        "BatchRouter.datePrefixOverride.<workspaceID>",
        "BatchRouter.datePrefixOverride.<workspaceID>.<destinationID>",
    ])
    .hot(),
    Key::new(
        "BatchRouter.customDatePrefix",
        Kind::Text,
        "",
        "Text directly before the date in object keys, such as \"date=\".",
    )
    .also(&["BatchRouter.<TYPE>.customDatePrefix"])
    .hot(),
    Key::new("BatchRouter.customTimezone", Kind::Text, "", "IANA time zone of the date in object keys; empty = UTC.")
        .also(&["BatchRouter.customTimezone.<workspaceID>"])
        .hot(),
    Key::new(
        "DESTINATION_BUCKET_FOLDER_NAME",
        Kind::Text,
        "rudder-logs",
        "Folder of delivered files below the configured prefix.",
    ),
    Key::new(
        "BatchRouter.manifestRetention",
        Kind::Duration(Unit::Hour),
        "24h",
        "An upload whose fate a storage never told is tried again after this time.",
    )
    .hot(),
    Key::new(
        "BatchRouter.warehouseServiceMaxRetryTime",
        Kind::Duration(Unit::Hour),
        "3h",
        "Rows whose staging file cannot be recorded are given up after this time.",
    )
    .also(&[
        "BatchRouter.warehouseServiceMaxRetryTimeInHr",
        "BatchRouter.<TYPE>.warehouseServiceMaxRetryTime",
        "BatchRouter.<TYPE>.warehouseServiceMaxRetryTimeInHr",
    ])
    .hot(),
    Key::new("BatchRouter.blockPrivateIPs", Kind::Bool, "false", "Refuse object stores at private addresses.").hot(),
    Key::new("BatchRouter.jobRetention", Kind::Duration(Unit::Hour), "720h", "Jobs older than this are given up.")
        .also(&["Router.jobRetention", "Router.<destinationID>.jobRetention"])
        .hot(),
    Key::new("BatchRouter.toAbortDestinationIDs", Kind::List, "", "Destinations whose jobs are given up.")
        .also(&["Router.toAbortDestinationIDs"])
        .hot(),
    Key::new("BatchRouter.drainJobRunIDs", Kind::List, "", "Cancelled job runs.").also(&["drain.jobRunIDs"]).hot(),
    Key::new(
        "BatchRouter.unknownDestinationGrace",
        Kind::Duration(Unit::Hour),
        "1h",
        "Jobs of a destination that left the configuration are given up after this time.",
    )
    .also(&["Router.unknownDestinationGrace"])
    .hot(),
    Key::new(
        "BatchRouter.disableEgress",
        Kind::Bool,
        "false",
        "Count file deliveries as done without sending anything.",
    )
    .also(&["disableEgress"])
    .hot(),
    Key::new("AWS_S3_REGION_HINT", Kind::Text, "us-east-1", "Region of S3 buckets whose region cannot be found out."),
    Key::new("archival.Enabled", Kind::Bool, "true", "Archive gateway events where a storage exists.").hot(),
    Key::new("archival.localPath", Kind::Text, "", "Directory of the local gateway archive; empty = none.").hot(),
    Key::new(
        "archival.localRetention",
        Kind::Duration(Unit::Hour),
        "168h",
        "Files of the local archive older than this are removed.",
    )
    .hot(),
    Key::new(
        "archival.localMaxBytes",
        Kind::Bytes(1),
        "5GiB",
        "Most bytes of the local archive; the oldest files go first.",
    )
    .hot(),
    Key::new("archival.UploadFrequency", Kind::Duration(Unit::Minute), "5m", "Time between two files of one source.")
        .hot(),
    Key::new("archival.ArchiveEventsLimit", Kind::Int, "100000", "Most events of one archive file.").hot(),
    Key::new("archival.ArchivePayloadSizeLimit", Kind::Bytes(1), "1GiB", "Most payload bytes of one archive file.")
        .hot(),
    Key::new("archival.ArchiveConcurrency", Kind::Int, "10", "Archive files in the making at a time."),
    Key::new(
        "archival.ArchiveSleepDuration",
        Kind::Duration(Unit::Second),
        "30s",
        "How often sources to be archived are looked for, besides wake-ups.",
    )
    .hot(),
    Key::new(
        "archival.MinWorkerSleep",
        Kind::Duration(Unit::Minute),
        "1m",
        "Wait after an archive file that could not be stored.",
    )
    .hot(),
    Key::new(
        "JOBS_BACKUP_STORAGE_PROVIDER",
        Kind::Text,
        "S3",
        "Storage of the archive when the workspace does not bring its own: S3, MINIO.",
    ),
    Key::new("JOBS_BACKUP_BUCKET", Kind::Text, "", "Bucket of the archive when the workspace does not bring its own."),
    Key::new("JOBS_BACKUP_PREFIX", Kind::Text, "", "Prefix within that bucket."),
    Key::new(
        "JOBS_BACKUP_DEFAULT_PREFIX",
        Kind::Text,
        "7dayretention",
        "Further prefix for workspaces whose retention period is \"default\".",
    ),
    Key::new("MINIO_ENDPOINT", Kind::Text, "", "Host and port of that bucket's MinIO."),
    Key::new("MINIO_ACCESS_KEY_ID", Kind::Text, "", "Access key id for it."),
    Key::new("MINIO_SECRET_ACCESS_KEY", Kind::Text, "", "Secret for it."),
    Key::new("MINIO_SSL", Kind::Bool, "false", "Whether it speaks TLS."),
];

/// Settings of the batch router; those of one destination type through [`BatchRouterSettings::of_type`].
#[derive(Clone, Debug)]
pub struct BatchRouterSettings {
    raw: Arc<Raw>,
    /// Most payload bytes in memory over all destinations.
    pub payload_limit: u64,
    /// Folder of delivered files below the configured prefix.
    pub bucket_folder: String,
    /// A manifest without an answer of its storage is dropped at this age.
    pub manifest_retention: Duration,
    /// Whether object stores at private addresses are refused.
    pub block_private_ips: bool,
    /// Destinations whose jobs are given up.
    pub to_abort_destination_ids: Vec<String>,
    /// Cancelled job runs.
    pub cancelled_job_runs: Vec<String>,
    /// Jobs of a destination that left the configuration are given up after this time.
    pub unknown_destination_grace: Duration,
    /// Whether deliveries only pretend.
    pub disable_egress: bool,
    /// Region of S3 buckets whose region cannot be found out.
    pub s3_region_hint: String,
}

/// Settings of one destination type.
#[derive(Clone, Debug)]
pub struct BatchRouterTypeSettings {
    /// Time between two cuts.
    pub upload_freq: Duration,
    /// Jobs that cut a batch before its time.
    pub max_events: usize,
    /// Most jobs read at once.
    pub query_size: usize,
    /// Time between two files of records.
    pub async_upload_timeout: Duration,
    /// Payload bytes that fill a file of records before its time.
    pub max_payload_bytes: u64,
    /// Attempts after which a job may be given up.
    pub max_failed_count: u32,
    /// A job is not given up before this time since its first attempt.
    pub retry_time_window: Duration,
    /// The same for jobs of a reverse-ETL run.
    pub run_max_failed_count: u32,
    /// The same for jobs of a reverse-ETL run.
    pub run_retry_time_window: Duration,
    /// Least time between two looks at the backlog.
    pub ping_frequency: Duration,
    /// Uploads of one destination at a time.
    pub concurrency: usize,
    /// Uploads of the type at a time.
    pub upload_limit: usize,
    /// Failed uploads in a row that open the breaker.
    pub max_consecutive_failures: u32,
    /// How long the breaker stays open.
    pub breaker_open: Duration,
    /// Longest time of one storage operation.
    pub storage_timeout: Duration,
    /// Text directly before the date in object keys.
    pub custom_date_prefix: String,
    /// Rows whose staging file cannot be recorded are given up after this time.
    pub record_retry_time: Duration,
}

/// Settings of the gateway archive.
#[derive(Clone, Debug)]
pub struct ArchivalSettings {
    /// Whether gateway events are archived at all.
    pub enabled: bool,
    /// Directory of the local archive.
    pub local_path: Option<PathBuf>,
    /// Files of the local archive older than this are removed.
    pub local_retention: Duration,
    /// Most bytes of the local archive.
    pub local_max_bytes: u64,
    /// Time between two files of one source.
    pub upload_frequency: Duration,
    /// Most events of one file.
    pub events_limit: u64,
    /// Most payload bytes of one file.
    pub payload_limit: u64,
    /// Files in the making at a time.
    pub concurrency: usize,
    /// How often sources are looked for, besides wake-ups.
    pub sleep: Duration,
    /// Wait after a file that could not be stored.
    pub min_worker_sleep: Duration,
    /// Name of this node in object keys.
    pub instance_id: String,
    /// The node's own backup storage, for workspaces that do not bring one.
    pub backup: BackupStorage,
}

/// The node's own backup storage, from the environment.
#[derive(Clone)]
pub struct BackupStorage {
    /// `S3` or `MINIO`.
    pub provider: String,
    /// Its bucket; empty = there is none.
    pub bucket: String,
    /// Prefix within the bucket.
    pub prefix: String,
    /// Further prefix for the retention period `default`.
    pub default_prefix: String,
    /// Host and port of MinIO.
    pub minio_endpoint: String,
    /// Access key id for MinIO.
    pub minio_access_key_id: String,
    /// Secret for MinIO.
    pub minio_secret_access_key: String,
    /// Whether MinIO speaks TLS.
    pub minio_ssl: bool,
}

impl std::fmt::Debug for BackupStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupStorage")
            .field("provider", &self.provider)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl BatchRouterSettings {
    pub(super) fn read(r: &Reader<'_>, raw: &Arc<Raw>) -> BatchRouterSettings {
        let general = r.within(&[]);
        let _general_is_valid = BatchRouterTypeSettings::read(&general, &general, "");
        let _retention_is_valid = general.duration("BatchRouter.jobRetention");
        r.absorb(general);
        BatchRouterSettings {
            raw: Arc::clone(raw),
            payload_limit: r.bytes("BatchRouter.PayloadLimit").max(1),
            bucket_folder: r.text("DESTINATION_BUCKET_FOLDER_NAME"),
            manifest_retention: r.duration("BatchRouter.manifestRetention"),
            block_private_ips: r.flag("BatchRouter.blockPrivateIPs"),
            to_abort_destination_ids: r.list("BatchRouter.toAbortDestinationIDs"),
            cancelled_job_runs: r.list("BatchRouter.drainJobRunIDs"),
            unknown_destination_grace: r.duration("BatchRouter.unknownDestinationGrace"),
            disable_egress: r.flag("BatchRouter.disableEgress"),
            s3_region_hint: r.text("AWS_S3_REGION_HINT"),
        }
    }

    /// Settings of the destination type (`S3`).
    pub fn of_type(&self, destination_type: &str) -> BatchRouterTypeSettings {
        let own = Reader::scoped(&self.raw, &[format!("BatchRouter.{destination_type}")]);
        let storage = Reader::scoped(&self.raw, &[format!("FileManager.{destination_type}")]);
        BatchRouterTypeSettings::read(&own, &storage, destination_type)
    }

    /// Jobs of the destination older than this are given up.
    pub fn job_retention(&self, destination_id: &str) -> Duration {
        Reader::scoped(&self.raw, &[format!("Router.{destination_id}")]).duration("BatchRouter.jobRetention")
    }

    /// The date layout that an operator chose for object keys of the destination; empty = none.
    pub fn date_prefix_override(&self, workspace_id: &str, destination_id: &str) -> String {
        let key = "BatchRouter.datePrefixOverride";
        self.first_set(&[
            format!("{key}.{workspace_id}.{destination_id}"),
            format!("{key}.{workspace_id}"),
            key.to_owned(),
        ])
    }

    /// The IANA time zone of dates in object keys of the workspace; empty = UTC.
    pub fn time_zone(&self, workspace_id: &str) -> String {
        let key = "BatchRouter.customTimezone";
        self.first_set(&[format!("{key}.{workspace_id}"), key.to_owned()])
    }

    fn first_set(&self, names: &[String]) -> String {
        let set = names.iter().find_map(|name| self.raw.lookup(name));
        set.map(|(texts, _)| texts.join(" ")).unwrap_or_default()
    }
}

/// What the tests of the batch router turn, and a node on which nothing takes long.
#[cfg(test)]
impl BatchRouterSettings {
    pub(crate) const UPLOAD_FREQ: &str = "BatchRouter.uploadFreq";
    pub(crate) const MAX_EVENTS: &str = "BatchRouter.maxEventsInABatch";
    pub(crate) const MAX_FAILURES: &str = "BatchRouter.maxConsecutiveFailures";
    pub(crate) const BREAKER_OPEN: &str = "BatchRouter.timeout";
    pub(crate) const MAX_FAILED_COUNT: &str = "BatchRouter.maxFailedCountForJob";
    pub(crate) const RETRY_WINDOW: &str = "BatchRouter.retryTimeWindow";
    pub(crate) const PAYLOAD_LIMIT: &str = "BatchRouter.PayloadLimit";
    pub(crate) const STORAGE_TIMEOUT: &str = "FileManager.timeout";
    pub(crate) const RECORD_RETRY_TIME: &str = "BatchRouter.warehouseServiceMaxRetryTime";
    pub(crate) const MAX_TX_BYTES: &str = "Storage.maxTxBytes";

    pub(crate) fn quick_node(more: &[(&str, &str)]) -> super::Settings {
        let always = [
            ("Storage.ballast", "0"),
            ("Storage.softFree", "1"),
            ("Storage.allowUnsafeFs", "true"),
            ("profile", "small"),
            (Self::UPLOAD_FREQ, "1s"),
            (Self::BREAKER_OPEN, "1s"),
            ("BatchRouter.pingFrequency", "100ms"),
            ("FileManager.timeout", "5s"),
            ("archival.UploadFrequency", "1s"),
            ("archival.ArchiveSleepDuration", "1s"),
        ];
        let mut raw = Raw::default();
        for (name, text) in always.iter().chain(more) {
            raw.file.insert(name.to_ascii_lowercase(), (vec![(*text).to_owned()], None));
        }
        super::Settings::from_raw(&Arc::new(raw)).unwrap()
    }
}

/// Types whose files stay on the node's own disk.
const ON_OWN_DISK: [&str; 6] = ["LOCAL", "LOCAL_DATALAKE", "DUCKDB", "SQLITE", "DELTA_LOCAL", "ICEBERG_LOCAL"];

impl BatchRouterTypeSettings {
    /// `r` looks at the type's own keys first, `storage` at those of its storage provider.
    fn read(r: &Reader<'_>, storage: &Reader<'_>, destination_type: &str) -> BatchRouterTypeSettings {
        // Files on the node's own disk cost nothing to cut and are what a newcomer looks at first.
        let upload_freq = if ON_OWN_DISK.contains(&destination_type) && !r.is_set("BatchRouter.uploadFreq") {
            Duration::from_secs(10)
        } else {
            r.duration("BatchRouter.uploadFreq")
        };
        let breaker_open = if !r.is_set("BatchRouter.timeout") && r.is_set("BatchRouter.uploadFreq") {
            upload_freq
        } else {
            r.duration("BatchRouter.timeout")
        };
        let storage_timeout = if !storage.is_set("FileManager.timeout") && r.is_set("BatchRouter.timeout") {
            r.duration("BatchRouter.timeout")
        } else {
            storage.duration("FileManager.timeout")
        };
        let attempts = |name: &str| u32::try_from(r.count(name)).unwrap_or(u32::MAX);
        BatchRouterTypeSettings {
            upload_freq: upload_freq.max(Duration::from_secs(1)),
            max_events: r.count("BatchRouter.maxEventsInABatch").max(1),
            query_size: r.count("BatchRouter.jobQueryBatchSize").max(1),
            async_upload_timeout: r.duration("BatchRouter.asyncUploadTimeout").max(Duration::from_secs(1)),
            max_payload_bytes: r.bytes("BatchRouter.maxPayloadSizeInBytes").max(1),
            max_failed_count: attempts("BatchRouter.maxFailedCountForJob"),
            retry_time_window: r.duration("BatchRouter.retryTimeWindow"),
            run_max_failed_count: attempts("BatchRouter.RSources.maxFailedCountForJob"),
            run_retry_time_window: r.duration("BatchRouter.RSources.retryTimeWindow"),
            ping_frequency: r.duration("BatchRouter.pingFrequency").max(Duration::from_millis(100)),
            concurrency: r.count("BatchRouter.partitionWorker.concurrency").max(1),
            upload_limit: r.count("BatchRouter.Limiter.upload.limit").max(1),
            max_consecutive_failures: attempts("BatchRouter.maxConsecutiveFailures").max(1),
            breaker_open,
            storage_timeout: storage_timeout.max(Duration::from_secs(1)),
            custom_date_prefix: r.text("BatchRouter.customDatePrefix"),
            record_retry_time: r.duration("BatchRouter.warehouseServiceMaxRetryTime"),
        }
    }
}

impl ArchivalSettings {
    pub(super) fn read(r: &Reader<'_>) -> ArchivalSettings {
        ArchivalSettings {
            enabled: r.flag("archival.Enabled"),
            local_path: Some(r.text("archival.localPath")).filter(|path| !path.is_empty()).map(PathBuf::from),
            local_retention: r.duration("archival.localRetention"),
            local_max_bytes: r.bytes("archival.localMaxBytes"),
            upload_frequency: r.duration("archival.UploadFrequency").max(Duration::from_secs(1)),
            events_limit: u64::try_from(r.count("archival.ArchiveEventsLimit")).unwrap_or(u64::MAX).max(1),
            payload_limit: r.bytes("archival.ArchivePayloadSizeLimit").max(1),
            concurrency: r.count("archival.ArchiveConcurrency").max(1),
            sleep: r.duration("archival.ArchiveSleepDuration").max(Duration::from_secs(1)),
            min_worker_sleep: r.duration("archival.MinWorkerSleep").max(Duration::from_secs(1)),
            instance_id: r.text("INSTANCE_ID"),
            backup: BackupStorage {
                provider: r.text("JOBS_BACKUP_STORAGE_PROVIDER"),
                bucket: r.text("JOBS_BACKUP_BUCKET"),
                prefix: r.text("JOBS_BACKUP_PREFIX"),
                default_prefix: r.text("JOBS_BACKUP_DEFAULT_PREFIX"),
                minio_endpoint: r.text("MINIO_ENDPOINT"),
                minio_access_key_id: r.text("MINIO_ACCESS_KEY_ID"),
                minio_secret_access_key: r.text("MINIO_SECRET_ACCESS_KEY"),
                minio_ssl: r.flag("MINIO_SSL"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Raw, Settings};

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut raw = Raw::default();
        for (name, text) in pairs {
            raw.file.insert(name.to_ascii_lowercase(), (vec![(*text).to_owned()], None));
        }
        Settings::from_raw(&Arc::new(raw)).unwrap()
    }

    #[test]
    fn local_files_are_cut_every_ten_seconds_unless_told_otherwise() {
        let plain = settings(&[]);
        assert_eq!(plain.batch_router.of_type("LOCAL").upload_freq, Duration::from_secs(10));
        assert_eq!(plain.batch_router.of_type("LOCAL_DATALAKE").upload_freq, Duration::from_secs(10));
        assert_eq!(plain.batch_router.of_type("S3").upload_freq, Duration::from_secs(30));
        let chosen = settings(&[("BatchRouter.LOCAL.uploadFreqInS", "2"), ("BatchRouter.uploadFreq", "7s")]);
        assert_eq!(chosen.batch_router.of_type("LOCAL").upload_freq, Duration::from_secs(2));
        assert_eq!(chosen.batch_router.of_type("S3").upload_freq, Duration::from_secs(7));
    }

    #[test]
    fn storage_and_breaker_times_fall_back_in_the_documented_order() {
        let plain = settings(&[]).batch_router.of_type("S3");
        assert_eq!((plain.storage_timeout, plain.breaker_open), (Duration::from_secs(120), Duration::from_secs(30)));
        let shared = settings(&[("BatchRouter.timeout", "5s")]).batch_router.of_type("S3");
        assert_eq!((shared.storage_timeout, shared.breaker_open), (Duration::from_secs(5), Duration::from_secs(5)));
        let own = settings(&[("FileManager.S3.timeout", "9s"), ("BatchRouter.uploadFreq", "3s")]).batch_router;
        assert_eq!(own.of_type("S3").storage_timeout, Duration::from_secs(9));
        assert_eq!(own.of_type("MINIO").storage_timeout, Duration::from_secs(120));
        assert_eq!(own.of_type("S3").breaker_open, Duration::from_secs(3));
    }

    #[test]
    fn the_most_specific_date_layout_wins() {
        let key = "BatchRouter.datePrefixOverride";
        let s = settings(&[
            (key, "c"),
            ("BatchRouter.datePrefixOverride.ws", "b"),
            ("BatchRouter.datePrefixOverride.ws.d1", "a"),
        ]);
        assert_eq!(s.batch_router.date_prefix_override("ws", "d1"), "a");
        assert_eq!(s.batch_router.date_prefix_override("ws", "d2"), "b");
        assert_eq!(s.batch_router.date_prefix_override("other", "d1"), "c");
    }

    #[test]
    fn retention_may_differ_for_one_destination() {
        let s = settings(&[("Router.jobRetention", "10h"), ("Router.d1.jobRetention", "1h")]);
        assert_eq!(s.batch_router.job_retention("d1"), Duration::from_secs(3_600));
        assert_eq!(s.batch_router.job_retention("d2"), Duration::from_secs(36_000));
    }
}

//! Whose rules of names and types rows follow.

use super::reserved;

/// A family of warehouses that take rows of the same shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POSTGRES`, and the embedded `DUCKDB` and `SQLITE`.
    Postgres,
    /// `RS`.
    Redshift,
    /// `SNOWFLAKE`.
    Snowflake,
    /// `SNOWPIPE_STREAMING`: as Snowflake, without the table `users`.
    SnowpipeStreaming,
    /// `BQ`.
    BigQuery,
    /// `BQSTREAM_ALL_EVENTS`: as BigQuery, without the table `users`.
    BigQueryStream,
    /// `CLICKHOUSE`.
    ClickHouse,
    /// `MSSQL`.
    Mssql,
    /// `AZURE_SYNAPSE`.
    AzureSynapse,
    /// `DELTALAKE`.
    Deltalake,
    /// `S3_DATALAKE`, and the embedded `LOCAL_DATALAKE`, `DELTA_LOCAL` and `ICEBERG_LOCAL`.
    S3Datalake,
    /// `GCS_DATALAKE`.
    GcsDatalake,
    /// `AZURE_DATALAKE`.
    AzureDatalake,
}

impl Dialect {
    /// The dialect of a destination type, `None` when the type is no warehouse (warehouse.md 1 and 22).
    pub fn of_type(destination_type: &str) -> Option<Dialect> {
        Some(match destination_type {
            "POSTGRES" | "DUCKDB" | "SQLITE" => Dialect::Postgres,
            "RS" => Dialect::Redshift,
            "SNOWFLAKE" => Dialect::Snowflake,
            "SNOWPIPE_STREAMING" => Dialect::SnowpipeStreaming,
            "BQ" => Dialect::BigQuery,
            "BQSTREAM_ALL_EVENTS" => Dialect::BigQueryStream,
            "CLICKHOUSE" => Dialect::ClickHouse,
            "MSSQL" => Dialect::Mssql,
            "AZURE_SYNAPSE" => Dialect::AzureSynapse,
            "DELTALAKE" => Dialect::Deltalake,
            "S3_DATALAKE" | "LOCAL_DATALAKE" | "DELTA_LOCAL" | "ICEBERG_LOCAL" => Dialect::S3Datalake,
            "GCS_DATALAKE" => Dialect::GcsDatalake,
            "AZURE_DATALAKE" => Dialect::AzureDatalake,
            _ => return None,
        })
    }

    /// Whether rows end as files that any tool reads: names are not cut and columns not counted.
    pub fn is_data_lake(self) -> bool {
        matches!(self, Dialect::S3Datalake | Dialect::GcsDatalake | Dialect::AzureDatalake)
    }

    /// Whether names of tables, columns and schemas are in upper case.
    pub fn is_upper_case(self) -> bool {
        matches!(self, Dialect::Snowflake | Dialect::SnowpipeStreaming)
    }

    /// Whether every table has the column `loaded_at` beside `uuid_ts`.
    pub fn has_loaded_at(self) -> bool {
        matches!(self, Dialect::BigQuery | Dialect::BigQueryStream)
    }

    /// Whether rows are streamed: the table `users` cannot be kept that way.
    pub fn is_streamed(self) -> bool {
        matches!(self, Dialect::SnowpipeStreaming | Dialect::BigQueryStream)
    }

    /// Whether JSON paths count (warehouse.md 2.9).
    pub(super) fn takes_json_paths(self) -> bool {
        self.has_json() || self.has_loaded_at()
    }

    /// Whether values chosen by JSON paths have the type `json`.
    pub(super) fn has_json(self) -> bool {
        self.is_upper_case() || matches!(self, Dialect::Postgres | Dialect::Redshift)
    }

    /// Whether merge rules are written for identity resolution (warehouse.md 5).
    pub(super) fn resolves_identities(self) -> bool {
        matches!(self, Dialect::Snowflake | Dialect::BigQuery)
    }

    /// Most characters of a name before the underscore of a reserved word, `None` without such a cut.
    pub(super) fn cut_before_escaping(self) -> Option<usize> {
        (self == Dialect::Postgres).then_some(63)
    }

    /// Most characters of a name after that, `None` for data lakes.
    pub(super) fn cut_after_escaping(self) -> Option<usize> {
        (!self.is_data_lake()).then_some(127)
    }

    /// Whether this name, in any case, is a reserved word for tables and columns.
    pub(super) fn is_reserved(self, name: &str) -> bool {
        if self.is_upper_case() {
            reserved::is_reserved(self, &name.to_ascii_lowercase())
        } else {
            reserved::is_reserved(self, name)
        }
    }
}

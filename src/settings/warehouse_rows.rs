//! From events to staging files of warehouses (warehouse.md 19): what rows are made of and where files go.

use super::catalogue::{Key, Kind};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "Warehouse.enableIDResolution",
        Kind::Bool,
        "false",
        "Write merge rules of users for the warehouses that resolve identities.",
    )
    .hot(),
    Key::new(
        "WH_POPULATE_SRC_DEST_INFO_IN_CONTEXT",
        Kind::Bool,
        "true",
        "Columns for source and destination in rows of warehouses.",
    )
    .hot(),
    Key::new("WH_MAX_COLUMNS_IN_EVENT", Kind::Int, "1600", "Events with a row of more columns are refused.").hot(),
    Key::new(
        "WAREHOUSE_STAGING_BUCKET_FOLDER_NAME",
        Kind::Text,
        "rudder-warehouse-staging-logs",
        "Folder of staging files below the configured prefix.",
    ),
];

/// Settings from the event to the staging file.
#[derive(Clone, Debug)]
pub struct WarehouseRowSettings {
    /// Whether merge rules are written.
    pub resolves_identities: bool,
    /// Whether the source and the destination get columns.
    pub puts_source_in_context: bool,
    /// Most columns of one row.
    pub most_columns: usize,
    /// Folder of staging files below the configured prefix.
    pub staging_folder: String,
}

impl WarehouseRowSettings {
    pub(super) fn read(r: &Reader<'_>) -> WarehouseRowSettings {
        WarehouseRowSettings {
            resolves_identities: r.flag("Warehouse.enableIDResolution"),
            puts_source_in_context: r.flag("WH_POPULATE_SRC_DEST_INFO_IN_CONTEXT"),
            most_columns: r.count("WH_MAX_COLUMNS_IN_EVENT"),
            staging_folder: r.text("WAREHOUSE_STAGING_BUCKET_FOLDER_NAME"),
        }
    }
}

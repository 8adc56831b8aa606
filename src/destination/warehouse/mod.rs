//! Events as rows of a warehouse (warehouse.md 2 to 6).
//!
//! In: an event, what came with it, and a destination's configuration, read once into a [`WarehousePlan`]. Out: one
//! to three [`Row`]s with the names of tables and columns that the warehouse takes, or why there are none. Each row
//! is one job of the batch router and, unchanged, one line of a staging file.
//!
//! Promises: a row depends on nothing but the event, the envelope and the configuration; no I/O, no clock; names and
//! types are those that users of the reference find in their tables.
//!
//! | file | what it knows |
//! |---|---|
//! | `dialect` | what warehouses have in common and what not |
//! | `prepared` | the event with what is missing made up; the values that rules ask for |
//! | `tables` | which rows an event has and what they are made of |
//! | `flatten`, `json_paths` | nested members as columns; those that stay JSON |
//! | `rules` | columns that every row of a table has |
//! | `names`, `words`, `reserved` | names of tables and columns |
//! | `types`, `datetime` | types of values; which texts are points in time |
//! | `conversion` | what becomes of a value in a column of another type |
//! | `merge_rule` | rules of identity resolution |
//! | `namespace` | the schema of a connection |
//! | `storage` | where files lie between the node and the tables |
//! | `value`, `reader` | JSON that borrows from the event |
//! | `columns` | rows, and how they are written |

mod columns;
mod conversion;
pub mod datetime;
mod dialect;
mod event_type;
mod flatten;
mod json_paths;
mod merge_rule;
mod names;
mod namespace;
mod options;
mod prepared;
mod reader;
mod refused;
mod reserved;
mod rules;
mod storage;
mod tables;
mod types;
mod value;
mod words;

use serde_json::{Map, Value};

pub use columns::{Cell, Columns, MergedIds, Row};
pub use conversion::{Conversion, discard_reason};
pub use dialect::Dialect;
pub use names::Naming;
pub use namespace::{Choice, safe_namespace};
pub use refused::Refused;
pub use storage::FileStorage;
pub use tables::columns_of_loading;
pub use types::ColumnType;
pub use value::{Json, Members};

use super::Message;
use flatten::Flattening;
use options::{Config, EventOptions};
use prepared::Prepared;
use rules::RuleNames;
use tables::Composer;

/// Settings that rows depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSettings {
    /// `Warehouse.enableIDResolution`: merge rules are written, for the warehouses that have them.
    pub resolves_identities: bool,
    /// `WH_POPULATE_SRC_DEST_INFO_IN_CONTEXT`: the source and the destination get columns.
    pub puts_source_in_context: bool,
    /// `WH_MAX_COLUMNS_IN_EVENT`: an event with a row of more columns is refused.
    pub most_columns: usize,
}

/// What comes with an event.
#[derive(Clone, Copy)]
pub struct Envelope<'e> {
    /// The source's id.
    pub source_id: &'e str,
    /// The source's definition name.
    pub source_type: &'e str,
    /// The category of the source's definition.
    pub source_category: &'e str,
    /// The destination's id.
    pub destination_id: &'e str,
    /// The destination's definition name.
    pub destination_type: &'e str,
    /// When the event was received; empty when that is not known.
    pub received_at: &'e str,
    /// Now, as `YYYY-MM-DDTHH:MM:SS.mmmZ`; asked when nobody knows when the event was received.
    pub now: &'e dyn Fn() -> String,
    /// A new UUID; asked when the event has no id.
    pub new_id: &'e dyn Fn() -> String,
}

/// How one destination makes rows, with its configuration read once.
#[derive(Clone, Debug)]
pub struct WarehousePlan {
    destination_type: String,
    dialect: Dialect,
    config: Config,
    /// With reserved words escaped.
    escaped: RuleNames,
    /// With reserved words as they are.
    unescaped: RuleNames,
}

impl WarehousePlan {
    /// The plan of a destination of this type, `None` when the type is no warehouse.
    pub fn new(destination_type: &str, config: &Map<String, Value>) -> Option<WarehousePlan> {
        let dialect = Dialect::of_type(destination_type)?;
        let config = Config::read(config);
        let naming = |keeps_reserved_words| Naming {
            dialect,
            divides_numbers: config.divides_numbers,
            keeps_words_together: false,
            keeps_reserved_words,
        };
        Some(WarehousePlan {
            destination_type: destination_type.to_owned(),
            dialect,
            escaped: RuleNames::new(naming(false)),
            unescaped: RuleNames::new(naming(true)),
            config,
        })
    }

    /// Whose rules hold.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The rows of an event, in the order of their tables. A merge event has none where identities are not resolved.
    ///
    /// # Errors
    /// [`Refused`] when the event gives no rows; it is final.
    pub fn rows<'e>(
        &self,
        message: &'e Message<'e>,
        envelope: &'e Envelope<'e>,
        settings: &RowSettings,
    ) -> Result<Vec<Row<'e>>, Refused> {
        let event = Prepared::new(message, envelope, settings)?;
        let mut options = EventOptions::read(message, &self.destination_type)?;
        if self.dialect.takes_json_paths() {
            options.json_paths.extend(&self.config.json_paths);
        } else {
            options.json_paths = json_paths::JsonPaths::default();
        }
        let naming = Naming {
            dialect: self.dialect,
            divides_numbers: self.config.divides_numbers,
            keeps_words_together: options.keeps_words_together,
            keeps_reserved_words: options.keeps_reserved_words,
        };
        let flattening = Flattening {
            naming,
            event_type: event.event_type,
            json_paths: &options.json_paths,
            is_cloud: envelope.source_category == "cloud",
        };
        let names = if options.keeps_reserved_words { &self.unescaped } else { &self.escaped };
        let full_event = self.config.stores_full_event.then(|| event.full_event());
        Composer {
            destination_type: &self.destination_type,
            config: &self.config,
            options: &options,
            settings,
            naming,
            names,
            flattening,
            event,
            full_event,
        }
        .rows()
    }
}

#[cfg(test)]
mod tests;

//! Events as rows of one warehouse (warehouse.md 2): each row is a job of its own.

use std::sync::Arc;

use uuid::Uuid;

use crate::backend_config::{Destination, Source};
use crate::destination::warehouse::{Envelope, Refused, RowSettings, WarehousePlan};
use crate::destination::{Message, Output, is_warehouse, without_filtered_config};
use crate::settings::Settings;

/// How the events of one destination become rows, with everything read once that does not depend on them.
pub(super) struct Rows {
    plan: WarehousePlan,
    settings: RowSettings,
}

impl Rows {
    /// `None` when the destination is no warehouse.
    pub(super) fn new(destination: &Arc<Destination>, settings: &Settings) -> Option<Rows> {
        let type_name = &destination.definition.name;
        if !is_warehouse(type_name) {
            return None;
        }
        let settings = &settings.warehouse_rows;
        Some(Rows {
            plan: WarehousePlan::new(type_name, &without_filtered_config(destination).config)?,
            settings: RowSettings {
                resolves_identities: settings.resolves_identities,
                puts_source_in_context: settings.puts_source_in_context,
                most_columns: settings.most_columns,
            },
        })
    }

    /// The rows of one event.
    ///
    /// # Errors
    /// Why the event has none.
    pub(super) fn of(
        &self,
        event: &Message<'_>,
        source: &Source,
        destination: &Destination,
        received_at: &str,
    ) -> Result<Vec<Output>, Refused> {
        let envelope = Envelope {
            source_id: &source.id,
            source_type: &source.definition.name,
            source_category: &source.definition.category,
            destination_id: &destination.id,
            destination_type: &destination.definition.name,
            received_at,
            // The gateway knows when it received the event, so that the time of day is not asked.
            now: &|| received_at.to_owned(),
            new_id: &|| Uuid::new_v4().to_string(),
        };
        let rows = self.plan.rows(event, &envelope, &self.settings)?;
        Ok(rows.iter().map(|row| Output::of(row.to_json())).collect())
    }
}

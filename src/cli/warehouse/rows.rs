//! `pintle warehouse rows`: which rows events would become, without a node (appliance.md 2).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cli::failure::{FAILED, Failure};
use crate::cli::flags::SettingsFlags;
use crate::cli::{output, transform};
use crate::clock::Clock;
use crate::destination::warehouse::{Envelope, RowSettings, WarehousePlan};
use crate::destination::{Message, is_warehouse};
use crate::event::time::Moment;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The type of the warehouse, such as POSTGRES
    destination_type: String,
    /// Events: a JSON array, one event, or one event a line
    #[arg(long, value_name = "FILE")]
    events: PathBuf,
    /// The destination's config, a JSON object
    #[arg(long, value_name = "FILE")]
    destination_config: Option<PathBuf>,
    /// Category of the source's definition (cloud, singer-protocol)
    #[arg(long, default_value = "")]
    source_category: String,
    /// Print the lines that a staging file would have
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let Args { destination_type, events, destination_config, source_category, json: as_json, flags } = arguments;
    let settings = flags.load()?.settings.warehouse_rows;
    let settings = RowSettings {
        resolves_identities: settings.resolves_identities,
        puts_source_in_context: settings.puts_source_in_context,
        most_columns: settings.most_columns,
    };
    let destination_type = destination_type.to_ascii_uppercase();
    let config = match destination_config {
        Some(path) => object(&path)?,
        None => Map::new(),
    };
    let plan = WarehousePlan::new(&destination_type, &config).filter(|_| is_warehouse(&destination_type));
    let Some(plan) = plan else {
        return Err(Failure::new(FAILED, format!("{destination_type} is no warehouse"), "name a type as POSTGRES"));
    };
    let clock = Clock::system();
    let now = || Moment::utc(clock.now()).to_text();
    let new_id = || uuid::Uuid::new_v4().to_string();
    let envelope = Envelope {
        source_id: "source",
        source_type: "",
        source_category: &source_category,
        destination_id: "destination",
        destination_type: &destination_type,
        received_at: "",
        now: &now,
        new_id: &new_id,
    };
    let (mut text, mut refused) = (String::new(), 0_usize);
    for (at, event) in transform::values(&transform::read(&events)?)?.iter().enumerate() {
        let written = event.to_string();
        let message = Message::parse(&written)
            .map_err(|error| Failure::new(FAILED, format!("event {}: {error}", at + 1), "give JSON objects"))?;
        match plan.rows(&message, &envelope, &settings) {
            Ok(rows) if as_json => {
                for row in rows {
                    output::line(&mut text, format_args!("{}", String::from_utf8_lossy(&row.to_json())));
                }
            }
            Ok(rows) => {
                for row in rows {
                    show(&mut text, at, &serde_json::from_slice(&row.to_json()).unwrap_or_default());
                }
            }
            Err(error) => {
                refused += 1;
                output::line(&mut text, format_args!("event {}: refused ({}): {error}", at + 1, error.status()));
            }
        }
    }
    output::print(&text)?;
    if refused == 0 { Ok(()) } else { Err(Failure::new(FAILED, format!("{refused} events have no rows"), "")) }
}

/// One row for people: the table, then a column a line.
fn show(text: &mut String, at: usize, row: &Value) {
    let table = row.pointer("/metadata/table").and_then(Value::as_str).unwrap_or_default();
    output::line(text, format_args!("event {}: table {}", at + 1, output::printable(table)));
    let columns = row.pointer("/metadata/columns").and_then(Value::as_object);
    let widest = columns.map_or(0, |columns| columns.keys().map(String::len).max().unwrap_or(0));
    for (column, kind) in columns.into_iter().flatten() {
        let value = row.get("data").and_then(|data| data.get(column));
        let value = value.map_or_else(|| "(when loaded)".to_owned(), Value::to_string);
        let kind = kind.as_str().unwrap_or_default();
        output::line(text, format_args!("  {column:<widest$}  {kind:<8}  {}", output::printable(&value)));
    }
}

fn object(path: &Path) -> Result<Map<String, Value>, Failure> {
    match serde_json::from_str(&transform::read(path)?) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(_) | Err(_) => Err(Failure::new(
            FAILED,
            format!("{} is no JSON object", path.display()),
            "give the `config` of a destination",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_is_shown_column_by_column() {
        let row = json!({
            "data": { "id": "m", "total": 5 },
            "metadata": { "table": "tracks", "columns": { "id": "string", "total": "int", "uuid_ts": "datetime" } },
        });
        let mut text = String::new();
        show(&mut text, 0, &row);
        let expected = "event 1: table tracks\n  id       string    \"m\"\n  total    int       5\n  uuid_ts  datetime  (when loaded)\n";
        assert_eq!(text, expected);
    }
}

//! `pintle warehouse`: uploads of the running node, statements on a destination, and, without a node, which rows
//! events become (appliance.md 2, warehouse.md 16.5).

mod rows;

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{AdminClient, LONG, SOON};
use super::failure::{FAILED, Failure};
use super::flags::SettingsFlags;
use super::table::{Align, Table};
use super::{output, units};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List uploads, the newest first.
    Status {
        /// Only those of this destination
        #[arg(long, value_name = "ID", default_value = "")]
        destination: String,
        /// Only those of this source
        #[arg(long, value_name = "ID", default_value = "")]
        source: String,
        /// Only those in this state (waiting, `exported_data`, aborted)
        #[arg(long, value_name = "STATE", default_value = "")]
        state: String,
        /// At most so many
        #[arg(long, value_name = "COUNT", default_value_t = 20)]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Show one upload with its tables.
    Show {
        /// Its id
        id: u64,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Load now what waits for a destination.
    Sync {
        /// The destination
        #[arg(required_unless_present = "always")]
        destination: Option<String>,
        /// Only what comes from this source
        #[arg(long, value_name = "ID", default_value = "")]
        source: String,
        /// Load at every look, whatever the timetables say, until the node stops
        #[arg(long, value_name = "on|off", value_parser = ["on", "off"], conflicts_with = "destination")]
        always: Option<String>,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Begin uploads again: by their ids, or those of a destination that were given up.
    Retry {
        /// Ids
        #[arg(required_unless_present = "destination")]
        ids: Vec<u64>,
        /// The given up ones of this destination
        #[arg(long, value_name = "ID", conflicts_with = "ids")]
        destination: Option<String>,
        /// Of those, what was made within this time (2h, 3d)
        #[arg(long, value_name = "TIME", value_parser = units::parse_span, default_value = "7d")]
        within: Duration,
        /// Also those that were not given up
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Run a reading statement on a destination.
    Query {
        /// The destination
        destination: String,
        /// The statement
        statement: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Show the rows that events from a file become, without a node.
    Rows(rows::Args),
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Status { destination, source, state, limit, json: as_json, flags } => {
            let limit = limit.to_string();
            let pairs =
                [("destination_id", &destination), ("source_id", &source), ("status", &state), ("limit", &limit)];
            let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
            let found: Value = client(&flags)?.get(&format!("/v1/warehouse/uploads?{query}"))?;
            if as_json { output::print_json(&found) } else { output::print(&uploads(&found)) }
        }
        Verb::Show { id, json: as_json, flags } => {
            let found: Value = client(&flags)?.get(&format!("/v1/warehouse/uploads/{id}"))?;
            if as_json { output::print_json(&found) } else { output::print(&upload(&found)) }
        }
        Verb::Sync { destination, source, always, flags } => {
            let client = client(&flags)?;
            if let Some(always) = always {
                let _on: Value = client.post("/v1/warehouse/always", &json!({ "on": always == "on" }), SOON)?;
                return output::print(&format!("loading at every look is {always}\n"));
            }
            let body = json!({ "destination_id": destination, "source_id": source });
            told(&client.post("/v1/warehouse/uploads/trigger", &body, SOON)?)
        }
        Verb::Retry { ids, destination: None, flags, .. } => {
            let client = client(&flags)?;
            for id in &ids {
                let _told: Value = client.post(&format!("/v1/warehouse/uploads/{id}/trigger"), &json!({}), SOON)?;
            }
            output::print(&format!("{} uploads begin again\n", ids.len()))
        }
        Verb::Retry { destination: Some(destination), within, force, flags, .. } => {
            let hours = within.as_secs().div_ceil(3_600).max(1);
            let body = json!({ "destinationId": destination, "intervalInHours": hours, "forceRetry": force });
            let answer: Value = client(&flags)?.post("/v1/warehouse/uploads/retry", &body, SOON)?;
            output::print(&format!("{} uploads begin again\n", answer.get("count").unwrap_or(&Value::Null)))
        }
        Verb::Query { destination, statement, json: as_json, flags } => {
            let body = json!({ "destination_id": destination, "statement": statement });
            let found: Value = client(&flags)?.post("/v1/warehouse/query", &body, LONG)?;
            if as_json { output::print_json(&found) } else { output::print(&result(&found)) }
        }
        Verb::Rows(arguments) => rows::run(arguments),
    }
}

fn client(flags: &SettingsFlags) -> Result<AdminClient, Failure> {
    Ok(AdminClient::of(&flags.load()?.settings))
}

/// The message of an answer, as it is.
fn told(answer: &Value) -> Result<(), Failure> {
    match answer.get("message").and_then(Value::as_str) {
        Some(message) => output::print(&format!("{}\n", output::printable(message))),
        None => Err(Failure::new(FAILED, "the answer of the node is not understood", "use the version that it runs")),
    }
}

fn text(of: &Value, key: &str) -> String {
    match of.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The newest message of an upload's errors: that of its own state, or of any.
fn last_error(upload: &Value) -> String {
    let errors = upload.get("error").and_then(Value::as_object);
    let of_state = errors.and_then(|errors| errors.get(&text(upload, "status")));
    let chosen = of_state.or_else(|| errors.and_then(|errors| errors.values().next_back()));
    let messages = chosen.and_then(|error| error.get("errors")).and_then(Value::as_array);
    let last = messages.and_then(|messages| messages.last()).and_then(Value::as_str);
    last.unwrap_or_default().to_owned()
}

fn uploads(found: &Value) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("STATE", Align::Left),
        ("TYPE", Align::Left),
        ("DESTINATION", Align::Left),
        ("SOURCE", Align::Left),
        ("NAMESPACE", Align::Left),
        ("ROWS", Align::Right),
        ("TRIES", Align::Right),
        ("NEXT", Align::Left),
        ("ERROR", Align::Left),
    ]);
    for upload in found.get("uploads").and_then(Value::as_array).into_iter().flatten() {
        let of = |key| text(upload, key);
        table.row([
            of("id"),
            of("status"),
            of("destination_type"),
            of("destination_id"),
            of("source_id"),
            of("namespace"),
            of("total_events"),
            of("attempt"),
            of("next_retry_time"),
            last_error(upload),
        ]);
    }
    let total = found.pointer("/pagination/total").and_then(Value::as_u64).unwrap_or(0);
    format!("{}{total} uploads in all\n", table.render())
}

fn upload(found: &Value) -> String {
    let mut shown = String::new();
    for key in [
        "id",
        "status",
        "destination_type",
        "destination_id",
        "source_id",
        "namespace",
        "total_events",
        "attempt",
        "created_at",
        "first_event_at",
        "last_event_at",
        "last_exec_at",
        "next_retry_time",
    ] {
        let value = text(found, key);
        if !value.is_empty() {
            output::line(&mut shown, format_args!("{key:<16}  {}", output::printable(&value)));
        }
    }
    for (state, error) in found.get("error").and_then(Value::as_object).into_iter().flatten() {
        for message in error.get("errors").and_then(Value::as_array).into_iter().flatten() {
            let message = message.as_str().unwrap_or_default();
            output::line(&mut shown, format_args!("{state}: {}", output::printable(message)));
        }
    }
    let mut table =
        Table::new(&[("TABLE", Align::Left), ("STATE", Align::Left), ("ROWS", Align::Right), ("ERROR", Align::Left)]);
    for one in found.get("tables").and_then(Value::as_array).into_iter().flatten() {
        table.row([text(one, "name"), text(one, "status"), text(one, "count"), text(one, "error")]);
    }
    format!("{shown}\n{}", table.render())
}

/// Rows of a statement, a tab between two values: what other programs read.
fn result(found: &Value) -> String {
    let cells = |row: &Value| {
        let cells = row.as_array().into_iter().flatten();
        cells.map(|cell| output::printable(cell.as_str().unwrap_or_default())).collect::<Vec<_>>().join("\t")
    };
    let mut shown = String::new();
    let head = found.get("columns").unwrap_or(&Value::Null);
    for row in std::iter::once(head).chain(found.get("rows").and_then(Value::as_array).into_iter().flatten()) {
        output::line(&mut shown, format_args!("{}", cells(row)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_shown_with_their_last_error() {
        let found = json!({ "uploads": [{
            "id": 7, "status": "exporting_data_failed", "destination_type": "POSTGRES", "destination_id": "d",
            "source_id": "s", "namespace": "shop", "total_events": 12, "attempt": 2, "next_retry_time": null,
            "error": {
                "exporting_data_failed": { "attempt": 2, "errors": ["first", "refused\u{1b}[2J"] },
                "generating_load_files_failed": { "attempt": 1, "errors": ["older"] },
            },
            "tables": ["tracks"],
        }], "pagination": { "total": 31, "limit": 20, "offset": 0 } });
        let shown = uploads(&found);
        let line = shown.lines().nth(1).unwrap();
        for expected in ["7", "exporting_data_failed", "POSTGRES", "shop", "12", "refused [2J"] {
            assert!(line.contains(expected), "{expected} in {line}");
        }
        assert!(!line.contains("older") && shown.ends_with("31 uploads in all\n"));
    }

    #[test]
    fn an_upload_is_shown_with_its_tables_and_every_error() {
        let found = json!({
            "id": 7, "status": "aborted", "error": { "exporting_data_failed": { "attempt": 1, "errors": ["one", "two"] } },
            "tables": [{ "name": "tracks", "status": "exported_data", "count": 3, "error": "" }],
        });
        let shown = upload(&found);
        for expected in
            ["id                7\n", "exporting_data_failed: one\n", "exporting_data_failed: two\n", "tracks"]
        {
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
    }

    #[test]
    fn rows_of_a_statement_are_tab_separated() {
        let found = json!({ "columns": ["id", "n"], "rows": [["a", null], ["b\tc", "1"]] });
        assert_eq!(result(&found), "id\tn\na\t\nb c\t1\n");
    }
}

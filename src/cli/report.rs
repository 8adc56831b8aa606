//! `pintle report`: what became of events, stage by stage (processor.md 14).

use std::time::Duration;

use super::client::AdminClient;
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::table::{Align, Table};
use super::{client, output, units};
use crate::processor::accounting::Report;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How far back (90s, 30m, 2h, 3d)
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = units::parse_span)]
    since: Duration,
    /// Only this source
    #[arg(long, value_name = "ID")]
    source: Option<String>,
    /// Only this destination
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Only this stage (gateway, event_filter, dest_transformer, ...)
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Tell event types and names apart
    #[arg(long)]
    events: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let mut path = format!("/v1/report?seconds={}&events={}", arguments.since.as_secs(), arguments.events);
    for (name, value) in
        [("source", &arguments.source), ("destination", &arguments.destination), ("stage", &arguments.stage)]
    {
        if let Some(value) = value {
            path.extend(["&", name, "=", &client::segment(value)]);
        }
    }
    let report: Report = AdminClient::of(&arguments.flags.load()?.settings).get(&path)?;
    if arguments.json { output::print_json(&report) } else { output::print(&render(&report)) }
}

fn render(report: &Report) -> String {
    let mut table = Table::new(&[
        ("SOURCE", Align::Left),
        ("DESTINATION", Align::Left),
        ("STAGE", Align::Left),
        ("STATE", Align::Left),
        ("CODE", Align::Right),
        ("EVENT", Align::Left),
        ("VIOLATION", Align::Left),
        ("EVENTS", Align::Right),
    ]);
    for line in &report.lines {
        let event = match (line.event_type.as_str(), line.event_name.as_str()) {
            (kind, "") => kind.to_owned(),
            ("", name) => name.to_owned(),
            (kind, name) => format!("{kind} {name}"),
        };
        table.row([
            line.source_id.clone(),
            line.destination_id.clone(),
            line.stage.clone(),
            line.state.clone(),
            line.status.to_string(),
            event,
            line.error_type.clone(),
            line.events.to_string(),
        ]);
    }
    let mut text = table.render();
    output::line(&mut text, format_args!("from {} to {}", units::time(report.from_ms), units::time(report.to_ms)));
    if report.is_cut {
        output::line(&mut text, format_args!("more than can be shown: ask for one source or destination"));
    }
    text
}

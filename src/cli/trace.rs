//! `pintle trace`: what happened to one event (appliance.md 9).

use super::client::{AdminClient, segment};
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output::{self, line, printable};
use crate::admin::Trace;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The event's messageId
    message_id: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let client = AdminClient::of(&arguments.flags.load()?.settings);
    let path = format!("/v1/trace/{}", segment(&arguments.message_id));
    let trace: Trace = client.get(&path)?;
    if arguments.json { output::print_json(&trace) } else { output::print(&told(&trace)) }
}

fn told(trace: &Trace) -> String {
    let mut text = String::new();
    for step in &trace.steps {
        let at = jiff::Timestamp::from_millisecond(step.at_ms).map(|at| format!("{at:.3}")).unwrap_or_default();
        let way = match step.destination_id.as_str() {
            "" => step.source_id.clone(),
            destination => format!("{} -> {destination}", step.source_id),
        };
        let told = format!("{at}  {}  {}  {way}  {}", step.place, step.what, step.detail);
        line(&mut text, format_args!("{}", printable(&told)));
    }
    if trace.steps.is_empty() {
        line(&mut text, format_args!("nothing is known of {}", printable(&trace.message_id)));
    }
    line(&mut text, format_args!(""));
    for place in &trace.searched {
        let how = if place.complete { "searched completely" } else { "not searched completely" };
        let note = if place.note.is_empty() { String::new() } else { format!(" ({})", place.note) };
        line(&mut text, format_args!("{}: {how}{note}", place.place));
    }
    text
}

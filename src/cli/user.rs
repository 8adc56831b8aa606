//! `pintle user`: whose events are taken (gateway.md 9.2).

use serde_json::json;

use super::client::AdminClient;
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output;

/// What is done with the user.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Take no more events of the user; their senders are answered as ever
    Suppress(Args),
    /// Take events of the user again
    Unsuppress(Args),
}

/// Arguments of both.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The userId
    user_id: String,
    /// Only at this source (its id; repeatable)
    #[arg(long, value_name = "ID")]
    source: Vec<String>,
    /// The workspace, when the node has several
    #[arg(long, value_name = "ID", default_value = "")]
    workspace_id: String,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(verb: Verb) -> Result<(), Failure> {
    let (arguments, canceled) = match verb {
        Verb::Suppress(arguments) => (arguments, false),
        Verb::Unsuppress(arguments) => (arguments, true),
    };
    let Args { user_id, source, workspace_id, flags } = arguments;
    let settings = flags.load()?.settings;
    let item = json!({"workspaceId": workspace_id, "userId": user_id, "sourceIds": source, "canceled": canceled});
    AdminClient::of(&settings).tell("/internal/v1/suppressions", &json!({"items": [item]}))?;
    let what = if canceled { "are taken again" } else { "are not taken any more" };
    output::print(&format!("events of {} {what}\n", output::printable(&user_id)))
}

//! `pintle destination`: list destinations, hold and resume delivery to them (router.md 7.8).

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{AdminClient, SOON, segment};
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::{output, status, units};
use crate::admin::NodeStatus;
use crate::clock::Clock;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Every destination with its state and backlog.
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Hold delivery; events are kept and delivered later.
    Pause {
        /// The destination's id
        id: String,
        /// Resume by itself after this time (90s, 30m, 2h, 3d)
        #[arg(long = "for", value_name = "TIME", value_parser = units::parse_span)]
        lasting: Option<Duration>,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Deliver again.
    Resume {
        /// The destination's id
        id: String,
        #[command(flatten)]
        flags: SettingsFlags,
    },
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Ls { json: as_json, flags } => list(as_json, &flags),
        Verb::Pause { id, lasting, flags } => {
            let client = AdminClient::of(&flags.load()?.settings);
            let body = json!({ "forSeconds": lasting.map(|lasting| lasting.as_secs()) });
            let _pause: Value = client.post(&format!("/v1/destinations/{}/pause", segment(&id)), &body, SOON)?;
            let end = lasting.map_or_else(
                || "until it is resumed".to_owned(),
                |lasting| format!("for {}", units::age(lasting.as_secs())),
            );
            output::print(&format!("{}: paused {end}\n", output::printable(&id)))
        }
        Verb::Resume { id, flags } => {
            let client = AdminClient::of(&flags.load()?.settings);
            let answer: Value = client.post(&format!("/v1/destinations/{}/resume", segment(&id)), &json!({}), SOON)?;
            let was_paused = answer.get("wasPaused").and_then(Value::as_bool).unwrap_or_default();
            let end = if was_paused { "resumed" } else { "was not paused" };
            output::print(&format!("{}: {end}\n", output::printable(&id)))
        }
    }
}

fn list(as_json: bool, flags: &SettingsFlags) -> Result<(), Failure> {
    let node: NodeStatus = AdminClient::of(&flags.load()?.settings).get("/v1/status")?;
    if as_json {
        return output::print_json(&node.destinations);
    }
    output::print(&status::destinations(&node.destinations, Clock::system().now_ms()))
}

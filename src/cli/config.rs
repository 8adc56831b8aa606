//! `pintle config effective`: every setting in force and where it came from, secrets hidden.

use serde_json::json;

use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output;
use super::table::{Align, Table};
use crate::settings;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Every setting in force, with its origin.
    Effective {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let Verb::Effective { json: as_json, flags } = arguments.verb;
    let effective = settings::effective(&flags.load()?.raw);
    if as_json {
        let items: Vec<_> = effective
            .iter()
            .map(|entry| json!({ "key": entry.key, "value": entry.value, "origin": entry.origin.to_string() }))
            .collect();
        return output::print_json(&items);
    }
    let mut table = Table::new(&[("KEY", Align::Left), ("VALUE", Align::Left), ("ORIGIN", Align::Left)]);
    for entry in effective {
        table.row([entry.key, entry.value, entry.origin.to_string()]);
    }
    output::print(&table.render())
}

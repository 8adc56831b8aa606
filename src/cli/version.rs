//! `pintle version`: what this binary is and which data it reads.

use serde_json::json;

use super::failure::Failure;
use super::output;
use crate::storage;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON, with the format of the data directory
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Args) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if !arguments.json {
        return output::print(&format!("pintle {version}\n"));
    }
    output::print_json(&json!({
        "name": "pintle",
        "version": version,
        "dataFormat": storage::FORMAT,
        "dataMinReader": storage::MIN_READER,
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    }))
}

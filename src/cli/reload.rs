//! `pintle reload`: the running node reads its settings and workspace again.

use serde_json::json;

use super::client::{AdminClient, SOON};
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output;
use crate::admin::Reloaded;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let settings = arguments.flags.load()?.settings;
    let reloaded: Reloaded = AdminClient::of(&settings).post("/v1/reload", &json!({}), SOON)?;
    if arguments.json {
        return output::print_json(&reloaded);
    }
    output::print(&render(&reloaded))
}

fn render(reloaded: &Reloaded) -> String {
    let mut text = String::from("settings and workspace were read again\n");
    for warning in &reloaded.warnings {
        output::line(&mut text, format_args!("  warning: {}", output::printable(warning)));
    }
    for key in &reloaded.applied {
        output::line(&mut text, format_args!("  {key}: in force"));
    }
    for key in &reloaded.needs_restart {
        output::line(&mut text, format_args!("  {key}: needs a restart"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_need_a_restart_are_named() {
        let reloaded = Reloaded {
            applied: vec!["Log.level".to_owned()],
            needs_restart: vec!["dataDir".to_owned()],
            warnings: Vec::new(),
        };
        let text = render(&reloaded);
        assert!(text.contains("Log.level: in force") && text.contains("dataDir: needs a restart"), "{text}");
    }
}

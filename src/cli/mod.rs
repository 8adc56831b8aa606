//! The command line (appliance.md 2): one file per verb.
//!
//! In: arguments and the environment. Out: text on standard output, one line per error with a hint on
//! standard error, and an exit code: 0 done, 1 failed, 2 wrong usage, 75 the store is unusable for now,
//! 78 a human is needed. Tables for people; `--json` for programs. A reader that closes the pipe ends a verb
//! with success.

mod backup;
mod check;
mod client;
mod config;
mod dead;
mod destination;
mod failure;
mod flags;
mod output;
mod reload;
mod report;
mod run;
mod send;
mod status;
mod store;
mod table;
mod tail;
mod trace;
mod transform;
mod units;
mod user;
mod version;
mod warehouse;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use failure::Failure;

/// Customer event pipeline for one machine: one binary, one data directory.
#[derive(Debug, Parser)]
#[command(name = "pintle", version, disable_version_flag = true, propagate_version = false, max_term_width = 100)]
struct Cli {
    /// Print the version.
    #[arg(short = 'v', short_alias = 'V', long = "version", action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the node in the foreground.
    Run(run::Args),
    /// Check settings, workspace and store without changing anything.
    Check(check::Args),
    /// Send a test event through the running node.
    Send(send::Args),
    /// Show queues, backlog, errors and components of the running node.
    Status(status::Args),
    /// Watch events as they pass.
    Tail(tail::Args),
    /// Show what happened to one event.
    Trace(trace::Args),
    /// Look at the store in the data directory.
    Store(store::Args),
    /// Make, list, verify, remove and restore snapshots.
    Backup(backup::Args),
    /// Let the running node read its settings and workspace again.
    Reload(reload::Args),
    /// Take no more events of a user, or take them again
    #[command(subcommand)]
    User(user::Verb),
    /// List destinations, hold and resume delivery to them.
    Destination(destination::Args),
    /// List, show, replay and drop events that failed and deliveries that were given up.
    Dead(dead::Args),
    /// Show what became of events, stage by stage.
    Report(report::Args),
    /// Try a user transformation on events from a file.
    Transform(transform::Args),
    /// Look after uploads to warehouses, and see which rows events become.
    Warehouse(warehouse::Args),
    /// Show the settings in force, with the origin of each value.
    Config(config::Args),
    /// Print the version.
    Version(version::Args),
}

/// Parses the arguments of the process and does what they say.
pub fn main() -> ExitCode {
    ExitCode::from(main_with(std::env::args_os()))
}

fn main_with(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(problem) => {
            let code = u8::try_from(problem.exit_code()).unwrap_or(2);
            // Help and usage go to a terminal that may be gone; the code says it all.
            drop(problem.print());
            return code;
        }
    };
    match dispatch(cli.verb) {
        Ok(()) => 0,
        Err(failure) => {
            failure.tell();
            failure.code
        }
    }
}

fn dispatch(verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Run(arguments) => run::run(arguments),
        Verb::Check(arguments) => check::run(arguments),
        Verb::Send(arguments) => send::run(arguments),
        Verb::Status(arguments) => status::run(arguments),
        Verb::Tail(arguments) => tail::run(arguments),
        Verb::Trace(arguments) => trace::run(arguments),
        Verb::Store(arguments) => store::run(arguments),
        Verb::Backup(arguments) => backup::run(arguments),
        Verb::Reload(arguments) => reload::run(arguments),
        Verb::User(verb) => user::run(verb),
        Verb::Destination(arguments) => destination::run(arguments),
        Verb::Dead(arguments) => dead::run(arguments),
        Verb::Report(arguments) => report::run(arguments),
        Verb::Transform(arguments) => transform::run(arguments),
        Verb::Warehouse(arguments) => warehouse::run(arguments),
        Verb::Config(arguments) => config::run(arguments),
        Verb::Version(arguments) => version::run(&arguments),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn code_of(arguments: &[&str]) -> u8 {
        main_with(std::iter::once("pintle").chain(arguments.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_definitions_of_the_command_line_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_ends_with_2_and_help_with_0() {
        for (arguments, code) in [
            (vec![], 2),
            (vec!["fly"], 2),
            (vec!["run", "--no-such-flag"], 2),
            (vec!["backup"], 2),
            (vec!["destination", "pause"], 2),
            (vec!["destination", "pause", "d1", "--for", "soon"], 2),
            (vec!["--help"], 0),
            (vec!["-v"], 0),
            (vec!["--version"], 0),
            (vec!["version"], 0),
            (vec!["version", "--json"], 0),
        ] {
            assert_eq!(code_of(&arguments), code, "{arguments:?}");
        }
    }

    #[test]
    fn settings_that_are_wrong_need_a_human_and_an_absent_node_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let settings = dir.path().join("pintle.toml");
        let file = settings.to_str().unwrap();
        let data = dir.path().join("data");
        let data = data.to_str().unwrap();
        std::fs::write(&settings, "[Gateway]\nlisten = \"nowhere\"\n").unwrap();
        assert_eq!(code_of(&["check", "--config-only", "--config", file]), 78);
        assert_eq!(code_of(&["run", "--config", file, "--data-dir", data]), 78);
        std::fs::write(&settings, "").unwrap();
        assert_eq!(code_of(&["check", "--config-only", "--config", file]), 0);
        assert_eq!(code_of(&["status", "--config", file, "--data-dir", data]), 1);
        assert_eq!(code_of(&["store", "ls", "--config", file, "--data-dir", data]), 1);
        assert_eq!(code_of(&["check", "--config", "/nowhere/pintle.toml"]), 78);
    }
}

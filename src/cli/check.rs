//! `pintle check`: settings, workspace and store, without changing anything. Every error at once.

use std::path::Path;

use super::failure::{Failure, HUMAN};
use super::flags::SettingsFlags;
use super::{output, store};
use crate::backend_config::{self, Known, Problem};
use crate::processor::transformers;
use crate::settings::Settings;
use crate::storage;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Settings alone: a broken workspace is a warning, because the node keeps the last good one
    #[arg(long)]
    config_only: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let loaded = arguments.flags.load()?;
    let mut text = String::new();
    for warning in &loaded.warnings {
        output::line(&mut text, format_args!("settings: warning: {}", output::printable(warning)));
    }
    text.push_str("settings: ok\n");
    let mut errors = Vec::new();
    if let Err(problems) = check_workspace(&loaded.settings, &mut text) {
        let keeps = has_last_good(&loaded.settings);
        if arguments.config_only || keeps {
            let instead = if keeps { "the last good one stays" } else { "and there is no last good one" };
            for problem in problems {
                output::line(&mut text, format_args!("workspace: refused, {instead}: {problem}"));
            }
        } else {
            errors.extend(problems);
        }
    }
    if !arguments.config_only {
        errors.extend(check_store(&loaded.settings.data_dir, &mut text));
    }
    output::print(&text)?;
    if errors.is_empty() { Ok(()) } else { Err(Failure::many(HUMAN, errors)) }
}

/// Checks the workspace file, if there is to be one; the errors with their places.
fn check_workspace(settings: &Settings, text: &mut String) -> Result<(), Vec<String>> {
    let workspace = &settings.backend_config;
    if let Some(hosted) = &workspace.hosted {
        output::line(text, format_args!("workspace: fetched from {}, not checked here", hosted.shown_url()));
        return Ok(());
    }
    if !workspace.path.exists() && !workspace.path_is_set && !workspace.file_is_demanded {
        text.push_str("workspace: no file, the embedded default is used\n");
        return Ok(());
    }
    let place = workspace.path.display().to_string();
    let shown = |problem: &Problem| output::printable(&format!("{place}: {problem}"));
    let known = Known {
        delivers_to: &|kind| transformers::is_delivered(kind, &settings.transformer),
        runs: &|language| transformers::is_run(language, &settings.transformer),
    };
    let checked = backend_config::check_file(&workspace.path, workspace.variable_prefix.as_deref(), &known);
    let summary = checked.map_err(|problems| problems.iter().map(shown).collect::<Vec<_>>())?;
    for warning in &summary.warnings {
        output::line(text, format_args!("workspace: warning: {}", shown(warning)));
    }
    let (sources, connections) = (summary.sources, summary.destinations);
    output::line(text, format_args!("workspace: ok, {sources} sources, {connections} connections"));
    Ok(())
}

/// Whether a node would run with the workspace that it ran with before. A store that cannot be looked at has
/// none; what is wrong with it is said where the store is checked.
fn has_last_good(settings: &Settings) -> bool {
    settings.backend_config.keeps_last_good
        && storage::is_data_directory(&settings.data_dir)
        && backend_config::has_last_good(&settings.data_dir, settings.backend_config.hosted.is_some()).unwrap_or(false)
}

/// Looks at the store, if there is one; the errors.
fn check_store(data_dir: &Path, text: &mut String) -> Vec<String> {
    if !storage::is_data_directory(data_dir) {
        text.push_str("store: none yet, the first start makes it\n");
        return Vec::new();
    }
    match store::inspect(data_dir) {
        Ok(queues) => {
            let waiting: u64 = queues.iter().map(|queue| queue.pending).sum();
            output::line(text, format_args!("store: ok, {waiting} jobs are waiting"));
            Vec::new()
        }
        Err(failure) => failure.lines.iter().map(|line| format!("store: {line}")).collect(),
    }
}

//! Logs (appliance.md 7).

use super::catalogue::{Key, Kind};
use super::raw::Reader;
pub use crate::telemetry::logs::{LogFormat, LogLevel, LogSettings};

pub(super) const KEYS: &[Key] = &[
    Key::new("Log.level", Kind::Text, "info", "Least severe level that is written: error, warn, info, debug or trace.")
        .also(&["LOG_LEVEL"])
        .hot(),
    Key::new("Log.modules", Kind::List, "", "Levels of single modules, such as \"router=debug\" or \"hyper=warn\".")
        .hot(),
    Key::new(
        "Log.format",
        Kind::Text,
        "auto",
        "auto (the journal when it reads standard error, else text), text, json or journald.",
    ),
    Key::new(
        "Log.maxLinesPerSecond",
        Kind::Int,
        "200",
        "Most lines per second; more are dropped and counted. 0 = no bound.",
    )
    .hot(),
];

pub(super) fn read(r: &Reader<'_>) -> LogSettings {
    const LEVELS: &str = "error, warn, info, debug, trace";
    let level_text = r.text("Log.level");
    let level = LogLevel::parse(&level_text).unwrap_or_else(|| {
        r.reject("Log.level", format!("{level_text:?} is not one of {LEVELS}"));
        LogLevel::Info
    });
    let mut modules = Vec::new();
    for text in r.list("Log.modules") {
        match text.split_once('=').and_then(|(module, level)| Some((module.trim(), LogLevel::parse(level)?))) {
            Some((module, level)) => modules.push((module_path(module), level)),
            None => r.reject(
                "Log.modules",
                format!("{text:?} is not a module and one of {LEVELS}, such as \"router=debug\""),
            ),
        }
    }
    let format = match r.one_of("Log.format", &["auto", "text", "json", "journald"]) {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        "journald" => LogFormat::Journald,
        _ => LogFormat::Auto,
    };
    let max_lines_per_second = u32::try_from(r.count("Log.maxLinesPerSecond")).unwrap_or(u32::MAX);
    LogSettings { level, modules, format, max_lines_per_second }
}

/// A module of this program by its short name (`router`, `router.transport`), anything else as written.
fn module_path(written: &str) -> String {
    const OURS: &[&str] = &[
        "admin",
        "backend_config",
        "batch_router",
        "cli",
        "destination",
        "event",
        "gateway",
        "jobsdb",
        "node",
        "processor",
        "router",
        "settings",
        "storage",
        "telemetry",
    ];
    let path = written.replace('.', "::");
    let first = path.split("::").next().unwrap_or_default();
    if OURS.contains(&first) { format!("pintle::{path}") } else { path }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::raw::Raw;
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (LogSettings, usize) {
        let flags =
            pairs.iter().map(|(k, v)| (k.to_ascii_lowercase(), vec![(*v).to_owned()])).collect::<HashMap<_, _>>();
        let raw = Raw { flags, ..Raw::default() };
        let reader = Reader::new(&raw);
        let settings = super::read(&reader);
        (settings, reader.into_errors().len())
    }

    #[test]
    fn levels_are_read_for_all_and_for_single_modules() {
        let (settings, errors) = read(&[("Log.level", "WARN"), ("Log.modules", "router.transport=debug hyper=error")]);
        assert_eq!(errors, 0);
        assert_eq!(settings.level, LogLevel::Warn);
        let expected =
            [("pintle::router::transport".to_owned(), LogLevel::Debug), ("hyper".to_owned(), LogLevel::Error)];
        assert_eq!(settings.modules, expected);
    }

    #[test]
    fn what_is_no_level_or_format_is_an_error() {
        assert_eq!(read(&[("Log.level", "loud"), ("Log.modules", "router"), ("Log.format", "xml")]).1, 3);
    }
}

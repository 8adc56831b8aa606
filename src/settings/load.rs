//! From file, environment and flags to [`Settings`], with every mistake told at once.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{Key, Kind};
use super::elsewhere::{Elsewhere, VARIABLE_PREFIX};
use super::names::{self, Meaning};
use super::no_effect::NoEffect;
use super::raw::{Origin, Raw, SettingsError};
use super::{Settings, file};

/// Where settings come from, strongest last.
#[derive(Clone, Default)]
pub struct Sources {
    /// The settings file, if one is to be read.
    pub file: Option<PathBuf>,
    /// Whether the operator named the file; then it must exist.
    pub file_is_explicit: bool,
    /// The process environment.
    pub environment: Vec<(String, String)>,
    /// Flags of the command line as key name and text. A key given several times is a list.
    pub flags: Vec<(String, String)>,
}

/// Settings that can be used, and what the operator should know about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The texts behind the settings, for [`super::reload`] and [`super::effective`].
    pub raw: Arc<Raw>,
    /// The typed settings.
    pub settings: Settings,
    /// One line each: names without effect, unknown variables.
    pub warnings: Vec<String>,
}

/// Reads and validates every setting.
///
/// # Errors
/// Everything that is wrong, each with its key, place and mend: an unreadable or invalid file, unknown keys
/// in it or among the flags, values that do not parse or contradict each other, secrets that cannot be had.
pub fn load(sources: Sources) -> Result<Loaded, Vec<SettingsError>> {
    let mut gathering =
        Gathering { raw: Raw::default(), errors: Vec::new(), warnings: Vec::new(), told: HashSet::new() };
    if let Some(path) = &sources.file {
        gathering.read_file(path, sources.file_is_explicit);
    }
    gathering.read_environment(&sources.environment);
    gathering.read_flags(&sources.flags);
    gathering.resolve_references(&sources.environment);

    let Gathering { raw, mut errors, warnings, .. } = gathering;
    let raw = Arc::new(raw);
    let settings = match Settings::from_raw(&raw) {
        Ok(settings) if errors.is_empty() => settings,
        Ok(_) => return Err(located(errors, sources.file.as_deref())),
        Err(more) => {
            errors.extend(more);
            return Err(located(errors, sources.file.as_deref()));
        }
    };
    Ok(Loaded { raw, settings, warnings })
}

/// Names the file in every error that has its origin there, and drops repetitions (a key read for several queues).
fn located(mut errors: Vec<SettingsError>, path: Option<&Path>) -> Vec<SettingsError> {
    let mut seen = HashSet::new();
    errors.retain(|error| seen.insert((error.key.clone(), error.problem.clone())));
    for error in &mut errors {
        if matches!(error.origin, Origin::File(_)) {
            error.file = path.map(Path::to_path_buf);
        }
    }
    errors.sort_by_key(|error| match error.origin {
        Origin::File(line) => (0, line),
        _ => (1, None),
    });
    errors
}

struct Gathering {
    raw: Raw,
    errors: Vec<SettingsError>,
    warnings: Vec<String>,
    /// Names without effect that were told already.
    told: HashSet<&'static str>,
}

impl Gathering {
    fn read_file(&mut self, path: &Path, is_explicit: bool) {
        let whole = |problem: String, line| SettingsError {
            key: "settings file".to_owned(),
            problem,
            origin: Origin::File(line),
            file: None,
        };
        let text = match file::read(path) {
            Ok(Some(text)) => text,
            Ok(None) if is_explicit => {
                let problem = "does not exist; check the path or create it with `pintle init`";
                return self.errors.push(whole(problem.to_owned(), None));
            }
            Ok(None) => return,
            Err(found) => return self.errors.push(whole(found.problem, found.line)),
        };
        let values = match file::parse(&text) {
            Ok(values) => values,
            Err(problems) => {
                for found in problems {
                    let mut error = whole(found.problem, found.line);
                    if !found.key.is_empty() {
                        error.key = found.key;
                    }
                    self.errors.push(error);
                }
                return;
            }
        };
        for value in values {
            let origin = Origin::File(Some(value.line));
            match names::of_name(&value.name) {
                Meaning::Key(key, _) if value.texts.len() != 1 && key.kind != Kind::List => {
                    let problem = "takes one value, not a list".to_owned();
                    self.errors.push(SettingsError { key: value.name, problem, origin, file: None });
                }
                Meaning::Key(..) => {
                    let lower = value.name.to_ascii_lowercase();
                    if let Some((_, first)) = self.raw.file.insert(lower, (value.texts, Some(value.line))) {
                        let problem = match first {
                            Some(line) => format!("is set twice, first in line {line}; names are matched without case"),
                            None => "is set twice; names are matched without case".to_owned(),
                        };
                        self.errors.push(SettingsError { key: value.name, problem, origin, file: None });
                    }
                }
                Meaning::NoEffect(entry) => {
                    self.tell_no_effect(entry, &format!("{}:{}: {}", path.display(), value.line, value.name));
                }
                Meaning::Unknown => {
                    let problem = unknown(names::nearest_name(&value.name));
                    self.errors.push(SettingsError { key: value.name, problem, origin, file: None });
                }
            }
        }
    }

    fn read_environment(&mut self, environment: &[(String, String)]) {
        for (variable, text) in environment {
            match names::of_variable(variable) {
                Meaning::Key(..) => {
                    self.raw.environment.insert(variable.clone(), text.clone());
                }
                Meaning::NoEffect(entry) => self.tell_no_effect(entry, &format!("environment variable {variable}")),
                Meaning::Unknown if variable.starts_with("RSERVER_") || variable.starts_with("PINTLE_") => {
                    let hint = names::nearest_variable(variable).map(|near| format!("; did you mean {near}?"));
                    let hint = hint.unwrap_or_default();
                    self.warnings
                        .push(format!("environment variable {variable} is not a setting and is ignored{hint}"));
                }
                Meaning::Unknown => {}
            }
        }
    }

    fn read_flags(&mut self, flags: &[(String, String)]) {
        for (name, text) in flags {
            match names::of_name(name) {
                Meaning::Key(..) => {
                    self.raw.flags.entry(name.to_ascii_lowercase()).or_default().push(text.clone());
                }
                Meaning::NoEffect(entry) => self.tell_no_effect(entry, &format!("flag for {name}")),
                Meaning::Unknown => {
                    let problem = unknown(names::nearest_name(name));
                    self.errors.push(SettingsError { key: name.clone(), problem, origin: Origin::Flag, file: None });
                }
            }
        }
    }

    fn tell_no_effect(&mut self, entry: &'static NoEffect, place: &str) {
        // One line for a group of names: a whole taken-over configuration would fill the log otherwise.
        if !entry.silent && self.told.insert(entry.reason) {
            self.warnings.push(format!("{place} has no effect: {}", entry.reason));
        }
    }

    /// Looks up every text setting that says where its value stands.
    fn resolve_references(&mut self, environment: &[(String, String)]) {
        let variable = |name: &str| environment.iter().rev().find(|(known, _)| known == name).map(|(_, v)| v.clone());
        let texts = |key: &Key| key.kind == Kind::Text;
        let mut given: Vec<(String, String, Origin)> = Vec::new();
        for (name, (values, line)) in &self.raw.file {
            if let (Meaning::Key(key, concrete), [text]) = (names::of_name(name), values.as_slice()) {
                given.extend(texts(key).then(|| (concrete, text.clone(), Origin::File(*line))));
            }
        }
        for (name, text) in &self.raw.environment {
            if let Meaning::Key(key, concrete) = names::of_variable(name) {
                given.extend(texts(key).then(|| (concrete, text.clone(), Origin::Environment(name.clone()))));
            }
        }
        for (name, values) in &self.raw.flags {
            if let (Meaning::Key(key, concrete), [text]) = (names::of_name(name), values.as_slice()) {
                given.extend(texts(key).then(|| (concrete, text.clone(), Origin::Flag)));
            }
        }
        for (key, text, origin) in given {
            let Some(elsewhere) = Elsewhere::parse(&text, VARIABLE_PREFIX) else { continue };
            match elsewhere.resolve(&variable) {
                Ok(value) => {
                    self.raw.resolved.insert(text, value);
                }
                Err(error) => {
                    self.errors.push(SettingsError { key, problem: error.to_string(), origin, file: None });
                }
            }
        }
    }
}

fn unknown(nearest: Option<String>) -> String {
    match nearest {
        Some(near) => format!("is not a setting; did you mean {near}?"),
        None => "is not a setting; `pintle config effective` lists them all".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sources(toml: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pintle.toml");
        std::fs::write(&path, toml).unwrap();
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let sources =
            Sources { file: Some(path), file_is_explicit: true, environment: pairs(environment), flags: pairs(flags) };
        (dir, sources)
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let toml = "DATADIR = \"/file\"\n[gateway]\nLISTEN = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n[backendconfig]\npollIntervalInS = 7\n";
        let (_dir, only_file) = sources(toml, &[], &[]);
        let loaded = load(only_file).unwrap();
        assert_eq!(loaded.settings.data_dir, PathBuf::from("/file"));
        assert_eq!(loaded.settings.gateway.listen.len(), 2);
        assert_eq!(loaded.settings.backend_config.poll_interval, Duration::from_secs(7));

        let (_dir, with_environment) =
            sources(toml, &[("RSERVER_DATA_DIR", "/rserver"), ("PINTLE_DATA_DIR", "/env")], &[]);
        assert_eq!(load(with_environment).unwrap().settings.data_dir, PathBuf::from("/env"));

        let (_dir, with_flag) = sources(toml, &[("PINTLE_DATA_DIR", "/env")], &[("dataDir", "/flag")]);
        assert_eq!(load(with_flag).unwrap().settings.data_dir, PathBuf::from("/flag"));
    }

    #[test]
    fn an_unknown_key_names_the_file_the_line_and_the_nearest_key() {
        let (_dir, sources) = sources("[Gateway]\nwebPort = 1\nlistn = \"x\"\n", &[], &[]);
        let errors = load(sources).unwrap_err();
        let text = errors[0].to_string();
        assert!(text.contains("pintle.toml:3"), "{text}");
        assert!(text.contains("did you mean Gateway.listen?"), "{text}");
    }

    #[test]
    fn every_mistake_is_told_at_once_in_the_order_of_lines() {
        let (_dir, sources) =
            sources("dataDirr = \"/d\"\n[Gateway]\nlisten = \"nowhere\"\nmaxReqSizeInKB = \"big\"\n", &[], &[]);
        let errors = load(sources).unwrap_err();
        let keys: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, ["dataDirr", "Gateway.listen", "Gateway.maxReqSizeInKB"]);
    }

    #[test]
    fn keys_are_set_once_and_lists_go_only_where_lists_are_taken() {
        let (_dir, twice) = sources("[Gateway]\nwebPort = 1\n[gateway]\nWEBPORT = 2\n", &[], &[]);
        assert!(load(twice).unwrap_err()[0].problem.contains("twice"));
        let (_dir, list) = sources("dataDir = [\"/a\", \"/b\"]\n", &[], &[]);
        assert!(load(list).unwrap_err()[0].problem.contains("not a list"));
    }

    #[test]
    fn names_of_the_peer_warn_once_and_unknown_variables_get_a_line_each() {
        let toml = "[JobsDB]\nmaxReaders = 3\nmaxWriters = 3\n[Router]\nminSleep = \"1s\"\n[Router.WEBHOOK]\nnoOfWorkers = 3\n";
        let environment = [
            ("RSERVER_GATEWAY_WEBPORT", "1"),
            ("RSERVER_X", "1"),
            ("PATH", "/bin"),
            ("JOBS_DB_HOST", "pg"),
            ("DEST", ""),
        ];
        let (_dir, sources) = sources(toml, &environment, &[]);
        let warnings = load(sources).unwrap().warnings;
        assert_eq!(warnings.len(), 4, "{warnings:#?}");
        assert!(warnings[0].contains("JobsDB.maxReaders has no effect"), "{warnings:#?}");
        assert!(warnings.iter().any(|line| line.contains("did you mean RSERVER_GATEWAY_WEB_PORT?")), "{warnings:#?}");
    }

    #[test]
    fn a_missing_file_matters_only_when_it_was_named() {
        let missing = |file_is_explicit| Sources {
            file: Some(PathBuf::from("/nowhere/pintle.toml")),
            file_is_explicit,
            ..Sources::default()
        };
        assert!(load(missing(false)).is_ok());
        assert!(load(missing(true)).unwrap_err()[0].to_string().contains("/nowhere/pintle.toml"));
    }

    #[test]
    fn a_text_setting_may_stand_elsewhere_and_its_value_is_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("dir");
        std::fs::write(&secret, "/hidden/path\n").unwrap();
        let toml = format!("dataDir = \"file:{}\"\nINSTANCE_ID = \"${{NODE}}\"\n", secret.display());
        let (_dir, sources) = sources(&toml, &[("NODE", "s3cret-node")], &[]);
        let loaded = load(sources).unwrap();
        assert_eq!(loaded.settings.data_dir, PathBuf::from("/hidden/path"));
        let shown = format!("{:?} {:?}", loaded.raw, super::super::effective(&loaded.raw));
        assert!(!shown.contains("/hidden/path") && !shown.contains("s3cret-node"), "{shown}");
    }

    #[test]
    fn a_reference_to_nothing_is_an_error() {
        let (_dir, sources) = sources("dataDir = \"env.NOT_SET_ANYWHERE\"\n", &[], &[]);
        let errors = load(sources).unwrap_err();
        assert!(errors[0].to_string().contains("NOT_SET_ANYWHERE is not set"), "{}", errors[0]);
    }

    #[test]
    fn an_empty_variable_is_an_unset_one_except_for_texts() {
        let environment = [("PINTLE_GATEWAY_MAX_REQ_SIZE_IN_KB", ""), ("PINTLE_ADMIN_LISTEN", "")];
        let (_dir, sources) = sources("", &environment, &[]);
        let settings = load(sources).unwrap().settings;
        assert_eq!(settings.gateway.max_req_bytes, 4_096_000);
        assert_eq!(settings.admin.listen, None);
    }
}

//! Raw settings: texts by key name, each with its origin, and the reader that turns them into values.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::catalogue::{self, Key, Kind, Unit};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// The settings file, with the line when it is known.
    File(Option<usize>),
    /// The environment variable of this name.
    Environment(String),
    /// A command-line flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(None) => f.write_str("file"),
            Origin::File(Some(line)) => write!(f, "file, line {line}"),
            Origin::Environment(name) => write!(f, "environment variable {name}"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// A setting that cannot be used: which, why, and where it came from.
#[derive(Clone, Debug, thiserror::Error)]
pub struct SettingsError {
    /// The key as the documents write it.
    pub key: String,
    /// What is wrong and how to mend it.
    pub problem: String,
    /// Where the value came from.
    pub origin: Origin,
    /// The settings file, when the value came from there.
    pub file: Option<PathBuf>,
}

impl SettingsError {
    pub(super) fn contradiction(key: &str, problem: &str) -> SettingsError {
        SettingsError { key: key.to_owned(), problem: problem.to_owned(), origin: Origin::Default, file: None }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, &self.origin) {
            (Some(path), Origin::File(Some(line))) => write!(f, "{}:{line}: ", path.display())?,
            (Some(path), _) => write!(f, "{}: ", path.display())?,
            (None, _) => {}
        }
        write!(f, "{} {}", self.key, self.problem)?;
        match (&self.file, &self.origin) {
            (Some(_), _) | (None, Origin::Default) => Ok(()),
            (None, origin) => write!(f, " ({origin})"),
        }
    }
}

/// Texts by key name, before anything is validated. `Debug` shows names only: a text may be a secret.
#[derive(Clone, Default)]
pub struct Raw {
    /// Lower-cased dotted name to the texts of the file (one, or the elements of an array) and their line.
    pub file: HashMap<String, (Vec<String>, Option<usize>)>,
    /// The process environment, or the part of it that names settings.
    pub environment: HashMap<String, String>,
    /// Lower-cased dotted name to texts given as flags.
    pub flags: HashMap<String, Vec<String>>,
    /// Texts that say where a value stands (`"file:/run/credentials/x"`), and the value that stood there.
    pub resolved: HashMap<String, String>,
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw")
            .field("file", &self.file.keys())
            .field("environment", &self.environment.keys())
            .field("flags", &self.flags.keys())
            .finish_non_exhaustive()
    }
}

impl Raw {
    /// The texts of the key with this concrete name, from the strongest origin that has it.
    pub fn lookup(&self, name: &str) -> Option<(Vec<String>, Origin)> {
        let lower = name.to_ascii_lowercase();
        if let Some(texts) = self.flags.get(&lower) {
            return Some((texts.clone(), Origin::Flag));
        }
        for variable in environment_names(name) {
            if let Some(text) = self.environment.get(&variable) {
                return Some((vec![text.clone()], Origin::Environment(variable)));
            }
        }
        self.file.get(&lower).map(|(texts, line)| (texts.clone(), Origin::File(*line)))
    }
}

/// The environment variables that set a key, strongest first (gateway.md 12).
pub fn environment_names(key: &str) -> Vec<String> {
    let verbatim = key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if verbatim {
        return vec![format!("PINTLE_{key}"), key.to_owned()];
    }
    let mut upper = String::with_capacity(key.len() + 8);
    let mut previous = ' ';
    for c in key.chars() {
        if c.is_ascii_uppercase() && (previous.is_ascii_lowercase() || previous.is_ascii_digit()) {
            upper.push('_');
        }
        upper.push(if c == '.' { '_' } else { c.to_ascii_uppercase() });
        previous = c;
    }
    vec![format!("PINTLE_{upper}"), format!("RSERVER_{upper}")]
}

/// Reads typed values out of [`Raw`] and gathers every error on the way, so that `check` shows all at once.
pub struct Reader<'a> {
    raw: &'a Raw,
    /// Prefixes tried before the key's own name, for example `Router.WEBHOOK`.
    scopes: Vec<String>,
    errors: RefCell<Vec<SettingsError>>,
}

impl<'a> Reader<'a> {
    /// A reader of the keys by their own names.
    pub fn new(raw: &'a Raw) -> Reader<'a> {
        Reader { raw, scopes: Vec::new(), errors: RefCell::new(Vec::new()) }
    }

    /// A reader that for the key `Router.x` first looks at `<scope>.x` for each scope in turn.
    pub fn scoped(raw: &'a Raw, scopes: &[String]) -> Reader<'a> {
        Reader { raw, scopes: scopes.to_vec(), errors: RefCell::new(Vec::new()) }
    }

    /// A reader of the same raw settings that looks at these prefixes first.
    pub fn within(&self, scopes: &[String]) -> Reader<'a> {
        Reader::scoped(self.raw, scopes)
    }

    /// Takes over the errors of a reader made by [`Reader::within`].
    pub fn absorb(&self, other: Reader<'_>) {
        self.errors.borrow_mut().extend(other.into_errors());
    }

    /// Every error met so far.
    pub fn into_errors(self) -> Vec<SettingsError> {
        self.errors.into_inner()
    }

    /// Whether the key is set anywhere.
    pub fn is_set(&self, name: &str) -> bool {
        self.texts(name).1 != Origin::Default
    }

    /// The key's text; read from where it stands when it says so (`"file:/..."`, `"${NAME}"`, `"env.NAME"`).
    pub fn text(&self, name: &str) -> String {
        let text = self.texts(name).0.join(" ");
        self.raw.resolved.get(&text).cloned().unwrap_or(text)
    }

    /// The key's text in lower case, which must be one of `allowed`; the first of them after an error.
    pub fn one_of(&self, name: &str, allowed: &[&'static str]) -> &'static str {
        let text = self.text(name);
        if let Some(found) = allowed.iter().find(|known| known.eq_ignore_ascii_case(text.trim())) {
            return found;
        }
        self.reject(name, format!("{text:?} is not one of {}", allowed.join(", ")));
        allowed.first().copied().unwrap_or_default()
    }

    /// Refuses the key's value: `problem` says why and how to mend it, as a sentence that begins with the value.
    pub fn reject(&self, name: &str, problem: impl Into<String>) {
        let (_, origin, read_as) = self.texts_and_name(name);
        self.errors.borrow_mut().push(SettingsError { key: read_as, problem: problem.into(), origin, file: None });
    }

    /// The key's words.
    pub fn list(&self, name: &str) -> Vec<String> {
        let (texts, origin) = self.texts(name);
        match origin {
            Origin::File(_) | Origin::Flag if texts.len() != 1 => texts,
            _ => texts.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect(),
        }
    }

    /// The key's truth value.
    pub fn flag(&self, name: &str) -> bool {
        self.parse(name, |_, text| match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Some(true),
            "false" | "0" | "f" => Some(false),
            _ => None,
        })
        .unwrap_or_default()
    }

    /// The key's whole number, 0 or more.
    pub fn count(&self, name: &str) -> usize {
        self.parse(name, |_, text| text.parse().ok()).unwrap_or_default()
    }

    /// The key's whole number, which must be at least `least`; `least` after an error.
    pub fn count_at_least(&self, name: &str, least: usize) -> usize {
        match self.parse(name, |_, text| text.parse::<usize>().ok()) {
            Some(count) if count >= least => count,
            Some(count) => {
                self.reject(name, format!("{count} is too small, it must be at least {least}"));
                least
            }
            None => least,
        }
    }

    /// The key's whole number.
    pub fn int(&self, name: &str) -> i64 {
        self.parse(name, |_, text| text.parse().ok()).unwrap_or_default()
    }

    /// The key's decimal number.
    pub fn float(&self, name: &str) -> f64 {
        self.parse(name, |_, text| text.parse::<f64>().ok().filter(|n| n.is_finite())).unwrap_or_default()
    }

    /// The key's length of time.
    pub fn duration(&self, name: &str) -> Duration {
        self.parse(name, |read_as, text| {
            let unit = match find_kind(name) {
                Kind::Duration(unit) => unit_of_name(read_as).unwrap_or(unit),
                _ => Unit::Second,
            };
            parse_duration(text, unit)
        })
        .unwrap_or_default()
    }

    /// The key's number of bytes.
    pub fn bytes(&self, name: &str) -> u64 {
        self.parse(name, |_, text| {
            let factor = match find_kind(name) {
                Kind::Bytes(factor) => factor,
                _ => 1,
            };
            parse_bytes(text, factor)
        })
        .unwrap_or_default()
    }

    /// The key's socket addresses (`127.0.0.1:8080`).
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for text in self.list(name) {
            match text.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => self.reject(name, format!("{text:?} is not an address and port such as \"127.0.0.1:8080\"")),
            }
        }
        addresses
    }

    /// The key's texts and their origin; the default when it is set nowhere.
    fn texts(&self, name: &str) -> (Vec<String>, Origin) {
        let (texts, origin, _) = self.texts_and_name(name);
        (texts, origin)
    }

    fn texts_and_name(&self, name: &str) -> (Vec<String>, Origin, String) {
        let Some(key) = catalogue::find(name) else {
            debug_assert!(false, "key {name} is not in the catalogue");
            return (Vec::new(), Origin::Default, name.to_owned());
        };
        for candidate in self.candidates(key) {
            if let Some((texts, origin)) = self.raw.lookup(&candidate) {
                // Compose files and unit files set variables to nothing to mean "not set"; only a text may be empty.
                let is_unset = matches!(origin, Origin::Environment(_))
                    && !matches!(key.kind, Kind::Text | Kind::List)
                    && texts.iter().all(|text| text.trim().is_empty());
                if !is_unset {
                    return (texts, origin, candidate);
                }
            }
        }
        (vec![key.default.to_owned()], Origin::Default, name.to_owned())
    }

    /// The key's texts as they were written, and their origin.
    pub(super) fn written(&self, key: &Key) -> (Vec<String>, Origin) {
        self.texts(key.name)
    }

    /// Concrete names under which this reader looks for the key, strongest first.
    fn candidates(&self, key: &Key) -> Vec<String> {
        let own = std::iter::once(key.name).chain(key.also.iter().copied().filter(|name| !name.contains('<')));
        let own: Vec<String> = own.map(str::to_owned).collect();
        let mut names = Vec::new();
        for scope in &self.scopes {
            for name in &own {
                if let Some((_, rest)) = name.split_once('.') {
                    names.push(format!("{scope}.{rest}"));
                }
            }
        }
        names.extend(own);
        names
    }

    fn parse<T>(&self, name: &str, parse: impl Fn(&str, &str) -> Option<T>) -> Option<T> {
        let (texts, origin, read_as) = self.texts_and_name(name);
        let text = texts.join(" ");
        let parsed = parse(&read_as, text.trim());
        if parsed.is_none() {
            let expected = match find_kind(name) {
                Kind::Bool => "true or false",
                Kind::Int => "a whole number",
                Kind::Float => "a number",
                Kind::Text | Kind::List => "text",
                Kind::Duration(_) => "a duration such as \"500ms\", \"10s\" or \"2h\"",
                Kind::Bytes(_) => "a size such as \"64MiB\"",
            };
            self.errors.borrow_mut().push(SettingsError {
                key: read_as,
                problem: format!("{text:?} is not {expected}"),
                origin,
                file: None,
            });
        }
        parsed
    }
}

fn find_kind(name: &str) -> Kind {
    catalogue::find(name).map_or(Kind::Text, |key| key.kind)
}

/// The unit that a key's own name gives to a bare number (`...InMS`, `ReadTimeOutInSec`).
fn unit_of_name(name: &str) -> Option<Unit> {
    let lower = name.to_ascii_lowercase();
    let endings = [
        ("inms", Unit::Milli),
        ("ins", Unit::Second),
        ("insec", Unit::Second),
        ("inmin", Unit::Minute),
        ("inhr", Unit::Hour),
        ("indays", Unit::Day),
    ];
    endings.into_iter().find(|(ending, _)| lower.ends_with(ending)).map(|(_, unit)| unit)
}

/// Parses `1h30m`, `500ms`, `10s`, or a bare number of `unit`.
pub fn parse_duration(text: &str, unit: Unit) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        let seconds = number
            * match unit {
                Unit::Milli => 0.001,
                Unit::Second => 1.0,
                Unit::Minute => 60.0,
                Unit::Hour => 3_600.0,
                Unit::Day => 86_400.0,
            };
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        let after = rest.get(digits..)?;
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match after.get(..letters)?.trim() {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = after.get(letters..)?;
    }
    Some(total)
}

/// Parses `64MiB`, `10MB`, `4096`; a bare number is multiplied by `factor`.
pub fn parse_bytes(text: &str, factor: u64) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text.get(..split)?;
    let unit = match text.get(split..)?.trim().to_ascii_lowercase().as_str() {
        "" => return number.parse::<u64>().ok()?.checked_mul(factor),
        "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range first")]
    (0.0..9e18).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_names_follow_the_documented_transformation() {
        for (key, variable) in [
            ("BackendConfig.configJSONPath", "RSERVER_BACKEND_CONFIG_CONFIG_JSONPATH"),
            ("Gateway.maxReqSizeInKB", "RSERVER_GATEWAY_MAX_REQ_SIZE_IN_KB"),
            (
                "Gateway.allowReqsWithoutUserIDAndAnonymousID",
                "RSERVER_GATEWAY_ALLOW_REQS_WITHOUT_USER_IDAND_ANONYMOUS_ID",
            ),
            ("JobsDB.gw.maxDSSize", "RSERVER_JOBS_DB_GW_MAX_DSSIZE"),
            ("enableRouter", "RSERVER_ENABLE_ROUTER"),
        ] {
            assert!(environment_names(key).iter().any(|name| name == variable), "{key}");
        }
        assert!(environment_names("WORKSPACE_TOKEN").iter().any(|name| name == "WORKSPACE_TOKEN"));
    }

    #[test]
    fn durations_and_sizes_are_read_as_users_write_them() {
        assert_eq!(parse_duration("1h30m", Unit::Second), Some(Duration::from_mins(90)));
        assert_eq!(parse_duration("15ms", Unit::Second), Some(Duration::from_millis(15)));
        assert_eq!(parse_duration("15", Unit::Milli), Some(Duration::from_millis(15)));
        assert_eq!(parse_duration("soon", Unit::Second), None);
        assert_eq!(parse_bytes("64MiB", 1), Some(64 << 20));
        assert_eq!(parse_bytes("4000", 1024), Some(4_096_000));
        assert_eq!(parse_bytes("many", 1), None);
    }

    #[test]
    fn a_number_below_its_bound_is_refused_with_its_origin() {
        let flags = HashMap::from([("storage.maxbatchtx".to_owned(), vec!["0".to_owned()])]);
        let raw = Raw { flags, ..Raw::default() };
        let reader = Reader::new(&raw);
        assert_eq!(reader.count_at_least("Storage.maxBatchTx", 1), 1);
        assert_eq!(reader.one_of("Log.format", &["text", "auto"]), "auto");
        let errors = reader.into_errors();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].to_string(), "Storage.maxBatchTx 0 is too small, it must be at least 1 (flag)");
    }

    #[test]
    fn every_default_parses() {
        super::super::Settings::defaults();
    }
}

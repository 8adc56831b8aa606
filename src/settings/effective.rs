//! What is in force, for `config effective`, the UI and reload; and the reference of every key.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;

use super::catalogue::{self, Kind, all_keys};
use super::names::{self, Meaning};
use super::raw::{Origin, Raw, Reader, environment_names};

/// Whether values under a key of this name, in settings or in the workspace, are secrets (security.md 6.1).
pub fn is_secret_name(name: &str) -> bool {
    let lower = name.to_lowercase();
    SECRET_WORDS.iter().any(|word| lower.contains(word))
}

/// Parts of a key's name that make its value a secret (security.md 6.1).
const SECRET_WORDS: &[&str] = &[
    "password",
    "secret",
    "token",
    "apikey",
    "api_key",
    "accesskey",
    "privatekey",
    "credential",
    "connectionstring",
    "passphrase",
    "routing_key",
];

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The key as the documents write it, with the type or queue that it was set for.
    pub key: String,
    /// Its value as it was written; `***` for a secret that was written out.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Every key with its value in force and where that came from, sorted by name. A value that stands elsewhere
/// is shown as the reference that was written.
pub fn effective(raw: &Raw) -> Vec<Effective> {
    let reader = Reader::new(raw);
    let mut by_key = BTreeMap::new();
    for key in all_keys() {
        let (texts, origin) = reader.written(key);
        by_key.insert(key.name.to_owned(), shown(key.name, key.kind, &texts, origin));
    }
    for (key, concrete) in narrowed_names(raw) {
        if let Some((texts, origin)) = raw.lookup(&concrete) {
            by_key.insert(concrete.clone(), shown(&concrete, key.kind, &texts, origin));
        }
    }
    by_key.into_values().collect()
}

/// Keys that are set for one type or queue, by their own names.
fn narrowed_names(raw: &Raw) -> Vec<(&'static catalogue::Key, String)> {
    let by_name = raw.file.keys().chain(raw.flags.keys()).map(|name| names::of_name(name));
    let by_variable = raw.environment.keys().map(|variable| names::of_variable(variable));
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for meaning in by_name.chain(by_variable) {
        if let Meaning::Key(key, concrete) = meaning {
            let is_own = key.name == concrete || key.also.contains(&concrete.as_str());
            if !is_own && seen.insert(concrete.clone()) {
                found.push((key, concrete));
            }
        }
    }
    found
}

fn shown(name: &str, kind: Kind, texts: &[String], origin: Origin) -> Effective {
    let written = texts.join(" ");
    let is_secret = matches!(kind, Kind::Text | Kind::List) && is_secret_name(name);
    let is_reference = super::Elsewhere::parse(&written, super::VARIABLE_PREFIX).is_some();
    let hide = is_secret && !is_reference && !written.is_empty() && origin != Origin::Default;
    Effective { key: name.to_owned(), value: if hide { "***".to_owned() } else { written }, origin }
}

/// What a reload does.
#[derive(Clone, Debug)]
pub struct Reload {
    /// The settings to put in force: the new ones where a key reloads, the old ones elsewhere.
    pub in_force: Raw,
    /// Changed keys that take effect now.
    pub applied: Vec<String>,
    /// Changed keys that need a restart.
    pub need_restart: Vec<String>,
}

/// Compares the settings in force with newly read ones. Only the file reloads: environment and flags are the
/// process's own.
pub fn reload(old: &Raw, new: &Raw) -> Reload {
    let mut in_force = Raw {
        file: new.file.clone(),
        environment: old.environment.clone(),
        flags: old.flags.clone(),
        resolved: old.resolved.clone(),
    };
    in_force.resolved.extend(new.resolved.iter().map(|(text, value)| (text.clone(), value.clone())));
    let (mut applied, mut need_restart) = (Vec::new(), Vec::new());
    let lower_names: BTreeSet<&String> = old.file.keys().chain(new.file.keys()).collect();
    for lower in lower_names {
        let (before, after) = (old.file.get(lower), new.file.get(lower));
        let value = |raw: &Raw, entry: Option<&(Vec<String>, Option<usize>)>| {
            entry.map(|(texts, _)| {
                texts.iter().map(|text| raw.resolved.get(text).unwrap_or(text).clone()).collect::<Vec<_>>()
            })
        };
        if value(old, before) == value(new, after) {
            continue;
        }
        let Meaning::Key(key, concrete) = names::of_name(lower) else { continue };
        if !key.hot {
            match before {
                Some(entry) => in_force.file.insert(lower.clone(), entry.clone()),
                None => in_force.file.remove(lower),
            };
            for text in before.map(|(texts, _)| texts.as_slice()).unwrap_or_default() {
                if let Some(value) = old.resolved.get(text) {
                    in_force.resolved.insert(text.clone(), value.clone());
                }
            }
        }
        // A stronger origin hides the file: nothing changes, now or after a restart.
        let is_hidden = old.flags.contains_key(lower)
            || environment_names(&concrete).iter().any(|variable| old.environment.contains_key(variable));
        if !is_hidden {
            if key.hot { applied.push(concrete) } else { need_restart.push(concrete) }
        }
    }
    Reload { in_force, applied, need_restart }
}

/// Every key as a Markdown table: name, default, whether it reloads, meaning, other names.
pub fn reference() -> String {
    let mut keys: Vec<_> = all_keys().collect();
    keys.sort_by_key(|key| key.name.to_ascii_lowercase());
    let mut table = String::from("| Key | Default | Reloads | Meaning |\n|---|---|---|---|\n");
    for key in keys {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        let reloads = if key.hot { "yes" } else { "" };
        let also: Vec<String> = key.also.iter().map(|name| format!("`{name}`")).collect();
        let also = if also.is_empty() { String::new() } else { format!(" Also: {}.", also.join(", ")) };
        let help = key.help.replace('|', "\\|");
        // Writing to a String cannot fail.
        writeln!(table, "| `{}` | {default} | {reloads} | {help}{also} |", key.name).unwrap_or_default();
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(file: &[(&str, &str)], environment: &[(&str, &str)]) -> Raw {
        Raw {
            file: file.iter().map(|(k, v)| (k.to_ascii_lowercase(), (vec![(*v).to_owned()], Some(1)))).collect(),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Raw::default()
        }
    }

    fn value_of(list: &[Effective], key: &str) -> Option<(String, Origin)> {
        list.iter().find(|entry| entry.key == key).map(|entry| (entry.value.clone(), entry.origin.clone()))
    }

    #[test]
    fn every_key_is_listed_with_its_origin_and_secrets_are_hidden() {
        let raw = raw(
            &[("Router.WEBHOOK.noOfWorkers", "3"), ("Gateway.webPort", "9")],
            &[("WORKSPACE_TOKEN", "tok-123"), ("RSERVER_JOBS_DB_GW_MAX_DSSIZE", "5")],
        );
        let list = effective(&raw);
        assert_eq!(value_of(&list, "Gateway.webPort"), Some(("9".to_owned(), Origin::File(Some(1)))));
        assert_eq!(value_of(&list, "Router.WEBHOOK.noOfWorkers"), Some(("3".to_owned(), Origin::File(Some(1)))));
        assert_eq!(value_of(&list, "JobsDB.gw.maxDSSize").unwrap().0, "5");
        assert_eq!(value_of(&list, "WORKSPACE_TOKEN").unwrap().0, "***");
        assert_eq!(value_of(&list, "dataDir").unwrap().1, Origin::Default);
        assert!(all_keys().all(|key| value_of(&list, key.name).is_some()));
    }

    #[test]
    fn a_reload_applies_hot_keys_and_reports_the_others() {
        let old = raw(
            &[("Log.level", "info"), ("dataDir", "/a"), ("Admin.listen", "127.0.0.1:1")],
            &[("PINTLE_ADMIN_LISTEN", "")],
        );
        let new = raw(
            &[("Log.level", "debug"), ("dataDir", "/b"), ("Admin.listen", "127.0.0.1:2"), ("profile", "small")],
            &[],
        );
        let reload = reload(&old, &new);
        assert_eq!(reload.applied, ["Log.level"]);
        assert_eq!(reload.need_restart, ["dataDir", "profile"]);
        assert_eq!(reload.in_force.lookup("Log.level").unwrap().0, ["debug"]);
        assert_eq!(reload.in_force.lookup("dataDir").unwrap().0, ["/a"]);
        assert!(reload.in_force.lookup("profile").is_none());
    }

    #[test]
    fn the_reference_has_a_line_for_every_key() {
        let table = reference();
        assert!(all_keys().all(|key| table.contains(&format!("| `{}` |", key.name))));
        assert_eq!(table.lines().count(), all_keys().count() + 2);
    }
}

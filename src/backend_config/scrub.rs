//! Taking secrets out of texts from outside (security.md 6.3): what a destination answers may repeat what it was sent.
//!
//! In: the workspaces of a snapshot. Out: a [`Scrubber`], one search over all their secrets (security.md 6.1) as they
//! are, percent-encoded and in base64.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

use super::model::{Destination, Workspace};
use crate::settings::is_secret_name;

/// Shorter texts are left alone: they would be found in everything.
const LEAST_BYTES: usize = 8;

/// Most secrets that are looked for; more would cost more memory than a configuration is worth.
const MOST_SECRETS: usize = 20_000;

/// Parts of names that make values of the workspace secrets, beside those of settings.
const MORE_SECRET_WORDS: [&str; 2] = ["auth", "sas"];

/// Destinations whose URL is the secret.
const SECRET_URL_TYPES: [&str; 2] = ["SLACK", "DISCORD"];

/// Finds the secrets of a configuration.
#[derive(Default)]
pub struct Scrubber {
    /// `None`: there are none.
    search: Option<AhoCorasick>,
}

impl fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The search holds the secrets.
        f.write_str("Scrubber")
    }
}

impl Scrubber {
    /// A scrubber for the secrets of these workspaces.
    pub(super) fn of<'a>(workspaces: impl IntoIterator<Item = &'a Workspace>) -> Scrubber {
        let mut secrets = BTreeSet::new();
        for workspace in workspaces {
            secrets.extend(workspace.resolved.iter().map(String::as_str));
            let credentials = workspace.credentials.iter().filter(|credential| credential.is_secret);
            secrets.extend(credentials.map(|credential| credential.value.as_str()));
            for source in &workspace.sources {
                named(&source.config, false, &mut secrets);
                source.destinations.iter().for_each(|destination| of_destination(destination, &mut secrets));
            }
        }
        let mut forms = BTreeSet::new();
        for secret in secrets.into_iter().filter(|secret| secret.len() >= LEAST_BYTES).take(MOST_SECRETS) {
            let encoded = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
            forms.insert(encoded.to_lowercase());
            forms.insert(encoded);
            forms.extend([STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD].map(|base64| base64.encode(secret)));
            forms.insert(secret.to_owned());
        }
        // The search is refused only beyond sizes that the bounds above exclude.
        let search = (!forms.is_empty())
            .then(|| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms).ok())
            .flatten();
        Scrubber { search }
    }

    /// The text with `***` for every secret in it.
    pub fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.search {
            Some(search) if search.is_match(text) => {
                let mut scrubbed = String::with_capacity(text.len());
                search.replace_all_with(text, &mut scrubbed, |_, _, scrubbed| {
                    scrubbed.push_str("***");
                    true
                });
                Cow::Owned(scrubbed)
            }
            _ => Cow::Borrowed(text),
        }
    }
}

fn of_destination<'a>(destination: &'a Destination, secrets: &mut BTreeSet<&'a str>) {
    named(&destination.config, false, secrets);
    let listed = destination.definition.config.get("secretKeys").and_then(Value::as_array);
    for path in listed.into_iter().flatten().filter_map(Value::as_str) {
        at_path(&destination.config, path, secrets);
    }
    if SECRET_URL_TYPES.contains(&destination.definition.name.as_str()) {
        let url = destination.config.get("webhookUrl").and_then(Value::as_str);
        let behind_host = url.and_then(|url| url.split_once("://")).and_then(|(_, rest)| rest.split_once('/'));
        secrets.extend(behind_host.map(|(_, path)| path));
    }
    for account in [&destination.delivery_account, &destination.delete_account].into_iter().flatten() {
        texts(&account.secret, secrets);
        named(&account.options, false, secrets);
    }
}

/// Texts under names of secrets, and the values of header lists.
fn named<'a>(map: &'a Map<String, Value>, is_secret: bool, secrets: &mut BTreeSet<&'a str>) {
    let is_header = map.contains_key("from") && map.contains_key("to");
    for (name, value) in map {
        let lower = name.to_lowercase();
        let is_secret = is_secret
            || is_secret_name(&lower)
            || MORE_SECRET_WORDS.iter().any(|word| lower.contains(word))
            || (is_header && name == "to");
        match value {
            Value::String(text) if is_secret => drop(secrets.insert(text)),
            Value::Object(map) => named(map, is_secret, secrets),
            Value::Array(list) => {
                for element in list {
                    match element {
                        Value::String(text) if is_secret => drop(secrets.insert(text)),
                        Value::Object(map) => named(map, is_secret, secrets),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

/// Texts at a dotted path; lists on the way are entered.
fn at_path<'a>(map: &'a Map<String, Value>, path: &str, secrets: &mut BTreeSet<&'a str>) {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    match (map.get(name), rest) {
        (Some(value), None) => texts(value, secrets),
        (Some(Value::Object(map)), Some(rest)) => at_path(map, rest, secrets),
        (Some(Value::Array(list)), Some(rest)) => {
            list.iter().filter_map(Value::as_object).for_each(|map| at_path(map, rest, secrets));
        }
        _ => {}
    }
}

/// Every text in a value.
fn texts<'a>(value: &'a Value, secrets: &mut BTreeSet<&'a str>) {
    match value {
        Value::String(text) => drop(secrets.insert(text)),
        Value::Array(list) => list.iter().for_each(|element| texts(element, secrets)),
        Value::Object(map) => map.values().for_each(|member| texts(member, secrets)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::code_files::CodeFiles;
    use super::super::decode::decode;
    use super::super::secrets::References;
    use super::*;

    fn scrubber(document: &Value) -> Scrubber {
        let variable = |name: &str| (name == "V").then(|| "from-the-environment".to_owned());
        let references = References { prefix: Some("env."), variable: &variable };
        let decoded = decode(document.to_string().as_bytes(), &references, &CodeFiles::default()).ok().unwrap();
        Scrubber::of([&decoded.workspace])
    }

    #[test]
    fn every_kind_of_secret_is_taken_out_in_every_form() {
        let scrubber = scrubber(&json!({
            "credentials": {"a": {"key": "k", "value": "credential-value", "isSecret": true},
                "b": {"key": "k", "value": "public-credential"}},
            "accounts": {"acc": {"secret": {"deep": ["account-secret"]}}},
            "sources": [{"destinations": [
                {"enabled": true, "config": {
                    "password": "pass word/1", "apiKey": "short", "note": "env.V", "host": "db.example.com",
                    "headers": [{"from": "X-Key", "to": "header-value"}], "nested": {"plainName": "listed-value"},
                    "rudderAccountId": "acc"},
                 "destinationDefinition": {"name": "WEBHOOK", "config": {"secretKeys": ["nested.plainName"]}}},
                {"config": {"webhookUrl": "https://hooks.slack.com/services/T0/B0/xyz"},
                 "destinationDefinition": {"name": "SLACK"}},
            ]}],
        }));
        for (text, expected) in [
            ("say credential-value twice: credential-value.", "say *** twice: ***."),
            ("public-credential, db.example.com, short", "public-credential, db.example.com, short"),
            ("account-secret", "***"),
            ("pass word/1 pass%20word%2F1 pass%20word%2f1", "*** *** ***"),
            ("cGFzcyB3b3JkLzE= cGFzcyB3b3JkLzE", "*** ***"),
            ("X-Key: header-value", "X-Key: ***"),
            ("listed-value from-the-environment", "*** ***"),
            ("404 https://hooks.slack.com/services/T0/B0/xyz", "404 https://hooks.slack.com/***"),
            ("", ""),
        ] {
            assert_eq!(scrubber.scrub(text), expected);
        }
        assert_eq!(format!("{scrubber:?}"), "Scrubber");
    }

    #[test]
    fn without_secrets_every_text_stays_as_it_is() {
        assert!(matches!(scrubber(&json!({})).scrub("password"), Cow::Borrowed("password")));
    }
}

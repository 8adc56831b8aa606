//! Which key a name in a file, a variable or a flag means, and which one was probably meant.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::catalogue::{Key, all_keys};
use super::no_effect::{NO_EFFECT, NoEffect};
use super::raw::environment_names;

/// Sections whose keys may carry one more segment that narrows them: `Router.WEBHOOK.noOfWorkers`.
const NARROWED_SECTIONS: &[(&str, &str)] = &[("Router", "<TYPE>"), ("BatchRouter", "<TYPE>"), ("JobsDB", "<queue>")];

/// What stands for `<queue>` in the name of a key.
const QUEUES: &[&str] = &["gw", "rt", "batch_rt", "arc", "proc_error"];

/// What a name means.
#[derive(Clone, Debug)]
pub(super) enum Meaning {
    /// A setting, with its name as the documents write it and the user's text for `<X>`.
    Key(&'static Key, String),
    /// A name of the peer that is accepted and does nothing here.
    NoEffect(&'static NoEffect),
    /// Nothing.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Key(&'static Key),
    NoEffect(&'static NoEffect),
}

/// A name, possibly with `<X>` segments, and what it means.
#[derive(Debug)]
struct Entry {
    name: String,
    target: Target,
}

impl Entry {
    fn meaning(&self, concrete: String) -> Meaning {
        match self.target {
            Target::Key(key) => Meaning::Key(key, concrete),
            Target::NoEffect(entry) => Meaning::NoEffect(entry),
        }
    }
}

#[derive(Debug, Default)]
struct Index {
    entries: Vec<Entry>,
    /// Lower-cased exact name to its place in `entries`.
    exact: HashMap<String, usize>,
    /// Places of names with `<X>` segments.
    patterns: Vec<usize>,
    /// Exact variable to its place in `entries`.
    variables: HashMap<String, usize>,
    /// Text before `<X>`, text after it, place in `entries`.
    variable_patterns: Vec<(String, String, usize)>,
}

impl Index {
    fn add(&mut self, name: String, target: Target) {
        let place = self.entries.len();
        let is_pattern = name.contains('<');
        for variable in environment_names(&name) {
            match variable.split_once('<').and_then(|(before, rest)| Some((before, rest.split_once('>')?.1))) {
                Some((before, after)) => self.variable_patterns.push((before.to_owned(), after.to_owned(), place)),
                None => {
                    self.variables.entry(variable).or_insert(place);
                }
            }
        }
        if is_pattern {
            self.patterns.push(place);
        } else {
            self.exact.entry(name.to_ascii_lowercase()).or_insert(place);
        }
        self.entries.push(Entry { name, target });
    }
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index::default();
    for key in all_keys() {
        for name in std::iter::once(key.name).chain(key.also.iter().copied()) {
            index.add(name.to_owned(), Target::Key(key));
        }
    }
    for key in all_keys() {
        for name in std::iter::once(key.name).chain(key.also.iter().copied()).filter(|name| !name.contains('<')) {
            let Some((section, rest)) = name.split_once('.') else { continue };
            for (narrowed, by) in NARROWED_SECTIONS {
                if section == *narrowed {
                    index.add(format!("{section}.{by}.{rest}"), Target::Key(key));
                }
            }
        }
    }
    // Real keys were added first and so win over the lists of names without effect.
    for entry in NO_EFFECT {
        for name in entry.names {
            index.add((*name).to_owned(), Target::NoEffect(entry));
        }
    }
    index
});

/// What a dotted name of the file or of a flag means; matched without case.
pub(super) fn of_name(written: &str) -> Meaning {
    let index = &*INDEX;
    let lower = written.to_ascii_lowercase();
    if let Some(entry) = index.exact.get(&lower).and_then(|&place| index.entries.get(place)) {
        return entry.meaning(entry.name.clone());
    }
    for entry in index.patterns.iter().filter_map(|&place| index.entries.get(place)) {
        if let Some(concrete) = fill(&entry.name, written) {
            return entry.meaning(concrete);
        }
    }
    Meaning::Unknown
}

/// What an environment variable means; variables are matched exactly.
pub(super) fn of_variable(variable: &str) -> Meaning {
    let index = &*INDEX;
    if let Some(entry) = index.variables.get(variable).and_then(|&place| index.entries.get(place)) {
        return entry.meaning(entry.name.clone());
    }
    for (before, after, place) in &index.variable_patterns {
        let middle = variable.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
        if let (Some(middle), Some(entry)) = (middle.filter(|middle| !middle.is_empty()), index.entries.get(*place))
            && let Some(concrete) = fill_variable(&entry.name, middle)
        {
            return entry.meaning(concrete);
        }
    }
    Meaning::Unknown
}

/// The known key that a name was probably meant to be.
pub(super) fn nearest_name(written: &str) -> Option<String> {
    let index = &*INDEX;
    let lower = written.to_ascii_lowercase();
    let last = lower.rsplit('.').next().unwrap_or(&lower);
    let real = index.entries.iter().filter(|entry| matches!(entry.target, Target::Key(_)));
    let scored = real.map(|entry| {
        let candidate = with_segments_of(&entry.name, written);
        let candidate_lower = candidate.to_ascii_lowercase();
        let mut distance = strsim::damerau_levenshtein(&lower, &candidate_lower);
        // The right key in the wrong section, or with its section left out.
        if !entry.name.ends_with('>') && candidate_lower.rsplit('.').next() == Some(last) {
            distance = distance.min(2);
        }
        (distance, candidate)
    });
    closest(scored, lower.len())
}

/// The known variable that a variable was probably meant to be.
pub(super) fn nearest_variable(variable: &str) -> Option<String> {
    let scored = INDEX.variables.keys().map(|known| (strsim::damerau_levenshtein(variable, known), known.clone()));
    closest(scored, variable.len())
}

fn closest(scored: impl Iterator<Item = (usize, String)>, length: usize) -> Option<String> {
    scored.min().filter(|(distance, _)| *distance <= (length / 4).clamp(2, 6)).map(|(_, name)| name)
}

/// The pattern with its `<X>` segments filled from the name, if the name fits it.
fn fill(pattern: &str, written: &str) -> Option<String> {
    let wanted: Vec<&str> = pattern.split('.').collect();
    let given: Vec<&str> = written.split('.').collect();
    if wanted.len() != given.len() {
        return None;
    }
    let mut concrete = Vec::with_capacity(wanted.len());
    for (wanted, given) in wanted.into_iter().zip(given) {
        if wanted.starts_with('<') {
            concrete.push(fits(wanted, given)?);
        } else if wanted.eq_ignore_ascii_case(given) {
            concrete.push(wanted.to_owned());
        } else {
            return None;
        }
    }
    Some(concrete.join("."))
}

/// The pattern with its one `<X>` segment filled from the middle of a variable.
fn fill_variable(pattern: &str, middle: &str) -> Option<String> {
    let mut concrete = Vec::new();
    for segment in pattern.split('.') {
        concrete.push(if segment.starts_with('<') { fits(segment, middle)? } else { segment.to_owned() });
    }
    Some(concrete.join("."))
}

/// The text for `<X>`, if it may stand there.
fn fits(placeholder: &str, given: &str) -> Option<String> {
    if placeholder == "<queue>" {
        return QUEUES.iter().find(|queue| queue.eq_ignore_ascii_case(given)).map(|queue| (*queue).to_owned());
    }
    // Types are written in capitals everywhere; the file's names were lower-cased.
    (!given.is_empty()).then(|| if placeholder == "<TYPE>" { given.to_ascii_uppercase() } else { given.to_owned() })
}

/// The pattern with the name's own text wherever it has `<X>`, so that both can be compared.
fn with_segments_of(pattern: &str, written: &str) -> String {
    if !pattern.contains('<') {
        return pattern.to_owned();
    }
    let mut given = written.split('.');
    let segments = pattern.split('.').map(|wanted| {
        let given = given.next();
        if wanted.starts_with('<') { given.unwrap_or(wanted) } else { wanted }
    });
    segments.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(meaning: Meaning) -> Option<(String, &'static str)> {
        match meaning {
            Meaning::Key(key, concrete) => Some((concrete, key.name)),
            Meaning::NoEffect(_) | Meaning::Unknown => None,
        }
    }

    #[test]
    fn names_match_without_case_and_with_a_type_or_queue_in_between() {
        for (written, concrete, key) in [
            ("GATEWAY.WebPort", "Gateway.webPort", "Gateway.webPort"),
            ("Router.WEBHOOK.noofworkers", "Router.WEBHOOK.noOfWorkers", "Router.noOfWorkers"),
            ("jobsdb.GW.maxdssize", "JobsDB.gw.maxDSSize", "JobsDB.maxDSSize"),
            ("BackendConfig.pollIntervalInS", "BackendConfig.pollIntervalInS", "BackendConfig.pollInterval"),
        ] {
            assert_eq!(name_of(of_name(written)), Some((concrete.to_owned(), key)), "{written}");
        }
        assert!(matches!(of_name("JobsDB.nowhere.maxDSSize"), Meaning::Unknown));
        assert!(matches!(of_name("Gateway.webPort.more"), Meaning::Unknown));
    }

    #[test]
    fn variables_match_with_a_type_that_has_an_underscore() {
        for (variable, concrete) in [
            ("RSERVER_BATCH_ROUTER_AZURE_BLOB_UPLOAD_FREQ", "BatchRouter.AZURE_BLOB.uploadFreq"),
            ("PINTLE_JOBS_DB_BATCH_RT_MAX_DSSIZE", "JobsDB.batch_rt.maxDSSize"),
            ("RSERVER_GATEWAY_MAX_REQ_SIZE_IN_KB", "Gateway.maxReqSizeInKB"),
            ("INSTANCE_ID", "INSTANCE_ID"),
        ] {
            assert_eq!(name_of(of_variable(variable)).map(|(name, _)| name).as_deref(), Some(concrete), "{variable}");
        }
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest_one() {
        for (written, meant) in [
            ("gateway.wbePort", Some("Gateway.webPort")),
            ("webPort", Some("Gateway.webPort")),
            ("Router.WEBHOOK.noOfWokers", Some("Router.WEBHOOK.noOfWorkers")),
            ("something.entirely.different", None),
        ] {
            assert_eq!(nearest_name(written).as_deref(), meant, "{written}");
        }
        assert_eq!(nearest_variable("RSERVER_GATEWAY_WEBPORT").as_deref(), Some("RSERVER_GATEWAY_WEB_PORT"));
    }

    #[test]
    fn a_key_that_works_wins_over_the_list_of_names_without_effect() {
        for key in all_keys() {
            assert!(matches!(of_name(key.name), Meaning::Key(..)), "{}", key.name);
        }
    }
}

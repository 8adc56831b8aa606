//! What a workspace document looks like (gateway.md 11.2, 11.3), and the check against it.
//!
//! In: the parsed document. Out: the same with known keys only, spelt as here, without nulls; and every
//! value of a wrong type. What reads the result needs no further checks: a missing key is a zero value.

use serde_json::{Map, Value};

use super::locate::Step;

/// The shape of one value.
#[derive(Debug)]
pub(super) enum Shape {
    /// Text.
    Text,
    /// True or false.
    Flag,
    /// A whole number.
    Integer,
    /// Anything, kept as written.
    Any,
    /// An object whose keys are kept as written.
    Free,
    /// An object with these keys, matched without case; others are ignored.
    Object(&'static [(&'static str, Shape)]),
    /// A list of these.
    List(&'static Shape),
    /// An object of these by id; ids are kept as written.
    ById(&'static Shape),
}

use Shape::{Any, ById, Flag, Free, Integer, List, Object, Text};

/// The whole document.
pub(super) const DOCUMENT: Shape = Object(&[
    ("workspaceId", Text),
    ("enableMetrics", Flag),
    ("sources", List(&SOURCE)),
    ("libraries", List(&LIBRARY)),
    ("credentials", ById(&Object(&[("key", Text), ("value", Text), ("isSecret", Flag)]))),
    ("connections", ById(&CONNECTION)),
    ("accounts", ById(&Object(&[("accountDefinitionName", Text), ("options", Free), ("secret", Any)]))),
    ("accountDefinitions", ById(&Object(&[("name", Text), ("config", Free), ("authenticationType", Text)]))),
    ("eventReplays", ById(&REPLAY)),
    ("settings", SETTINGS),
    ("updatedAt", Text),
]);

const SETTINGS: Shape = Object(&[
    (
        "dataRetention",
        Object(&[
            ("disableReportingPii", Flag),
            ("useSelfStorage", Flag),
            ("storageBucket", Object(&[("type", Text), ("config", Free)])),
            ("storagePreferences", Object(&[("gatewayDumps", Flag)])),
            ("retentionPeriod", Text),
        ]),
    ),
    ("eventAuditEnabled", Flag),
    ("eventBlocking", Object(&[("events", ById(&List(&Text)))])),
]);

const LIBRARY: Shape = Object(&[("versionId", Text), ("name", Text), ("importName", Text), ("code", Text)]);

const CONNECTION: Shape = Object(&[
    ("sourceId", Text),
    ("destinationId", Text),
    ("enabled", Flag),
    ("config", Free),
    ("processorEnabled", Flag),
]);

const REPLAY: Shape = Object(&[
    ("sources", ById(&Object(&[("originalId", Text)]))),
    ("destinations", ById(&Object(&[("originalId", Text)]))),
    ("connections", List(&Object(&[("sourceId", Text), ("destinationId", Text)]))),
]);

const SOURCE: Shape = Object(&[
    ("id", Text),
    ("name", Text),
    ("writeKey", Text),
    ("enabled", Flag),
    ("workspaceId", Text),
    ("originalId", Text),
    ("config", Free),
    (
        "sourceDefinition",
        Object(&[
            ("id", Text),
            ("name", Text),
            ("displayName", Text),
            ("category", Text),
            ("type", Text),
            ("options", Free),
        ]),
    ),
    ("destinations", List(&DESTINATION)),
    (
        "dgSourceTrackingPlanConfig",
        Object(&[
            ("sourceId", Text),
            ("version", Integer),
            ("config", Free),
            ("mergedConfig", Free),
            ("deleted", Flag),
            (
                "trackingPlan",
                Object(&[("id", Text), ("version", Integer), ("name", Text), ("rules", Free), ("events", List(&Any))]),
            ),
        ]),
    ),
    ("transient", Flag),
    ("geoEnrichment", Object(&[("enabled", Flag)])),
    ("internalSecret", Any),
    ("updatedAt", Text),
]);

const DESTINATION: Shape = Object(&[
    ("id", Text),
    ("name", Text),
    ("enabled", Flag),
    ("workspaceId", Text),
    ("revisionId", Text),
    ("originalId", Text),
    ("config", Free),
    ("isProcessorEnabled", Flag),
    ("transformations", List(&TRANSFORMATION)),
    ("destinationDefinition", Object(&[("id", Text), ("name", Text), ("displayName", Text), ("config", Free)])),
    ("version", Integer),
    ("updatedAt", Text),
]);

const TRANSFORMATION: Shape = Object(&[
    ("id", Text),
    ("versionId", Text),
    ("config", Free),
    ("language", Text),
    ("name", Text),
    ("codeVersion", Text),
    ("code", Text),
]);

/// A value of the wrong type.
#[derive(Debug)]
pub(super) struct WrongType {
    /// Where, with keys as written.
    pub(super) steps: Vec<Step>,
    /// What is there and what belongs there; never the value.
    pub(super) message: String,
}

/// A key that nothing reads.
#[derive(Debug)]
pub(super) struct UnknownKey {
    /// Where, with keys as written.
    pub(super) steps: Vec<Step>,
    /// Known keys of the same object that are not set.
    pub(super) unset: Vec<&'static str>,
}

/// What the check found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Each of them refuses the document.
    pub(super) wrong: Vec<WrongType>,
    /// Ignored, but worth a word to somebody who checks a file.
    pub(super) unknown: Vec<UnknownKey>,
}

/// Brings a value into its shape. A value of the wrong type becomes a zero value and a finding.
pub(super) fn bring(value: Value, shape: &'static Shape, steps: &mut Vec<Step>, findings: &mut Findings) -> Value {
    match (shape, value) {
        (_, Value::Null) => zero(shape),
        (Any, value)
        | (Text, value @ Value::String(_))
        | (Flag, value @ Value::Bool(_))
        | (Free, value @ Value::Object(_)) => value,
        (Integer, Value::Number(number)) if number.is_i64() || number.is_u64() => Value::Number(number),
        (Object(fields), Value::Object(map)) => Value::Object(object(map, fields, steps, findings)),
        (List(of), Value::Array(list)) => {
            let elements = list
                .into_iter()
                .enumerate()
                .map(|(index, element)| within(Step::Index(index), steps, |steps| bring(element, of, steps, findings)));
            Value::Array(elements.collect())
        }
        (ById(of), Value::Object(map)) => {
            let members = map.into_iter().map(|(id, member)| {
                let member = within(Step::Key(id.clone()), steps, |steps| bring(member, of, steps, findings));
                (id, member)
            });
            Value::Object(members.collect())
        }
        (_, value) => {
            let message = format!("is {} where {} belongs", kind_of(&value), name_of(shape));
            findings.wrong.push(WrongType { steps: steps.clone(), message });
            zero(shape)
        }
    }
}

fn within<T>(step: Step, steps: &mut Vec<Step>, inner: impl FnOnce(&mut Vec<Step>) -> T) -> T {
    steps.push(step);
    let result = inner(steps);
    steps.pop();
    result
}

fn object(
    mut map: Map<String, Value>,
    fields: &'static [(&'static str, Shape)],
    steps: &mut Vec<Step>,
    findings: &mut Findings,
) -> Map<String, Value> {
    let mut shaped = Map::new();
    let mut unset = Vec::new();
    for (name, shape) in fields {
        // The exact key wins; of several others the last one does, as in the peer.
        let exact = map.remove(*name).map(|value| ((*name).to_owned(), value));
        let others: Vec<String> = map.keys().filter(|key| key.eq_ignore_ascii_case(name)).cloned().collect();
        let mut inexact = None;
        for key in others {
            inexact = map.remove(&key).map(|value| (key, value));
        }
        match exact.or(inexact) {
            Some((_, Value::Null)) => {}
            Some((key, value)) => {
                let value = within(Step::Key(key), steps, |steps| bring(value, shape, steps, findings));
                shaped.insert((*name).to_owned(), value);
            }
            None => unset.push(*name),
        }
    }
    for (key, _) in map {
        let steps = within(Step::Key(key), steps, |steps| steps.clone());
        findings.unknown.push(UnknownKey { steps, unset: unset.clone() });
    }
    shaped
}

fn zero(shape: &Shape) -> Value {
    match shape {
        Text => Value::String(String::new()),
        Flag => Value::Bool(false),
        Integer => Value::from(0),
        Any => Value::Null,
        Free | Object(_) | ById(_) => Value::Object(Map::new()),
        List(_) => Value::Array(Vec::new()),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn name_of(shape: &Shape) -> &'static str {
    match shape {
        Text => "text",
        Flag => "true or false",
        Integer => "a whole number",
        Any => "any value",
        Free | Object(_) | ById(_) => "an object",
        List(_) => "a list",
    }
}

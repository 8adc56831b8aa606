//! What departs from a plan, in the types and words that users know (processor.md 5.2).
//!
//! The library says where and what; the texts are made here from the schema, because users' tools read them.

use std::collections::HashSet;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::{Map, Value, json};

use super::schema::Rule;

/// What is said about surplus properties, before their name.
const ADDITIONAL: &str = "must NOT have additional properties";
const UNEVALUATED: &str = "must NOT have unevaluated properties";

/// Most violations of one event; more say nothing new, and an event carries them all.
const MOST_VIOLATIONS: usize = 500;

/// The type of a violation. The numbers are stored with figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ViolationKind {
    /// The plan has no event of this name.
    UnplannedEvent = 1,
    /// A property that the plan does not name.
    AdditionalProperties = 2,
    /// A property is missing.
    RequiredMissing = 3,
    /// A value of another type.
    DatatypeMismatch = 4,
    /// A value outside of its bounds, list, pattern or format.
    AdvanceRules = 5,
    /// Anything else.
    Unknown = 6,
}

impl ViolationKind {
    /// Every type.
    pub const ALL: [ViolationKind; 6] = [
        ViolationKind::UnplannedEvent,
        ViolationKind::AdditionalProperties,
        ViolationKind::RequiredMissing,
        ViolationKind::DatatypeMismatch,
        ViolationKind::AdvanceRules,
        ViolationKind::Unknown,
    ];

    /// The type of a stored number.
    pub fn numbered(number: u8) -> Option<ViolationKind> {
        ViolationKind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The name that events and settings use.
    pub fn name(self) -> &'static str {
        match self {
            ViolationKind::UnplannedEvent => "Unplanned-Event",
            ViolationKind::AdditionalProperties => "Additional-Properties",
            ViolationKind::RequiredMissing => "Required-Missing",
            ViolationKind::DatatypeMismatch => "Datatype-Mismatch",
            ViolationKind::AdvanceRules => "Advance-Rules-Violation",
            ViolationKind::Unknown => "Unknown-Violation",
        }
    }
}

/// One departure from a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its type.
    pub kind: ViolationKind,
    /// What is wrong.
    pub message: String,
    /// The missing or surplus property, where it is about one.
    pub property: Option<String>,
    /// Where in the event and in the schema; `None` for an unplanned event.
    place: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    instance_path: String,
    schema_path: String,
}

impl Violation {
    /// The plan has no event of this name.
    pub(super) fn unplanned(event: Option<&Value>) -> Violation {
        let name = match event {
            None => "undefined".to_owned(),
            Some(Value::String(name)) => name.clone(),
            Some(other) => other.to_string(),
        };
        Violation {
            kind: ViolationKind::UnplannedEvent,
            message: format!("no schema for event: {name}"),
            property: None,
            place: None,
        }
    }

    /// As events carry it: all four keys.
    pub fn to_json(&self) -> Value {
        let meta = match &self.place {
            Some(place) => json!({"instancePath": place.instance_path, "schemaPath": place.schema_path}),
            None => json!({}),
        };
        json!({
            "type": self.kind.name(),
            "message": self.message,
            "meta": meta,
            "property": self.property.as_deref().unwrap_or_default(),
        })
    }

    /// As the error of a dropped event carries it.
    pub(super) fn to_error_json(&self) -> Value {
        let mut entry = Map::new();
        if let Some(property) = &self.property {
            entry.insert("property".to_owned(), Value::from(property.as_str()));
        }
        entry.insert("message".to_owned(), Value::from(self.message.as_str()));
        if let Some(place) = &self.place {
            entry.insert("schemaPath".to_owned(), Value::from(place.schema_path.as_str()));
        }
        Value::Object(entry)
    }
}

/// Gathers what the check of one event against one rule found.
pub(super) struct Findings<'r> {
    rule: &'r Rule,
    event: &'r Value,
    pub(super) violations: Vec<Violation>,
    /// `if`s that were told already: path of the keyword, path in the event.
    told_conditions: HashSet<(String, String)>,
    /// `propertyNames` that were told already: path in the event with the name.
    told_names: HashSet<(String, String)>,
}

impl<'r> Findings<'r> {
    pub(super) fn new(rule: &'r Rule, event: &'r Value) -> Findings<'r> {
        Findings { rule, event, violations: Vec::new(), told_conditions: HashSet::new(), told_names: HashSet::new() }
    }

    /// Whether more would not be kept.
    pub(super) fn is_full(&self) -> bool {
        self.violations.len() >= MOST_VIOLATIONS
    }

    /// Adds one error of the library and what is inside of it. `base` is the place in the event that the error's
    /// own path begins at.
    pub(super) fn add(&mut self, error: &ValidationError<'_>, base: &str) {
        if self.is_full() {
            return;
        }
        let instance_path = format!("{base}{}", error.instance_path().as_str());
        let schema_path = error.schema_path().as_str();
        // What the keyword demands, as the plan's author wrote it.
        let demand = self.rule.document.pointer(schema_path);
        let place = Place { instance_path: instance_path.clone(), schema_path: format!("#{schema_path}") };
        match error.kind() {
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                self.add_branches(context.iter(), base);
            }
            Kind::OneOfMultipleValid { context } => {
                // Nobody looks at the branches behind the second that fits.
                let mut fitting = 0;
                let looked_at = context.iter().take_while(|branch| {
                    fitting += usize::from(branch.is_empty());
                    fitting < 2
                });
                self.add_branches(looked_at, base);
            }
            Kind::PropertyNames { error: inner } => {
                self.add(inner, base);
                let name = inner.instance().as_str().unwrap_or_default().to_owned();
                if !self.told_names.insert((instance_path, name)) {
                    return;
                }
            }
            Kind::Contains => self.add_items(error, schema_path, &instance_path),
            // The hosted validator does not check these, and one that gives up has found nothing.
            Kind::ContentEncoding { .. }
            | Kind::ContentMediaType { .. }
            | Kind::FromUtf8 { .. }
            | Kind::BacktrackLimitExceeded { .. }
            | Kind::RegexEngineFailure { .. }
            | Kind::Referencing(_) => return,
            _ => {}
        }
        self.push_words(error, demand, place);
        self.add_conditions(error, &format!("{base}{}", error.instance_path().as_str()));
    }

    fn add_branches<'e>(&mut self, branches: impl Iterator<Item = &'e Vec<ValidationError<'static>>>, base: &str) {
        for error in branches.flatten() {
            self.add(error, base);
        }
    }

    /// An array without a fitting item: what is wrong with each.
    fn add_items(&mut self, error: &ValidationError<'_>, schema_path: &str, instance_path: &str) {
        let Some(validator) = self.rule.validator_at(schema_path) else { return };
        for (at, item) in error.instance().as_array().into_iter().flatten().enumerate() {
            for inner in validator.iter_errors(item) {
                self.add(&inner, &format!("{instance_path}/{at}"));
            }
        }
    }

    /// The violation, or one for each property that it is about.
    fn push_words(&mut self, error: &ValidationError<'_>, demand: Option<&Value>, place: Place) {
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => {
                self.push_surplus(ADDITIONAL, unexpected, &place);
            }
            Kind::UnevaluatedProperties { unexpected } => {
                self.push_surplus(UNEVALUATED, unexpected, &place);
            }
            Kind::Required { property } => {
                let property = property.as_str().unwrap_or_default();
                if place.schema_path.ends_with("/required") {
                    let message = format!("must have required property '{property}'");
                    self.push(ViolationKind::RequiredMissing, message, Some(property), place);
                } else {
                    let message = words_of_dependency(error, demand, property);
                    self.push(ViolationKind::Unknown, message, None, place);
                }
            }
            // Where no property is allowed at all the library names none.
            Kind::FalseSchema => match self.all_surplus(&place) {
                Some((text, properties)) => self.push_surplus(text, &properties, &place),
                None => {
                    let place = Place { schema_path: format!("{}/false schema", place.schema_path), ..place };
                    self.push(ViolationKind::Unknown, "boolean schema is false".to_owned(), None, place);
                }
            },
            kind => {
                let (violation, message) = words(kind, error, demand, self.rule);
                self.push(violation, message, None, place);
            }
        }
    }

    /// The properties of an object that may have none, and what is said about each.
    fn all_surplus(&self, place: &Place) -> Option<(&'static str, Vec<String>)> {
        let (parent, keyword) = place.schema_path.rsplit_once('/')?;
        let text = match keyword {
            "additionalProperties" => ADDITIONAL,
            "unevaluatedProperties" => UNEVALUATED,
            _ => return None,
        };
        let names_a_property = parent.ends_with("/properties") && place.instance_path.ends_with(keyword);
        let members = self.event.pointer(&place.instance_path)?.as_object()?;
        (!names_a_property).then(|| (text, members.keys().take(MOST_VIOLATIONS).cloned().collect()))
    }

    fn push_surplus(&mut self, text: &str, properties: &[String], place: &Place) {
        for property in properties {
            let message = format!("{text} '{property}'");
            self.push(ViolationKind::AdditionalProperties, message, Some(property), place.clone());
        }
    }

    fn push(&mut self, kind: ViolationKind, message: String, property: Option<&str>, place: Place) {
        if !self.is_full() {
            let property = property.map(str::to_owned);
            self.violations.push(Violation { kind, message, property, place: Some(place) });
        }
    }

    /// An error below `then` or `else` is also one of the `if` beside it, told once.
    fn add_conditions(&mut self, error: &ValidationError<'_>, instance_path: &str) {
        for condition in conditions(error.evaluation_path().as_str()) {
            let instance_path = first_segments(instance_path, condition.depth).to_owned();
            if !self.told_conditions.insert((condition.path.to_owned(), instance_path.clone())) {
                continue;
            }
            let message = format!("must match \"{}\" schema", condition.branch);
            let place = Place { instance_path, schema_path: format!("#{}/if", condition.path) };
            self.push(ViolationKind::AdvanceRules, message, None, place);
        }
    }
}

/// Type and text of a violation that is about the value itself.
fn words(kind: &Kind, error: &ValidationError<'_>, demand: Option<&Value>, rule: &Rule) -> (ViolationKind, String) {
    use ViolationKind::{AdvanceRules, DatatypeMismatch, Unknown};
    let limit = || demand.map(number_or_text).unwrap_or_default();
    match kind {
        Kind::Type { .. } => {
            let types = match demand {
                Some(Value::Array(types)) => types.iter().map(number_or_text).collect::<Vec<_>>().join(","),
                Some(one) => number_or_text(one),
                None => String::new(),
            };
            (DatatypeMismatch, format!("must be {types}"))
        }
        Kind::MinLength { .. } => (AdvanceRules, format!("must NOT have fewer than {} characters", limit())),
        Kind::MaxLength { .. } => (AdvanceRules, format!("must NOT have more than {} characters", limit())),
        Kind::Pattern { .. } => (AdvanceRules, format!("must match pattern \"{}\"", limit())),
        Kind::Format { .. } => (AdvanceRules, format!("must match format \"{}\"", limit())),
        Kind::MultipleOf { .. } => (AdvanceRules, format!("must be multiple of {}", limit())),
        Kind::Minimum { .. } => (AdvanceRules, format!("must be >= {}", limit())),
        Kind::Maximum { .. } => (AdvanceRules, format!("must be <= {}", limit())),
        // Where the bound of draft 4 is exclusive, its limit stands beside the flag.
        Kind::ExclusiveMinimum { limit } => (AdvanceRules, format!("must be > {}", number_or_text(limit))),
        Kind::ExclusiveMaximum { limit } => (AdvanceRules, format!("must be < {}", number_or_text(limit))),
        Kind::MinItems { .. } => (AdvanceRules, format!("must NOT have fewer than {} items", limit())),
        Kind::MaxItems { .. } => (AdvanceRules, format!("must NOT have more than {} items", limit())),
        Kind::UniqueItems => (AdvanceRules, words_of_duplicates(error, rule)),
        Kind::Enum { .. } => (AdvanceRules, "must be equal to one of the allowed values".to_owned()),
        Kind::Constant { .. } => (Unknown, "must be equal to constant".to_owned()),
        Kind::AnyOf { .. } => (Unknown, "must match a schema in anyOf".to_owned()),
        Kind::OneOfMultipleValid { .. } | Kind::OneOfNotValid { .. } => {
            (Unknown, "must match exactly one schema in oneOf".to_owned())
        }
        Kind::Not { .. } => (Unknown, "must NOT be valid".to_owned()),
        Kind::Contains => (Unknown, words_of_contains(error, rule)),
        Kind::MinProperties { .. } => (Unknown, format!("must NOT have fewer than {} properties", limit())),
        Kind::MaxProperties { .. } => (Unknown, format!("must NOT have more than {} properties", limit())),
        Kind::PropertyNames { .. } => (Unknown, "property name must be valid".to_owned()),
        Kind::AdditionalItems { limit } => (Unknown, format!("must NOT have more than {limit} items")),
        Kind::UnevaluatedItems { unexpected } => {
            let items = error.instance().as_array().map_or(0, Vec::len).saturating_sub(unexpected.len());
            (Unknown, format!("must NOT have more than {items} items"))
        }
        other => (Unknown, format!("must match \"{}\"", other.keyword())),
    }
}

/// A property that another one demands.
fn words_of_dependency(error: &ValidationError<'_>, demand: Option<&Value>, missing: &str) -> String {
    let demanding = demand.and_then(Value::as_object).into_iter().flatten().find_map(|(property, demanded)| {
        let demanded = demanded.as_array()?;
        let is_present = error.instance().get(property).is_some();
        (is_present && demanded.iter().any(|name| name == missing)).then_some((property.as_str(), demanded))
    });
    // Where the path leads to the list itself, its name is the property.
    let last = error.schema_path().as_str().rsplit('/').next().unwrap_or_default();
    let (property, list) = match (demanding, demand.and_then(Value::as_array)) {
        (Some((property, list)), _) => (property, list.clone()),
        (None, Some(list)) => (last, list.clone()),
        (None, None) => (last, vec![Value::from(missing)]),
    };
    let noun = if list.len() == 1 { "property" } else { "properties" };
    let names: Vec<String> = list.iter().map(number_or_text).collect();
    format!("must have {noun} {} when property {property} is present", names.join(", "))
}

/// The pair of equal items that the hosted validator names: with items of simple types the later one first.
fn words_of_duplicates(error: &ValidationError<'_>, rule: &Rule) -> String {
    let empty = Vec::new();
    let items = error.instance().as_array().unwrap_or(&empty);
    let has_simple_items =
        sibling(rule, error.schema_path().as_str(), "items").and_then(|items| items.get("type")).is_some_and(|types| {
            let is_simple = |name: &Value| name != "object" && name != "array";
            types.as_array().map_or_else(|| is_simple(types), |types| types.iter().all(is_simple))
        });
    let mut pair = (1, 0);
    if has_simple_items {
        let mut behind: Vec<(usize, &Value)> = Vec::new();
        for (at, item) in items.iter().enumerate().rev() {
            if let Some((later, _)) = behind.iter().find(|(_, other)| *other == item) {
                pair = (*later, at);
                break;
            }
            behind.push((at, item));
        }
    } else {
        let equal = items.iter().enumerate().rev().find_map(|(later, item)| {
            let before = items.iter().take(later).enumerate().rev();
            before.into_iter().find(|(_, other)| *other == item).map(|(earlier, _)| (earlier, later))
        });
        pair = equal.map_or(pair, |(earlier, later)| (earlier, later));
    }
    format!("must NOT have duplicate items (items ## {} and {} are identical)", pair.0, pair.1)
}

fn words_of_contains(error: &ValidationError<'_>, rule: &Rule) -> String {
    let bound = |key: &str| sibling(rule, error.schema_path().as_str(), key).and_then(Value::as_u64);
    let least = bound("minContains").unwrap_or(1);
    match bound("maxContains") {
        None => format!("must contain at least {least} valid item(s)"),
        Some(most) => format!("must contain at least {least} and no more than {most} valid item(s)"),
    }
}

/// The keyword beside the one that a path leads to.
fn sibling<'r>(rule: &'r Rule, schema_path: &str, keyword: &str) -> Option<&'r Value> {
    let (parent, _) = schema_path.rsplit_once('/')?;
    rule.document.pointer(parent)?.get(keyword)
}

/// A text as it is, a number as JavaScript writes it.
fn number_or_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e21 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// An `if` whose branch an error is in.
#[derive(Debug, PartialEq, Eq)]
struct Condition<'p> {
    /// Path of the schema that has the `if`.
    path: &'p str,
    /// `then` or `else`.
    branch: &'p str,
    /// Segments of the event's path that lead to what the `if` is about.
    depth: usize,
}

/// The `then`s and `else`s on the way to an error. Names of properties may be the same words, so the way is walked
/// keyword by keyword.
fn conditions(path: &str) -> Vec<Condition<'_>> {
    let mut found = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(keyword) = segments.next() {
        let begins = at;
        at += keyword.len() + 1;
        let mut skip = |segments: &mut std::iter::Peekable<_>| {
            if let Some(name) = Iterator::next(segments) {
                let name: &str = name;
                at += name.len() + 1;
            }
        };
        match keyword {
            "then" | "else" => {
                found.push(Condition { path: path.get(..begins).unwrap_or_default(), branch: keyword, depth });
            }
            "properties" | "patternProperties" | "prefixItems" => {
                skip(&mut segments);
                depth += 1;
            }
            "items" => {
                if segments.peek().is_some_and(|next| next.bytes().all(|byte| byte.is_ascii_digit())) {
                    skip(&mut segments);
                }
                depth += 1;
            }
            "additionalProperties" | "unevaluatedProperties" | "additionalItems" | "unevaluatedItems" | "contains" => {
                depth += 1;
            }
            "allOf" | "anyOf" | "oneOf" | "dependencies" | "dependentSchemas" | "$defs" | "definitions" => {
                skip(&mut segments);
            }
            _ => {}
        }
    }
    found
}

/// The first segments of a JSON pointer.
fn first_segments(pointer: &str, count: usize) -> &str {
    let end = pointer.match_indices('/').nth(count).map_or(pointer.len(), |(at, _)| at);
    pointer.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_told_from_properties_of_the_same_name() {
        let of = |path| conditions(path).iter().map(|c| (c.path.to_owned(), c.branch.to_owned(), c.depth)).collect();
        let expected = |list: &[(&str, &str, usize)]| -> Vec<(String, String, usize)> {
            list.iter().map(|(path, branch, depth)| ((*path).to_owned(), (*branch).to_owned(), *depth)).collect()
        };
        let table = [
            ("/properties/then/type", vec![]),
            ("/properties/p/then/required", vec![("/properties/p", "then", 1)]),
            ("/allOf/1/else/properties/else/type", vec![("/allOf/1", "else", 0)]),
            ("/items/0/then/then/const", vec![("/items/0", "then", 1), ("/items/0/then", "then", 1)]),
            ("/then/$ref/properties/a/else/enum", vec![("", "then", 0), ("/then/$ref/properties/a", "else", 1)]),
            ("", vec![]),
        ];
        for (path, list) in table {
            let found: Vec<(String, String, usize)> = of(path);
            assert_eq!(found, expected(&list), "{path}");
        }
        assert_eq!(first_segments("/a/b/c", 2), "/a/b");
        assert_eq!(first_segments("/a", 0), "");
        assert_eq!(first_segments("/a", 5), "/a");
    }
}

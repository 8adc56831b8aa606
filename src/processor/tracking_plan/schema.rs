//! One rule of a plan, compiled: the schema of the events of one type and name.

use jsonschema::{Draft, PatternOptions, Validator, ValidatorMap};
use serde_json::Value;

use super::formats;
use super::settings::ValidatorOptions;
use super::violation::{Findings, Violation};

/// Steps that a pattern may take before the validator gives up on it.
const MOST_PATTERN_STEPS: usize = 200_000;
/// Bytes that a compiled pattern may take.
const MOST_PATTERN_BYTES: usize = 4 << 20;

/// A compiled rule.
pub(super) struct Rule {
    /// The schema as the texts of violations read it.
    pub(super) document: Value,
    validator: Validator,
    /// Validators of the schemas inside, only for rules that look into lists.
    inner: Option<ValidatorMap>,
    all_errors: bool,
}

impl Rule {
    /// Compiles a schema.
    ///
    /// # Errors
    /// Why it is no schema.
    pub(super) fn compile(schema: &Value, options: ValidatorOptions) -> Result<Rule, String> {
        let mut document = schema.clone();
        let mut draft = Draft::Draft201909;
        if let Value::Object(members) = &mut document {
            members.remove("version");
            // The rules of one draft hold for all newer ones, whatever the schema calls itself.
            let named = members.remove("$schema");
            if named.as_ref().and_then(Value::as_str).is_some_and(|named| named.contains("draft-04")) {
                draft = Draft::Draft4;
            }
        }
        let patterns = PatternOptions::fancy_regex().backtrack_limit(MOST_PATTERN_STEPS).size_limit(MOST_PATTERN_BYTES);
        let building = jsonschema::options()
            .with_draft(draft)
            .offline()
            .should_validate_formats(options.formats)
            .with_pattern_options(patterns);
        let building = formats::register(building);
        let validator = building.build(&document).map_err(|error| error.to_string())?;
        let inner = if holds_keyword(&document, "contains") {
            Some(building.build_map(&document).map_err(|error| error.to_string())?)
        } else {
            None
        };
        Ok(Rule { document, validator, inner, all_errors: options.all_errors })
    }

    /// Where an event departs from the rule.
    pub(super) fn violations(&self, event: &Value) -> Vec<Violation> {
        if self.validator.is_valid(event) {
            return Vec::new();
        }
        let mut findings = Findings::new(self, event);
        for error in self.validator.iter_errors(event) {
            findings.add(&error, "");
            if findings.is_full() || (!self.all_errors && !findings.violations.is_empty()) {
                break;
            }
        }
        if !self.all_errors {
            findings.violations.truncate(1);
        }
        findings.violations
    }

    /// The validator of the schema at a path of the document.
    pub(super) fn validator_at(&self, schema_path: &str) -> Option<&Validator> {
        self.inner.as_ref()?.get(&format!("#{schema_path}"))
    }
}

/// Whether any object of the document has this key.
fn holds_keyword(document: &Value, keyword: &str) -> bool {
    match document {
        Value::Object(members) => {
            members.contains_key(keyword) || members.values().any(|value| holds_keyword(value, keyword))
        }
        Value::Array(items) => items.iter().any(|item| holds_keyword(item, keyword)),
        _ => false,
    }
}

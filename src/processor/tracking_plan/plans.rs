//! Plans as sources use them, and the compiled ones that all sources share.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::super::events;
use super::Verdict;
use super::rules::{self, CHECKED_TYPES, Schemas};
use super::schema::Rule;
use super::settings::{TypeSettings, ValidatorOptions};
use super::strictness;
use super::violation::Violation;

/// Plans that are kept compiled; unused ones go when there are more.
const KEPT_PLANS: usize = 64;

/// A plan's version and the hash of its text.
type PlanKey = (String, i64, u128);

/// The compiled plans of the node, by id, version and content.
#[derive(Default)]
pub struct Plans {
    by_key: Mutex<HashMap<PlanKey, Arc<Plan>>>,
}

impl Plans {
    /// The plan of this text, compiled at most once while it is in use.
    fn get(&self, id: &str, version: i64, hash: u128, document: &Map<String, Value>) -> Arc<Plan> {
        let key = (id.to_owned(), version, hash);
        let mut by_key = self.by_key.lock();
        if let Some(plan) = by_key.get(&key) {
            return Arc::clone(plan);
        }
        if by_key.len() >= KEPT_PLANS {
            by_key.retain(|_, plan| Arc::strong_count(plan) > 1);
        }
        let plan = Arc::new(Plan::new(id, version, document));
        by_key.insert(key, Arc::clone(&plan));
        plan
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.by_key.lock().len()
    }
}

/// One version of a plan.
struct Plan {
    id: String,
    version: i64,
    schemas: Schemas<RuleCell>,
}

/// A schema and what it was compiled to, once for each set of options.
struct RuleCell {
    schema: Value,
    compiled: Mutex<Vec<(ValidatorOptions, Compiled)>>,
}

type Compiled = Result<Arc<Rule>, Arc<str>>;

impl Plan {
    fn new(id: &str, version: i64, document: &Map<String, Value>) -> Plan {
        let schemas = rules::schemas(document)
            .into_iter()
            .map(|(key, schema)| (key, RuleCell { schema, compiled: Mutex::default() }))
            .collect();
        Plan { id: id.to_owned(), version, schemas }
    }

    /// The rule for an event type and name; `None` when the plan has none.
    fn rule(&self, event_type: &'static str, name: &str, options: ValidatorOptions) -> Option<Compiled> {
        let cell = self.schemas.get(&(event_type, name.to_owned()))?;
        let mut compiled = cell.compiled.lock();
        if let Some((_, rule)) = compiled.iter().find(|(with, _)| *with == options) {
            return Some(rule.clone());
        }
        let rule: Compiled = match Rule::compile(&cell.schema, options) {
            Ok(rule) => Ok(Arc::new(rule)),
            Err(error) => Err(format!("Error occurred while validating: {error}").into()),
        };
        let place = if name.is_empty() { event_type } else { name };
        match &rule {
            Err(problem) => events::plan_unusable(&self.id, self.version, place, problem),
            Ok(_) => {
                if let Some(refusal) = strictness::first_refusal(&cell.schema) {
                    events::plan_not_strict(&self.id, self.version, place, &refusal);
                }
            }
        }
        compiled.push((options, rule.clone()));
        Some(rule)
    }
}

/// The plan of a source, ready to check its events.
pub struct SourcePlan {
    /// The plan's id, not empty.
    pub id: String,
    /// The version that holds unless an event names another.
    pub version: i64,
    by_type: HashMap<String, TypeSettings>,
    other_types: TypeSettings,
    /// By version; those that the node has.
    plans: HashMap<i64, Arc<Plan>>,
}

impl SourcePlan {
    /// What a source asks for: the settings by `global` or event type, and the merged ones where it has some.
    pub fn new(id: &str, version: i64, config: &Map<String, Value>, merged: Option<&Map<String, Value>>) -> SourcePlan {
        let types = CHECKED_TYPES.iter().copied().chain(config.keys().map(String::as_str));
        let by_type = types.map(|name| (name.to_owned(), TypeSettings::of(config, merged, name))).collect();
        SourcePlan {
            id: id.to_owned(),
            version,
            by_type,
            other_types: TypeSettings::of(config, merged, ""),
            plans: HashMap::new(),
        }
    }

    /// Adds the text of one version of the plan.
    pub fn with_version(
        mut self,
        plans: &Plans,
        version: i64,
        hash: u128,
        document: &Map<String, Value>,
    ) -> SourcePlan {
        self.plans.insert(version, plans.get(&self.id, version, hash, document));
        self
    }

    /// The version that an event is checked against: the one that RudderTyper wrote for this plan, else the source's.
    pub fn version_for(&self, event: &Value) -> i64 {
        let typer = event.get("context").and_then(|context| context.get("ruddertyper"));
        let is_same_plan = typer.and_then(|typer| typer.get("trackingPlanId")).is_some_and(|id| *id == *self.id);
        let version = typer.and_then(|typer| typer.get("trackingPlanVersion")).and_then(Value::as_i64);
        version.filter(|version| is_same_plan && *version > 0).unwrap_or(self.version)
    }

    /// Checks an event against a version of the plan.
    pub fn check(&self, event: &Value, version: i64) -> Verdict {
        let event_type = event.get("type").and_then(Value::as_str).unwrap_or_default();
        let settings = self.by_type.get(event_type).unwrap_or(&self.other_types);
        let passed = Verdict { is_annotated: settings.is_annotated, ..Verdict::default() };
        let known_type = CHECKED_TYPES.iter().copied().find(|known| *known == event_type);
        let Some(known_type) = known_type.filter(|_| settings.is_checked) else { return passed };
        let Some(plan) = self.plans.get(&version) else {
            let problem = format!("Error occurred while validating: version {version} of the plan is not on this node");
            events::plan_unusable(&self.id, version, "", &problem);
            return Verdict { problem: Some(problem.into()), ..passed };
        };
        let name = if known_type == "track" { event.get("event").and_then(Value::as_str) } else { Some("") };
        let violations = match name.and_then(|name| plan.rule(known_type, name, settings.options)) {
            Some(Ok(rule)) => rule.violations(event),
            Some(Err(problem)) => return Verdict { problem: Some(problem), ..passed },
            None if known_type == "track" => vec![Violation::unplanned(event.get("event"))],
            None => return passed,
        };
        Verdict { is_dropped: settings.drops(&violations), violations, ..passed }
    }
}

//! Runs the cases of `processor.jsonl` (processor.md 21): each stage is a pure rule, called directly.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use pintle::backend_config::{Destination, DestinationDefinition, Source, SourceDefinition};
use pintle::destination::Message;
use pintle::processor::choose::{Wishes, candidates};
use pintle::processor::dedup::{Claims, InFlight};
use pintle::processor::explode::JobParameters;
use pintle::processor::filter::{EventFilter, Verdict};
use pintle::processor::timefields::{self, Received};
use pintle::processor::tracking_plan::{Plans, SourcePlan};
use pintle::processor::transform_at::TransformAt;
use pintle::settings::{Live, Settings};
use pintle::transform::{Batch, Code, Contract, Engine, Event, Library, Origin, Verdict as Transformed, camel_case};
use serde_json::{Map, Value, json};

use crate::report::CaseResult;

/// Runs the cases; one of a stage that is not built fails.
pub fn run(cases: &[Value], _folder: &Path) -> Vec<CaseResult> {
    cases
        .iter()
        .map(|case| {
            let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
            let (id, by) = (text("name"), text("stage"));
            match actual(&by, &case["config"], &case["input"]) {
                Some(actual) if same(&by, &actual, &case["expect"]) => {
                    CaseResult { id, by, passed: true, detail: String::new() }
                }
                Some(actual) => {
                    CaseResult { id, by, passed: false, detail: format!("got {actual}, expected {}", case["expect"]) }
                }
                None => CaseResult { id, by, passed: false, detail: "this stage is not built".to_owned() },
            }
        })
        .collect()
}

/// Lists that the cases mean as sets are compared as sets.
fn same(stage: &str, actual: &Value, expected: &Value) -> bool {
    let set = |value: &Value| -> BTreeSet<String> {
        value["allowed"].as_array().into_iter().flatten().map(Value::to_string).collect()
    };
    match stage {
        "integrations" => set(actual) == set(expected),
        "tracking_plan" => same_verdict(actual, expected),
        "user_transform" => same_responses(actual, expected),
        _ => actual == expected,
    }
}

fn actual(stage: &str, config: &Value, input: &Value) -> Option<Value> {
    match stage {
        "timestamp" => Some(timestamp(input)),
        "integrations" => Some(integrations(config, input)),
        "consent" => Some(consent(config, input)),
        "destinations" => Some(destinations(config, input)),
        "event_filter" => Some(event_filter(config, input)),
        "dedup" => Some(dedup(config, input)),
        "geo_bot" => Some(bots(config, input)),
        "tracking_plan" => Some(tracking_plan(config, input)),
        "user_transform" => Some(user_transform(config, input)),
        _ => None,
    }
}

fn timestamp(input: &Value) -> Value {
    let text = input["event"].to_string();
    let mut event = Message::parse(&text).expect("an object");
    let received = Received::parse(input["receivedAt"].as_str().unwrap_or_default()).expect("RFC 3339");
    timefields::set(&mut event, &received);
    let fields = ["receivedAt", "originalTimestamp", "sentAt", "timestamp"];
    fields.iter().map(|key| ((*key).to_owned(), Value::from(event.text(key).expect("always set")))).collect()
}

fn integrations(config: &Value, input: &Value) -> Value {
    let listed = config["destinations"].as_array().cloned().unwrap_or_default();
    let destinations = listed.iter().map(|given| {
        Arc::new(Destination {
            id: given["name"].as_str().unwrap_or_default().to_owned(),
            enabled: true,
            is_processor_enabled: true,
            definition: definition(given),
            ..Destination::default()
        })
    });
    let source = Source { enabled: true, destinations: destinations.collect(), ..Source::default() };
    json!({ "allowed": chosen(&source, &input["event"], None) })
}

fn consent(config: &Value, input: &Value) -> Value {
    let listed = config["destinations"].as_array().cloned().unwrap_or_default();
    let destinations = listed
        .iter()
        .map(|given| Arc::new(Destination { enabled: true, is_processor_enabled: true, ..destination(given) }));
    let source = Source { enabled: true, destinations: destinations.collect(), ..Source::default() };
    json!({ "kept": chosen(&source, &input["event"], None) })
}

fn destinations(config: &Value, input: &Value) -> Value {
    let given = &config["source"];
    let listed = given["destinations"].as_array().cloned().unwrap_or_default();
    let source = Source {
        enabled: given["enabled"].as_bool().unwrap_or_default(),
        destinations: listed.iter().map(|given| Arc::new(destination(given))).collect(),
        ..Source::default()
    };
    json!({ "delivered": chosen(&source, &input["event"], config["jobDestinationId"].as_str()) })
}

fn event_filter(config: &Value, input: &Value) -> Value {
    let text = |key: &str| config[key].as_str().unwrap_or_default().to_owned();
    let source = Source {
        definition: SourceDefinition { kind: text("sourceType"), ..SourceDefinition::default() },
        ..Source::default()
    };
    let destination = destination(&config["destination"]);
    let defined = destination.definition.config.get("transformAtV1").and_then(Value::as_str);
    let transform_at = TransformAt::named(config["transformAt"].as_str().or(defined).unwrap_or("processor"));
    let run = input["sourceJobRunId"].as_str().unwrap_or_default();
    let drained = config["drainJobRunIDs"].as_array().cloned().unwrap_or_default();
    let is_drained = !run.is_empty() && drained.iter().any(|id| id == run);
    let event = input["event"].to_string();
    let event = Message::parse(&event).expect("an object");
    let (status, error) = match EventFilter::new(&source, &destination, transform_at).judge(&event, is_drained) {
        Verdict::Pass => (200, ""),
        Verdict::Filtered(error) => (298, error),
        Verdict::Failed(status, error) => (status, error),
    };
    json!({ "statusCode": status, "error": error })
}

/// The store is a map from key to the end of its window; a crash loses everything but the store.
fn dedup(config: &Value, input: &Value) -> Value {
    let window_ms = config["windowSeconds"].as_i64().unwrap_or_default() * 1000;
    let mut stored: HashMap<String, i64> = HashMap::new();
    let in_flight: Arc<InFlight<String>> = Arc::default();
    let mut held: HashMap<String, Claims<String>> = HashMap::new();
    let mut results = Vec::new();
    for step in input["steps"].as_array().into_iter().flatten() {
        let now_ms = (step["at"].as_f64().unwrap_or_default() * 1000.0) as i64;
        let keys: Vec<String> =
            step["keys"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        results.push(match step["op"].as_str() {
            Some("allowed") => {
                let mut verdicts = Vec::new();
                for key in keys {
                    let is_stored = stored.get(&key).is_some_and(|expiry| *expiry > now_ms);
                    let mut claims = Claims::new(&in_flight);
                    let is_new = claims.claim(&key, || Ok::<bool, ()>(is_stored)).expect("never fails");
                    if is_new {
                        held.insert(key, claims);
                    }
                    verdicts.push(is_new);
                }
                Value::from(verdicts)
            }
            Some("commit") => {
                for key in keys {
                    held.remove(&key);
                    stored.insert(key, now_ms + window_ms);
                }
                Value::Null
            }
            _ => {
                held.clear();
                Value::Null
            }
        });
    }
    json!({ "results": results })
}

fn bots(config: &Value, input: &Value) -> Value {
    let mut parameters = config["params"].as_object().cloned().unwrap_or_default();
    if let Some(action) = config["botAction"].as_str() {
        parameters.entry("bot_action").or_insert_with(|| action.into());
    }
    let parameters = Value::Object(parameters).to_string();
    let parameters = JobParameters::parse(parameters.as_bytes()).expect("parameters");
    let event = input["event"].to_string();
    let mut event = Message::parse(&event).expect("an object");
    parameters.bots.enrich(&mut event);
    let tree = event.to_tree().expect("a tree");
    let mut actual = Map::new();
    actual.insert("dropped".to_owned(), parameters.bots.drops().is_some().into());
    if let Some(context) = tree.get("context") {
        actual.insert("context".to_owned(), context.clone());
    }
    Value::Object(actual)
}

fn tracking_plan(config: &Value, input: &Value) -> Value {
    let object = |key: &str| config[key].as_object().cloned().unwrap_or_default();
    let version = config["trackingPlanVersion"].as_i64().unwrap_or_default();
    let id = config["trackingPlanId"].as_str().unwrap_or_default();
    let merged = object("mergedTpConfig");
    let plan = SourcePlan::new(id, version, &object("sourceTpConfig"), Some(&merged));
    let plan = plan.with_version(&Plans::default(), version, 0, &object("plan"));
    let verdict = plan.check(&input["event"], version);
    let violations: Value = serde_json::from_str(&verdict.violations_json()).expect("a list");
    json!({ "statusCode": verdict.status(), "violations": violations, "annotated": verdict.is_annotated })
}

/// Violations are compared without order, by the members that the case names.
fn same_verdict(actual: &Value, expected: &Value) -> bool {
    let list = |value: &Value| value["violations"].as_array().cloned().unwrap_or_default();
    let mut left = list(actual);
    let is_one_of_left = |wanted: &Value, left: &mut Vec<Value>| {
        let named = wanted.as_object().cloned().unwrap_or_default();
        let found = left.iter().position(|violation| named.iter().all(|(key, value)| violation[key] == *value));
        found.map(|at| left.remove(at)).is_some()
    };
    // Those that name the most look first, so that one that names little does not take their match.
    let mut wanted = list(expected);
    wanted.sort_by_key(|violation| std::cmp::Reverse(violation.as_object().map_or(0, Map::len)));
    actual["statusCode"] == expected["statusCode"]
        && actual["annotated"] == expected["annotated"]
        && wanted.iter().all(|wanted| is_one_of_left(wanted, &mut left))
        && left.is_empty()
}

/// Responses as the contract with a remote transformer shapes them, by the embedded engine.
fn user_transform(config: &Value, input: &Value) -> Value {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let listed = |key: &str| config[key].as_array().cloned().unwrap_or_default();
    let library = |given: &Value| Library { specifier: camel_case(&text(given, "name")), text: text(given, "code") };
    let contract = if config["codeVersion"] == "0" { Contract::Script } else { Contract::Module };
    let code = Code::new(
        &text(config, "transformationName"),
        "v1",
        contract,
        text(config, "code"),
        listed("libraries").iter().map(library).collect(),
        listed("credentials").iter().map(|given| (text(given, "key"), text(given, "value"))).collect(),
    );
    let given = input["events"].as_array().cloned().unwrap_or_default();
    let ids: Vec<String> = given.iter().map(|event| text(&event["metadata"], "messageId")).collect();
    let events = given.iter().zip(&ids).map(|(event, id)| Event {
        message: event["message"].to_string(),
        metadata: event["metadata"].to_string(),
        message_id: id.clone(),
    });
    let batch = Batch { code: Arc::new(code), events: events.collect(), lane: 0, keeps_logs: false };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let reply = runtime.block_on(async { Engine::new(Live::new(Settings::defaults())).run(batch).await });
    let responses = reply.results.into_iter().map(|result| {
        let mut response = json!({ "statusCode": result.verdict.status() });
        match result.verdict {
            Transformed::Output(output) => response["output"] = serde_json::from_str(&output).expect("JSON"),
            Transformed::Failed { error, .. } => response["error"] = error.into(),
            Transformed::Dropped => {}
        }
        match result.origin {
            Origin::Event(at) => response["messageId"] = ids[at].as_str().into(),
            Origin::Fresh { message_id } => response["messageId"] = message_id.into(),
            Origin::All => response["messageIds"] = ids.clone().into(),
        }
        response
    });
    json!({ "responses": responses.collect::<Vec<Value>>(), "ids": ids })
}

/// Compared as multisets; members that are not expected are not compared.
fn same_responses(actual: &Value, expected: &Value) -> bool {
    let list = |value: &Value| value["responses"].as_array().cloned().unwrap_or_default();
    let mut left = list(actual);
    let expected = list(expected);
    let fits = |response: &Value, expected: &Value| {
        expected.as_object().into_iter().flatten().all(|(key, value)| match key.as_str() {
            "errorPrefix" => {
                response["error"].as_str().is_some_and(|error| error.starts_with(value.as_str().unwrap_or_default()))
            }
            "messageId" if value == "*" => {
                let inputs = actual["ids"].as_array().into_iter().flatten();
                response["messageId"].is_string() && !inputs.into_iter().any(|id| *id == response["messageId"])
            }
            _ => response.get(key) == Some(value),
        })
    };
    left.len() == expected.len()
        && expected.iter().all(|wanted| {
            let place = left.iter().position(|response| fits(response, wanted));
            place.map(|at| left.swap_remove(at)).is_some()
        })
}

fn chosen(source: &Source, event: &Value, only: Option<&str>) -> Vec<String> {
    let event = event.to_string();
    let event = Message::parse(&event).expect("an object");
    let context = event.object("context");
    let wishes = Wishes::of(&event, context.as_ref());
    let candidates = candidates(source);
    let kept = candidates.iter().filter(|candidate| wishes.allow(candidate, only));
    kept.map(|candidate| candidate.destination.id.clone()).collect()
}

fn destination(given: &Value) -> Destination {
    Destination {
        id: given["id"].as_str().unwrap_or_default().to_owned(),
        enabled: given["enabled"].as_bool().unwrap_or_default(),
        is_processor_enabled: given["isProcessorEnabled"].as_bool().unwrap_or_default(),
        config: given["config"].as_object().cloned().unwrap_or_default(),
        definition: definition(&given["destinationDefinition"]),
        ..Destination::default()
    }
}

fn definition(given: &Value) -> DestinationDefinition {
    let text = |key: &str| given[key].as_str().unwrap_or_default().to_owned();
    DestinationDefinition {
        id: String::new(),
        name: text("name"),
        display_name: text("displayName"),
        config: given["config"].as_object().cloned().unwrap_or_default(),
    }
}

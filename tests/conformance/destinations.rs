//! Runs the cases of `destinations/<destination>.<feature>.jsonl.gz` (destinations.md 13) in their HTTP form:
//! the envelope is built here, the transformation is the product's.

use std::path::Path;
use std::sync::Arc;

use pintle::backend_config::{Destination, DestinationDefinition};
use pintle::destination::{Message, Output, Plan, Refusal, is_mapped, is_transformed_by_router};
use serde_json::{Map, Value, json};

use crate::report::CaseResult;

/// Types whose error texts name the step and whose `implementation` is `cdkV2`, of those that are native.
const WITH_STEPS: [&str; 2] = ["WEBHOOK", "HTTP"];

/// Types whose router answers say neither the destination nor tags.
const WITHOUT_DESTINATION: [&str; 1] = ["LAMBDA"];

/// Runs the cases; one of a destination or feature that is not built fails.
pub fn run(cases: &[Value], _folder: &Path) -> Vec<CaseResult> {
    cases
        .iter()
        .map(|case| {
            let text = |key: &str| case[key].as_str().unwrap_or_default();
            let id = text("id").to_owned();
            let by = format!("{}.{}", text("destination"), text("feature"));
            let detail = difference(case, text("destination"), text("feature"));
            CaseResult { id, by, passed: detail.is_none(), detail: detail.unwrap_or_default() }
        })
        .collect()
}

fn difference(case: &Value, destination: &str, feature: &str) -> Option<String> {
    let type_name = destination.to_uppercase();
    if !is_mapped(&type_name) {
        return Some("this destination is not built".to_owned());
    }
    if case["needs_mock"] == true {
        return Some("look-ups are not built".to_owned());
    }
    let body = &case["input"]["body"];
    let answer = match feature {
        "processor" => processor(&type_name, body),
        "router" => router(&type_name, &body["input"]),
        _ => return Some("this feature is not built".to_owned()),
    };
    let expected = &case["output"];
    if expected["status"] != 200 {
        return Some(format!("answered 200, expected {}", expected["status"]));
    }
    match expected.get("body") {
        Some(expected) if !same(&answer, expected) => Some(format!("got {answer}, expected {expected}")),
        _ => None,
    }
}

/// `POST /v0/destinations/<destination>`.
fn processor(type_name: &str, items: &Value) -> Value {
    let items = items.as_array().cloned().unwrap_or_default();
    let first = items.first().map(|item| item["destination"]["DestinationDefinition"]["Name"].clone());
    let named = first.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let mut answers = Vec::new();
    for item in &items {
        match transform(type_name, &named, item) {
            Ok(outputs) => answers.extend(outputs.iter().map(|output| {
                let mut metadata = item["metadata"].clone();
                if let Some(topic) = &output.topic {
                    let user = metadata["rudderId"].as_str().unwrap_or_default();
                    metadata["rudderId"] = format!("{user}<<>>{topic}").into();
                }
                let mut output = value_of(output);
                set_user_id(&mut output);
                json!({ "output": output, "metadata": metadata, "statusCode": 200 })
            })),
            Err(refusal) => answers.push(json!({
                "metadata": item["metadata"],
                "statusCode": refusal.status(),
                "error": refusal.processor_text(),
                "statTags": stat_tags(&refusal, type_name, &named, "processor", &item["metadata"]),
            })),
        }
    }
    without_null_metadata(Value::from(answers))
}

/// `POST /routerTransform`: failures first, then successes, one item an event.
fn router(type_name: &str, items: &Value) -> Value {
    let Some(items) = items.as_array().filter(|items| !items.is_empty()) else {
        let destination_type = type_name.to_lowercase();
        return json!({ "output": [{ "metadata": [{ "destType": destination_type }], "batched": false, "statusCode": 400, "error": "Invalid event array" }] });
    };
    let first = items.first().map(|item| item["destination"]["DestinationDefinition"]["Name"].clone());
    let named = first.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    if is_transformed_by_router(type_name) {
        return json!({ "output": groups(items).iter().flat_map(|group| joint(type_name, &named, group)).collect::<Vec<_>>() });
    }
    let mut failures = Vec::new();
    let mut successes = Vec::new();
    for item in items {
        match transform(type_name, &named, item) {
            Ok(outputs) => {
                let requests: Vec<Value> = outputs.iter().map(|output| {
                    let mut output = value_of(output);
                    text_user_id(&mut output);
                    output
                }).collect();
                let request = if requests.len() == 1 { requests[0].clone() } else { Value::from(requests) };
                successes.push(json!({
                    "batchedRequest": request, "metadata": [item["metadata"]], "batched": false, "statusCode": 200,
                    "destination": item["destination"],
                }));
            }
            Err(refusal) => failures.push(json!({
                "metadata": [item["metadata"]], "batched": false, "statusCode": refusal.status(), "error": refusal.message,
                "statTags": stat_tags(&refusal, type_name, &named, "router", &item["metadata"]),
                "destination": item["destination"],
            })),
        }
    }
    failures.extend(successes);
    json!({ "output": failures })
}

/// Inputs that are transformed on their own: those of one destination and one configuration (destinations.md 7.1).
fn groups(items: &[Value]) -> Vec<Vec<&Value>> {
    let mut groups: Vec<(String, Vec<&Value>)> = Vec::new();
    for item in items {
        let destination = &item["destination"];
        let config = if destination["hasDynamicConfig"] == false { &Value::Null } else { &destination["Config"] };
        let key = json!([destination["ID"], config]).to_string();
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Items of one destination, transformed together.
fn joint(type_name: &str, named: &str, items: &[&Value]) -> Vec<Value> {
    let texts: Vec<String> = items.iter().map(|item| item["message"].to_string()).collect();
    let metadata: Vec<_> = items.iter().map(|item| move || item["metadata"].clone()).collect();
    let events: Vec<(Message<'_>, &dyn Fn() -> Value)> = texts
        .iter()
        .zip(&metadata)
        .map(|(text, metadata)| (Message::parse(text).expect("messages are objects"), metadata as &dyn Fn() -> Value))
        .collect();
    let plan = Plan::of_type(type_name, &destination_of(named, items[0]));
    plan.route(&events)
        .into_iter()
        .map(|routed| {
            let first = items[routed.places[0]];
            let metadata: Vec<&Value> = routed.places.iter().map(|place| &items[*place]["metadata"]).collect();
            match routed.payload {
                Ok(payload) => {
                    let mut request: Value = serde_json::from_slice(&payload).expect("payloads are JSON");
                    // The reference leaves an empty user out here.
                    if request["userId"] == ""
                        && let Some(request) = request.as_object_mut()
                    {
                        request.shift_remove("userId");
                    }
                    let mut answer = json!({
                        "batchedRequest": request, "metadata": metadata, "batched": routed.is_batch, "statusCode": 200,
                        "destination": first["destination"],
                    });
                    if WITHOUT_DESTINATION.contains(&type_name) {
                        drop(answer.as_object_mut().and_then(|answer| answer.shift_remove("destination")));
                    }
                    answer
                }
                Err(refusal) if WITHOUT_DESTINATION.contains(&type_name) => json!({
                    "metadata": metadata, "batched": false, "statusCode": refusal.status(), "error": refusal.message,
                }),
                Err(refusal) => json!({
                    "metadata": metadata, "batched": false, "statusCode": refusal.status(), "error": refusal.message,
                    "statTags": stat_tags(&refusal, type_name, named, "router", metadata[0]),
                    "destination": first["destination"],
                }),
            }
        })
        .collect()
}

fn destination_of(named: &str, item: &Value) -> Arc<Destination> {
    let given = &item["destination"];
    Arc::new(Destination {
        id: given["ID"].as_str().unwrap_or_default().to_owned(),
        config: given["Config"].as_object().cloned().unwrap_or_default(),
        definition: DestinationDefinition { name: named.to_owned(), ..DestinationDefinition::default() },
        has_dynamic_config: given["hasDynamicConfig"] != Value::Bool(false),
        ..Destination::default()
    })
}

fn transform(type_name: &str, named: &str, item: &Value) -> Result<Vec<Output>, Refusal> {
    let text = item["message"].to_string();
    let message = Message::parse(&text).map_err(|error| Refusal::instrumentation(&error.to_string()))?;
    let metadata = || item["metadata"].clone();
    Plan::of_type(type_name, &destination_of(named, item)).transform(&message, &metadata)
}

fn value_of(output: &Output) -> Value {
    serde_json::from_slice(&output.payload).expect("outputs are JSON")
}

/// The processor's wire form always has a user id that is text.
fn set_user_id(output: &mut Value) {
    let text = match output.get("userId") {
        None | Some(Value::Null | Value::Bool(false)) => String::new(),
        Some(Value::Number(number)) if number.as_f64() == Some(0.0) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    if let Some(output) = output.as_object_mut() {
        output.insert("userId".to_owned(), text.into());
    }
}

/// The router's wire form makes a user id that is there text.
fn text_user_id(output: &mut Value) {
    if output.get("userId").is_some_and(|id| !id.is_string() && !id.is_null() && *id != false && *id != 0) {
        set_user_id(output);
    }
}

fn stat_tags(refusal: &Refusal, type_name: &str, named: &str, feature: &str, metadata: &Value) -> Map<String, Value> {
    let mut tags = refusal.stat_tags();
    let implementation = if WITH_STEPS.contains(&named) { "cdkV2" } else { "native" };
    for (key, text) in
        [("destType", type_name), ("module", "destination"), ("implementation", implementation), ("feature", feature)]
    {
        tags.insert(key.to_owned(), text.into());
    }
    for key in ["destinationId", "workspaceId"] {
        if let Some(value) = metadata.get(key) {
            tags.insert(key.to_owned(), value.clone());
        }
    }
    tags
}

/// An item without metadata gets none back.
fn without_null_metadata(mut answers: Value) -> Value {
    for answer in answers.as_array_mut().into_iter().flatten() {
        if answer["metadata"].is_null()
            && let Some(answer) = answer.as_object_mut()
        {
            answer.shift_remove("metadata");
        }
    }
    answers
}

/// JSON values are the same when they are equal up to key order and `1` = `1.0`.
fn same(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => actual == expected,
    }
}

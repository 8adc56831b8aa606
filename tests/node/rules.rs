//! What the operator's rules do with events: tracking plans, places, dead letters and their replay, figures.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{
    Behaviour, Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, pintle, track, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

fn send(node: &Node, events: &[Value]) {
    let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(events)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Runs a verb against the node and gives its standard output.
pub fn verb(node: &Node, words: &[&str]) -> String {
    let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let paths = [("--config", node.settings_file()), ("--admin-socket", node.admin_socket())];
    for (name, path) in paths {
        arguments.extend([name.to_owned(), path.display().to_string()]);
    }
    arguments.extend(["--data-dir".to_owned(), node.data().display().to_string()]);
    let output = pintle(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What a verb says of a node in JSON.
pub fn json_of(node: &Node, words: &[&str]) -> Value {
    serde_json::from_str(&verb(node, words)).expect("JSON")
}

/// The dead letters of a node.
pub fn dead(node: &Node) -> Vec<Value> {
    json_of(node, &["dead", "ls", "--json"])["items"].as_array().cloned().expect("a list")
}

#[test]
fn events_that_depart_from_their_plan_are_told_or_kept_back_and_can_be_replayed() {
    let sink = Sink::start();
    let mut workspace = Workspace::new().webhook("hook", &sink.url()).document();
    workspace["sources"][0]["dgSourceTrackingPlanConfig"] = json!({
        "sourceId": "kit-source", "version": 1, "deleted": false,
        "config": {"global": {"anyOtherViolation": "drop", "unplannedProperties": "forward"}},
        "trackingPlan": {"id": "tp_kit", "version": 1},
    });
    let mut node = NodeBuilder::new().workspace(&Workspace::new()).prepare();
    let plans = node.workspace_file().with_file_name("tracking-plans");
    std::fs::create_dir(&plans).expect("a folder");
    let plan = |least: i64| {
        json!({"name": "kit", "version": 1, "rules": {"events": [{"name": "Tick", "rules": {
            "type": "object", "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {"properties": {"type": "object", "additionalProperties": false,
                "properties": {"n": {"type": "number", "minimum": least}}}},
        }}]}})
    };
    std::fs::write(plans.join("tp_kit@1.json"), plan(5).to_string()).expect("written");
    node.write_workspace(&workspace.to_string());
    node.start();

    let event = |id: &str, properties: Value| json!({"type": "track", "event": "Tick", "userId": "u", "messageId": id, "properties": properties});
    send(
        &node,
        &[event("good", json!({"n": 9})), event("surplus", json!({"n": 9, "x": 1})), event("small", json!({"n": 1}))],
    );
    sink.wait_for(2, PATIENCE);
    let arrived = sink.accepted();
    assert_eq!(arrived[0].event["context"]["violationErrors"], json!([]));
    assert_eq!(arrived[0].event["context"]["trackingPlanId"], "tp_kit");
    let violation = &arrived[1].event["context"]["violationErrors"][0];
    assert_eq!((&violation["type"], &violation["property"]), (&json!("Additional-Properties"), &json!("x")));

    wait_until("the third is a dead letter", PATIENCE, || !dead(&node).is_empty());
    let letters = dead(&node);
    assert_eq!(letters.len(), 1);
    let parameters = &letters[0]["parameters"];
    assert_eq!((&parameters["stage"], &parameters["status_code"]), (&json!("tracking_plan_validator"), &json!(400)));
    assert_eq!(parameters["violationErrors"][0]["message"], "must be >= 5");
    let shown = json_of(&node, &["dead", "show", &letters[0]["id"].to_string()]);
    assert_eq!(shown["payload"][0]["messageId"], "small");

    // As long as the plan is what it is, a replay fails again.
    assert_eq!(verb(&node, &["dead", "replay", "--all"]), "1 replayed\n");
    wait_until("it failed again", PATIENCE, || dead(&node).iter().any(|letter| letter["id"] != letters[0]["id"]));
    std::fs::write(plans.join("tp_kit@1.json"), plan(0).to_string()).expect("written");
    wait_until("the other plan is in force and lets it pass", PATIENCE, || {
        verb(&node, &["dead", "replay", "--stage", "tracking_plan_validator"]);
        sink.count() == 3
    });
    assert_eq!(sink.accepted()[2].message_id, "small");
    wait_until("nothing is left", PATIENCE, || dead(&node).is_empty());
}

#[test]
fn refused_deliveries_are_listed_replayed_and_dropped() {
    let sink = Sink::start();
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()).webhook("nowhere", ""))
        .more_settings("\n[Dedup]\nenableDedup = true\n")
        .start();
    sink.behave(Behaviour { status: 400, ..Behaviour::default() });
    send(&node, &[track("u", 1), track("u", 2)]);
    wait_until("four dead letters", PATIENCE, || dead(&node).len() == 4);
    let of = |destination: &str| -> Vec<String> {
        let listed = json_of(&node, &["dead", "ls", "--json", "--destination", destination]);
        listed["items"].as_array().unwrap().iter().map(|letter| letter["parameters"]["stage"].to_string()).collect()
    };
    assert_eq!(of("hook"), ["\"router\"", "\"router\""]);
    assert_eq!(of("nowhere"), ["\"dest_transformer\"", "\"dest_transformer\""]);
    assert!(verb(&node, &["dead", "ls", "--limit", "1"]).contains("4 dead letters in all"));

    sink.behave(Behaviour::default());
    assert_eq!(verb(&node, &["dead", "replay", "--stage", "router"]), "2 replayed\n");
    sink.wait_for(2, PATIENCE);
    assert_eq!(sink.order_violations(), Vec::<String>::new());

    // A failure of the processor goes its whole way again, also where duplicates are dropped, and only for its own
    // destination.
    node.write_workspace(
        &Workspace::new().webhook("hook", &sink.url()).webhook("nowhere", &sink.url()).document().to_string(),
    );
    verb(&node, &["reload"]);
    assert_eq!(verb(&node, &["dead", "replay", "--destination", "nowhere", "--limit", "1"]), "1 replayed\n");
    sink.wait_for(3, PATIENCE);
    assert_eq!(verb(&node, &["dead", "drop", "--all"]), "1 dropped\n");
    assert!(dead(&node).is_empty());
    assert_eq!(sink.count(), 3);
    let report = json_of(&node, &["report", "--json", "--since", "1h"]);
    let events = |stage: &str, state: &str, destination: &str| -> u64 {
        let lines = report["lines"].as_array().unwrap().iter();
        let wanted = lines
            .filter(|line| line["stage"] == stage && line["state"] == state && line["destinationId"] == destination);
        wanted.map(|line| line["events"].as_u64().unwrap()).sum()
    };
    assert_eq!(events("dest_transformer", "succeeded", "hook"), 2);
    assert_eq!(events("dest_transformer", "aborted", "nowhere"), 2);
    assert_eq!(events("dest_transformer", "succeeded", "nowhere"), 1);
    assert!(verb(&node, &["report", "--events"]).contains("track"));
}

#[test]
fn places_come_from_the_database_and_a_replaced_one_takes_over() {
    let sink = Sink::start();
    let mut workspace = Workspace::new().webhook("hook", &sink.url()).document();
    workspace["sources"][0]["geoEnrichment"] = json!({"enabled": true});
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("city.mmdb");
    let mut node = NodeBuilder::new()
        .workspace(&Workspace::new())
        .more_settings(&format!(
            "\n[GeoEnrichment]\nenabled = true\n[Geolocation.db]\npath = {:?}\n",
            database.display().to_string()
        ))
        .prepare();
    node.write_workspace(&workspace.to_string());
    node.start();
    let mut n = 0;
    let mut place = |what: &str, expected: Value| {
        wait_until(what, PATIENCE, || {
            n += 1;
            let mut event = track("u", n);
            event["context"] = json!({"ip": "81.2.69.142"});
            send(&node, &[event]);
            sink.wait_for(usize::try_from(n).unwrap(), PATIENCE);
            sink.accepted().last().unwrap().event["context"]["geo"] == expected
        });
    };
    place("without a database events stay as they are", Value::Null);
    let bytes = include_bytes!("../fixtures/geo/small-city.mmdb");
    std::fs::write(&database, bytes).expect("written");
    let oxford = json!({"ip": "81.2.69.142", "city": "Oxford", "country": "GB", "region": "England", "postal": "OX1",
        "location": "51.750000,-1.250000", "timezone": "Europe/London"});
    place("the database is read", oxford.clone());
    let at = bytes.windows(6).position(|window| window == b"Oxford").expect("found");
    let other = [&bytes[..at], b"Exeter", &bytes[at + 6..]].concat();
    std::fs::write(folder.path().join("new"), other).expect("written");
    std::fs::rename(folder.path().join("new"), &database).expect("renamed");
    let mut exeter = oxford;
    exeter["city"] = json!("Exeter");
    place("the other database is read", exeter);
}

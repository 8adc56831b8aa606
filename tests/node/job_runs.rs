//! Runs of reverse-ETL sources: what is counted of them survives a kill, and a cancelled one ends.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::kit::{Behaviour, Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const INTERNAL: &str = "\n[Gateway]\ninternalEndpointsEnabled = true\n";

fn authorization() -> String {
    format!("Basic {}", STANDARD.encode(format!("{WRITE_KEY}:")))
}

fn send(node: &Node, run: &str, events: std::ops::Range<u64>) {
    let events: Vec<Value> = events
        .map(|n| json!({"type": "track", "event": "Row", "userId": format!("u-{n}"), "recordId": format!("rec-{n}")}))
        .collect();
    let headers = [
        ("authorization", authorization()),
        ("x-rudder-job-run-id", run.to_owned()),
        ("x-rudder-task-run-id", "task".to_owned()),
    ];
    let body = batch_body(&events);
    let answer = Client::new(node.address()).request("POST", "/v1/batch", &headers, Some(body.as_bytes()));
    assert_eq!(answer.expect("an answer").status, 200);
}

fn ask(node: &Node, method: &str, path: &str) -> (u16, String) {
    let answer = Client::new(node.address()).request(method, path, &[], None).expect("an answer");
    (answer.status, answer.body)
}

/// The status of the run's only source, once it is complete.
fn completed(node: &Node, run: &str) -> Value {
    let mut source = Value::Null;
    wait_until("the run is complete", LIMIT, || {
        let (_, body) = ask(node, "GET", &format!("/internal/v2/job-status/{run}"));
        let status: Value = serde_json::from_str(&body).unwrap_or_default();
        source = status["tasks"][0]["sources"][0].clone();
        // Destinations appear with the hand-over, which ends the source's own part.
        source["completed"] == true && !source["destinations"].is_null()
    });
    source
}

#[test]
fn a_run_is_counted_exactly_and_its_counters_survive_a_kill() {
    let (good, bad) = (Sink::start(), Sink::start());
    bad.behave(Behaviour { status: 400, ..Behaviour::default() });
    let files = tempfile::tempdir().expect("a folder");
    let workspace =
        Workspace::new().webhook("bad", &bad.url()).local("files", files.path()).webhook("good", &good.url());
    let mut node = NodeBuilder::new().workspace(&workspace).more_settings(INTERNAL).start();
    send(&node, "run-1", 0..5);
    let expected = json!({
        "id": "kit-source", "completed": true, "stats": {"in": 5, "out": 5, "failed": 0}, "destinations": [
            {"id": "bad", "completed": true, "stats": {"in": 5, "out": 0, "failed": 5}},
            {"id": "files", "completed": true, "stats": {"in": 5, "out": 5, "failed": 0}},
            {"id": "good", "completed": true, "stats": {"in": 5, "out": 5, "failed": 0}},
        ],
    });
    assert_eq!(completed(&node, "run-1"), expected);
    node.kill();
    node.start();
    assert_eq!(completed(&node, "run-1"), expected, "after a kill");

    let path = "/internal/v2/job-status/run-1/failed-records";
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let (status, body) = ask(&node, "GET", &format!("{path}?pageSize=2&pageToken={token}"));
        assert_eq!(status, 200, "{body}");
        let page: Value = serde_json::from_str(&body).expect("JSON");
        let destination = &page["tasks"][0]["sources"][0]["destinations"][0];
        assert_eq!(destination["id"], "bad");
        for record in destination["records"].as_array().expect("records") {
            assert_eq!(record["code"], 400);
            found.push(record["record"].as_str().expect("a text").to_owned());
        }
        match page["paging"]["next"].as_str() {
            Some(next) => next.clone_into(&mut token),
            None => break,
        }
    }
    assert_eq!(found, ["rec-0", "rec-1", "rec-2", "rec-3", "rec-4"]);
    let invalid = (400, "rsources: invalid pagination token\n".to_owned());
    assert_eq!(ask(&node, "GET", &format!("{path}?pageToken=%21")), invalid);
    assert_eq!(ask(&node, "DELETE", path), (204, String::new()));
    assert_eq!(ask(&node, "GET", path), (200, r#"{"id":"run-1","tasks":null}"#.to_owned()));

    assert_eq!(ask(&node, "DELETE", "/internal/v2/job-status/run-1?source_id=other").0, 404);
    assert_eq!(ask(&node, "DELETE", "/internal/v2/job-status/run-1"), (204, String::new()));
    let unknown = (404, "status not found\n".to_owned());
    assert_eq!(ask(&node, "GET", "/internal/v2/job-status/run-1"), unknown);
    assert_eq!(ask(&node, "DELETE", "/internal/v2/job-status/run-1"), unknown);
}

#[test]
fn a_cancelled_run_is_given_up_by_router_batch_router_and_processor() {
    let failing = Sink::start();
    failing.behave(Behaviour { status: 500, ..Behaviour::default() });
    let files = tempfile::tempdir().expect("a folder");
    let blocker = files.path().join("no-folder");
    std::fs::write(&blocker, "a file where a folder should be").expect("the file can be written");
    let workspace = Workspace::new().webhook("hook", &failing.url()).local("files", &blocker);
    let settings = format!("{INTERNAL}\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\n");
    let node = NodeBuilder::new().workspace(&workspace).more_settings(&settings).start();
    send(&node, "run-2", 0..3);
    wait_until("every event was tried", LIMIT, || failing.requests() >= 3);
    let not_completed = (400, "source not completed\n".to_owned());
    assert_eq!(ask(&node, "DELETE", "/internal/v2/job-status/run-2"), not_completed);
    assert_eq!(ask(&node, "PUT", "/internal/drain/job/run-2"), (201, String::new()));
    let source = completed(&node, "run-2");
    for destination in source["destinations"].as_array().expect("destinations") {
        assert_eq!(destination["stats"], json!({"in": 3, "out": 0, "failed": 3}), "{source}");
    }
    // What comes later is not delivered either.
    send(&node, "run-2", 3..5);
    wait_until("the processor gives up", LIMIT, || {
        let source = completed(&node, "run-2");
        let destinations = source["destinations"].as_array().expect("destinations").iter();
        source["stats"]["out"] == 5 && destinations.clone().all(|to| to["stats"]["failed"] == 5)
    });
    let (_, body) = ask(&node, "GET", "/internal/v2/job-status/run-2/failed-records");
    assert!(body.contains(r#"{"record":"rec-4","code":410}"#), "{body}");
}

#[test]
fn a_browser_learns_its_device_destinations_and_no_secret() {
    let mut workspace = Workspace::new().webhook("cloud", "http://127.0.0.1:9/").destination(
        "device",
        "GA",
        json!({"connectionMode": "device", "trackingId": "public-1", "apiSecret": "hidden-1"}),
    );
    workspace.define("device", json!({"includeKeys": ["trackingId", "apiSecret"], "secretKeys": ["apiSecret"]}));
    let node = NodeBuilder::new().workspace(&workspace).start();
    let mut client = Client::new(node.address());
    let headers = [("authorization", authorization()), ("origin", "https://shop.example".to_owned())];
    let answer = client.request("GET", "//sourceConfig/?p=npm&v=3.0.0", &headers, None).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://shop.example"));
    let document: Value = serde_json::from_str(&answer.body).expect("JSON");
    let destinations = document["source"]["destinations"].as_array().expect("a list");
    assert_eq!((destinations.len(), &destinations[0]["config"]), (1, &json!({"trackingId": "public-1"})));
    assert!(!answer.body.contains("hidden-1") && !answer.body.contains("127.0.0.1:9"));
    let tag = answer.header("etag").expect("a tag").to_owned();
    let by_query = format!("/sourceConfig?p=npm&w={WRITE_KEY}");
    let again = client.request("GET", &by_query, &[("if-none-match", tag)], None).expect("an answer");
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let unknown = client.get("/sourceConfig?writeKey=nobody").expect("an answer");
    assert_eq!((unknown.status, unknown.body.as_str()), (400, "invalid write key\n"));
    let settings = client.get(&format!("/v1/projects/{WRITE_KEY}/settings")).expect("an answer");
    assert_eq!(settings.header("access-control-allow-origin"), Some("*"));
    assert!(settings.body.contains(&format!("{}/v1", node.address())), "{}", settings.body);
}

//! Destinations of Google against a fake that gives tokens only to who can sign for them.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::kit::{Client, Cloud, Node, NodeBuilder, WRITE_KEY, Workspace, batch_body, track, wait_until};
use crate::rules::dead;

const LIMIT: Duration = Duration::from_mins(1);

const SOON: &str = "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\njobsBatchTimeout = \"200ms\"\n";

fn send(node: &Node, users: i64, numbers: std::ops::Range<i64>) {
    let events: Vec<Value> =
        numbers.flat_map(|n| (0..users).map(move |user| track(&format!("user-{user}"), n))).collect();
    for batch in events.chunks(500) {
        let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(batch)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

#[test]
fn messages_are_published_with_the_user_as_ordering_key_and_in_its_order() {
    static IS_DOWN: AtomicBool = AtomicBool::new(true);
    let cloud = Cloud::start(|call| {
        assert_eq!(call.header("authorization"), "Bearer access-https://www.googleapis.com/auth/pubsub");
        if IS_DOWN.swap(false, Ordering::SeqCst) {
            let error = json!({"error": {"code": 503, "status": "UNAVAILABLE", "message": "later"}});
            return (503, error.to_string());
        }
        (200, json!({"messageIds": []}).to_string())
    });
    let config = json!({
        "projectId": "kit", "credentials": cloud.key_file(), "testConfig": {"endpoint": cloud.url()},
        "eventToTopicMap": [{"from": "*", "to": "topic"}], "eventToAttributesMap": [{"from": "track", "to": "n"}],
    });
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().destination("topic", "GOOGLEPUBSUB", config))
        .more_settings(SOON)
        .start();
    send(&node, 20, 0..50);
    let published = || -> Vec<Value> {
        let calls = cloud.calls().into_iter().skip(1);
        let calls = calls.inspect(|call| assert_eq!(call.path, "/v1/projects/kit/topics/topic:publish"));
        calls.flat_map(|call| call.json()["messages"].as_array().cloned().unwrap_or_default()).collect()
    };
    wait_until("every event is published", LIMIT, || published().len() >= 1000);
    let mut last: HashMap<String, i64> = HashMap::new();
    for message in published() {
        let data = STANDARD.decode(message["data"].as_str().expect("data")).expect("base64");
        let event: Value = serde_json::from_slice(&data).expect("an event");
        assert_eq!(message["orderingKey"], event["userId"]);
        let n = event["properties"]["n"].as_i64().expect("a number");
        assert_eq!(message["attributes"], if n == 0 { Value::Null } else { json!({"n": n.to_string()}) });
        let before = last.insert(event["userId"].to_string(), n).unwrap_or(-1);
        assert_eq!(n, before + 1, "{event}");
    }
}

#[test]
fn a_function_gets_proof_of_identity_and_one_that_is_slow_counts_as_called() {
    static CALLS: Mutex<i64> = Mutex::new(0);
    let cloud = Cloud::start(|call| {
        let audience = format!("Bearer id-http%3A%2F%2F{}%2Ffunction", call.header("host").replace(':', "%3A"));
        let plain = format!("Bearer id-http://{}/function", call.header("host"));
        assert!([audience.as_str(), plain.as_str()].contains(&call.header("authorization")));
        let call_number = {
            let mut calls = CALLS.lock().expect("a number");
            *calls += 1;
            *calls
        };
        match call_number {
            1 => (418, "no".to_owned()),
            2 => {
                std::thread::sleep(Duration::from_secs(3));
                (500, String::new())
            }
            _ => (200, String::new()),
        }
    });
    let config = json!({
        "googleCloudFunctionUrl": format!("{}/function", cloud.url()), "requireAuthentication": true,
        "credentials": cloud.key_file(), "enableBatchInput": false,
    });
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().destination("function", "GOOGLE_CLOUD_FUNCTION", config))
        .more_settings(SOON)
        .start();
    for n in 0..3 {
        send(&node, 1, n..n + 1);
        wait_until("the function was called", LIMIT, || cloud.calls().len() == usize::try_from(n + 1).expect("few"));
    }
    wait_until("the refused event is a dead letter", LIMIT, || !dead(&node).is_empty());
    let letters = dead(&node);
    assert_eq!(letters.len(), 1, "the slow call is not repeated");
    assert!(letters[0].to_string().contains("418"), "{}", letters[0]);
    assert_eq!(cloud.calls().len(), 3);
}

#[test]
fn rows_go_into_a_table_and_a_sheet() {
    let cloud = Cloud::start(|call| {
        let scope = if call.path.starts_with("/bigquery/") { "bigquery.insertdata" } else { "spreadsheets" };
        assert_eq!(call.header("authorization"), format!("Bearer access-https://www.googleapis.com/auth/{scope}"));
        (200, "{}".to_owned())
    });
    let account = |more: Value| {
        let mut config = json!({"credentials": cloud.key_file(), "endpoint": cloud.url()});
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        config
    };
    let table = json!({"projectId": "kit", "datasetId": "set", "tableId": "rows", "insertId": "n"});
    let sheet =
        json!({"sheetId": "book", "sheetName": "Sheet 1", "eventKeyMap": [{"from": "properties.n", "to": "Number"}]});
    let workspace = Workspace::new().destination("table", "BQSTREAM", account(table)).destination(
        "sheet",
        "GOOGLESHEETS",
        account(sheet),
    );
    let mut workspace = workspace;
    workspace.define("table", json!({"transformAtV1": "router"}));
    workspace.define("sheet", json!({"transformAtV1": "router"}));
    let node = NodeBuilder::new().workspace(&workspace).more_settings(SOON).start();
    send(&node, 1, 1..21);
    let of = |path: &str, list: &str| -> Vec<Value> {
        let calls = cloud.calls().into_iter().filter(|call| call.path.starts_with(path));
        calls.flat_map(|call| call.json()[list].as_array().cloned().unwrap_or_default()).collect()
    };
    let rows = || of("/bigquery/v2/projects/kit/datasets/set/tables/rows/insertAll", "rows");
    let appended = || of("/v4/spreadsheets/book/values/Sheet%201%21A1:append", "values");
    wait_until("every row arrived", LIMIT, || rows().len() >= 20 && appended().len() >= 20);
    let expected: Vec<Value> = (1..21).map(|n| json!({"insertId": n.to_string(), "json": {"n": n}})).collect();
    assert_eq!(rows(), expected);
    assert_eq!(of("/v4/spreadsheets/book/values/Sheet%201%21A1?", "values"), [json!(["messageId", "Number"])]);
    let numbers: Vec<Value> = appended().iter().map(|row| row[1].clone()).collect();
    assert_eq!(numbers, (1..21).map(Value::from).collect::<Vec<_>>());
}

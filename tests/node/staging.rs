//! From an event to a staging file of a warehouse, in a node as users start it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{
    Client, Load, LoadPlan, Node, NodeBuilder, Sdk, WRITE_KEY, Workspace, messages_below, missing_sdk, pintle, skip,
    wait_until,
};

const LIMIT: Duration = Duration::from_mins(1);

/// A warehouse that nobody answers for: its staging files stay.
fn away() -> Workspace {
    let config = json!({ "host": "127.0.0.1", "port": "1", "database": "d", "user": "u", "password": "p" });
    Workspace::new().destination("wh", "POSTGRES", config)
}

/// The rows in the staging files of the node's own folder.
fn rows(node: &Node) -> Vec<Value> {
    messages_below(&node.data().join("warehouse/objects/rudder-warehouse-staging-logs"))
}

fn table(row: &Value) -> &str {
    row["metadata"]["table"].as_str().unwrap_or_default()
}

#[test]
fn an_event_becomes_rows_in_a_staging_file() {
    let node = NodeBuilder::new().workspace(&away()).start();
    let event = json!({
        "userId": "u-1", "event": "Order Completed", "messageId": "m-1",
        "properties": { "total": 12.5, "items": [1, 2], "shippedAt": "2024-01-02" },
    });
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!(answer.status, 200);
    wait_until("both rows are staged", LIMIT, || rows(&node).len() == 2);
    let rows = rows(&node);
    assert_eq!(rows.iter().map(table).collect::<Vec<_>>(), ["tracks", "order_completed"]);
    let order = &rows[1];
    assert_eq!(order["data"]["id"], "m-1");
    assert_eq!(order["data"]["total"], 12.5);
    assert_eq!(order["data"]["shipped_at"], "2024-01-02T00:00:00.000Z");
    assert_eq!(order["metadata"]["columns"]["shipped_at"], "datetime");
    assert_eq!(order["data"]["event_text"], "Order Completed");
    assert_eq!(order["userId"], "");
}

#[test]
fn events_of_an_sdk_are_staged_once_each() {
    if let Some(reason) = missing_sdk(Sdk::Python) {
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        return skip("staging", &reason);
    }
    let node = NodeBuilder::new().workspace(&away()).start();
    Sdk::Python.send(node.address(), WRITE_KEY, 200, 5, "staged");
    let of_tracks = || rows(&node).into_iter().filter(|row| table(row) == "tracks").collect::<Vec<_>>();
    wait_until("every event is staged", LIMIT, || of_tracks().len() >= 200);
    let tracks = of_tracks();
    let ids: BTreeSet<&str> = tracks.iter().filter_map(|row| row["data"]["id"].as_str()).collect();
    assert_eq!((tracks.len(), ids.len()), (200, 200));
}

/// An upload that a kill cut off from its record leaves an object that nobody reads, so rows may be in more than one
/// object; that none is in two records is shown by the tests of the batch router.
#[test]
fn no_acknowledged_event_misses_its_rows_after_kill_9() {
    let mut node = NodeBuilder::new().workspace(&away()).start();
    let load = Load::start(node.address(), "staged", LoadPlan::default());
    for cycle in 0..4 {
        load.allow((cycle + 1) * 1_000);
        std::thread::sleep(Duration::from_millis(1_500));
        node.kill();
        node.start();
        load.aim_at(node.address());
    }
    let (acknowledged, refused) = load.stop();
    assert_eq!(refused, Vec::<String>::new());
    assert!(acknowledged.len() > 100, "the load was real: {}", acknowledged.len());
    wait_until("every acknowledged event is in both of its tables", LIMIT, || {
        let mut staged: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in rows(&node) {
            let id = row["data"]["id"].as_str().unwrap_or_default().to_owned();
            staged.entry(id).or_default().insert(table(&row).to_owned());
        }
        acknowledged.iter().all(|id| staged.get(id).is_some_and(|tables| tables.len() == 2))
    });
}

#[test]
fn somebody_else_may_hand_a_staging_file_in() {
    let node = NodeBuilder::new().workspace(&away()).start();
    let body = json!({
        "WorkspaceID": "kit-workspace", "Location": "a/b.json.gz", "Schema": { "tracks": { "id": "string" } },
        "BatchDestination": { "Source": { "ID": "kit-source" }, "Destination": { "ID": "wh" } }, "TotalEvents": 1,
    });
    assert_eq!(process(&node, &body.to_string()), (200, String::new()));
    assert_eq!(process(&node, "{\"WorkspaceID\":"), (400, "invalid JSON in request body".to_owned()));
    assert_eq!(process(&node, "{}"), (400, "invalid payload: workspaceId is required".to_owned()));
}

fn process(node: &Node, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(node.admin_socket()).expect("the admin socket answers");
    let head = format!(
        "POST /v1/process HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("written");
    stream.write_all(body.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

#[test]
fn the_command_line_shows_the_rows_of_an_event() {
    let folder = tempfile::tempdir().expect("a folder");
    let events = folder.path().join("events.json");
    std::fs::write(&events, r#"{"type":"track","event":"Order Done","messageId":"m","properties":{"total":5}}"#)
        .expect("written");
    let shown = pintle(&["warehouse", "rows", "postgres", "--json", "--events", &events.display().to_string()]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
    let lines: Vec<Value> = String::from_utf8_lossy(&shown.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    assert_eq!(lines.iter().map(table).collect::<Vec<_>>(), ["tracks", "order_done"]);
    assert_eq!(lines[1]["data"]["total"], 5);
    let none = pintle(&["warehouse", "rows", "webhook", "--events", &events.display().to_string()]);
    assert_eq!(none.status.code(), Some(1));
}

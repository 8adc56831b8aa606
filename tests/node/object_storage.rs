//! Files in real object storages: every event once, also after an outage and after a crash between the upload and
//! the states of its events.

use std::time::Duration;

use serde_json::json;

use crate::kit::{
    Client, Gate, Node, NodeBuilder, ObjectServer, Storage, WRITE_KEY, Workspace, batch_body, wait_until,
};

const LIMIT: Duration = Duration::from_mins(1);

/// Files soon, and a storage that failed is tried again soon.
const SETTINGS: &str = r#"
[Storage]
allowUnsafeFs = true
ballast = "0"
softFree = "64MiB"
hardFree = "32MiB"

[BatchRouter]
uploadFreq = "1s"
timeout = "2s"
"#;

fn start(server: &ObjectServer, gate: &Gate) -> Node {
    let (kind, config) = server.destination(gate.address());
    let workspace = Workspace::new().destination("bucket", kind, config);
    NodeBuilder::new().settings(SETTINGS).workspace(&workspace).start()
}

/// Sends numbered events, a hundred a request.
fn send(node: &Node, numbers: std::ops::Range<usize>) {
    let mut client = Client::new(node.address());
    let numbers: Vec<usize> = numbers.collect();
    for part in numbers.chunks(100) {
        let events: Vec<_> = part
            .iter()
            .map(|n| json!({ "type": "track", "event": "e", "userId": format!("u{}", n % 7), "messageId": format!("m{n}") }))
            .collect();
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

fn wait_for_each_once(server: &ObjectServer, count: usize) {
    let mut found = server.message_ids();
    wait_until("every event is in the bucket", LIMIT, || {
        if found.len() < count {
            std::thread::sleep(Duration::from_millis(300));
            found = server.message_ids();
        }
        found.len() >= count
    });
    let twice: Vec<_> = found.iter().filter(|(_, times)| **times > 1).collect();
    assert!(found.len() == count && twice.is_empty(), "{} events, in part more than once: {twice:?}", found.len());
    let well_placed = server.keys().iter().all(|key| key.starts_with("kit/rudder-logs/kit-source/"));
    assert!(well_placed, "{:?}", server.keys());
}

fn outage(storage: Storage, count: usize) {
    let server = ObjectServer::start(storage);
    let mut gate = Gate::to(server.address());
    let node = start(&server, &gate);
    send(&node, 0..count / 2);
    wait_until("a file arrived", LIMIT, || !server.keys().is_empty());
    gate.shut();
    send(&node, count / 2..count);
    node.wait_for_output("bucket", LIMIT);
    // Long enough for several attempts in vain.
    std::thread::sleep(Duration::from_secs(3));
    gate.open();
    wait_for_each_once(&server, count);
}

fn crash_between_upload_and_states(storage: Storage) {
    let server = ObjectServer::start(storage);
    let gate = Gate::to(server.address());
    let mut node = start(&server, &gate);
    send(&node, 0..100);
    wait_until("a file arrived", LIMIT, || !server.keys().is_empty());
    wait_for_each_once(&server, 100);
    for round in 1..4 {
        gate.withhold_answers(true);
        send(&node, round * 100..(round + 1) * 100);
        wait_until("the file is in the bucket", LIMIT, || server.message_ids().len() > round * 100);
        node.kill();
        gate.withhold_answers(false);
        node.start();
        wait_for_each_once(&server, (round + 1) * 100);
    }
    gate.wait_for_a_withheld_answer(Duration::ZERO);
}

#[test]
fn ten_thousand_events_are_in_the_s3_bucket_once_after_an_outage() {
    outage(Storage::S3, 10_000);
}

#[test]
fn ten_thousand_events_are_in_the_azure_container_once_after_an_outage() {
    outage(Storage::Azure, 10_000);
}

#[test]
fn ten_thousand_events_are_in_the_google_bucket_once_after_an_outage() {
    outage(Storage::Google, 10_000);
}

#[test]
fn a_crash_between_upload_and_states_doubles_no_line_in_s3() {
    crash_between_upload_and_states(Storage::S3);
}

#[test]
fn a_crash_between_upload_and_states_doubles_no_line_in_azure() {
    crash_between_upload_and_states(Storage::Azure);
}

#[test]
fn a_crash_between_upload_and_states_doubles_no_line_in_google() {
    crash_between_upload_and_states(Storage::Google);
}

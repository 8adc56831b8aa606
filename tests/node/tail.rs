//! `pintle tail` and the live events behind it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Behaviour, Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, wait_until};
use crate::rules::verb;

const LIMIT: Duration = Duration::from_secs(30);

/// What the admin API answers.
fn admin_get(node: &Node, path: &str) -> Value {
    let mut stream = UnixStream::connect(node.admin_socket()).expect("the admin socket answers");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a head").1).expect("JSON")
}

#[test]
fn who_watches_sees_events_come_in_go_out_and_fail() {
    let sink = Sink::start();
    sink.behave(Behaviour { status: 400, ..Behaviour::default() });
    // No event of the second has what its address is made of, so that the processor fails them.
    let broken = json!({"webhookUrl": "", "webhookMethod": "POST", "headers": []});
    let workspace = Workspace::new().webhook("hook", &sink.url()).destination("broken", "WEBHOOK", broken);
    let node = NodeBuilder::new().workspace(&workspace).start();
    let first = admin_get(&node, "/v1/live");
    assert_eq!(first["items"], json!([]), "nothing was recorded while nobody watched");
    let event = json!({"userId": "u", "event": "Seen", "messageId": "seen-1", "properties": {"n": 1}});
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!(answer.status, 200);
    let mut seen: Vec<Value> = Vec::new();
    let mut next = first["next"].as_u64().expect("a number");
    wait_until("three records", LIMIT, || {
        let page = admin_get(&node, &format!("/v1/live?after={next}&user=u"));
        next = page["next"].as_u64().expect("a number");
        seen.extend(page["items"].as_array().cloned().expect("a list"));
        seen.len() >= 3
    });
    let of = |stage: &str| seen.iter().find(|record| record["stage"] == stage).unwrap_or_else(|| panic!("{seen:?}"));
    let came = of("gateway");
    assert_eq!(
        (&came["jobState"], &came["eventName"], &came["eventType"]),
        (&json!("accepted"), &json!("Seen"), &json!("track"))
    );
    assert_eq!(came["payload"]["properties"], json!({"n": 1}));
    let went = of("router");
    assert_eq!(
        (&went["jobState"], &went["errorCode"], &went["destinationId"]),
        (&json!("aborted"), &json!("400"), &json!("hook"))
    );
    let failed = of("dest_transformer");
    assert_eq!((&failed["jobState"], &failed["destinationId"]), (&json!("aborted"), &json!("broken")));
    assert!(seen.iter().all(|record| record["messageId"] == "seen-1"), "{seen:?}");
    let none = admin_get(&node, "/v1/live?nothing=1");
    assert_eq!(none["error"], "there is no such parameter");

    // The verb shows what comes after its start: it watches once it has said so.
    let watching = std::thread::scope(|scope| {
        let tail =
            scope.spawn(|| verb(&node, &["tail", "--json", "--count", "1", "--status", "accepted", "--user", "v"]));
        wait_until("the verb shows an event", LIMIT, || {
            let event = json!({"userId": "v", "event": "Shown"});
            Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
            tail.is_finished()
        });
        tail.join().expect("the verb ends")
    });
    let record: Value = serde_json::from_str(watching.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&record["eventName"], &record["userId"]), (&json!("Shown"), &json!("v")));
}

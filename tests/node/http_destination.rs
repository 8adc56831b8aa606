//! HTTP destinations: events that the router maps, and sends alone or as lists.

use std::time::Duration;

use serde_json::json;

use crate::kit::{Behaviour, Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, track, wait_until};
use crate::rules::dead;

const LIMIT: Duration = Duration::from_mins(2);

const SOON: &str =
    "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\njobsBatchTimeout = \"1s\"\nnoOfWorkers = 4\n";

fn send(node: &Node, users: i64, numbers: std::ops::Range<i64>) {
    let events: Vec<_> = numbers.map(|n| track(&format!("user-{}", n % users), n)).collect();
    for chunk in events.chunks(50) {
        let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(chunk)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

#[test]
fn events_go_out_in_lists_in_order_and_a_failed_list_comes_again() {
    let sink = Sink::start();
    sink.behave(Behaviour { fail_percent: 20, ..Behaviour::default() });
    let config = json!({
        "apiUrl": sink.url(), "auth": "noAuth", "format": "JSON", "isBatchingEnabled": true, "maxBatchSize": "5",
        "propertiesMapping": [
            { "from": "$.userId", "to": "$.userId" },
            { "from": "$.messageId", "to": "$.messageId" },
            { "from": "$.properties.n", "to": "$.properties.n" },
            { "from": "'edge'", "to": "$.source" },
        ],
    });
    let mut workspace = Workspace::new().destination("http", "HTTP", config);
    workspace.define("http", json!({ "transformAtV1": "router" }));
    let node = NodeBuilder::new().workspace(&workspace).more_settings(SOON).start();
    send(&node, 10, 0..200);
    sink.wait_for(200, LIMIT);
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    assert!(sink.duplicates().is_empty());
    let requests = sink.requests();
    assert!((40..160).contains(&requests), "{requests} requests for 200 events in lists of up to five");
    let accepted = sink.accepted();
    assert!(accepted.iter().all(|accepted| accepted.event["source"] == "edge" && accepted.event.get("type").is_none()));
}

#[test]
fn without_lists_every_event_goes_at_once_and_a_bad_one_holds_up_no_other() {
    let sink = Sink::start();
    let config = json!({
        "apiUrl": sink.url(), "isDefaultMapping": true, "headers": [{ "from": "$.properties.h", "to": "$.x-h" }],
    });
    let mut workspace = Workspace::new().destination("http", "HTTP", config);
    workspace.define("http", json!({ "transformAtV1": "router" }));
    let patient = SOON.replace("jobsBatchTimeout = \"1s\"", "jobsBatchTimeout = \"10m\"");
    let node = NodeBuilder::new().workspace(&workspace).more_settings(&patient).start();
    let mut bad = track("user-0", 0);
    bad["properties"]["h"] = 5.into();
    let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(&[bad])).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    send(&node, 1, 1..20);
    sink.wait_for(19, LIMIT);
    assert!(sink.accepted().iter().all(|accepted| accepted.event["type"] == "track"), "the whole event is sent");
    wait_until("the refused event is a dead letter", LIMIT, || {
        let letters = dead(&node);
        letters.len() == 1 && letters[0].to_string().contains("non-string value")
    });
}

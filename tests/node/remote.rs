//! The external transformer behind a running node: destinations and languages that the node does not know.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{
    Client, Node, NodeBuilder, Sink, Transformer, WRITE_KEY, Workspace, batch_body, pintle, track, wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);

fn results(body: &Value, result: impl Fn(&Value, i64) -> Value) -> (u16, String) {
    let items = body.as_array().expect("a list");
    let results: Vec<Value> = items
        .iter()
        .map(|item| {
            let n = item["message"]["properties"]["n"].as_i64().expect("a number");
            let mut result = result(&item["message"], n);
            result["metadata"] = item["metadata"].clone();
            result
        })
        .collect();
    (200, Value::from(results).to_string())
}

/// The parameters of the dead letters, with their ids.
fn dead(node: &Node) -> Vec<Value> {
    let (config, socket) = (node.settings_file().display().to_string(), node.admin_socket().display().to_string());
    let output = pintle(&["dead", "ls", "--json", "--limit", "100", "--config", &config, "--admin-socket", &socket]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let with_id = |mut item: Value| {
        let id = item["id"].take();
        item["parameters"]["id"] = id;
        item["parameters"].take()
    };
    items.into_iter().map(with_id).collect()
}

#[test]
fn what_the_node_cannot_transform_goes_through_the_external_transformer_and_back() {
    let sink = Sink::start();
    let (endpoint, calls) = (sink.url(), AtomicUsize::new(0));
    let transformer = Transformer::start(move |path, body| {
        // Every other call fails: nothing may be lost, doubled or out of order for that.
        if path != "/features" && calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
            return Some((503, "busy".to_owned()));
        }
        match path {
            "/features" => Some((404, String::new())),
            "/customTransform" => Some(results(body, |message, n| {
                if n == 3 {
                    return json!({"statusCode": 298});
                }
                let mut output = message.clone();
                output["properties"]["python"] = json!(true);
                json!({"statusCode": 200, "output": output})
            })),
            "/v0/destinations/ga4" => Some(results(body, |message, n| {
                if n == 4 {
                    return json!({"statusCode": 400, "error": "no fours"});
                }
                let output = json!({
                    "version": "1", "type": "REST", "method": "POST", "endpoint": endpoint, "userId": "",
                    "headers": {"Content-Type": "application/json"}, "params": {}, "files": {},
                    "body": {"JSON": message, "JSON_ARRAY": {}, "XML": {}, "FORM": {}},
                });
                json!({"statusCode": 200, "output": output})
            })),
            _ => Some((404, "{\"error\":\"Unknown destination: ODD\"}".to_owned())),
        }
    });
    let mut document = Workspace::new()
        .destination("ga", "GA4", json!({"key": "v"}))
        .transformed("def transformEvent(event, metadata):\n    return event")
        .destination("odd", "ODD", json!({}))
        .document();
    document["sources"][0]["destinations"][0]["transformations"][0]["language"] = json!("pythonfaas");
    let mut node = NodeBuilder::new()
        .document(document)
        .first_settings(&format!("DEST_TRANSFORM_URL = \"{}\"\n", transformer.url()))
        .more_settings("\n[ConfigBackend]\nlisten = \"127.0.0.1:0\"\n")
        .start();
    let events: Vec<Value> = (0..30).map(|n| track("user", n)).collect();
    let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
    assert_eq!(answer.status, 200);
    sink.wait_for(28, LIMIT);
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    assert!(sink.duplicates().is_empty());
    let delivered: Vec<i64> = sink.accepted().iter().filter_map(|accepted| accepted.n).collect();
    assert_eq!(delivered, (0..30).filter(|n| *n != 3 && *n != 4).collect::<Vec<i64>>());
    assert!(sink.accepted().iter().all(|accepted| accepted.event["properties"]["python"] == json!(true)));

    wait_until("every other event is a dead letter", LIMIT, || dead(&node).len() == 31);
    let letters = dead(&node);
    let fours: Vec<&Value> = letters.iter().filter(|letter| letter["error"] == "no fours").collect();
    assert_eq!(fours.len(), 1, "{letters:?}");
    assert!(letters.iter().any(|letter| letter["error"] == "{\"error\":\"Unknown destination: ODD\"}"));

    let calls = transformer.calls();
    let (_, asked) = calls.iter().find(|(path, _)| path == "/v0/destinations/ga4").expect("a call");
    assert_eq!(asked[0]["destination"]["Config"], json!({"key": "v"}));
    assert_eq!(asked[0]["metadata"]["destinationType"], "GA4");
    let (_, asked) = calls.iter().find(|(path, _)| path == "/customTransform").expect("a call");
    assert_eq!(asked[0]["destination"], json!({"Transformations": [{"VersionID": "version-ga"}]}));

    // The transformer fetches the code from here.
    let addresses = std::fs::read(node.data().join("tmp/addresses.json")).expect("the addresses");
    let addresses: Value = serde_json::from_slice(&addresses).expect("JSON");
    let code = addresses["code"].as_str().expect("an address").parse().expect("an address");
    let answer = Client::new(code).get("/transformation/getByVersionId?versionId=version-ga").expect("an answer");
    let fetched: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!((answer.status, &fetched["language"]), (200, &json!("pythonfaas")));
    assert!(fetched["code"].as_str().expect("code").starts_with("def transformEvent"));
    assert_eq!(Client::new(code).get("/v1/status").expect("an answer").status, 404);
    assert!(node.stop().success());
}

#[test]
fn events_wait_for_a_transformer_that_is_away_and_hold_up_no_other_source() {
    let sink = Sink::start();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address")
    };
    let mut document = Workspace::new().destination("ga", "GA4", json!({})).document();
    let mut other = Workspace::new().webhook("hook", &sink.url()).document()["sources"][0].clone();
    other["id"] = json!("other-source");
    other["writeKey"] = json!("other-key");
    document["sources"].as_array_mut().expect("a list").push(other);
    let settings = format!("DEST_TRANSFORM_URL = \"http://{closed}\"\n");
    let mut node = NodeBuilder::new().document(document).first_settings(&settings).start();
    let mut client = Client::new(node.address());
    assert_eq!(client.post("/v1/track", WRITE_KEY, &track("user", 1).to_string()).expect("an answer").status, 200);
    assert_eq!(client.post("/v1/track", "other-key", &track("user", 2).to_string()).expect("an answer").status, 200);
    sink.wait_for(1, LIMIT);
    node.wait_for_output("the external transformer failed", LIMIT);
    assert!(dead(&node).is_empty());
    // A stop does not wait for it, and nothing is lost.
    assert!(node.stop().success());
}

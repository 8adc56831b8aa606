//! Hostile JSON: deep, wide, repeated, huge numbers, broken text, names that mean something to others. Each has its
//! answer in linear time, and what is accepted arrives whole.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, basic_auth};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
/// Far above linear time in a build without optimisation, far below quadratic.
const QUICK: Duration = Duration::from_secs(10);

fn nested(depth: usize) -> String {
    format!(r#"{{"userId":"u","event":"E","properties":{{"d":{}1{}}}}}"#, "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn hostile_json_is_answered_in_linear_time() {
    let mut node =
        NodeBuilder::new().workspace(&Workspace::new().webhook_source("wk-other", "webhook", json!({}))).start();
    let mut keys = String::from(r#"{"userId":"u","properties":{"#);
    let mut same = keys.clone();
    for n in 0..300_000 {
        write!(keys, r#""k{n}":1,"#).expect("memory");
    }
    for n in 1..=400_000 {
        write!(same, r#""a":{n},"#).expect("memory");
    }
    keys.push_str(r#""z":1}}"#);
    same.truncate(4_000_000);
    same.truncate(same.rfind(',').expect("a comma"));
    same.push_str("}}");
    let invalid = (400, "invalid json\n");
    for (case, body, expected) in [
        ("a nesting of 1000", nested(1000), (200, "ok")),
        ("a nesting of 5000", nested(5000), invalid),
        ("only openings", "[".repeat(2_000_000), invalid),
        ("many keys", keys, (200, "ok")),
        ("one key many times", same, (200, "ok")),
        ("a number out of range", format!(r#"{{"userId":"u","n":{}}}"#, "9".repeat(4_000_000)), invalid),
        ("a long fraction", format!(r#"{{"userId":"u","n":0.{}}}"#, "1".repeat(1_000_000)), (200, "ok")),
    ] {
        let before = node.resident_bytes();
        let begun = Instant::now();
        let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &body).expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), expected, "{case}");
        assert!(begun.elapsed() < QUICK, "{case}: {:?}", begun.elapsed());
        let good = Client::new(node.address()).post("/v1/track", "wk-other", r#"{"userId":"u"}"#).expect("an answer");
        assert_eq!(good.status, 200, "{case}");
        let now = node.resident_bytes();
        assert!(now < before + 64 * MIB, "{case}: {before} bytes grew to {now}");
        // The same through a webhook source, whose transformation must not be the weak spot.
        let answer = Client::new(node.address()).post("/v1/webhook", "wk-other", &body).expect("an answer");
        let refused = matches!(answer.status, 400 | 413);
        assert!(answer.status == expected.0 || refused, "{case} by webhook: {} {}", answer.status, answer.body);
    }
    assert!(node.is_running());
}

#[test]
fn what_is_accepted_arrives_whole() {
    let sink = Sink::start();
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).start();
    let mut client = Client::new(node.address());
    let mut send = |body: &[u8]| {
        let headers = [("authorization", basic_auth(WRITE_KEY))];
        let answer = client.request("POST", "/v1/track", &headers, Some(body)).expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    };
    // As deep as this test can read it; 1000 levels are in the other test.
    send(nested(100).as_bytes());
    send(br#"{"userId":"u","event":"E","properties":{"a":1,"a":2,"b":3,"a":4}}"#);
    send(b"{\"userId\":\"u\",\"event\":\"E\",\"properties\":{\"s\":\"\xff\xfe|\\ud83d|\\u0000\"}}");
    let named = json!({"__proto__": {"polluted": 1}, "constructor": {"prototype": {"x": 1}}});
    send(json!({"userId": "u", "event": "E", "properties": named}).to_string().as_bytes());
    send(br#"{"userId":"u","event":"E","properties":{}}"#);
    sink.wait_for(5, LIMIT);
    let properties: Vec<Value> = sink.accepted().iter().map(|accepted| accepted.event["properties"].clone()).collect();
    assert_eq!(properties[0], serde_json::from_str::<Value>(&nested(100)).expect("JSON")["properties"]);
    assert_eq!(properties[1], json!({"a": 1, "b": 3}), "of equal keys the first counts");
    assert_eq!(properties[2], json!({"s": "\u{fffd}\u{fffd}|\u{fffd}|"}));
    assert_eq!(properties[3], named);
    assert_eq!(properties[4], json!({}));
    // An event at the limit of depth passes every later stage too.
    send(nested(1000).as_bytes());
    sink.wait_for(6, LIMIT);
}

//! Destinations of AWS against a stand-in: every event arrives, in order per user, also through an outage; roles;
//! what the service refuses.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{
    Aws, Client, Cloud, Node, NodeBuilder, WRITE_KEY, Workspace, batch_body, holds_within, track, wait_until,
};
use crate::rules::{dead, json_of};

const LIMIT: Duration = Duration::from_secs(90);

const SOON: &str = "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\nunreachableProbeMax = \"1s\"\n\
    jobsBatchTimeout = \"200ms\"\n";

const USERS: i64 = 100;

fn account(url: &str, more: Value) -> Value {
    let mut config = json!({"region": "us-east-1", "accessKeyID": "kit", "accessKey": "kit", "endpoint": url});
    for (key, value) in more.as_object().expect("an object") {
        config[key] = value.clone();
    }
    config
}

fn start(workspace: &Workspace) -> Node {
    NodeBuilder::new().workspace(workspace).more_settings(SOON).start()
}

/// Events of all users with these numbers.
fn send(node: &Node, numbers: std::ops::Range<i64>) {
    let mut client = Client::new(node.address());
    let events: Vec<Value> =
        numbers.flat_map(|n| (0..USERS).map(move |user| track(&format!("user-{user}"), n))).collect();
    for batch in events.chunks(500) {
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(batch)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// Whether nothing waits on the way any more.
fn is_done(node: &Node) -> bool {
    let status = json_of(node, &["status", "--json"]);
    let queues = status["queues"].as_array().expect("queues");
    let on_the_way = queues.iter().filter(|queue| queue["queue"] == "gw" || queue["queue"] == "rt");
    on_the_way.map(|queue| queue["pending"].as_u64().expect("a number")).sum::<u64>() == 0
}

fn wait_until_done(node: &Node) {
    let done = holds_within(LIMIT, || is_done(node));
    assert!(done, "not every event went out: {}", json_of(node, &["status", "--json"]));
}

/// Each user's numbers rise, repeats aside, and none is missing.
fn assert_complete_and_in_order(records: &[Value], of_user: &str, count: i64) {
    let mut last: HashMap<&str, i64> = HashMap::new();
    let mut seen: HashSet<(&str, i64)> = HashSet::new();
    for record in records {
        let user = record[of_user].as_str().expect("a user");
        assert_eq!(record["event"]["userId"], user);
        let n = record["event"]["properties"]["n"].as_i64().expect("a number");
        let before = last.insert(user, n).unwrap_or(-1);
        assert!(n >= before, "{user}: {n} after {before}");
        seen.insert((user, n));
    }
    assert_eq!(i64::try_from(seen.len()).expect("few"), count, "{} records", records.len());
}

#[test]
fn ten_thousand_events_pass_into_a_stream_in_order_through_an_outage() {
    let aws = Aws::start();
    aws.ask("kinesis", "make", "kit-stream");
    let config = account(&aws.url(), json!({"stream": "kit-stream"}));
    let node = start(&Workspace::new().destination("stream", "KINESIS", config));
    send(&node, 0..50);
    aws.close();
    send(&node, 50..100);
    wait_until("calls are turned away", LIMIT, || aws.turned_away() >= 20);
    aws.open();
    wait_until_done(&node);
    assert_eq!(dead(&node), Vec::<Value>::new(), "nothing is given up");
    assert_complete_and_in_order(&aws.ask("kinesis", "read", "kit-stream"), "key", 10_000);
}

/// Fewer than into the stream: the stand-in looks at every message of the queue for each new one.
#[test]
fn a_fifo_queue_gets_every_event_in_order_of_its_user_through_an_outage() {
    let aws = Aws::start();
    let queue = aws.ask("sqs", "make", "kit.fifo")[0].as_str().expect("a URL").to_owned();
    let config = account(&aws.url(), json!({"queueUrl": queue}));
    let node = start(&Workspace::new().destination("queue", "SQS", config));
    send(&node, 0..1);
    aws.close();
    send(&node, 1..2);
    wait_until("calls are turned away", LIMIT, || aws.turned_away() >= 20);
    aws.open();
    wait_until_done(&node);
    let messages = aws.ask("sqs", "read", &queue);
    assert_eq!(messages.len(), 200, "what was sent twice is there once");
    assert_complete_and_in_order(&messages, "group", 200);
}

#[test]
fn a_delivery_stream_a_bus_and_a_refusing_stream_get_what_is_theirs() {
    let aws = Aws::start();
    aws.ask("firehose", "make", "kit-delivery");
    aws.ask("events", "make", "kit-bus");
    let delivery = json!({"mapEvents": [{"from": "kit event", "to": "kit-delivery"}]});
    let bus = json!({"eventBusName": "kit-bus", "detailType": "kit", "resourceID": []});
    let workspace = Workspace::new()
        .destination("delivery", "FIREHOSE", account(&aws.url(), delivery))
        .destination("bus", "EVENTBRIDGE", account(&aws.url(), bus))
        .destination("missing", "KINESIS", account(&aws.url(), json!({"stream": "nowhere"})));
    let node = start(&workspace);
    send(&node, 0..1);
    wait_until_done(&node);
    let delivered: HashSet<String> = aws
        .ask("firehose", "read", "kit-delivery")
        .iter()
        .map(|record| record["event"]["userId"].to_string())
        .collect();
    assert_eq!(i64::try_from(delivered.len()).expect("few"), USERS);
    let archived = aws.ask("events", "read", "kit-archive");
    assert_eq!(archived[0]["count"].as_i64(), Some(USERS));
    let letters = dead(&node);
    assert!(!letters.is_empty(), "what a stream refuses is given up with a reason");
    for letter in letters {
        assert!(letter.to_string().contains("ResourceNotFoundException"), "{letter}");
    }
}

#[test]
fn a_function_is_called_with_the_keys_of_an_assumed_role() {
    let cloud = Cloud::start(|call| {
        if call.path.contains("/functions/") {
            return (202, String::new());
        }
        let keys = "<AccessKeyId>ASIAKIT</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                    <SessionToken>the-token</SessionToken><Expiration>2199-01-01T00:00:00Z</Expiration>";
        (200, format!("<AssumeRoleResponse><Credentials>{keys}</Credentials></AssumeRoleResponse>"))
    });
    let role = json!({
        "iamRoleARN": "arn:aws:iam::123456789012:role/kit", "lambda": "kit-function", "clientContext": "e30=",
        "enableBatchInput": true, "maxBatchSize": "100",
    });
    let mut workspace = Workspace::new().destination("function", "LAMBDA", account(&cloud.url(), role));
    workspace.define("function", json!({"transformAtV1": "router"}));
    let node = start(&workspace);
    send(&node, 0..2);
    wait_until_done(&node);
    let calls = cloud.calls();
    let assumed: Vec<String> = calls
        .iter()
        .filter(|call| call.path == "/")
        .map(|call| String::from_utf8_lossy(&call.body).into_owned())
        .collect();
    assert_eq!(assumed.len(), 1, "a role is assumed once");
    assert!(assumed[0].contains("ExternalId=kit-workspace"), "{}", assumed[0]);
    assert!(assumed[0].contains("RoleSessionName=rudderstack-aws-lambda-access"), "{}", assumed[0]);
    let invoked: Vec<_> =
        calls.iter().filter(|call| call.path == "/2015-03-31/functions/kit-function/invocations").collect();
    let events: usize = invoked.iter().map(|call| call.json().as_array().map_or(0, Vec::len)).sum();
    assert_eq!(i64::try_from(events).expect("few"), 2 * USERS);
    assert!(invoked.len() < events, "events share calls");
    for call in invoked {
        assert_eq!(call.header("x-amz-invocation-type"), "Event");
        assert_eq!(call.header("x-amz-client-context"), "e30=");
        assert_eq!(call.header("x-amz-security-token"), "the-token");
        assert!(call.header("authorization").contains("Credential=ASIAKIT/"), "{}", call.header("authorization"));
    }
}

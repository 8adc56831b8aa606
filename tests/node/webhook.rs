//! Webhook sources: what services send becomes events, here or in an external transformer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::kit::{Answer, Client, Node, NodeBuilder, Sink, Transformer, WRITE_KEY, Workspace, basic_auth};

const LIMIT: Duration = Duration::from_secs(30);

fn workspace(sink: &Sink) -> Workspace {
    Workspace::new()
        .webhook("hook", &sink.url())
        .webhook_source("wk-hook", "webhook", json!({"putRequestDetailsInContext": true}))
        .webhook_source("wk-slack", "Slack", json!({}))
        .webhook_source("wk-segment", "segment", json!({}))
        .webhook_source("wk-odd", "Odd Source", json!({"k": "v"}))
        .webhook_source("wk-adjust", "adjust", json!({}))
}

fn settings(first: &str, webhook: &str) -> String {
    format!(
        "{first}\nWriteTimeout = \"2s\"\n[Storage]\nallowUnsafeFs = true\nballast = \"0\"\nsoftFree = \"64MiB\"\nhardFree = \"32MiB\"\n[Gateway.webhook]\n{webhook}\n"
    )
}

fn node_with(sink: &Sink, transformer: &Transformer, webhook: &str) -> Node {
    let first = format!("DEST_TRANSFORM_URL = \"{}/\"", transformer.url());
    NodeBuilder::new().workspace(&workspace(sink)).settings(&settings(&first, webhook)).start()
}

fn post(node: &Node, write_key: &str, content_type: &str, body: &str) -> Answer {
    let headers = [("content-type", content_type.to_owned())];
    let path = format!("/v1/webhook?writeKey={write_key}");
    Client::new(node.address()).request("POST", &path, &headers, Some(body.as_bytes())).expect("an answer")
}

fn said(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.body.as_str())
}

#[test]
fn what_known_services_send_is_delivered_as_events() {
    let sink = Sink::start();
    let node = NodeBuilder::new().workspace(&workspace(&sink)).start();

    let answer = post(&node, "wk-hook", "application/x-www-form-urlencoded", "a=1&a=2&b=x");
    assert_eq!(said(&answer), (200, "ok"));
    sink.wait_for(1, LIMIT);
    let event = sink.accepted().remove(0).event;
    assert_eq!(event["event"], "webhook_source_event");
    assert_eq!(event["properties"], json!({"a": ["1", "2"], "b": ["x"]}));
    assert_eq!(event["context"]["headers"]["Content-Type"], "application/json");
    assert_eq!(event["context"]["query_parameters"], json!({"writeKey": "wk-hook"}));

    let check = post(&node, "wk-slack", "application/json", r#"{"type":"url_verification","challenge":"c"}"#);
    assert_eq!(said(&check), (200, r#"{"challenge":"c"}"#));
    assert_eq!(check.header("content-type"), Some("application/json"));

    let mut client = Client::new(node.address());
    let basic = [("authorization", basic_auth("wk-segment"))];
    let mut segment = |method: &str, path: &str, body: &str| {
        let answer = client.request(method, path, &basic, Some(body.as_bytes())).expect("an answer");
        (answer.status, answer.body)
    };
    let two = r#"[{"type":"track","userId":"u","event":"A","x":null},{"type":"track","userId":"u","event":"B"}]"#;
    for (method, path, body, expected) in [
        ("POST", "/v1/webhook", two, (200, "ok")),
        ("POST", "/v1/webhook", "[]", (400, "empty batch payload\n")),
        ("POST", "/v1/webhook", "[7]", (400, "event is not a valid rudder event\n")),
        ("POST", "/v1/webhook", "{}", (400, "request neither has anonymousId nor userId\n")),
        ("POST", "/v1/webhook", "", (400, "request neither has anonymousId nor userId\n")),
        ("POST", "/v1/webhook", "{", (400, "Malformed JSON in request body\n")),
        ("GET", "/v1/webhook", "", (200, "")),
        ("PUT", "/v1/webhook", "", (405, "")),
        ("POST", "/v1/webhook?writeKey=no-such-key", two, (401, "invalid write key\n")),
        ("POST", &format!("/v1/webhook?writeKey={WRITE_KEY}"), two, (401, "invalid write key\n")),
        ("POST", "/v1/webhook?writeKey=wk-slack", "{}", (400, "Missing the required event data\n")),
    ] {
        let (status, text) = segment(method, path, body);
        assert_eq!((status, text.as_str()), expected, "{method} {path} {body}");
    }
    let large = format!(r#"{{"userId":"u","s":"{}"}}"#, "x".repeat(4_096_000));
    assert_eq!(segment("POST", "/v1/webhook", &large), (413, "request size exceeds max limit\n".to_owned()));
    sink.wait_for(3, LIMIT);
    let names: Vec<Value> = sink.accepted()[1..].iter().map(|accepted| accepted.event["event"].clone()).collect();
    assert_eq!(names, ["A", "B"]);
    assert!(sink.accepted()[1].event.get("x").is_none());

    let unknown = post(&node, "wk-odd", "application/json", "{}");
    assert_eq!(unknown.status, 503, "{}", unknown.body);
    assert!(unknown.body.starts_with("JS HTTP connection to source transformer"), "{}", unknown.body);
    assert!(unknown.header("retry-after").is_some());
    node.wait_for_output("odd source", LIMIT);
}

#[test]
fn requests_to_the_external_transformer_are_gathered_and_each_gets_its_own_answer() {
    let sink = Sink::start();
    let transformer = Transformer::start(|_, body| {
        let element = |element: &Value| match element["request"]["body"].as_str().unwrap_or_default() {
            "refuse" => json!({"statusCode": 422, "error": "not this one"}),
            "answer" => json!({"outputToSource": {
                "body": base64::engine::general_purpose::STANDARD.encode("hello"), "contentType": "text/x-own",
            }}),
            "nothing" => json!({"statusCode": 200}),
            user => json!({"output": {"batch": [{"type": "track", "event": "E", "userId": user}]}}),
        };
        let elements: Vec<Value> = body.as_array().expect("a list").iter().map(element).collect();
        Some((200, json!(elements).to_string()))
    });
    let node = node_with(&sink, &transformer, "batchTimeout = \"300ms\"\nmaxBatchSize = 4\n");
    let expected: [(&str, (u16, &str)); 6] = [
        ("u1", (200, "ok")),
        ("refuse", (422, "not this one\n")),
        ("answer", (200, "hello")),
        ("nothing", (500, "output not found in source transformer response\n")),
        (" ", (400, "request neither has anonymousId nor userId\n")),
        ("u2", (200, "ok")),
    ];
    std::thread::scope(|scope| {
        for (body, expected) in expected {
            let node = &node;
            scope.spawn(move || {
                assert_eq!(said(&post(node, "wk-odd", "text/plain", body)), expected, "{body}");
            });
        }
    });
    sink.wait_for(2, LIMIT);
    let calls = transformer.calls();
    let sizes: Vec<usize> = calls.iter().map(|(_, body)| body.as_array().map_or(0, Vec::len)).collect();
    assert!(calls.len() < 6 && sizes.iter().all(|size| *size <= 4), "gathered, but not too many: {sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 6);
    for (path, body) in &calls {
        assert_eq!(path, "/v2/sources/odd%20source");
        let source = &body[0]["source"];
        assert_eq!((&source["Config"], &source["WriteKey"]), (&json!({"k": "v"}), &json!("wk-odd")));
        assert_eq!(source["SourceDefinition"]["Name"], "Odd Source");
        assert_eq!(body[0]["request"]["query_parameters"], json!({"writeKey": ["wk-odd"]}));
    }
    // A service that sends its events by GET.
    let got = Client::new(node.address()).get("/v1/webhook?writeKey=wk-adjust&user=x").expect("an answer");
    assert_eq!(got.status, 200, "{}", got.body);
    let last = transformer.calls().pop().expect("a call");
    assert_eq!((last.0.as_str(), &last.1[0]["request"]["method"]), ("/v2/sources/adjust", &json!("GET")));
}

#[test]
fn a_transformer_that_fails_ends_in_a_clear_answer() {
    let sink = Sink::start();
    let tries = AtomicUsize::new(0);
    let transformer = Transformer::start(move |_, body| {
        let text = body[0]["request"]["body"].as_str().unwrap_or_default().to_owned();
        match text.as_str() {
            "hang" => None,
            "short" => Some((200, "[]".to_owned())),
            "nonsense" => Some((200, "<html>".to_owned())),
            "huge" => Some((200, format!("[\"{}\"]", "x".repeat(100_000)))),
            // Comes right at the third try.
            "twice" if tries.fetch_add(1, Ordering::SeqCst) < 2 => Some((503, String::new())),
            "twice" => Some((200, r#"[{"output":{"batch":[{"userId":"u"}]}}]"#.to_owned())),
            status => Some((status.parse().unwrap_or(500), String::new())),
        }
    });
    let node = node_with(
        &sink,
        &transformer,
        "minRetryTime = \"10ms\"\nmaxRetryTime = \"50ms\"\n[Transformer]\nmaxResponseBytes = 50000\n",
    );
    let failed =
        |status: u16| format!("source Transformer returned non-success statusCode: {status}, Error: {status} ");
    for (body, status, begins, calls) in [
        ("404", 500, failed(404) + "Not Found\n", 1),
        ("501", 500, failed(501) + "Not Implemented\n", 1),
        ("500", 500, failed(500) + "Internal Server Error\n", 6),
        ("429", 500, failed(429) + "Too Many Requests\n", 6),
        ("short", 500, "invalid format of source transformer response\n".to_owned(), 1),
        ("nonsense", 500, "invalid format of source transformer response\n".to_owned(), 1),
        ("huge", 500, "invalid format of source transformer response\n".to_owned(), 1),
        ("twice", 200, "ok".to_owned(), 3),
        ("hang", 504, "gateway timeout\n".to_owned(), 1),
    ] {
        let before = transformer.calls().len();
        let begun = Instant::now();
        let answer = post(&node, "wk-odd", "text/plain", body);
        assert_eq!(said(&answer), (status, begins.as_str()), "{body}");
        assert_eq!(transformer.calls().len() - before, calls, "{body}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{body}: {:?}", begun.elapsed());
    }
    // What the node knows itself does not need the transformer.
    assert_eq!(said(&post(&node, "wk-hook", "application/json", "{}")), (200, "ok"));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let first = format!("DEST_TRANSFORM_URL = \"http://{closed}\"");
    let alone =
        NodeBuilder::new().workspace(&workspace(&sink)).settings(&settings(&first, "minRetryTime = \"1ms\"")).start();
    let answer = post(&alone, "wk-odd", "text/plain", "x");
    assert_eq!(answer.status, 503);
    assert!(answer.body.starts_with("JS HTTP connection to source transformer"), "{}", answer.body);
    assert!(!answer.body.contains(&closed.port().to_string()), "the address stays here: {}", answer.body);
}

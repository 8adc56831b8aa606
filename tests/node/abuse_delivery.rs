//! Events and workspaces that try to reach beyond their place: deep and strangely named JSON through a transformation,
//! headers that break requests, transformations whose code is elsewhere on the disk, outputs without end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, ControlPlane, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, pintle, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

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

fn send(node: &Node, event: &Value) {
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn what_the_port_accepts_passes_a_transformation_unchanged() {
    let sink = Sink::start();
    let code = "export function transformEvent(event) {
        if (({}).polluted !== undefined || ({}).x !== undefined) throw new Error('polluted');
        return event;
    }";
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url()).transformed(code)).start();
    let named =
        r#"{"userId":"u","event":"E","properties":{"__proto__":{"polluted":1},"constructor":{"prototype":{"x":1}}}}"#;
    let plain = r#"{"userId":"u","event":"E","properties":{"plain":true}}"#;
    let deep =
        format!(r#"{{"userId":"u","event":"E","properties":{{"d":{}1{}}}}}"#, "[".repeat(1000), "]".repeat(1000));
    let body = format!("{{\"batch\":[{named},{plain}]}}").replace("\"event\"", "\"type\":\"track\",\"event\"");
    let mut client = Client::new(node.address());
    assert_eq!(client.post("/v1/batch", WRITE_KEY, &body).expect("an answer").status, 200);
    sink.wait_for(2, LIMIT);
    let events: Vec<Value> = sink.accepted().into_iter().map(|accepted| accepted.event).collect();
    let own = json!({"__proto__": {"polluted": 1}, "constructor": {"prototype": {"x": 1}}});
    assert_eq!((&events[0]["properties"], &events[1]["properties"]), (&own, &json!({"plain": true})));
    assert_eq!(client.post("/v1/track", WRITE_KEY, &deep).expect("an answer").status, 200);
    sink.wait_for(3, LIMIT);
    assert!(dead(&node).is_empty());
}

#[test]
fn headers_of_an_event_neither_split_nor_reframe_its_request() {
    let receiver = ControlPlane::start("");
    receiver.answer(200, "{}");
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &receiver.url())).start();
    send(&node, &json!({"userId": "u", "event": "E", "header": {"X-A": "b\r\nX-Evil: 1"}}));
    wait_until("the split one is a dead letter", LIMIT, || dead(&node).len() == 1);
    let letter = dead(&node).remove(0);
    assert_eq!(letter["status_code"], 400, "{letter}");
    assert!(receiver.asked().is_empty());
    let framing = json!({"Content-Length": "5", "Transfer-Encoding": "chunked", "Host": "evil", "Connection": "close"});
    send(&node, &json!({"userId": "v", "event": "E", "header": framing}));
    wait_until("the other one arrives", LIMIT, || receiver.asked().len() == 1);
    let asked = receiver.asked().remove(0);
    assert!(receiver.url().ends_with(asked.header("host").expect("a host")), "{:?}", asked.header("host"));
    assert_eq!(asked.header("transfer-encoding"), None);
    assert!(asked.header("content-length").expect("a length").parse::<usize>().expect("a number") > 50);
}

#[test]
fn code_is_found_by_plain_names_beside_the_workspace_only() {
    let names = ["../../../etc/passwd", "..%2fx", "/etc/passwd", "a/b", ".hidden", "link", "gone", &"a".repeat(300)]
        .map(str::to_owned);
    let mut workspace = Workspace::new();
    for at in 0..names.len() {
        workspace = workspace.webhook(&format!("d{at}"), "http://127.0.0.1:9/").transformed("");
    }
    let mut document = workspace.document();
    for (at, name) in names.iter().enumerate() {
        let transformation = &mut document["sources"][0]["destinations"][at]["transformations"][0];
        transformation["versionId"] = json!(name);
        transformation.as_object_mut().expect("an object").remove("code");
    }
    let mut node = NodeBuilder::new().document(document).prepare();
    node.write_beside_workspace("transformations/.hidden.js", "export function transformEvent(e) { return e; }");
    node.write_beside_workspace("elsewhere/real.js", "export function transformEvent(e) { return e; }");
    let beside = node.workspace_file().with_file_name("transformations");
    std::os::unix::fs::symlink(beside.with_file_name("elsewhere").join("real.js"), beside.join("link.js"))
        .expect("a link can be made");
    node.start();
    send(&node, &json!({"userId": "u", "event": "E"}));
    wait_until("every destination has its dead letter", LIMIT, || dead(&node).len() == names.len());
    for letter in dead(&node) {
        assert!(letter["error"].as_str().expect("a text").starts_with("Transformation not found"), "{letter}");
    }
}

#[test]
fn outputs_and_error_texts_of_a_transformation_have_bounds() {
    let sink = Sink::start();
    let code = "export function transformEvent(event) {
        if (event.event === 'throw') throw new Error('\\u001b[2J' + 'x'.repeat(5e6));
        return Array(event.properties.copies).fill(event);
    }";
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url()).transformed(code)).start();
    send(&node, &json!({"userId": "u", "event": "E", "properties": {"copies": 900}}));
    wait_until("all copies arrive", LIMIT, || sink.requests() >= 900);
    send(&node, &json!({"userId": "u", "event": "E", "properties": {"copies": 5000}}));
    wait_until("too many are a failure", LIMIT, || dead(&node).len() == 1);
    assert_eq!(dead(&node)[0]["error"], "transformation output too large");
    send(&node, &json!({"userId": "u", "event": "throw"}));
    wait_until("the thrown one is a failure", LIMIT, || dead(&node).len() == 2);
    let letters = dead(&node);
    let thrown =
        letters.iter().find(|letter| letter["error"] != "transformation output too large").expect("it is there");
    assert!(thrown["error"].as_str().expect("a text").len() <= 10 * 1024);
    let (config, socket) = (node.settings_file().display().to_string(), node.admin_socket().display().to_string());
    let shown = pintle(&["dead", "show", &thrown["id"].to_string(), "--config", &config, "--admin-socket", &socket]);
    assert!(shown.status.success() && !shown.stdout.contains(&0x1b), "no escape reaches a terminal");
    assert_eq!(sink.requests(), 900);
}

#[test]
fn an_answer_never_repeats_the_host_of_its_request() {
    let mut node = NodeBuilder::new().workspace(&Workspace::new()).start();
    let path = format!("/v1/projects/{WRITE_KEY}/settings");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\",\"apiHost\":\"evil\r\n\r\n");
    let answer = Client::new(node.address()).raw(request.as_bytes()).expect("an answer");
    if answer.status == 200 {
        let settings: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(!settings.to_string().contains("evil"), "{settings}");
    } else {
        assert_eq!(answer.status, 400);
    }
    assert!(node.is_running());
}

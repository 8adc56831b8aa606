//! The workspace from a control plane: fetched with the token, kept for the time it is away, never shown.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, ControlPlane, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, basic_auth, track, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const TOKEN: &str = "t0ken-of-the-workspace-9Zq";
const MARKER: &str = "s3cret-that-the-document-holds";

fn document(hook: &str, url: &str) -> Value {
    let mut document = Workspace::new().webhook(hook, url).document();
    document["credentials"] = json!({"c": {"key": "K", "value": MARKER, "isSecret": true}});
    document
}

fn node_of(plane: &ControlPlane) -> Node {
    let first = format!("WORKSPACE_TOKEN = \"{TOKEN}\"\nCONFIG_BACKEND_URL = \"{}\"\nregion = \"EU\"\n", plane.url());
    NodeBuilder::new().first_settings(&first).more_settings("\n[BackendConfig]\npollInterval = \"100ms\"\n").prepare()
}

fn send(node: &Node, n: i64) {
    let body = track("u", n).to_string();
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &body).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn status(node: &Node) -> Value {
    let socket = node.admin_socket().display().to_string();
    let output = crate::kit::pintle(&["status", "--json", "--admin-socket", &socket]);
    serde_json::from_slice(&output.stdout).expect("a status")
}

#[test]
fn a_hosted_workspace_is_fetched_followed_and_kept_sealed() {
    let (first, second) = (Sink::start(), Sink::start());
    let plane = ControlPlane::start(&document("first", &first.url()).to_string());
    let mut node = node_of(&plane);
    node.start();
    send(&node, 0);
    first.wait_for(1, LIMIT);
    let asked = plane.asked().remove(0);
    assert_eq!(asked.line, "GET /workspaceConfig?fetchAll=true&region=EU");
    assert_eq!(asked.header("authorization"), Some(basic_auth(TOKEN).as_str()));
    assert_eq!((asked.header("content-type"), asked.header("if-none-match")), (Some("application/json"), None));
    let health = Client::new(node.address()).get("/health").expect("an answer");
    assert!(health.body.contains("\"backendConfigMode\":\"API\""), "{}", health.body);

    wait_until("it asks whether anything changed", LIMIT, || {
        plane.asked().iter().any(|asked| asked.header("if-none-match").is_some() && asked.answered == 304)
    });
    plane.answer(200, &document("second", &second.url()).to_string());
    let mut n = 0;
    wait_until("a change takes effect", LIMIT, || {
        n += 1;
        send(&node, n);
        second.count() > 0
    });

    // What the control plane answers while it is ill changes nothing, and may repeat what it was sent.
    for (code, text) in
        [(500, format!("no such token {TOKEN}")), (200, "{\"sources\": 5}".to_owned()), (204, String::new())]
    {
        plane.answer(code, &text);
        wait_until("the refusal is shown", LIMIT, || !status(&node)["configuration"]["lastError"].is_null());
        n += 1;
        send(&node, n);
        plane.answer(200, &document("second", &second.url()).to_string());
        wait_until("it is good again", LIMIT, || status(&node)["configuration"]["lastError"].is_null());
    }

    // Without the control plane the copy serves, also for the next start.
    drop(plane);
    assert!(node.stop().success());
    node.start();
    let configuration = status(&node)["configuration"].clone();
    assert_eq!((&configuration["mode"], &configuration["fromLastGood"]), (&json!("API"), &json!(true)));
    let before = second.count();
    send(&node, n + 1);
    second.wait_for(before + 1, LIMIT);

    assert!(node.stop().success());
    for secret in [TOKEN, MARKER] {
        assert!(!node.output().contains(secret), "the log shows {secret}");
        assert!(!holds(node.data(), secret.as_bytes()), "the data directory holds {secret}");
    }
}

#[test]
fn what_a_destination_repeats_of_a_secret_is_shown_nowhere() {
    let destination = ControlPlane::start("");
    destination.answer(400, &format!("the key {MARKER} is not valid"));
    let headers = json!([{"from": "X-Key", "to": MARKER}]);
    let config = json!({"webhookUrl": destination.url(), "webhookMethod": "POST", "headers": headers});
    let node = NodeBuilder::new().workspace(&Workspace::new().destination("hook", "WEBHOOK", config)).start();
    send(&node, 0);
    let shown = || status(&node)["destinations"].to_string();
    wait_until("the refusal is shown", LIMIT, || shown().contains("is not valid"));
    assert!(shown().contains("the key *** is not valid") && !shown().contains(MARKER), "{}", shown());
    assert!(destination.asked().iter().any(|asked| asked.header("x-key") == Some(MARKER)), "it was sent all the same");
    assert!(!node.output().contains(MARKER), "the log shows it");
}

/// Whether a file below the folder holds these bytes.
fn holds(folder: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("a folder").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            holds(&path, wanted)
        } else {
            std::fs::read(&path).is_ok_and(|bytes| bytes.windows(wanted.len()).any(|part| part == wanted))
        }
    })
}

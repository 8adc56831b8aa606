//! Alerts: an episode is told once, and its end; to a webhook and to a program.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, wait_until};

const LIMIT: Duration = Duration::from_mins(1);

/// Takes posts of JSON; the server ends with the test.
fn hook() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/alerts", listener.local_addr().expect("a bound listener has an address"));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            let body = loop {
                let length = stream.read(&mut buffer).expect("a request");
                request.extend_from_slice(&buffer[..length]);
                let text = String::from_utf8_lossy(&request);
                let body = text.split_once("\r\n\r\n").map(|(_, body)| serde_json::from_str::<Value>(body));
                match body {
                    Some(Ok(body)) => break body,
                    _ => assert!(length > 0, "the request is whole: {text}"),
                }
            };
            told.lock().expect("nobody panics with it").push(body);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").expect("an answer");
        }
    });
    (url, taken)
}

#[test]
fn a_destination_that_is_down_is_told_once_and_again_when_it_is_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (program, told) = (folder.path().join("hook"), folder.path().join("told"));
    std::fs::write(&program, format!("#!/bin/sh\ncat >> {0}\necho >> {0}\n", told.display())).expect("the hook");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("the hook can be run");
    let (url, posted) = hook();
    let mut sink = Sink::start();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    sink.close();
    let node = NodeBuilder::new()
        .workspace(&workspace)
        .more_settings(&format!(
            "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\nunreachableProbeMax = \"1s\"\n\
             [Alert]\nwebhook = \"{url}\"\nexec = \"{}\"\ndestinationDown = \"1s\"\ndiskFreePercent = 0\n",
            program.display()
        ))
        .start();
    let events: Vec<Value> =
        (0..30).map(|n| json!({ "type": "track", "event": "e", "userId": format!("u{n}") })).collect();
    let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);

    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    wait_until("the program is told", LIMIT, || lines().len() == 1);
    let raised = &lines()[0];
    assert_eq!((&raised["alert"], &raised["subject"]), (&json!("destination_down"), &json!("hook")), "{raised}");
    assert_eq!(raised["state"], "raised");
    assert!(raised["text"].as_str().is_some_and(|text| text.contains("504")), "the last error is told: {raised}");
    let status = crate::rules::json_of(&node, &["status", "--json"]);
    assert_eq!(status["alerts"][0]["alert"], "destination_down", "{status}");
    assert_eq!(status["destinations"][0]["rt"]["pending"], 30);
    assert!(status["destinations"][0]["oldestMs"].is_i64(), "{status}");

    sink.open();
    wait_until("the program is told that it is over", LIMIT, || lines().len() == 2);
    assert_eq!(lines()[1]["state"], "cleared");
    wait_until("so is the webhook", LIMIT, || posted.lock().expect("nobody panics with it").len() == 2);
    assert_eq!(*posted.lock().expect("nobody panics with it"), lines());
    sink.wait_for(30, LIMIT);
}

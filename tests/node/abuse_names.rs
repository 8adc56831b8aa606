//! Values of events and addresses that end up in metrics, figures and texts: each stays a value, none grows without
//! end, and secrets stay out.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, pintle, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

fn metrics(node: &Node) -> String {
    let mut stream = UnixStream::connect(node.admin_socket()).expect("the admin socket");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("an answer");
    page.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// `name{label="text",...} value`, with nothing unescaped inside of texts.
fn is_sample(line: &str) -> bool {
    let Some((series, value)) = line.rsplit_once(' ') else { return false };
    let (name, labels) = series.split_once('{').map_or((series, "}"), |(name, labels)| (name, labels));
    let mut inside = false;
    let mut escaped = false;
    for character in labels.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ => {}
        }
    }
    let is_named = name.chars().all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | ':'));
    is_named && !inside && labels.ends_with('}') && value.parse::<f64>().is_ok()
}

#[test]
fn libraries_runs_and_times_of_events_stay_values_and_stay_few() {
    let sink = Sink::start();
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()))
        .more_settings("\n[Rsources]\nmaxRuns = 50\n")
        .start();
    let mut client = Client::new(node.address());
    let mut events = Vec::new();
    for n in 0..400 {
        let library = if n == 0 {
            json!({"name": "a\"} evil{x=\"\n", "version": "1.0"})
        } else {
            json!({"name": "lib", "version": format!("1.{n}")})
        };
        let context = json!({"library": library, "sources": {"job_run_id": format!("run-{n}")}});
        let event = json!({"type": "track", "userId": "u", "event": "E", "context": context});
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&[event])).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for time in [json!("0001-01-01"), json!("9999-12-31T23:59:59Z"), json!(1e18), json!(-1), json!("now"), json!({})] {
        events.push(json!({"type": "track", "userId": "u", "event": "E", "originalTimestamp": time, "sentAt": time}));
    }
    assert_eq!(client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer").status, 200);
    wait_until("everything is delivered", LIMIT, || sink.requests() >= 406);

    let page = metrics(&node);
    let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    let broken: Vec<&&str> = samples.iter().filter(|line| !is_sample(line)).collect();
    assert!(samples.len() > 50 && broken.is_empty(), "{broken:?}");
    let versions: HashSet<&str> = samples
        .iter()
        .filter_map(|line| line.split_once("sdkVersion=\"")?.1.split_once("\",").map(|(text, _)| text))
        .collect();
    assert!(versions.len() <= 51, "{}", versions.len());
    assert!(!page.contains("run-399"), "no run in a label");
}

#[test]
fn the_secrets_of_an_address_that_cannot_be_reached_are_shown_nowhere() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address")
    };
    let url = format!("http://user:pw-Zq7marker@{closed}/h?api_secret=S3CR3TQmarker");
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &url)).start();
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, r#"{"userId":"u","event":"E"}"#);
    assert_eq!(answer.expect("an answer").status, 200);
    let socket = node.admin_socket().display().to_string();
    let shown = |verb: &[&str]| {
        let arguments = [verb, &["--admin-socket", &socket]].concat();
        let output = pintle(&arguments);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    wait_until("the failure is shown", LIMIT, || shown(&["status", "--json"]).contains("Unable to make"));
    let mut all = String::new();
    for text in [shown(&["status", "--json"]), shown(&["status"]), node.output(), metrics(&node)] {
        writeln!(all, "{text}").expect("memory");
    }
    let told: Value = serde_json::from_str(&shown(&["status", "--json"])).expect("JSON");
    assert!(told.to_string().contains(&closed.to_string()), "the place itself is told: {told}");
    for secret in ["pw-Zq7marker", "S3CR3TQmarker"] {
        assert!(!all.contains(secret), "{secret} is shown");
    }
}

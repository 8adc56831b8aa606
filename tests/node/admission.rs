//! Who may send how much: rates, suppressed users, the internal tree (gateway.md 7.7 and 9).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, wait_until};

/// A request on the admin socket: status, body.
fn internal(node: &Node, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(node.admin_socket()).expect("the admin socket answers");
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
}

fn event(user: &str) -> Value {
    json!({"type": "track", "event": "e", "userId": user})
}

fn batch(client: &mut Client, path: &str, users: &[&str]) -> (u16, String, Option<String>) {
    let events: Vec<Value> = users.iter().map(|user| event(user)).collect();
    let answer = client.post(path, WRITE_KEY, &batch_body(&events)).expect("an answer");
    let retry_after = answer.header("retry-after").map(str::to_owned);
    (answer.status, answer.body, retry_after)
}

#[test]
fn a_workspace_sends_its_limit_and_one_event_more_and_is_told_when_to_come_again() {
    let node = NodeBuilder::new()
        .workspace(&Workspace::new())
        .more_settings(
            "\n[Gateway]\nenableRateLimit = true\nmaxReqSizeInKB = 1\n[RateLimit]\neventLimit = 1\nrateLimitWindow = \"1h\"\n[RateLimit.kit-workspace]\neventLimit = 10\nrateLimitWindow = \"50s\"\n",
        )
        .start();
    let mut client = Client::new(node.address());
    let limited = |answer: (u16, String, Option<String>), seconds: std::ops::RangeInclusive<u8>| {
        assert_eq!((answer.0, answer.1.as_str()), (429, "max requests limit reached\n"));
        let told: u8 = answer.2.expect("Retry-After").parse().expect("a number");
        assert!(seconds.contains(&told), "{told}");
    };
    assert_eq!(batch(&mut client, "/v1/batch", &["u"; 8]).0, 200);
    limited(batch(&mut client, "/v1/batch", &["u"; 12]), 30..=30);
    limited(batch(&mut client, "/v1/batch", &["u"; 4]), 1..=5);
    assert_eq!(batch(&mut client, "/v1/batch", &["u"; 3]).0, 200);
    // A group of an import is limited by itself; nothing is left for it.
    limited(batch(&mut client, "/v1/import", &["u"; 2]), 1..=10);
    // 429 comes before 413, and after 400.
    limited(batch(&mut client, "/v1/batch", &["u".repeat(1100).as_str(); 3]), 1..=15);
    let unidentified = client.post("/v1/batch", WRITE_KEY, r#"{"batch":[{}]}"#).expect("an answer");
    assert_eq!(unidentified.status, 400);
    assert_eq!(
        client.post("/v1/batch", WRITE_KEY, r#"{"batch":[]}"#).expect("an answer").body,
        "empty batch payload\n"
    );
    // Job runs pass, named by the header or by the first event.
    let run = r#"{"batch":[{"userId":"u","context":{"sources":{"job_run_id":"r"}}},{"userId":"u"},{"userId":"u"},{"userId":"u"}]}"#;
    assert_eq!(client.post("/v1/batch", WRITE_KEY, run).expect("an answer").status, 200);
    // What changes without a restart: nothing is limited any more.
    let settings = std::fs::read_to_string(node.settings_file()).expect("the settings");
    std::fs::write(node.settings_file(), settings.replace("enableRateLimit = true", "enableRateLimit = false"))
        .expect("the settings can be written");
    node.reload();
    wait_until("the limit is off", Duration::from_secs(10), || batch(&mut client, "/v1/batch", &["u"; 5]).0 == 200);
}

#[test]
fn events_of_suppressed_users_are_left_out_also_after_a_restart() {
    let sink = Sink::start();
    let mut node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()))
        .more_settings("\n[Gateway]\nmaxReqSizeInKB = 1\n")
        .start();
    let suppressions = "/internal/v1/suppressions";
    let long = "l".repeat(2000);
    let items = json!({"items": [
        {"workspaceId": "kit-workspace", "userId": "gone", "createdAt": "2024-01-01T00:00:00.000Z", "canceled": false},
        {"userId": " with\u{200b} blanks ", "sourceIds": []},
        {"userId": "here", "sourceIds": ["kit-source", "other"]},
        {"userId": "elsewhere", "sourceIds": ["other"]},
        {"userId": "back"},
        {"userId": "back", "canceled": true},
        {"userId": long},
    ]});
    assert_eq!(internal(&node, "POST", suppressions, "", &items.to_string()), (200, "ok".to_owned()));
    for bad in [
        "{",
        "[]",
        r#"{"items":[{}]}"#,
        r#"{"items":[{"userId":""}]}"#,
        r#"{"items":[{"userId":"u","sourceIds":[""]}]}"#,
    ] {
        assert_eq!(internal(&node, "POST", suppressions, "", bad), (400, "invalid json\n".to_owned()), "{bad}");
    }
    let mut public = Client::new(node.address());
    assert_eq!(public.get(suppressions).expect("an answer").status, 404, "not on the ingest port");

    for round in 0..2 {
        let mut client = Client::new(node.address());
        let users = ["gone", "with blanks", "here", "elsewhere", "back", "stays"];
        assert_eq!(batch(&mut client, "/v1/batch", &users).0, 200);
        assert_eq!(batch(&mut client, "/v1/import", &users).0, 200);
        assert_eq!(batch(&mut client, "/v1/batch", &["gone", "gone"]).1, "ok", "all of them");
        let body = r#"{"anonymousId":"gone","event":"e"}"#;
        assert_eq!(client.post("/v1/track", WRITE_KEY, body).expect("an answer").status, 200);
        assert_eq!(batch(&mut client, "/v1/batch", &[&long]).0, 200, "nothing is left whose size could be too large");
        assert_eq!(batch(&mut client, "/v1/batch", &[&long, "stays"]).0, 413);
        // Three of six, twice, and one that has the name for its anonymous id.
        let expected = (round + 1) * 7;
        sink.wait_for(expected, Duration::from_secs(30));
        if round == 0 {
            assert!(node.stop().success());
            node.start();
        }
    }
    let users: std::collections::BTreeSet<String> = sink.accepted().into_iter().map(|event| event.user).collect();
    assert_eq!(users.into_iter().collect::<Vec<_>>(), ["back", "elsewhere", "gone", "stays"]);
    assert_eq!(sink.count(), 14);
    assert!(sink.accepted().iter().all(|event| event.user != "gone" || event.event["userId"].is_null()));

    let tell = |query: &str| {
        let (status, body) = internal(&node, "GET", &format!("{suppressions}?{query}"), "", "");
        (status, serde_json::from_str::<Value>(&body).unwrap_or_default())
    };
    assert_eq!(
        tell("workspaceId=kit-workspace&userId=gone"),
        (200, json!({"suppressed": true, "sourceIds": ["*"], "createdAt": "2024-01-01T00:00:00.000Z"}))
    );
    assert_eq!(tell("userId=here").1["sourceIds"], json!(["kit-source", "other"]));
    assert_eq!(tell("userId=back").1, json!({"suppressed": false, "sourceIds": [], "createdAt": ""}));
    assert_eq!(tell("workspaceId=other&userId=gone").1["suppressed"], json!(false));
    assert_eq!(tell("userId=").0, 400);
}

#[test]
fn internal_batches_are_on_the_admin_socket_throttled_by_what_they_announce() {
    let sink = Sink::start();
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()))
        .more_settings("\n[Gateway]\ninternalBatchThrottleEvents = 5\ninternalBatchThrottleWindow = \"1h\"\n")
        .start();
    let message = |user: &str| {
        json!({
            "properties": {
                "requestType": "track", "routingKey": format!("<<>>{user}<<>>{user}"), "workspaceID": "kit-workspace",
                "sourceID": "kit-source", "receivedAt": "2024-01-01T01:01:01Z", "requestIP": "1.1.1.1", "userID": user,
            },
            "payload": {
                "type": "track", "event": "e", "userId": user, "messageId": format!("m-{user}"), "rudderId": "r",
                "request_ip": "1.1.1.1", "receivedAt": "2024-01-01T01:01:01.000Z", "originalTimestamp": "2024-01-01T01:01:01.000Z",
            },
        })
    };
    let items = json!({"items": [{"userId": "gone"}]}).to_string();
    assert_eq!(internal(&node, "POST", "/internal/v1/suppressions", "", &items).0, 200);
    let send = |size: &str, body: &str| internal(&node, "POST", "/internal/v1/batch", size, body);
    let good = json!([message("gone"), message("stays")]).to_string();
    assert_eq!(send("x-batch-size: 2\r\n", &good), (200, "ok".to_owned()));
    assert_eq!(send("x-batch-size: 7\r\n", "not looked at"), (429, "max requests limit reached\n".to_owned()));
    assert_eq!(send("x-batch-size: 4\r\n", &json!([message("gone")]).to_string()), (200, "ok".to_owned()));
    assert_eq!(send("x-batch-size: 1\r\n", &good).0, 429);
    for unannounced in ["", "x-batch-size: 0\r\n", "x-batch-size: many\r\n"] {
        assert_eq!(send(unannounced, "[]"), (400, "event is not a valid rudder event\n".to_owned()));
    }
    sink.wait_for(1, Duration::from_secs(30));
    assert_eq!(sink.accepted()[0].user, "stays");
    let extract = format!("authorization: Basic {}\r\n", "a2l0LXdyaXRlLWtleS0wMDAwMDAwMDAwMDA6");
    assert_eq!(internal(&node, "POST", "/internal/v1/extract", &extract, "{}"), (200, "ok".to_owned()));
    assert_eq!(internal(&node, "POST", "/internal/v1/nothing", "", "").0, 404);
    assert_eq!(Client::new(node.address()).get("/internal/v1/batch").expect("an answer").status, 404);
}

/// A control plane that serves pages of suppressed users and remembers what it was asked.
fn control_plane(pages: Vec<Value>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut pages = pages.into_iter();
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|bytes| bytes > 0) {}
            seen.lock().expect("not poisoned").push(head);
            let (status, body) = match pages.next() {
                Some(page) => ("200 OK", page.to_string()),
                None => ("500 Internal Server Error", "{}".to_owned()),
            };
            let answer =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            drop(reader.get_mut().write_all(answer.as_bytes()));
        }
    });
    (address, asked)
}

#[test]
fn the_list_of_a_control_plane_is_followed_page_by_page_and_goes_on_after_a_restart() {
    let page = |users: &[&str], token: &str| {
        let items: Vec<Value> = users
            .iter()
            .map(|user| json!({"workspaceId": "kit-workspace", "userId": user, "canceled": false, "sourceIds": []}))
            .collect();
        json!({"items": items, "token": token})
    };
    let pages = vec![page(&["a", "b"], "t1"), json!({"items": [{"userId": "c"}]}), page(&["c"], "t2")];
    let (address, asked) = control_plane(pages);
    let settings = format!(
        "WORKSPACE_TOKEN = \"tok\"\nSUPPRESS_USER_BACKEND_URL = \"http://{address}\"\n[Storage]\nallowUnsafeFs = true\nballast = \"0\"\nsoftFree = \"64MiB\"\nhardFree = \"32MiB\"\n[BackendConfig]\nconfigFromFile = true\nRegulations.pollInterval = \"200ms\"\nRegulations.pageSize = 2\n"
    );
    let mut node = NodeBuilder::new().workspace(&Workspace::new()).settings(&settings).start();
    let is_suppressed = |node: &Node, user: &str| {
        internal(node, "GET", &format!("/internal/v1/suppressions?userId={user}"), "", "").1.contains("true")
    };
    wait_until("every page is in force", Duration::from_secs(20), || is_suppressed(&node, "c"));
    assert!(is_suppressed(&node, "a") && is_suppressed(&node, "b") && !is_suppressed(&node, "d"));
    node.kill();
    let before = asked.lock().expect("not poisoned").len();
    node.start();
    wait_until("it is asked again", Duration::from_secs(20), || asked.lock().expect("not poisoned").len() > before);
    let asked = asked.lock().expect("not poisoned");
    let tokens: Vec<&str> = asked
        .iter()
        .map(|head| head.lines().next().and_then(|line| line.split_once("pageToken=")).expect("a token").1)
        .map(|rest| rest.split(' ').next().unwrap_or_default())
        .collect();
    assert_eq!(tokens[..3], ["", "t1", "t1"], "a page without a token counts for nothing");
    assert_eq!(tokens.last(), Some(&"t2"), "the token survived the kill");
    assert!(asked[0].starts_with("GET /dataplane/workspaces/kit-workspace/regulations/suppressions?pageSize=2&"));
    assert!(asked[0].contains("Basic dG9rOg=="), "{}", asked[0]);
    assert!(!node.output().contains("dG9rOg") && !node.output().contains("tok\""));
}

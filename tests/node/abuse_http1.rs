//! Hostile clients on the plain ingest port (security.md 2.1, 2.4, 3.1): what they get, and that good events go on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::kit::{Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, holds_within};

/// Basic authorisation of the kit's write key.
const AUTH: &str = "authorization: Basic a2l0LXdyaXRlLWtleS0wMDAwMDAwMDAwMDA6\r\n";
const EVENT: &str = r#"{"userId":"u","event":"e"}"#;

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address()).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    stream
}

/// Everything that comes until the node ends the connection, and how long that takes.
fn until_closed(stream: &mut TcpStream) -> (Duration, String) {
    let begun = Instant::now();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the connection is still open");
    }
    (begun.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

/// What comes back for these bytes until the connection ends.
fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = connect(node);
    drop(stream.write_all(bytes));
    until_closed(&mut stream).1
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn resident_mib(node: &Node) -> u64 {
    node.resident_bytes() >> 20
}

#[test]
fn framing_that_others_read_differently_is_refused_and_the_connection_ends() {
    let sink = Sink::start();
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).start();
    let post = |head: &str, body: &str| format!("POST /v1/track HTTP/1.1\r\nhost: x\r\n{AUTH}{head}\r\n{body}");
    let chunked = format!("{:x}\r\n{EVENT}\r\n0\r\n\r\n", EVENT.len());
    let smuggled = "0\r\n\r\nGET /version HTTP/1.1\r\nhost: x\r\n\r\n";
    let get = |more: &str| format!("GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n");
    let headers = |count: usize| "a: b\r\n".repeat(count);
    let cases: &[(&str, String, &[&str])] = &[
        ("cl-te", post("content-length: 6\r\ntransfer-encoding: chunked\r\n", smuggled), &["400"]),
        ("te-cl", post("transfer-encoding: chunked\r\ncontent-length: 6\r\n", smuggled), &["400"]),
        ("xchunked", post("transfer-encoding: xchunked\r\n", &chunked), &["400"]),
        ("chunked, identity", post("transfer-encoding: chunked, identity\r\n", &chunked), &["400"]),
        ("blank before the colon", post("transfer-encoding : chunked\r\n", &chunked), &["400"]),
        ("two codings", post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", &chunked), &["400"]),
        ("gzip, chunked", post("transfer-encoding: gzip, chunked\r\n", &chunked), &["400"]),
        ("signed length", post("content-length: +3\r\n", "{}x"), &["400"]),
        ("listed length", post("content-length: 3, 3\r\n", "{}x"), &["400"]),
        ("negative length", post("content-length: -1\r\n", ""), &["400"]),
        ("two lengths", post("content-length: 3\r\ncontent-length: 4\r\n", "{}x"), &["400"]),
        ("length of 2^64", post("content-length: 18446744073709551616\r\n", ""), &["400", "413", "431"]),
        ("length that is a lie", post("content-length: 999999999999\r\n", "{"), &["413"]),
        ("no host", "GET /health HTTP/1.1\r\n\r\n".to_owned(), &["400"]),
        ("two hosts", "GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), &["400"]),
        ("too many headers", get(&headers(101)), &["431"]),
        ("many headers", get(&headers(97)), &["200"]),
        ("too long a header", get(&format!("a: {}\r\n", "b".repeat(530_000))), &["431"]),
        ("a long header", get(&format!("a: {}\r\n", "b".repeat(400_000))), &["200"]),
        (
            "too long a target",
            format!("GET /pixel/v1/track?writeKey=k&x={} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(70_000)),
            &["414"],
        ),
        ("an upgrade", get("connection: Upgrade\r\nupgrade: websocket\r\n"), &["200"]),
        ("a tunnel", "CONNECT x:1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(), &["404", "405"]),
        (
            "a chunk extension",
            post(
                "transfer-encoding: chunked\r\n",
                &format!("{:x};{}\r\n{EVENT}\r\n0\r\n\r\n", EVENT.len(), "e".repeat(20_000)),
            ),
            &["400", "500"],
        ),
        (
            "HTTP/2 on a plain port",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_owned(),
            &["", "400", "505"],
        ),
    ];
    for (name, bytes, expected) in cases {
        let answer = raw(&node, bytes.as_bytes());
        assert!(expected.contains(&status(&answer)), "{name}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{name} is one request: {answer}");
        assert!(!answer.contains("BuildDate"), "{name} smuggles nothing");
        if status(&answer) == "431" {
            assert!(answer.ends_with("\r\n\r\n"), "{name}: no body");
        }
    }
    let good = post(&format!("connection: close\r\ncontent-length: {}\r\n", EVENT.len()), EVENT);
    assert_eq!(status(&raw(&node, good.as_bytes())), "200");
    sink.wait_for(1, Duration::from_secs(30));
    assert_eq!(sink.count(), 1, "nothing but the good event was stored");
}

#[test]
fn slow_heads_end_and_idle_connections_have_their_own_time() {
    let settings = "ReadHeaderTimeout = \"2s\"\nIdleTimeout = \"6s\"\nWriteTimeout = \"1s\"\n[Storage]\nallowUnsafeFs = true\nballast = \"0\"\nsoftFree = \"64MiB\"\nhardFree = \"32MiB\"\n[Gateway]\nmaxConnections = 300\n";
    let node = NodeBuilder::new().workspace(&Workspace::new()).settings(settings).start();
    let within = |took: Duration, least: f32, most: f32, what: &str| {
        assert!(took.as_secs_f32() >= least && took.as_secs_f32() < most, "{what}: {took:?}");
    };
    std::thread::scope(|scope| {
        for dripping in [false, true] {
            for _ in 0..100 {
                let node = &node;
                scope.spawn(move || {
                    let mut stream = connect(node);
                    let begun = Instant::now();
                    if dripping {
                        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ").expect("sent");
                        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout can be set");
                        let mut byte = [0; 1];
                        while matches!(stream.read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
                            assert!(begun.elapsed() < Duration::from_secs(20), "it may go on for ever");
                            drop(stream.write_all(b"a"));
                        }
                        assert_eq!(byte, [0], "there is no answer");
                    } else {
                        stream.write_all(b"P").expect("sent");
                        assert_eq!(until_closed(&mut stream).1, "");
                    }
                    within(begun.elapsed(), 1.5, 6.0, "a slow head");
                });
            }
        }
        scope.spawn(|| {
            let (took, answer) = until_closed(&mut connect(&node));
            within(took, 1.5, 6.0, "a silent connection");
            assert_eq!(answer, "");
        });
        scope.spawn(|| {
            let mut client = Client::new(node.address());
            for _ in 0..3 {
                assert_eq!(client.post("/v1/track", WRITE_KEY, EVENT).expect("the same connection").status, 200);
                std::thread::sleep(Duration::from_secs(3));
            }
        });
        scope.spawn(|| {
            let mut stream = connect(&node);
            stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            within(until_closed(&mut stream).0, 5.0, 12.0, "an idle connection");
        });
        scope.spawn(|| {
            // Asks and never reads: ends once nothing can be written any more for a while.
            let mut stream = connect(&node);
            stream.set_nonblocking(true).expect("a mode can be set");
            let request = b"GET /docs HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
            let ended = holds_within(
                Duration::from_secs(40),
                || matches!(stream.write(&request), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock),
            );
            assert!(ended, "an answer that nobody reads is kept for ever");
        });
    });
    assert!(!node.output().contains("WARN pintle::gateway"), "no line for each of them");
}

#[test]
fn what_is_small_on_the_wire_and_large_inside_is_refused_before_it_is_large() {
    let sink = Sink::start();
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()))
        .more_settings("\n[Gateway]\nallowReqsWithoutUserIDAndAnonymousID = true\n")
        .start();
    let mut client = Client::new(node.address());
    assert_eq!(client.post("/v1/track", WRITE_KEY, EVENT).expect("an answer").status, 200);
    let before = resident_mib(&node);

    let tiny = format!("{{\"batch\":[{}{{}}]}}", "{},".repeat(1_300_000));
    let answer = client.post("/v1/batch", WRITE_KEY, &tiny).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (413, "request size exceeds max limit\n"));
    let pixel = |client: &mut Client, more: &str| {
        let answer = client.get(&format!("/pixel/v1/track?writeKey={WRITE_KEY}&anonymousId=a&event=e&{more}"));
        assert_eq!(answer.expect("an answer").status, 200);
    };
    pixel(&mut client, "a.999999999=1");
    let begun = Instant::now();
    pixel(&mut client, &format!("a{}=1", ".a".repeat(20_000)));
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(resident_mib(&node) < before + 64, "{before} MiB became {}", resident_mib(&node));

    let auth = AUTH.trim_start_matches("authorization: ").trim_end().to_owned();
    let with = |client: &mut Client, path: &str, name: &str, value: String, body: &str| {
        let headers = [("authorization", auth.clone()), (name, value)];
        let answer = client.request("POST", path, &headers, Some(body.as_bytes())).expect("an answer");
        (answer.status, answer.body)
    };
    let forwarded =
        with(&mut client, "/v1/track", "x-forwarded-for", "1".repeat(300_000), r#"{"userId":"far","event":"e"}"#);
    assert_eq!(forwarded.0, 200);
    let header =
        with(&mut client, "/v1/track", "anonymousid", "h".repeat(400_000), r#"{"userId":"header","event":"e"}"#);
    assert_eq!(header.0, 200);
    let long = format!(r#"{{"userId":"{}","event":"e"}}"#, "u".repeat(1_000_000));
    assert_eq!(client.post("/v1/track", WRITE_KEY, &long).expect("an answer").status, 200);
    sink.wait_for(6, Duration::from_secs(30));
    let events = sink.accepted();
    let of = |user: &str| &events.iter().find(|event| event.user == user).expect("it arrived").event;
    assert_eq!(of("far")["request_ip"], "127.0.0.1");
    assert_eq!(of(&"u".repeat(1_000_000))["event"], "e", "the event keeps its whole id");
    let with_index = events.iter().find(|event| !event.event["a"].is_null()).expect("it arrived");
    assert_eq!(with_index.event["a"]["999999999"], "1");
    assert!(!node.output().contains("hhhh"), "no header in the log");
}

#[test]
fn unknown_keys_cost_an_answer_and_nothing_else() {
    let node = NodeBuilder::new().workspace(&Workspace::new()).start();
    let mut client = Client::new(node.address());
    let huge = [("authorization", format!("Basic {}", "YTph".repeat(33_000)))];
    let answer = client.request("POST", "/v1/track", &huge, Some(EVENT.as_bytes())).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (401, "failed to read writekey from header\n"));

    assert_eq!(client.post("/v1/track", "unknown", EVENT).expect("an answer").status, 401);
    let (before, lines) = (resident_mib(&node), node.output().lines().count());
    let begun = Instant::now();
    for number in 0..10_000 {
        let answer = client.post("/v1/track", &format!("unknown-{number}"), EVENT).expect("an answer");
        assert_eq!(answer.status, 401);
    }
    let allowed = 5 + usize::try_from(begun.elapsed().as_secs() / 10).expect("a short test");
    assert!(node.output().lines().count() - lines <= allowed, "{}", node.output());
    assert!(resident_mib(&node) <= before + 8, "{before} MiB became {}", resident_mib(&node));

    let origin = [("authorization", "Basic eDo=".to_owned()), ("origin", "https://evil.test".to_owned())];
    let answer = client.request("POST", "/v1/track", &origin, Some(EVENT.as_bytes())).expect("an answer");
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://evil.test"));
    assert_eq!(answer.header("set-cookie"), None);

    // The answer to a large body that nobody reads gets through, although the client writes everything first.
    for _ in 0..20 {
        let body = "x".repeat(3_000_000);
        let request = format!(
            "POST /v1/batch HTTP/1.1\r\nhost: x\r\nauthorization: Basic eDo=\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        assert!(raw(&node, request.as_bytes()).ends_with("invalid write key\n"));
    }
}

#[test]
fn connections_have_a_limit_and_idle_ones_make_room() {
    let node =
        NodeBuilder::new().workspace(&Workspace::new()).more_settings("\n[Gateway]\nmaxConnections = 8\n").start();
    let mut idle: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = connect(&node);
            stream.write_all(b"GET /robots.txt HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).expect("an answer");
            stream
        })
        .collect();
    for _ in 0..4 {
        assert_eq!(Client::new(node.address()).post("/v1/track", WRITE_KEY, EVENT).expect("an answer").status, 200);
    }
    until_closed(&mut idle[0]);
}

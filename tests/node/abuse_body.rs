//! Hostile bodies: slow, in crumbs, compressed to burst, too many at once. Each has its answer, and afterwards the
//! node is as before: alive, quick for others, and not larger.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::kit::{Client, Node, NodeBuilder, WRITE_KEY, Workspace, basic_auth};

const MIB: u64 = 1 << 20;
const UNREADABLE: (u16, &str) = (500, "failed to read body from request\n");
const TOO_LARGE: (u16, &str) = (413, "request size exceeds max limit\n");

fn node(settings: &str) -> Node {
    let workspace = Workspace::new().webhook_source("wk-other", "webhook", serde_json::json!({}));
    NodeBuilder::new().workspace(&workspace).more_settings(settings).start()
}

/// What must hold after every case.
fn is_unharmed(node: &mut Node, before: u64, case: &str) {
    let begun = Instant::now();
    let good = Client::new(node.address()).post("/v1/track", "wk-other", r#"{"userId":"u"}"#).expect("an answer");
    assert_eq!(good.status, 200, "{case}: {}", good.body);
    assert!(begun.elapsed() < Duration::from_secs(2), "{case}: another source waited {:?}", begun.elapsed());
    assert!(node.is_running(), "{case}");
    let now = node.resident_bytes();
    assert!(now < before + 64 * MIB, "{case}: {before} bytes grew to {now}");
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).expect("memory");
    encoder.finish().expect("memory")
}

fn head(path: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n{more}\r\n", basic_auth(WRITE_KEY))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
    stream
}

/// The rest of a connection as status, whole text, and body.
fn rest(stream: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    // A reset behind the answer is an end too.
    drop(stream.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (text.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), text)
}

fn body_of(text: &str) -> &str {
    text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn compressed_bodies_are_unpacked_within_bounds() {
    let mut node = node("");
    let event = br#"{"userId":"u","event":"E"}"#;
    let whole = gzip(event);
    let bomb = gzip(&vec![b' '; 512 << 20]);
    let truncated = whole[..whole.len() - 8].to_vec();
    let members = [gzip(b"").repeat(100_000), whole.clone()].concat();
    let three = [&event[..5], &event[5..12], &event[12..]].map(gzip).concat();
    for (case, path, wire, expected) in [
        ("a bomb", "/v1/batch", &bomb, TOO_LARGE),
        ("a bomb to a route without a size limit", "/v1/audiencelist", &bomb, TOO_LARGE),
        ("a bomb to a webhook", "/v1/webhook?writeKey=wk-other", &bomb, TOO_LARGE),
        ("many members", "/v1/track", &members, UNREADABLE),
        ("three members", "/v1/track", &three, (200, "ok")),
        ("a truncated end", "/v1/track", &truncated, UNREADABLE),
        ("no gzip", "/v1/track", &event.to_vec(), UNREADABLE),
        ("a whole body", "/v1/track", &whole, (200, "ok")),
    ] {
        let before = node.resident_bytes();
        let headers = [("authorization", basic_auth(WRITE_KEY)), ("content-encoding", "gzip".to_owned())];
        let answer = Client::new(node.address()).request("POST", path, &headers, Some(wire)).expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), expected, "{case}");
        is_unharmed(&mut node, before, case);
    }
}

#[test]
fn a_body_in_crumbs_costs_no_more_memory_than_its_bytes() {
    let mut node = node("");
    let before = node.resident_bytes();
    let event = format!(r#"{{"userId":"u","properties":{{"s":"{}"}}}}"#, "x".repeat(1_000_000));
    let mut wire = head("/v1/track", "Transfer-Encoding: chunked\r\nConnection: close\r\n").into_bytes();
    for byte in event.bytes() {
        wire.extend_from_slice(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']);
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let mut stream = connect(node.address());
    stream.write_all(&wire).expect("the node reads");
    let (status, text) = rest(&mut stream);
    assert_eq!((status, body_of(&text)), (200, "ok"));
    is_unharmed(&mut node, before, "crumbs");
}

#[test]
fn a_body_that_stalls_or_drips_is_given_up_as_the_node_s_own_trouble() {
    let mut node = node("\n[Gateway]\nbodyIdleTimeout = \"4s\"\n");
    let before = node.resident_bytes();
    let address = node.address();
    let stall = std::thread::spawn(move || {
        let begun = Instant::now();
        let mut stream = connect(address);
        stream.write_all((head("/v1/track", "Content-Length: 200\r\n") + r#"{"userId""#).as_bytes()).expect("sent");
        (rest(&mut stream), begun.elapsed())
    });
    let begun = Instant::now();
    let mut stream = connect(address);
    stream.write_all(head("/v1/track", "Content-Length: 200\r\n").as_bytes()).expect("sent");
    // One byte every 2 s never stalls, but is too slow once it is judged. The wait is part of what is tested.
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout can be set");
    let mut answer = [0; 4096];
    let got = loop {
        drop(stream.write_all(b" "));
        match stream.read(&mut answer) {
            Ok(got) => break got,
            Err(_) => assert!(begun.elapsed() < Duration::from_secs(45), "the drip is never given up"),
        }
    };
    let text = String::from_utf8_lossy(&answer[..got]).into_owned();
    assert_eq!((text.get(9..12), body_of(&text)), (Some("500"), UNREADABLE.1), "{text}");
    assert!(begun.elapsed() > Duration::from_secs(25), "{:?}", begun.elapsed());

    let ((status, text), took) = stall.join().expect("it ends");
    assert_eq!((status, body_of(&text)), UNREADABLE);
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(8), "{took:?}");
    is_unharmed(&mut node, before, "slow bodies");
}

#[test]
fn many_half_read_bodies_never_wait_for_each_other() {
    let mut node = node("\n[Gateway]\nmaxInFlightBytes = \"4MiB\"\nmaxExpandedBytes = \"4MiB\"\n");
    let before = node.resident_bytes();
    let address = node.address();
    let event = format!(r#"{{"userId":"u","s":"{}"}}"#, "x".repeat(3 << 20));
    let begun = Instant::now();
    let together = std::sync::Barrier::new(64);
    let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream = connect(address);
                    let head = head("/v1/track", &format!("Content-Length: {}\r\nConnection: close\r\n", event.len()));
                    let (first, second) = event.as_bytes().split_at(1 << 20);
                    // Who is refused early may find its connection shut.
                    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(first)));
                    together.wait();
                    drop(stream.write_all(second));
                    rest(&mut stream)
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("it ends")).collect()
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for (status, text) in &answers {
        let refused = *status == 503 && body_of(text) == "service unavailable\n";
        assert!(*status == 200 || refused || text.is_empty(), "{text}");
        if refused {
            let lower = text.to_ascii_lowercase();
            let wait = lower.split("retry-after: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            assert!(
                wait.and_then(|wait| wait.parse().ok()).is_some_and(|wait: u32| (1..=30).contains(&wait)),
                "{text}"
            );
        }
    }
    let told = answers.iter().filter(|(status, _)| *status != 0).count();
    assert!(told > 50, "an early answer reaches its client: {told} of 64");
    // Whether one of them is served is chance: four of them may hold all of the room and each be refused the rest.
    let mut stream = connect(address);
    let alone = head("/v1/track", &format!("Content-Length: {}\r\nConnection: close\r\n", event.len()));
    stream.write_all(alone.as_bytes()).and_then(|()| stream.write_all(event.as_bytes())).expect("the node reads");
    let (status, text) = rest(&mut stream);
    assert_eq!((status, body_of(&text)), (200, "ok"), "once they are gone there is room");
    is_unharmed(&mut node, before, "half-read bodies");

    // What is only announced takes nothing.
    let waiting: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = connect(address);
            stream.write_all((head("/v1/track", "Content-Length: 3000000\r\n") + "{").as_bytes()).expect("sent");
            stream
        })
        .collect();
    is_unharmed(&mut node, before, "announced bodies");
    drop(waiting);
}

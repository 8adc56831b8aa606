//! Any bytes on the port: a clear answer or a closed connection, nothing stored, and the node goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, track};

#[test]
fn any_bytes_on_the_port_are_answered_clearly_and_nothing_is_stored() {
    let sink = Sink::start();
    let mut node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).start();

    let raw: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0\0\0\0\r\n\r\n",
        b"POST /v1/track HTTP/9.9\r\n\r\n",
        b"POST /v1/track HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/track HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: \xff\xfe\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for bytes in raw {
        let mut connection = TcpStream::connect(node.address()).expect("the port is open");
        connection.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout can be set");
        drop(connection.write_all(bytes));
        drop(connection.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(connection.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split_ascii_whitespace().nth(1).unwrap_or("none");
        // A GET of the root with an odd header is a fine request.
        assert!(matches!(status, "none" | "200") || status.starts_with('4') || status == "505", "{bytes:?}: {answer}");
    }

    let mut client = Client::new(node.address());
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"text\"",
        "{}",
        "{\"batch\": 7}",
        "{\"batch\": []}",
        "{\"batch\": [7]}",
        "\u{0}",
    ];
    for body in bodies {
        let answer = client.post("/v1/batch", WRITE_KEY, body).expect("an answer");
        assert!((400..500).contains(&answer.status), "{body:?}: {} {}", answer.status, answer.body);
        assert!(!answer.body.trim().is_empty(), "{body:?} is answered with a reason");
    }
    let deep = format!("{{\"batch\":[{}1{}]}}", "[".repeat(200_000), "]".repeat(200_000));
    let answer = client.post("/v1/batch", WRITE_KEY, &deep).expect("an answer");
    assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.body);
    let unknown_key = client.post("/v1/batch", "no-such-key", &batch_body(&[track("u", 1)])).expect("an answer");
    assert_eq!(unknown_key.status, 401);
    assert_eq!(unknown_key.body, "invalid write key\n");

    let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&[track("good", 1)])).expect("an answer");
    assert_eq!(answer.status, 200);
    sink.wait_for(1, Duration::from_secs(30));
    assert_eq!(sink.accepted()[0].message_id, "good-1", "nothing but the good event was stored");
    assert_eq!(client.get("/health").expect("an answer").status, 200);
    assert!(node.is_running());
}

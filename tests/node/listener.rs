//! How the ingest port is reached: TLS, HTTP/2, a unix socket, a socket of the service manager, proxies. Every form has
//! the limits of the plain one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Certificate, Version};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::kit::{Client, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, pintle, wait_until};

const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
const EVENT: &str = r#"{"userId":"u","event":"e"}"#;
/// Basic authorisation of the kit's write key.
const AUTH: &str = "authorization: Basic a2l0LXdyaXRlLWtleS0wMDAwMDAwMDAwMDA6\r\n";

/// Puts a pair in place as a renewal does: both files written beside, then renamed.
fn install(pair: &str, folder: &Path) {
    for (extension, name) in [("pem", "server.pem"), ("key", "server.key")] {
        let beside = folder.join(format!("{name}.new"));
        std::fs::copy(format!("{TLS}/{pair}.{extension}"), &beside).expect("a file can be copied");
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).expect("a mode can be set");
        std::fs::rename(&beside, folder.join(name)).expect("a file can be renamed");
    }
}

fn tls_settings(folder: &Path, more: &str) -> String {
    let folder = folder.display();
    format!(
        "\n[Gateway]\nhttp2 = true\ntls.certFile = \"{folder}/server.pem\"\ntls.keyFile = \"{folder}/server.key\"\n{more}\n"
    )
}

fn client(http1_only: bool) -> reqwest::Client {
    let authority = Certificate::from_pem(&std::fs::read(format!("{TLS}/ca.pem")).expect("a fixture")).expect("PEM");
    let builder = reqwest::Client::builder().tls_certs_only([authority]).no_proxy();
    if http1_only { builder.http1_only() } else { builder }.build().expect("a client")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn post(client: &reqwest::Client, node: &Node, body: String) -> (Version, u16, String) {
    let url = format!("https://{}/v1/track", node.address());
    let answer = client.post(url).basic_auth(WRITE_KEY, Some("")).body(body).send().await.expect("an answer");
    (answer.version(), answer.status().as_u16(), answer.text().await.expect("a text"))
}

/// A TLS connection that bytes can be written on, with these protocols offered.
fn raw_tls(node: &Node, alpn: &[&[u8]]) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(format!("{TLS}/ca.pem")).expect("a fixture")).expect("an authority");
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let connection =
        ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").expect("a name")).expect("a session");
    StreamOwned::new(connection, connect(node))
}

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address()).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    stream
}

/// How long the node lets a connection be, and what it says before it ends it.
fn until_closed(stream: &mut impl Read) -> (Duration, String) {
    let begun = Instant::now();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut), "still open");
    }
    (begun.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

fn served_certificate(node: &Node) -> Vec<u8> {
    let mut stream = raw_tls(node, &[b"http/1.1"]);
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    assert!(until_closed(&mut stream).1.starts_with("HTTP/1.1 200"));
    stream.conn.peer_certificates().expect("a certificate")[0].to_vec()
}

#[test]
fn tls_serves_both_protocols_and_takes_a_renewed_certificate_without_a_restart() {
    let sink = Sink::start();
    let files = tempfile::tempdir().expect("a folder");
    install("first", files.path());
    let node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()))
        .more_settings(&tls_settings(files.path(), ""))
        .start();

    let runtime = runtime();
    let (old, new) = (client(true), client(false));
    runtime.block_on(async {
        assert_eq!(post(&old, &node, EVENT.to_owned()).await, (Version::HTTP_11, 200, "ok".to_owned()));
        let many = (0..250).map(|n| post(&new, &node, format!(r#"{{"userId":"u{n}","event":"e"}}"#)));
        for answer in futures_util::future::join_all(many).await {
            assert_eq!(answer, (Version::HTTP_2, 200, "ok".to_owned()));
        }
        let refused = post(&new, &node, "[]".to_owned()).await;
        assert_eq!((refused.1, refused.2.as_str()), (400, "event is not a valid rudder event\n"));
        // Too large to be read: the stream ends, the connection goes on.
        let large = post(&new, &node, "x".repeat(17_000_000)).await;
        assert_eq!((large.1, large.2.as_str()), (413, "request size exceeds max limit\n"));
        assert_eq!(post(&new, &node, EVENT.to_owned()).await.1, 200);
    });
    sink.wait_for(252, Duration::from_secs(30));

    let mut plain = Client::new(node.address());
    assert!(plain.get("/health").is_err(), "plain HTTP is not answered");
    let first = served_certificate(&node);
    install("second", files.path());
    wait_until("the renewed certificate is served", Duration::from_secs(20), || served_certificate(&node) != first);
    let second = served_certificate(&node);
    std::fs::write(files.path().join("server.pem"), "no certificate").expect("a file can be written");
    node.wait_for_output("the old one stays in force", Duration::from_secs(20));
    assert_eq!(served_certificate(&node), second);
    runtime.block_on(async { assert_eq!(post(&client(false), &node, EVENT.to_owned()).await.1, 200) });
    node.reload();
    let socket = node.admin_socket();
    let sent = pintle(&["send".as_ref(), "--admin-socket".as_ref(), socket.as_os_str()]);
    assert!(sent.status.success(), "a test event goes through TLS too: {sent:?}");
}

#[test]
fn slow_and_broken_clients_end_on_tls_and_http2_as_on_plain_connections() {
    let files = tempfile::tempdir().expect("a folder");
    install("first", files.path());
    let limits = "tls.handshakeTimeout = \"2s\"\nbodyIdleTimeout = \"1s\"\n";
    let top = "ReadHeaderTimeout = \"2s\"\nIdleTimeout = \"3s\"\n";
    let node = NodeBuilder::new()
        .workspace(&Workspace::new())
        .settings(&format!(
            "{top}[Storage]\nallowUnsafeFs = true\nballast = \"0\"\nsoftFree = \"64MiB\"\nhardFree = \"32MiB\"\n{}",
            tls_settings(files.path(), limits)
        ))
        .start();
    let within = |took: Duration, least: u64, most: u64, what: &str| {
        assert!(took >= Duration::from_secs(least) && took < Duration::from_secs(most), "{what}: {took:?}");
    };

    std::thread::scope(|scope| {
        scope.spawn(|| within(until_closed(&mut connect(&node)).0, 1, 5, "a silent handshake"));
        scope.spawn(|| {
            let mut stream = connect(&node);
            stream.write_all(b"\x16\x03\x01\x02").expect("sent");
            within(until_closed(&mut stream).0, 1, 5, "half a handshake");
        });
        scope.spawn(|| {
            let mut stream = connect(&node);
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            let (took, answer) = until_closed(&mut stream);
            within(took, 0, 2, "plain HTTP");
            assert!(!answer.contains("HTTP"), "{answer}");
        });
        scope.spawn(|| {
            let mut stream = raw_tls(&node, &[b"http/1.1"]);
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\na: ").expect("sent");
            let (took, answer) = until_closed(&mut stream);
            within(took, 1, 5, "half a head");
            assert_eq!(answer, "");
        });
        scope.spawn(|| {
            let mut stream = raw_tls(&node, &[b"http/1.1"]);
            stream.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
            within(until_closed(&mut stream).0, 2, 7, "an idle connection");
        });
        scope.spawn(|| {
            let mut stream = raw_tls(&node, &[b"http/1.1"]);
            let head = format!("POST /v1/track HTTP/1.1\r\nhost: x\r\n{AUTH}content-length: 200\r\n\r\n{{");
            stream.write_all(head.as_bytes()).expect("sent");
            let (took, answer) = until_closed(&mut stream);
            within(took, 1, 6, "half a body");
            assert!(answer.ends_with("failed to read body from request\n"), "{answer}");
        });
        scope.spawn(|| {
            let mut stream = raw_tls(&node, &[b"h2"]);
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
            within(until_closed(&mut stream).0, 1, 5, "HTTP/2 without a request");
        });
        scope.spawn(|| {
            let mut stream = raw_tls(&node, &[b"h2"]);
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
            // A thousand streams that are opened and reset at once.
            let flood = (0..1000_u32).flat_map(|n| {
                let stream = (2 * n + 1).to_be_bytes();
                let head = [&[0, 0, 3, 1, 5], &stream[..], &[0x82, 0x84, 0x87]].concat();
                [head, [&[0, 0, 4, 3, 0], &stream[..], &[0, 0, 0, 8]].concat()].concat()
            });
            drop(stream.write_all(&flood.collect::<Vec<u8>>()));
            within(until_closed(&mut stream).0, 0, 8, "a flood of resets");
        });
    });
    runtime().block_on(async { assert_eq!(post(&client(false), &node, EVENT.to_owned()).await.1, 200) });
}

#[test]
fn certificates_that_cannot_be_used_stop_the_start_with_the_reason() {
    let files = tempfile::tempdir().expect("a folder");
    install("first", files.path());
    let key = files.path().join("server.key");
    let refused = |expected: &str| {
        let mut node =
            NodeBuilder::new().workspace(&Workspace::new()).more_settings(&tls_settings(files.path(), "")).prepare();
        let status = node.try_start().expect_err("it does not start");
        assert_eq!(status.code(), Some(78), "{}", node.output());
        assert!(node.output().contains(expected), "{}", node.output());
    };
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("a mode can be set");
    refused("other users may read the private key (mode 0644)");
    std::fs::copy(format!("{TLS}/second.key"), &key).expect("a file can be copied");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("a mode can be set");
    refused("does not go with the certificate");
    std::fs::remove_file(&key).expect("a file can be removed");
    refused("cannot be read");
}

#[test]
fn a_unix_socket_takes_events_beside_tcp_and_goes_with_the_node() {
    let sink = Sink::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ingest.sock");
    let mut node = NodeBuilder::new()
        .workspace(&Workspace::new().webhook("hook", &sink.url()))
        .more_settings(&format!(
            "\n[Gateway]\nsocket = \"{}\"\nmaxConnectionsPerIP = 1\ntrustedProxies = [\"10.0.0.0/8\"]\n",
            path.display()
        ))
        .start();
    let found = std::fs::metadata(&path).expect("the socket is there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o660);

    let exchange = |stream: &mut UnixStream, user: &str, forwarded: &str| {
        let body = format!(r#"{{"userId":"{user}","event":"e"}}"#);
        let head = format!(
            "POST /v1/track HTTP/1.1\r\nhost: x\r\n{AUTH}{forwarded}connection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).expect("sent");
        assert!(until_closed(stream).1.ends_with("\r\n\r\nok"));
    };
    // Not one peer, whatever the limit of one peer is.
    let mut first = UnixStream::connect(&path).expect("the socket answers");
    let mut second = UnixStream::connect(&path).expect("the socket answers");
    exchange(&mut second, "proxied", "x-forwarded-for: 203.0.113.9, 10.0.0.1\r\n");
    exchange(&mut first, "local", "");
    // Loopback is not in the list, so its word does not count.
    let mut tcp = Client::new(node.address());
    let headers = [
        ("authorization", AUTH.trim_start_matches("authorization: ").trim_end().to_owned()),
        ("x-forwarded-for", "203.0.113.9".to_owned()),
    ];
    let body = r#"{"userId":"unbelieved","event":"e"}"#;
    assert_eq!(tcp.request("POST", "/v1/track", &headers, Some(body.as_bytes())).expect("an answer").status, 200);
    sink.wait_for(3, Duration::from_secs(30));
    for event in sink.accepted() {
        let ip = event.event["request_ip"].as_str().unwrap_or_default();
        assert_eq!(ip, if event.user == "proxied" { "203.0.113.9" } else { "127.0.0.1" }, "{}", event.user);
    }
    node.stop();
    assert!(!path.exists(), "the socket went with the node");
}

#[test]
fn a_socket_of_the_service_manager_stays_open_through_a_restart() {
    let sink = Sink::start();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("an address");
    let mut node =
        NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).passed_socket(socket).start();
    assert_eq!(node.address(), address, "the passed socket is used instead of Gateway.listen");
    assert_eq!(Client::new(address).post("/v1/track", WRITE_KEY, EVENT).expect("an answer").status, 200);
    assert!(node.stop().success());
    // Nobody is there, and the connection waits for the next node.
    let mut waiting = TcpStream::connect(address).expect("the port is open");
    waiting.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("sent");
    node.start();
    assert!(until_closed(&mut waiting).1.starts_with("HTTP/1.1 200"));
    sink.wait_for(1, Duration::from_secs(30));
}

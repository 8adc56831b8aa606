//! The whole gateway over real sockets and a real store.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::backend_config::{BackendConfig, Snapshot, Source, Workspace};
use crate::clock::Clock;
use crate::gateway::{About, Deps, Inherited, InternalApi, bind, serve};
use crate::jobsdb::{JobsDb, Limits, Queue, Select};
use crate::settings::{Live, Settings};
use crate::storage::Storage;
use crate::telemetry::LiveTaps;
use std::sync::Arc;

const GOOD: &str = "Authorization: Basic d2stanM6\r\n";

struct Node {
    jobs: JobsDb,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

async fn node(adjust: impl FnOnce(&mut Settings)) -> Node {
    let mut settings = Settings::defaults();
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    settings.storage.soft_free = Some(1);
    settings.gateway.listen = vec!["127.0.0.1:0".parse().unwrap()];
    adjust(&mut settings);
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let storage = Storage::open(folder.path(), &settings.storage, &clock).unwrap();
    let jobs = JobsDb::open(storage, &settings, clock.clone()).unwrap();
    let source = |id: &str, enabled| {
        let source = Source {
            id: id.to_owned(),
            write_key: format!("wk-{id}"),
            enabled,
            workspace_id: "ws".to_owned(),
            ..Source::default()
        };
        Arc::new(source)
    };
    let workspace = Workspace {
        id: "ws".to_owned(),
        sources: vec![source("js", true), source("off", false)],
        ..Workspace::default()
    };
    let config = BackendConfig::fixed(Snapshot::new(vec![workspace], 0));
    let listeners = bind(&settings, &Inherited::default()).await.unwrap();
    let address = listeners.addresses()[0];
    let about = About {
        version: "0.0.0".to_owned(),
        commit: String::new(),
        build_date: String::new(),
        built_by: String::new(),
        routes_events: true,
        config_from_file: true,
    };
    let deps = Deps {
        jobs: jobs.clone(),
        config: config.subscribe(),
        settings: Live::new(settings),
        clock,
        live: LiveTaps::default(),
        about,
        internal: InternalApi::default(),
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let served = tokio::spawn(async move {
        serve(listeners, deps, stopped).await.unwrap();
        drop(config);
    });
    Node { jobs, address, stop, served, _folder: folder }
}

impl Node {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes on a new connection and returns everything that comes back until it ends.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The node may refuse the rest while it is still being written.
        stream.write_all(request).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.unwrap().ok();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn post(&self, path: &str, headers: &str, body: &str) -> String {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.raw(request.as_bytes()).await
    }

    async fn stored(&self) -> Vec<Value> {
        let limits = Limits { jobs: 100_000, events: 0, bytes: 0 };
        let page = self.jobs.fetch_async(Queue::Gw, &Select::default(), limits).await.unwrap();
        page.jobs.iter().map(|job| serde_json::from_slice(&job.payload).unwrap()).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.served).await.unwrap().unwrap();
    }
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_event_is_in_the_queue() {
    let node = node(|_| ()).await;
    let answer = node.post("/v1/track", GOOD, r#"{"userId":"u1","event":"E"}"#).await;
    assert_eq!((status(&answer), body(&answer)), ("200", "ok"));
    let lower = answer.to_ascii_lowercase();
    for header in ["content-type: text/plain; charset=utf-8\r\n", "content-length: 2\r\n", "vary: origin\r\n"] {
        assert!(lower.contains(header), "{answer}");
    }
    let stored = node.stored().await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0]["batch"][0]["event"], "E");
    assert_eq!(stored[0]["requestIP"], "127.0.0.1");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_their_text_and_headers() {
    let node = node(|_| ()).await;
    let good = r#"{"userId":"u"}"#;
    for (path, headers, text, expected) in [
        ("/v1/track", "", good, ("401", "failed to read writekey from header\n")),
        (
            "/v1/track",
            "Authorization: Basic YmFkOg==\r\nOrigin: https://shop.example\r\n",
            good,
            ("401", "invalid write key\n"),
        ),
        ("/v1/batch", "Authorization: Basic d2stb2ZmOg==\r\n", "", ("404", "source is disabled\n")),
        ("/v1/track", GOOD, "nope", ("400", "invalid json\n")),
        ("/v1/track/", GOOD, good, ("404", "404 page not found\n")),
        ("/health", GOOD, "", ("405", "")),
        ("/beacon/v1/batch", GOOD, good, ("401", "failed to read writekey from query params\n")),
        (
            "/v1/batch",
            "Authorization: Basic d2stanM6\r\nContent-Encoding: gzip\r\n",
            "{}",
            ("500", "failed to read body from request\n"),
        ),
    ] {
        let answer = node.post(path, headers, text).await;
        assert_eq!((status(&answer), body(&answer)), expected, "{path} {text}");
        let lower = answer.to_ascii_lowercase();
        if !expected.1.is_empty() {
            assert!(lower.contains("x-content-type-options: nosniff\r\n"), "{answer}");
        }
        assert_eq!(lower.contains("access-control-allow-origin: https://shop.example\r\n"), headers.contains("Origin"));
    }
    assert!(node.stored().await.is_empty());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_kept_after_answers_of_any_kind() {
    let node = node(|_| ()).await;
    let mut stream = node.connect().await;
    let request = |key: &str, body: &str| {
        format!(
            "POST /v1/track HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {key}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    for (key, text, expected) in [
        ("d2stanM6", r#"{"userId":"u"}"#, "200"),
        ("YmFkOg==", r#"{"userId":"u"}"#, "401"),
        ("d2stanM6", "nope", "400"),
        ("d2stanM6", r#"{"userId":"u"}"#, "200"),
    ] {
        stream.write_all(request(key, text).as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let got = stream.read(&mut answer).await.unwrap();
        assert_eq!(status(std::str::from_utf8(&answer[..got]).unwrap()), expected);
    }
    assert_eq!(node.stored().await.len(), 2);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_refused_and_their_connection_ends() {
    let node = node(|_| ()).await;
    let chunked = "1\r\n{\r\n0\r\n\r\n";
    let post = format!("POST /v1/track HTTP/1.1\r\nHost: x\r\n{GOOD}");
    let cases = [
        ("GET /health HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), "400"),
        (format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}"), "400"),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n{chunked}"), "400"),
        (format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n{chunked}"), "400"),
        (format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n{chunked}"), "400"),
        (format!("{post}Content-Length: +3\r\n\r\n{{}}x"), "400"),
        (format!("{post}Content-Length: 3\r\nContent-Length: 4\r\n\r\n{{}}xx"), "400"),
        (format!("{post}Content-Length: 999999999999\r\n\r\n{{"), "413"),
        (format!("GET /health HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(530_000)), "431"),
        (format!("GET /health HTTP/1.1\r\nHost: x\r\nA: {}\r\nConnection: close\r\n\r\n", "a".repeat(400_000)), "200"),
        (
            format!(
                "GET /health HTTP/1.1\r\nHost: x\r\n{}\r\n",
                (0..100).map(|n| format!("A{n}: b\r\n")).collect::<Vec<_>>().concat()
            ),
            "431",
        ),
        (format!("GET /pixel/v1/track?x={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(70_000)), "414"),
    ];
    for (request, expected) in cases {
        let answer = node.raw(request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{}", &request[..request.len().min(200)]);
    }
    let smuggled = format!(
        "{post}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    );
    let answer = node.raw(smuggled.as_bytes()).await;
    assert_eq!((status(&answer), answer.matches("HTTP/1.1").count()), ("400", 1), "{answer}");
    assert!(node.stored().await.is_empty());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_reaches_a_client_that_writes_everything_first() {
    let node = node(|_| ()).await;
    let text = "a".repeat(3_000_000);
    for _ in 0..5 {
        let answer = node.post("/v1/batch", "Authorization: Basic YmFkOg==\r\n", &text).await;
        assert_eq!((status(&answer), body(&answer)), ("401", "invalid write key\n"));
        assert!(answer.to_ascii_lowercase().contains("connection: close\r\n"));
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_idle_connections_have_different_clocks() {
    let node = node(|settings| {
        settings.gateway.read_header_timeout = Duration::from_millis(200);
        settings.gateway.idle_timeout = Duration::from_secs(1);
        settings.gateway.body_idle_timeout = Duration::from_millis(200);
    })
    .await;
    let until_closed = async |sent: &str| {
        let mut stream = node.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let started = std::time::Instant::now();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap().ok();
        (started.elapsed(), String::from_utf8(answer).unwrap())
    };
    for silent in ["", "P", "GET /health HTTP/1.1\r\nHost: x\r\nA: "] {
        let (time, answer) = until_closed(silent).await;
        assert!(time >= Duration::from_millis(150) && time < Duration::from_millis(900), "{silent:?} {time:?}");
        assert_eq!(answer, "");
    }
    let (time, answer) = until_closed("GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(time >= Duration::from_millis(900), "{time:?}");
    assert_eq!(status(&answer), "200");
    let (_, answer) =
        until_closed(&format!("POST /v1/track HTTP/1.1\r\nHost: x\r\n{GOOD}Content-Length: 200\r\n\r\n{{")).await;
    assert_eq!((status(&answer), body(&answer)), ("500", "failed to read body from request\n"));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_the_connection_that_is_idle_longest_ends() {
    let node = node(|settings| settings.gateway.max_connections = Some(2)).await;
    let mut idle = Vec::new();
    let mut answer = [0; 4096];
    for _ in 0..2 {
        let mut stream = node.connect().await;
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut answer).await.unwrap() > 0);
        idle.push(stream);
    }
    let third = node.raw(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&third), "200");
    assert_eq!(idle[0].read(&mut answer).await.unwrap(), 0, "the oldest was closed");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_chunks_are_gathered_and_imports_store_in_part() {
    let node = node(|_| ()).await;
    let event = format!(r#"{{"userId":"u","properties":{{"s":"{}"}}}}"#, "x".repeat(20_000));
    let chunks = event.chars().map(|c| format!("1\r\n{c}\r\n")).collect::<Vec<_>>().concat();
    let answer = node
        .raw(format!("POST /v1/track HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{GOOD}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").as_bytes())
        .await;
    assert_eq!(status(&answer), "200");
    let answer = node.post("/v1/import", GOOD, r#"{"batch":[{"userId":"u1"},{"type":"x"}]}"#).await;
    assert_eq!((status(&answer), body(&answer)), ("400", "request neither has anonymousId nor userId\n"));
    assert_eq!(node.stored().await.len(), 2);
    assert_eq!(node.post("/v1/import", GOOD, r#"{"batch":[]}"#).await.get(9..12), Some("200"));
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_of_one_sender_are_stored_in_order() {
    let node = node(|_| ()).await;
    // Pipelined on one connection: each is answered before the next is looked at, so this is the least of it.
    let request = |number: i32| {
        let text = json!({"userId": "u", "n": number}).to_string();
        let length = text.len();
        format!("POST /v1/track HTTP/1.1\r\nHost: x\r\nAnonymousId: a\r\n{GOOD}Content-Length: {length}\r\n\r\n{text}")
    };
    let requests = (0..200).map(request).collect::<Vec<_>>().concat();
    let answers = node.raw(requests.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 200);
    let numbers: Vec<i64> = node.stored().await.iter().map(|job| job["batch"][0]["n"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_do_not_fit_the_memory_are_refused_for_now() {
    let node = node(|settings| settings.gateway.max_in_flight_bytes = 40_000).await;
    // A body of 2 KB, whose jobs hold thirty times as much.
    let events = vec![r#"{"userId":"u"}"#; 150].join(",");
    let answer = node.post("/v1/batch", GOOD, &format!(r#"{{"batch":[{events}]}}"#)).await;
    assert_eq!((status(&answer), body(&answer)), ("503", "service unavailable\n"));
    assert!(answer.to_ascii_lowercase().contains("retry-after: "), "{answer}");
    assert!(node.stored().await.is_empty());
    // What was taken is given back, however often.
    let few = vec![r#"{"userId":"u"}"#; 20].join(",");
    for _ in 0..5 {
        let answer = node.post("/v1/batch", GOOD, &format!(r#"{{"batch":[{few}]}}"#)).await;
        assert_eq!(status(&answer), "200");
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_answers_what_is_in_flight_and_refuses_what_is_new() {
    let node = node(|_| ()).await;
    let text = r#"{"userId":"u"}"#;
    let mut stream = node.connect().await;
    let length = text.len();
    let head =
        format!("POST /v1/track HTTP/1.1\r\nHost: x\r\n{GOOD}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The node asks for the body: the request is in flight.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    node.stop.cancel();
    let refused = async {
        while TcpStream::connect(node.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(status(std::str::from_utf8(&answer).unwrap()), "200");
    let Node { served, .. } = node;
    tokio::time::timeout(Duration::from_secs(5), served).await.unwrap().unwrap();
}

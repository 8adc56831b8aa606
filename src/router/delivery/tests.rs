use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::*;
use crate::router::wire::{Identity, Wire, read};

/// A server that answers by path; counts connections and remembers what it saw.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) seen: Arc<Mutex<Vec<(Method, String, HeaderMap, Bytes)>>>,
}

pub(super) async fn receiver() -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (counted, remembered) = (Arc::clone(&connections), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let remembered = Arc::clone(&remembered);
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let remembered = Arc::clone(&remembered);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let path = parts.uri.path().to_owned();
                    remembered.lock().push((parts.method, path.clone(), parts.headers, body));
                    Ok::<_, Infallible>(respond(&path).await)
                }
            });
            tokio::spawn(async move {
                if let Err(error) =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                {
                    eprintln!("connection ended: {error}");
                }
            });
        }
    });
    Receiver { address, connections, seen }
}

async fn respond(path: &str) -> hyper::Response<Full<Bytes>> {
    let response = hyper::Response::builder();
    let answer = match path {
        "/ok" => response.status(200).header("content-type", "text/plain").body(Full::from("fine")),
        "/busy" => response.status(503).header("retry-after", "7").body(Full::from("later")),
        "/large" => response.status(400).header("content-type", "text/plain").body(Full::from(vec![b'a'; 3 << 20])),
        "/moved" => response.status(302).header("location", "/ok").body(Full::default()),
        "/kept" => response.status(307).header("location", "/ok").body(Full::default()),
        "/elsewhere" => response.status(307).header("location", "http://localhost.test./ok").body(Full::default()),
        "/nowhere" => response.status(304).body(Full::default()),
        "/round" => response.status(302).header("location", "/round").body(Full::default()),
        "/away" => response.status(307).header("location", "http://away.test:1/ok").body(Full::default()),
        "/metadata" => response.status(302).header("location", "http://169.254.169.254/").body(Full::default()),
        "/hang" => {
            std::future::pending::<()>().await;
            response.body(Full::default())
        }
        _ => response.status(404).body(Full::default()),
    };
    answer.unwrap()
}

pub(super) fn nothing(_headers: &HeaderMap) -> Vec<HeaderName> {
    Vec::new()
}

pub(super) fn rules() -> DeliveryRules {
    DeliveryRules {
        timeout: Duration::from_secs(5),
        idle_per_host: 4,
        force_http1: false,
        private_ranges: AddressRules::private(&["127.0.0.0/8".to_owned()]),
        allows_metadata: false,
        guarded_uses_proxy: false,
        own_listeners: Vec::new(),
        keeps_successful_body: false,
    }
}

pub(super) fn request(method: &str, url: &str) -> WireRequest {
    let payload = format!(
        r#"{{"type":"REST","method":"{method}","endpoint":"{url}","headers":{{"authorization":"Bearer x","content-type":"application/json"}},"body":{{"JSON":{{"k":"v"}}}}}}"#
    );
    let identity = Identity { user_agent: "RudderLabs".to_owned(), instance_id: None };
    match read(&Bytes::from(payload), &identity) {
        Wire::Send(request) => *request,
        other => panic!("{other:?}"),
    }
}

async fn send(courier: &Courier, url: &str) -> Answer {
    courier.send(request("POST", url), &Way::new(rules()), false, &nothing).await
}

#[tokio::test]
async fn an_answer_becomes_a_code_and_a_bounded_text() {
    let (server, courier) = (receiver().await, Courier::default());
    let url = |path: &str| format!("http://{}{path}", server.address);
    let fine = send(&courier, &url("/ok")).await;
    assert_eq!((fine.code, fine.text.as_str(), fine.answered), (200, "", true));
    let busy = send(&courier, &url("/busy")).await;
    assert_eq!((busy.code, busy.text.as_str(), busy.retry_after), (503, "later", Some(Duration::from_secs(7))));
    assert_eq!(send(&courier, &url("/large")).await.text.len(), 10_240);
    assert_eq!(send(&courier, &url("/nowhere")).await.code, 304);
    let keeps = DeliveryRules { keeps_successful_body: true, ..rules() };
    assert_eq!(courier.send(request("POST", &url("/ok")), &Way::new(keeps), false, &nothing).await.text, "fine");
    let seen = server.seen.lock();
    assert_eq!(seen[0].3, Bytes::from(r#"{"k":"v"}"#));
    assert_eq!(seen[0].2.get("user-agent").unwrap(), "RudderLabs");
}

#[tokio::test]
async fn connections_are_kept_but_never_shared_between_rules() {
    let (server, courier) = (receiver().await, Courier::default());
    let url = format!("http://{}/ok", server.address);
    for _ in 0..5 {
        assert_eq!(send(&courier, &url).await.code, 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let refused = courier.send(request("POST", &url), &Way::new(rules()), true, &nothing).await;
    assert_eq!((refused.code, refused.text.as_str()), (403, REFUSED_TEXT));
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_are_followed_as_the_documents_say() {
    let (server, courier) = (receiver().await, Courier::default());
    let url = |path: &str| format!("http://{}{path}", server.address);
    assert_eq!(send(&courier, &url("/moved")).await.code, 200);
    assert_eq!(send(&courier, &url("/kept")).await.code, 200);
    {
        let seen = server.seen.lock();
        assert_eq!((&seen[1].0, seen[1].3.len()), (&Method::GET, 0));
        assert_eq!((&seen[3].0, seen[3].3.len()), (&Method::POST, 9));
        assert!(seen[3].2.contains_key("authorization"));
    }
    let endless = send(&courier, &url("/round")).await;
    assert_eq!((endless.code, endless.unreachable), (504, false));
    assert_eq!(server.seen.lock().iter().filter(|(_, path, ..)| path == "/round").count(), 10);
    assert_eq!(send(&courier, &url("/metadata")).await.code, 403);
}

#[tokio::test]
async fn reaching_nobody_is_told_from_a_destination_that_hangs_up_or_hangs() {
    let (server, courier) = (receiver().await, Courier::default());
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = send(&courier, &format!("http://{free}/")).await;
    assert_eq!((nobody.code, nobody.unreachable, nobody.answered), (504, true, false));
    assert!(
        nobody.text.starts_with(&format!("504 Unable to make \"POST\" request for URL : \"http://{free}/\". Error: "))
    );
    let unknown = send(&courier, "http://name.invalid/").await;
    assert_eq!((unknown.code, unknown.unreachable), (504, true));
    let short = DeliveryRules { timeout: Duration::from_millis(300), ..rules() };
    let url = format!("http://{}/hang", server.address);
    let hanging = courier.send(request("POST", &url), &Way::new(short), false, &nothing).await;
    assert_eq!((hanging.code, hanging.unreachable), (504, false));
    let closes = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closes.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = closes.accept().await {
            drop(stream);
        }
    });
    let closed = send(&courier, &format!("http://{address}/")).await;
    assert_eq!((closed.code, closed.unreachable), (504, false));
    // Speaks no TLS: the connection stood.
    let no_tls = send(&courier, &format!("https://{}/", server.address)).await;
    assert_eq!((no_tls.code, no_tls.unreachable), (504, false), "{}", no_tls.text);
}

#[tokio::test]
async fn private_addresses_are_refused_by_name_and_by_every_literal() {
    let (server, courier) = (receiver().await, Courier::default());
    let port = server.address.port();
    for host in ["127.0.0.1", "127.0.0.1.", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]", "localhost"] {
        let answer = courier
            .send(request("POST", &format!("http://{host}:{port}/ok")), &Way::new(rules()), true, &nothing)
            .await;
        assert_eq!((answer.code, answer.text.as_str()), (403, REFUSED_TEXT), "{host}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    let own = DeliveryRules { own_listeners: vec![server.address], ..rules() };
    assert_eq!(
        courier
            .send(request("POST", &format!("http://localhost:{port}/ok")), &Way::new(own), false, &nothing)
            .await
            .code,
        403
    );
}

#[test]
fn credentials_go_home_and_below_but_nowhere_else() {
    let first = Url::parse("https://api.example/").unwrap();
    for (next, leaves) in [
        ("https://api.example/x", false),
        ("https://eu.api.example/", false),
        ("http://api.example/", true),
        ("https://evilapi.example/", true),
        ("https://example/", true),
    ] {
        assert_eq!(leaves_home(&first, &Url::parse(next).unwrap()), leaves, "{next}");
    }
}

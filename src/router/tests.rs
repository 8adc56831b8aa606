//! The running router against a real store and real local receivers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::backend_config::{BackendConfig, Destination, DestinationDefinition, Snapshot, Source, Workspace};
use crate::jobsdb::{Durability, Limits, NewJob, Select, Tx};
use crate::settings::{Raw, Settings};
use crate::storage::Storage;
use crate::telemetry::LiveTaps;

/// How a receiver answers a body: the status, or a hang.
type Script = dyn Fn(&Value, usize) -> Option<u16> + Send + Sync;

/// A destination: remembers what it got, in order of arrival, and answers by script.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// `script` gets the body and how often that body came before.
    async fn start(script: impl Fn(&Value, usize) -> Option<u16> + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Receiver::on(listener, Arc::new(script))
    }

    fn on(listener: TcpListener, script: Arc<Script>) -> Receiver {
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (remembered, script) = (Arc::clone(&remembered), Arc::clone(&script));
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (remembered, script) = (Arc::clone(&remembered), Arc::clone(&script));
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body: Value = serde_json::from_slice(&body).unwrap();
                        let before = {
                            let mut got = remembered.lock();
                            let before = got.iter().filter(|earlier| **earlier == body).count();
                            got.push(body.clone());
                            before
                        };
                        let Some(status) = script(&body, before) else {
                            return std::future::pending().await;
                        };
                        let response = hyper::Response::builder().status(status).header("content-type", "text/plain");
                        Ok::<_, Infallible>(response.body(Full::new(Bytes::from("said so"))).unwrap())
                    }
                });
                tokio::spawn(async move {
                    let connection =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        eprintln!("a connection ended: {error}");
                    }
                });
            }
        });
        Receiver { address, got }
    }

    fn numbers_of(&self, user: &str) -> Vec<u64> {
        let got = self.got.lock();
        got.iter().filter(|body| body["user"] == user).map(|body| body["n"].as_u64().unwrap()).collect()
    }
}

struct Kit {
    jobs: JobsDb,
    board: Arc<Board>,
    clock: Clock,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), RouterError>>>,
    config: BackendConfig,
    settings: Live,
    _folder: tempfile::TempDir,
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    let mut raw = Raw::default();
    let basic = [
        ("Storage.allowUnsafeFs", "true"),
        ("Storage.ballast", "0"),
        ("Storage.softFree", "1"),
        ("Router.minRetryBackoff", "200ms"),
    ];
    for (name, text) in basic.iter().chain(pairs) {
        raw.flags.insert(name.to_ascii_lowercase(), vec![(*text).to_owned()]);
    }
    let mut settings = Settings::from_raw(&Arc::new(raw)).unwrap();
    settings.storage.profile = crate::settings::Profile::Small;
    settings
}

fn open(folder: &Path, settings: &Settings, clock: &Clock) -> JobsDb {
    let storage = Storage::open(folder, &settings.storage, clock).unwrap();
    JobsDb::open(storage, settings, clock.clone()).unwrap()
}

fn workspace(destinations: &[(&str, bool)]) -> Snapshot {
    let destinations = destinations.iter().map(|(id, enabled)| {
        let Value::Object(config) = json!({"webhookUrl": "http://127.0.0.1"}) else { panic!("an object") };
        Arc::new(Destination {
            id: (*id).to_owned(),
            enabled: *enabled,
            config,
            definition: DestinationDefinition { name: "WEBHOOK".to_owned(), ..DestinationDefinition::default() },
            ..Destination::default()
        })
    });
    let source =
        Source { id: "s".to_owned(), enabled: true, destinations: destinations.collect(), ..Source::default() };
    Snapshot::new(vec![Workspace { id: "w".to_owned(), sources: vec![Arc::new(source)], ..Workspace::default() }], 0)
}

impl Kit {
    fn new(pairs: &[(&str, &str)], destinations: &[(&str, bool)]) -> Kit {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let mut pairs = pairs.to_vec();
        pairs.push(("Router.WEBHOOK.eventURLs", "any"));
        let settings = settings(&pairs);
        let jobs = open(folder.path(), &settings, &clock);
        let config = BackendConfig::fixed(workspace(destinations));
        let mut kit = Kit {
            jobs,
            board: Arc::new(Board::new()),
            clock,
            stop: CancellationToken::new(),
            running: None,
            config,
            settings: Live::new(settings),
            _folder: folder,
        };
        kit.start();
        kit
    }

    fn start(&mut self) {
        self.stop = CancellationToken::new();
        let deps = Deps {
            jobs: self.jobs.clone(),
            config: self.config.subscribe(),
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            live: LiveTaps::default(),
            board: Arc::clone(&self.board),
        };
        self.running = Some(tokio::spawn(run(deps, self.stop.clone())));
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        self.running.take().unwrap().await.unwrap().unwrap();
    }

    /// Stores one job per user and number, in order.
    async fn store(&self, destination: &str, to: SocketAddr, events: &[(&str, u64)]) {
        let mut tx = Tx::new(Durability::Durable);
        for (user, n) in events {
            let payload = json!({
                "version": "1", "type": "REST", "method": "POST", "endpoint": format!("http://{to}/"), "userId": "",
                "headers": {"content-type": "application/json"}, "params": {}, "files": {},
                "body": {"JSON": {"user": user, "n": n}, "JSON_ARRAY": {}, "XML": {}, "FORM": {}},
            });
            let parameters = json!({
                "source_id": "s", "destination_id": destination, "transform_at": "processor", "event_type": "track",
                "received_at": "2024-03-10T12:00:00.000Z", "message_id": format!("{user}-{n}"),
            });
            let (payload, parameters) = (payload.to_string(), parameters.to_string());
            let job = NewJob {
                uuid: uuid::Uuid::new_v4(),
                workspace_id: "w",
                custom_val: "WEBHOOK",
                source_id: "s",
                destination_id: destination,
                user_id: user,
                parameters: parameters.as_bytes(),
                payload: &[payload.as_bytes()],
                event_count: 1,
            };
            tx.append(Queue::Rt, self.jobs.encode(Queue::Rt, &job));
        }
        self.jobs.commit(tx).await.unwrap();
    }

    fn pending(&self) -> u64 {
        self.jobs.active(Queue::Rt).iter().map(|active| active.pending).sum()
    }

    fn state(&self, destination: &str) -> DestinationState {
        let states = self.board.snapshot();
        states.into_iter().find(|state| state.destination_id == destination).unwrap_or_default()
    }

    fn dead_letters(&self) -> Vec<Value> {
        let page =
            self.jobs.fetch(Queue::ProcError, &Select::default(), Limits { jobs: 100, events: 0, bytes: 0 }).unwrap();
        page.jobs.iter().map(|job| serde_json::from_slice(&job.parameters).unwrap()).collect()
    }
}

/// Waits until the condition holds; fails loudly when that takes too long.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn numbers(user: &'static str, upto: u64) -> Vec<(&'static str, u64)> {
    (0..upto).map(|n| (user, n)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_never_overtakes_an_earlier_event_of_the_same_user() {
    let receiver = Receiver::start(|body, before| {
        let fails = body["user"] == "a" && body["n"] == 1 && before == 0;
        Some(if fails { 500 } else { 200 })
    })
    .await;
    let mut kit = Kit::new(&[], &[("d", true)]);
    let mut events = numbers("a", 4);
    events.extend(numbers("b", 4));
    kit.store("d", receiver.address, &events).await;
    eventually("everything is delivered", || kit.pending() == 0).await;
    assert_eq!(receiver.numbers_of("a"), [0, 1, 1, 2, 3]);
    assert_eq!(receiver.numbers_of("b"), [0, 1, 2, 3]);
    // The board hears of a result after the store does.
    eventually("everything is reported", || kit.state("d").delivered == 8).await;
    let state = kit.state("d");
    assert_eq!((state.delivered, state.failed, state.aborted), (8, 1, 0));
    assert_eq!(state.last_error.unwrap().text, "said so");
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_busy_user_keeps_order_whatever_the_buffers() {
    let receiver = Receiver::start(|body, before| {
        Some(if body["n"].as_u64().unwrap() % 400 == 50 && before == 0 { 503 } else { 200 })
    })
    .await;
    let mut kit = Kit::new(&[("Router.minRetryBackoff", "20ms")], &[("d", true)]);
    kit.store("d", receiver.address, &numbers("a", 1_500)).await;
    eventually("everything is delivered", || kit.pending() == 0).await;
    let mut got = receiver.numbers_of("a");
    got.dedup();
    assert_eq!(got, (0..1_500).collect::<Vec<_>>());
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_becomes_a_dead_letter_and_the_next_one_goes_on() {
    let receiver = Receiver::start(|body, _| Some(if body["n"] == 0 { 400 } else { 200 })).await;
    let mut kit = Kit::new(&[], &[("d", true)]);
    kit.store("d", receiver.address, &numbers("a", 3)).await;
    eventually("everything has ended", || kit.pending() == 0).await;
    assert_eq!(receiver.numbers_of("a"), [0, 1, 2]);
    let letters = kit.dead_letters();
    assert_eq!(letters.len(), 1);
    let expected = json!({
        "source_id": "s", "destination_id": "d", "message_id": "a-0", "event_type": "track", "transform_at": "processor",
        "stage": "router", "status_code": 400, "error": "said so", "attempt": 1,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&letters[0][name], value, "{name}");
    }
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_that_fail_or_hang_do_not_slow_another() {
    let good = Receiver::start(|_, _| Some(200)).await;
    let bad = Receiver::start(|_, _| Some(500)).await;
    let hangs = Receiver::start(|_, _| None).await;
    let mut kit = Kit::new(&[("Router.httpTimeout", "2s")], &[("good", true), ("bad", true), ("hangs", true)]);
    let users: Vec<String> = (0..200).map(|n| format!("u{n}")).collect();
    let events: Vec<(&str, u64)> = users.iter().flat_map(|user| (0..5).map(move |n| (user.as_str(), n))).collect();
    for (id, receiver) in [("hangs", &hangs), ("bad", &bad), ("good", &good)] {
        kit.store(id, receiver.address, &events).await;
    }
    let started = Instant::now();
    eventually("the good one has everything", || kit.state("good").delivered == 1_000).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    for user in &users {
        assert_eq!(good.numbers_of(user), [0, 1, 2, 3, 4]);
        assert!(bad.numbers_of(user).iter().all(|n| *n == 0));
    }
    kit.stop().await;
    assert_eq!(kit.jobs.active(Queue::Rt).iter().map(|active| active.leased).sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_destination_pauses_gives_nothing_up_and_goes_on_by_itself() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut kit = Kit::new(
        &[("Router.maxRetryBackoff", "300ms"), ("Router.retryTimeWindow", "1ms"), ("Router.maxFailedCountForJob", "1")],
        &[("d", true)],
    );
    let users: Vec<String> = (0..40).map(|n| format!("u{n}")).collect();
    let events: Vec<(&str, u64)> = users.iter().flat_map(|user| [(user.as_str(), 0), (user.as_str(), 1)]).collect();
    kit.store("d", address, &events).await;
    eventually("the destination pauses", || kit.state("d").state == Activity::Unreachable).await;
    let receiver = Receiver::on(TcpListener::bind(address).await.unwrap(), Arc::new(|_: &Value, _| Some(200)));
    eventually("everything is delivered", || kit.pending() == 0).await;
    for user in &users {
        assert_eq!(receiver.numbers_of(user), [0, 1]);
    }
    assert_eq!(kit.state("d").aborted, 0);
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_by_the_operator_holds_over_a_restart_until_resume() {
    let receiver = Receiver::start(|_, _| Some(200)).await;
    let mut kit = Kit::new(&[], &[("d", true)]);
    kit.board.pause(&kit.jobs, &kit.clock, "d", None).await.unwrap();
    kit.store("d", receiver.address, &numbers("a", 2)).await;
    eventually("the pause shows", || kit.state("d").state == Activity::Paused).await;
    kit.stop().await;
    kit.board = Arc::new(Board::new());
    kit.start();
    eventually("the pause shows again", || kit.state("d").state == Activity::Paused && kit.state("d").pause.is_some())
        .await;
    assert!(receiver.got.lock().is_empty());
    kit.board.resume(&kit.jobs, "d").await.unwrap();
    eventually("everything is delivered", || kit.pending() == 0).await;
    assert_eq!(receiver.numbers_of("a"), [0, 1]);
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_disabled_destination_and_of_a_cancelled_run_are_given_up_unsent() {
    let receiver = Receiver::start(|_, _| Some(200)).await;
    let mut kit = Kit::new(&[], &[("off", false)]);
    kit.store("off", receiver.address, &numbers("a", 3)).await;
    eventually("everything has ended", || kit.pending() == 0).await;
    assert!(receiver.got.lock().is_empty());
    let letters = kit.dead_letters();
    assert_eq!(letters.len(), 3);
    assert_eq!((&letters[0]["status_code"], &letters[0]["error"]), (&json!(410), &json!("destination is disabled")));
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_over_the_retry_limit_is_given_up_and_the_user_goes_on_one_at_a_time() {
    let receiver = Receiver::start(|body, _| Some(if body["n"] == 0 { 500 } else { 200 })).await;
    let mut kit = Kit::new(
        &[
            ("Router.retryTimeWindow", "300ms"),
            ("Router.maxFailedCountForJob", "2"),
            ("Router.minRetryBackoff", "50ms"),
        ],
        &[("d", true)],
    );
    kit.store("d", receiver.address, &numbers("a", 4)).await;
    eventually("everything has ended", || kit.pending() == 0).await;
    let mut got = receiver.numbers_of("a");
    assert!(got.iter().filter(|n| **n == 0).count() >= 2);
    got.dedup();
    assert_eq!(got, [0, 1, 2, 3]);
    assert_eq!(kit.dead_letters()[0]["error"], json!("retry limit reached"));
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_holds_back_without_losing_anything() {
    let receiver = Receiver::start(|_, _| Some(200)).await;
    let mut kit = Kit::new(&[("Router.throttler.WEBHOOK.limit", "20")], &[("d", true)]);
    let users: Vec<String> = (0..50).map(|n| format!("u{n}")).collect();
    let events: Vec<(&str, u64)> = users.iter().map(|user| (user.as_str(), 0)).collect();
    let started = Instant::now();
    kit.store("d", receiver.address, &events).await;
    eventually("everything is delivered", || kit.pending() == 0).await;
    let took = started.elapsed();
    assert!(took > Duration::from_millis(1_300) && took < Duration::from_secs(4), "{took:?}");
    let mut per_user: HashMap<String, usize> = HashMap::new();
    for body in receiver.got.lock().iter() {
        *per_user.entry(body["user"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(per_user.len() == 50 && per_user.values().all(|times| *times == 1));
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_event_is_delivered_at_once() {
    let receiver = Receiver::start(|_, _| Some(200)).await;
    let mut kit = Kit::new(&[], &[("d", true)]);
    kit.store("d", receiver.address, &[("a", 0)]).await;
    eventually("the first one is delivered", || kit.pending() == 0).await;
    for n in 1..20 {
        let started = Instant::now();
        kit.store("d", receiver.address, &[("a", n)]).await;
        eventually("the next one is delivered", || receiver.got.lock().len() > usize::try_from(n).unwrap()).await;
        assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    }
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_busy_user_of_a_slow_destination_does_not_hold_back_the_others() {
    let receiver = Receiver::start(|body, _| (body["user"] != "busy").then_some(200)).await;
    let mut kit = Kit::new(&[("Router.noOfWorkers", "4"), ("Router.httpTimeout", "8s")], &[("d", true)]);
    kit.store("d", receiver.address, &numbers("busy", 1_500)).await;
    eventually("the busy user's worker is full", || !receiver.got.lock().is_empty()).await;
    let others: Vec<String> = (0..8).map(|n| format!("u{n}")).collect();
    let key = |user: &str| worker_index::of(&format!("w:d:{user}"), 4);
    let others: Vec<&str> = others.iter().map(String::as_str).filter(|user| key(user) != key("busy")).collect();
    let events: Vec<(&str, u64)> = others.iter().map(|user| (*user, 0)).collect();
    let started = Instant::now();
    kit.store("d", receiver.address, &events).await;
    eventually("the others are delivered", || others.iter().all(|user| receiver.numbers_of(user) == [0])).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    kit.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_cuts_off_what_hangs_and_the_next_start_delivers_it() {
    let receiver = Receiver::start(|_, before| (before > 0).then_some(200)).await;
    let mut kit = Kit::new(&[("Router.httpTimeout", "60s")], &[("d", true)]);
    let users: Vec<String> = (0..10).map(|n| format!("u{n}")).collect();
    let events: Vec<(&str, u64)> = users.iter().flat_map(|user| [(user.as_str(), 0), (user.as_str(), 1)]).collect();
    kit.store("d", receiver.address, &events).await;
    eventually("all users hang", || receiver.got.lock().len() == 10).await;
    let started = Instant::now();
    kit.stop().await;
    assert!(started.elapsed() < Duration::from_millis(7_500), "{:?}", started.elapsed());
    assert_eq!(kit.jobs.active(Queue::Rt).iter().map(|active| active.leased).sum::<u64>(), 0);
    kit.start();
    eventually("the first ones are delivered", || kit.pending() == 10).await;
    kit.stop().await;
}

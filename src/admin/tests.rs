//! The admin API over its real sockets, on a real store.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backend_config::{Destination, DestinationDefinition, Snapshot, Source, Workspace};
use crate::jobsdb::{Durability, NewJob, Queue, Tx};
use crate::settings::{Live, Settings};
use crate::storage::Storage;
use crate::telemetry::LiveTaps;

struct Api {
    dir: TempDir,
    deps: Deps,
    address: SocketAddr,
    reloads: mpsc::Receiver<oneshot::Sender<Result<Reloaded, String>>>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), AdminError>>,
}

fn workspace() -> Snapshot {
    let files = Arc::new(Destination {
        id: "files".to_owned(),
        name: "Files".to_owned(),
        enabled: true,
        definition: DestinationDefinition { name: "LOCAL".to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    });
    let destination = Arc::new(Destination {
        id: "local files/1".to_owned(),
        name: "Hook".to_owned(),
        enabled: true,
        definition: DestinationDefinition { name: "WEBHOOK".to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    });
    let source = Arc::new(Source { id: "s1".to_owned(), destinations: vec![destination, files], ..Source::default() });
    Snapshot::new(vec![Workspace { id: "w1".to_owned(), sources: vec![source], ..Workspace::default() }], 1)
}

async fn api() -> Api {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    let mut settings = Settings::defaults();
    settings.data_dir.clone_from(&data_dir);
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    settings.storage.snapshot_keep = 1;
    settings.admin.listen = Some("127.0.0.1:0".parse().unwrap());
    let clock = Clock::system();
    let storage = Storage::open(&data_dir, &settings.storage, &clock).unwrap();
    let jobs = JobsDb::open(storage, &settings, clock.clone()).unwrap();
    let listeners = bind(&settings).await.unwrap();
    let address = listeners.address().unwrap();
    let (reload_requests, reloads) = mpsc::channel(1);
    let deps = Deps {
        jobs,
        config: BackendConfig::fixed(workspace()),
        settings: Live::new(settings),
        clock,
        live: LiveTaps::default(),
        metrics: Metrics::install(),
        data_dir,
        vitals: Arc::new(Vitals::new(0)),
        components: Arc::new(Components::default()),
        router_board: Arc::default(),
        batch_board: Arc::default(),
        gateway_addresses: Arc::new(OnceLock::new()),
        own_port: crate::gateway::OwnPort::default(),
        internal: crate::gateway::InternalApi::default(),
        backlogs: Arc::default(),
        alerts: Arc::default(),
        warehouse: None,
        reloads: reload_requests,
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(listeners, deps.clone(), stop.clone()));
    Api { dir, deps, address, reloads, stop, serving }
}

impl Api {
    async fn over_socket(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let stream = UnixStream::connect(self.deps.data_dir.join("admin.sock")).await.unwrap();
        converse(stream, method, path, "localhost", "", body).await
    }

    async fn over_tcp(&self, method: &str, path: &str, header: &str) -> (u16, String) {
        let stream = TcpStream::connect(self.address).await.unwrap();
        converse(stream, method, path, &self.address.to_string(), header, "").await
    }

    async fn json(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, answer) = self.over_socket(method, path, body).await;
        let (_, text) = answer.split_once("\r\n\r\n").unwrap();
        (status, serde_json::from_str(text).unwrap())
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
        assert!(!self.deps.data_dir.join("admin.sock").exists());
        let jobs = self.deps.jobs.clone();
        tokio::task::spawn_blocking(move || jobs.close()).await.unwrap();
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    method: &str,
    path: &str,
    host: &str,
    header: &str,
    body: &str,
) -> (u16, String) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n{header}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (answer[9..12].parse().unwrap(), answer)
}

#[tokio::test]
async fn health_routes_tell_the_phase_of_the_node() {
    let api = api().await;
    api.deps.vitals.enter(Phase::Starting("waiting for configuration".to_owned()));
    let (status, answer) = api.over_socket("GET", "/readyz", "").await;
    assert_eq!(status, 503);
    assert!(answer.ends_with("starting: waiting for configuration\n"), "{answer}");
    api.deps.vitals.enter(Phase::Running);
    assert_eq!(api.over_socket("GET", "/readyz", "").await.0, 200);
    let (status, answer) = api.over_socket("GET", "/healthz", "").await;
    assert_eq!(status, 200);
    assert!(answer.contains("content-security-policy") && answer.ends_with("ok\n"), "{answer}");
    assert_eq!(api.over_socket("GET", "/metrics", "").await.0, 200);
    api.end().await;
}

#[tokio::test]
async fn tcp_tells_nothing_without_the_token() {
    let api = api().await;
    for path in ["/healthz", "/readyz", "/metrics", "/v1/status", "/nowhere"] {
        let (status, answer) = api.over_tcp("GET", path, "").await;
        assert_eq!(status, 401, "{path}");
        assert!(answer.ends_with("{\"error\":\"unauthorized\"}"), "{answer}");
    }
    let token = std::fs::read_to_string(api.deps.data_dir.join("admin.token")).unwrap();
    let header = format!("Authorization: Bearer {}\r\nOrigin: https://evil.test\r\n", token.trim());
    let (status, answer) = api.over_tcp("GET", "/v1/status", &header).await;
    assert_eq!(status, 200);
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    assert_eq!(api.over_tcp("OPTIONS", "/v1/status", &header).await.0, 405);
    api.end().await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_refused_in_words() {
    let api = api().await;
    let (status, answer) = api.json("GET", "/v1/nowhere", "").await;
    assert_eq!((status, answer["error"].as_str()), (404, Some("not found")));
    let (status, answer) = api.over_socket("DELETE", "/v1/status", "").await;
    assert!(status == 405 && answer.contains("allow: GET, HEAD"), "{answer}");
    assert_eq!(api.json("POST", "/v1/backups", "[1]").await.0, 400);
    assert_eq!(api.json("POST", "/v1/send", "{").await.0, 400);
    api.end().await;
}

#[tokio::test]
async fn a_pause_shows_in_the_status_until_it_is_lifted() {
    let api = api().await;
    assert_eq!(api.json("POST", "/v1/destinations/nobody/pause", "").await.0, 404);
    assert_eq!(api.json("POST", "/v1/destinations/local%20files%2F1/pause", r#"{"forSeconds":0}"#).await.0, 400);
    assert_eq!(api.json("POST", "/v1/destinations/local%20files%2F1/pause", r#"{"forSeconds":60}"#).await.0, 200);
    let paused = |status: &Value| {
        let destinations = status["destinations"].as_array().unwrap();
        destinations.iter().find(|destination| destination["type"] == "WEBHOOK").unwrap()["paused"].clone()
    };
    let status = api.json("GET", "/v1/status", "").await.1;
    assert!(paused(&status)["untilMs"].is_i64(), "{status}");
    let typed: NodeStatus = serde_json::from_value(status).unwrap();
    assert!(typed.destinations.iter().any(|destination| destination.kind == "WEBHOOK"));
    let (code, answer) = api.json("POST", "/v1/destinations/local%20files%2F1/resume", "").await;
    assert_eq!((code, &answer["wasPaused"]), (200, &json!(true)));
    assert_eq!(paused(&api.json("GET", "/v1/status", "").await.1), Value::Null);
    api.end().await;
}

/// Waits until the batch router has shown that of the destination.
async fn shown(api: &Api, what: impl Fn(&batch_router::DestinationFigures) -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !api.deps.batch_board.snapshot().iter().any(&what) {
        assert!(std::time::Instant::now() < deadline, "{:?}", api.deps.batch_board.snapshot());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pause_holds_files_too_until_it_is_lifted() {
    let api = api().await;
    let quick = crate::settings::BatchRouterSettings::quick_node(&[]);
    let mut settings = Settings::clone(&api.deps.settings.load());
    settings.batch_router = quick.batch_router;
    api.deps.settings.store(settings);
    assert_eq!(api.json("POST", "/v1/destinations/files/pause", "").await.0, 200);
    let job = NewJob {
        uuid: uuid::Uuid::new_v4(),
        workspace_id: "w1",
        custom_val: "LOCAL",
        source_id: "s1",
        destination_id: "files",
        user_id: "u1",
        parameters: b"{}",
        payload: &[b"{}"],
        event_count: 1,
    };
    let mut tx = Tx::new(Durability::Durable);
    tx.append(Queue::BatchRt, api.deps.jobs.encode(Queue::BatchRt, &job));
    api.deps.jobs.commit(tx).await.unwrap();
    let stop = CancellationToken::new();
    let delivering = tokio::spawn(batch_router::run(
        batch_router::Deps {
            jobs: api.deps.jobs.clone(),
            config: api.deps.config.subscribe(),
            settings: api.deps.settings.clone(),
            clock: api.deps.clock.clone(),
            data_dir: api.deps.data_dir.clone(),
            board: Arc::clone(&api.deps.batch_board),
            delivers: true,
        },
        stop.clone(),
    ));
    shown(&api, |figures| figures.paused).await;
    assert_eq!(api.deps.jobs.active(Queue::BatchRt)[0].pending, 1);
    assert_eq!(api.json("POST", "/v1/destinations/files/resume", "").await.0, 200);
    shown(&api, |figures| !figures.paused && figures.files == 1).await;
    stop.cancel();
    delivering.await.unwrap().unwrap();
    api.end().await;
}

#[tokio::test]
async fn the_answer_to_a_reload_is_what_came_of_it() {
    let mut api = api().await;
    let answering = {
        let mut reloads = std::mem::replace(&mut api.reloads, mpsc::channel(1).1);
        tokio::spawn(async move {
            reloads.recv().await.unwrap().send(Err("line 3 is wrong".to_owned())).unwrap();
            let applied = Reloaded { applied: vec!["Log.level".to_owned()], ..Reloaded::default() };
            reloads.recv().await.unwrap().send(Ok(applied)).unwrap();
        })
    };
    let (status, answer) = api.json("POST", "/v1/reload", "").await;
    assert_eq!((status, answer["error"].as_str()), (422, Some("line 3 is wrong")));
    let (status, answer) = api.json("POST", "/v1/reload", "").await;
    assert_eq!((status, &answer["applied"]), (200, &json!(["Log.level"])));
    answering.await.unwrap();
    api.end().await;
}

#[tokio::test]
async fn a_snapshot_of_the_running_node_brings_back_what_was_acknowledged() {
    let api = api().await;
    let job = NewJob {
        uuid: uuid::Uuid::new_v4(),
        workspace_id: "w1",
        custom_val: "GW",
        source_id: "s1",
        destination_id: "",
        user_id: "u1",
        parameters: b"{}",
        payload: &[b"{}"],
        event_count: 1,
    };
    let mut tx = Tx::new(Durability::Durable);
    tx.append(Queue::Gw, api.deps.jobs.encode(Queue::Gw, &job));
    api.deps.jobs.commit(tx).await.unwrap();

    let (status, manifest) = api.json("POST", "/v1/backups", "").await;
    assert_eq!(status, 201, "{manifest}");
    assert_eq!(manifest["queues"][0], json!({"queue": "gw", "pending": 1, "lastJobId": 1}));
    let (status, refused) = api.json("POST", "/v1/backup", "").await;
    assert_eq!(status, 409, "{refused}");
    let name = manifest["name"].as_str().unwrap().to_owned();
    assert_eq!(api.json("GET", "/v1/backups", "").await.1["items"][0]["name"], json!(name));

    let snapshot = api.deps.data_dir.join("snapshots").join(&name);
    assert!(!snapshot.join("admin.token").exists());
    assert_modes(&snapshot);
    let restored = api.dir.path().join("restored");
    let manifest = restore(&snapshot, &restored).unwrap();
    assert_eq!(manifest.queues[0].pending, 1);
    assert_eq!(crate::jobsdb::inspect(&restored).unwrap()[0].pending, 1);

    assert_eq!(api.json("DELETE", &format!("/v1/backups/{name}"), "").await.0, 200);
    assert_eq!(api.json("DELETE", &format!("/v1/backups/{name}"), "").await.0, 404);
    api.end().await;
}

/// What `backup` itself writes is the owner's alone; files of the store are hard links and keep their mode.
fn assert_modes(snapshot: &Path) {
    use std::os::unix::fs::MetadataExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(snapshot), 0o700);
    assert_eq!(mode(&snapshot.join("FORMAT")), 0o600);
    assert_eq!(mode(&snapshot.join("MANIFEST.json")), 0o600);
}

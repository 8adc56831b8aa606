//! The batch router at work: real queues, a directory or a small S3 server as the storage, stops and crashes.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::backend_config::{BackendConfig, Destination, DestinationDefinition, Snapshot, Source, Workspace};
use crate::jobsdb::{Durability, JournalRecord, Limits, Namespace, NewJob, Select, Tx};
use crate::object_storage::fake_s3::{FakeS3, Mood};
use crate::settings::{BatchRouterSettings as Keys, Settings};
use crate::storage::Storage;

use super::manifest::{Manifest, ranges};
use super::*;

mod staging;

/// Longest time that a condition may take.
const PATIENCE: Duration = Duration::from_secs(90);

struct Kit {
    folder: tempfile::TempDir,
    jobs: JobsDb,
    clock: Clock,
    config: BackendConfig,
    settings: Live,
    board: Arc<Board>,
}

struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), BatchRouterError>>,
}

fn destination(id: &str, kind: &str, config: Value) -> Arc<Destination> {
    Arc::new(Destination {
        id: id.to_owned(),
        name: id.to_owned(),
        enabled: true,
        workspace_id: "w".to_owned(),
        config: config.as_object().cloned().unwrap_or_default(),
        definition: DestinationDefinition { name: kind.to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    })
}

fn workspace(destinations: &[Arc<Destination>], settings: Map<String, Value>) -> Snapshot {
    let source = |id: &str| {
        Arc::new(Source {
            id: id.to_owned(),
            write_key: format!("key-{id}"),
            enabled: true,
            workspace_id: "w".to_owned(),
            destinations: destinations.to_vec(),
            ..Source::default()
        })
    };
    let sources = vec![source("s1"), source("s2")];
    Snapshot::new(vec![Workspace { id: "w".to_owned(), sources, settings, ..Workspace::default() }], 0)
}

impl Kit {
    fn new(snapshot: Snapshot, more: &[(&str, &str)]) -> Kit {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let settings = Keys::quick_node(more);
        let storage = Storage::open(folder.path(), &settings.storage, &clock).unwrap();
        let jobs = JobsDb::open(storage, &settings, clock.clone()).unwrap();
        let (config, settings) = (BackendConfig::fixed(snapshot), Live::new(settings));
        Kit { folder, jobs, clock, config, settings, board: Arc::default() }
    }

    /// The store as a new process finds it: nothing that was only in memory is left.
    async fn reopen(self) -> Kit {
        let Kit { folder, jobs, clock, config, settings, board } = self;
        drop(jobs);
        let in_force = settings.load();
        let deadline = Instant::now() + PATIENCE;
        // Work on blocking threads holds the old store open a little longer.
        let storage = loop {
            match Storage::open(folder.path(), &in_force.storage, &clock) {
                Ok(storage) => break storage,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let jobs = JobsDb::open(storage, &in_force, clock.clone()).unwrap();
        Kit { folder, jobs, clock, config, settings, board }
    }

    fn start(&self) -> Running {
        self.start_delivering(true)
    }

    fn start_delivering(&self, delivers: bool) -> Running {
        let stop = CancellationToken::new();
        let deps = Deps {
            jobs: self.jobs.clone(),
            config: self.config.subscribe(),
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            data_dir: self.folder.path().to_owned(),
            board: Arc::clone(&self.board),
            delivers,
        };
        Running { task: tokio::spawn(run(deps, stop.clone())), stop }
    }

    async fn store(&self, queue: Queue, destination: (&str, &str), events: &[(&str, String)]) -> Vec<u64> {
        let mut tx = Tx::new(Durability::Durable);
        for (source_id, payload) in events {
            let parameters = json!({
                "source_id": source_id, "destination_id": destination.0, "message_id": payload, "received_at": "2024-01-01T00:00:00.000Z",
            })
            .to_string();
            let job = NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: "w",
                custom_val: destination.1,
                source_id,
                destination_id: destination.0,
                user_id: "u",
                parameters: parameters.as_bytes(),
                payload: &[payload.as_bytes()],
                event_count: 1,
            };
            tx.append(queue, self.jobs.encode(queue, &job));
        }
        self.jobs.commit(tx).await.unwrap().job_ids
    }

    fn pending(&self, queue: Queue) -> u64 {
        self.jobs.active(queue).iter().map(|active| active.pending).sum()
    }

    async fn until_empty(&self, queue: Queue) {
        until("the queue is empty", || self.pending(queue) == 0).await;
    }

    fn archive(&self, destination: &str) -> std::path::PathBuf {
        self.folder.path().join("archive").join(destination)
    }

    async fn manifest(&self, manifest: &Manifest) {
        let mut tx = Tx::new(Durability::Durable);
        tx.journal_put(Queue::BatchRt, manifest.to_record(77, self.clock.now_ms()));
        self.jobs.commit(tx).await.unwrap();
    }

    fn journal(&self) -> Vec<JournalRecord> {
        self.jobs.journal(Queue::BatchRt).unwrap()
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As a crash: nothing more happens, nothing is tidied up.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn event(number: usize) -> String {
    json!({ "messageId": format!("m{number}"), "type": "track" }).to_string()
}

fn unzipped(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::bufread::MultiGzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

/// Every file below the folder: path below it, and unpacked content.
fn files_below(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    crate::object_storage::walk(folder, &mut |path| {
        let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
        found.insert(name, unzipped(&std::fs::read(path).unwrap()));
        true
    })
    .unwrap();
    found
}

fn lines_below(folder: &Path) -> Vec<String> {
    let mut lines: Vec<String> =
        files_below(folder).values().flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

fn sorted(events: &[(&str, String)]) -> Vec<String> {
    let mut lines: Vec<String> = events.iter().map(|(_, payload)| payload.clone()).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_becomes_one_line_in_order_in_a_file_of_its_source() {
    let kit = Kit::new(workspace(&[destination("d", "LOCAL", json!({ "prefix": "p" }))], Map::new()), &[]);
    let events: Vec<(&str, String)> = (0..50).map(|n| (if n % 3 == 0 { "s2" } else { "s1" }, event(n))).collect();
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &events).await;
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;

    let files = files_below(&kit.archive("d"));
    assert_eq!(files.len(), 2, "{files:?}");
    for source in ["s1", "s2"] {
        let (name, text) = files.iter().find(|(name, _)| name.contains(&format!("/{source}/"))).unwrap();
        assert!(name.starts_with(&format!("p/rudder-logs/{source}/")) && name.ends_with(".json.gz"), "{name}");
        let of_source = events.iter().filter(|(of, _)| *of == source);
        let expected: Vec<&str> = of_source.map(|(_, payload)| payload.as_str()).collect();
        assert_eq!(*text, expected.join("\n") + "\n");
    }
    assert!(kit.journal().is_empty());
    assert_eq!(std::fs::read_dir(kit.folder.path().join(WORK_FOLDER)).unwrap().count(), 0);
    let figures = kit.board.snapshot().remove(0);
    assert_eq!((figures.files, figures.jobs, figures.last_error), (2, 50, None));
    assert!(figures.last_location.unwrap().starts_with("file:///"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_batch_does_not_wait_for_its_time() {
    let kit = Kit::new(
        workspace(&[destination("d", "LOCAL", json!({}))], Map::new()),
        &[(Keys::UPLOAD_FREQ, "1h"), (Keys::MAX_EVENTS, "10")],
    );
    let running = kit.start();
    let events: Vec<(&str, String)> = (0..25).map(|n| ("s1", event(n))).collect();
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &events[..4]).await;
    until("a worker serves the destination", || !kit.board.snapshot().is_empty()).await;
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &events[4..]).await;
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(lines_below(&kit.archive("d")), sorted(&events));
    assert_eq!(files_below(&kit.archive("d")).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_arrived_before_a_crash_is_not_repeated() {
    let kit = Kit::new(workspace(&[destination("d", "LOCAL", json!({}))], Map::new()), &[]);
    let events: Vec<(&str, String)> = (0..9).map(|n| ("s1", event(n))).collect();
    let ids = kit.store(Queue::BatchRt, ("d", "LOCAL"), &events).await;

    // As a node leaves it that dies after the upload of the first six jobs: object and manifest, no states.
    let object = kit.archive("d").join("rudder-logs/s1/2024-01-01/1.s1.x.json.gz");
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    let mut file = batch_file::LineFile::create(&object).unwrap();
    for (_, payload) in &events[..6] {
        file.line(&[payload.as_bytes()]).unwrap();
    }
    let bytes = file.finish(&object).unwrap();
    let mut manifest = Manifest {
        destination_id: "d".to_owned(),
        destination_type: "LOCAL".to_owned(),
        source_id: "s1".to_owned(),
        key: "rudder-logs/s1/2024-01-01/1.s1.x.json.gz".to_owned(),
        bytes,
        file: "1.s1.x.json.gz".to_owned(),
        jobs: ranges(ids[..6].iter().copied()),
    };
    kit.manifest(&manifest).await;

    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(lines_below(&kit.archive("d")), sorted(&events));
    assert!(kit.journal().is_empty());

    // The same with an object that never arrived, and the local file still there: the same key is used.
    let more: Vec<(&str, String)> = (20..24).map(|n| ("s1", event(n))).collect();
    let ids = kit.store(Queue::BatchRt, ("d", "LOCAL"), &more).await;
    let work = kit.folder.path().join(WORK_FOLDER).join("2.s1.y.json.gz");
    let mut file = batch_file::LineFile::create(&work).unwrap();
    for (_, payload) in &more {
        file.line(&[payload.as_bytes()]).unwrap();
    }
    manifest.bytes = file.finish(&work).unwrap();
    manifest.file = "2.s1.y.json.gz".to_owned();
    manifest.key = "rudder-logs/s1/2024-01-01/2.s1.y.json.gz".to_owned();
    manifest.jobs = ranges(ids);
    kit.manifest(&manifest).await;
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    until("the manifest is gone", || kit.journal().is_empty()).await;
    running.stop().await;
    assert!(kit.archive("d").join(&manifest.key).exists());
    assert!(!work.exists());
    let all: Vec<(&str, String)> = events.into_iter().chain(more).collect();
    assert_eq!(lines_below(&kit.archive("d")), sorted(&all));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_or_doubled_however_often_the_router_is_killed() {
    let mut kit = Kit::new(workspace(&[destination("d", "LOCAL", json!({}))], Map::new()), &[(Keys::MAX_EVENTS, "20")]);
    let mut events: Vec<(&str, String)> = Vec::new();
    for round in 0..12_usize {
        let fresh: Vec<(&str, String)> =
            (0..60).map(|n| (if n % 2 == 0 { "s1" } else { "s2" }, event(round * 1_000 + n))).collect();
        kit.store(Queue::BatchRt, ("d", "LOCAL"), &fresh).await;
        events.extend(fresh);
        let running = kit.start();
        tokio::time::sleep(Duration::from_millis(4 * u64::try_from(round).unwrap())).await;
        running.kill().await;
        kit = kit.reopen().await;
    }
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(lines_below(&kit.archive("d")), sorted(&events));
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_destinations_leave_dead_letters_and_unknown_types_wait() {
    let mut off = Destination::clone(&destination("off", "LOCAL", json!({})));
    off.enabled = false;
    let kit = Kit::new(workspace(&[Arc::new(off)], Map::new()), &[]);
    kit.store(Queue::BatchRt, ("off", "LOCAL"), &[("s1", event(1))]).await;
    kit.store(Queue::BatchRt, ("stream", "BQSTREAM_ALL_EVENTS"), &[("s1", event(3))]).await;
    let running = kit.start();
    until("it is given up", || kit.pending(Queue::ProcError) == 1).await;
    running.stop().await;
    assert_eq!(kit.pending(Queue::BatchRt), 1, "what this build does not serve waits");

    let limits = Limits { jobs: 10, events: 0, bytes: 0 };
    let letters = kit.jobs.fetch(Queue::ProcError, &Select::default(), limits).unwrap().jobs;
    let errors: BTreeMap<String, String> = letters
        .iter()
        .map(|letter| {
            let parameters: Value = serde_json::from_slice(&letter.parameters).unwrap();
            assert_eq!(parameters["stage"], "batch_router");
            (letter.partition.destination_id.clone(), parameters["error"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(errors["off"], "destination is disabled");
    assert!(letters.iter().any(|letter| letter.payload == event(1).as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_everything_and_its_end_lets_it_go() {
    let kit = Kit::new(workspace(&[destination("d", "LOCAL", json!({}))], Map::new()), &[]);
    let mut tx = Tx::new(Durability::Durable);
    tx.put(Namespace::Drain, b"pause/d".to_vec(), br#"{"since_ms":1}"#.to_vec());
    kit.jobs.commit(tx).await.unwrap();
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &[("s1", event(1))]).await;
    let running = kit.start();
    until("the pause is seen", || kit.board.snapshot().iter().any(|figures| figures.paused)).await;
    assert_eq!(kit.pending(Queue::BatchRt), 1);
    let mut tx = Tx::new(Durability::Durable);
    tx.delete(Namespace::Drain, b"pause/d".to_vec());
    kit.jobs.commit(tx).await.unwrap();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(lines_below(&kit.archive("d")), [event(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_storage_opens_the_breaker_and_loses_nothing() {
    let kit = Kit::new(
        workspace(&[destination("d", "LOCAL", json!({ "path": "/proc/nowhere" }))], Map::new()),
        &[(Keys::MAX_FAILURES, "1"), (Keys::BREAKER_OPEN, "60s")],
    );
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &[("s1", event(1))]).await;
    let running = kit.start();
    until("the breaker opens", || kit.board.snapshot().iter().any(|figures| figures.breaker == BreakerState::Open))
        .await;
    running.stop().await;
    assert_eq!(kit.pending(Queue::BatchRt), 1);
    let limits = Limits { jobs: 10, events: 0, bytes: 0 };
    let job = kit.jobs.fetch(Queue::BatchRt, &Select::default(), limits).unwrap().jobs.remove(0);
    let status = job.last.unwrap().status;
    let response: Value = serde_json::from_slice(&status.error_response).unwrap();
    assert_eq!((status.attempt, status.error_code.as_str()), (1, ""));
    assert!(response["Error"].as_str().unwrap().contains("/proc/nowhere"), "{response}");
    assert!(response["firstAttemptedAt"].is_string());
    assert!(kit.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_beyond_the_retry_limit_leaves_a_dead_letter_with_the_payload() {
    let kit = Kit::new(
        workspace(&[destination("d", "LOCAL", json!({ "path": "/proc/nowhere" }))], Map::new()),
        &[(Keys::MAX_FAILED_COUNT, "1"), (Keys::RETRY_WINDOW, "0s")],
    );
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &[("s1", event(1)), ("s1", event(2))]).await;
    let running = kit.start();
    until("both are given up", || kit.pending(Queue::ProcError) == 2).await;
    running.stop().await;
    let limits = Limits { jobs: 10, events: 0, bytes: 0 };
    let letters = kit.jobs.fetch(Queue::ProcError, &Select::default(), limits).unwrap().jobs;
    let mut payloads: Vec<&[u8]> = letters.iter().map(|letter| &*letter.payload).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [event(1).as_bytes(), event(2).as_bytes()]);
    let parameters: Value = serde_json::from_slice(&letters[0].parameters).unwrap();
    assert_eq!((&parameters["status_code"], &parameters["attempt"]), (&json!(410), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_events_are_archived_or_given_up_without_a_storage() {
    let kit = Kit::new(workspace(&[], Map::new()), &[]);
    let mut with_path = Settings::clone(&kit.settings.load());
    with_path.archival.local_path = Some(kit.folder.path().join("archive/gw"));
    let without = Settings::clone(&kit.settings.load());
    kit.settings.store(with_path);
    let events: Vec<(&str, String)> = (0..3).map(|n| ("s1", event(n))).collect();
    kit.store(Queue::Arc, ("", "GW"), &events).await;
    let running = kit.start();
    kit.until_empty(Queue::Arc).await;
    let files = files_below(&kit.archive("gw"));
    assert_eq!(files.len(), 1);
    let (name, text) = files.iter().next().unwrap();
    assert!(name.starts_with("s1/gw/") && name.ends_with(".json.gz"), "{name}");
    for (line, (_, payload)) in text.lines().zip(&events) {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["userId"], line["payload"].to_string()), (&json!("u"), payload.clone()));
        assert_eq!(line["messageId"], line["payload"]["messageId"]);
        assert!(line["createdAt"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }
    assert_eq!(kit.board.archives()[0].events, 3);

    kit.settings.store(without);
    kit.store(Queue::Arc, ("", "GW"), &events).await;
    kit.until_empty(Queue::Arc).await;
    running.stop().await;
    assert_eq!(files_below(&kit.archive("gw")).len(), 1);
    assert_eq!(kit.pending(Queue::ProcError), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_delivery_only_the_archive_is_served() {
    let kit = Kit::new(workspace(&[destination("d", "LOCAL", json!({}))], Map::new()), &[]);
    let mut settings = Settings::clone(&kit.settings.load());
    settings.archival.local_path = Some(kit.folder.path().join("archive/gw"));
    kit.settings.store(settings);
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &[("s1", event(1))]).await;
    kit.store(Queue::Arc, ("", "GW"), &[("s1", event(2))]).await;
    let running = kit.start_delivering(false);
    kit.until_empty(Queue::Arc).await;
    running.stop().await;
    assert_eq!(kit.pending(Queue::BatchRt), 1);
    assert!(kit.board.snapshot().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_that_do_not_fit_into_one_transaction_are_stored_in_several() {
    let mut off = Destination::clone(&destination("off", "LOCAL", json!({})));
    off.enabled = false;
    let kit = Kit::new(
        workspace(&[Arc::new(off), destination("bad", "LOCAL", json!({ "path": "/proc/nowhere" }))], Map::new()),
        &[(Keys::MAX_TX_BYTES, "8KiB"), (Keys::MAX_FAILED_COUNT, "1"), (Keys::RETRY_WINDOW, "0s")],
    );
    let large = |number: usize| json!({ "n": number, "text": "x".repeat(3_000) }).to_string();
    for id in [("off", "LOCAL"), ("bad", "LOCAL")] {
        for number in 0..7 {
            kit.store(Queue::BatchRt, id, &[("s1", large(number))]).await;
        }
    }
    let running = kit.start();
    until("all are given up", || kit.pending(Queue::ProcError) == 14).await;
    until("nothing waits", || kit.pending(Queue::BatchRt) == 0 && kit.journal().is_empty()).await;
    running.stop().await;
}

/// A storage that takes connections and says nothing.
async fn silent_storage() -> (String, Arc<tokio::sync::Notify>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
            told.notify_one();
        }
    });
    (host, asked)
}

fn bucket_at(host: &str) -> Arc<Destination> {
    let config = json!({ "bucketName": "b", "endPoint": host, "accessKeyID": "a", "secretAccessKey": "s" });
    destination("m", "MINIO", config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_hangs_holds_up_neither_other_destinations_nor_a_stop() {
    let (host, asked) = silent_storage().await;
    let kit = Kit::new(
        workspace(&[bucket_at(&host), destination("d", "LOCAL", json!({}))], Map::new()),
        &[(Keys::PAYLOAD_LIMIT, "1KiB"), (Keys::STORAGE_TIMEOUT, "300s")],
    );
    kit.store(Queue::BatchRt, ("m", "MINIO"), &[("s1", event(1))]).await;
    let running = kit.start();
    tokio::time::timeout(PATIENCE, asked.notified()).await.unwrap();
    kit.store(Queue::BatchRt, ("d", "LOCAL"), &[("s1", event(2))]).await;
    until("the other destination is served", || kit.pending(Queue::BatchRt) == 1).await;
    assert_eq!(lines_below(&kit.archive("d")), [event(2)]);
    tokio::time::timeout(Duration::from_secs(5), running.stop()).await.unwrap();
    assert_eq!(kit.pending(Queue::BatchRt), 1, "its event waits");
    assert!(kit.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_without_an_answer_counts_as_a_failure() {
    let (host, _asked) = silent_storage().await;
    let kit = Kit::new(
        workspace(&[bucket_at(&host)], Map::new()),
        &[(Keys::STORAGE_TIMEOUT, "1s"), (Keys::MAX_FAILURES, "1"), (Keys::BREAKER_OPEN, "60s")],
    );
    kit.store(Queue::BatchRt, ("m", "MINIO"), &[("s1", event(1))]).await;
    let running = kit.start();
    let listing_failed = || {
        kit.board.snapshot().iter().any(|figures| {
            figures.breaker == BreakerState::Open
                && figures.last_error.as_deref().is_some_and(|error| error.contains("listing"))
        })
    };
    until("the breaker opens", listing_failed).await;
    running.stop().await;
    assert_eq!(kit.pending(Queue::BatchRt), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_of_a_bucket_doubles_no_line() {
    let server = FakeS3::start(&["b"]).await;
    server.state.lock().mood = Mood::Forgetful;
    let config = json!({ "bucketName": "b", "endPoint": server.host, "accessKeyID": "a", "secretAccessKey": "s" });
    let kit = Kit::new(workspace(&[destination("m", "MINIO", config)], Map::new()), &[]);
    let events: Vec<(&str, String)> = (0..5).map(|n| ("s1", event(n))).collect();
    kit.store(Queue::BatchRt, ("m", "MINIO"), &events).await;
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    let objects = std::mem::take(&mut server.state.lock().objects);
    assert_eq!(objects.len(), 1);
    let expected: Vec<&str> = events.iter().map(|(_, payload)| payload.as_str()).collect();
    assert_eq!(unzipped(objects.values().next().unwrap()), expected.join("\n") + "\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_upload_waits_for_its_bucket_to_answer() {
    let config =
        |host: &str| json!({ "bucketName": "b", "endPoint": host, "accessKeyID": "a", "secretAccessKey": "s" });
    let server = FakeS3::start(&["b"]).await;
    server.state.lock().objects.insert("b/k".to_owned(), vec![0; 5]);
    let snapshot = |host: &str| workspace(&[destination("m", "MINIO", config(host))], Map::new());
    let kit = Kit::new(snapshot("127.0.0.1:1"), &[]);
    let events: Vec<(&str, String)> = (0..4).map(|n| ("s1", event(n))).collect();
    let ids = kit.store(Queue::BatchRt, ("m", "MINIO"), &events).await;
    kit.manifest(&Manifest {
        destination_id: "m".to_owned(),
        destination_type: "MINIO".to_owned(),
        source_id: "s1".to_owned(),
        key: "k".to_owned(),
        bytes: 5,
        file: "gone".to_owned(),
        jobs: ranges(ids),
    })
    .await;
    let running = kit.start();
    until("the storage does not answer", || {
        kit.board.snapshot().iter().any(|figures| figures.undecided_uploads == 1 && figures.last_error.is_some())
    })
    .await;
    running.stop().await;
    assert_eq!((kit.pending(Queue::BatchRt), kit.journal().len()), (4, 1));

    let kit = Kit { config: BackendConfig::fixed(snapshot(&server.host)), ..kit };
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(server.state.lock().puts, 0, "nothing is uploaded again");
    assert!(kit.journal().is_empty());
}

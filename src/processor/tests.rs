//! The processor over a real store.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::backend_config::{BackendConfig, Destination, DestinationDefinition, Snapshot, Source, Workspace};
use crate::jobsdb::{Durability, Job, Limits, NewJob, Select, Tx};
use crate::settings::Settings;
use crate::storage::Storage;
use crate::telemetry::LiveTaps;

const START_MS: i64 = 1_741_608_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

struct Kit {
    jobs: JobsDb,
    deps: Deps,
    // Kept for as long as the store is open.
    folder: tempfile::TempDir,
}

fn settings() -> Settings {
    let mut settings = Settings::defaults();
    settings.storage.profile = crate::settings::Profile::Small;
    settings.storage.allow_unsafe_fs = true;
    settings.storage.ballast = 0;
    settings.storage.soft_free = Some(1);
    settings.archival.enabled = false;
    settings
}

fn snapshot() -> Snapshot {
    let webhook = Arc::new(Destination {
        id: "d1".to_owned(),
        enabled: true,
        is_processor_enabled: true,
        config: json!({ "webhookUrl": "https://a.example" }).as_object().cloned().unwrap(),
        definition: DestinationDefinition { name: "WEBHOOK".to_owned(), ..DestinationDefinition::default() },
        ..Destination::default()
    });
    let source = |id: &str| {
        Arc::new(Source {
            id: id.to_owned(),
            enabled: true,
            workspace_id: "ws1".to_owned(),
            destinations: vec![Arc::clone(&webhook)],
            ..Source::default()
        })
    };
    let workspace =
        Workspace { id: "ws1".to_owned(), sources: vec![source("src1"), source("src2")], ..Workspace::default() };
    Snapshot::new(vec![workspace], 0)
}

impl Kit {
    fn new(settings: Settings) -> Kit {
        Kit::at(tempfile::tempdir().unwrap(), settings)
    }

    fn at(folder: tempfile::TempDir, settings: Settings) -> Kit {
        let clock = Clock::manual(START_MS);
        let storage = Storage::open(folder.path(), &settings.storage, &clock).unwrap();
        let jobs = JobsDb::open(storage, &settings, clock.clone()).unwrap();
        let config = BackendConfig::fixed(snapshot()).subscribe();
        let deps = Deps { jobs: jobs.clone(), config, settings: Live::new(settings), clock, live: LiveTaps::default() };
        Kit { jobs, deps, folder }
    }

    fn reopen(self) -> Kit {
        let settings = Settings::clone(&self.deps.settings.load());
        let Kit { jobs, deps, folder } = self;
        jobs.close();
        drop((jobs, deps));
        Kit::at(folder, settings)
    }

    /// Stores events as the gateway does, one job each: source, user, message id.
    async fn store(&self, events: &[(&str, &str, &str)]) {
        let mut tx = Tx::new(Durability::Durable);
        for (source, user, message_id) in events {
            let event = json!({ "type": "track", "userId": user, "messageId": message_id });
            let payload = json!({ "batch": [event], "requestIP": "", "writeKey": "wk", "receivedAt": "2025-03-10T12:00:00.000Z" });
            self.append(&mut tx, source, user, &json!({ "source_id": source }).to_string(), &payload.to_string());
        }
        self.jobs.commit(tx).await.unwrap();
    }

    fn append(&self, tx: &mut Tx, source: &str, user: &str, parameters: &str, payload: &str) {
        let job = self.jobs.encode(
            Queue::Gw,
            &NewJob {
                uuid: Uuid::new_v4(),
                workspace_id: "ws1",
                custom_val: "GW",
                source_id: source,
                destination_id: "",
                user_id: user,
                parameters: parameters.as_bytes(),
                payload: &[payload.as_bytes()],
                event_count: 1,
            },
        );
        tx.append(Queue::Gw, job);
    }

    /// Processes until `expected` jobs have reached the router's queue and the gateway queue holds `left`.
    async fn process(&self, expected: usize, left: u64) -> Vec<Job> {
        let waker = self.jobs.waker(Queue::Rt, &Select::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(self.deps.clone(), stop.clone()));
        let mut jobs = Vec::new();
        let arrived = async {
            loop {
                let limits = Limits { jobs: 10_000, events: 0, bytes: 0 };
                jobs.extend(self.jobs.fetch_async(Queue::Rt, &Select::default(), limits).await.unwrap().jobs);
                if jobs.len() >= expected && self.pending(Queue::Gw) == left {
                    return;
                }
                // A hand-over wakes the router's queue; the gateway queue is looked at with it.
                drop(tokio::time::timeout(Duration::from_millis(50), waker.notified()).await);
            }
        };
        tokio::time::timeout(PATIENCE, arrived).await.expect("the events arrive in time");
        stop.cancel();
        tokio::time::timeout(PATIENCE, running).await.expect("it stops in time").unwrap().unwrap();
        jobs
    }

    fn pending(&self, queue: Queue) -> u64 {
        self.jobs.stats().iter().find(|stats| stats.queue == queue).map_or(0, |stats| stats.pending)
    }
}

fn message_ids(jobs: &[Job]) -> Vec<String> {
    let id = |job: &Job| {
        let parameters: Value = serde_json::from_slice(&job.parameters).unwrap();
        parameters["message_id"].as_str().unwrap().to_owned()
    };
    jobs.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_leave_the_gateway_queue_in_order_and_reach_the_router() {
    let mut settings = settings();
    settings.processor.max_loop_process_events = 7;
    let kit = Kit::new(settings);
    let ids: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    let events: Vec<(&str, &str, &str)> = ids.iter().map(|id| ("src1", "user", id.as_str())).collect();
    kit.store(&events).await;
    let jobs = kit.process(100, 0).await;
    assert_eq!(message_ids(&jobs), ids);
    let payload: Value = serde_json::from_slice(&jobs[0].payload).unwrap();
    assert_eq!(payload["endpoint"], "https://a.example");
    assert_eq!((&*jobs[0].partition.custom_val, &*jobs[0].partition.destination_id), ("WEBHOOK", "d1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_cannot_go_on_holds_up_no_other() {
    let kit = Kit::new(settings());
    let mut tx = Tx::new(Durability::Durable);
    kit.append(&mut tx, "src1", "user", "no parameters", "{}");
    kit.jobs.commit(tx).await.unwrap();
    kit.store(&[("src2", "user", "m1"), ("src2", "user", "m2")]).await;
    assert_eq!(message_ids(&kit.process(2, 1).await), ["m1", "m2"]);
    // The job that stopped its source is still there, not leased by anyone.
    let limits = Limits { jobs: 10, events: 0, bytes: 0 };
    assert_eq!(kit.jobs.fetch(Queue::Gw, &Select::source("src1"), limits).unwrap().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_events_are_finished_and_produce_nothing() {
    let kit = Kit::new(settings());
    let mut tx = Tx::new(Durability::Durable);
    kit.append(&mut tx, "src1", "user", r#"{"source_id":"src1"}"#, "no payload");
    kit.append(
        &mut tx,
        "gone",
        "user",
        r#"{"source_id":"gone"}"#,
        r#"{"batch":[{}],"receivedAt":"2025-03-10T12:00:00.000Z"}"#,
    );
    kit.jobs.commit(tx).await.unwrap();
    assert!(kit.process(0, 0).await.is_empty());
    assert_eq!(kit.pending(Queue::ProcError), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_is_delivered_once_within_its_window_whatever_its_source() {
    let mut settings = settings();
    settings.processor.dedup.enabled = true;
    let kit = Kit::new(settings);
    kit.store(&[("src1", "user", "a"), ("src1", "user", "a"), ("src1", "user", "b")]).await;
    assert_eq!(message_ids(&kit.process(2, 0).await), ["a", "b"]);

    // The ids outlive the process.
    let kit = kit.reopen();
    kit.store(&[("src2", "user", "a"), ("src2", "user", "c")]).await;
    let jobs = kit.process(3, 0).await;
    assert_eq!(message_ids(&jobs), ["a", "b", "c"]);
    let of_second_source = jobs.iter().filter(|job| job.partition.source_id == "src2");
    assert_eq!(of_second_source.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_deduplication_every_event_is_new() {
    let kit = Kit::new(settings());
    kit.store(&[("src1", "user", "a"), ("src1", "user", "a")]).await;
    assert_eq!(message_ids(&kit.process(2, 0).await), ["a", "a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_read_is_split_and_loses_nothing() {
    let mut settings = settings();
    settings.storage.max_tx_bytes = 20_000;
    let kit = Kit::new(settings);
    let ids: Vec<String> = (0..60).map(|number| format!("m{number}")).collect();
    for id in &ids {
        kit.store(&[("src1", "user", id)]).await;
    }
    assert_eq!(message_ids(&kit.process(60, 0).await), ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_outputs_are_large_ends_early_and_keeps_the_order() {
    let mut settings = settings();
    settings.processor.payload_limit = 1 << 30;
    let kit = Kit::new(settings);
    let ids: Vec<String> = (0..30).map(|number| format!("m{number}")).collect();
    for id in &ids {
        let mut tx = Tx::new(Durability::Durable);
        let event = json!({ "type": "track", "userId": "user", "messageId": id, "text": "x".repeat(2 << 20) });
        let payload =
            json!({ "batch": [event], "requestIP": "", "writeKey": "wk", "receivedAt": "2025-03-10T12:00:00.000Z" });
        kit.append(&mut tx, "src1", "user", &json!({ "source_id": "src1" }).to_string(), &payload.to_string());
        kit.jobs.commit(tx).await.unwrap();
    }
    assert_eq!(message_ids(&kit.process(30, 0).await), ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_configuration_and_stops_when_told() {
    let kit = Kit::new(settings());
    let (sender, receiver) = tokio::sync::watch::channel(None);
    let stop = CancellationToken::new();
    let running = tokio::spawn(run(Deps { config: receiver, ..kit.deps.clone() }, stop.clone()));
    stop.cancel();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    drop(sender);
    let (_, receiver) = tokio::sync::watch::channel(None);
    let ended = run(Deps { config: receiver, ..kit.deps.clone() }, CancellationToken::new()).await;
    assert!(matches!(ended, Err(ProcessorError::NoConfiguration)));
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_stored_with_their_batch_joined_later_and_dropped_when_old() {
    let kit = Kit::new(settings());
    kit.store(&[("src1", "u", "m1"), ("src1", "u", "m2"), ("src2", "u", "m3")]).await;
    kit.process(3, 0).await;
    kit.store(&[("src1", "u", "m4")]).await;
    // The first three are in the hands of the test already.
    kit.process(1, 0).await;
    let (jobs, start) = (kit.jobs.clone(), START_MS);
    let figures = tokio::task::spawn_blocking(move || {
        let of = |from_ms, to_ms| {
            let filter = accounting::Filter { source_id: "src1".to_owned(), by_event: true, ..Default::default() };
            let report = accounting::read(&jobs, from_ms, to_ms, &filter).unwrap();
            let lines = report.lines.into_iter().filter(|line| line.stage == "dest_transformer");
            lines.map(|line| (line.after, line.destination_id, line.event_type, line.events)).collect::<Vec<_>>()
        };
        let stored = || jobs.scan(crate::jobsdb::Namespace::Reporting, b"").unwrap().len();
        let all = vec![("event_filter".to_owned(), "d1".to_owned(), "track".to_owned(), 3)];
        assert_eq!(of(start, start + 60_000), all);
        assert_eq!(of(start - 120_000, start - 60_000), []);
        let parts = stored();
        assert!(parts >= 3, "{parts}");
        let month = Duration::from_secs(30 * 86_400);
        accounting::tidy(&jobs, 0, start + 60_000, month).unwrap();
        assert_eq!(stored(), parts, "a minute that may get more parts waits");
        accounting::tidy(&jobs, 0, start + 3_600_000, month).unwrap();
        assert_eq!((stored(), of(start, start)), (2, all));
        accounting::tidy(&jobs, 0, start + 40 * 86_400_000, month).unwrap();
        stored()
    });
    assert_eq!(figures.await.unwrap(), 0);
}

/// Two sources for one destination with this user transformation.
fn transforming(code: &str) -> Snapshot {
    let mut snapshot = snapshot();
    let code = crate::backend_config::TransformationCode::new("v1", "Mine", "", code.to_owned());
    let transformation = crate::backend_config::Transformation {
        id: "t1".to_owned(),
        version_id: "v1".to_owned(),
        code: Some(Arc::new(code)),
        ..crate::backend_config::Transformation::default()
    };
    for source in snapshot.source_by_id.values_mut() {
        let source = Arc::make_mut(source);
        for destination in &mut source.destinations {
            Arc::make_mut(destination).transformations.push(transformation.clone());
        }
    }
    snapshot
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_a_transformation_go_on_and_what_fails_is_kept_as_it_was() {
    let mut kit = Kit::new(settings());
    let code = "export function transformEvent(event, metadata) {
        const id = event.messageId;
        if (id === 'drop') return null;
        if (id === 'fail') { event.userId = 'changed'; throw new Error('no'); }
        if (id === 'two') return [{ ...event, event: 'One' }, { ...event, event: 'Two' }];
        const { transformationId, transformationVersionId, destinationId } = metadata(event);
        return { ...event, event: [transformationId, transformationVersionId, destinationId].join() };
    }";
    kit.deps.config = BackendConfig::fixed(transforming(code)).subscribe();
    let ids = ["a", "drop", "two", "fail", "b"];
    kit.store(&ids.map(|id| ("src1", "u", id))).await;
    let jobs = kit.process(4, 0).await;
    let shown: Vec<(String, String)> = jobs
        .iter()
        .map(|job| {
            let parameters: Value = serde_json::from_slice(&job.parameters).unwrap();
            let payload: Value = serde_json::from_slice(&job.payload).unwrap();
            assert_eq!(payload["body"]["JSON"]["event"], parameters["event_name"]);
            let text = |key: &str| parameters[key].as_str().unwrap().to_owned();
            (text("message_id"), text("event_name"))
        })
        .collect();
    let expected = [("a", "t1,v1,d1"), ("two", "One"), ("two", "Two"), ("b", "t1,v1,d1")];
    assert_eq!(shown, expected.map(|(id, name)| (id.to_owned(), name.to_owned())));
    let limits = Limits { jobs: 10, events: 0, bytes: 0 };
    let dead = kit.jobs.fetch_async(Queue::ProcError, &Select::default(), limits).await.unwrap().jobs;
    assert_eq!(dead.len(), 1);
    let parameters: Value = serde_json::from_slice(&dead[0].parameters).unwrap();
    assert_eq!((&parameters["stage"], &parameters["status_code"]), (&json!("user_transformer"), &json!(400)));
    assert!(parameters["error"].as_str().unwrap().starts_with("Error: no\n    at transformEvent (Mine:4:"));
    let payload: Value = serde_json::from_slice(&dead[0].payload).unwrap();
    assert_eq!((&payload[0]["messageId"], &payload[0]["userId"]), (&json!("fail"), &json!("u")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_transformation_makes_has_a_message_id_of_its_own_and_a_slow_source_stalls_no_other() {
    let mut kit = Kit::new(settings());
    let code = "export function transformBatch(events, metadata) {
        if (metadata(events[0]).sourceId === 'src1') for (;;) {}
        return [{ type: 'track', event: 'Sum', count: events.length }];
    }";
    kit.deps.config = BackendConfig::fixed(transforming(code)).subscribe();
    let slow: Vec<(&str, &str, &str)> = (0..50).map(|_| ("src1", "u", "s")).collect();
    kit.store(&slow).await;
    kit.store(&[("src2", "u", "x"), ("src2", "u", "y")]).await;
    let began = std::time::Instant::now();
    let jobs = kit.process(1, 50).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(jobs[0].partition.source_id, "src2");
    let ids = message_ids(&jobs[..1]);
    assert!(Uuid::parse_str(&ids[0]).is_ok(), "{ids:?}");
}

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::backend_config::{
    Destination, DestinationDefinition, Source, SourceDefinition, SourceTrackingPlan, TrackingPlan, Workspace,
};
use crate::jobsdb::{Lease, Partition};

const NOW: &str = "2025-03-10T12:00:11.000Z";

/// A job that left the processor.
#[derive(Debug)]
struct Sent {
    queue: Queue,
    custom_val: String,
    source_id: String,
    destination_id: String,
    user_id: String,
    workspace_id: String,
    uuid: Uuid,
    parameters: Value,
    payload: Value,
}

fn destination(id: &str, type_name: &str, config: Value) -> Destination {
    Destination {
        id: id.to_owned(),
        enabled: true,
        is_processor_enabled: true,
        config: config.as_object().cloned().unwrap(),
        definition: DestinationDefinition {
            id: format!("def-{id}"),
            name: type_name.to_owned(),
            display_name: type_name.to_owned(),
            ..DestinationDefinition::default()
        },
        ..Destination::default()
    }
}

fn webhook() -> Destination {
    destination("d1", "WEBHOOK", json!({ "webhookUrl": "https://a.example/in" }))
}

fn snapshot(destinations: Vec<Destination>, change: impl Fn(&mut Source), workspace_settings: Value) -> Snapshot {
    let mut source = Source {
        id: "src1".to_owned(),
        name: "Shop".to_owned(),
        enabled: true,
        workspace_id: "ws1".to_owned(),
        definition: SourceDefinition { id: "sd1".to_owned(), kind: "web".to_owned(), ..SourceDefinition::default() },
        destinations: destinations.into_iter().map(Arc::new).collect(),
        ..Source::default()
    };
    change(&mut source);
    let workspace = Workspace {
        id: "ws1".to_owned(),
        sources: vec![Arc::new(source)],
        settings: workspace_settings.as_object().cloned().unwrap_or_default(),
        ..Workspace::default()
    };
    Snapshot::new(vec![workspace], 0)
}

fn job(event: &Value, parameters: Value) -> Job {
    let payload = json!({ "batch": [event], "requestIP": "203.0.113.9", "writeKey": "wk", "receivedAt": "2025-03-10T12:00:10.000Z" });
    let mut all = json!({ "source_id": "src1" });
    all.as_object_mut().unwrap().extend(parameters.as_object().cloned().unwrap_or_default());
    Job {
        id: 41,
        lease: Lease { queue: Queue::Gw, partition: 1, job_id: 41 },
        partition: Arc::new(Partition {
            workspace_id: "ws1".to_owned(),
            source_id: "src1".to_owned(),
            ..Partition::default()
        }),
        uuid: Uuid::from_u128(41),
        created_us: 0,
        event_count: 1,
        user_id: "<<>>anon-7<<>>".to_owned(),
        parameters: Bytes::from(all.to_string()),
        payload: Bytes::from(payload.to_string()),
        last: None,
    }
}

fn signup() -> Value {
    json!({
        "type": "track", "event": "Signup", "anonymousId": "anon-7", "messageId": "m-1", "rudderId": "r",
        "originalTimestamp": "2025-03-10T09:59:00.000Z", "sentAt": "2025-03-10T10:00:00.000Z",
        "receivedAt": "2025-03-10T10:00:01.000Z", "request_ip": "203.0.113.9",
    })
}

fn sent_with(settings: &Settings, snapshot: &Snapshot, job: &Job) -> (Vec<Sent>, Counts) {
    let mut pipeline = Pipeline::new(snapshot, settings, NOW.to_owned(), None);
    let mut sent = Vec::new();
    pipeline
        .run(job, &mut |queue, new: &NewJob<'_>| {
            sent.push(Sent {
                queue,
                custom_val: new.custom_val.to_owned(),
                source_id: new.source_id.to_owned(),
                destination_id: new.destination_id.to_owned(),
                user_id: new.user_id.to_owned(),
                workspace_id: new.workspace_id.to_owned(),
                uuid: new.uuid,
                parameters: serde_json::from_slice(new.parameters).unwrap(),
                payload: serde_json::from_slice(&new.payload.concat()).unwrap(),
            });
        })
        .unwrap();
    (sent, pipeline.counts)
}

fn sent(snapshot: &Snapshot, job: &Job) -> (Vec<Sent>, Counts) {
    sent_with(&Settings::defaults(), snapshot, job)
}

fn without_archive() -> Settings {
    let mut settings = Settings::defaults();
    settings.archival.enabled = false;
    settings
}

#[test]
fn an_event_becomes_a_router_job_as_in_the_worked_example() {
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let (sent, counts) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    assert_eq!((sent.len(), counts.events, counts.to_router), (1, 1, 1));
    let job = &sent[0];
    assert_eq!((job.queue, job.custom_val.as_str(), job.user_id.as_str()), (Queue::Rt, "WEBHOOK", "<<>>anon-7<<>>"));
    assert_eq!((job.source_id.as_str(), job.destination_id.as_str(), job.workspace_id.as_str()), ("src1", "d1", "ws1"));
    let mut event = signup();
    event["receivedAt"] = "2025-03-10T12:00:10.000Z".into();
    event["timestamp"] = "2025-03-10T11:59:10.000Z".into();
    event["context"] = json!({ "ip": "203.0.113.9" });
    assert_eq!(job.payload["body"]["JSON"], event);
    assert_eq!(
        job.parameters,
        json!({
            "source_id": "src1", "source_name": "Shop", "destination_id": "d1", "received_at": "2025-03-10T12:00:10.000Z",
            "transform_at": "processor", "message_id": "m-1", "gateway_job_id": 41, "source_task_run_id": "", "source_job_id": "",
            "source_job_run_id": "", "event_name": "Signup", "event_type": "track", "source_definition_id": "sd1",
            "destination_definition_id": "def-d1", "source_category": "", "record_id": null, "workspaceId": "ws1", "traceparent": "",
            "connection_id": "src1:d1",
        })
    );
}

#[test]
fn parameters_carry_the_run_the_record_and_the_trace() {
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let event = json!({ "type": "track", "messageId": 5, "recordId": { "k": 1 }, "context": { "sources": { "job_id": "job \"1\"" } } });
    let parameters = json!({ "source_job_run_id": "run", "source_task_run_id": "task", "traceparent": "00-1" });
    let (sent, _) = sent(&snapshot, &job(&event, parameters));
    let parameters = &sent[0].parameters;
    assert_eq!(parameters["message_id"], "5");
    assert_eq!(parameters["record_id"], json!({ "k": 1 }));
    assert_eq!(parameters["source_job_id"], "job \"1\"");
    assert_eq!(
        (&parameters["source_job_run_id"], &parameters["source_task_run_id"], &parameters["traceparent"]),
        (&json!("run"), &json!("task"), &json!("00-1"))
    );
}

#[test]
fn an_event_becomes_a_job_for_every_row_of_a_warehouse() {
    let warehouse = destination("wh", "POSTGRES", json!({ "skipUsersTable": false }));
    let snapshot = snapshot(vec![warehouse], |_| {}, Value::Null);
    let (jobs, counts) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    let tables: Vec<&str> = jobs.iter().map(|job| job.payload["metadata"]["table"].as_str().unwrap()).collect();
    assert_eq!((tables, counts.events), (vec!["tracks", "signup"], 1));
    for job in &jobs {
        assert_eq!((job.queue, job.custom_val.as_str()), (Queue::BatchRt, "POSTGRES"));
        assert_eq!(job.payload["metadata"]["receivedAt"], "2025-03-10T12:00:10.000Z");
        assert_eq!(job.payload["data"]["id"], "m-1");
        assert_eq!(job.payload["data"]["context_destination_id"], "wh");
        assert_eq!(job.payload["metadata"]["columns"]["uuid_ts"], "datetime");
    }

    let mut settings = without_archive();
    settings.warehouse_rows.puts_source_in_context = false;
    let (plain, _) = sent_with(&settings, &snapshot, &job(&signup(), json!({})));
    assert_eq!(plain[0].payload["data"].get("context_destination_id"), None);

    settings.warehouse_rows.most_columns = 5;
    let (refused, _) = sent_with(&settings, &snapshot, &job(&signup(), json!({})));
    assert_eq!((refused.len(), refused[0].queue), (1, Queue::ProcError));
    let parameters = &refused[0].parameters;
    assert_eq!((&parameters["status_code"], &parameters["stage"]), (&json!(400), &json!("dest_transformer")));
}

#[test]
fn every_destination_gets_its_own_job_in_its_own_queue() {
    let s3 = destination("d2", "S3", json!({}));
    let snapshot = snapshot(vec![webhook(), s3], |_| {}, Value::Null);
    let (sent, counts) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    let queues: Vec<_> = sent.iter().map(|job| (job.queue, job.destination_id.as_str())).collect();
    assert_eq!(queues, [(Queue::Rt, "d1"), (Queue::BatchRt, "d2")]);
    assert_eq!(sent[1].payload["timestamp"], "2025-03-10T11:59:10.000Z");
    assert_eq!(sent[1].payload.get("context"), None);
    assert_eq!((counts.to_router, counts.to_batch_router), (1, 1));
    let pinned = job(&signup(), json!({ "destination_id": "d2" }));
    let (sent, _) = sent_with(&without_archive(), &snapshot, &pinned);
    assert_eq!(sent.iter().map(|job| job.destination_id.as_str()).collect::<Vec<_>>(), ["d2"]);
}

#[test]
fn an_event_of_nobody_gets_a_user_of_its_own() {
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let mut anonymous = job(&signup(), json!({}));
    anonymous.user_id.clear();
    let (sent, _) = sent(&snapshot, &anonymous);
    assert_eq!(sent.last().unwrap().user_id, format!("random-{}", sent.last().unwrap().uuid));
}

#[test]
fn an_event_that_fails_for_a_destination_becomes_a_dead_letter() {
    let unknown = destination("d3", "GA4", json!({}));
    let snapshot = snapshot(vec![webhook(), unknown], |_| {}, Value::Null);
    let (sent, counts) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    assert_eq!((sent.len(), counts.dead), (2, 1));
    let letter = &sent[1];
    assert_eq!(
        (letter.queue, letter.custom_val.as_str(), letter.destination_id.as_str()),
        (Queue::ProcError, "GA4", "d3")
    );
    assert_eq!(letter.payload[0]["messageId"], "m-1");
    assert_eq!(
        letter.parameters,
        json!({
            "source_id": "src1", "destination_id": "d3", "source_job_run_id": "", "source_task_run_id": "", "record_id": null,
            "connection_id": "src1:d3", "message_id": "m-1", "event_name": "Signup", "event_type": "track", "transform_at": "processor",
            "stage": "dest_transformer", "status_code": 404, "error": "transformer for GA4 not available", "attempt": 1,
            "first_attempted_at": NOW,
        })
    );
}

#[test]
fn a_filtered_event_leaves_nothing_behind() {
    let mut picky = webhook();
    picky.definition.config.insert("supportedMessageTypes".to_owned(), json!(["identify"]));
    let picky = snapshot(vec![picky], |_| {}, Value::Null);
    let (sent_jobs, counts) = sent_with(&without_archive(), &picky, &job(&signup(), json!({})));
    assert!(sent_jobs.is_empty());
    assert_eq!(counts.filtered_at("event_filter"), 1);
    let drained = job(&signup(), json!({ "source_job_run_id": "run" }));
    let mut settings = without_archive();
    settings.processor.drained_job_runs = vec!["run".to_owned()];
    let (sent_jobs, counts) = sent_with(&settings, &picky, &drained);
    assert!(sent_jobs.is_empty(), "what the operator gave up is not kept");
    assert_eq!(counts.filtered_at("event_filter"), 0);
}

#[test]
fn transform_at_none_sends_the_event_as_it_is() {
    let mut raw = destination("d1", "GA4", json!({}));
    raw.definition.config.insert("transformAtV1".to_owned(), json!("none"));
    let snapshot = snapshot(vec![raw], |_| {}, Value::Null);
    let (sent, _) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    assert_eq!((sent[0].queue, &sent[0].parameters["transform_at"]), (Queue::Rt, &json!("none")));
    assert_eq!(sent[0].payload["event"], "Signup");
}

#[test]
fn the_archive_gets_events_without_destinations_but_no_dropped_ones() {
    let dumps = json!({ "dataRetention": { "storagePreferences": { "gatewayDumps": true } } });
    let nowhere = snapshot(Vec::new(), |_| {}, dumps.clone());
    let (sent_jobs, counts) = sent(&nowhere, &job(&signup(), json!({})));
    assert_eq!((sent_jobs.len(), counts.archived, counts.filtered_at("destination_filter")), (1, 1, 1));
    let copy = &sent_jobs[0];
    assert_eq!(
        (copy.queue, copy.custom_val.as_str(), copy.destination_id.as_str(), copy.uuid),
        (Queue::Arc, "GW", "", Uuid::from_u128(41))
    );
    assert_eq!(copy.payload, signup());
    assert_eq!(copy.parameters, json!({ "source_id": "src1" }));

    for parameters in [
        json!({ "is_event_blocked": true }),
        json!({ "is_bot": true, "bot_action": "drop" }),
        json!({ "source_job_run_id": "run" }),
    ] {
        assert!(sent(&nowhere, &job(&signup(), parameters.clone())).0.is_empty(), "{parameters}");
    }
    let transient = snapshot(Vec::new(), |source| source.transient = true, dumps);
    assert!(sent(&transient, &job(&signup(), json!({}))).0.is_empty());
}

#[test]
fn a_flagged_bot_is_marked_before_the_archive_copy() {
    let dumps = json!({ "dataRetention": { "storagePreferences": { "gatewayDumps": true } } });
    let snapshot = snapshot(vec![webhook()], |_| {}, dumps);
    let (sent, _) = sent(&snapshot, &job(&signup(), json!({ "is_bot": true, "bot_action": "flag", "bot_name": "X" })));
    assert_eq!(sent[0].payload["context"], json!({ "isBot": true, "bot": { "name": "X" } }));
    assert_eq!(
        sent[1].payload["body"]["JSON"]["context"],
        json!({ "isBot": true, "bot": { "name": "X" }, "ip": "203.0.113.9" })
    );
}

#[test]
fn marks_of_reverse_etl_stay_home() {
    let snapshot = snapshot(vec![webhook()], |source| source.definition.category = "warehouse".to_owned(), Value::Null);
    let context_of = |activation: Value| {
        let event = json!({ "type": "track", "context": { "ip": "1.1.1.1", "activation": activation } });
        let (sent, _) = sent_with(&without_archive(), &snapshot, &job(&event, json!({})));
        sent[0].payload["body"]["JSON"]["context"].clone()
    };
    assert_eq!(context_of(json!({ "fingerprint": 1, "origin": 2 })), json!({ "ip": "1.1.1.1" }));
    assert_eq!(context_of(json!({ "origin": 2, "x": 3 })), json!({ "ip": "1.1.1.1", "activation": { "x": 3 } }));
}

#[test]
fn consent_and_integrations_choose_the_destinations() {
    let consenting = destination(
        "d4",
        "WEBHOOK",
        json!({ "webhookUrl": "https://a.example", "oneTrustCookieCategories": [{ "oneTrustCookieCategory": "C2" }] }),
    );
    let snapshot = snapshot(vec![consenting], |_| {}, Value::Null);
    let count = |event: Value| sent_with(&without_archive(), &snapshot, &job(&event, json!({}))).0.len();
    assert_eq!(count(json!({ "context": { "consentManagement": { "deniedConsentIds": ["C2"] } } })), 0);
    assert_eq!(count(json!({ "context": { "consentManagement": { "deniedConsentIds": ["C3"] } } })), 1);
    assert_eq!(count(json!({ "integrations": { "All": false } })), 0);
}

#[test]
fn unreadable_jobs_and_unknown_sources_produce_nothing() {
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let mut broken = job(&signup(), json!({}));
    broken.payload = Bytes::from_static(b"{\"batch\":[5]}");
    assert!(sent(&snapshot, &broken).0.is_empty());
    assert!(sent(&snapshot, &job(&signup(), json!({ "source_id": "other" }))).0.is_empty());
}

#[test]
fn unreadable_parameters_stop_the_partition() {
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let settings = Settings::defaults();
    let mut broken = job(&signup(), json!({}));
    broken.parameters = Bytes::from_static(b"{");
    let result = Pipeline::new(&snapshot, &settings, NOW.to_owned(), None).run(&broken, &mut |_, _| {});
    assert!(matches!(result, Err(ProcessorError::Parameters { job_id: 41, .. })));
}

#[test]
fn a_panic_fails_one_event_for_one_destination() {
    let failed = isolated::<()>(|| panic!("a bug")).unwrap_err();
    assert_eq!((failed.stage, failed.status, &*failed.error), ("dest_transformer", 500, "internal error"));
    assert_eq!(isolated(|| Ok(1)).unwrap(), 1);
}

#[test]
fn a_panic_outside_of_a_destination_gives_up_its_job_alone() {
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let settings = Settings::defaults();
    let mut pipeline = Pipeline::new(&snapshot, &settings, NOW.to_owned(), None);
    let mut outputs: Vec<(Queue, Value)> = Vec::new();
    let emit = |outputs: &mut Vec<(Queue, Value)>, queue: Queue, new: &NewJob<'_>| {
        outputs.push((queue, serde_json::from_slice(new.parameters).unwrap()));
        assert!(queue != Queue::Rt || new.user_id != "broken", "a bug");
    };
    let mut broken = job(&signup(), json!({}));
    broken.user_id = "broken".to_owned();
    pipeline.run_guarded(&broken, &mut outputs, emit, Vec::clear).unwrap();
    let [(queue, parameters)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!((*queue, &parameters["stage"]), (Queue::ProcError, &json!("processor")));
    outputs.clear();
    pipeline.run_guarded(&job(&signup(), json!({})), &mut outputs, emit, Vec::clear).unwrap();
    assert_eq!(outputs.first().map(|(queue, _)| *queue), Some(Queue::Rt));
}

fn with_plan(config: Value, rules: Value) -> Snapshot {
    let document = json!({"events": [{"name": "Signup", "eventType": "track", "rules": rules}]});
    let plan = TrackingPlan::new("tp", 2, document.as_object().cloned().unwrap());
    let planned = SourceTrackingPlan {
        id: "tp".to_owned(),
        version: 2,
        config: config.as_object().cloned().unwrap(),
        merged_config: None,
        plan: Some(Arc::new(plan)),
    };
    let two = vec![webhook(), destination("d2", "WEBHOOK", json!({ "webhookUrl": "https://b.example" }))];
    snapshot(two, |source| source.tracking_plan = Some(planned.clone()), Value::Null)
}

#[test]
fn an_event_that_departs_from_its_plan_is_one_dead_letter_for_all_destinations() {
    let drops = json!({"global": {"anyOtherViolation": "drop"}});
    let snapshot = with_plan(drops, json!({"required": ["properties", "receivedAt"]}));
    let (sent, counts) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    let [letter] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!(
        (letter.queue, letter.custom_val.as_str(), letter.destination_id.as_str()),
        (Queue::ProcError, "GW", "")
    );
    assert_eq!(letter.parameters["violationErrors"][0]["property"], "properties");
    assert_eq!(letter.parameters["status_code"], 400);
    assert_eq!(letter.payload[0]["messageId"], "m-1");
    assert_eq!(letter.payload[0].get("context"), None, "the event is kept as it was");
    assert_eq!(counts.tally.of(Stage::TrackingPlanValidator, State::Aborted), 1);
    assert_eq!(counts.tally.of(Stage::DestTransformer, State::Succeeded), 0);
}

#[test]
fn an_event_that_may_go_on_tells_every_destination_what_was_found() {
    let snapshot = with_plan(json!({"global": {"anyOtherViolation": "forward"}}), json!({"required": ["properties"]}));
    let (sent, counts) = sent_with(&without_archive(), &snapshot, &job(&signup(), json!({})));
    assert_eq!(sent.len(), 2);
    for sent in &sent {
        let context = &sent.payload["body"]["JSON"]["context"];
        assert_eq!((&context["trackingPlanId"], &context["trackingPlanVersion"]), (&json!("tp"), &json!(2)));
        assert_eq!(context["violationErrors"][0]["type"], "Required-Missing");
    }
    assert_eq!(counts.tally.of(Stage::TrackingPlanValidator, State::SucceededWithViolations), 1);
    assert_eq!(counts.tally.of(Stage::EventFilter, State::Succeeded), 2);
    assert_eq!(counts.tally.of(Stage::DestTransformer, State::Succeeded), 2);
}

#[test]
fn a_replayed_event_is_not_archived_again() {
    let mut settings = Settings::defaults();
    settings.archival.enabled = true;
    settings.archival.local_path = Some("/archive".into());
    let snapshot = snapshot(vec![webhook()], |_| {}, Value::Null);
    let queues = |parameters: Value| -> Vec<Queue> {
        let (sent, _) = sent_with(&settings, &snapshot, &job(&signup(), parameters));
        sent.iter().map(|sent| sent.queue).collect()
    };
    assert_eq!(queues(json!({})), [Queue::Arc, Queue::Rt]);
    assert_eq!(queues(json!({"is_replay": true})), [Queue::Rt]);
}

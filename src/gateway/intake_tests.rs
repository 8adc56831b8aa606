//! Tables over the rules of gateway.md 5 and 6.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::backend_config::{Snapshot, Source, SourceDefinition, Workspace};
use crate::gateway::directory::Directory;

/// A job as it would be stored.
#[derive(Debug)]
struct Stored {
    user_id: String,
    parameters: Value,
    payload: Value,
    text: String,
}

impl Stored {
    fn event(&self) -> &Value {
        &self.payload["batch"][0]
    }
}

const NOW: &str = "2024-01-31T10:11:12.345Z";

fn rules() -> Rules {
    Rules {
        allow_without_identity: false,
        max_req_bytes: 4_096_000,
        max_expanded_bytes: 64 << 20,
        max_json_depth: 1200,
    }
}

fn directory() -> Directory {
    let source = |id: &str, config: Value, original_id: &str| {
        Arc::new(Source {
            id: id.to_owned(),
            write_key: format!("wk-{id}"),
            enabled: true,
            workspace_id: "ws".to_owned(),
            original_id: original_id.to_owned(),
            config: config.as_object().cloned().unwrap_or_default(),
            definition: SourceDefinition::default(),
            ..Source::default()
        })
    };
    let workspace = Workspace {
        id: "ws".to_owned(),
        sources: vec![
            source("src", json!({}), ""),
            source("bots", json!({"botAction": "drop"}), ""),
            source("replay", json!({}), "src"),
        ],
        settings: json!({"eventBlocking": {"events": {"track": ["Blocked"]}}}).as_object().cloned().unwrap(),
        ..Workspace::default()
    };
    Directory::new(Arc::new(Snapshot::new(vec![workspace], 0)))
}

fn run_with(
    call: Call,
    source: &str,
    headers: &[(&str, &str)],
    rules: &Rules,
    body: &[u8],
) -> Result<(Vec<Stored>, Option<Refusal>), Refusal> {
    let directory = directory();
    let headers: HashMap<&str, &str> = headers.iter().copied().collect();
    let header = |name: &str| headers.get(name).copied().unwrap_or_default();
    let context = Context {
        call,
        entry: directory.by_id(source).unwrap(),
        anonymous_id_header: header("AnonymousId"),
        client_ip: "1.2.3.4",
        job_run_id: header("X-Rudder-Job-Run-Id"),
        task_run_id: header("X-Rudder-Task-Run-Id"),
        destination_id: "",
        received_at: NOW,
    };
    let prepared = prepare(&context, rules, &Admission::default(), body)?;
    let mut jobs = Vec::new();
    prepared.each_job(|job| {
        let text = String::from_utf8(job.payload.concat()).unwrap();
        assert_eq!((job.custom_val, job.workspace_id, job.event_count), ("GW", "ws", 1));
        jobs.push(Stored {
            user_id: job.user_id.to_owned(),
            parameters: serde_json::from_slice(job.parameters).unwrap(),
            payload: serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
            text,
        });
    });
    Ok((jobs, prepared.refusal))
}

fn run(call: Call, body: &str) -> Result<Vec<Stored>, Refusal> {
    run_with(call, "src", &[], &rules(), body.as_bytes()).map(|(jobs, _)| jobs)
}

fn refusal(call: Call, body: &str) -> Option<Refusal> {
    run(call, body).err()
}

#[test]
fn the_first_failing_check_answers() {
    use Refusal::*;
    for (call, body, expected) in [
        (Call::Track, "not-json", Some(InvalidJson)),
        (Call::Track, "", Some(InvalidJson)),
        (Call::Track, r#"{"userId":"u",}"#, Some(InvalidJson)),
        (Call::Track, r#"{"userId":"u"} x"#, Some(InvalidJson)),
        (Call::Track, "\u{feff}{\"userId\":\"u\"}", Some(InvalidJson)),
        (Call::Track, r#"{"userId":"u","n":1e400}"#, Some(InvalidJson)),
        (Call::Track, r#"[{"userId":"u"}]"#, Some(NotAnEvent)),
        (Call::Track, "123", Some(NoIdentity)),
        (Call::Track, "null", Some(NoIdentity)),
        (Call::Track, r#"{"event":"E"}"#, Some(NoIdentity)),
        (Call::Track, r#"{"userId":"  ","anonymousId":null}"#, Some(NoIdentity)),
        (Call::Track, r#"{"userId":false}"#, None),
        (Call::Track, " \n\t{\"userId\":0}\r\n ", None),
        (Call::Extract, r#"{"data":1}"#, None),
        (Call::Extract, "1", None),
        (Call::Batch, "{}", Some(EmptyBatch)),
        (Call::Batch, r#"{"batch":null}"#, Some(EmptyBatch)),
        (Call::Batch, r#"[{"userId":"u"}]"#, Some(EmptyBatch)),
        (Call::Batch, r#"{"batch":{"userId":"u"}}"#, None),
        (Call::Batch, r#"{"batch":[[1]]}"#, Some(NotAnEvent)),
        (Call::Batch, r#"{"batch":["x"]}"#, Some(NotAnEvent)),
        (Call::Batch, r#"{"batch":[{"userId":"u"},{"type":"track"}]}"#, Some(NoIdentity)),
        (Call::Batch, r#"{"batch":[{"type":"track"}],}"#, Some(InvalidJson)),
        (Call::Batch, r#"{"batch":[{"type":"record"}]}"#, None),
        (Call::Import, r#"{"batch":[]}"#, None),
        (Call::Import, "nope", Some(InvalidJson)),
    ] {
        assert_eq!(refusal(call, body), expected, "{call:?} {body}");
    }
}

#[test]
fn size_comes_after_identity_and_audience_lists_have_none() {
    let long = "a".repeat(4_200_000);
    let with_id = format!(r#"{{"userId":"u1","properties":{{"p":"{long}"}}}}"#);
    assert_eq!(refusal(Call::Track, &with_id), Some(Refusal::TooLarge));
    assert_eq!(refusal(Call::AudienceList, &with_id), None);
    assert_eq!(refusal(Call::Track, &format!(r#"{{"event":"{long}"}}"#)), Some(Refusal::NoIdentity));
    assert_eq!(refusal(Call::Batch, &format!(r#"{{"x":"{long}"}}"#)), Some(Refusal::TooLarge));
}

#[test]
fn what_would_grow_beyond_bounds_is_refused_before_it_is_built() {
    let rules = Rules { allow_without_identity: true, ..rules() };
    let many = format!(r#"{{"batch":[{}{{}}]}}"#, "{},".repeat(1_300_000));
    assert_eq!(run_with(Call::Batch, "src", &[], &rules, many.as_bytes()).err(), Some(Refusal::TooLarge));
    let events = format!(r#"{{"batch":[{}{{"userId":"u"}}]}}"#, r#"{"userId":"u"},"#.repeat(9_999));
    let header = "h".repeat(400_000);
    let (jobs, _) = run_with(Call::Batch, "src", &[("AnonymousId", &header)], &rules, events.as_bytes()).unwrap();
    assert_eq!(jobs.len(), 10_000);
    assert!(jobs.iter().all(|job| job.user_id.len() < 3_200 && job.user_id.split("<<>>").next().unwrap().len() == 64));
}

#[test]
fn a_stored_event_has_the_fields_that_the_gateway_sets() {
    let jobs = run(Call::Track, r#"{"userId":"user-1","anonymousId":"anon-1","event":"E","messageId":"m-1"}"#).unwrap();
    let [job] = jobs.as_slice() else { panic!("{jobs:?}") };
    assert_eq!(
        job.text,
        r#"{"batch":[{"userId":"user-1","anonymousId":"anon-1","event":"E","messageId":"m-1","type":"track","rudderId":"8eee6191-bcf5-4249-8ea0-586287986e2a","receivedAt":"2024-01-31T10:11:12.345Z","request_ip":"1.2.3.4"}],"requestIP":"1.2.3.4","writeKey":"wk-src","receivedAt":"2024-01-31T10:11:12.345Z"}"#
    );
    assert_eq!(
        job.parameters,
        json!({"source_id": "src", "source_job_run_id": "", "source_task_run_id": "", "traceparent": "", "source_category": "eventStream"})
    );
    assert_eq!(job.user_id, "<<>>anon-1<<>>user-1");
}

#[test]
fn single_routes_decide_the_type_and_batches_keep_it() {
    let jobs = run(Call::Track, r#"{ "type" : "identify", "userId":"u" }"#).unwrap();
    assert_eq!(jobs[0].event()["type"], "track");
    let jobs = run(Call::Batch, r#"{"batch":[{"userId":"u","type":"x"},{"userId":"u"}]}"#).unwrap();
    assert_eq!(jobs[0].event()["type"], "x");
    assert!(jobs[1].event().get("type").is_none());
}

#[test]
fn message_ids_are_cleaned_or_replaced() {
    for (given, kept) in [
        (r#""m-1""#, Some("m-1")),
        (r#"" m\t1 ""#, Some("m1")),
        (r#""a\"b""#, Some("a\"b")),
        (r#""""#, None),
        (r#""\u200b""#, None),
        ("12", None),
        ("null", None),
        ("{}", None),
    ] {
        let jobs = run(Call::Track, &format!(r#"{{"messageId":{given},"userId":"u"}}"#)).unwrap();
        let id = jobs[0].event()["messageId"].as_str().unwrap();
        match kept {
            Some(kept) => assert_eq!(id, kept),
            None => assert!(Uuid::parse_str(id).is_ok_and(|uuid| uuid.get_version_num() == 4), "{given} became {id}"),
        }
    }
    let jobs = run(Call::Track, r#"{"userId":"u"}"#).unwrap();
    assert!(Uuid::parse_str(jobs[0].event()["messageId"].as_str().unwrap()).is_ok());
}

#[test]
fn present_values_are_kept_or_replaced_as_the_table_says() {
    let body = r#"{"rudderId":"old","receivedAt":null,"request_ip":"9.9.9.9","userId":"u1","messageId":"m"}"#;
    let jobs = run(Call::Page, body).unwrap();
    let event = jobs[0].event();
    assert_eq!(event["rudderId"], "5eff0fc3-0944-48fa-9c04-38f62e3890ca");
    assert_eq!(event["receivedAt"], Value::Null);
    assert_eq!(event["request_ip"], "9.9.9.9");
    assert_eq!(jobs[0].payload["requestIP"], "9.9.9.9");
    assert_eq!(jobs[0].payload["receivedAt"], NOW);
    let jobs = run(Call::Batch, r#"{"batch":[{"userId":"u","request_ip":7},{"userId":"u"}]}"#).unwrap();
    assert_eq!(jobs[0].payload["requestIP"], "1.2.3.4");
    assert_eq!(jobs[0].event()["request_ip"], 7);
    assert_eq!(jobs[1].event()["request_ip"], "1.2.3.4");
}

#[test]
fn events_with_something_to_normalise_are_stored_in_normal_form() {
    let body = r#"{"userId":"first","n":1.0,"userId":"second","s":"a\u0000\ud83d","\u0065vent":"E"}"#;
    let jobs = run(Call::Track, body).unwrap();
    assert!(jobs[0].text.starts_with("{\"batch\":[{\"userId\":\"first\",\"n\":1,\"s\":\"a\u{fffd}\",\"event\":\"E\","));
    assert_eq!(jobs[0].user_id, "<<>>first<<>>first");
    let jobs = run_with(Call::Track, "src", &[], &rules(), b"{\"userId\":\"u\xff\"}").unwrap().0;
    assert_eq!(jobs[0].event()["userId"], "u\u{fffd}");
}

#[test]
fn run_ids_come_from_the_first_event_else_from_headers() {
    let headers = [("X-Rudder-Job-Run-Id", "run-h"), ("X-Rudder-Task-Run-Id", "task-h"), ("AnonymousId", "hdr")];
    let body =
        br#"{"batch":[{"userId":"u","context":{"sources":{"job_run_id":"run-e","task_run_id":7}}},{"userId":"u"}]}"#;
    let (jobs, _) = run_with(Call::Batch, "src", &headers, &rules(), body).unwrap();
    for job in &jobs {
        assert_eq!(job.parameters["source_job_run_id"], "run-e");
        assert_eq!(job.parameters["source_task_run_id"], "task-h");
        assert_eq!(job.user_id, "hdr<<>>u<<>>u");
    }
    let long = "r".repeat(257);
    let (jobs, _) =
        run_with(Call::Track, "src", &[("X-Rudder-Job-Run-Id", &long)], &rules(), br#"{"userId":"u"}"#).unwrap();
    assert_eq!(jobs[0].parameters["source_job_run_id"], "");
}

#[test]
fn bots_and_blocked_names_are_marked() {
    let agent = r#"{"userId":"u","type":"track","event":"E","context":{"userAgent":"Mozilla (GoogleBot/2.1)"}}"#;
    let batch = format!(r#"{{"batch":[{agent}]}}"#);
    let (jobs, _) = run_with(Call::Batch, "bots", &[], &rules(), batch.as_bytes()).unwrap();
    assert_eq!(jobs[0].parameters["is_bot"], true);
    assert_eq!(jobs[0].parameters["bot_name"], "bot");
    assert_eq!(jobs[0].parameters["bot_action"], "drop");
    let (jobs, _) = run_with(Call::Batch, "src", &[], &rules(), batch.as_bytes()).unwrap();
    assert!(jobs[0].parameters.get("is_bot").is_none());
    let blocked = r#"{"batch":[{"userId":"u","type":"track","event":"Blocked"},{"userId":"u","type":"page","event":"Blocked"},{"userId":"u","type":"track","event":"blocked"}]}"#;
    let jobs = run(Call::Batch, blocked).unwrap();
    let marked: Vec<bool> = jobs.iter().map(|job| job.parameters.get("is_event_blocked").is_some()).collect();
    assert_eq!(marked, [true, false, false]);
}

#[test]
fn replayed_events_keep_their_time() {
    let body = br#"{"batch":[{"userId":"u","receivedAt":"2020-01-01T00:00:00.000Z"},{"userId":"u"}]}"#;
    let (jobs, _) = run_with(Call::Replay, "replay", &[], &rules(), body).unwrap();
    assert_eq!(jobs[0].payload["receivedAt"], "2020-01-01T00:00:00.000Z");
    assert_eq!(jobs[1].payload["receivedAt"], NOW);
}

#[test]
fn an_import_stores_the_users_that_pass() {
    let body = br#"{"batch":[{"userId":"u1"},{"type":"identify"},{"userId":"u2"},{"userId":"u1"},5]}"#;
    let (jobs, refusal) = run_with(Call::Import, "src", &[], &rules(), body).unwrap();
    let users: Vec<&str> = jobs.iter().map(|job| job.event()["userId"].as_str().unwrap()).collect();
    assert_eq!(users, ["u1", "u2", "u1"]);
    assert_eq!(refusal, Some(Refusal::NoIdentity));
}

#[test]
fn an_empty_object_is_spliced_without_a_stray_comma() {
    let jobs = run(Call::Extract, " { } ").unwrap();
    assert_eq!(jobs[0].event()["type"], "extract");
}

proptest::proptest! {
    #[test]
    fn any_body_is_refused_or_stored_as_json(body in "[\\[\\]{}\",:0-9eE.a-d\\-\\\\u userIdbatchtypemessageId]{0,120}") {
        for call in [Call::Track, Call::Batch, Call::Import] {
            // Panics when a stored payload is not JSON.
            let answer = run(call, &body);
            proptest::prop_assert!(answer.is_ok() || answer.is_err());
        }
    }
}

#[test]
fn suppressed_events_are_left_out_before_sizes_are_looked_at() {
    let directory = directory();
    let context = Context {
        call: Call::Batch,
        entry: directory.by_id("src").unwrap(),
        anonymous_id_header: "",
        client_ip: "1.2.3.4",
        job_run_id: "",
        task_run_id: "",
        destination_id: "",
        received_at: NOW,
    };
    let suppressed = std::collections::HashSet::from(["gone".to_owned()]);
    let admission = Admission { screen: Screen::Known(&suppressed), ..Admission::default() };
    let small = Rules { max_req_bytes: 20, ..rules() };
    let outcome = |rules: &Rules, body: &str| {
        prepare(&context, rules, &admission, body.as_bytes()).map(|prepared| (prepared.len(), prepared.suppressed))
    };
    for (rules, body, expected) in [
        (&rules(), r#"{"batch":[{"userId":"gone"},{"userId":"stays"}]}"#, Ok((1, 1))),
        (&rules(), r#"{"batch":[{"userId":" gone "}]}"#, Ok((0, 1))),
        (&rules(), r#"{"batch":[{"anonymousId":"gone"}]}"#, Ok((1, 0))),
        (&rules(), r#"{"batch":[{"userId":"gone"},{}]}"#, Err(Refusal::NoIdentity)),
        (&rules(), r#"{"batch":[{"userId":"gone"},7]}"#, Err(Refusal::NotAnEvent)),
        (&small, r#"{"batch":[{"userId":"gone"},{"userId":"gone"}]}"#, Ok((0, 2))),
        (&small, r#"{"batch":[{"userId":"gone"},{"userId":"stays"}]}"#, Err(Refusal::TooLarge)),
        (&rules(), r#"{"batch":[]}"#, Err(Refusal::EmptyBatch)),
    ] {
        assert_eq!(outcome(rules, body), expected, "{body}");
    }
}

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::backend_config::{Snapshot, Source, SourceDefinition, Workspace};
use crate::gateway::directory::Directory;

fn entry(config: Value) -> Arc<SourceEntry> {
    let source = Source {
        id: "s".to_owned(),
        write_key: "k".to_owned(),
        enabled: true,
        config: config.as_object().unwrap().clone(),
        definition: SourceDefinition { category: "webhook".to_owned(), ..SourceDefinition::default() },
        ..Source::default()
    };
    let workspace = Workspace { sources: vec![Arc::new(source)], ..Workspace::default() };
    let directory = Directory::new(Arc::new(Snapshot::new(vec![workspace], 0)));
    Arc::clone(directory.webhook_by_write_key("k").unwrap())
}

fn outcome(kind: &str, body: &str) -> Outcome {
    let request = Description { body: body.to_owned(), ..Description::default() };
    Native::of(kind, false).unwrap().transform(&request, &entry(json!({})), &Clock::system(), 1200)
}

/// The events of a body, each without the context and ids that are always the same or always new.
fn events(kind: &str, body: &str) -> Vec<Value> {
    match outcome(kind, body) {
        Outcome::Done(Transformed { output: Some(output), to_source: None }) => {
            let batch: HashMap<String, Vec<Value>> = serde_json::from_slice(&output).unwrap();
            batch["batch"].clone()
        }
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn a_body_that_is_no_json_is_refused_by_all() {
    for kind in
        ["webhook", "segment", "moengage", "pipedream", "customerio", "slack", "monday", "close_crm", "revenuecat"]
    {
        for body in ["{", "a=1", "[1,]", &"[".repeat(5000)] {
            assert_eq!(outcome(kind, body), Outcome::failed(MALFORMED), "{kind} {body:.20}");
        }
    }
    assert_eq!(Native::of("no_such_source", false), None);
    assert_eq!(Native::of("revenuecat", true), None, "the external transformer knows it better");
}

#[test]
fn webhook_takes_any_json_as_properties_and_keeps_its_digits() {
    for body in [r#"{"a":1,"b":null}"#, "[1,2]", "\"text\"", "12345678901234567890"] {
        let event = events("webhook", body).remove(0);
        assert_eq!((&event["type"], &event["event"]), (&json!("track"), &json!("webhook_source_event")));
        assert_eq!(event["properties"], serde_json::from_str::<Value>(body).unwrap());
        assert_eq!(event["context"], json!({}));
        assert_eq!(event["anonymousId"].as_str().unwrap().len(), 36);
    }
    assert!(events("webhook", " null ")[0].get("properties").is_none());
    let digits = br#"{"n":123456789012345678901234567890}"#;
    match outcome("webhook", std::str::from_utf8(digits).unwrap()) {
        Outcome::Done(Transformed { output: Some(output), .. }) => {
            assert!(memchr::memmem::find(&output, digits).is_some());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn webhook_puts_the_request_into_the_context_when_asked() {
    let request = Description {
        method: "POST".to_owned(),
        url: "/v1/webhook?writeKey=k".to_owned(),
        proto: "HTTP/1.1".to_owned(),
        headers: [("One", vec!["a"]), ("Two", vec!["a", "b"]), ("None", vec![])]
            .map(|(name, values)| (name.to_owned(), values.into_iter().map(str::to_owned).collect()))
            .into(),
        body: "{}".to_owned(),
        query_parameters: [("writeKey".to_owned(), vec!["k".to_owned()])].into(),
    };
    let entry = entry(json!({"putRequestDetailsInContext": true}));
    match Native::Webhook.transform(&request, &entry, &Clock::system(), 1200) {
        Outcome::Done(Transformed { output: Some(output), .. }) => {
            let batch: Value = serde_json::from_slice(&output).unwrap();
            assert_eq!(
                batch["batch"][0]["context"],
                json!({
                    "method": "POST", "url": "/v1/webhook?writeKey=k", "proto": "HTTP/1.1",
                    "headers": {"One": "a", "Two": ["a", "b"]}, "query_parameters": {"writeKey": "k"},
                })
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn segment_and_moengage_pass_their_events() {
    let event = json!({"type": "track", "userId": "u", "context": {"a": 1}, "n": 1.5});
    assert_eq!(events("segment", &event.to_string()), std::slice::from_ref(&event));
    assert_eq!(
        events("segment", r#"[{"userId":"a","traits":null},{"context":null,"x":{"y":null}},7]"#),
        [json!({"userId": "a", "context": {}}), json!({"x": {"y": null}, "context": {}}), json!(7)]
    );
    assert_eq!(events("segment", "[]"), Vec::<Value>::new());
    let batch = format!(r#"{{"batch":[{event}]}}"#);
    assert_eq!(events("moengage", &batch), std::slice::from_ref(&event));
    assert_eq!(events("moengage", &event.to_string()), [event]);
    assert_eq!(events("moengage", r#"{"batch":null,"userId":"u"}"#), [json!({"userId": "u", "context": {}})]);
}

#[test]
fn pipedream_passes_events_and_wraps_the_rest() {
    let event = json!({"type": "Identify", "anonymousId": "a", "context": {}});
    assert_eq!(events("pipedream", &event.to_string()), [event]);
    for (body, id) in [
        (json!({"type": "track", "traits": {"id": "t"}}), json!("t")),
        (json!({"type": "other", "userId": "u", "anonymousId": "a"}), json!("u")),
        (json!({"traits": {"userId": 7, "id": "t"}}), json!(7)),
        (json!({"userId": "", "context": {"traits": {"id": "c"}}, "anonymousId": "a"}), json!("c")),
        (json!({"context": {"traits": {"userId": "cu"}}, "traits": {"id": "t"}}), json!("cu")),
    ] {
        let wrapped = events("pipedream", &body.to_string()).remove(0);
        assert_eq!(wrapped["event"], "pipedream_source_event");
        assert_eq!((&wrapped["properties"], &wrapped["anonymousId"]), (&body, &id), "{body}");
        assert_eq!(wrapped["integrations"], json!({"PIPEDREAM": false}));
    }
    let fresh = events("pipedream", "[1]").remove(0);
    assert_eq!((fresh["anonymousId"].as_str().unwrap().len(), &fresh["properties"]), (36, &json!([1])));
}

#[test]
fn customerio_names_what_happened_and_maps_its_fields() {
    for (object, metric, name) in [
        ("email", "opened", "Email Opened"),
        ("EMAIL", "spammed", "Email Marked as Spam"),
        ("email", "clicked", "Email Link Clicked"),
        ("customer", "unsubscribed", "Customer Unsubscribed"),
        ("sms", "bounced", "SMS Bounced"),
        ("push", "dropped", "Push Dropped"),
        ("slack", "sent", "Slack Message Sent"),
        ("webhook", "clicked", "Webhook Message Link Clicked"),
        ("sms", "opened", "Unknown Event"),
        ("fax", "sent", "Unknown Event"),
    ] {
        let body = json!({"object_type": object, "metric": metric, "data": {"customer_id": "c"}});
        assert_eq!(events("customerio", &body.to_string())[0]["event"], name, "{object} {metric}");
    }
    let body = json!({
        "event_id": "e", "object_type": "email", "metric": "clicked", "timestamp": 1_613_063_089,
        "data": {
            "identifiers": {"id": "u", "email": "a@b.c", "cio_id": "cio"}, "recipient": "other", "href": "h",
            "link_id": 1, "campaign_id": 23, "recipients": {"failure_message": "why"}, "subject": "s",
        },
    });
    assert_eq!(
        events("customerio", &body.to_string())[0],
        json!({
            "context": {
                "library": {"name": "unknown", "version": "unknown"}, "integration": {"name": "Customer.io"},
                "traits": {"email": "a@b.c", "cioId": "cio"},
            },
            "integrations": {"Customer.io": false}, "type": "track", "event": "Email Link Clicked",
            "properties": {
                "eventId": "e", "emailSubject": "s", "link": {"url": "h", "id": 1}, "reason": "why",
                "campaignId": 23, "recipients": {"failure_message": "why"},
            },
            "userId": "u", "originalTimestamp": "2021-02-11T17:04:49.000Z", "sentAt": "2021-02-11T17:04:49.000Z",
        })
    );
    let nameless = events("customerio", r#"{"data":{"recipient":"a@b.c"}}"#).remove(0);
    assert_eq!(nameless["anonymousId"], "a@b.c");
}

#[test]
fn slack_maps_its_events_and_answers_its_check() {
    let check = outcome("slack", r#"{"type":"url_verification","challenge":"c"}"#);
    assert_eq!(check, Outcome::json_to_source(r#"{"challenge":"c"}"#));
    assert_eq!(outcome("slack", "{}"), Outcome::failed("Missing the required event data"));
    assert_eq!(outcome("slack", r#"{"event":{"type":"x"}}"#), Outcome::failed("UserId not found"));
    let joined = json!({
        "event": {"user": "W012CDE", "type": "member_joined_channel", "ts": "1709441309.308399"},
        "event_time": 1_709_441_309,
    });
    assert_eq!(
        events("slack", &joined.to_string())[0],
        json!({
            "context": {
                "library": {"name": "unknown", "version": "unknown"}, "integration": {"name": "SLACK"},
                "externalId": [{"type": "slackUserId", "id": "W012CDE"}],
            },
            "integrations": {"SLACK": false}, "type": "track", "event": "Member Joined Channel",
            "anonymousId": "2bc5ae2825a712d3d154cbdacb86ac16c278",
            "originalTimestamp": "2024-03-03T04:48:29.308Z", "sentAt": "2024-03-03T04:48:29.000Z",
            "properties": joined["event"],
        })
    );
    let join = json!({
        "event": {
            "type": "team_join", "event_ts": "nonsense",
            "user": {"id": "U1", "tz": "Europe/Berlin", "profile": {
                "email": "a@b.c", "real_name": "R", "display_name_normalized": "D", "first_name": "F", "title": "T",
            }},
        },
        "event_time": 1,
    });
    let event = events("slack", &join.to_string()).remove(0);
    assert_eq!(
        (&event["type"], &event["event"], &event["timezone"]),
        (&json!("identify"), &json!("team_join"), &json!("Europe/Berlin"))
    );
    assert_eq!(event["context"]["traits"], json!({"email": "a@b.c", "firstName": "F", "title": "T", "name": "R"}));
    assert!(event.get("originalTimestamp").is_none(), "a time that is no number is none");
    let untimed = events("slack", r#"{"event":{"type":"x","user":"u"}}"#).remove(0);
    assert_eq!(untimed["sentAt"].as_str().unwrap().len(), 24);
}

#[test]
fn the_others_have_their_outlines() {
    assert_eq!(outcome("monday", r#"{ "challenge": "c" }"#), Outcome::json_to_source(r#"{ "challenge": "c" }"#));
    assert_eq!(outcome("monday", r#"{"event":{}}"#), Outcome::Unknown);
    let change = json!({
        "subscription_id": "sub",
        "event": {
            "id": "ev", "object_type": "lead", "action": "updated", "lead_id": "l", "date_updated": "2024-01-01",
            "changed_fields": ["a"], "previous_data": {"a": 1}, "data": {"b": 2},
        },
    });
    let event = events("close_crm", &change.to_string()).remove(0);
    assert_eq!(event["event"], "lead updated");
    assert_eq!((&event["userId"], &event["messageId"]), (&json!("l"), &json!("ev")));
    assert_eq!(event["originalTimestamp"], "2024-01-01");
    assert_eq!(event["properties"]["subscription_id"], "sub");
    assert!(event["properties"].get("changed_fields").is_none() && event["properties"].get("previous_data").is_none());
    let purchase = json!({"event": {"id": "ev", "type": "RENEWAL", "app_user_id": "u", "price_in_usd": 1.5}});
    let event = events("revenuecat", &purchase.to_string()).remove(0);
    assert_eq!(
        (&event["event"], &event["userId"], &event["messageId"]),
        (&json!("RENEWAL"), &json!("u"), &json!("ev"))
    );
    assert_eq!(event["properties"]["priceInUsd"], 1.5);
}

proptest::proptest! {
    #[test]
    fn whatever_comes_ends_in_json_or_a_refusal(body in "[\\[\\]{}\",:0-9a-d\\\\u eventusertypedatabatchnull]{0,100}") {
        for kind in ["webhook", "segment", "moengage", "pipedream", "customerio", "slack", "close_crm", "revenuecat"] {
            if let Outcome::Done(Transformed { output: Some(output), .. }) = outcome(kind, &body) {
                proptest::prop_assert!(json::scan_event(&output, 1200).is_ok(), "{kind} {body}");
            }
        }
    }
}

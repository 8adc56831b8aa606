//! Readers of files and of answers, in this process.

use pintle::backend_config::{Destination, DestinationDefinition, Known, check_file};
use pintle::destination::{Message, Plan};
use pintle::processor::explode::explode;
use pintle::transformer::read_answer;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{drive, inputs};

#[test]
fn workspace_files_are_taken_or_refused_with_a_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("workspaceConfig.json");
    let rule = prop_oneof![
        3 => (inputs::json(), inputs::json()).prop_map(|(a, b)| {
            format!(r#"{{"workspaceId":"w","sources":[{{"id":"s","writeKey":"k","config":{a},"destinations":[{{"id":"d","config":{b},"transformations":{a}}}]}}],"libraries":{b},"connections":{a}}}"#).into_bytes()
        }),
        1 => inputs::json().prop_map(String::into_bytes),
        1 => inputs::bytes(),
    ];
    let known = Known { delivers_to: &|_| true, runs: &|_| true };
    drive::run("workspace", rule.boxed(), |bytes| {
        std::fs::write(&path, bytes).expect("a full disk is not what this is about");
        match check_file(&path, Some("env."), &known) {
            Ok(_) => {}
            Err(problems) => assert!(!problems.is_empty()),
        }
    });
}

#[test]
fn answers_of_a_transformer_are_read_or_refused() {
    let rule = prop_oneof![
        3 => (inputs::json(), inputs::json(), any::<u16>()).prop_map(|(a, b, status)| {
            format!(r#"[{{"output":{a},"metadata":{{"jobId":1,"messageId":"a","messageIds":{b}}},"statusCode":{status}}},{{"metadata":{b}}}]"#).into_bytes()
        }),
        1 => inputs::bytes(),
    ];
    drive::run("answer", rule.boxed(), |bytes| {
        if let Ok(items) = read_answer(bytes, &[(1, "a"), (2, "b")]) {
            for item in items {
                assert!(item.status > 0);
                assert_eq!(item.output.is_some(), item.status == 200);
                if let Some(output) = item.output {
                    serde_json::from_str::<serde::de::IgnoredAny>(&output).expect("an output is JSON");
                }
            }
        }
    });
}

#[test]
fn events_are_delivered_as_json_or_refused() {
    let plan = |kind: &str, config: Value| {
        let definition = DestinationDefinition { name: kind.to_owned(), ..DestinationDefinition::default() };
        let has_dynamic_config = config.to_string().contains("{{");
        let config = config.as_object().cloned().expect("an object");
        Plan::new(&std::sync::Arc::new(Destination {
            definition,
            config,
            has_dynamic_config,
            ..Destination::default()
        }))
    };
    let plans = [
        plan("S3", json!({})),
        plan("WEBHOOK", json!({"webhookUrl": "https://a.example", "headers": [{"from": "X", "to": "y"}]})),
        plan("WEBHOOK", json!({"webhookUrl": "https://a.example", "webhookMethod": "GET"})),
        plan(
            "WEBHOOK",
            json!({"webhookUrl": "{{ message.properties.type || https://a.example }}", "x": "{{ event || 1 }}"}),
        ),
    ];
    let rule = prop_oneof![inputs::event(), inputs::json()].prop_map(String::into_bytes).boxed();
    drive::run("message", rule, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(message) = Message::parse(text) else { return };
        for plan in &plans {
            for output in plan.transform(&message, &|| json!({"jobId": 1})).unwrap_or_default() {
                serde_json::from_slice::<serde::de::IgnoredAny>(&output.payload).expect("a payload is JSON");
            }
        }
    });
}

#[test]
fn stored_payloads_are_split_or_refused() {
    let rule = prop_oneof![
        3 => proptest::collection::vec(inputs::event(), 0..4).prop_map(|events| {
            format!(r#"{{"batch":[{}],"requestIP":"::1","writeKey":"k","receivedAt":"2024-03-10T12:00:00.000Z"}}"#, events.join(",")).into_bytes()
        }),
        1 => inputs::json().prop_map(String::into_bytes),
        1 => inputs::bytes(),
    ];
    drive::run("payload", rule.boxed(), |bytes| {
        let Ok(stored) = explode(bytes) else { return };
        for event in stored.events {
            serde_json::from_str::<serde::de::IgnoredAny>(&event.to_json()).expect("an event is JSON");
        }
    });
}

//! The contract with a transformer, against one that behaves as documented and one that does not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::stub::{Asked, Reply, Stub, good, status};
use super::*;
use crate::backend_config::{Destination, DestinationDefinition, Workspace};
use crate::settings::{Live, Settings};

fn remote(url: &str, change: impl FnOnce(&mut Settings)) -> Remote {
    let mut settings = Settings::defaults();
    let transformer = &mut settings.transformer;
    transformer.destination_url = Some(url.to_owned());
    transformer.user_url = Some(url.to_owned());
    transformer.python_url = Some(url.to_owned());
    for rules in [&mut transformer.user, &mut transformer.destination] {
        rules.longest_pause = Duration::from_millis(2);
    }
    transformer.asked.first_pause = Duration::from_millis(1);
    transformer.asked.longest_pause = Duration::from_millis(2);
    change(&mut settings);
    Remote::new(Live::new(settings))
}

fn user() -> UserText {
    UserText::new("v1", true, &Workspace::default())
}

fn destination() -> DestinationText {
    let definition = DestinationDefinition { name: "GA4".to_owned(), ..DestinationDefinition::default() };
    let destination = Arc::new(Destination { id: "d".to_owned(), definition, ..Destination::default() });
    DestinationText::new("s", &destination, &Workspace::default())
}

const TWO: [Given<'static>; 2] = [
    Given { message: "{\"n\":1}", metadata: r#"{"jobId":1,"messageId":"a"}"#, job_id: 1, message_id: "a" },
    Given { message: "{\"n\":2}", metadata: r#"{"jobId":2,"messageId":"b"}"#, job_id: 2, message_id: "b" },
];

/// Gives every event back.
fn echo(asked: &Asked) -> Reply {
    let items = asked.body.as_array().or_else(|| asked.body["input"].as_array()).unwrap();
    let results: Vec<Value> = items
        .iter()
        .map(|item| json!({"output": item["message"], "metadata": item["metadata"], "statusCode": 200}))
        .collect();
    good(Value::from(results).to_string())
}

fn failed(status: u16, error: &str) -> Result<Vec<Item>, Failed> {
    Err(Failed { status, error: error.to_owned() })
}

#[tokio::test]
async fn events_go_out_and_come_back_as_agreed() {
    let stub = Stub::start(|_, asked| echo(asked)).await;
    let remote = remote(&stub.url, |_| {});
    let items = remote.transform(What::User(&user()), &TWO).await.unwrap();
    let told: Vec<_> = items.iter().map(|item| (&item.place, item.output.as_deref().unwrap())).collect();
    assert_eq!(told, [(&Place::Given(0), "{\"n\":1}"), (&Place::Given(1), "{\"n\":2}")]);
    let asked = stub.asked().remove(0);
    assert_eq!((asked.path.as_str(), asked.body.as_array().unwrap().len()), ("/customTransform", 2));
    for header in
        ["content-type: application/json; charset=utf-8", "x-feature-gzip-support: ?1", "x-feature-filter-code: ?1"]
    {
        assert!(asked.head.contains(header), "{}", asked.head);
    }
    assert!(!asked.head.contains("x-content-format"));
}

#[tokio::test]
async fn a_destination_is_asked_for_in_the_form_that_the_transformer_takes() {
    for compacted in [false, true] {
        let stub = Stub::start(move |_, asked| {
            if asked.path == "/features" {
                return good(json!({"supportDestTransformCompactedPayloadV1": compacted}).to_string());
            }
            echo(asked)
        })
        .await;
        let remote = remote(&stub.url, |_| {});
        for _ in 0..2 {
            assert_eq!(remote.transform(What::Destination(&destination()), &TWO).await.unwrap().len(), 2);
        }
        let asked = stub.asked();
        let paths: Vec<&str> = asked.iter().map(|asked| asked.path.as_str()).collect();
        assert_eq!(paths, ["/features", "/v0/destinations/ga4", "/v0/destinations/ga4"], "features are kept");
        assert_eq!(asked[1].head.contains("x-content-format: json+compactedv1"), compacted);
        assert_eq!(asked[1].body.is_object(), compacted);
    }
}

#[tokio::test]
async fn what_may_help_is_repeated_with_the_whole_call() {
    let troubles: [fn() -> Reply; 9] = [
        || status(500, "x"),
        || status(502, ""),
        || status(503, ""),
        || status(408, ""),
        || status(429, ""),
        || status(809, "no code"),
        || Reply { headers: "X-Rudder-Should-Retry: true\r\nX-Rudder-Error-Reason: busy\r\n", ..status(503, "") },
        // Another version, and nonsense: the operator mends it, and no event is lost meanwhile.
        || status(200, "[]"),
        || good("<html>"),
    ];
    for trouble in troubles {
        let stub = Stub::start(move |earlier, asked| if earlier < 4 { trouble() } else { echo(asked) }).await;
        // Even where the repetitions are over.
        let remote = remote(&stub.url, |settings| settings.transformer.user.max_retry = 1);
        assert_eq!(remote.transform(What::User(&user()), &TWO).await.unwrap().len(), 2);
        let asked = stub.asked();
        assert_eq!(asked.len(), 5);
        assert!(asked.iter().all(|call| call.body == asked[0].body));
    }
}

#[tokio::test]
async fn a_final_status_fails_every_event_with_the_text_of_the_answer() {
    for code in [400, 401, 404, 413, 302, 204] {
        let text = if code == 204 { "" } else { "{\"error\":\"Unknown destination: X\"}" };
        let stub = Stub::start(move |_, _| status(code, text)).await;
        let remote = remote(&stub.url, |_| {});
        let answer = remote.transform(What::User(&user()), &TWO).await;
        assert_eq!(answer, failed(code, text));
        assert_eq!(stub.asked().len(), 1);
    }
}

#[tokio::test]
async fn events_fail_after_the_last_repetition_where_the_settings_say_so() {
    let stub = Stub::start(|_, _| status(500, "x")).await;
    let fails = |settings: &mut Settings| {
        settings.transformer.user.fails = true;
        settings.transformer.user.max_retry = 2;
    };
    let answer = remote(&stub.url, fails).transform(What::User(&user()), &TWO).await;
    assert_eq!(answer, failed(909, "transformer request failed: it answers 500"));
    assert_eq!(stub.asked().len(), 3);

    let slow = Stub::start(|_, _| Reply { pause: Duration::from_mins(1), ..good("[]") }).await;
    let late = |settings: &mut Settings| {
        settings.transformer.timeout = Duration::from_millis(50);
        settings.transformer.fails_on_timeout = true;
        settings.transformer.user.max_retry = 1;
    };
    let answer = remote(&slow.url, late).transform(What::User(&user()), &TWO).await;
    assert_eq!(answer, failed(919, "transformer request timed out: it does not answer in time"));

    // A transformer without code is asked again and again, unless that is off.
    let away = Stub::start(|earlier, asked| if earlier < 6 { status(809, "") } else { echo(asked) }).await;
    assert!(remote(&away.url, fails).transform(What::User(&user()), &TWO).await.is_ok());
    let away = Stub::start(|_, _| status(809, "")).await;
    let not_endless = |settings: &mut Settings| {
        fails(settings);
        settings.transformer.repeats_while_code_is_away = false;
    };
    let answer = remote(&away.url, not_endless).transform(What::User(&user()), &TWO).await;
    assert_eq!(answer, failed(909, "transformer request failed: it answers 809"));
}

#[tokio::test]
async fn an_answer_beyond_the_bound_is_not_taken() {
    let stub = Stub::start(|earlier, asked| if earlier == 0 { good(" ".repeat(10_000)) } else { echo(asked) }).await;
    let remote = remote(&stub.url, |settings| settings.transformer.max_response_bytes = 5_000);
    assert_eq!(remote.transform(What::User(&user()), &TWO).await.unwrap().len(), 2);
    assert_eq!(stub.asked().len(), 2);
}

#[tokio::test]
async fn partial_answers_name_what_they_are_about() {
    let stub = Stub::start(|_, _| {
        good(
            json!([
                {"statusCode": 298, "metadata": {"messageId": "b", "messageIds": null}},
                {"statusCode": 400, "error": "TypeError: x", "metadata": {"jobId": 1, "messageId": "a"}},
                {"statusCode": 200, "output": {"made": true}, "metadata": {"messageId": "fresh"}},
            ])
            .to_string(),
        )
    })
    .await;
    let items = remote(&stub.url, |_| {}).transform(What::User(&user()), &TWO).await.unwrap();
    let told: Vec<_> = items.into_iter().map(|item| (item.place, item.status, item.error)).collect();
    assert_eq!(
        told,
        [
            (Place::Given(1), 298, String::new()),
            (Place::Given(0), 400, "TypeError: x".to_owned()),
            (Place::Fresh("fresh".to_owned()), 200, String::new()),
        ]
    );
}

#[tokio::test]
async fn features_are_defaults_where_there_are_none_and_the_last_known_while_nobody_answers() {
    let stub = Stub::start(|_, _| status(404, "")).await;
    let features = remote(&stub.url, |_| {}).features().await.unwrap();
    assert!(features.transforms_in_router("HS") && !features.takes_compacted);

    let stub = Stub::start(|earlier, _| match earlier {
        // Behind two of the quick attempts at the beginning.
        2 => good(r#"{"routerTransform":{"X":true}}"#),
        _ => status(500, ""),
    })
    .await;
    let remote = remote(&stub.url, |settings| settings.transformer.poll_interval = Duration::ZERO);
    assert!(remote.features().await.unwrap().transforms_in_router("X"));
    assert!(remote.features().await.unwrap().transforms_in_router("X"));
    assert_eq!(stub.asked().len(), 4);
}

fn jobs(text: &DestinationText) -> Vec<RoutedJob<'_>> {
    let job = |job_id| RoutedJob { job_id, message: "{}", metadata: json!({"jobId": job_id}), destination: text };
    vec![job(1), job(2)]
}

#[tokio::test]
async fn the_routers_call_tells_what_becomes_of_every_job() {
    let text = destination();
    let request = json!({"type": "REST", "endpoint": "https://a.example"});
    let answer = json!({"output": [
        {"batchedRequest": request, "metadata": [{"jobId": 2}], "batched": false, "statusCode": 200},
        {"metadata": [{"jobId": 1}], "statusCode": 400, "error": "no"},
    ]});
    let stub = Stub::start(move |_, asked| match asked.path.as_str() {
        "/features" => good("{}"),
        _ => good(answer.to_string()),
    })
    .await;
    let answers = remote(&stub.url, |_| {}).route("GA4", &jobs(&text), false).await;
    let told: Vec<_> = answers.iter().map(|a| (a.job_ids.as_slice(), a.code, a.error.as_str())).collect();
    assert_eq!(told, [(&[2][..], 200, ""), (&[1][..], 400, "no")]);
    assert_eq!(serde_json::from_str::<Value>(&answers[0].request).unwrap(), request);
    let asked = stub.asked().remove(1);
    assert_eq!((asked.path.as_str(), &asked.body["destType"]), ("/routerTransform", &json!("ga4")));
    assert_eq!(asked.body["input"][1]["metadata"], json!({"jobId": 2}));
    assert_eq!(asked.body["input"][1]["destination"]["ID"], "d");
}

#[tokio::test]
async fn jobs_are_tried_again_when_the_answer_is_not_about_exactly_them() {
    let text = destination();
    let item = |ids: &[u64]| {
        let metadata: Vec<Value> = ids.iter().map(|id| json!({"jobId": id})).collect();
        json!({"batchedRequest": {}, "metadata": metadata, "statusCode": 200})
    };
    let wrapped = |items: Vec<Value>| good(json!({ "output": items }).to_string());
    let table = [
        (wrapped(vec![item(&[1])]), 500),
        (wrapped(vec![item(&[1, 2]), item(&[2])]), 500),
        (wrapped(vec![item(&[1, 3])]), 500),
        (wrapped(vec![item(&[1, 2]), item(&[])]), 500),
        (good("<html>"), 500),
        (status(200, &json!({"output": [item(&[1, 2])]}).to_string()), 500),
        (status(500, "down"), 500),
        (status(400, "bad"), 500),
        (status(404, "no such type"), 404),
    ];
    for (reply, code) in table {
        let told = reply.body.clone();
        let stub = Stub::start(move |_, asked| match asked.path.as_str() {
            "/features" => good(r#"{"supportDestTransformCompactedPayloadV1":true}"#),
            _ => reply.clone(),
        })
        .await;
        let answers = remote(&stub.url, |_| {}).route("GA4", &jobs(&text), false).await;
        assert_eq!(answers.len(), 1, "{told}");
        assert_eq!((answers[0].job_ids.as_slice(), answers[0].code), (&[1, 2][..], code), "{told}");
        let asked = stub.asked().remove(1);
        assert_eq!(asked.body["destinations"]["d"]["ID"], "d");
        assert!(asked.body["connections"]["s:d"].is_object() && asked.body["input"][0].get("destination").is_none());
    }
    let none = Remote::new(Live::new(Settings::defaults())).route("GA4", &jobs(&text), false).await;
    assert_eq!((none[0].code, none[0].error.as_str()), (404, "transformer for GA4 not available"));
}

//! `pintle trace`: what is known of one event.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Behaviour, Client, NodeBuilder, Sink, WRITE_KEY, Workspace, wait_until};
use crate::rules::{dead, json_of, verb};

#[test]
fn an_event_is_followed_from_its_arrival_to_where_it_waits_and_where_it_was_given_up() {
    let sink = Sink::start();
    sink.behave(Behaviour { status: 400, ..Behaviour::default() });
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let workspace =
        Workspace::new().webhook("refuses", &sink.url()).webhook("away", &format!("http://{nobody}/events"));
    let node = NodeBuilder::new().workspace(&workspace).start();
    let event = json!({"userId": "u", "event": "Followed", "messageId": "followed/1"});
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!(answer.status, 200);
    wait_until("it is given up by one", Duration::from_secs(30), || !dead(&node).is_empty());
    let mut trace = Value::Null;
    wait_until("the other one has failed", Duration::from_secs(30), || {
        trace = json_of(&node, &["trace", "followed/1", "--json"]);
        trace["steps"].to_string().contains("attempt 1")
    });
    let steps = trace["steps"].as_array().expect("steps");
    let of = |place: &str, destination: &str| {
        let is = |step: &&Value| step["place"] == place && step["destinationId"] == destination;
        steps.iter().find(is).unwrap_or_else(|| panic!("{place} {destination}: {trace}"))
    };
    assert_eq!(of("gw", "")["what"], "received, done");
    assert_eq!(of("rt", "refuses")["what"], "for delivery, done");
    assert_eq!(of("rt", "away")["what"], "for delivery, waiting");
    let letter = of("proc_error", "refuses");
    assert_eq!(letter["what"], "dead letter, waiting");
    assert!(letter["detail"].as_str().is_some_and(|detail| detail.contains("router 400")), "{letter}");
    let searched = trace["searched"].as_array().expect("places");
    for place in ["gw", "rt", "batch_rt", "proc_error"] {
        assert!(searched.iter().any(|one| one["place"] == place && one["complete"] == true), "{trace}");
    }
    let unknown = verb(&node, &["trace", "never-seen"]);
    assert!(unknown.contains("nothing is known of never-seen"), "{unknown}");
    assert!(unknown.contains("gw: searched completely"), "{unknown}");
    assert!(unknown.contains("archive: not searched completely"), "{unknown}");
}

//! Order per user through failures, and destinations that cannot be reached.

use std::time::Duration;

use crate::kit::{Behaviour, Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, track};

const SOON: &str = "\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"1s\"\nunreachableProbeMax = \"1s\"\n";

fn send(node: &crate::kit::Node, users: usize, numbers: std::ops::Range<i64>) {
    let mut client = Client::new(node.address());
    let numbers: Vec<i64> = numbers.collect();
    for chunk in numbers.chunks(50) {
        let events: Vec<_> =
            chunk.iter().map(|&n| track(&format!("user-{}", usize::try_from(n).expect("small") % users), n)).collect();
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

#[test]
fn a_retry_never_overtakes_an_earlier_event_of_the_same_user() {
    let sink = Sink::start();
    sink.behave(Behaviour { fail_percent: 20, ..Behaviour::default() });
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).more_settings(SOON).start();
    send(&node, 20, 0..200);
    sink.wait_for(200, Duration::from_mins(2));
    assert!(sink.requests() > 200, "some were refused");
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    assert!(sink.duplicates().is_empty());
}

#[test]
fn an_unreachable_destination_gets_everything_once_it_is_back() {
    let mut sink = Sink::start();
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).more_settings(SOON).start();
    sink.close();
    send(&node, 20, 0..200);
    assert_eq!(sink.count(), 0);
    sink.open();
    sink.wait_for(200, Duration::from_mins(1));
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    assert!(sink.duplicates().is_empty());
}

//! Orderly stop and start: what waits is delivered afterwards, once.

use std::time::Duration;

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, track};

#[test]
fn an_orderly_stop_loses_nothing_and_repeats_nothing() {
    let mut sink = Sink::start();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    let mut node = NodeBuilder::new()
        .workspace(&workspace)
        .more_settings("\n[Router]\nunreachableProbeMax = \"1s\"\nmaxRetryBackoff = \"1s\"\nminRetryBackoff = \"1s\"\n")
        .start();
    let events: Vec<_> = (0..100).map(|n| track(&format!("user-{}", n % 5), n)).collect();
    let mut client = Client::new(node.address());
    assert_eq!(client.post("/v1/batch", WRITE_KEY, &batch_body(&events[..50])).expect("an answer").status, 200);
    sink.wait_for(50, Duration::from_secs(30));

    sink.close();
    assert_eq!(client.post("/v1/batch", WRITE_KEY, &batch_body(&events[50..])).expect("an answer").status, 200);
    let status = node.stop();
    assert!(status.success(), "an orderly stop ends with 0, not {status}:\n{}", node.output());

    sink.open();
    node.start();
    sink.wait_for(100, Duration::from_mins(1));
    assert!(node.stop().success());
    assert!(sink.duplicates().is_empty());
    assert_eq!(sink.order_violations(), Vec::<String>::new());
}

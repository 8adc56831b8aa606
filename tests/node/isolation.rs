//! One bad destination never stops the others.

use std::time::{Duration, Instant};

use crate::kit::{Behaviour, Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, track};

const EVENTS: usize = 500;
const OTHERS: usize = 9;

/// Sends events and says how long the healthy destinations took to have them all.
fn round(client: &mut Client, others: &[Sink], first: usize) -> Duration {
    let begun = Instant::now();
    let numbers: Vec<usize> = (first..first + EVENTS).collect();
    for chunk in numbers.chunks(50) {
        let events: Vec<_> =
            chunk.iter().map(|&n| track(&format!("user-{}", n % 7), i64::try_from(n).expect("small"))).collect();
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    for sink in others {
        sink.wait_for(first + EVENTS, Duration::from_mins(1));
    }
    begun.elapsed()
}

#[test]
fn nine_destinations_go_on_while_one_answers_500_and_then_hangs() {
    let bad = Sink::start();
    let others: Vec<Sink> = (0..OTHERS).map(|_| Sink::start()).collect();
    let mut workspace = Workspace::new().webhook("bad", &bad.url());
    for (index, sink) in others.iter().enumerate() {
        workspace = workspace.webhook(&format!("good-{index}"), &sink.url());
    }
    let node = NodeBuilder::new()
        .workspace(&workspace)
        .more_settings("\n[Router]\nminRetryBackoff = \"1s\"\nmaxRetryBackoff = \"2s\"\nhttpTimeout = \"5s\"\n")
        .start();
    let mut client = Client::new(node.address());

    let healthy = round(&mut client, &others, 0);
    bad.wait_for(EVENTS, Duration::from_mins(1));

    bad.behave(Behaviour { status: 500, ..Behaviour::default() });
    let beside_errors = round(&mut client, &others, EVENTS);
    bad.behave(Behaviour { hangs: true, ..Behaviour::default() });
    let beside_hanging = round(&mut client, &others, 2 * EVENTS);
    println!("healthy {healthy:?}, beside errors {beside_errors:?}, beside hanging {beside_hanging:?}");
    assert_eq!(bad.count(), EVENTS, "the bad one took nothing more");
    // The rate itself is measured by the benchmarks; here a wait of one for another would show as seconds.
    for (what, took) in [("errors", beside_errors), ("hanging", beside_hanging)] {
        assert!(
            took < healthy * 4 + Duration::from_secs(3),
            "nine destinations beside {what}: {took:?} after {healthy:?}"
        );
    }
    for sink in &others {
        assert_eq!(sink.count(), 3 * EVENTS);
        assert!(sink.duplicates().is_empty());
        assert_eq!(sink.order_violations(), Vec::<String>::new());
    }

    bad.behave(Behaviour::default());
    bad.wait_for(3 * EVENTS, Duration::from_mins(2));
    assert_eq!(bad.order_violations(), Vec::<String>::new(), "also through failures the order of a user holds");
}

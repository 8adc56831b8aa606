//! User transformations in a running node.

use std::time::Duration;

use serde_json::json;

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, pintle, track};

const EVENTS: usize = 600;

#[test]
fn events_are_transformed_for_the_destinations_that_ask_for_it_in_order_and_a_loop_fails_alone() {
    let (changed, plain, looping) = (Sink::start(), Sink::start(), Sink::start());
    let code = "export async function transformEvent(event, metadata) {
        if (event.properties.n % 10 === 3) return null;
        if (event.properties.n % 10 === 7) throw new Error('seven');
        await null;
        event.properties.seen = metadata(event).destinationId;
        return event;
    }";
    let workspace = Workspace::new()
        .webhook("changed", &changed.url())
        .transformed(code)
        .webhook("plain", &plain.url())
        .webhook("looping", &looping.url())
        .transformed("export function transformEvent(event) { while (event.properties.n > 300) {} return event; }");
    let mut node = NodeBuilder::new().workspace(&workspace).start();
    let mut client = Client::new(node.address());
    let numbers: Vec<usize> = (0..EVENTS).collect();
    for chunk in numbers.chunks(50) {
        let events: Vec<_> =
            chunk.iter().map(|&n| track(&format!("user-{}", n % 7), i64::try_from(n).expect("small"))).collect();
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    plain.wait_for(EVENTS, Duration::from_mins(2));
    changed.wait_for(EVENTS / 10 * 8, Duration::from_mins(2));
    for sink in [&changed, &plain] {
        assert_eq!(sink.order_violations(), Vec::<String>::new());
        assert!(sink.duplicates().is_empty());
    }
    for accepted in changed.accepted() {
        let n = accepted.n.expect("a number");
        assert!(n % 10 != 3 && n % 10 != 7, "{n}");
        assert_eq!(accepted.event["properties"]["seen"], json!("changed"));
    }
    assert!(plain.accepted().iter().all(|accepted| accepted.event["properties"].get("seen").is_none()));
    // Whole batches fail with the event that loops; nothing of them is delivered, and the node goes on.
    assert!(looping.accepted().iter().all(|accepted| accepted.n.is_some_and(|n| n <= 300)));
    assert!(node.is_running());
    assert!(node.stop().success());
}

#[test]
fn a_transformation_is_tried_on_the_command_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let code = file(
        "double.js",
        "import { twice } from 'myTools';\nexport function transformEvent(e) { log('n', e.n); if (!e.n) throw new Error('no n'); return { n: twice(e.n), k: getCredential('key') }; }",
    );
    let tools = file("tools.js", "export const twice = (n) => n * 2;");
    let events = file("events.json", r#"[{"messageId":"a","n":2},{"messageId":"b"}]"#);
    let settings = file("pintle.toml", "");
    let library = format!("My Tools={tools}");
    let arguments = [
        "transform",
        "test",
        &code,
        "--events",
        &events,
        "--library",
        &library,
        "--credential",
        "key=v",
        "--config",
        &settings,
    ];
    let output = pintle(&arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "an event failed");
    for part in [
        r#"a: {"n":4,"k":"v"}"#,
        "b: failed (400): Error: no n\n        at transformEvent (double:2:",
        "Log: n 2",
        "Log: n undefined",
        "2 results in ",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

//! One event all the way: in over HTTP, out at a webhook, in files of a LOCAL destination, and in the archive.

use std::time::Duration;

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, messages_below, track, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn an_event_reaches_the_webhook_the_files_and_the_archive() {
    let sink = Sink::start();
    let files = tempfile::tempdir().expect("a folder");
    let archive = tempfile::tempdir().expect("a folder");
    let workspace = Workspace::new().webhook("hook", &sink.url()).local("files", files.path());
    let node = NodeBuilder::new().workspace(&workspace).more_settings(&archive_settings(archive.path())).start();

    let event = serde_json::json!({
        "userId": "u-1",
        "event": "Order Completed",
        "messageId": "m-1",
        "properties": {"total": 12.50, "text": "grüße, 世界", "big": 9_007_199_254_740_993_i64},
        "context": {"library": {"name": "curl"}},
    });
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "the answer that SDKs expect");

    sink.wait_for(1, LIMIT);
    let delivered = sink.accepted().remove(0).event;
    for field in ["userId", "event", "messageId", "properties"] {
        assert_eq!(delivered[field], event[field], "{field} arrives as it was sent");
    }
    assert_eq!(delivered["type"], "track", "the route gives the type");
    for field in ["receivedAt", "originalTimestamp", "timestamp", "request_ip", "rudderId"] {
        assert!(delivered[field].is_string(), "the event is enriched with {field}: {delivered}");
    }

    wait_until("a file of the LOCAL destination holds the event", LIMIT, || {
        messages_below(files.path()).iter().any(|message| message["messageId"] == "m-1")
    });
    wait_until("the archive holds the event", LIMIT, || {
        messages_below(archive.path()).iter().any(|message| message["messageId"] == "m-1")
    });
}

/// Settings of a gateway archive in this folder, written soon.
pub fn archive_settings(folder: &std::path::Path) -> String {
    format!(
        "\n[archival]\nlocalPath = \"{}\"\nUploadFrequency = \"1s\"\nArchiveSleepDuration = \"1s\"\n",
        folder.display()
    )
}

#[test]
fn every_event_type_of_a_batch_arrives_once_and_in_order() {
    let sink = Sink::start();
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).start();
    let mut client = Client::new(node.address());
    let mut events = Vec::new();
    for (n, kind) in ["identify", "track", "page", "screen", "group", "alias"].iter().cycle().take(60).enumerate() {
        let mut event = track("one-user", i64::try_from(n).expect("small"));
        event["type"] = (*kind).into();
        event["groupId"] = "g".into();
        event["previousId"] = "p".into();
        events.push(event);
    }
    for chunk in events.chunks(20) {
        let answer = client.post("/v1/batch", WRITE_KEY, &batch_body(chunk)).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    sink.wait_for(60, LIMIT);
    let numbers: Vec<_> = sink.accepted().iter().map(|accepted| accepted.n.expect("a number")).collect();
    assert_eq!(numbers, (0..60).collect::<Vec<_>>());
    assert!(sink.duplicates().is_empty());
}

#[test]
fn the_embedded_default_prints_what_a_newcomer_needs_and_writes_files() {
    let node = NodeBuilder::new().start();
    node.wait_for_output("curl", LIMIT);
    let output = node.output();
    let curl = output.lines().find(|line| line.contains("curl ")).expect("a curl line");
    let curl = &curl[curl.find("curl ").expect("just found")..];
    let done = std::process::Command::new("sh").args(["-c", curl]).output().expect("sh runs");
    assert!(done.status.success(), "the printed line works: {curl}\n{}", String::from_utf8_lossy(&done.stderr));
    let archive = node.data().join("archive");
    wait_until("the local files hold the event of the curl line", Duration::from_mins(1), || {
        !messages_below(&archive).is_empty()
    });
}

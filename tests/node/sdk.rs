//! The SDKs that people already use, unchanged.

use std::collections::BTreeSet;
use std::time::Duration;

use super::end_to_end::archive_settings;
use crate::kit::{NodeBuilder, Sdk, Sink, WRITE_KEY, Workspace, messages_below, missing_sdk, skip, wait_until};

const EVENTS: usize = 1000;
const USERS: usize = 10;
const LIMIT: Duration = Duration::from_mins(2);

#[test]
fn a_thousand_events_of_rudder_sdk_python_arrive_once_and_in_order() {
    a_thousand_events_arrive(Sdk::Python, "python");
}

#[test]
fn a_thousand_events_of_rudder_sdk_node_arrive_once_and_in_order() {
    a_thousand_events_arrive(Sdk::Node, "node");
}

#[test]
fn a_thousand_events_of_segment_analytics_python_arrive_once_and_in_order() {
    a_thousand_events_arrive(Sdk::SegmentPython, "segment-python");
}

#[test]
fn a_thousand_events_of_segment_analytics_node_arrive_once_and_in_order() {
    a_thousand_events_arrive(Sdk::SegmentNode, "segment-node");
}

/// Requests, batches and a beacon of a page that is closed, with the configuration from the node itself.
#[test]
fn events_of_analytics_js_in_a_browser_arrive_once_and_in_order() {
    const TRACKED: usize = 24;
    const BROWSERS: usize = 3;
    if is_skipped(Sdk::Browser, "browser") {
        return;
    }
    let sink = Sink::start();
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook", &sink.url())).start();

    Sdk::Browser.send(node.address(), WRITE_KEY, TRACKED, BROWSERS, "browser");
    // Each user identifies first, which is an event too.
    sink.wait_for(TRACKED + BROWSERS, LIMIT);

    let accepted = sink.accepted();
    assert_eq!(accepted.len(), TRACKED + BROWSERS, "each event arrives once");
    assert!(sink.duplicates().is_empty(), "each event arrives once");
    for user in 0..BROWSERS {
        let user = format!("browser-user-{user}");
        let of_user: Vec<_> = accepted.iter().filter(|accepted| accepted.user == user).collect();
        assert_eq!(of_user.len(), 1 + TRACKED / BROWSERS, "of {user}");
        assert_eq!(of_user[0].event["type"], "identify", "the first of {user}");
        let numbers: Vec<_> = of_user[1..].iter().filter_map(|accepted| accepted.n).collect();
        assert!(numbers.is_sorted() && numbers.len() == TRACKED / BROWSERS, "of {user}: {numbers:?}");
        for accepted in &of_user[1..] {
            assert_eq!(accepted.event["properties"]["text"], "grüße, 世界");
            assert_eq!(accepted.event["channel"], "web");
        }
    }
}

/// Whether the SDK is not there. On a developer's machine the tools may be absent; a CI run installs them, and must
/// not pass without them.
fn is_skipped(sdk: Sdk, test: &str) -> bool {
    let Some(reason) = missing_sdk(sdk) else { return false };
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    skip(test, &reason);
    true
}

fn a_thousand_events_arrive(sdk: Sdk, prefix: &str) {
    if is_skipped(sdk, prefix) {
        return;
    }
    let sink = Sink::start();
    let files = tempfile::tempdir().expect("a folder");
    let archive = tempfile::tempdir().expect("a folder");
    let workspace = Workspace::new().webhook("hook", &sink.url()).local("files", files.path());
    let node = NodeBuilder::new().workspace(&workspace).more_settings(&archive_settings(archive.path())).start();

    sdk.send(node.address(), WRITE_KEY, EVENTS, USERS, prefix);
    sink.wait_for(EVENTS, LIMIT);

    let accepted = sink.accepted();
    assert_eq!(accepted.len(), EVENTS, "each event arrives once");
    assert!(sink.duplicates().is_empty(), "each event arrives once");
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    let users: BTreeSet<&str> = accepted.iter().map(|accepted| accepted.user.as_str()).collect();
    assert_eq!(users.len(), USERS);
    for accepted in &accepted {
        assert_eq!(accepted.event["event"], "Kit Event");
        assert_eq!(accepted.event["properties"]["text"], "grüße, 世界");
        assert_eq!(accepted.event["properties"]["price"], 12.5);
    }

    let sent = sink.message_ids();
    for (what, folder) in [("the archive", archive.path()), ("the files of the LOCAL destination", files.path())] {
        wait_until(&format!("{what} has every event"), LIMIT, || messages_below(folder).len() >= EVENTS);
        let messages = messages_below(folder);
        let ids: BTreeSet<&str> = messages.iter().filter_map(|message| message["messageId"].as_str()).collect();
        assert_eq!(messages.len(), EVENTS, "{what} has each event once");
        assert!(ids.len() == EVENTS && ids.iter().all(|id| sent.contains(*id)), "{what} has the events that were sent");
    }
}

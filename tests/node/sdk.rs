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

fn a_thousand_events_arrive(sdk: Sdk, prefix: &str) {
    if let Some(reason) = missing_sdk(sdk) {
        // On a developer's machine the tools may be absent; a CI run installs them, and must not pass without them.
        assert!(std::env::var_os("CI").is_none(), "{reason}");
        return skip(prefix, &reason);
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

//! Backup of a running node and restore: every event acknowledged before it is there.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use crate::kit::{Client, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, pintle, track};

#[test]
fn a_restored_backup_holds_every_event_acknowledged_before_it() {
    let mut sink = Sink::start();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    // Nothing is delivered yet: the events are in the queue when the backup is made.
    sink.close();
    let mut node = NodeBuilder::new().workspace(&workspace).start();
    let events: Vec<_> = (0..100).map(|n| track(&format!("user-{}", n % 5), n)).collect();
    let mut client = Client::new(node.address());
    assert_eq!(client.post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer").status, 200);

    let folder = tempfile::tempdir().expect("a folder");
    let backup = folder.path().join("backup");
    let flags = |data: &Path| -> Vec<OsString> {
        let config = node.settings_file();
        let socket = node.admin_socket();
        let pairs = [("--config", config.as_path()), ("--data-dir", data), ("--admin-socket", socket.as_path())];
        pairs.iter().flat_map(|(name, value)| [OsString::from(name), value.as_os_str().to_owned()]).collect()
    };
    let run = |verb: &[&OsStr], data: &Path| {
        let mut arguments: Vec<OsString> = verb.iter().map(|&word| word.to_owned()).collect();
        arguments.extend(flags(data));
        pintle(&arguments)
    };
    let output = run(&["backup".as_ref(), "create".as_ref(), "--to".as_ref(), backup.as_os_str()], node.data());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Later events are not in it.
    assert_eq!(client.post("/v1/batch", WRITE_KEY, &batch_body(&[track("later", 1)])).expect("an answer").status, 200);

    let data = folder.path().join("restored");
    let restore = || run(&["backup".as_ref(), "restore".as_ref(), backup.as_os_str()], &data);
    let output = restore();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = restore();
    assert!(!again.status.success(), "a directory that is not empty is refused");

    node.kill();
    sink.open();
    let mut restored = NodeBuilder::new().workspace(&workspace).data(&data).start();
    sink.wait_for(100, Duration::from_mins(1));
    let arrived = sink.message_ids();
    assert!(events.iter().all(|event| arrived.contains(event["messageId"].as_str().expect("an id"))));
    assert!(!arrived.contains("later-1"));
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    assert!(restored.stop().success());
}

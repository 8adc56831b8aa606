//! A data directory belongs to one process, and to a version that knows its format.

use crate::kit::{Node, NodeBuilder, Sink, Workspace};

/// Exit code: a human is needed, restart does not help.
const NEEDS_A_HUMAN: i32 = 78;

fn node_on(data: &std::path::Path, workspace: &Workspace) -> Node {
    NodeBuilder::new().workspace(workspace).data(data).prepare()
}

#[test]
fn a_second_process_on_the_same_data_directory_refuses_to_start() {
    let sink = Sink::start();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut first = node_on(&data, &workspace);
    first.start();
    let mut second = node_on(&data, &workspace);
    let status = second.try_start().expect_err("it refuses");
    assert!(!status.success());
    let output = second.output();
    assert!(output.contains(&data.display().to_string()), "the message names the directory:\n{output}");
    assert!(first.is_running(), "the first one is not disturbed");
    assert!(first.stop().success());
    // The directory is free again.
    second.start();
}

#[test]
fn an_unknown_format_is_refused_with_both_versions_named() {
    let sink = Sink::start();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut node = node_on(&data, &workspace);
    node.start();
    assert!(node.stop().success());
    for content in ["pintle-data 4711\n", "something else\n"] {
        std::fs::write(data.join("FORMAT"), content).expect("the format can be overwritten");
        let mut later = node_on(&data, &workspace);
        let status = later.try_start().expect_err("it refuses");
        assert_eq!(status.code(), Some(NEEDS_A_HUMAN), "{}", later.output());
        let output = later.output();
        if content.contains("4711") {
            assert!(output.contains("4711"), "the message names the version that it found:\n{output}");
        }
        assert!(output.contains("FORMAT") || output.contains("format"), "{output}");
        assert!(data.join("db").is_dir(), "nothing is removed");
    }
}

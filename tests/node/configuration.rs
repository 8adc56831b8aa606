//! The workspace file: changes take effect at once, a broken one never stops anything.

use std::time::{Duration, Instant};

use crate::kit::{
    Client, Load, LoadPlan, Node, NodeBuilder, Sink, WRITE_KEY, Workspace, batch_body, holds_within, pintle, track,
};

fn send(node: &Node, user: &str, n: i64) {
    let answer =
        Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(&[track(user, n)])).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_changed_workspace_takes_effect_within_a_second() {
    let before = Sink::start();
    let after = Sink::start();
    let node = NodeBuilder::new().workspace(&Workspace::new().webhook("hook-1", &before.url())).start();
    send(&node, "u", 0);
    before.wait_for(1, Duration::from_secs(30));

    node.write_workspace(&Workspace::new().webhook("hook-2", &after.url()).document().to_string());
    let changed = Instant::now();
    let mut n = 0;
    let took_effect = holds_within(Duration::from_secs(10), || {
        n += 1;
        send(&node, "u", n);
        after.count() > 0
    });
    assert!(took_effect, "events go to the new destination");
    // The event that shows it also has to be stored, processed and delivered.
    assert!(changed.elapsed() < Duration::from_secs(2), "took effect after {:?}", changed.elapsed());
}

#[test]
fn changes_under_load_take_effect_within_a_second_and_drop_no_request() {
    const CHANGES: usize = 6;
    let sink = Sink::start();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    let node = NodeBuilder::new().workspace(&workspace).start();
    let load = Load::start(node.address(), "load", LoadPlan { clients: 2, users: 4, batch: 5, filling: 0 });
    load.allow(20_000);

    let mut waits = Vec::new();
    for change in 0..CHANGES {
        // A source that was not there before shows when the change is in force.
        let write_key = format!("write-key-of-change-{change}");
        let mut document = workspace.document();
        let mut source = document["sources"][0].clone();
        source["id"] = format!("source-{change}").into();
        source["writeKey"] = write_key.as_str().into();
        source["destinations"] = serde_json::json!([]);
        document["sources"].as_array_mut().expect("a list").push(source);
        node.write_workspace(&document.to_string());
        let changed = Instant::now();
        let mut client = Client::new(node.address());
        let body = track("u", 0).to_string();
        let is_known = || client.post("/v1/track", &write_key, &body).is_ok_and(|answer| answer.status == 200);
        assert!(holds_within(Duration::from_secs(10), is_known), "change {change} takes effect");
        waits.push(changed.elapsed());
    }
    let (acknowledged, refused) = load.stop();

    // A machine that pauses a process may delay one of them; the others show what the node does.
    waits.sort();
    assert!(waits[CHANGES / 2] < Duration::from_secs(1), "changes took effect after {waits:?}");
    assert_eq!(refused, Vec::<String>::new());
    assert!(acknowledged.len() > 100, "there was load: {}", acknowledged.len());
    sink.wait_for(acknowledged.len(), Duration::from_mins(1));
    let delivered = sink.message_ids();
    assert!(acknowledged.iter().all(|id| delivered.contains(id)), "every acknowledged event is delivered");
    assert_eq!(sink.order_violations(), Vec::<String>::new());
}

#[test]
fn a_part_that_is_broken_or_missing_is_off_and_told_and_all_else_works() {
    let sink = Sink::start();
    let mut document = Workspace::new().webhook("good", &sink.url()).document();
    let source = &mut document["sources"][0];
    source["dgSourceTrackingPlanConfig"] = serde_json::json!({"trackingPlan": {"id": "tp_1", "version": 2}});
    document["libraries"] = serde_json::json!([{"versionId": "lib-1"}]);
    let node = NodeBuilder::new().document(document).prepare();
    node.write_beside_workspace("tracking-plans/tp_1@2.json", "{ \"events\": ");
    let mut node = node;
    node.start();
    send(&node, "u", 0);
    sink.wait_for(1, Duration::from_secs(30));

    let socket = node.admin_socket().display().to_string();
    let shown = || String::from_utf8_lossy(&pintle(&["status", "--admin-socket", &socket]).stdout).into_owned();
    let text = shown();
    assert!(text.contains("tracking-plans/tp_1@2.json is not valid JSON"), "{text}");
    assert!(text.contains("library \"lib-1\" has no code here"), "{text}");
    let workspace = node.workspace_file().display().to_string();
    let checked = pintle(&["check", "--data-dir", "/nonexistent", "--workspace", &workspace]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && text.contains("tp_1@2.json") && text.contains("lib-1"), "{text}");

    node.write_beside_workspace("tracking-plans/tp_1@2.json", "{ \"events\": [] }");
    node.write_beside_workspace("libraries/lib-1.js", "export const one = 1;");
    assert!(holds_within(Duration::from_secs(10), || !shown().contains("limited:")), "{}", shown());
}

#[test]
fn a_broken_workspace_file_leaves_the_last_good_one_in_force() {
    let sink = Sink::start();
    let good = Workspace::new().webhook("hook", &sink.url());
    let mut node = NodeBuilder::new().workspace(&good).start();
    for (n, broken) in ["{\"sources\": [", "", "[]", "\u{0}\u{1}", "{\"sources\": 7}"].iter().enumerate() {
        node.write_workspace(broken);
        node.reload();
        let n = i64::try_from(n).expect("small");
        send(&node, "u", n);
        sink.wait_for(usize::try_from(n).expect("small") + 1, Duration::from_secs(30));
    }
    assert!(node.is_running());

    // Also over a restart: the last good copy is in the store.
    assert!(node.stop().success());
    node.start();
    send(&node, "u", 100);
    sink.wait_for(6, Duration::from_secs(30));

    // And a good one heals it.
    let other = Sink::start();
    node.write_workspace(&Workspace::new().webhook("other", &other.url()).document().to_string());
    let mut n = 100;
    assert!(holds_within(Duration::from_secs(10), || {
        n += 1;
        send(&node, "u", n);
        other.count() > 0
    }));
}

#[test]
fn check_names_file_line_and_key_of_what_is_wrong() {
    let node = NodeBuilder::new().workspace(&Workspace::new()).prepare();
    let config = node.settings_file().display().to_string();
    let data = node.data().display().to_string();
    let workspace = node.workspace_file().display().to_string();
    let check = |more: &[&str]| {
        let mut arguments = vec!["check", "--config", &config, "--data-dir", &data, "--workspace", &workspace];
        arguments.extend_from_slice(more);
        let output = pintle(&arguments);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    let (code, text) = check(&[]);
    assert_eq!(code, Some(0), "{text}");

    std::fs::write(node.settings_file(), "\n[Gateway]\nmaxReqSizeInKb = 12\nmaxRekSizeInKB = 13\n").expect("written");
    let (code, text) = check(&["--config-only"]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains(&config) && text.contains("maxRekSizeInKB"), "file and key are named: {text}");
    assert!(text.contains("maxReqSizeInKB"), "the nearest valid key is named: {text}");
    assert!(text.contains('4'), "the line is named: {text}");

    std::fs::write(node.settings_file(), "").expect("written");
    node.write_workspace("{\n  \"workspaceId\": \"w\",\n  \"sources\": [\n    {\"id\": }\n  ]\n}\n");
    let (code, text) = check(&[]);
    assert_eq!(code, Some(78), "without a last good copy: {text}");
    assert!(text.contains(&workspace) && text.contains('4'), "file and line are named: {text}");
    let (code, text) = check(&["--config-only"]);
    assert_eq!(code, Some(0), "a broken workspace does not concern the settings: {text}");
}

//! Decoding rules as tables, and the follower against real files.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::code_files::{CodeFiles, Texts};
use super::decode::{Decoded, decode};
use super::secrets::References;
use super::*;
use crate::settings::Settings;

fn decoded(document: &Value) -> Decoded {
    let variable = |name: &str| (name == "SECRET").then(|| "s3cret-value".to_owned());
    let references = References { prefix: Some("env."), variable: &variable };
    decode(document.to_string().as_bytes(), &references, &CodeFiles::default())
        .map_err(|problems| format!("{problems:?}"))
        .ok()
        .unwrap()
}

fn problems(text: &str) -> Vec<String> {
    let references = References { prefix: Some("env."), variable: &|_| None };
    match decode(text.as_bytes(), &references, &CodeFiles::default()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

#[test]
fn keys_match_without_case_and_the_exact_one_wins() {
    let workspace = decoded(&json!({
        "WorkspaceID": "ws",
        "SOURCES": [{
            "ID": "s1", "writekey": "other", "writeKey": "exact", "Enabled": true,
            "SourceDefinition": {"NAME": "Javascript", "Type": "web"},
            "Destinations": [{"Id": "d1", "isprocessorenabled": true, "DestinationDefinition": {"name": "WEBHOOK"}}]
        }]
    }))
    .workspace;
    let source = &workspace.sources[0];
    assert_eq!((workspace.id.as_str(), source.id.as_str(), source.write_key.as_str()), ("ws", "s1", "exact"));
    assert_eq!((source.definition.name.as_str(), source.definition.kind.as_str()), ("Javascript", "web"));
    assert!(source.enabled && source.destinations[0].is_processor_enabled);
    assert_eq!(source.destinations[0].definition.name, "WEBHOOK");
}

#[test]
fn free_form_settings_are_kept_as_they_are_written() {
    let config = json!({"Key": 1, "key": null, "nested": {"B": [1.0, "x"], "a": {}}});
    let document = json!({"sources": [{"config": config, "destinations": [
        {"config": config, "destinationDefinition": {"config": config}, "transformations": [{"config": config}]}]}]});
    let workspace = decoded(&document).workspace;
    let source = &workspace.sources[0];
    let destination = &source.destinations[0];
    for kept in [&source.config, &destination.config, &destination.definition.config] {
        assert_eq!(serde_json::to_string(kept).unwrap(), config.to_string());
    }
    assert_eq!(destination.transformations[0].config, config);
}

#[test]
fn missing_keys_and_nulls_are_zero_values_and_unknown_keys_are_ignored() {
    for document in [
        json!({}),
        json!({"sources": null, "connections": null, "settings": null, "whtProjects": 7, "flags": []}),
        json!({"sources": [], "workspaceId": null, "somethingNew": {"a": 1}}),
    ] {
        assert_eq!(decoded(&document).workspace, Workspace::default(), "{document}");
    }
    let workspace =
        decoded(&json!({"sources": [{"id": null, "enabled": null, "destinations": [{"isProcessorEnabled": null}]}]}));
    let source = &workspace.workspace.sources[0];
    assert!(!source.enabled && !source.destinations[0].is_processor_enabled && source.tracking_plan.is_none());
}

#[test]
fn a_wrong_type_refuses_the_document_and_tells_where() {
    for (text, expected) in [
        ("[]", "line 1, column 1: is a list where an object belongs"),
        ("{\n  \"sources\": {}\n}", "line 2, column 14: sources is an object where a list belongs"),
        (
            "{\"sources\": [\n {\"Enabled\": \"yes\"}]}",
            "line 2, column 14: sources[0].Enabled is text where true or false belongs",
        ),
        (
            "{\"sources\":[{\"destinations\":[{},{\"version\":1.5}]}]}",
            "line 1, column 44: sources[0].destinations[1].version is a number where a whole number belongs",
        ),
        (
            "{\"connections\":{\"a:b\":{\"config\":[]}}}",
            "line 1, column 33: connections.a:b.config is a list where an object belongs",
        ),
        (
            "{\"settings\":{\"eventBlocking\":{\"events\":{\"track\":\"s3cret\"}}}}",
            "line 1, column 49: settings.eventBlocking.events.track is text where a list belongs",
        ),
    ] {
        assert_eq!(problems(text), [expected]);
    }
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for (text, beginning) in [
        ("", "line 1, column 1: the file is not valid JSON"),
        ("{\n \"a\": }", "line 2, column 7: the file is not valid JSON"),
        ("{} {}", "line 1, column 4: the file is not valid JSON"),
    ] {
        let told = problems(text);
        assert!(told.len() == 1 && told[0].starts_with(beginning), "{text:?}: {told:?}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    assert_eq!(problems(&deep).len(), 1);
    let references = References { prefix: None, variable: &|_| None };
    let not_utf8 = decode(b"{\n\"a\": \"\xff\"}", &references, &CodeFiles::default()).err().unwrap();
    assert_eq!((not_utf8[0].line, not_utf8[0].column), (2, 7));
}

#[test]
fn a_source_without_a_workspace_takes_that_of_the_document() {
    let workspace =
        decoded(&json!({"workspaceId": "top", "sources": [{"id": "b"}, {"id": "a", "workspaceId": "own"}]}));
    let sources: Vec<_> =
        workspace.workspace.sources.iter().map(|s| (s.id.as_str(), s.workspace_id.as_str())).collect();
    assert_eq!(sources, [("a", "own"), ("b", "top")]);
}

#[test]
fn a_template_anywhere_in_the_config_makes_it_dynamic() {
    for (config, expected) in [
        (json!({"a": "{{ message.traits.key || \"x\" }}"}), true),
        (json!({"a": [{"b": ["plain", "x {{a||b}}"]}]}), true),
        (json!({"a": "{{ no fallback }}"}), false),
        (json!({"{{a||b}}": "key"}), false),
        (json!({"a": "}} || {{"}), false),
    ] {
        let workspace = decoded(&json!({"sources": [{"destinations": [{"config": config}]}]})).workspace;
        assert_eq!(workspace.sources[0].destinations[0].has_dynamic_config, expected, "{config}");
    }
}

#[test]
fn replays_become_sources_with_the_listed_destinations() {
    let workspace = decoded(&json!({
        "sources": [{
            "id": "s", "writeKey": "k", "enabled": true, "config": {"eventUpload": true, "other": 1},
            "destinations": [{"id": "d1", "config": {"x": 1}}, {"id": "d2"}]
        }],
        "eventReplays": {"r": {
            "sources": {"rs": {"originalId": "s"}, "none": {"originalId": "gone"}, "bare": {"originalId": "s"}},
            "destinations": {"rd1": {"originalId": "d1"}, "rd2": {"originalId": "d2"}},
            "connections": [{"sourceId": "rs", "destinationId": "rd1"}]
        }}
    }))
    .workspace;
    let ids: Vec<_> = workspace.sources.iter().map(|source| source.id.as_str()).collect();
    assert_eq!(ids, ["rs", "s"]);
    let replay = &workspace.sources[0];
    assert_eq!((replay.write_key.as_str(), replay.original_id.as_str()), ("rs", "s"));
    assert_eq!(Value::Object(replay.config.clone()), json!({"other": 1}));
    assert_eq!(replay.destinations.len(), 1);
    let destination = &replay.destinations[0];
    assert_eq!((destination.id.as_str(), destination.original_id.as_str()), ("rd1", "d1"));
    assert!(destination.is_processor_enabled);
    assert_eq!(Value::Object(destination.config.clone()), json!({"x": 1}));
}

#[test]
fn secrets_are_put_in_and_never_shown() {
    let document = json!({"sources": [{"id": "s", "destinations": [
        {"id": "d", "config": {"password": "env.SECRET", "other": "env.GONE"}}]}], "credentials": {"c": {"value": "${SECRET}"}}});
    let decoded = decoded(&document);
    let config = &decoded.workspace.sources[0].destinations[0].config;
    assert_eq!(config["password"], "s3cret-value");
    assert_eq!(config["other"], "env.GONE");
    assert_eq!(decoded.workspace.credentials[0].value, "s3cret-value");
    let unresolved: Vec<String> = decoded.replaced.lines().collect();
    assert_eq!(unresolved.len(), 1);
    let snapshot = Snapshot::new(vec![decoded.workspace], 0);
    let shown = format!("{snapshot:?} {snapshot:#?} {unresolved:?} {:?}", BackendConfig::fixed(Snapshot::default()));
    assert!(!shown.contains("s3cret-value"), "{shown}");
    assert!(shown.contains("password"));
}

/// A document with something of every shape, to be broken.
fn sample() -> String {
    let mut document: Value = serde_json::from_str(&default_document()).unwrap();
    document["accounts"] = json!({"a": {"options": {"x": [1, {"y": null}]}}});
    document["eventReplays"] = json!({"r": {"sources": {"s": {"originalId": "my-app"}}, "connections": [{}]}});
    document["settings"] = json!({"eventBlocking": {"events": {"track": ["a"]}}});
    document.to_string()
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused_with_a_place(at in 0usize..2_000, put in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..6), cut in 0usize..40) {
        let mut bytes = sample().into_bytes();
        let at = at % bytes.len();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, put);
        let references = References { prefix: Some("env."), variable: &|_| None };
        if let Err(problems) = decode(&bytes, &references, &CodeFiles::default()) {
            proptest::prop_assert!(!problems.is_empty());
            proptest::prop_assert!(problems.iter().all(|problem| problem.line > 0 && problem.column > 0));
        }
    }

    #[test]
    fn a_value_of_any_type_in_any_place_is_taken_or_refused_there(number in 0usize..200, kind in 0usize..6) {
        let mut document: Value = serde_json::from_str(&sample()).unwrap();
        let values = [json!(null), json!(true), json!(1.5), json!("text"), json!([]), json!({})];
        let mut left = number;
        put_nth(&mut document, &mut left, &values[kind]);
        let text = format!("{document:#}");
        let references = References { prefix: None, variable: &|_| None };
        if let Err(problems) = decode(text.as_bytes(), &references, &CodeFiles::default()) {
            proptest::prop_assert_eq!(problems.len(), 1);
            let lines = text.lines().count();
            proptest::prop_assert!(problems[0].line <= lines);
        }
    }
}

/// Puts the value in the place of the nth part of the document, counted from the root.
fn put_nth(document: &mut Value, left: &mut usize, value: &Value) {
    if *left == 0 {
        *document = value.clone();
        *left = usize::MAX;
        return;
    }
    *left = left.saturating_sub(1);
    match document {
        Value::Array(list) => list.iter_mut().for_each(|element| put_nth(element, left, value)),
        Value::Object(map) => map.values_mut().for_each(|member| put_nth(member, left, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A follower of one file in a folder of its own, without a store.
pub(super) struct Followed {
    pub(super) dir: tempfile::TempDir,
    pub(super) config: BackendConfig,
    follower: Option<(Follower, mpsc::Receiver<Request>)>,
    stop: CancellationToken,
}

impl Followed {
    pub(super) fn new() -> Followed {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults();
        settings.backend_config.path = dir.path().join("workspaceConfig.json");
        settings.backend_config.path_is_set = true;
        settings.backend_config.poll_interval = Duration::from_millis(200);
        let (config, follower, requests) = BackendConfig::prepare(Live::new(settings), Clock::manual(1_000), None);
        Followed { dir, config, follower: Some((follower, requests)), stop: CancellationToken::new() }
    }

    pub(super) fn write(&self, document: &str) {
        std::fs::write(self.path(), document).unwrap();
    }

    pub(super) fn replace(&self, document: &str) {
        let temporary = self.dir.path().join("new");
        std::fs::write(&temporary, document).unwrap();
        std::fs::rename(temporary, self.path()).unwrap();
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("workspaceConfig.json")
    }

    pub(super) async fn begin(&mut self, last_good: Option<&str>) -> bool {
        let (follower, _) = self.follower.as_mut().unwrap();
        let kept = |text: &str| Kept { document: text.as_bytes().to_vec(), code: Texts::new() };
        follower.begin(last_good.map(kept)).await
    }

    pub(super) fn run(&mut self) {
        let (follower, requests) = self.follower.take().unwrap();
        tokio::spawn(follower.run(requests, self.stop.clone()));
    }

    pub(super) fn workspace(&self) -> Option<String> {
        self.config.current().and_then(|snapshot| snapshot.workspaces.keys().next().cloned())
    }

    pub(super) async fn wait_for_workspace(&self, id: &str, limit: Duration) {
        let mut snapshots = self.config.subscribe();
        let wanted = snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|s| s.workspaces.contains_key(id)));
        tokio::time::timeout(limit, wanted).await.expect("applied in time").unwrap();
    }

    pub(super) async fn wait_for_state(&self, is_wanted: impl Fn(&State) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !is_wanted(&self.config.state()) {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", self.config.state());
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn named(id: &str) -> String {
    json!({"workspaceId": id}).to_string()
}

#[tokio::test]
async fn a_rename_applies_within_a_second() {
    let mut followed = Followed::new();
    followed.write(&named("one"));
    assert!(followed.begin(None).await);
    assert_eq!(followed.workspace().as_deref(), Some("one"));
    followed.run();
    followed.replace(&named("two"));
    followed.wait_for_workspace("two", Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_broken_file_keeps_what_is_in_force_until_it_is_mended() {
    let mut followed = Followed::new();
    followed.write(&named("one"));
    followed.begin(None).await;
    followed.run();
    followed.write("{\"workspaceId\": 7}");
    followed.wait_for_state(|state| state.last_error.is_some()).await;
    let error = followed.config.state().last_error.unwrap();
    assert!(error.contains("line 1, column 17: workspaceId is a number where text belongs"), "{error}");
    assert_eq!(followed.workspace().as_deref(), Some("one"));
    assert!(matches!(followed.config.reload().await, Err(ReloadError::Refused(_))));
    std::fs::remove_file(followed.path()).unwrap();
    followed.wait_for_state(|state| state.last_error.as_ref().is_some_and(|e| e.contains("does not exist"))).await;
    assert_eq!(followed.workspace().as_deref(), Some("one"));
    followed.write(&named("one"));
    followed.wait_for_state(|state| state.last_error.is_none()).await;
    assert_eq!(followed.config.state().last_change_ms, Some(1_000));
}

#[tokio::test]
async fn a_file_that_says_the_same_in_other_words_changes_nothing() {
    let mut followed = Followed::new();
    followed.write(r#"{"workspaceId":"w","sources":[{"id":"a"},{"id":"b"}]}"#);
    followed.begin(None).await;
    let first = followed.config.current().unwrap();
    followed.run();
    followed.write(r#"{ "sources": [{"ID":"b","unknown":1}, {"id":"a"}], "workspaceId": "w" }"#);
    assert_eq!(followed.config.reload().await, Ok(Reloaded::Unchanged));
    assert!(Arc::ptr_eq(&first, &followed.config.current().unwrap()));
    followed.write(r#"{"workspaceId":"w","sources":[{"id":"a","enabled":true},{"id":"b"}]}"#);
    // The tick may have been faster than the request; either way the change is in force when it is answered.
    followed.config.reload().await.unwrap();
    assert!(followed.config.current().unwrap().source_by_id["a"].enabled);
}

#[tokio::test]
async fn a_node_without_a_good_file_waits_for_one() {
    let mut followed = Followed::new();
    followed.write("{");
    assert!(followed.begin(None).await);
    assert_eq!(followed.workspace(), None);
    assert!(followed.config.state().last_error.is_some());
    followed.run();
    followed.write(&named("late"));
    followed.wait_for_workspace("late", Duration::from_secs(10)).await;
}

#[tokio::test]
async fn the_last_good_copy_serves_until_the_file_is_good() {
    let mut followed = Followed::new();
    followed.write("not json");
    followed.begin(Some(&named("kept"))).await;
    assert_eq!(followed.workspace().as_deref(), Some("kept"));
    let state = followed.config.state();
    assert!(state.from_last_good && state.last_error.is_some());
    followed.run();
    followed.write(&named("kept"));
    followed.wait_for_state(|state| !state.from_last_good && state.last_error.is_none()).await;
}

#[tokio::test]
async fn a_bad_last_good_copy_leaves_the_node_waiting() {
    let mut followed = Followed::new();
    followed.begin(Some("broken")).await;
    assert_eq!(followed.workspace(), None);
}

#[tokio::test]
async fn a_new_content_of_a_secret_file_is_taken_up() {
    let mut followed = Followed::new();
    let secret = followed.dir.path().join("secret");
    std::fs::write(&secret, "first\n").unwrap();
    let document = json!({"workspaceId": "w", "sources": [{"destinations": [
        {"id": "d", "config": {"password": format!("file:{}", secret.display())}}]}]});
    followed.write(&document.to_string());
    followed.begin(None).await;
    followed.run();
    let mut snapshots = followed.config.subscribe();
    let password = |snapshot: &Arc<Snapshot>| snapshot.destination_by_id["d"].config["password"].clone();
    assert_eq!(password(snapshots.borrow().as_ref().unwrap()), "first");
    std::fs::write(&secret, "second\n").unwrap();
    let wanted = snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|s| password(s) == "second"));
    tokio::time::timeout(Duration::from_secs(10), wanted).await.expect("taken up").unwrap();
}

#[tokio::test]
async fn the_embedded_default_serves_only_without_a_file_and_without_a_demand_for_one() {
    let mut demanded = Followed::new();
    assert!(demanded.begin(None).await, "a path that was set is waited for");

    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::defaults();
    settings.backend_config.path = dir.path().join("workspaceConfig.json");
    let path = settings.backend_config.path.clone();
    let (config, mut follower, requests) = BackendConfig::prepare(Live::new(settings), Clock::manual(1), None);
    assert!(!follower.begin(None).await);
    let kept = Kept { document: default_document().into_bytes(), code: Texts::new() };
    follower.use_stored(kept, Mode::Embedded, "the embedded default").await;
    assert_eq!(config.state().mode.name(), "EMBEDDED");
    assert!(config.state().last_error.is_none() && !config.state().from_last_good);
    let stop = CancellationToken::new();
    tokio::spawn(follower.run(requests, stop.clone()));
    assert_eq!(config.reload().await, Ok(Reloaded::Unchanged));
    std::fs::write(&path, named("own")).unwrap();
    config.reload().await.unwrap();
    assert!(config.current().unwrap().workspaces.contains_key("own"));
    assert_eq!(config.state().mode.name(), "JSON");
    stop.cancel();
}

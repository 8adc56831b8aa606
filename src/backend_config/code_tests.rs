//! Code, plans and accounts: inline, from files, missing, broken, changed while the node runs.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::code_files::{self, CodeFiles, Texts};
use super::decode::{Decoded, decode};
use super::secrets::References;
use super::tests::Followed;
use super::*;

fn decoded(document: &Value, texts: &Texts) -> Decoded {
    let references = References { prefix: Some("env."), variable: &|_| None };
    decode(document.to_string().as_bytes(), &references, &CodeFiles::of(texts)).ok().unwrap()
}

fn texts(files: &[(&str, &str)]) -> Texts {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

/// A workspace with one destination that these transformations belong to.
fn transforming(transformations: &Value) -> Value {
    json!({"sources": [{"id": "s", "destinations": [
        {"id": "d", "enabled": true, "transformations": transformations}]}]})
}

#[test]
fn code_comes_from_the_entry_or_from_a_file_and_its_defaults_are_filled() {
    let files = texts(&[
        ("transformations/v1.js", "one"),
        ("transformations/v2.js", "two"),
        ("transformations/v2.json", r#"{"name": "Two", "codeVersion": "0"}"#),
        ("transformations/v3.py", "three"),
    ]);
    for (entry, expected) in [
        (json!({"versionId": "v1"}), Some(("v1", "1", "one", "javascript"))),
        (json!({"versionId": "v2"}), Some(("Two", "0", "two", "javascript"))),
        (json!({"versionId": "v3"}), Some(("v3", "1", "three", "pythonfaas"))),
        (json!({"versionId": "v1", "code": "own", "name": "Own"}), Some(("Own", "1", "own", "javascript"))),
        (json!({"VersionId": "v9", "Code": "own", "CodeVersion": "0"}), Some(("v9", "0", "own", "javascript"))),
        (json!({"versionId": "v9"}), None),
        (json!({}), None),
    ] {
        let decoded = decoded(&transforming(&json!([entry])), &files);
        let transformation = &decoded.workspace.sources[0].destinations[0].transformations[0];
        let found = transformation.code.as_ref().map(|code| {
            (code.name.as_str(), code.code_version.as_str(), code.text.as_str(), transformation.language.as_str())
        });
        assert_eq!(found, expected, "{entry}");
        assert_eq!(decoded.missing.len(), usize::from(expected.is_none()), "{entry}");
    }
}

#[test]
fn an_edited_file_has_another_hash_under_the_same_version() {
    let of = |code: &str| {
        let files = texts(&[("transformations/v1.js", code)]);
        let workspace = decoded(&transforming(&json!([{"versionId": "v1"}])), &files).workspace;
        workspace.sources[0].destinations[0].transformations[0].code.as_ref().unwrap().hash
    };
    assert_eq!(of("a"), of("a"));
    assert_ne!(of("a"), of("b"));
}

#[test]
fn libraries_and_credentials_keep_the_order_of_the_document() {
    let document = json!({
        "libraries": [{"versionId": "l2"}, {"versionId": "gone"}, {"versionId": "l1", "name": "In line", "code": "x"}],
        "credentials": {"z": {"key": "K", "value": "V", "isSecret": true}, "a": {"key": "L"}},
    });
    let files = texts(&[
        ("libraries/l2.js", "y"),
        ("libraries/l2.json", r#"{"name": "My Lib 1", "importName": "@rs/own/v1"}"#),
        ("libraries/unlisted.js", "z"),
    ]);
    let decoded = decoded(&document, &files);
    let libraries: Vec<_> = decoded
        .workspace
        .libraries
        .iter()
        .map(|l| (l.version_id.as_str(), l.name.as_str(), l.import_name.as_str(), l.text.as_str()))
        .collect();
    assert_eq!(libraries, [("l2", "My Lib 1", "@rs/own/v1", "y"), ("l1", "In line", "", "x")]);
    let credentials: Vec<_> =
        decoded.workspace.credentials.iter().map(|c| (c.id.as_str(), c.key.as_str(), c.is_secret)).collect();
    assert_eq!(credentials, [("z", "K", true), ("a", "L", false)]);
    assert_eq!(decoded.missing.len(), 1);
    assert!(decoded.missing[0].to_string().contains("libraries/gone.js"), "{}", decoded.missing[0]);
    assert!(!format!("{:?}", decoded.workspace).contains("\"V\""));
}

#[test]
fn a_tracking_plan_is_inline_or_a_file_of_its_id_and_version() {
    let source = |plan: Value| {
        json!({"sources": [{"id": "s", "dgSourceTrackingPlanConfig": {
            "config": {"global": {"allowUnplannedEvents": "false"}}, "trackingPlan": plan}}]})
    };
    let files = texts(&[
        ("tracking-plans/tp_1@2.json", r#"{"name": "file", "events": []}"#),
        ("tracking-plans/tp@x@1.json", r#"{"name": "at"}"#),
        ("tracking-plans/noversion.json", "{}"),
    ]);
    for (plan, expected) in [
        (json!({"id": "", "version": 0}), None),
        (json!({}), None),
        (json!({"id": "tp_1", "version": 2}), Some((2, Some("file")))),
        (json!({"id": "tp_1", "version": 3}), Some((3, None))),
        (json!({"id": "tp@x", "version": 1}), Some((1, Some("at")))),
        (json!({"id": "tp_1", "version": 2, "name": "inline", "events": []}), Some((2, Some("inline")))),
        (json!({"id": "tp_9", "version": 1, "name": "old", "rules": {"events": []}}), Some((1, Some("old")))),
    ] {
        let decoded = decoded(&source(plan.clone()), &files);
        let found = decoded.workspace.sources[0].tracking_plan.as_ref().map(|wanted| {
            assert_eq!(wanted.config["global"]["allowUnplannedEvents"], "false");
            assert_eq!(wanted.merged_config, None);
            (wanted.version, wanted.plan.as_ref().and_then(|plan| plan.document["name"].as_str()))
        });
        assert_eq!(found, expected, "{plan}");
        assert!(decoded.workspace.tracking_plan("tp_1", 2).is_some(), "other versions can be had by id");
    }
    let unnamed = CodeFiles::of(&files).problems;
    assert!(unnamed.len() == 1 && unnamed[0].to_string().contains("noversion.json"), "{unnamed:?}");
}

#[test]
fn enabled_destinations_get_the_accounts_that_their_config_names() {
    let config = json!({"rudderAccountId": "a1", "rudderDeleteAccountId": "a2"});
    let document = json!({
        "accounts": {
            "a1": {"accountDefinitionName": "SALESFORCE_OAUTH", "options": {"o": 1}, "secret": {"token": "s3cret-value"}},
            "a2": {"accountDefinitionName": "UNKNOWN"},
        },
        "accountDefinitions": {"SALESFORCE_OAUTH": {"name": "SALESFORCE_OAUTH", "authenticationType": "oauth"}},
        "sources": [{"id": "s", "destinations": [
            {"id": "on", "enabled": true, "config": config},
            {"id": "off", "enabled": false, "config": config},
            {"id": "lost", "enabled": true, "config": {"rudderAccountId": "nobody"}},
        ]}],
    });
    let decoded = decoded(&document, &Texts::new());
    let [on, off, lost] = &decoded.workspace.sources[0].destinations[..] else { panic!("three destinations") };
    let account = on.delivery_account.as_ref().unwrap();
    assert_eq!((account.id.as_str(), account.options["o"].as_i64()), ("a1", Some(1)));
    assert_eq!(account.definition.as_ref().unwrap().authentication_type, "oauth");
    assert!(on.delete_account.as_ref().unwrap().definition.is_none());
    assert!(off.delivery_account.is_none() && off.delete_account.is_none());
    assert!(lost.delivery_account.is_none());
    assert_eq!(decoded.missing.len(), 1, "{:?}", decoded.missing);
    assert!(!format!("{:?}", decoded.workspace).contains("s3cret-value"));
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_file_that_cannot_be_used_is_left_out_or_serves_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let large = "x".repeat((1 << 20) + 1);
    for (path, text) in [
        ("transformations/good.js", "code"),
        ("transformations/large.js", large.as_str()),
        ("transformations/.hidden.js", "no"),
        ("transformations/good.js~", "no"),
        ("transformations/readme.md", "no"),
        ("tracking-plans/tp@1.json", "{\"name\": "),
        ("tracking-plans/tp@2.json", "[]"),
    ] {
        write(dir.path(), path, text);
    }
    std::fs::create_dir(dir.path().join("transformations/folder.js")).unwrap();
    std::fs::write(dir.path().join("transformations/bytes.js"), b"\xff").unwrap();
    let before = texts(&[("tracking-plans/tp@1.json", "{\"name\": \"before\"}")]);
    let (read, problems) = code_files::read(dir.path(), &before);
    assert_eq!(
        read,
        texts(&[("tracking-plans/tp@1.json", "{\"name\": \"before\"}"), ("transformations/good.js", "code")])
    );
    let told: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    let expected = [
        "transformations/bytes.js",
        "transformations/folder.js",
        "transformations/large.js",
        "tracking-plans/tp@1.json",
        "tracking-plans/tp@2.json",
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn code_and_plans_take_effect_when_their_file_changes_and_a_broken_one_keeps_what_was() {
    let mut followed = Followed::new();
    let dir = followed.dir.path().to_owned();
    write(&dir, "transformations/v1.js", "first");
    write(&dir, "tracking-plans/tp@1.json", r#"{"name": "plan"}"#);
    let document = json!({"workspaceId": "w", "sources": [{"id": "s",
        "dgSourceTrackingPlanConfig": {"trackingPlan": {"id": "tp", "version": 1}},
        "destinations": [{"id": "d", "enabled": true, "transformations": [{"versionId": "v1"}]}]}]});
    followed.write(&document.to_string());
    followed.begin(None).await;
    followed.run();
    let code = |snapshot: &Snapshot| {
        snapshot.destination_by_id["d"].transformations[0].code.as_ref().map(|code| code.text.clone())
    };
    let mut snapshots = followed.config.subscribe();
    assert_eq!(code(snapshots.borrow().as_ref().unwrap()).as_deref(), Some("first"));
    assert_eq!(followed.config.state().limits, Vec::<String>::new());

    write(&dir, "transformations/v1.js", "second");
    let wanted = snapshots.wait_for(|s| s.as_ref().is_some_and(|s| code(s).as_deref() == Some("second")));
    tokio::time::timeout(Duration::from_secs(10), wanted).await.expect("taken up").unwrap();

    write(&dir, "tracking-plans/tp@1.json", "{");
    followed.wait_for_state(|state| state.limits.iter().any(|limit| limit.contains("tp@1.json"))).await;
    let plan = followed.config.current().unwrap().source_by_id["s"].tracking_plan.clone().unwrap().plan;
    assert_eq!(plan.expect("the last usable plan").document["name"], "plan");
    assert!(followed.config.state().last_error.is_none());

    std::fs::remove_file(dir.join("transformations/v1.js")).unwrap();
    let wanted = snapshots.wait_for(|s| s.as_ref().is_some_and(|s| code(s).is_none()));
    tokio::time::timeout(Duration::from_secs(10), wanted).await.expect("taken away").unwrap();
    followed.wait_for_state(|state| state.limits.iter().any(|limit| limit.contains("transformations/v1.js"))).await;
}

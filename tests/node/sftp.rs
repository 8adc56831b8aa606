//! SFTP destinations against a real server: files of records, an outage, a crash, a refusal.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kit::{Client, Gate, Node, NodeBuilder, Sshd, WRITE_KEY, Workspace, batch_body, wait_until};
use crate::rules::dead;

const LIMIT: Duration = Duration::from_mins(1);

/// Files soon, and a server that failed is tried again soon.
const SETTINGS: &str = r#"
[Storage]
allowUnsafeFs = true
ballast = "0"
softFree = "64MiB"
hardFree = "32MiB"

[BatchRouter]
uploadFreq = "1s"
timeout = "5s"
asyncUploadTimeout = "1s"
"#;

fn account() -> String {
    let name = std::process::Command::new("id").arg("-un").output().expect("id runs").stdout;
    String::from_utf8(name).expect("text").trim().to_owned()
}

fn start(sshd: &Sshd, gate: &Gate, format: &str, key: &str) -> Node {
    let config = json!({
        "host": "127.0.0.1", "port": gate.address().port().to_string(), "username": account(), "authMethod": "keyAuth",
        "privateKey": key, "hostKeyFingerprint": sshd.fingerprint(), "fileFormat": format, "sortColumnNames": true,
        "filePath": format!("{}/{{destinationID}}/{{YYYY}}/{{jobRunID}}.{format}", sshd.inbox().display()),
    });
    let mut workspace = Workspace::new().destination("files", "SFTP", config);
    workspace.define("files", json!({ "supportedMessageTypes": ["record", "track"] }));
    NodeBuilder::new().settings(SETTINGS).workspace(&workspace).start()
}

fn send(node: &Node, run: &str, numbers: std::ops::Range<usize>) {
    let events: Vec<Value> = numbers
        .map(|n| {
            json!({
                "type": "record", "action": "insert", "userId": "u", "fields": { "id": n, "name": format!("n,{n}") },
                "context": { "sources": { "job_run_id": run, "job_id": "j", "task_run_id": "t" } },
            })
        })
        .collect();
    let answer = Client::new(node.address()).post("/v1/batch", WRITE_KEY, &batch_body(&events)).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Every finished file with its content.
fn files(sshd: &Sshd) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Ok(years) = std::fs::read_dir(sshd.inbox().join("files")) else { return found };
    for year in years.flatten() {
        for file in std::fs::read_dir(year.path()).expect("a folder").flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                found.insert(name, std::fs::read_to_string(file.path()).expect("a file"));
            }
        }
    }
    found
}

/// The ids in all files of a JSON destination, with how often they are there.
fn ids(sshd: &Sshd) -> BTreeMap<u64, usize> {
    let mut ids = BTreeMap::new();
    for (name, text) in files(sshd) {
        let records: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
        for record in records {
            *ids.entry(record["id"].as_u64().expect("an id")).or_default() += 1;
        }
    }
    ids
}

#[test]
fn records_become_csv_files_by_run_with_numbered_parts() {
    let sshd = Sshd::start();
    let gate = Gate::to(sshd.address());
    let node = start(&sshd, &gate, "csv", &sshd.user_key());
    send(&node, "run1", 0..3);
    wait_until("the first part is there", LIMIT, || files(&sshd).contains_key("run1_1.csv"));
    assert_eq!(files(&sshd)["run1_1.csv"], "action,id,name\ninsert,0,\"n,0\"\ninsert,1,\"n,1\"\ninsert,2,\"n,2\"\n");
    send(&node, "run1", 3..4);
    send(&node, "run2", 4..5);
    wait_until("further parts are there", LIMIT, || files(&sshd).len() == 3);
    assert_eq!(files(&sshd)["run1_2.csv"], "action,id,name\ninsert,3,\"n,3\"\n");
    assert_eq!(files(&sshd)["run2_1.csv"], "action,id,name\ninsert,4,\"n,4\"\n");

    let event = json!({ "type": "track", "event": "e", "userId": "u" });
    let answer = Client::new(node.address()).post("/v1/track", WRITE_KEY, &event.to_string()).expect("an answer");
    assert_eq!(answer.status, 200);
    wait_until("what is no record is a dead letter", LIMIT, || {
        dead(&node).iter().any(|letter| letter.to_string().contains("type record"))
    });
}

#[test]
fn every_record_is_in_one_file_after_an_outage_and_a_crash_before_the_answer() {
    let sshd = Sshd::start();
    let mut gate = Gate::to(sshd.address());
    let mut node = start(&sshd, &gate, "json", &sshd.user_key());
    gate.shut();
    send(&node, "run", 0..500);
    std::thread::sleep(Duration::from_secs(3));
    gate.open();
    wait_until("all records are there", LIMIT, || ids(&sshd).len() == 500);
    for round in 1..4 {
        send(&node, "run", round * 500..(round + 1) * 500);
        wait_until("a file of this round is there", LIMIT, || ids(&sshd).len() > round * 500);
        node.kill();
        node.start();
        wait_until("all records are there", LIMIT, || ids(&sshd).len() == (round + 1) * 500);
    }
    let twice: Vec<_> = ids(&sshd).into_iter().filter(|(_, times)| *times > 1).collect();
    assert_eq!(twice, Vec::new());
    assert_eq!(dead(&node), Vec::<Value>::new());
}

#[test]
fn a_key_that_the_server_does_not_know_gives_records_up_with_a_reason() {
    let (sshd, other) = (Sshd::start(), Sshd::start());
    let gate = Gate::to(sshd.address());
    let node = start(&sshd, &gate, "json", &other.user_key());
    send(&node, "run", 0..1);
    wait_until("the record is a dead letter", LIMIT, || {
        dead(&node).iter().any(|letter| letter.to_string().contains("does not let"))
    });
    assert!(files(&sshd).is_empty());
}

//! Staging files of warehouses: what is in them, what the warehouse is told, and what a crash leaves.

use super::*;
use crate::jobsdb::StagingFile;

const KEY_FOLDER: &str = "warehouse/objects/rudder-warehouse-staging-logs";

/// A row as the processor makes it.
fn row(table: &str, number: usize, received_at: &str) -> String {
    let columns = json!({ "id": "int", table: "string", "uuid_ts": "datetime" });
    let metadata = json!({ "table": table, "columns": columns, "receivedAt": received_at });
    json!({ "data": { "id": number, table: "v" }, "metadata": metadata, "userId": "" }).to_string()
}

fn rule(one: &str, two: &str) -> String {
    let metadata = json!({
        "table": "rudder_identity_merge_rules", "columns": { "merge_property_1_type": "string" },
        "receivedAt": "2024-05-06T07:08:09.000Z", "isMergeRule": true, "mergePropOne": one, "mergePropTwo": two,
    });
    json!({ "data": {}, "metadata": metadata, "userId": "" }).to_string()
}

impl Kit {
    fn records(&self) -> Vec<StagingFile> {
        let all = self.jobs.scan_between(Namespace::WarehouseStaging, &[0; 8], &[0xff; 8], 10_000).unwrap();
        all.iter().map(|(_, value)| serde_json::from_slice(value).unwrap()).collect()
    }

    /// The lines of a recorded file.
    fn lines(&self, record: &StagingFile) -> Vec<String> {
        let path = self.folder.path().join("warehouse/objects").join(&record.location);
        unzipped(&std::fs::read(path).unwrap()).lines().map(str::to_owned).collect()
    }

    fn recorded_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.records().iter().flat_map(|record| self.lines(record)).collect();
        lines.sort();
        lines
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_a_staging_file_and_its_record() {
    let mut warehouse = Destination::clone(&destination("d", "POSTGRES", json!({ "prefix": "p" })));
    warehouse.revision_id = "r7".to_owned();
    let kit = Kit::new(workspace(&[Arc::new(warehouse)], Map::new()), &[]);
    let staged = kit.jobs.staged();
    let rows = [
        ("s1", row("tracks", 1, "2024-05-06T07:08:09.100Z")),
        ("s1", row("shop", 2, "2024-05-06T09:00:00.000Z")),
        ("s2", row("tracks", 3, "2024-05-06T07:08:09.000Z")),
        ("s1", row("tracks", 4, "2024-05-06T08:00:00.900Z")),
    ];
    kit.store(Queue::BatchRt, ("d", "POSTGRES"), &rows).await;
    let running = kit.start();
    tokio::time::timeout(PATIENCE, staged.notified()).await.unwrap();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;

    let records = kit.records();
    assert_eq!(records.len(), 2, "{records:?}");
    let record = records.iter().find(|record| record.batch_destination.source.id == "s1").unwrap();
    let expected: Vec<&str> = rows.iter().filter(|(of, _)| *of == "s1").map(|(_, row)| row.as_str()).collect();
    assert_eq!(kit.lines(record), expected);
    assert!(record.location.starts_with("p/rudder-warehouse-staging-logs/s1/"), "{}", record.location);
    assert_eq!(record.batch_destination.destination.id, "d");
    assert_eq!((record.workspace_id.as_str(), record.destination_revision_id.as_str()), ("w", "r7"));
    assert_eq!((record.total_events, record.use_rudder_storage), (3, true));
    assert_eq!(record.first_event_at, "2024-05-06T07:08:09Z");
    assert_eq!(record.last_event_at, "2024-05-06T08:00:00Z");
    assert_eq!(record.time_window, "0001-01-01T00:00:00Z");
    assert_eq!(record.server_instance_id, "1");
    let tables: Vec<&String> = record.schema.keys().collect();
    assert_eq!(tables, ["tracks", "shop"]);
    assert_eq!(record.schema["shop"], json!({ "id": "int", "shop": "string", "uuid_ts": "datetime" }));
    let bytes: usize = expected.iter().map(|line| line.len() + 1).sum();
    assert_eq!(record.total_bytes, bytes as u64);
    assert!(kit.journal().is_empty());
    assert_eq!(std::fs::read_dir(kit.folder.path().join(WORK_FOLDER)).unwrap().count(), 0);
    let figures = kit.board.snapshot().remove(0);
    assert_eq!((figures.files, figures.jobs, figures.last_error), (2, 4, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_lake_gets_a_file_for_every_hour_of_receipt() {
    let kit = Kit::new(workspace(&[destination("d", "LOCAL_DATALAKE", json!({}))], Map::new()), &[]);
    let rows = [
        ("s1", row("tracks", 1, "2024-05-06T07:59:59.999Z")),
        ("s1", row("tracks", 2, "2024-05-06T08:00:00.000Z")),
        ("s1", row("tracks", 3, "2024-05-06T09:30:00.000+02:00")),
    ];
    kit.store(Queue::BatchRt, ("d", "LOCAL_DATALAKE"), &rows).await;
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    let mut found: Vec<(String, Vec<String>)> =
        kit.records().iter().map(|record| (record.time_window.clone(), kit.lines(record))).collect();
    found.sort();
    let lines = |numbers: &[usize]| numbers.iter().map(|&n| rows[n].1.clone()).collect::<Vec<_>>();
    let expected =
        [("2024-05-06T07:00:00Z".to_owned(), lines(&[0, 2])), ("2024-05-06T08:00:00Z".to_owned(), lines(&[1]))];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_in_exactly_one_recorded_file_however_often_the_router_is_killed() {
    let workspace = workspace(&[destination("d", "LOCAL_DATALAKE", json!({}))], Map::new());
    let mut kit = Kit::new(workspace, &[(Keys::MAX_EVENTS, "20")]);
    let mut rows: Vec<(&str, String)> = Vec::new();
    for round in 0..12_usize {
        let hours = ["2024-05-06T07:00:00.000Z", "2024-05-06T08:00:00.000Z"];
        let fresh = (0..60).map(|n| (if n % 3 == 0 { "s2" } else { "s1" }, row("t", round * 1_000 + n, hours[n % 2])));
        let fresh: Vec<(&str, String)> = fresh.collect();
        kit.store(Queue::BatchRt, ("d", "LOCAL_DATALAKE"), &fresh).await;
        rows.extend(fresh);
        let running = kit.start();
        tokio::time::sleep(Duration::from_millis(4 * u64::try_from(round).unwrap())).await;
        running.kill().await;
        kit = kit.reopen().await;
    }
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(kit.recorded_lines(), sorted(&rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_never_recorded_is_staged_again() {
    let kit = Kit::new(workspace(&[destination("d", "POSTGRES", json!({}))], Map::new()), &[]);
    // As a node leaves it that dies between the upload and the record.
    let orphan = kit.folder.path().join(KEY_FOLDER).join("s1/2024-05-06/1.s1.x.json.gz");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, b"whatever").unwrap();
    let rows = [("s1", row("t", 1, "2024-05-06T07:00:00.000Z"))];
    kit.store(Queue::BatchRt, ("d", "POSTGRES"), &rows).await;
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    assert_eq!(kit.recorded_lines(), sorted(&rows));
    assert!(!kit.records().iter().any(|record| record.location.contains("1.s1.x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_rule_is_written_once_for_each_source() {
    let kit =
        Kit::new(workspace(&[destination("d", "SNOWFLAKE", json!({ "useRudderStorage": true }))], Map::new()), &[]);
    let running = kit.start();
    let first = [("s1", rule("a", "b")), ("s1", rule("a", "b")), ("s1", rule("ab", "")), ("s2", rule("a", "b"))];
    kit.store(Queue::BatchRt, ("d", "SNOWFLAKE"), &first).await;
    kit.until_empty(Queue::BatchRt).await;
    let second = [("s1", rule("a", "b")), ("s1", rule("c", "d")), ("s2", rule("a", "b"))];
    kit.store(Queue::BatchRt, ("d", "SNOWFLAKE"), &second).await;
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    let expected = [&first[0], &first[2], &first[3], &second[1]].map(|(source, row)| (*source, row.clone()));
    assert_eq!(kit.recorded_lines(), sorted(&expected));
    // A file of nothing but known rules is none.
    assert_eq!(kit.records().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_keeps_the_rows_and_unknown_storages_give_them_up() {
    let away = destination(
        "away",
        "POSTGRES",
        json!({ "bucketProvider": "MINIO", "bucketName": "b", "endPoint": "127.0.0.1:9", "accessKeyID": "k", "secretAccessKey": "s" }),
    );
    let odd = destination("odd", "POSTGRES", json!({ "bucketProvider": "FTP" }));
    let kit = Kit::new(workspace(&[away, odd], Map::new()), &[(Keys::MAX_FAILURES, "1"), (Keys::BREAKER_OPEN, "60s")]);
    let rows = [("s1", row("t", 1, "2024-05-06T07:00:00.000Z"))];
    kit.store(Queue::BatchRt, ("away", "POSTGRES"), &rows).await;
    kit.store(Queue::BatchRt, ("odd", "POSTGRES"), &rows).await;
    let running = kit.start();
    until("the odd one is given up", || kit.pending(Queue::ProcError) == 1).await;
    until("the breaker opens", || {
        kit.board
            .snapshot()
            .iter()
            .any(|figures| figures.destination_id == "away" && figures.breaker == BreakerState::Open)
    })
    .await;
    running.stop().await;
    assert_eq!((kit.pending(Queue::BatchRt), kit.records().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_gets_the_file_and_the_record_names_its_key() {
    let server = FakeS3::start(&["b"]).await;
    let config = json!({
        "bucketProvider": "MINIO", "bucketName": "b", "endPoint": server.host, "accessKeyID": "k",
        "secretAccessKey": "s", "prefix": "pre",
    });
    let kit = Kit::new(workspace(&[destination("d", "CLICKHOUSE", config)], Map::new()), &[]);
    let rows = [("s1", row("t", 1, "2024-05-06T07:00:00.000Z"))];
    kit.store(Queue::BatchRt, ("d", "CLICKHOUSE"), &rows).await;
    let running = kit.start();
    kit.until_empty(Queue::BatchRt).await;
    running.stop().await;
    let record = kit.records().remove(0);
    assert!(!record.use_rudder_storage);
    assert!(record.location.starts_with("pre/rudder-warehouse-staging-logs/s1/"), "{}", record.location);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_record_is_too_large_for_the_store_are_given_up_in_time() {
    let kit = Kit::new(
        workspace(&[destination("d", "POSTGRES", json!({}))], Map::new()),
        &[(Keys::MAX_TX_BYTES, "100000"), (Keys::RECORD_RETRY_TIME, "0s"), (Keys::MAX_FAILURES, "100")],
    );
    let wide = |n: usize| {
        let columns: Map<String, Value> =
            (0..100).map(|column| (format!("column_{n}_{column:020}"), "string".into())).collect();
        let metadata = json!({ "table": "t", "columns": columns, "receivedAt": "2024-05-06T07:00:00.000Z" });
        json!({ "data": {}, "metadata": metadata, "userId": "" }).to_string()
    };
    for n in 0..40 {
        kit.store(Queue::BatchRt, ("d", "POSTGRES"), &[("s1", wide(n))]).await;
    }
    let running = kit.start();
    until("all are given up", || kit.pending(Queue::ProcError) == 40).await;
    running.stop().await;
    assert_eq!((kit.pending(Queue::BatchRt), kit.records().len()), (0, 0));
}

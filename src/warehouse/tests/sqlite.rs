//! SQLite: rows by their keys, users from identifies, what does not fit.

use super::*;

fn kit() -> Kit {
    Kit::new("SQLITE", json!({ "syncFrequency": "0" }), &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_in_their_tables_once_however_often_they_come() {
    let kit = kit();
    let mut rows = track("a", 1, json!({ "total": 5, "caf\u{e9}": "\u{fc}", "select": "reserved" }));
    rows.extend(track("b", 2, json!({ "total": 7, "void": null })));
    // The same event twice in one file: the one that was received last stays.
    rows.extend(track("a", 3, json!({ "total": 6 })));
    kit.stage(&rows).await;
    let running = kit.start();
    kit.until_exported(1).await;
    let all = "SELECT id, total, \"caf\u{e9}\", \"select\", void FROM order_done ORDER BY id";
    assert_eq!(running.query(all).await, ["a 6 - - -", "b 7 - - -"]);
    // And again by another upload, with a column that is new.
    kit.stage(&track("b", 4, json!({ "total": 8, "coupon": "x\"y, z" }))).await;
    kit.until_exported(2).await;
    assert_eq!(running.query("SELECT id, total, coupon FROM order_done ORDER BY id").await, ["a 6 -", "b 8 x\"y, z"]);
    assert_eq!(running.query("SELECT count(*), count(DISTINCT id), count(uuid_ts) FROM tracks").await, ["2 2 2"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn users_have_the_newest_value_of_each_trait() {
    let kit = kit();
    let mut rows = identify("1", "u1", 1, json!({ "plan": "free", "age": 30 }));
    rows.extend(identify("2", "u1", 3, json!({ "plan": "paid" })));
    rows.extend(identify("3", "u2", 2, json!({ "plan": "free" })));
    kit.stage(&rows).await;
    let running = kit.start();
    kit.until_exported(1).await;
    let users = "SELECT id, plan, age FROM users ORDER BY id";
    assert_eq!(running.query(users).await, ["u1 paid 30", "u2 free -"]);
    kit.stage(&identify("4", "u2", 9, json!({ "age": 41, "city": "Bonn" }))).await;
    kit.until_exported(2).await;
    let users = "SELECT id, plan, age, city FROM users ORDER BY id";
    assert_eq!(running.query(users).await, ["u1 paid 30 -", "u2 free 41 Bonn"]);
    assert_eq!(running.query("SELECT count(*) FROM identifies").await, ["4"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_type_is_converted_or_discarded_and_its_row_loaded() {
    let kit = kit();
    kit.stage(&track("a", 1, json!({ "total": 5, "code": "x" }))).await;
    let running = kit.start();
    kit.until_exported(1).await;
    let mut rows = track("b", 2, json!({ "total": 7.9, "code": 12 }));
    rows.extend(track("c", 3, json!({ "total": "many" })));
    kit.stage(&rows).await;
    kit.until_exported(2).await;
    let all = "SELECT id, total, code FROM order_done ORDER BY id";
    // The first type of an upload counts in it, and that of the warehouse for ever.
    assert_eq!(running.query(all).await, ["a 5 x", "b 7 12", "c - -"]);
    let discards = "SELECT row_id, table_name, column_name, column_value, reason FROM rudder_discards";
    assert_eq!(
        running.query(discards).await,
        ["c order_done total many incompatible schema conversion from int to string"]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_without_a_provider_is_tried_again_and_says_why() {
    let kit = Kit::new("MSSQL", json!({ "syncFrequency": "0" }), &[]);
    kit.stage(&track("a", 1, json!({}))).await;
    let running = kit.start();
    let uploads = kit.until("it failed", |uploads| uploads.iter().any(|upload| upload.attempts() > 0)).await;
    assert_eq!(uploads[0].status, State::InternalFailure);
    let error = &uploads[0].error["internal_processing_failed"].errors[0];
    assert!(error.contains("cannot load warehouses of type MSSQL"), "{error}");
    running.stop().await;
}

//! A node that dies in any state of an upload goes on without losing or doubling a row.
//!
//! Death is a state that is stored and after which nothing is done any more; a new node opens the same store.

use super::lake::ids_in;
use super::*;

const EVENTS: u32 = 40;

fn every_state() -> Vec<State> {
    let steps =
        [Step::UploadSchema, Step::TableUploads, Step::LoadFiles, Step::TableCounts, Step::RemoteSchema, Step::Export];
    let of_steps = steps.into_iter().flat_map(|step| [State::Doing(step), State::Done(step)]);
    of_steps.collect()
}

async fn has_every_row_once(kind: &str, death: Death) {
    // Appending is asked for, so that only what the node knows of its own death keeps rows from being there twice.
    let config = json!({ "syncFrequency": "0", "preferAppend": true });
    let kit = Kit::new(kind, config, &[]);
    let mut rows = Vec::new();
    for n in 0..EVENTS {
        rows.extend(track(&format!("{n:02}"), n, json!({ "n": n })));
    }
    kit.stage(&rows[..40]).await;
    kit.stage(&rows[40..]).await;
    let first = kit.start();
    *first.warehouse.0.death.lock() = Some(death);
    let deadline = Instant::now() + PATIENCE;
    while first.warehouse.0.death.lock().is_some() {
        assert!(Instant::now() < deadline, "{death:?} did not happen: {:#?}", kit.uploads());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.task.abort();
    assert!(first.task.await.unwrap_err().is_cancelled());
    drop(first.warehouse);
    let kit = kit.reopen().await;
    let second = kit.start();
    let total: u64 = u64::from(EVENTS) * 2;
    kit.until("everything is exported", |uploads| {
        let done = uploads.iter().filter(|upload| upload.status == State::Done(Step::Export));
        done.map(|upload| upload.total_events).sum::<u64>() == total
    })
    .await;
    let expected: Vec<String> = (0..EVENTS).map(|n| format!("{n:02}")).collect();
    for table in ["tracks", "order_done"] {
        let found = if kind == "SQLITE" {
            second.query(&format!("SELECT id FROM {table} ORDER BY id")).await
        } else {
            ids_in(&kit.folder.path().join("warehouse/tables/web_shop"), table)
        };
        assert_eq!(found, expected, "{table} after {death:?}");
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_has_every_row_once_after_a_death_in_any_state() {
    for state in every_state() {
        has_every_row_once("LOCAL_DATALAKE", Death::In(state)).await;
    }
    has_every_row_once("LOCAL_DATALAKE", Death::AfterStoringFiles).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_every_row_once_after_a_death_in_any_state() {
    for state in every_state() {
        has_every_row_once("SQLITE", Death::In(state)).await;
    }
    // A table has its rows and nobody noted it.
    has_every_row_once("SQLITE", Death::AfterLoadingATable).await;
}

//! The local data lake: Parquet files in folders.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;

use super::*;

pub(super) fn ids_in(lake: &Path, table: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for file in files_below(&lake.join(table)) {
        let reader = SerializedFileReader::new(std::fs::File::open(lake.join(table).join(file)).unwrap()).unwrap();
        let columns = reader.metadata().file_metadata().schema_descr().columns().to_vec();
        let place = columns.iter().position(|column| column.name() == "id").unwrap();
        for row in reader.get_row_iter(None).unwrap() {
            ids.push(row.unwrap().get_string(place).unwrap().clone());
        }
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_files_become_parquet_files_by_hour() {
    let kit = Kit::new("LOCAL_DATALAKE", json!({ "syncFrequency": "0" }), &[]);
    kit.stage_in("2030-01-02T03:00:00Z", &track("a", 1, json!({ "total": 5 }))).await;
    kit.stage_in("2030-01-02T04:00:00Z", &track("b", 2, json!({ "total": 1.5, "caf\u{e9}": "x" }))).await;
    let running = kit.start();
    kit.until("everything is exported", |uploads| {
        uploads.iter().filter(|upload| upload.status.is_final()).map(|upload| upload.total_events).sum::<u64>() == 4
    })
    .await;
    running.stop().await;
    let lake = kit.folder.path().join("warehouse/tables/web_shop");
    let folders: Vec<String> =
        files_below(&lake).iter().map(|file| file.rsplit_once('/').unwrap().0.to_owned()).collect();
    assert_eq!(
        folders,
        ["order_done/2030/01/02/03", "order_done/2030/01/02/04", "tracks/2030/01/02/03", "tracks/2030/01/02/04"]
    );
    assert_eq!(ids_in(&lake, "tracks"), ["a", "b"]);
    assert_eq!(ids_in(&lake, "order_done"), ["a", "b"]);
    // The staging files of the node's own are not needed any more, nor is anything on its way.
    assert_eq!(files_below(&kit.folder.path().join("warehouse/objects")), Vec::<String>::new());
    assert_eq!(files_below(&kit.folder.path().join("tmp/warehouse")), Vec::<String>::new());
}

//! Lines become files.

use std::io::Write;

use flate2::write::GzEncoder;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use serde_json::{Value, json};

use super::*;

fn staged(folder: &Path, name: &str, lines: &[String]) -> PathBuf {
    let path = folder.join(name);
    let mut gzip = GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
    for line in lines {
        gzip.write_all(line.as_bytes()).unwrap();
        gzip.write_all(b"\n").unwrap();
    }
    gzip.finish().unwrap();
    path
}

fn line(table: &str, columns: Value, data: Value) -> String {
    json!({ "data": data, "metadata": { "table": table, "columns": columns, "receivedAt": "2030-01-02T03:04:05.678Z" },
        "userId": "" })
    .to_string()
}

fn job(format: Format, schema: Value) -> Job {
    Job {
        schema: Arc::new(serde_json::from_value(schema).unwrap()),
        format,
        dialect: if format == Format::Json { Dialect::BigQuery } else { Dialect::Postgres },
        loaded_at: "2030-02-03T04:05:06.789120Z".parse().unwrap(),
        checks_constraints: true,
        longest_line: 1 << 20,
    }
}

fn schema() -> Value {
    json!({
        "t": { "id": "string", "received_at": "datetime", "n": "int", "f": "float", "s": "string", "b": "boolean",
            "d": "datetime", "uuid_ts": "datetime", "j": "json" },
        "rudder_discards": { "table_name": "string", "row_id": "string", "column_name": "string",
            "column_value": "string", "reason": "string", "received_at": "datetime", "uuid_ts": "datetime" }
    })
}

fn lines() -> Vec<String> {
    let types = json!({ "id": "string", "received_at": "datetime", "n": "int", "f": "float", "s": "string",
        "b": "boolean", "d": "datetime", "uuid_ts": "datetime", "j": "string" });
    let at = "2030-01-02T03:04:05.678Z";
    vec![
        line(
            "t",
            types.clone(),
            json!({ "id": "1", "received_at": at, "n": 5, "f": 1.5, "s": "a,\"b\"\nc",
            "b": true, "d": at, "j": "x" }),
        ),
        "no json".to_owned(),
        line("elsewhere", json!({ "id": "string" }), json!({ "id": "z" })),
        line(
            "t",
            json!({ "id": "string", "received_at": "datetime", "n": "float", "f": "int", "s": "float",
            "b": "string", "d": "int", "j": "string" }),
            json!({ "id": "2", "received_at": at, "n": -2.9, "f": 7,
            "s": 1_234_567.5, "b": "yes", "d": 5, "j": ["a", 1] }),
        ),
        line(
            "t",
            json!({ "id": "string", "received_at": "datetime", "n": "int" }),
            json!({ "id": "3", "received_at": at, "n": 1e21 }),
        ),
        line("t", json!({ "n": "string" }), json!({ "n": "lost" })),
    ]
}

fn rows_of_csv(path: &Path) -> Vec<Vec<String>> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).from_reader(MultiGzDecoder::new(File::open(path).unwrap()));
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}

fn written(job: &Job, folder: &Path, staged: &[PathBuf]) -> BTreeMap<String, Written> {
    let files = write(job, staged, folder, &CancellationToken::new()).unwrap();
    files.into_iter().map(|file| (file.table.clone(), file)).collect()
}

#[test]
fn values_take_the_types_of_their_columns_and_what_does_not_fit_is_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let staged = staged(folder.path(), "s.json.gz", &lines());
    let files = written(&job(Format::Csv, schema()), folder.path(), &[staged]);
    assert_eq!(files["t"].rows, 4);
    let at = "2030-01-02T03:04:05.678Z";
    let loaded = "2030-02-03T04:05:06.789Z";
    // b, d, f, id, j, n, received_at, s, uuid_ts
    assert_eq!(
        rows_of_csv(&files["t"].path),
        [
            ["true", at, "1.5", "1", "\"x\"", "5", at, "a,\"b\"\nc", loaded],
            ["", "", "7", "2", "[\"a\",1]", "-2", at, "1.2345675e+06", loaded],
            ["", "", "", "3", "", "", at, "", loaded],
            ["", "", "", "", "", "", "", "", loaded],
        ]
    );
    let discards = rows_of_csv(&files["rudder_discards"].path);
    // column_name, column_value, reason, received_at, row_id, table_name, uuid_ts
    let reason = |to: &str, from: &str| format!("incompatible schema conversion from {to} to {from}");
    let expected = [
        ["b", "yes", &reason("boolean", "string"), at, "2", "t", loaded],
        ["d", "5", &reason("datetime", "int"), at, "2", "t", loaded],
        ["n", "1e+21", "1e+21 does not fit into an integer of 64 bits", at, "3", "t", loaded],
    ];
    assert_eq!(discards, expected);
}

#[test]
fn json_files_have_every_column() {
    let folder = tempfile::tempdir().unwrap();
    let staged = staged(folder.path(), "s.json.gz", &lines()[..1]);
    let schema = json!({ "t": { "id": "string", "absent": "int", "uuid_ts": "datetime", "loaded_at": "datetime" } });
    let files = written(&job(Format::Json, schema), folder.path(), &[staged]);
    let mut text = String::new();
    MultiGzDecoder::new(File::open(&files["t"].path).unwrap()).read_to_string(&mut text).unwrap();
    let expected = "{\"absent\":null,\"id\":\"1\",\"loaded_at\":\"2030-02-03 04:05:06.78912 Z\",\
        \"uuid_ts\":\"2030-02-03 04:05:06 Z\"}\n";
    assert_eq!(text, expected);
}

#[test]
fn parquet_files_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let staged = staged(folder.path(), "s.json.gz", &lines());
    let files = written(&job(Format::Parquet, schema()), folder.path(), &[staged]);
    let reader = SerializedFileReader::new(File::open(&files["t"].path).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 4);
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let (first, second) = (&rows[0], &rows[1]);
    assert!(first.get_bool(0).unwrap());
    assert_eq!(first.get_timestamp_micros(1).unwrap(), 1_893_553_445_678_000);
    assert_eq!((first.get_double(2).unwrap(), first.get_long(5).unwrap()), (1.5, 5));
    assert_eq!((second.get_double(2).unwrap(), second.get_long(5).unwrap()), (7.0, -2));
    assert_eq!(second.get_string(7).unwrap(), "1.2345675e+06");
    assert!(rows[2].get_long(5).is_err());
}

#[test]
fn more_tables_than_open_files_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let tables = OPEN_FILES * 2 + 3;
    let names: Vec<String> = (0..tables).map(|n| format!("t{n}")).collect();
    let mut lines = Vec::new();
    for round in 0..3 {
        lines.extend(names.iter().map(|name| line(name, json!({ "id": "int" }), json!({ "id": round }))));
    }
    let staged = staged(folder.path(), "s.json.gz", &lines);
    let schema: Value = names.iter().map(|name| (name.clone(), json!({ "id": "int" }))).collect();
    let files = written(&job(Format::Csv, schema), folder.path(), &[staged]);
    assert_eq!(files.len(), tables);
    for file in files.values() {
        assert_eq!(
            (file.rows, rows_of_csv(&file.path)),
            (
                3,
                vec![vec!["0"], vec!["1"], vec!["2"]]
                    .into_iter()
                    .map(|row| row.into_iter().map(str::to_owned).collect())
                    .collect()
            )
        );
    }
}

#[test]
fn long_merge_rules_are_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(510);
    let columns = json!({ "merge_property_1_type": "string", "merge_property_1_value": "string" });
    let staged = staged(
        folder.path(),
        "s.json.gz",
        &[line(
            "rudder_identity_merge_rules",
            columns.clone(),
            json!({ "merge_property_1_type": "abc", "merge_property_1_value": long }),
        )],
    );
    let mut schema = schema();
    schema["rudder_identity_merge_rules"] = columns;
    let files = written(&job(Format::Json, schema), folder.path(), &[staged]);
    let mut text = String::new();
    MultiGzDecoder::new(File::open(&files["rudder_discards"].path).unwrap()).read_to_string(&mut text).unwrap();
    let row: Value = serde_json::from_str(&text).unwrap();
    assert!(row["row_id"].as_str().unwrap().starts_with("rudder-discards-"), "{text}");
    assert_eq!(
        row["reason"],
        "The maximum length of the concatenated columns merge_property_1_type and \
        merge_property_1_value should be less than 512"
    );
}

//! Runs of reverse-ETL sources, for the service that runs them (gateway.md 7.8): counters, failed records, and
//! cancelling what is left.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::answer::{self, Answer, Refusal};
use super::credentials::query_parameters;
use super::routes::Route;
use super::server::Shared;
use crate::jobsdb::{CancelError, Durability, FailedRecord, JobsDb, JobsDbError, RecordPlace, RunRow, RunStats, Tx};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Most failed records of one answer, whatever the client asks for.
const MOST_RECORDS: usize = 100_000;

/// Why a request about a run has no ordinary answer.
enum Problem {
    Refused(Refusal),
    Store(String),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        Problem::Refused(refusal)
    }
}

impl From<JobsDbError> for Problem {
    fn from(error: JobsDbError) -> Problem {
        Problem::Store(error.to_string())
    }
}

/// Answers a request about a run.
pub(super) async fn answer(shared: &Shared, route: Route, parts: &Parts) -> Answer {
    let query = Query::read(parts.uri.query().unwrap_or_default());
    let outcome = match run_id(parts.uri.path()) {
        Err(refusal) => Err(refusal.into()),
        Ok(run) => match route {
            Route::ForgetJobStatus => forget_status(&shared.jobs, run, query).await,
            Route::FailedRecords => {
                let enabled = shared.live.load().runs.keeps_failed_records;
                failed_records(&shared.jobs, run, query, enabled).await
            }
            Route::ForgetFailedRecords => forget_failed_records(&shared.jobs, &run).await,
            Route::DrainRun => cancel(&shared.jobs, &run).await,
            _ => status(&shared.jobs, run, query).await,
        },
    };
    outcome.unwrap_or_else(|problem| match problem {
        Problem::Refused(refusal) => refusal.answer(),
        Problem::Store(text) => answer::with_body(StatusCode::INTERNAL_SERVER_ERROR, answer::TEXT, format!("{text}\n")),
    })
}

/// The run of a path: the segment behind `job-status` or `job`.
fn run_id(path: &str) -> Result<String, Refusal> {
    let mut segments = path.split('/').skip_while(|segment| !matches!(*segment, "job-status" | "job"));
    let written = segments.nth(1).unwrap_or_default();
    let id = percent_decode_str(written).decode_utf8().map_err(|_| Refusal::NoRunId)?;
    if id.trim().is_empty() { Err(Refusal::NoRunId) } else { Ok(id.into_owned()) }
}

/// What the query asks for.
#[derive(Debug, Default)]
struct Query {
    task_run_ids: Vec<String>,
    source_ids: Vec<String>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

impl Query {
    fn read(query: &str) -> Query {
        let mut read = Query::default();
        for (name, value) in query_parameters(query) {
            match name.as_str() {
                "task_run_id" => read.task_run_ids.push(value),
                "source_id" => read.source_ids.push(value),
                "pageSize" if read.page_size.is_none() => read.page_size = value.parse().ok().filter(|size| *size > 0),
                "pageToken" if read.page_token.is_none() => read.page_token = Some(value).filter(|t| !t.is_empty()),
                _ => {}
            }
        }
        read
    }

    fn takes(&self, row: &RunRow) -> bool {
        let fits = |wanted: &[String], is: &String| wanted.is_empty() || wanted.contains(is);
        fits(&self.task_run_ids, &row.task_run_id) && fits(&self.source_ids, &row.source_id)
    }
}

#[derive(Debug, Serialize)]
struct RunStatus {
    id: String,
    tasks: Vec<TaskStatus>,
}

#[derive(Debug, Serialize)]
struct TaskStatus {
    id: String,
    sources: Vec<SourceStatus>,
}

#[derive(Debug, Serialize)]
struct SourceStatus {
    id: String,
    completed: bool,
    stats: RunStats,
    destinations: Option<Vec<DestinationStatus>>,
}

#[derive(Debug, Serialize)]
struct DestinationStatus {
    id: String,
    completed: bool,
    stats: RunStats,
}

/// Puts rows, which come in the order of task, source and destination, into each other.
fn nested(run: String, rows: Vec<RunRow>) -> RunStatus {
    let mut tasks: Vec<TaskStatus> = Vec::new();
    for row in rows {
        let completed = row.stats.is_complete();
        let stats = presented(row.stats);
        let task = last_or_new(
            &mut tasks,
            |task| task.id == row.task_run_id,
            || TaskStatus { id: row.task_run_id.clone(), sources: Vec::new() },
        );
        let Some(task) = task else { continue };
        let source = last_or_new(
            &mut task.sources,
            |source| source.id == row.source_id,
            || SourceStatus {
                id: row.source_id.clone(),
                completed: true,
                stats: RunStats::default(),
                destinations: None,
            },
        );
        let Some(source) = source else { continue };
        source.completed &= completed;
        if row.destination_id.is_empty() {
            source.stats = stats;
        } else {
            let destination = DestinationStatus { id: row.destination_id, completed, stats };
            source.destinations.get_or_insert_default().push(destination);
        }
    }
    RunStatus { id: run, tasks }
}

/// The last element if it is the one, else a new one behind it.
fn last_or_new<T>(list: &mut Vec<T>, is_it: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> Option<&mut T> {
    if !list.last().is_some_and(is_it) {
        list.push(new());
    }
    list.last_mut()
}

/// A row that counted more ends than beginnings is shown without the contradiction.
fn presented(stats: RunStats) -> RunStats {
    RunStats { taken_in: stats.taken_in.max(stats.out.saturating_add(stats.failed)), ..stats }
}

/// Runs a read of the store where it may block.
async fn blocking<T: Send + 'static>(
    jobs: &JobsDb,
    read: impl FnOnce(&JobsDb) -> Result<T, JobsDbError> + Send + 'static,
) -> Result<T, JobsDbError> {
    let jobs = jobs.clone();
    let done = tokio::task::spawn_blocking(move || read(&jobs)).await;
    done.unwrap_or_else(|error| Err(JobsDbError::Unavailable(error.to_string())))
}

async fn rows(jobs: &JobsDb, run: &str, query: Query) -> Result<Vec<RunRow>, Problem> {
    let run = run.to_owned();
    let mut rows = blocking(jobs, move |jobs| jobs.run_rows(&run)).await?;
    rows.retain(|row| query.takes(row));
    if rows.is_empty() { Err(Refusal::NoStatus.into()) } else { Ok(rows) }
}

async fn status(jobs: &JobsDb, run: String, query: Query) -> Result<Answer, Problem> {
    let rows = rows(jobs, &run, query).await?;
    json(&nested(run, rows))
}

async fn forget_status(jobs: &JobsDb, run: String, query: Query) -> Result<Answer, Problem> {
    let rows = rows(jobs, &run, query).await?;
    if !rows.iter().all(|row| row.stats.is_complete()) {
        return Err(Refusal::NotCompleted.into());
    }
    let mut tx = Tx::new(Durability::Durable);
    for row in rows {
        tx.forget_run_row(row.key);
    }
    jobs.commit(tx).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

#[derive(Debug, Serialize)]
struct FailedOfRun {
    id: String,
    tasks: Option<Vec<FailedOfTask>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paging: Option<Paging>,
}

#[derive(Debug, Serialize)]
struct FailedOfTask {
    id: String,
    sources: Vec<FailedOfSource>,
}

#[derive(Debug, Serialize)]
struct FailedOfSource {
    id: String,
    records: Option<Vec<Failed>>,
    destinations: Option<Vec<FailedOfDestination>>,
}

#[derive(Debug, Serialize)]
struct FailedOfDestination {
    id: String,
    records: Vec<Failed>,
}

#[derive(Debug, Serialize)]
struct Failed {
    record: Box<RawValue>,
    code: i64,
}

#[derive(Debug, Serialize)]
struct Paging {
    size: usize,
    next: String,
}

/// Where a page ended; opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    id: String,
    record_id: String,
}

impl Token {
    fn after(record: &FailedRecord) -> String {
        let place = (&record.task_run_id, &record.source_id, &record.destination_id);
        let id = serde_json::to_string(&place).unwrap_or_default();
        let token = Token { id, record_id: record.record.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn read(text: &str) -> Option<RecordPlace> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
        let token: Token = serde_json::from_slice(&bytes).ok()?;
        let (task_run_id, source_id, destination_id) = serde_json::from_str(&token.id).ok()?;
        Some(RecordPlace { task_run_id, source_id, destination_id, record: token.record_id })
    }
}

async fn failed_records(jobs: &JobsDb, run: String, query: Query, enabled: bool) -> Result<Answer, Problem> {
    if !enabled {
        return Err(Refusal::NotSupported.into());
    }
    let after = match &query.page_token {
        Some(token) => Some(Token::read(token).ok_or(Refusal::InvalidPage)?),
        None => None,
    };
    let size = query.page_size.unwrap_or(MOST_RECORDS).min(MOST_RECORDS);
    let id = run.clone();
    let records = blocking(jobs, move |jobs| jobs.failed_records(&run, after.as_ref(), size)).await?;
    let paging = records.last().filter(|_| records.len() >= size);
    let paging = paging.map(|last| Paging { size, next: Token::after(last) });
    let mut tasks: Vec<FailedOfTask> = Vec::new();
    for record in records {
        put_failed(&mut tasks, record)?;
    }
    json(&FailedOfRun { id, tasks: Some(tasks).filter(|tasks| !tasks.is_empty()), paging })
}

/// Puts a record where it belongs; records come in the order of task, source and destination.
fn put_failed(tasks: &mut Vec<FailedOfTask>, record: FailedRecord) -> Result<(), Problem> {
    let FailedRecord { task_run_id, source_id, destination_id, record, code } = record;
    let failed = Failed { record: raw(record)?, code };
    let task = last_or_new(
        tasks,
        |task| task.id == task_run_id,
        || FailedOfTask { id: task_run_id.clone(), sources: Vec::new() },
    );
    let Some(task) = task else { return Ok(()) };
    let source = last_or_new(
        &mut task.sources,
        |source| source.id == source_id,
        || FailedOfSource { id: source_id.clone(), records: None, destinations: None },
    );
    let Some(source) = source else { return Ok(()) };
    if destination_id.is_empty() {
        source.records.get_or_insert_default().push(failed);
        return Ok(());
    }
    let destinations = source.destinations.get_or_insert_default();
    let destination = last_or_new(
        destinations,
        |destination| destination.id == destination_id,
        || FailedOfDestination { id: destination_id.clone(), records: Vec::new() },
    );
    if let Some(destination) = destination {
        destination.records.push(failed);
    }
    Ok(())
}

/// The record's id as it was written; text that is no JSON becomes a string.
fn raw(record: String) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(record.clone())
        .or_else(|_| to_raw_value(&record))
        .map_err(|error| Problem::Store(error.to_string()))
}

async fn forget_failed_records(jobs: &JobsDb, run: &str) -> Result<Answer, Problem> {
    let mut tx = Tx::new(Durability::Durable);
    tx.forget_failed_records(run);
    jobs.commit(tx).await?;
    Ok(answer::empty(StatusCode::NO_CONTENT))
}

async fn cancel(jobs: &JobsDb, run: &str) -> Result<Answer, Problem> {
    match jobs.cancel_run(run).await {
        Ok(()) => Ok(answer::empty(StatusCode::CREATED)),
        Err(CancelError::TooLong(_)) => Err(Refusal::NoRunId.into()),
        Err(error) => Err(Problem::Store(error.to_string())),
    }
}

fn json(document: &impl Serialize) -> Result<Answer, Problem> {
    let body = serde_json::to_vec(document).map_err(|error| Problem::Store(error.to_string()))?;
    let mut answer = answer::with_body(StatusCode::OK, JSON, body);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jobsdb::RunKey;

    fn row(task: &str, source: &str, destination: &str, stats: (u64, u64, u64)) -> RunRow {
        RunRow {
            key: RunKey::new("r", task, source, destination).unwrap(),
            task_run_id: task.to_owned(),
            source_id: source.to_owned(),
            destination_id: destination.to_owned(),
            stats: RunStats { taken_in: stats.0, out: stats.1, failed: stats.2 },
        }
    }

    #[test]
    fn a_source_is_complete_when_all_that_came_of_it_is() {
        let rows = vec![
            row("t1", "s1", "", (3, 3, 0)),
            row("t1", "s1", "d1", (3, 1, 0)),
            row("t1", "s2", "", (1, 1, 0)),
            row("t2", "s1", "d1", (1, 1, 1)),
        ];
        let expected = json!({"id": "r", "tasks": [
            {"id": "t1", "sources": [
                {"id": "s1", "completed": false, "stats": {"in": 3, "out": 3, "failed": 0}, "destinations": [
                    {"id": "d1", "completed": false, "stats": {"in": 3, "out": 1, "failed": 0}},
                ]},
                {"id": "s2", "completed": true, "stats": {"in": 1, "out": 1, "failed": 0}, "destinations": null},
            ]},
            {"id": "t2", "sources": [
                {"id": "s1", "completed": true, "stats": {"in": 0, "out": 0, "failed": 0}, "destinations": [
                    {"id": "d1", "completed": true, "stats": {"in": 2, "out": 1, "failed": 1}},
                ]},
            ]},
        ]});
        assert_eq!(serde_json::to_string(&nested("r".to_owned(), rows)).unwrap(), expected.to_string());
    }

    #[test]
    fn a_page_goes_on_behind_the_record_that_its_token_names() {
        let record = FailedRecord {
            task_run_id: "t".to_owned(),
            source_id: "s\"".to_owned(),
            destination_id: String::new(),
            record: r#"{"n":1}"#.to_owned(),
            code: 400,
        };
        let place = Token::read(&Token::after(&record)).unwrap();
        assert_eq!((place.task_run_id.as_str(), place.source_id.as_str()), ("t", "s\""));
        assert_eq!((place.destination_id.as_str(), place.record.as_str()), ("", r#"{"n":1}"#));
        for wrong in ["?", "e30", "eyJpZCI6IngiLCJyZWNvcmRfaWQiOiJ5In0"] {
            assert_eq!(Token::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_run_is_the_decoded_segment_of_the_path() {
        for (path, id) in [
            ("/internal/v2/job-status/run-1", Ok("run-1")),
            ("/internal/v2/job-status/a%2Fb%20c/failed-records", Ok("a/b c")),
            ("/internal/drain/job/job", Ok("job")),
            ("/internal/drain/job/", Err(Refusal::NoRunId)),
            ("/internal/drain/job/%20", Err(Refusal::NoRunId)),
            ("/internal/drain/job/%ff", Err(Refusal::NoRunId)),
        ] {
            assert_eq!(run_id(path), id.map(str::to_owned), "{path}");
        }
        let query = Query::read("task_run_id=a&task_run_id=b&pageSize=x&source_id=s");
        assert_eq!((query.task_run_ids.len(), query.page_size), (2, None));
        assert!(query.takes(&row("b", "s", "d", (0, 0, 0))) && !query.takes(&row("b", "t", "d", (0, 0, 0))));
    }
}

//! What happened to one event (appliance.md 9).
//!
//! In: a message id. Out: every place that knows of it, in the order of time, and which places were looked at wholly,
//! so that "not found" is never mistaken for "never received". Takes no job from anybody.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use hyper::StatusCode;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Deps;
use super::routes::{Answer, broken, error, json_answer};
use crate::jobsdb::{JobsDbError, Queue, StoredJob};

/// Longest search.
const LONGEST: Duration = Duration::from_secs(10);
/// Queues in the order of an event's way, and what it means to be in them.
const QUEUES: [(Queue, &str); 5] = [
    (Queue::Gw, "received"),
    (Queue::Rt, "for delivery"),
    (Queue::BatchRt, "for a file"),
    (Queue::Arc, "for the archive"),
    (Queue::ProcError, "dead letter"),
];

/// What is known of an event.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// Its id.
    pub message_id: String,
    /// What happened, in the order of time.
    pub steps: Vec<TraceStep>,
    /// Where it was looked for.
    pub searched: Vec<Searched>,
}

/// One thing that is known.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceStep {
    /// When, milliseconds since the epoch.
    pub at_ms: i64,
    /// The queue, `archive`, or `live`.
    pub place: String,
    /// What it means.
    pub what: String,
    /// The source.
    pub source_id: String,
    /// The destination, possibly empty.
    pub destination_id: String,
    /// Attempts, codes, reasons.
    pub detail: String,
}

/// A place that was looked at.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Searched {
    /// The queue, `archive`, or `live`.
    pub place: String,
    /// Whether all of it was looked at.
    pub complete: bool,
    /// Why not, or what the place does not hold.
    pub note: String,
}

pub(super) async fn answer(deps: &Deps, message_id: &str) -> Answer {
    if message_id.is_empty() {
        return error(StatusCode::BAD_REQUEST, "say which event is meant", "name its messageId", "");
    }
    let (deps, id) = (deps.clone(), message_id.to_owned());
    match tokio::task::spawn_blocking(move || trace(&deps, &id)).await {
        Ok(Ok(trace)) => json_answer(StatusCode::OK, &trace),
        Ok(Err(failure)) => error(StatusCode::SERVICE_UNAVAILABLE, &failure.to_string(), "", ""),
        Err(failure) => broken(&failure.to_string()),
    }
}

fn trace(deps: &Deps, message_id: &str) -> Result<Trace, JobsDbError> {
    let deadline = Instant::now() + LONGEST;
    let mut trace = Trace { message_id: message_id.to_owned(), ..Trace::default() };
    let quoted = Value::from(message_id).to_string();
    let finder = Finder::new(quoted.as_bytes());
    for (queue, what) in QUEUES {
        let in_payload = matches!(queue, Queue::Gw | Queue::Arc);
        let wanted = |parameters: &[u8], payload: &[u8]| {
            let text = if in_payload { payload } else { parameters };
            finder.find(text).is_some() && names(text, message_id)
        };
        let (jobs, complete) = deps.jobs.find_stored(queue, deadline, wanted)?;
        trace.steps.extend(jobs.iter().map(|job| step(queue, what, job)));
        let note = if complete { "holds jobs that wait, and recent ones that ended" } else { "the time was over" };
        trace.searched.push(searched(queue.name(), complete, note));
    }
    match deps.settings.load().archival.local_path.clone() {
        Some(folder) => {
            let complete = search_archive(&folder, message_id, &finder, deadline, &mut trace.steps);
            let note = if complete { "" } else { "the time was over, or a file cannot be read" };
            trace.searched.push(searched("archive", complete, note));
        }
        None => trace.searched.push(searched("archive", false, "there is no local archive")),
    }
    for record in deps.live.of_message(message_id) {
        trace.steps.push(TraceStep {
            at_ms: record.at_ms,
            place: "live".to_owned(),
            what: format!("{} {}", record.stage, record.job_state),
            source_id: record.source_id.clone(),
            destination_id: record.destination_id.clone(),
            detail: format!("attempt {}, code {} {}", record.attempt_num, record.error_code, record.error),
        });
    }
    trace.searched.push(searched("live", false, "holds what passed while somebody watched"));
    trace.steps.sort_by_key(|step| step.at_ms);
    Ok(trace)
}

fn searched(place: &str, complete: bool, note: &str) -> Searched {
    Searched { place: place.to_owned(), complete, note: note.to_owned() }
}

/// Whether a text in which the id stands has it as a message id.
fn names(json: &[u8], message_id: &str) -> bool {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    let is = |value: &Value| {
        ["messageId", "message_id"].iter().any(|key| value.get(key).and_then(Value::as_str) == Some(message_id))
    };
    let batch = value.get("batch").and_then(Value::as_array);
    is(&value) || batch.is_some_and(|events| events.iter().any(is))
}

fn step(queue: Queue, what: &str, job: &StoredJob) -> TraceStep {
    let parameters: Value = serde_json::from_slice(&job.parameters).unwrap_or_default();
    let text = |key: &str| parameters.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut details = vec![format!("job {}", job.id)];
    if queue == Queue::ProcError {
        let code = parameters.get("status_code").map(Value::to_string).unwrap_or_default();
        details.push(format!("{} {code} {}", text("stage"), text("error")));
    }
    if let Some(last) = &job.last {
        let response = String::from_utf8_lossy(&last.status.error_response).into_owned();
        details.push(format!("attempt {}, code {} {response}", last.status.attempt, last.status.error_code));
    }
    TraceStep {
        at_ms: job.created_us.div_euclid(1_000),
        place: queue.name().to_owned(),
        what: format!("{what}, {}", if job.is_pending { "waiting" } else { "done" }),
        source_id: job.partition.source_id.clone(),
        destination_id: job.partition.destination_id.clone(),
        detail: details.join("; "),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchivedLine {
    created_at: String,
    message_id: String,
}

/// Looks through the files of the local archive, newest first; whether it could look at all of them.
fn search_archive(
    folder: &Path,
    message_id: &str,
    finder: &Finder<'_>,
    deadline: Instant,
    steps: &mut Vec<TraceStep>,
) -> bool {
    let mut files = Vec::new();
    let mut complete = files_below(folder, &mut files).is_ok();
    files.sort_by(|(one, _), (other, _)| other.cmp(one));
    for (_, file) in files {
        if Instant::now() >= deadline {
            return false;
        }
        match search_file(&file, message_id, finder, deadline) {
            Ok(found) => steps.extend(found.map(|line| {
                TraceStep {
                    at_ms: line.created_at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond),
                    place: "archive".to_owned(),
                    what: "received and archived".to_owned(),
                    // The first folder below the archive is the source.
                    source_id: file
                        .strip_prefix(folder)
                        .ok()
                        .and_then(|path| path.iter().next())
                        .map(|name| name.to_string_lossy().into_owned())
                        .unwrap_or_default(),
                    detail: file.display().to_string(),
                    ..TraceStep::default()
                }
            })),
            Err(_) => complete = false,
        }
    }
    complete
}

/// Archive files with the times in their names.
fn files_below(folder: &Path, files: &mut Vec<(String, PathBuf)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), files)?;
        } else if name.ends_with(".json.gz") {
            files.push((name, entry.path()));
        }
    }
    Ok(())
}

fn search_file(
    file: &Path,
    message_id: &str,
    finder: &Finder<'_>,
    deadline: Instant,
) -> std::io::Result<Option<ArchivedLine>> {
    let mut lines = BufReader::new(MultiGzDecoder::new(std::fs::File::open(file)?));
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if finder.find(&line).is_some() {
            let found: Option<ArchivedLine> = serde_json::from_slice(&line).ok();
            if let Some(found) = found.filter(|found| found.message_id == message_id) {
                return Ok(Some(found));
            }
        }
        if Instant::now() >= deadline {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
    }
}

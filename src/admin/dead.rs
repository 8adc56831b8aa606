//! Dead letters: events that failed in the processor and deliveries that were given up (jobsdb.md 8.1).
//!
//! The queue `proc_error` has no consumer, so a look takes the jobs as a consumer does and gives them back; looks
//! take turns. A replay stores the new job and ends the dead letter in one transaction: processor failures go back to
//! `gw`, for their one destination and neither archived nor checked for duplicates again; given up deliveries go back
//! to `rt` or `batch_rt`.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Deps;
use crate::destination::{Message, is_batch};
use crate::event::time::Moment;
use crate::jobsdb::{self, Durability, Job, JobsDb, JobsDbError, Lease, Limits, NewJob, Outcome, Queue, Select, Tx};

/// Jobs and bytes of one page, and of the transaction that changes them.
const PAGE: Limits = Limits { jobs: 200, events: 0, bytes: 4 << 20 };
/// Longest time of one request.
const LONGEST: Duration = Duration::from_secs(25);
/// Letters that one listing shows at most.
const MOST_SHOWN: usize = 1_000;
/// Reasons that a change tells.
const MOST_REASONS: usize = 20;

/// One look at a time: a job is in the hands of one holder only.
static TURN: Mutex<()> = Mutex::new(());

/// Which dead letters are meant. Parts that are missing do not matter.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Filter {
    /// Job ids.
    pub(super) ids: Vec<u64>,
    destination: Option<String>,
    source: Option<String>,
    /// Where it failed (`dest_transformer`, `router`, ...).
    stage: Option<String>,
    /// Type of the destination.
    kind: Option<String>,
    status: Option<i64>,
    /// A part of the error.
    error: Option<String>,
    message_id: Option<String>,
    /// Those before this time, milliseconds since the epoch.
    before_ms: Option<i64>,
    /// Only larger ids, for the next page.
    after: u64,
    /// Most letters; 0 = no bound of its own.
    limit: usize,
    /// Everything is meant.
    all: bool,
}

/// A dead letter without its payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Its job id.
    pub id: u64,
    /// When it was stored, milliseconds since the epoch.
    pub at_ms: i64,
    /// Type of the destination; `GW` for an event that failed for all.
    pub kind: String,
    /// The source.
    pub source_id: String,
    /// The destination; possibly empty.
    pub destination_id: String,
    /// The user.
    pub user_id: String,
    /// Bytes of the payload.
    pub bytes: u64,
    /// Everything else that is known: `stage`, `status_code`, `error`, `message_id`, ...
    pub parameters: Map<String, Value>,
}

/// A listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The letters, oldest first.
    pub items: Vec<DeadLetter>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<u64>,
    /// Dead letters in the queue.
    pub pending: u64,
}

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadChange {
    /// Letters that were replayed or dropped.
    pub changed: u64,
    /// Letters that were meant and stay.
    pub kept: u64,
    /// Why the first of them stay.
    pub reasons: Vec<String>,
    /// The time ran out: ask again for the rest.
    pub unfinished: bool,
}

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Replay,
    Drop,
}

/// Why dead letters cannot be shown or changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeadError {
    /// Nothing was named.
    #[error("say which dead letters are meant: by ids, a filter, or all of them")]
    Unspecified,
    /// There is no such letter.
    #[error("no dead letter {id}; it may have been replayed, dropped or aged out")]
    Unknown {
        /// What was asked for.
        id: u64,
    },
    /// The disk is full.
    #[error("the node stores no events now: {0}")]
    Closed(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] JobsDbError),
}

impl DeadError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            DeadError::Unspecified => StatusCode::BAD_REQUEST,
            DeadError::Unknown { .. } => StatusCode::NOT_FOUND,
            DeadError::Closed(_) | DeadError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl Filter {
    fn select(&self) -> Select {
        Select {
            destination_id: self.destination.clone(),
            source_id: self.source.clone(),
            custom_val: self.kind.clone(),
            workspace_id: None,
        }
    }

    fn names_something(&self) -> bool {
        self.all
            || !self.ids.is_empty()
            || self.destination.is_some()
            || self.source.is_some()
            || self.stage.is_some()
            || self.kind.is_some()
            || self.status.is_some()
            || self.error.is_some()
            || self.message_id.is_some()
            || self.before_ms.is_some()
    }

    fn matches(&self, job: &Job, parameters: &Map<String, Value>) -> bool {
        let text = |key: &str| parameters.get(key).and_then(Value::as_str).unwrap_or_default();
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        job.id > self.after
            && (self.ids.is_empty() || self.ids.contains(&job.id))
            && fits(&self.stage, text("stage"))
            && fits(&self.message_id, text("message_id"))
            && self.error.as_deref().is_none_or(|part| text("error").contains(part))
            && self.status.is_none_or(|status| parameters.get("status_code").and_then(Value::as_i64) == Some(status))
            && self.before_ms.is_none_or(|before| job.created_us.div_euclid(1_000) < before)
    }
}

/// Jobs that were taken for a look; given back when this is dropped.
struct Taken<'a> {
    jobs: &'a JobsDb,
    leases: Vec<Lease>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.jobs.release(&self.leases);
    }
}

impl Taken<'_> {
    /// The next page of letters that were there when the look began.
    fn next(&mut self, select: &Select, newest: u64) -> Result<Vec<Job>, JobsDbError> {
        let page = self.jobs.fetch(Queue::ProcError, select, PAGE)?;
        self.leases.extend(page.jobs.iter().map(|job| job.lease));
        Ok(page.jobs.into_iter().filter(|job| job.id <= newest).collect())
    }

    /// These leases ended otherwise.
    fn forget(&mut self, ended: &[Lease]) {
        self.leases.retain(|lease| !ended.contains(lease));
    }
}

fn newest(jobs: &JobsDb) -> (u64, u64) {
    let stats = jobs.stats().into_iter().find(|stats| stats.queue == Queue::ProcError);
    stats.map_or((0, 0), |stats| (stats.last_job_id, stats.pending))
}

fn parameters_of(job: &Job) -> Map<String, Value> {
    serde_json::from_slice(&job.parameters).unwrap_or_default()
}

fn letter(job: &Job, parameters: Map<String, Value>) -> DeadLetter {
    DeadLetter {
        id: job.id,
        at_ms: job.created_us.div_euclid(1_000),
        kind: job.partition.custom_val.clone(),
        source_id: job.partition.source_id.clone(),
        destination_id: job.partition.destination_id.clone(),
        user_id: job.user_id.clone(),
        bytes: job.payload.len() as u64,
        parameters,
    }
}

/// Lists dead letters. Blocks.
pub(super) fn list(deps: &Deps, filter: &Filter) -> Result<DeadLetters, DeadError> {
    let _turn = TURN.lock();
    let begun = Instant::now();
    let (newest, pending) = newest(&deps.jobs);
    let most = if filter.limit == 0 { MOST_SHOWN } else { filter.limit.min(MOST_SHOWN) };
    let mut taken = Taken { jobs: &deps.jobs, leases: Vec::new() };
    let mut answer = DeadLetters { items: Vec::new(), next: None, pending };
    loop {
        let page = taken.next(&filter.select(), newest)?;
        let Some(last) = page.last().map(|job| job.id) else { return Ok(answer) };
        for job in page {
            let parameters = parameters_of(&job);
            if !filter.matches(&job, &parameters) {
                continue;
            }
            if answer.items.len() == most {
                answer.next = answer.items.last().map(|letter| letter.id);
                return Ok(answer);
            }
            answer.items.push(letter(&job, parameters));
        }
        if begun.elapsed() > LONGEST {
            answer.next = Some(last);
            return Ok(answer);
        }
    }
}

/// One dead letter with its payload. Blocks.
pub(super) fn show(deps: &Deps, id: u64) -> Result<Value, DeadError> {
    let _turn = TURN.lock();
    let (newest, _) = newest(&deps.jobs);
    let mut taken = Taken { jobs: &deps.jobs, leases: Vec::new() };
    loop {
        let page = taken.next(&Select::default(), newest)?;
        if page.is_empty() {
            return Err(DeadError::Unknown { id });
        }
        let Some(job) = page.into_iter().find(|job| job.id == id) else { continue };
        let text = String::from_utf8_lossy(&job.payload).into_owned();
        let payload = match RawValue::from_string(text) {
            Ok(raw) => json!(raw),
            Err(_) => Value::from(String::from_utf8_lossy(&job.payload)),
        };
        return Ok(json!({ "letter": letter(&job, parameters_of(&job)), "payload": payload }));
    }
}

/// Replays or drops dead letters. Durable when this returns. Blocks.
pub(super) fn change(deps: &Deps, filter: &Filter, change: Change) -> Result<DeadChange, DeadError> {
    if !filter.names_something() {
        return Err(DeadError::Unspecified);
    }
    let gate = deps.jobs.gate().borrow().clone();
    if change == Change::Replay && !gate.accepts_events() {
        return Err(DeadError::Closed(format!("{gate:?}")));
    }
    let _turn = TURN.lock();
    let begun = Instant::now();
    let (newest, _) = newest(&deps.jobs);
    let mut taken = Taken { jobs: &deps.jobs, leases: Vec::new() };
    let mut done = DeadChange::default();
    let most = if filter.limit == 0 { u64::MAX } else { filter.limit as u64 };
    loop {
        let page = taken.next(&filter.select(), newest)?;
        if page.is_empty() {
            return Ok(done);
        }
        let mut tx = Tx::new(Durability::Durable);
        let mut ended = Vec::new();
        for job in page {
            let parameters = parameters_of(&job);
            if done.changed + ended.len() as u64 >= most || !filter.matches(&job, &parameters) {
                continue;
            }
            match change {
                Change::Drop => tx.finish(job.lease, Outcome::Filtered),
                Change::Replay => match replay(deps, &job, &parameters, &mut tx) {
                    Ok(()) => tx.finish(job.lease, Outcome::Succeeded),
                    Err(reason) => {
                        done.kept += 1;
                        if done.reasons.len() < MOST_REASONS {
                            done.reasons.push(format!("{}: {reason}", job.id));
                        }
                        continue;
                    }
                },
            }
            ended.push(job.lease);
        }
        if !ended.is_empty() {
            deps.jobs.commit_blocking(tx)?;
            taken.forget(&ended);
            done.changed += ended.len() as u64;
        }
        if done.changed >= most {
            return Ok(done);
        }
        if begun.elapsed() > LONGEST {
            done.unfinished = true;
            return Ok(done);
        }
    }
}

fn replay(deps: &Deps, job: &Job, letter: &Map<String, Value>, tx: &mut Tx) -> Result<(), String> {
    let Some(snapshot) = deps.config.current() else { return Err("there is no workspace configuration".to_owned()) };
    let partition = &job.partition;
    let Some(source) = snapshot.source_by_id.get(&partition.source_id) else {
        return Err(format!("source {:?} is not configured", partition.source_id));
    };
    let destination_id = &partition.destination_id;
    if !destination_id.is_empty() && !snapshot.destination_by_id.contains_key(destination_id) {
        return Err(format!("destination {destination_id:?} is not configured"));
    }
    let stage = letter.get("stage").and_then(Value::as_str).unwrap_or_default();
    let now = Moment::utc(deps.clock.now()).to_text();
    let new = |queue: Queue, custom_val: &str, destination_id: &str, parameters: &[u8], payload: &[&[u8]]| {
        let job = NewJob {
            uuid: Uuid::new_v4(),
            workspace_id: &partition.workspace_id,
            custom_val,
            source_id: &partition.source_id,
            destination_id,
            user_id: &job.user_id,
            parameters,
            payload,
            event_count: job.event_count,
        };
        (queue, deps.jobs.encode(queue, &job))
    };
    let (queue, encoded) = if matches!(stage, "router" | "batch_router") {
        let mut parameters: Map<String, Value> = jobsdb::DeadLetter::KEPT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), letter.get(*name)?.clone())))
            .collect();
        for (name, value) in [
            ("source_name", source.name.as_str()),
            ("source_category", &source.definition.category),
            ("source_definition_id", &source.definition.id),
            ("workspaceId", &partition.workspace_id),
            ("received_at", &now),
            ("traceparent", ""),
        ] {
            parameters.insert(name.to_owned(), Value::from(value));
        }
        let parameters = Value::Object(parameters).to_string();
        let queue = if is_batch(&partition.custom_val) { Queue::BatchRt } else { Queue::Rt };
        new(queue, &partition.custom_val, destination_id, parameters.as_bytes(), &[&job.payload])
    } else {
        let text = |name: &str| letter.get(name).and_then(Value::as_str).unwrap_or_default();
        let parameters = json!({
            "source_id": partition.source_id, "destination_id": destination_id,
            "source_job_run_id": text("source_job_run_id"), "source_task_run_id": text("source_task_run_id"),
            "source_category": source.definition.category, "traceparent": "", "is_replay": true,
        })
        .to_string();
        if stage == "processor" {
            // The whole gateway job, in brackets.
            let payload = job.payload.strip_prefix(b"[").and_then(|payload| payload.strip_suffix(b"]"));
            let payload = payload.ok_or("its payload is not that of a gateway job")?;
            new(Queue::Gw, "GW", "", parameters.as_bytes(), &[payload])
        } else {
            let events: Vec<Message<'_>> =
                serde_json::from_slice(&job.payload).map_err(|error| format!("its events cannot be read: {error}"))?;
            let of_first = |name: &str| events.first().and_then(|event| event.text(name));
            let ip = of_first("request_ip").unwrap_or_default();
            let received_at = of_first("receivedAt").unwrap_or_else(|| now.as_str().into());
            let end = json!({ "requestIP": ip, "writeKey": source.write_key, "receivedAt": received_at }).to_string();
            let end = end.strip_prefix('{').unwrap_or_default();
            let pieces: [&[u8]; 4] = [b"{\"batch\":", &job.payload, b",", end.as_bytes()];
            new(Queue::Gw, "GW", "", parameters.as_bytes(), &pieces)
        }
    };
    tx.append(queue, encoded);
    Ok(())
}

//! A request for events from its head to its answer: who sent it, its body, its jobs, the durable store
//! (gateway.md 5 and 8).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, HeaderMap, HeaderName};
use hyper::http::request::Parts;

use super::answer::{self, Answer, Refusal};
use super::body::{BodyLimits, HeldBody, RequestBody};
use super::budget::Charge;
use super::connection::{Connection, UNIX_PEER};
use super::credentials::{header, query_write_key, with_basic_user};
use super::directory::{Directory, SourceEntry};
use super::intake::{self, Admission, Context, Rules};
use super::live;
use super::routes::{Call, Identification};
use super::server::Shared;
use super::suppression::{Screen, Suppressions};
use super::{events, marks};
use crate::clock::Clock;
use crate::event::json;
use crate::jobsdb::{Durability, JobsDbError, Queue, RunStats, Tx};
use crate::settings::{GatewaySettings, ListenerSettings, Settings};
use crate::telemetry::LiveRecord;

/// Longest client address that is believed.
const LONGEST_ADDRESS: usize = 64;

static ANONYMOUS_ID: HeaderName = HeaderName::from_static("anonymousid");
static DESTINATION_ID: HeaderName = HeaderName::from_static("x-rudder-destination-id");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static JOB_RUN_ID: HeaderName = HeaderName::from_static("x-rudder-job-run-id");
static SOURCE_ID: HeaderName = HeaderName::from_static("x-rudder-source-id");
static TASK_RUN_ID: HeaderName = HeaderName::from_static("x-rudder-task-run-id");

/// Who sent a request.
pub(super) struct Client<'a> {
    pub(super) parts: &'a Parts,
    pub(super) connection: &'a Connection,
}

impl<'a> Client<'a> {
    /// The client's address: the first of `X-Forwarded-For` where that is believed, else the peer's.
    pub(super) fn address(&self, listener: &ListenerSettings) -> Cow<'a, str> {
        let peer = self.connection.peer;
        let believed = Some(&FORWARDED_FOR).filter(|_| peer == UNIX_PEER || listener.believes(peer));
        let forwarded = believed.and_then(|name| self.parts.headers.get(name)).and_then(|value| {
            let first = value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
            let first: Vec<u8> = first.iter().copied().filter(|byte| *byte != b' ').take(LONGEST_ADDRESS + 1).collect();
            let usable = !first.is_empty() && first.len() <= LONGEST_ADDRESS;
            String::from_utf8(first).ok().filter(|_| usable)
        });
        forwarded.map_or(Cow::Borrowed(&self.connection.address), Cow::Owned)
    }

    fn headers(&self) -> &'a HeaderMap {
        &self.parts.headers
    }
}

/// Answers a request whose events are in its body.
pub(super) async fn events(
    shared: &Shared,
    client: &Client<'_>,
    body: &mut RequestBody<Incoming>,
    call: Call,
    identification: Identification,
) -> Answer {
    let settings = shared.live.load();
    let directory = shared.directory();
    match accept(shared, &settings, &directory, client, body, call, identification).await {
        Ok(()) => answer::ok(),
        Err(refusal) => refusal.answer(),
    }
}

async fn accept(
    shared: &Shared,
    settings: &Settings,
    directory: &Directory,
    client: &Client<'_>,
    body: &mut RequestBody<Incoming>,
    call: Call,
    identification: Identification,
) -> Result<(), Refusal> {
    let identified = identify(directory, client, identification);
    let (entry, held) = match identified {
        Ok(entry) => (entry, read(shared, &settings.gateway, client, body).await),
        // Old Segment SDKs name the source in the body only.
        Err(Refusal::NoWriteKeyInHeader) if identification == Identification::BasicOrBody => {
            let held = Box::pin(read(shared, &settings.gateway, client, body)).await?;
            let write_key = body_write_key(&held.bytes, call, settings.gateway.max_json_depth);
            let found = write_key.ok_or(Refusal::NoWriteKeyInHeader).and_then(|key| directory.by_write_key(&key));
            (found.inspect_err(|refusal| events::unidentified(call, *refusal))?, Ok(held))
        }
        Err(refusal) => {
            events::unidentified(call, refusal);
            return Err(refusal);
        }
    };
    let destination_id = header(client.headers(), &DESTINATION_ID);
    let checked = match identification {
        Identification::SourceId => check_destination(&settings.gateway, directory, entry, &destination_id),
        _ => Ok(""),
    };
    let stored = match (checked, held) {
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        (Ok(destination_id), Ok(held)) => {
            let request = Request {
                call,
                entry,
                headers: Some(client.headers()),
                client_ip: &client.address(&settings.listener),
                destination_id,
                body: &held.bytes,
            };
            store(shared, settings, client.connection, request).await
        }
    };
    stored.inspect_err(|refusal| events::refused(entry, call, *refusal))
}

/// Stores one event that was built from a request without a body.
pub(super) async fn event(shared: &Shared, client: &Client<'_>, call: Call, write_key: &str, body: &[u8]) {
    let settings = shared.live.load();
    let directory = shared.directory();
    let entry = match directory.by_write_key(write_key) {
        Ok(entry) => entry,
        Err(refusal) => return events::unidentified(call, refusal),
    };
    let client_ip = client.address(&settings.listener);
    let request = Request { call, entry, headers: None, client_ip: &client_ip, destination_id: "", body };
    if let Err(refusal) = store(shared, &settings, client.connection, request).await {
        events::refused(entry, call, refusal);
    }
}

/// Stores what the transformation of a webhook source made of a request, as if it had come to `/v1/batch`.
pub(super) async fn batch_of_webhook(
    shared: &Shared,
    settings: &Settings,
    client: &Client<'_>,
    entry: &SourceEntry,
    body: &[u8],
) -> Result<(), Refusal> {
    let request = Request {
        call: Call::Webhook,
        entry,
        headers: Some(client.headers()),
        client_ip: &client.address(&settings.listener),
        destination_id: "",
        body,
    };
    store(shared, settings, client.connection, request).await
}

/// Finds the source that a request is from.
fn identify<'d>(
    directory: &'d Directory,
    client: &Client<'_>,
    identification: Identification,
) -> Result<&'d Arc<SourceEntry>, Refusal> {
    match identification {
        Identification::Basic | Identification::BasicOrBody => {
            with_basic_user(client.headers(), |user| directory.by_write_key(user))
        }
        Identification::Query => directory.by_write_key(&query_write_key(client.parts.uri.query())?),
        Identification::SourceId | Identification::ReplaySourceId => {
            let id = header(client.headers(), &SOURCE_ID);
            if id.is_empty() {
                return Err(Refusal::NoSourceId);
            }
            let entry = directory.by_id(&id)?;
            let replays = !entry.source.original_id.is_empty();
            if identification == Identification::ReplaySourceId && !replays {
                return Err(Refusal::InvalidReplaySource);
            }
            Ok(entry)
        }
    }
}

fn body_write_key(body: &[u8], call: Call, max_depth: usize) -> Option<String> {
    let place = if call.is_single() {
        json::scan_single(body, max_depth).ok()?.write_key
    } else {
        json::scan_batch(body, max_depth, |_| ()).ok()?
    };
    marks::string(place.of(body)).map(std::borrow::Cow::into_owned).filter(|key| !key.is_empty())
}

/// The destination of a reverse-ETL request, which must be one of its source.
fn check_destination<'h>(
    settings: &GatewaySettings,
    directory: &Directory,
    entry: &SourceEntry,
    id: &'h str,
) -> Result<&'h str, Refusal> {
    if id.is_empty() {
        return if settings.require_destination_id { Err(Refusal::NoDestinationId) } else { Ok("") };
    }
    let source = directory.any_by_id(&entry.source.id).map(|entry| &entry.source);
    let destination = source.and_then(|source| source.destinations.iter().find(|destination| destination.id == id));
    match destination {
        None => Err(Refusal::InvalidDestinationId),
        Some(destination) if !destination.enabled => Err(Refusal::DestinationDisabled),
        Some(_) => Ok(id),
    }
}

pub(super) async fn read<'s>(
    shared: &'s Shared,
    settings: &GatewaySettings,
    client: &Client<'_>,
    body: &mut RequestBody<Incoming>,
) -> Result<HeldBody<'s>, Refusal> {
    let limits = BodyLimits {
        hard_cap: settings.hard_cap_bytes,
        idle: settings.body_idle_timeout,
        min_rate: settings.body_min_rate,
    };
    let gzip = client.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes() == b"gzip");
    let held = body.read(gzip, limits, &shared.budget, &client.connection.alarm).await;
    if let Err(Refusal::Unavailable) = held {
        events::limit_reached("in_flight_bytes");
    }
    held
}

/// A request whose source and body are known.
struct Request<'a> {
    call: Call,
    entry: &'a SourceEntry,
    /// Absent where the client's headers do not count.
    headers: Option<&'a HeaderMap>,
    client_ip: &'a str,
    destination_id: &'a str,
    body: &'a [u8],
}

/// Turns the body into jobs and stores them durably.
async fn store(
    shared: &Shared,
    settings: &Settings,
    connection: &Connection,
    request: Request<'_>,
) -> Result<(), Refusal> {
    let deadline = Instant::now() + settings.gateway.write_timeout;
    let anonymous_id = request.header(&ANONYMOUS_ID);
    // From here to the moment when the transaction is queued nothing overtakes on this lane.
    let lane = if anonymous_id.is_empty() {
        events::empty_anonymous_id();
        None
    } else {
        let turn = connection.alarm.by(deadline, shared.lane(&anonymous_id)).await;
        turn.ok_or_else(|| refusal_of(&JobsDbError::Unavailable("requests of the same sender wait".to_owned())))?
    };
    let (jobs, refusal) = match prepare(shared, settings, &request, &anonymous_id, None)? {
        Intake::Decided(jobs, refusal) => (jobs, refusal),
        Intake::Undecided(suspects) => {
            Box::pin(without_suppressed(shared, settings, &request, &anonymous_id, suspects)).await?
        }
    };
    if let Some(Jobs { tx, accepted, watched, _charge }) = jobs {
        commit(shared, connection, tx, lane, deadline).await?;
        events::stored(request.entry, request.call, &accepted);
        if let Some(records) = watched {
            shared.taps.record(records);
        }
    }
    refusal.map_or(Ok(()), Err)
}

impl<'a> Request<'a> {
    fn header(&self, name: &HeaderName) -> Cow<'a, str> {
        self.headers.map(|headers| header(headers, name)).unwrap_or_default()
    }
}

/// A request's jobs, encoded.
struct Jobs<'s> {
    tx: Tx,
    accepted: events::Accepted,
    /// What viewers see of them, if there are any.
    watched: Option<Vec<LiveRecord>>,
    /// What they take of the memory for requests, until they are stored.
    _charge: Charge<'s>,
}

/// What became of a body.
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one: a box would cost every request")]
enum Intake<'s> {
    /// Its jobs, if there are any, and why some events of an import are refused.
    Decided(Option<Jobs<'s>>, Option<Refusal>),
    /// These users may be suppressed; only the store knows.
    Undecided(Vec<String>),
}

/// Asks the store about the users and takes the body again. Rare: only suppressed users come here, and few others.
async fn without_suppressed<'s>(
    shared: &'s Shared,
    settings: &Settings,
    request: &Request<'_>,
    anonymous_id: &str,
    suspects: Vec<String>,
) -> Result<(Option<Jobs<'s>>, Option<Refusal>), Refusal> {
    let source = &request.entry.source;
    let confirmed = Suppressions::confirm(&shared.jobs, &source.workspace_id, &source.id, suspects).await;
    let suppressed = confirmed.map_err(|error| refusal_of(&error))?;
    match prepare(shared, settings, request, anonymous_id, Some(&suppressed))? {
        Intake::Decided(jobs, refusal) => Ok((jobs, refusal)),
        Intake::Undecided(_) => Err(Refusal::Unavailable),
    }
}

/// Checks the body and encodes its jobs. Who is suppressed is known, or has yet to be found out.
fn prepare<'s>(
    shared: &'s Shared,
    settings: &Settings,
    request: &Request<'_>,
    anonymous_id: &str,
    suppressed: Option<&HashSet<String>>,
) -> Result<Intake<'s>, Refusal> {
    let context = Context {
        call: request.call,
        entry: request.entry,
        anonymous_id_header: anonymous_id,
        client_ip: request.client_ip,
        job_run_id: &request.header(&JOB_RUN_ID),
        task_run_id: &request.header(&TASK_RUN_ID),
        destination_id: request.destination_id,
        received_at: &received_at(&shared.clock),
    };
    let gateway = &settings.gateway;
    let rules = Rules {
        allow_without_identity: gateway.allow_without_identity,
        max_req_bytes: gateway.max_req_bytes,
        max_expanded_bytes: gateway.max_expanded_bytes,
        max_json_depth: gateway.max_json_depth,
    };
    let workspace = &request.entry.source.workspace_id;
    let limited = settings.admission.limits_rate;
    let limiter = if limited { shared.rate_limits.of_workspace(workspace, &settings.admission) } else { None };
    let admission = Admission {
        screen: suppressed.map_or_else(|| shared.suppressions.screen(workspace), Screen::Known),
        limiter: limiter.as_deref(),
        job_runs_exempt: settings.admission.job_runs_exempt,
    };
    let mut prepared = intake::prepare(&context, &rules, &admission, request.body)?;
    if !prepared.suspects.is_empty() {
        return Ok(Intake::Undecided(std::mem::take(&mut prepared.suspects)));
    }
    if prepared.suppressed > 0 {
        events::suppressed(request.entry, request.call, prepared.suppressed, prepared.len() == 0);
    }
    if prepared.run_id_ignored {
        events::limit_reached("run_id_bytes");
    }
    if prepared.len() == 0 {
        return Ok(Intake::Decided(None, prepared.refusal));
    }
    if !shared.accepts_events() {
        return Err(Refusal::Unavailable);
    }
    let charge = charge(shared, prepared.expanded_bytes, request.body.len())?;
    events::prepared(&prepared, request.body.len());
    let mut tx = Tx::new(Durability::Durable);
    let mut watched = shared.taps.is_watched().then(Vec::new);
    prepared.each_job(|job| {
        tx.append(Queue::Gw, shared.jobs.encode(Queue::Gw, job));
        if let Some(records) = &mut watched {
            records.extend(live::record(job, shared.clock.now_ms()));
        }
    });
    if let Some(run) = &prepared.run {
        tx.count_run(run.clone(), RunStats::taken_in(prepared.len() as u64));
    }
    let accepted = events::Accepted { events: prepared.len() as u64, bots: prepared.bots, sdk: prepared.sdk };
    Ok(Intake::Decided(Some(Jobs { tx, accepted, watched, _charge: charge }), prepared.refusal))
}

/// Takes memory for the jobs of a request, whose body is counted already.
///
/// # Errors
/// There is none left now.
pub(super) fn charge(shared: &Shared, expanded_bytes: u64, body_bytes: usize) -> Result<Charge<'_>, Refusal> {
    let mut charge = Charge::new(&shared.budget);
    let expanded_bytes = usize::try_from(expanded_bytes).unwrap_or(usize::MAX);
    if charge.grow(expanded_bytes.saturating_sub(body_bytes)) {
        return Ok(charge);
    }
    events::limit_reached("in_flight_bytes");
    Err(Refusal::Unavailable)
}

/// Now, as events write it. Rendered once a millisecond and thread.
fn received_at(clock: &Clock) -> String {
    thread_local! {
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now_ms = clock.now_ms();
    LAST.with_borrow_mut(|(last_ms, text)| {
        if *last_ms != now_ms {
            *last_ms = now_ms;
            let now = jiff::Timestamp::from_millisecond(now_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            *text = format!("{now:.3}");
        }
        text.clone()
    })
}

/// Commits by a deadline. The next of the lane may go once the transaction stands in the writer's queue.
pub(super) async fn commit<Lane>(
    shared: &Shared,
    connection: &Connection,
    tx: Tx,
    lane: Lane,
    deadline: Instant,
) -> Result<(), Refusal> {
    let queued = connection.alarm.by(deadline, shared.jobs.enqueue(tx)).await;
    drop(lane);
    let verdict = match queued {
        Some(Ok(queued)) => connection.alarm.by(deadline, queued.verdict()).await.unwrap_or(Err(JobsDbError::Timeout)),
        Some(Err(error)) => Err(error),
        None => Err(JobsDbError::Unavailable("the writer has no room".to_owned())),
    };
    verdict.map(|_| ()).map_err(|error| refusal_of(&error))
}

/// What a client is told about a failed commit: an unknown outcome is 504, everything that stored nothing is 503.
pub(super) fn refusal_of(error: &JobsDbError) -> Refusal {
    events::store_failed(error);
    match error {
        JobsDbError::Timeout => Refusal::StoreTimeout,
        JobsDbError::TooLarge { .. } => Refusal::TooLarge,
        _ => Refusal::Unavailable,
    }
}

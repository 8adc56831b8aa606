//! A request for events from its head to its answer: who sent it, its body, its jobs, the durable store
//! (gateway.md 5 and 8).

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use hyper::http::request::Parts;

use super::answer::{self, Answer, Refusal};
use super::body::{BodyLimits, HeldBody, RequestBody};
use super::credentials::{basic_user, header, query_write_key};
use super::directory::{Directory, SourceEntry};
use super::intake::{self, Context, Prepared, Rules};
use super::routes::{Call, Identification};
use super::server::Shared;
use super::{events, marks};
use crate::event::json;
use crate::jobsdb::{Durability, JobsDbError, Queue, Tx};
use crate::settings::{GatewaySettings, Settings};

/// Longest client address that is believed.
const LONGEST_ADDRESS: usize = 64;

/// Who sent a request.
pub(super) struct Client<'a> {
    pub(super) parts: &'a Parts,
    pub(super) peer: IpAddr,
}

impl Client<'_> {
    /// The client's address: the first of `X-Forwarded-For`, else the peer's.
    pub(super) fn address(&self) -> String {
        let forwarded = self.parts.headers.get("x-forwarded-for").and_then(|value| {
            let first = value.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
            let first: Vec<u8> = first.iter().copied().filter(|byte| *byte != b' ').take(LONGEST_ADDRESS + 1).collect();
            let usable = !first.is_empty() && first.len() <= LONGEST_ADDRESS;
            String::from_utf8(first).ok().filter(|_| usable)
        });
        forwarded.unwrap_or_else(|| match self.peer {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        })
    }

    fn headers(&self) -> &HeaderMap {
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
            let held = read(shared, &settings.gateway, client, body).await?;
            let write_key = body_write_key(&held.bytes, call, settings.gateway.max_json_depth);
            let found = write_key.ok_or(Refusal::NoWriteKeyInHeader).and_then(|key| directory.by_write_key(&key));
            (found.inspect_err(|refusal| events::unidentified(call, *refusal))?, Ok(held))
        }
        Err(refusal) => {
            events::unidentified(call, refusal);
            return Err(refusal);
        }
    };
    let destination_id = header(client.headers(), "x-rudder-destination-id");
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
                client_ip: &client.address(),
                destination_id,
                body: &held.bytes,
            };
            store(shared, settings, request).await
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
    let client_ip = client.address();
    let request = Request { call, entry, headers: None, client_ip: &client_ip, destination_id: "", body };
    if let Err(refusal) = store(shared, &settings, request).await {
        events::refused(entry, call, refusal);
    }
}

/// Finds the source that a request is from.
fn identify<'d>(
    directory: &'d Directory,
    client: &Client<'_>,
    identification: Identification,
) -> Result<&'d Arc<SourceEntry>, Refusal> {
    match identification {
        Identification::Basic | Identification::BasicOrBody => directory.by_write_key(&basic_user(client.headers())?),
        Identification::Query => directory.by_write_key(&query_write_key(client.parts.uri.query())?),
        Identification::SourceId | Identification::ReplaySourceId => {
            let id = header(client.headers(), "x-rudder-source-id");
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
    let held = body.read(gzip, limits, &shared.budget).await;
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
async fn store(shared: &Shared, settings: &Settings, request: Request<'_>) -> Result<(), Refusal> {
    let text = |name: &str| request.headers.map(|headers| header(headers, name)).unwrap_or_default();
    let anonymous_id = text("anonymousid");
    let (job_run_id, task_run_id) = (text("x-rudder-job-run-id"), text("x-rudder-task-run-id"));
    // From here to the moment when the transaction is queued nothing overtakes on this lane.
    let lane = if anonymous_id.is_empty() {
        events::empty_anonymous_id();
        None
    } else {
        shared.lane(&anonymous_id).await
    };
    let now = shared.clock.now();
    let received_at = format!("{now:.3}");
    let context = Context {
        call: request.call,
        entry: request.entry,
        anonymous_id_header: &anonymous_id,
        client_ip: request.client_ip,
        job_run_id: &job_run_id,
        task_run_id: &task_run_id,
        destination_id: request.destination_id,
        received_at: &received_at,
    };
    let gateway = &settings.gateway;
    let rules = Rules {
        allow_without_identity: gateway.allow_without_identity,
        max_req_bytes: gateway.max_req_bytes,
        max_expanded_bytes: gateway.max_expanded_bytes,
        max_json_depth: gateway.max_json_depth,
    };
    let prepared = intake::prepare(&context, &rules, request.body)?;
    if prepared.run_id_ignored {
        events::limit_reached("run_id_bytes");
    }
    let refusal = prepared.refusal;
    if prepared.len() > 0 {
        if !shared.accepts_events() {
            return Err(Refusal::Unavailable);
        }
        events::prepared(&prepared, request.body.len());
        let (tx, accepted) = transaction(shared, &prepared);
        drop(prepared);
        commit(shared, tx, lane, gateway.write_timeout).await?;
        events::stored(request.entry, request.call, &accepted);
    }
    refusal.map_or(Ok(()), Err)
}

fn transaction(shared: &Shared, prepared: &Prepared<'_>) -> (Tx, events::Accepted) {
    let mut tx = Tx::new(Durability::Durable);
    prepared.each_job(|job| tx.append(Queue::Gw, shared.jobs.encode(Queue::Gw, job)));
    let accepted =
        events::Accepted { events: prepared.len() as u64, bots: prepared.bots, library: prepared.library.clone() };
    (tx, accepted)
}

/// Commits, and lets the next of the lane go once the transaction stands in the writer's queue: a commit takes its
/// place there when it is polled first.
pub(super) async fn commit<Lane>(shared: &Shared, tx: Tx, lane: Lane, wait: Duration) -> Result<(), Refusal> {
    let mut committing = pin!(shared.jobs.commit_within(tx, wait));
    let poll_once = std::future::poll_fn(|context| Poll::Ready(committing.as_mut().poll(context)));
    let first = tokio::task::unconstrained(poll_once).await;
    drop(lane);
    let verdict = match first {
        Poll::Ready(verdict) => verdict,
        Poll::Pending => committing.await,
    };
    verdict.map(|_| ()).map_err(|error| refusal_of(&error))
}

/// What a client is told about a failed commit: an unknown outcome is 504, everything that stored nothing is 503.
fn refusal_of(error: &JobsDbError) -> Refusal {
    events::store_failed(error);
    match error {
        JobsDbError::Timeout => Refusal::StoreTimeout,
        JobsDbError::TooLarge { .. } => Refusal::TooLarge,
        _ => Refusal::Unavailable,
    }
}

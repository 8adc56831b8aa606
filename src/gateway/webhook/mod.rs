//! Webhook sources: anything in, events out (gateway.md 10).
//!
//! In: a request of any shape that names a source of category `webhook`. Out: the answer, after the events that
//! the source's transformation made of it are stored like those of a batch.
//!
//! The way of a request: `description` turns it into JSON, `native` transforms it here when the kind of source is
//! one that the node knows, else `transformer` asks the external one, gathering requests of the same kind.
//!
//! Promises: an answer 200 to a request with events comes after they are durable; a transformer that is slow,
//! broken or absent ends in a clear answer within `WriteTimeout`, and its answers are bounded.

mod description;
mod events;
mod form;
mod native;
mod reply;
mod transformer;

use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, StatusCode};

use super::answer::{self, Answer, Refusal};
use super::body::RequestBody;
use super::budget::Charge;
use super::credentials::{query_write_key, with_basic_user};
use super::directory::{Directory, SourceEntry};
use super::ingest::{self, Client};
use super::routes::Call;
use super::server::Shared;
use crate::settings::Settings;
use description::Description;
use native::Native;

pub(super) use transformer::Transformer;

/// What a transformation makes of a request. One of the two is there.
#[derive(Clone, Debug, Default, PartialEq)]
struct Transformed {
    /// `{"batch": [event, ...]}`.
    output: Option<Bytes>,
    /// What the sender is told.
    to_source: Option<ToSource>,
}

/// An answer that the transformation chose.
#[derive(Clone, Debug, PartialEq)]
struct ToSource {
    body: Bytes,
    content_type: String,
}

/// Why there is no event.
#[derive(Clone, Debug, PartialEq)]
enum Failure {
    /// As for any request with events.
    Refused(Refusal),
    /// The transformation says so, or could not be asked.
    Told { status: StatusCode, text: String },
}

impl Failure {
    fn told(status: StatusCode, text: impl Into<String>) -> Failure {
        Failure::Told { status, text: text.into() }
    }

    fn answer(&self) -> Answer {
        match self {
            Failure::Refused(refusal) => refusal.answer(),
            Failure::Told { status, text } => answer::refused(*status, text),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

/// Answers a request to a webhook source.
pub(super) async fn answer(shared: &Shared, client: &Client<'_>, body: &mut RequestBody<Incoming>) -> Answer {
    let settings = shared.live.load();
    let directory = shared.directory();
    let entry = match identify(&directory, client) {
        Ok(entry) => entry,
        Err(refusal) => {
            super::events::unidentified(Call::Webhook, refusal);
            return refusal.answer();
        }
    };
    let kind = entry.source.definition.name.to_lowercase();
    let takes_get = settings.webhook.forward_get_for.contains(&kind);
    if client.parts.method == Method::GET && !takes_get {
        // Services ask so whether the address exists.
        return answer::empty(StatusCode::OK);
    }
    match accept(shared, &settings, client, entry, &kind, body).await {
        Ok(None) => answer::ok(),
        Ok(Some(to_source)) => told_to_source(to_source),
        Err(failure) => {
            match &failure {
                Failure::Refused(refusal) => super::events::refused(entry, Call::Webhook, *refusal),
                Failure::Told { status, .. } => events::failed(entry, *status),
            }
            failure.answer()
        }
    }
}

/// The source: `writeKey` of the query, else HTTP Basic.
fn identify<'d>(directory: &'d Directory, client: &Client<'_>) -> Result<&'d SourceEntry, Refusal> {
    let entry = match query_write_key(client.parts.uri.query()) {
        Ok(write_key) => directory.webhook_by_write_key(&write_key)?,
        Err(none) => with_basic_user(&client.parts.headers, |user| directory.webhook_by_write_key(user))
            .map_err(|refusal| if refusal == Refusal::NoWriteKeyInHeader { none } else { refusal })?,
    };
    Ok(entry.as_ref())
}

/// Transforms and stores; what the sender is told instead of `ok`, if anything.
async fn accept(
    shared: &Shared,
    settings: &Settings,
    client: &Client<'_>,
    entry: &SourceEntry,
    kind: &str,
    body: &mut RequestBody<Incoming>,
) -> Result<Option<ToSource>, Failure> {
    let held = ingest::read(shared, &settings.gateway, client, body).await?;
    // The description holds the body once more, and once more when it is written.
    let mut charge = Charge::new(&shared.budget);
    take(&mut charge, 2 * held.bytes.len())?;
    let description = Description::of(client.parts, &held.bytes).await?;
    let written = description.to_json();
    if written.len() as u64 > settings.gateway.max_req_bytes {
        return Err(Refusal::TooLarge.into());
    }
    let started = Instant::now();
    let native = Native::of(kind, settings.transformer.destination_url.is_some());
    let done = match native {
        Some(native) => {
            take(&mut charge, native::memory(native, &description.body))?;
            native.transform(&description, entry, &shared.clock, settings.gateway.max_json_depth)
        }
        None => native::Outcome::Unknown,
    };
    let transformed = match done {
        native::Outcome::Done(transformed) => transformed,
        native::Outcome::Failed(text) => return Err(Failure::told(StatusCode::BAD_REQUEST, text)),
        native::Outcome::Unknown => {
            take(&mut charge, 2 * written.len())?;
            let request = transformer::element(&written, entry);
            drop((description, written));
            shared.transformer.ask(kind, request, settings).await?
        }
    };
    events::transformed(kind, started.elapsed());
    if let Some(output) = &transformed.output {
        take(&mut charge, output.len())?;
        ingest::batch_of_webhook(shared, settings, client, entry, output).await?;
    }
    Ok(transformed.to_source)
}

fn take(charge: &mut Charge<'_>, bytes: usize) -> Result<(), Refusal> {
    if charge.grow(bytes) {
        return Ok(());
    }
    super::events::limit_reached("in_flight_bytes");
    Err(Refusal::Unavailable)
}

fn told_to_source(to_source: ToSource) -> Answer {
    let content_type = HeaderValue::from_str(&to_source.content_type).ok().filter(|value| !value.is_empty());
    let mut answer = answer::with_body(StatusCode::OK, content_type.unwrap_or(answer::TEXT), to_source.body);
    // Part of it may come from the request.
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

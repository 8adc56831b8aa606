//! The external transformer of webhook sources (gateway.md 10.4).
//!
//! In: described requests, one by one. Out: what becomes of each. Requests of the same kind of source are
//! gathered for a moment and asked about in one call; calls are bounded in number, time, size and repetitions.
//! A call ends early when everybody who waits for it has gone.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, redirect};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::reply::{self, Verdict};
use super::{Failure, Refusal, Transformed, events};
use crate::gateway::directory::SourceEntry;
use crate::settings::{Settings, WebhookSettings};

/// How every text about a transformer that cannot be reached begins.
const UNREACHABLE: &str = "JS HTTP connection to source transformer";
/// Answers beyond this size are parsed off the threads of the sockets.
const LARGE_ANSWER: usize = 256 * 1024;
/// Redirects that are followed, all to the same origin.
const MOST_REDIRECTS: usize = 5;

/// What is encoded in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.').remove(b'~');

/// One request that waits for its verdict.
struct Waiting {
    /// What the transformer is told of it.
    element: Vec<u8>,
    verdict: oneshot::Sender<Verdict>,
}

/// Requests of one kind of source that are being gathered.
struct Gathering {
    number: u64,
    requests: Vec<Waiting>,
    /// Takes the requests when there are enough.
    full: oneshot::Sender<Vec<Waiting>>,
    begun: Arc<AtomicBool>,
}

/// Asks the external transformer.
pub(in crate::gateway) struct Transformer {
    gathering: Mutex<Gatherings>,
    calls: Semaphore,
    /// Made at the first call: most nodes have no transformer. `None` = it cannot be made.
    client: OnceLock<Option<Client>>,
}

#[derive(Default)]
struct Gatherings {
    /// By kind of source. Kinds come from the configuration.
    by_kind: HashMap<String, Gathering>,
    last_number: u64,
}

/// What the transformer is told of a request: its description and its source.
pub(super) fn element(description: &[u8], entry: &SourceEntry) -> Vec<u8> {
    let source = &entry.source;
    let definition = &source.definition;
    let options = if definition.options.is_object() { definition.options.clone() } else { json!({}) };
    let source = json!({
        "ID": source.id,
        "OriginalID": source.original_id,
        "Name": source.name,
        "SourceDefinition": {
            "ID": definition.id,
            "Name": definition.name,
            "Category": definition.category,
            "Type": definition.kind,
            "Options": options,
        },
        "Config": source.config,
        "Enabled": source.enabled,
        "WorkspaceID": source.workspace_id,
        "Destinations": null,
        "WriteKey": source.write_key,
    });
    [b"{\"request\":", description, b",\"source\":", source.to_string().as_bytes(), b"}"].concat()
}

impl Transformer {
    /// One that makes at most this many calls at once.
    pub(in crate::gateway) fn new(most_calls: usize) -> Transformer {
        Transformer { gathering: Mutex::default(), calls: Semaphore::new(most_calls), client: OnceLock::new() }
    }

    /// Asks about one request.
    ///
    /// # Errors
    /// What the sender is told when there is no event.
    pub(super) async fn ask(
        self: &Arc<Transformer>,
        kind: &str,
        element: Vec<u8>,
        settings: &Settings,
    ) -> Result<Transformed, Failure> {
        let Some(base) = settings.webhook.transformer_url.as_deref() else {
            events::unsupported(kind);
            return Err(unreachable("none is configured"));
        };
        let (verdict, receiver) = oneshot::channel();
        let begun = self.join(kind, base, Waiting { element, verdict }, &settings.webhook);
        match tokio::time::timeout(settings.gateway.write_timeout, receiver).await {
            Ok(Ok(verdict)) => verdict,
            // The call ended without a word, which only a stopping runtime does.
            Ok(Err(_)) => Err(Refusal::Unavailable.into()),
            Err(_) if begun.load(Ordering::Relaxed) => Err(Refusal::StoreTimeout.into()),
            Err(_) => {
                super::super::events::limit_reached("webhook_transformer_calls");
                Err(Refusal::Unavailable.into())
            }
        }
    }

    /// Adds a request to those of its kind; says whether their call has begun.
    fn join(
        self: &Arc<Transformer>,
        kind: &str,
        base: &str,
        waiting: Waiting,
        rules: &WebhookSettings,
    ) -> Arc<AtomicBool> {
        let mut gatherings = self.gathering.lock();
        let gathering = gatherings.by_kind.remove(kind);
        let mut gathering = gathering.unwrap_or_else(|| {
            gatherings.last_number += 1;
            let (full, requests) = oneshot::channel();
            let begun = Arc::new(AtomicBool::new(false));
            let call = Call {
                transformer: Arc::clone(self),
                kind: kind.to_owned(),
                number: gatherings.last_number,
                url: format!("{base}/v2/sources/{}", path_segment(kind)),
                rules: rules.clone(),
                begun: Arc::clone(&begun),
            };
            tokio::spawn(call.run(requests));
            Gathering { number: gatherings.last_number, requests: Vec::new(), full, begun }
        });
        gathering.requests.push(waiting);
        let begun = Arc::clone(&gathering.begun);
        if gathering.requests.len() < rules.max_batch_size {
            gatherings.by_kind.insert(kind.to_owned(), gathering);
        } else if gathering.full.send(gathering.requests).is_err() {
            tracing::debug!("a call ended before its requests came");
        }
        begun
    }

    /// The requests that were gathered so far, unless they were taken already.
    fn take(&self, kind: &str, number: u64) -> Option<Vec<Waiting>> {
        let mut gatherings = self.gathering.lock();
        let is_mine = gatherings.by_kind.get(kind).is_some_and(|gathering| gathering.number == number);
        if is_mine { gatherings.by_kind.remove(kind).map(|gathering| gathering.requests) } else { None }
    }
}

/// One call, from the first request that it is for.
struct Call {
    transformer: Arc<Transformer>,
    kind: String,
    number: u64,
    url: String,
    rules: WebhookSettings,
    begun: Arc<AtomicBool>,
}

/// What one try came to.
enum Try {
    Done(Bytes),
    /// Whether another try may help.
    Failed(Failure, bool),
}

impl Call {
    async fn run(self, mut full: oneshot::Receiver<Vec<Waiting>>) {
        let requests = tokio::select! {
            requests = &mut full => requests.ok(),
            () = tokio::time::sleep(self.rules.batch_timeout) => match self.transformer.take(&self.kind, self.number) {
                Some(requests) => Some(requests),
                None => full.await.ok(),
            },
        };
        let (elements, mut waiting): (Vec<Vec<u8>>, Vec<_>) =
            requests.unwrap_or_default().into_iter().map(|waiting| (waiting.element, waiting.verdict)).unzip();
        let count = waiting.len();
        let answered = tokio::select! {
            answered = self.verdicts(elements) => answered,
            () = all_gone(&mut waiting) => return,
        };
        let verdicts = answered.unwrap_or_else(|failure| vec![Err(failure); count]);
        for (sender, verdict) in waiting.into_iter().zip(verdicts) {
            // Who does not wait any more has been answered already.
            drop(sender.send(verdict));
        }
    }

    async fn verdicts(&self, elements: Vec<Vec<u8>>) -> Result<Vec<Verdict>, Failure> {
        // Waits as long as the requests do.
        let _permit = self.transformer.calls.acquire().await.map_err(|_| Refusal::Unavailable)?;
        self.begun.store(true, Ordering::Relaxed);
        let count = elements.len();
        let body = Bytes::from([&b"["[..], &elements.join(&b','), b"]"].concat());
        drop(elements);
        events::sent(&self.kind, count);
        let started = Instant::now();
        let verdicts = match self.answer(body).await {
            Ok(answer) if answer.len() > LARGE_ANSWER => {
                let parsing = tokio::task::spawn_blocking(move || reply::read(&answer, count));
                parsing.await.unwrap_or_else(|_| Err(Refusal::TransformerFormat.into()))
            }
            Ok(answer) => reply::read(&answer, count),
            Err(failure) => Err(failure),
        };
        match &verdicts {
            Ok(verdicts) => events::received(&self.kind, verdicts.len(), started.elapsed()),
            Err(Failure::Refused(refusal)) => events::transformer_failed(&self.kind, count, refusal.message()),
            Err(Failure::Told { text, .. }) => events::transformer_failed(&self.kind, count, text),
        }
        verdicts
    }

    /// The answer to the call, after as many tries as it takes.
    async fn answer(&self, body: Bytes) -> Result<Bytes, Failure> {
        let started = Instant::now();
        let mut pause = self.rules.min_retry_time;
        let mut repetitions = 0;
        loop {
            let failure = match self.attempt(body.clone()).await {
                Try::Done(answer) => return Ok(answer),
                Try::Failed(failure, false) => return Err(failure),
                Try::Failed(failure, true) => failure,
            };
            if repetitions >= self.rules.max_retry || started.elapsed() + pause > self.rules.max_elapsed_time {
                return Err(failure);
            }
            repetitions += 1;
            tokio::time::sleep(pause).await;
            let longer = pause.as_secs_f64() * self.rules.backoff_multiplier;
            let longest = self.rules.max_retry_time;
            pause = Duration::try_from_secs_f64(longer).unwrap_or(longest).min(longest);
        }
    }

    async fn attempt(&self, body: Bytes) -> Try {
        let Some(client) = self.transformer.client.get_or_init(client) else {
            return Try::Failed(unreachable("no client could be made"), false);
        };
        let request = client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .timeout(self.rules.timeout)
            .body(body);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Try::Failed(unreachable(kind_of(&error)), true),
        };
        let status = response.status();
        if status != StatusCode::OK {
            let again = status == StatusCode::TOO_MANY_REQUESTS
                || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED);
            let line = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
            let line = line.trim_end();
            let text =
                format!("source Transformer returned non-success statusCode: {}, Error: {line}", status.as_u16());
            return Try::Failed(Failure::told(StatusCode::INTERNAL_SERVER_ERROR, text), again);
        }
        let mut answer = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if (answer.len() + piece.len()) as u64 > self.rules.max_response_bytes => {
                    return Try::Failed(Refusal::TransformerFormat.into(), false);
                }
                Ok(Some(piece)) => answer.extend_from_slice(&piece),
                Ok(None) => return Try::Done(Bytes::from(answer)),
                Err(error) => return Try::Failed(unreachable(kind_of(&error)), true),
            }
        }
    }
}

/// A client that goes straight to the transformer and follows it nowhere else.
fn client() -> Option<Client> {
    let same_origin = redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first().map(reqwest::Url::origin);
        if attempt.previous().len() > MOST_REDIRECTS || first != Some(attempt.url().origin()) {
            attempt.stop()
        } else {
            attempt.follow()
        }
    });
    Client::builder().no_proxy().referer(false).redirect(same_origin).build().ok()
}

/// Ready once nobody waits any more.
async fn all_gone(waiting: &mut [oneshot::Sender<Verdict>]) {
    for sender in waiting {
        sender.closed().await;
    }
}

/// Tells a public client no more than that; the address is nobody's business.
fn unreachable(why: &str) -> Failure {
    Failure::told(StatusCode::SERVICE_UNAVAILABLE, format!("{UNREACHABLE} failed: {why}"))
}

fn kind_of(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "it does not answer in time"
    } else if error.is_connect() {
        "it cannot be connected to"
    } else {
        "the connection ended early"
    }
}

/// A name as one segment of a path.
fn path_segment(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_in_vain_for_a_call_is_asked_to_come_back() {
        let mut settings = Settings::defaults();
        settings.webhook.transformer_url = Some("http://127.0.0.1:1".to_owned());
        settings.gateway.write_timeout = Duration::from_millis(50);
        // Every call that is allowed is taken.
        let transformer = Arc::new(Transformer::new(0));
        let answer = transformer.ask("odd", b"{}".to_vec(), &settings).await;
        assert_eq!(answer, Err(Failure::Refused(Refusal::Unavailable)));
    }

    #[tokio::test]
    async fn without_a_transformer_the_answer_comes_at_once() {
        let answer = Arc::new(Transformer::new(1)).ask("odd", b"{}".to_vec(), &Settings::defaults()).await;
        let Err(Failure::Told { status, text }) = answer else { panic!("{answer:?}") };
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.starts_with(UNREACHABLE), "{text}");
    }
}

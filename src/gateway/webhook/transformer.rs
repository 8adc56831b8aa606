//! The external transformer of webhook sources (gateway.md 10.4).
//!
//! In: described requests, one by one. Out: what becomes of each. Requests of the same kind of source are
//! gathered for a moment and asked about in one call; calls are bounded in number, time, size and repetitions.
//! A call ends early when everybody who waits for it has gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::reply::{self, Verdict};
use super::{Failure, Refusal, Transformed, events};
use crate::gateway::directory::SourceEntry;
use crate::settings::{Settings, WebhookSettings};
use crate::transformer::{self, Client, Fault};

/// How every text about a transformer that cannot be reached begins.
const UNREACHABLE: &str = "JS HTTP connection to source transformer";
/// Answers beyond this size are parsed off the threads of the sockets.
const LARGE_ANSWER: usize = 256 * 1024;

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
    client: Client,
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
        Transformer { gathering: Mutex::default(), calls: Semaphore::new(most_calls), client: Client::default() }
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
        let Some(base) = settings.transformer.destination_url.as_deref() else {
            events::unsupported(kind);
            return Err(unreachable("none is configured"));
        };
        let (verdict, receiver) = oneshot::channel();
        let begun = self.join(kind, base, Waiting { element, verdict }, settings);
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
    fn join(self: &Arc<Transformer>, kind: &str, base: &str, waiting: Waiting, settings: &Settings) -> Arc<AtomicBool> {
        let rules = &settings.webhook;
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
                max_response_bytes: settings.transformer.max_response_bytes,
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
    max_response_bytes: u64,
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
        let call = transformer::Call {
            url: &self.url,
            headers: &[],
            body,
            timeout: self.rules.timeout,
            max_bytes: self.max_response_bytes,
        };
        let answer = match self.transformer.client.post(call).await {
            Ok(answer) => answer,
            Err(Fault::TooLarge) => return Try::Failed(Refusal::TransformerFormat.into(), false),
            Err(fault) => return Try::Failed(unreachable(&fault.to_string()), fault != Fault::NoClient),
        };
        let status = answer.status;
        if status == StatusCode::OK {
            return Try::Done(answer.body);
        }
        let again = status == StatusCode::TOO_MANY_REQUESTS
            || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED);
        let line = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
        let line = line.trim_end();
        let text = format!("source Transformer returned non-success statusCode: {}, Error: {line}", status.as_u16());
        Try::Failed(Failure::told(StatusCode::INTERNAL_SERVER_ERROR, text), again)
    }
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
        settings.transformer.destination_url = Some("http://127.0.0.1:1".to_owned());
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

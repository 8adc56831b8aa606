//! Calls for user and destination transformations, repeated while that may help (processor.md 7.2, 9.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::answer::{self, Item, shortened};
use super::body::{DestinationText, UserText};
use super::client::{Answer, Call, Client, Fault};
use super::events;
use super::features::Features;
use super::repeat::{self, Sense};
use crate::settings::{CallRules, Live, TransformerSettings};

/// Repetitions last no longer than this before the log says so loudly.
const LONGEST_TROUBLE: Duration = Duration::from_mins(15);
/// Status of events whose transformation was never reached, where they are to fail.
const FAILED: u16 = 909;
/// Status of those whose transformation did not end in time.
const TIMED_OUT: u16 = 919;
/// Answers beyond this size are parsed off the threads of the sockets.
const LARGE_ANSWER: usize = 256 * 1024;
/// Longest wait for what a transformer says of itself, and most bytes of it.
const FEATURES_TIMEOUT: Duration = Duration::from_secs(10);
const MOST_FEATURES_BYTES: u64 = 1 << 20;
/// While a transformer was never heard it is asked this often at once.
const QUICK_ATTEMPTS: usize = 10;
const BETWEEN_QUICK_ATTEMPTS: Duration = Duration::from_millis(2);
/// They are not quick any more after this.
const QUICK: Duration = Duration::from_secs(1);

const HEADERS: [(&str, &str); 3] =
    [("X-Feature-Gzip-Support", "?1"), ("X-Feature-Filter-Code", "?1"), ("X-Content-Format", "json+compactedv1")];

/// An event that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// The event, a JSON object.
    pub message: &'a str,
    /// Its metadata, a JSON object with the two ids.
    pub metadata: &'a str,
    /// The gateway job that it came with.
    pub job_id: u64,
    /// Its message id.
    pub message_id: &'a str,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// A user transformation.
    User(&'a UserText),
    /// A destination transformation.
    Destination(&'a DestinationText),
}

/// Every event of the call fails like this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// HTTP-like status.
    pub status: u16,
    /// What users are told.
    pub error: String,
}

/// The external transformer as the processor and the router see it. Cheap while there is none.
#[derive(Debug)]
pub struct Remote {
    live: Live,
    pub(super) client: Client,
    calls: Semaphore,
    features: Mutex<Option<Heard>>,
}

/// What a transformer said of itself.
#[derive(Debug)]
struct Heard {
    url: String,
    at: Instant,
    features: Arc<Features>,
}

/// Why a try came to nothing.
struct Trouble {
    problem: String,
    is_late: bool,
    sense: Sense,
}

/// What a try came to.
enum Try {
    Done(Vec<Item>),
    Failed(Failed),
    Trouble(Trouble),
}

impl What<'_> {
    pub(super) fn stage(&self) -> &'static str {
        match self {
            What::User(_) => "user_transformer",
            What::Destination(_) => "dest_transformer",
        }
    }

    /// Which one, as an operator knows it.
    pub(super) fn name(&self) -> &str {
        match self {
            What::User(text) => &text.version_id,
            What::Destination(text) => &text.kind,
        }
    }

    /// Where it is asked for; `None` without a transformer.
    fn url(&self, settings: &TransformerSettings) -> Option<String> {
        match self {
            What::User(text) => {
                let base = if text.is_python { &settings.python_url } else { &settings.user_url };
                Some(format!("{}/customTransform", base.as_ref()?))
            }
            What::Destination(text) => {
                Some(format!("{}/v0/destinations/{}", settings.destination_url.as_ref()?, text.kind))
            }
        }
    }

    fn rules<'s>(&self, settings: &'s TransformerSettings) -> &'s CallRules {
        match self {
            What::User(_) => &settings.user,
            What::Destination(_) => &settings.destination,
        }
    }
}

impl Remote {
    /// The transformer that the settings in force name.
    pub fn new(live: Live) -> Remote {
        let calls = Semaphore::new(live.load().transformer.max_calls);
        Remote { live, client: Client::default(), calls, features: Mutex::default() }
    }

    /// Has events transformed, all of them or none; ends only when it is known what becomes of them, which may take as
    /// long as the transformer is away. May be dropped at any time.
    ///
    /// # Errors
    /// The transformer refuses the call for good, or no repetition helped and the settings want the events to fail.
    pub async fn transform(&self, what: What<'_>, given: &[Given<'_>]) -> Result<Vec<Item>, Failed> {
        let texts = || given.iter().map(|event| (event.message, event.metadata));
        let (body, headers) = match what {
            What::User(text) => (text.body(texts()), &HEADERS[..2]),
            What::Destination(text) => match self.features().await {
                Some(features) if features.takes_compacted => (text.compacted(texts()), &HEADERS[..]),
                _ => (text.plain(texts()), &HEADERS[..2]),
            },
        };
        let body = Bytes::from(body);
        let started = Instant::now();
        events::sent(&what, given.len(), body.len());
        let asked: Vec<(u64, &str)> = given.iter().map(|event| (event.job_id, event.message_id)).collect();
        let ended = self.repeat(what, &body, headers, &asked).await;
        events::ended(&what, ended.as_ref().map_or(0, Vec::len), ended.is_ok(), started.elapsed());
        ended
    }

    async fn repeat(
        &self,
        what: What<'_>,
        body: &Bytes,
        headers: &[(&'static str, &'static str)],
        asked: &[(u64, &str)],
    ) -> Result<Vec<Item>, Failed> {
        let started = Instant::now();
        let (mut repetitions, mut asked_repeats) = (0, 0);
        let mut asked_pause = None;
        loop {
            // Read anew each time: what the operator mends meanwhile counts.
            let settings = self.live.load();
            let settings = &settings.transformer;
            let Some(url) = what.url(settings) else {
                return Err(Failed { status: 404, error: format!("transformer for {} not available", what.name()) });
            };
            let call = Call {
                url: &url,
                headers,
                body: body.clone(),
                timeout: settings.timeout,
                max_bytes: settings.max_response_bytes,
            };
            let trouble = match self.attempt(&what, call, asked).await {
                Try::Done(items) => return Ok(items),
                Try::Failed(failed) => return Err(failed),
                Try::Trouble(trouble) => trouble,
            };
            let is_asked = trouble.sense == Sense::Asked
                && settings.asked.enabled
                && settings.asked.most.is_none_or(|most| asked_repeats < most);
            let code_is_away = trouble.sense == Sense::CodeAway && matches!(what, What::User(_));
            events::repeated(&what, code_is_away, &trouble.problem);
            if is_asked {
                asked_repeats += 1;
                let pause = asked_pause.unwrap_or(settings.asked.first_pause).min(settings.asked.longest_pause);
                tokio::time::sleep(pause).await;
                asked_pause = Some(pause.mul_f64(settings.asked.multiplier));
                continue;
            }
            let rules = what.rules(settings);
            let is_endless = code_is_away && settings.repeats_while_code_is_away;
            if !is_endless && (repetitions >= rules.max_retry || started.elapsed() > LONGEST_TROUBLE) {
                if trouble.is_late && settings.fails_on_timeout && matches!(what, What::User(_)) {
                    let error = format!("transformer request timed out: {}", trouble.problem);
                    return Err(Failed { status: TIMED_OUT, error });
                }
                if rules.fails && trouble.sense != Sense::Incompatible {
                    let error = format!("transformer request failed: {}", trouble.problem);
                    return Err(Failed { status: FAILED, error });
                }
                events::helpless(&what, &trouble.problem);
            }
            tokio::time::sleep(repeat::pause(repetitions, rules.longest_pause, repeat::luck())).await;
            repetitions = repetitions.saturating_add(1);
        }
    }

    async fn attempt(&self, what: &What<'_>, call: Call<'_>, asked: &[(u64, &str)]) -> Try {
        // For this try only: calls that wait for a transformer which is away leave room for those to another one.
        let permit = self.calls.acquire().await;
        let answer = self.client.post(call).await;
        drop(permit);
        let Answer { status, headers, body } = match answer {
            Ok(answer) => answer,
            Err(fault) => {
                let sense = if fault == Fault::TooLarge { Sense::Incompatible } else { Sense::Again };
                return Try::Trouble(Trouble { problem: fault.to_string(), is_late: fault == Fault::Late, sense });
            }
        };
        events::answered(what, body.len());
        let trouble = |problem: String, sense| Try::Trouble(Trouble { problem, is_late: false, sense });
        match repeat::sense(status, &headers) {
            Sense::Good => {}
            Sense::Final => {
                let error = shortened(&String::from_utf8_lossy(&body));
                return Try::Failed(Failed { status: status.as_u16(), error });
            }
            Sense::Incompatible => {
                let problem = "it speaks another version: header apiVersion is not 2".to_owned();
                return trouble(problem, Sense::Incompatible);
            }
            sense => return trouble(format!("it answers {}", status.as_u16()), sense),
        }
        let items = if body.len() > LARGE_ANSWER {
            let asked: Vec<(u64, String)> = asked.iter().map(|(job, message)| (*job, (*message).to_owned())).collect();
            let parsing = tokio::task::spawn_blocking(move || {
                let asked: Vec<(u64, &str)> = asked.iter().map(|(job, message)| (*job, message.as_str())).collect();
                answer::read(&body, &asked)
            });
            parsing.await.unwrap_or_else(|lost| Err(lost.to_string()))
        } else {
            answer::read(&body, asked)
        };
        match items {
            Ok(items) => Try::Done(items),
            Err(error) => trouble(format!("its answer is not as agreed: {error}"), Sense::Incompatible),
        }
    }

    /// What the transformer of destinations says of itself, as last heard; `None` when there is none or it was never
    /// heard.
    pub async fn features(&self) -> Option<Arc<Features>> {
        let settings = self.live.load();
        let settings = &settings.transformer;
        let url = settings.destination_url.as_ref()?;
        let known = {
            let heard = self.features.lock();
            heard.as_ref().filter(|heard| heard.url == *url).map(|heard| (Arc::clone(&heard.features), heard.at))
        };
        if let Some((features, at)) = &known
            && at.elapsed() < settings.poll_interval
        {
            return Some(Arc::clone(features));
        }
        let attempts = if known.is_some() { 1 } else { QUICK_ATTEMPTS };
        let begun = Instant::now();
        let mut heard = self.hear(url).await;
        for _ in 1..attempts {
            if heard.is_some() || begun.elapsed() > QUICK {
                break;
            }
            tokio::time::sleep(BETWEEN_QUICK_ATTEMPTS).await;
            heard = self.hear(url).await;
        }
        // An old word stays good while there is no new one.
        let features = match (heard.map(Arc::new), known) {
            (Some(features), Some((before, _))) if *features == *before => before,
            (Some(features), _) => features,
            (None, known) => known?.0,
        };
        *self.features.lock() = Some(Heard { url: url.clone(), at: Instant::now(), features: Arc::clone(&features) });
        Some(features)
    }

    async fn hear(&self, url: &str) -> Option<Features> {
        let problem = match self.client.get(&format!("{url}/features"), FEATURES_TIMEOUT, MOST_FEATURES_BYTES).await {
            Ok(answer) if answer.status == 404 => return Some(Features::unsaid()),
            Ok(answer) if answer.status == 200 => match Features::read(&answer.body) {
                Some(features) => return Some(features),
                None => "its answer is no JSON object".to_owned(),
            },
            Ok(answer) => format!("it answers {}", answer.status.as_u16()),
            Err(fault) => fault.to_string(),
        };
        events::features_missing(&problem);
        None
    }

    pub(super) fn settings(&self) -> Arc<crate::settings::Settings> {
        self.live.load()
    }
}

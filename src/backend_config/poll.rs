//! Following a hosted workspace (gateway.md 11.1, 11.8): fetched again an interval after the end of the last fetch,
//! and at once when somebody asks for it. The code and plans beside the workspace file are followed as in file mode.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::decode::Problem;
use super::file::{Look, Reading};
use super::follow::{Follower, LOOK_INTERVAL, Request, reply};
use super::hosted::{Fetched, Hosted};
use super::last_good::Kept;
use super::{Mode, ReloadError, Reloaded, WAITING_RELOADS};

/// How long a start with a last good copy waits for the control plane.
const FIRST_WAIT: Duration = Duration::from_secs(5);

type Fetching = Pin<Box<dyn Future<Output = Result<Fetched, String>> + Send>>;

/// A follower of a hosted workspace.
pub(super) struct Poller {
    follower: Follower,
    hosted: Arc<Hosted>,
    /// The document in force, to be read again when only the code beside it changes.
    document: Option<Arc<Vec<u8>>>,
    /// What names the document in force in a conditional request.
    etag: Option<HeaderValue>,
}

impl Poller {
    pub(super) fn new(follower: Follower, hosted: Hosted) -> Poller {
        Poller { follower, hosted: Arc::new(hosted), document: None, etag: None }
    }

    /// With a last good copy: puts the fetched workspace in force or, when it cannot be had soon, the copy. Without
    /// one the node waits for the first fetch.
    pub(super) async fn begin(&mut self, last_good: Option<Kept>) {
        let Some(kept) = last_good else { return };
        self.follower.remember(Some(&kept));
        let fetched = tokio::time::timeout(FIRST_WAIT, self.hosted.fetch(None)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(format!("no answer within {} s", FIRST_WAIT.as_secs())));
        if self.take(fetched).await.is_err() {
            self.document = Some(Arc::new(kept.document.clone()));
            self.follower.use_stored(kept, Mode::Hosted, "the last good copy").await;
        }
    }

    /// Follows the workspace until told to stop. Answers requests in between.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked: Vec<Request> = Vec::new();
        let mut due = Instant::now();
        if self.follower.known.is_some() {
            due += self.interval();
        }
        let mut fetching: Option<Fetching> = None;
        loop {
            self.follower.keep().await;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = requests.recv(), if asked.len() < WAITING_RELOADS => {
                    asked.push(request);
                    fetching.get_or_insert_with(|| self.fetch());
                }
                fetched = outcome(&mut fetching) => {
                    fetching = None;
                    due = Instant::now() + self.interval();
                    let answer = self.take(fetched).await.map_err(ReloadError::Refused);
                    for request in asked.drain(..) {
                        reply(request, answer.clone());
                    }
                }
                () = tokio::time::sleep_until(due), if fetching.is_none() => fetching = Some(self.fetch()),
                _ = ticks.tick() => self.look_at_code().await,
            }
        }
    }

    fn interval(&self) -> Duration {
        self.follower.settings.load().backend_config.poll_interval
    }

    fn fetch(&self) -> Fetching {
        let (hosted, etag) = (Arc::clone(&self.hosted), self.etag.clone());
        Box::pin(async move { hosted.fetch(etag).await })
    }

    /// Puts what was fetched in force, if it is good.
    async fn take(&mut self, fetched: Result<Fetched, String>) -> Result<Reloaded, String> {
        match fetched {
            Ok(Fetched::Document { bytes, etag }) => {
                let document = Arc::new(bytes);
                let reading = self.examine(Arc::clone(&document)).await;
                let taken = self.follower.apply(reading);
                // The tag of a refused document would make the next answer "not modified", as if it were good.
                if taken.is_ok() {
                    self.document = Some(document);
                    self.etag = etag;
                }
                taken
            }
            Ok(Fetched::NotModified) => match self.document.clone() {
                // Values that stand in files may have changed all the same.
                Some(document) if self.follower.known.is_some_and(|known| known.depends_on_others) => {
                    let reading = self.examine(document).await;
                    self.follower.apply(reading)
                }
                _ => self.follower.apply(Ok(Reading::Unchanged)),
            },
            Err(error) => Err(self.follower.refuse_as(error)),
        }
    }

    /// Reads the document in force again when the code or plans beside the file changed.
    async fn look_at_code(&mut self) {
        let Some(document) = self.document.clone() else { return };
        if !self.follower.signs_changed().await {
            return;
        }
        let was_last_good = self.follower.state.lock().from_last_good;
        let error = self.follower.state.lock().last_error.clone();
        let reading = self.examine(document).await;
        if let Err(error) = self.follower.apply(reading) {
            tracing::debug!(error, "the workspace in force stays");
        } else {
            // Only a fetch tells that the control plane is back.
            let mut state = self.follower.state.lock();
            (state.from_last_good, state.last_error) = (was_last_good, error);
        }
    }

    async fn examine(&mut self, document: Arc<Vec<u8>>) -> Result<Reading, Problem> {
        self.follower.examine(move |look: &Look| look.at(Vec::clone(&document))).await
    }
}

/// The outcome of the fetch under way; never, when there is none.
async fn outcome(fetching: &mut Option<Fetching>) -> Result<Fetched, String> {
    match fetching {
        Some(fetching) => fetching.await,
        None => pending().await,
    }
}

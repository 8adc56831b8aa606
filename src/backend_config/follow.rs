//! Following the workspace file: look for signs of change, read, validate, publish, keep.
//!
//! The file's mark is looked at twice a second, so an edit or a rename applies within a second whatever the
//! file system (network and overlay mounts deliver no change notices). Every `BackendConfig.pollInterval` the
//! file is read even without a sign, which also catches new contents of secret files.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::decode::{Decoded, Problem};
use super::file::{self, Document, Known, Mark, Reading};
use super::last_good::{self, LAST_GOOD};
use super::model::Snapshot;
use super::{Mode, ReloadError, Reloaded, State, events};
use crate::clock::Clock;
use crate::jobsdb::JobsDb;
use crate::settings::Live;

/// How often the file's mark is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A request to read the file now, and where to answer.
pub(super) type Request = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// The one task that decides which workspace is in force.
pub(super) struct Follower {
    settings: Live,
    clock: Clock,
    /// Where good documents are kept; `None` when that is switched off.
    store: Option<JobsDb>,
    sender: watch::Sender<Option<Arc<Snapshot>>>,
    state: Arc<Mutex<State>>,
    /// The file's document that is in force; `None` while another one is.
    known: Option<Known>,
    /// Hash of the document in the store.
    kept: Option<u128>,
    /// A good document that is not in the store yet.
    unkept: Option<(u128, Vec<u8>)>,
    mark: Option<Mark>,
    last_read: Instant,
    /// Values that could not be had and were told.
    told: HashSet<String>,
}

impl Follower {
    pub(super) fn new(
        settings: Live,
        clock: Clock,
        store: Option<JobsDb>,
        sender: watch::Sender<Option<Arc<Snapshot>>>,
        state: Arc<Mutex<State>>,
    ) -> Follower {
        Follower {
            settings,
            clock,
            store,
            sender,
            state,
            known: None,
            kept: None,
            unkept: None,
            mark: None,
            last_read: Instant::now(),
            told: HashSet::new(),
        }
    }

    /// Puts the first workspace in force: the file's, else the last good one. `false` when there is neither
    /// and the embedded default is to be used; otherwise the node waits for a good file.
    pub(super) async fn begin(&mut self, last_good: Option<Vec<u8>>) -> bool {
        let demands_file = {
            let settings = self.settings.load();
            settings.backend_config.path_is_set || settings.backend_config.file_is_demanded
        };
        let is_unusable = match self.read().await {
            Ok(Reading::Missing) if last_good.is_none() && !demands_file => return false,
            reading => self.apply(reading).is_err(),
        };
        if let Some(bytes) = last_good {
            self.kept = Some(xxhash_rust::xxh3::xxh3_128(&bytes));
            if is_unusable {
                self.use_stored(bytes, Mode::File, "the last good copy").await;
            }
        }
        true
    }

    /// Puts a document of the store in force.
    pub(super) async fn use_stored(&mut self, bytes: Vec<u8>, mode: Mode, which: &'static str) {
        // The embedded default is the node's own text and refers to nothing.
        let prefix = self.settings.load().backend_config.variable_prefix.clone().filter(|_| mode == Mode::File);
        let accepted = tokio::task::spawn_blocking(move || file::accept(bytes, prefix.as_deref())).await;
        match accepted {
            Ok(Ok(document)) => {
                self.put_in_force(document.decoded, mode, which);
                self.state.lock().from_last_good = mode == Mode::File;
                events::from_last_good(mode == Mode::File);
            }
            Ok(Err(problems)) => self.stored_is_bad(which, &summary(&problems)),
            Err(error) => self.stored_is_bad(which, &error.to_string()),
        }
    }

    fn stored_is_bad(&mut self, which: &str, error: &str) {
        events::stored_document_is_bad(which, error);
        self.state.lock().last_error.get_or_insert_with(|| format!("{which} cannot be used: {error}"));
    }

    /// Follows the file until told to stop. Answers requests in between.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.keep().await;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = requests.recv() => {
                    let reading = self.read().await;
                    let answer = self.apply(reading).map_err(ReloadError::Refused);
                    // Nobody may be waiting any more; the file was read all the same.
                    if request.send(answer).is_err() {
                        tracing::debug!("nobody waited for the end of a reload");
                    }
                }
                _ = ticks.tick() => self.tick().await,
            }
        }
    }

    async fn tick(&mut self) {
        let (path, interval) = {
            let settings = self.settings.load();
            (settings.backend_config.path.clone(), settings.backend_config.poll_interval)
        };
        let mark = Mark::of(&path);
        if mark != self.mark || self.last_read.elapsed() >= interval {
            let reading = self.read().await;
            if let Err(error) = self.apply(reading) {
                tracing::debug!(error, "the workspace in force stays");
            }
        }
    }

    /// Reads the file.
    async fn read(&mut self) -> Result<Reading, Problem> {
        let settings = self.settings.load();
        let path = settings.backend_config.path.clone();
        let prefix = settings.backend_config.variable_prefix.clone();
        let known = self.known;
        // Taken before reading: a change while reading shows as another mark at the next tick.
        self.mark = Mark::of(&path);
        let read = tokio::task::spawn_blocking(move || file::look(&path, prefix.as_deref(), known)).await;
        self.last_read = Instant::now();
        read.map_err(|error| Problem::whole(format!("could not be read to its end: {error}"), "try again"))
    }

    /// Puts what was read in force, if it is good.
    fn apply(&mut self, reading: Result<Reading, Problem>) -> Result<Reloaded, String> {
        match reading {
            Ok(Reading::Unchanged) => {
                self.is_good();
                Ok(Reloaded::Unchanged)
            }
            Ok(Reading::Document(document)) => {
                let Document { bytes, known, decoded } = *document;
                self.known = Some(known);
                if self.store.is_some() && self.kept != Some(known.hash) {
                    self.unkept = Some((known.hash, bytes));
                }
                let reloaded = self.put_in_force(decoded, Mode::File, "the workspace file");
                self.is_good();
                Ok(reloaded)
            }
            Ok(Reading::Missing) if self.state.lock().mode == Mode::Embedded => Ok(Reloaded::Unchanged),
            Ok(Reading::Missing) => {
                let mend = "create it with `pintle init` or set BackendConfig.configJSONPath";
                Err(self.refuse(&[Problem::whole("does not exist", mend)]))
            }
            Ok(Reading::Refused(problems)) => Err(self.refuse(&problems)),
            Err(problem) => Err(self.refuse(&[problem])),
        }
    }

    fn put_in_force(&mut self, decoded: Decoded, mode: Mode, place: &str) -> Reloaded {
        let lines: HashSet<String> = decoded.replaced.lines().collect();
        for line in lines.difference(&self.told) {
            events::unresolved(line);
        }
        self.told = lines;

        let workspace = decoded.workspace;
        let is_same = self.sender.borrow().as_ref().is_some_and(|snapshot| {
            snapshot.workspaces.len() == 1 && snapshot.workspaces.values().all(|in_force| **in_force == workspace)
        });
        let mut state = self.state.lock();
        state.mode = mode;
        if is_same {
            return Reloaded::Unchanged;
        }
        let now_ms = self.clock.now_ms();
        state.last_change_ms = Some(now_ms);
        drop(state);
        events::changed(workspace.sources.len(), place);
        self.sender.send_replace(Some(Arc::new(Snapshot::new(vec![workspace], now_ms))));
        Reloaded::Changed
    }

    /// The file is good: no error, and the node runs on it.
    fn is_good(&mut self) {
        let mut state = self.state.lock();
        let was_refused = state.last_error.take().is_some();
        state.from_last_good = false;
        drop(state);
        events::from_last_good(false);
        if was_refused {
            events::mended(&self.settings.load().backend_config.path);
        }
    }

    /// Notes why the file cannot be used; what is in force stays.
    fn refuse(&mut self, problems: &[Problem]) -> String {
        let error = summary(problems);
        let is_new = self.state.lock().last_error.replace(error.clone()).as_ref() != Some(&error);
        events::refused(&self.settings.load().backend_config.path, &error, is_new);
        error
    }

    /// Stores the document in force, if it is not stored yet. A failure is tried again at the next tick.
    async fn keep(&mut self) {
        let (Some(store), Some((hash, document))) = (&self.store, &self.unkept) else { return };
        match last_good::keep(store, LAST_GOOD, document.clone()).await {
            Ok(()) => {
                self.kept = Some(*hash);
                self.unkept = None;
            }
            Err(error) => events::not_kept(&error),
        }
    }
}

/// The first problems in one line.
fn summary(problems: &[Problem]) -> String {
    const TOLD: usize = 3;
    let told: Vec<String> = problems.iter().take(TOLD).map(Problem::to_string).collect();
    let more = problems.len().saturating_sub(TOLD);
    if more > 0 { format!("{} (and {more} more; see `pintle check`)", told.join("; ")) } else { told.join("; ") }
}

//! Deciding which workspace is in force: what was read is validated, published and kept here.
//!
//! For a workspace file, its signs of change and those of the code beside it are looked at twice a second, so an
//! edit or a rename applies within a second whatever the file system (network and overlay mounts deliver no change
//! notices). Every `BackendConfig.pollInterval` the file is read even without a sign, which also catches new
//! contents of secret files. A hosted workspace is followed in `poll`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::code_files::Texts;
use super::decode::{Decoded, Problem};
use super::file::{self, Document, Known, Look, Reading, Signs};
use super::last_good::{Kept, Shelf};
use super::model::Snapshot;
use super::{Mode, ReloadError, Reloaded, State, events};
use crate::clock::Clock;
use crate::jobsdb::JobsDb;
use crate::settings::Live;

/// How often signs of change are looked for.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A request to read the workspace now, and where to answer.
pub(super) type Request = oneshot::Sender<Result<Reloaded, ReloadError>>;

/// The one task that decides which workspace is in force.
pub(super) struct Follower {
    pub(super) settings: Live,
    pub(super) clock: Clock,
    /// Where good workspaces are kept; `None` when that is switched off.
    pub(super) shelf: Option<(JobsDb, Shelf)>,
    pub(super) sender: watch::Sender<Option<Arc<Snapshot>>>,
    pub(super) state: Arc<Mutex<State>>,
    /// Where the workspace comes from once it is good.
    pub(super) origin: Mode,
    /// The document of the origin that is in force; `None` while another one is.
    pub(super) known: Option<Known>,
    /// The code and plans in force.
    pub(super) code: Arc<Texts>,
    /// What is in the store.
    pub(super) kept: Option<(u128, u128)>,
    /// A good workspace that is not in the store yet.
    pub(super) unkept: Option<((u128, u128), Kept)>,
    pub(super) signs: Signs,
    pub(super) last_read: Instant,
    /// What is off or older than it could be, and was told.
    pub(super) told: HashSet<String>,
}

impl Follower {
    pub(super) fn new(
        settings: Live,
        clock: Clock,
        shelf: Option<(JobsDb, Shelf)>,
        sender: watch::Sender<Option<Arc<Snapshot>>>,
        state: Arc<Mutex<State>>,
    ) -> Follower {
        let origin = state.lock().mode;
        Follower {
            settings,
            clock,
            shelf,
            sender,
            origin,
            state,
            known: None,
            code: Arc::default(),
            kept: None,
            unkept: None,
            signs: Signs::default(),
            last_read: Instant::now(),
            told: HashSet::new(),
        }
    }

    /// Puts the first workspace in force: the file's, else the last good one. `false` when there is neither
    /// and the embedded default is to be used; otherwise the node waits for a good file.
    pub(super) async fn begin(&mut self, last_good: Option<Kept>) -> bool {
        let demands_file = {
            let settings = self.settings.load();
            settings.backend_config.path_is_set || settings.backend_config.file_is_demanded
        };
        self.remember(last_good.as_ref());
        let is_unusable = match self.read().await {
            Ok(Reading::Missing) if last_good.is_none() && !demands_file => return false,
            reading => self.apply(reading).is_err(),
        };
        if let (true, Some(kept)) = (is_unusable, last_good) {
            self.use_stored(kept, Mode::File, "the last good copy").await;
        }
        true
    }

    /// What is stored serves where a file beside the document is broken, and need not be stored again.
    pub(super) fn remember(&mut self, last_good: Option<&Kept>) {
        if let Some(kept) = last_good {
            self.kept = Some((xxhash_rust::xxh3::xxh3_128(&kept.document), file::hash_of(&kept.code)));
            self.code = Arc::new(kept.code.clone());
        }
    }

    /// Puts a workspace of the store in force.
    pub(super) async fn use_stored(&mut self, kept: Kept, mode: Mode, which: &'static str) {
        let is_last_good = mode != Mode::Embedded;
        // The embedded default is the node's own text and refers to nothing.
        let prefix = self.settings.load().backend_config.variable_prefix.clone().filter(|_| is_last_good);
        let accepted =
            tokio::task::spawn_blocking(move || file::accept(kept.document, kept.code, Vec::new(), prefix.as_deref()));
        match accepted.await {
            Ok(Ok(document)) => {
                self.put_in_force(document.decoded, document.limits, mode, which);
                self.state.lock().from_last_good = is_last_good;
                events::from_last_good(is_last_good);
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
                    reply(request, answer);
                }
                _ = ticks.tick() => self.tick().await,
            }
        }
    }

    async fn tick(&mut self) {
        let interval = self.settings.load().backend_config.poll_interval;
        if self.signs_changed().await || self.last_read.elapsed() >= interval {
            let reading = self.read().await;
            if let Err(error) = self.apply(reading) {
                tracing::debug!(error, "the workspace in force stays");
            }
        }
    }

    /// Whether a file looks other than when it was read last.
    pub(super) async fn signs_changed(&self) -> bool {
        let path = self.settings.load().backend_config.path.clone();
        let before = self.signs.clone();
        tokio::task::spawn_blocking(move || Signs::of(&path) != before).await.unwrap_or(false)
    }

    /// How to look at the workspace now.
    pub(super) fn look(&self) -> Look {
        let settings = self.settings.load();
        Look {
            path: settings.backend_config.path.clone(),
            prefix: settings.backend_config.variable_prefix.clone(),
            known: self.known,
            code: Arc::clone(&self.code),
        }
    }

    /// Reads the file.
    async fn read(&mut self) -> Result<Reading, Problem> {
        self.examine(Look::at_file).await
    }

    /// Looks at a workspace on a thread that may block, and notes the signs.
    pub(super) async fn examine(
        &mut self,
        how: impl FnOnce(&Look) -> Reading + Send + 'static,
    ) -> Result<Reading, Problem> {
        let look = self.look();
        let read = tokio::task::spawn_blocking(move || {
            // Taken before reading: a change while reading shows as other signs at the next tick.
            (Signs::of(&look.path), how(&look))
        });
        let read = read.await;
        self.last_read = Instant::now();
        match read {
            Ok((signs, reading)) => {
                self.signs = signs;
                Ok(reading)
            }
            Err(error) => Err(Problem::whole(format!("could not be read to its end: {error}"), "try again")),
        }
    }

    /// Puts what was read in force, if it is good.
    pub(super) fn apply(&mut self, reading: Result<Reading, Problem>) -> Result<Reloaded, String> {
        match reading {
            Ok(Reading::Unchanged) => {
                self.is_good();
                Ok(Reloaded::Unchanged)
            }
            Ok(Reading::Document(document)) => {
                let Document { bytes, code, known, decoded, limits } = *document;
                self.known = Some(known);
                self.code = Arc::new(code);
                let hashes = (known.document, known.code);
                if self.shelf.is_some() && self.kept != Some(hashes) {
                    let kept = Kept { document: bytes, code: Texts::clone(&self.code) };
                    self.unkept = Some((hashes, kept));
                }
                let place = if self.origin == Mode::Hosted { "the control plane" } else { "the workspace file" };
                let reloaded = self.put_in_force(decoded, limits, self.origin, place);
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

    fn put_in_force(&mut self, decoded: Decoded, limits: Vec<String>, mode: Mode, place: &str) -> Reloaded {
        let workspace = decoded.workspace;
        let is_same = self.sender.borrow().as_ref().is_some_and(|snapshot| {
            snapshot.workspaces.len() == 1 && snapshot.workspaces.values().all(|in_force| **in_force == workspace)
        });
        let now_ms = self.clock.now_ms();
        {
            let mut state = self.state.lock();
            state.mode = mode;
            state.limits.clone_from(&limits);
            if !is_same {
                state.last_change_ms = Some(now_ms);
            }
        }
        let limits: HashSet<String> = limits.into_iter().collect();
        for limit in limits.difference(&self.told) {
            events::limited(limit);
        }
        self.told = limits;
        if is_same {
            return Reloaded::Unchanged;
        }
        events::changed(workspace.sources.len(), place);
        self.sender.send_replace(Some(Arc::new(Snapshot::new(vec![workspace], now_ms))));
        Reloaded::Changed
    }

    /// The origin is good: no error, and the node runs on it.
    pub(super) fn is_good(&mut self) {
        let mut state = self.state.lock();
        let was_refused = state.last_error.take().is_some();
        state.from_last_good = false;
        drop(state);
        events::from_last_good(false);
        if was_refused {
            events::mended(&self.place());
        }
    }

    /// Notes why the workspace cannot be used; what is in force stays.
    fn refuse(&mut self, problems: &[Problem]) -> String {
        self.refuse_as(summary(problems))
    }

    /// Notes a reason; what is in force stays.
    pub(super) fn refuse_as(&mut self, error: String) -> String {
        let is_new = self.state.lock().last_error.replace(error.clone()).as_ref() != Some(&error);
        events::refused(&self.place(), &error, is_new);
        error
    }

    /// Where the workspace is to come from, for people.
    fn place(&self) -> String {
        let state = self.state.lock();
        match (&state.url, &state.path) {
            (Some(url), _) => url.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => String::new(),
        }
    }

    /// Stores the workspace in force, if it is not stored yet. A failure is tried again at the next tick.
    pub(super) async fn keep(&mut self) {
        let (Some((jobs, shelf)), Some((hashes, kept))) = (&self.shelf, &self.unkept) else { return };
        match shelf.keep(jobs, kept).await {
            Ok(()) => {
                self.kept = Some(*hashes);
                self.unkept = None;
            }
            Err(error) => events::not_kept(&error),
        }
    }
}

/// Answers a request. Nobody may be waiting any more; the workspace was read all the same.
pub(super) fn reply(request: Request, answer: Result<Reloaded, ReloadError>) {
    if request.send(answer).is_err() {
        tracing::debug!("nobody waited for the end of a reload");
    }
}

/// The first problems in one line.
fn summary(problems: &[Problem]) -> String {
    const TOLD: usize = 3;
    let told: Vec<String> = problems.iter().take(TOLD).map(Problem::to_string).collect();
    let more = problems.len().saturating_sub(TOLD);
    if more > 0 { format!("{} (and {more} more; see `pintle check`)", told.join("; ")) } else { told.join("; ") }
}

//! Time limits of running code: the alarm that the engine asks while code runs, and the progress that is watched from
//! outside for the native loops that never ask (security.md 5.2).

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Time is counted from here.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// No slice is running.
const UNARMED: u64 = u64::MAX;

/// What a batch shows of itself to those who wait for it.
#[derive(Debug)]
pub(super) struct Progress {
    /// When the running slice of code must have ended, in milliseconds since [`BEGINNING`].
    deadline_ms: AtomicU64,
    /// Nobody waits any more; the thread may touch nothing but itself.
    pub(super) is_given_up: AtomicBool,
    /// The thread that works on the batch; 0 = none yet.
    pub(super) thread: AtomicI32,
}

impl Progress {
    pub(super) fn new() -> Progress {
        Progress {
            deadline_ms: AtomicU64::new(UNARMED),
            is_given_up: AtomicBool::new(false),
            thread: AtomicI32::new(0),
        }
    }

    /// When the running slice must have ended; `None` while no code runs.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadline_ms = self.deadline_ms.load(Ordering::Acquire);
        (deadline_ms != UNARMED).then(|| *BEGINNING + Duration::from_millis(deadline_ms))
    }

    fn show(&self, deadline: Option<Instant>) {
        let deadline_ms = deadline.map_or(UNARMED, |deadline| {
            u64::try_from(deadline.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(UNARMED)
        });
        self.deadline_ms.store(deadline_ms, Ordering::Release);
    }
}

/// The alarm of one runtime. Code runs in slices: from entering it to its return or its next wait.
#[derive(Debug)]
pub(super) struct Alarm {
    deadline: Cell<Option<Instant>>,
    rang: Cell<bool>,
    progress: RefCell<Option<Arc<Progress>>>,
}

impl Alarm {
    pub(super) fn new() -> Alarm {
        Alarm { deadline: Cell::new(None), rang: Cell::new(false), progress: RefCell::new(None) }
    }

    /// A new batch begins.
    pub(super) fn begin(&self, progress: Arc<Progress>) {
        self.rang.set(false);
        self.deadline.set(None);
        self.progress.replace(Some(progress));
    }

    /// Code runs from now on, for at most this time.
    pub(super) fn arm(&self, limit: Duration) {
        self.set(Some(Instant::now() + limit));
    }

    /// No code runs.
    pub(super) fn disarm(&self) {
        self.set(None);
    }

    fn set(&self, deadline: Option<Instant>) {
        self.deadline.set(deadline);
        if let Some(progress) = &*self.progress.borrow() {
            progress.show(deadline);
        }
    }

    /// Asked by the engine while code runs: whether it has to stop.
    pub(super) fn rings(&self) -> bool {
        let is_late = self.deadline.get().is_some_and(|deadline| Instant::now() >= deadline);
        if is_late {
            self.rang.set(true);
        }
        is_late
    }

    /// Whether code of this batch was stopped.
    pub(super) fn rang(&self) -> bool {
        self.rang.get()
    }
}

//! The life of the node as its health routes tell it (security.md 12).
//!
//! In: what `node` observes: the phase it is in, whether the store and the ingest listener make progress.
//! Out: [`Vitals::readiness`]. Nothing here does I/O, so a health check creates no load.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::jobsdb::Gate;

/// A store without a commit for this long is not ready.
const STALL: Duration = Duration::from_secs(10);

/// Where in its life the node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet accepting events, and what it waits for.
    Starting(String),
    /// Accepting events, if the gate is open.
    Running,
    /// Answering what is in flight, refusing what is new.
    Stopping,
}

/// Whether the node accepts events, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// `ready`, or the reason in words.
    pub reason: String,
}

/// What `node` observes of itself.
#[derive(Debug)]
pub struct Vitals {
    started: Instant,
    started_ms: i64,
    observed: Mutex<Observed>,
}

#[derive(Debug)]
struct Observed {
    phase: Phase,
    /// Since when probes fail, and why.
    stalled: Option<(Instant, String)>,
}

impl Vitals {
    /// A node that started now.
    pub fn new(started_ms: i64) -> Vitals {
        let observed = Observed { phase: Phase::Starting("opening the store".to_owned()), stalled: None };
        Vitals { started: Instant::now(), started_ms, observed: Mutex::new(observed) }
    }

    /// Enters another phase.
    pub fn enter(&self, phase: Phase) {
        self.observed.lock().phase = phase;
    }

    /// A probe saw the store commit and the listener answer.
    pub fn progressed(&self) {
        self.observed.lock().stalled = None;
    }

    /// A probe that was begun at `since` came to nothing.
    pub fn stalled(&self, since: Instant, reason: &str) {
        let mut observed = self.observed.lock();
        let since = observed.stalled.as_ref().map_or(since, |(first, _)| *first);
        observed.stalled = Some((since, reason.to_owned()));
    }

    /// How long the process has been up.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When the process was started, milliseconds since the epoch.
    pub fn started_ms(&self) -> i64 {
        self.started_ms
    }

    /// Whether the node accepts events, by its phase, the gate of its store, whether a workspace configuration is
    /// known, and its progress.
    pub fn readiness(&self, gate: &Gate, is_configured: bool) -> Readiness {
        let observed = self.observed.lock();
        let no = |reason: String| Readiness { ready: false, reason };
        match (&observed.phase, gate) {
            (Phase::Starting(what), _) => no(format!("starting: {what}")),
            (Phase::Stopping, _) => no("stopping".to_owned()),
            (Phase::Running, Gate::Poisoned(reason)) => no(format!("storage: {reason}")),
            (Phase::Running, Gate::IngestClosed(reason)) => no(reason.clone()),
            (Phase::Running, Gate::ProcessorClosed(reason)) => no(format!("{reason}; processor stopped")),
            (Phase::Running, Gate::Open) if !is_configured => no("no workspace configuration is known".to_owned()),
            (Phase::Running, Gate::Open) => match &observed.stalled {
                Some((since, reason)) if since.elapsed() > STALL => {
                    no(format!("{reason} for {} s", since.elapsed().as_secs()))
                }
                _ => Readiness { ready: true, reason: "ready".to_owned() },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_keeps_events_out() {
        let closed = Gate::IngestClosed("disk: 1 GiB < 2 GiB".to_owned());
        for (phase, gate, is_configured, ready, reason) in [
            (
                Phase::Starting("waiting for configuration".to_owned()),
                Gate::Open,
                false,
                false,
                "starting: waiting for configuration",
            ),
            (Phase::Running, Gate::Open, true, true, "ready"),
            (Phase::Running, Gate::Open, false, false, "no workspace configuration is known"),
            (Phase::Running, closed.clone(), true, false, "disk: 1 GiB < 2 GiB"),
            (Phase::Running, Gate::ProcessorClosed("disk".to_owned()), true, false, "disk; processor stopped"),
            (Phase::Running, Gate::Poisoned("flush failed".to_owned()), true, false, "storage: flush failed"),
            (Phase::Stopping, Gate::Open, true, false, "stopping"),
            (Phase::Stopping, closed, true, false, "stopping"),
        ] {
            let vitals = Vitals::new(0);
            vitals.enter(phase);
            assert_eq!(vitals.readiness(&gate, is_configured), Readiness { ready, reason: reason.to_owned() });
        }
    }

    #[test]
    fn a_stall_counts_from_its_first_failed_probe_and_ends_with_progress() {
        let vitals = Vitals::new(0);
        vitals.enter(Phase::Running);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(12));
        let Some(long_ago) = long_ago else { return };
        vitals.stalled(long_ago, "storage: no commit");
        vitals.stalled(Instant::now(), "storage: no commit");
        assert_eq!(vitals.readiness(&Gate::Open, true).reason, "storage: no commit for 12 s");
        vitals.progressed();
        assert!(vitals.readiness(&Gate::Open, true).ready);
    }
}

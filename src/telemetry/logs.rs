//! Logs: to the journal, as JSON, or as text (appliance.md 7, security.md 2.3, 7).
//!
//! In: [`LogSettings`]. Out: lines, one per event of the `tracing` crate, at most so many a second.
//! Text that came from events or answers can hold line ends and terminal sequences; text lines carry them
//! escaped, so that nobody can forge a line. JSON and the journal escape by their own rules.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How severe a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something is lost or does not work.
    Error,
    /// Something will need attention.
    Warn,
    /// What an operator follows.
    Info,
    /// What a developer follows.
    Debug,
    /// Everything.
    Trace,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal when it reads standard error, else text.
    Auto,
    /// One line of text each.
    Text,
    /// One JSON object each.
    Json,
    /// Records of the system journal.
    Journald,
}

/// Settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Module paths (`pintle::router`) with their own level.
    pub modules: Vec<(String, LogLevel)>,
    /// The format.
    pub format: LogFormat,
    /// Most lines per second; 0 = no bound.
    pub max_lines_per_second: u32,
}

impl LogLevel {
    /// The level of this name; the peer's `fatal` and `event` are taken for what is nearest.
    pub fn parse(text: &str) -> Option<LogLevel> {
        match text.trim().to_ascii_lowercase().as_str() {
            "error" | "fatal" => Some(LogLevel::Error),
            "warn" | "warning" => Some(LogLevel::Warn),
            "info" => Some(LogLevel::Info),
            "debug" => Some(LogLevel::Debug),
            "trace" | "event" => Some(LogLevel::Trace),
            _ => None,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        }
    }
}

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// The journal was asked for and is not there.
    #[error("the system journal cannot be reached: {0}; set Log.format to \"text\" or \"json\"")]
    Journal(io::Error),
    /// Logs were set up before.
    #[error("logs are set up already")]
    Twice,
}

/// The handle of the running log: changes levels and the bound of lines. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    levels: reload::Handle<Targets, Registry>,
    bound: Arc<LineBound>,
}

/// Sets up the log of the process. Call once, before the first line.
///
/// # Errors
/// [`LogsError::Journal`] when the journal was demanded; with `auto` text is the fallback.
pub fn init(settings: &LogSettings) -> Result<Logs, LogsError> {
    let bound = Arc::new(LineBound::new(settings.max_lines_per_second));
    let (levels, handle) = reload::Layer::new(targets(settings));
    let subscriber = tracing_subscriber::registry().with(levels).with(Bounded(Arc::clone(&bound)));
    let text = || tracing_subscriber::fmt::layer().with_ansi(false).with_writer(EscapedStandardError);
    let installed = match (settings.format, tracing_journald::layer()) {
        (LogFormat::Journald, Ok(journal)) => subscriber.with(journal).try_init(),
        (LogFormat::Journald, Err(error)) => return Err(LogsError::Journal(error)),
        (LogFormat::Auto, Ok(journal)) if journal_reads_standard_error() => subscriber.with(journal).try_init(),
        (LogFormat::Json, _) => {
            let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            subscriber.with(json).try_init()
        }
        (LogFormat::Auto | LogFormat::Text, _) => subscriber.with(text()).try_init(),
    };
    installed.map_err(|_| LogsError::Twice)?;
    Ok(Logs { levels: handle, bound })
}

impl Logs {
    /// Puts other levels and another bound in force. The format stays.
    pub fn apply(&self, settings: &LogSettings) {
        self.bound.limit.store(settings.max_lines_per_second, Ordering::Relaxed);
        if let Err(error) = self.levels.modify(|levels| *levels = targets(settings)) {
            tracing::warn!(%error, "the level of the log could not be changed");
        }
    }
}

fn targets(settings: &LogSettings) -> Targets {
    let modules = settings.modules.iter().map(|(module, level)| (module.clone(), level.filter()));
    Targets::new().with_default(settings.level.filter()).with_targets(modules)
}

/// Whether standard error is the stream that systemd connected to the journal.
fn journal_reads_standard_error() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Lines of the present second.
struct LineBound {
    limit: AtomicU32,
    second: Mutex<Second>,
}

struct Second {
    began: Instant,
    lines: u32,
    dropped: u64,
}

/// What the bound says about one line.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Write,
    /// Write it, and say that this many were dropped before.
    WriteAfterDropping(u64),
    Drop,
}

impl LineBound {
    fn new(limit: u32) -> LineBound {
        let second = Second { began: Instant::now(), lines: 0, dropped: 0 };
        LineBound { limit: AtomicU32::new(limit), second: Mutex::new(second) }
    }

    fn ask(&self, now: Instant) -> Verdict {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Verdict::Write;
        }
        let mut second = self.second.lock();
        let mut dropped_before = 0;
        if now.saturating_duration_since(second.began) >= Duration::from_secs(1) {
            dropped_before = second.dropped;
            *second = Second { began: now, lines: 0, dropped: 0 };
        }
        if second.lines >= limit {
            second.dropped += 1;
            return Verdict::Drop;
        }
        second.lines += 1;
        if dropped_before > 0 { Verdict::WriteAfterDropping(dropped_before) } else { Verdict::Write }
    }
}

/// The layer that lets only so many lines a second through.
struct Bounded(Arc<LineBound>);

impl<S: Subscriber> Layer<S> for Bounded {
    fn event_enabled(&self, _event: &Event<'_>, _context: Context<'_, S>) -> bool {
        match self.0.ask(Instant::now()) {
            Verdict::Write => true,
            Verdict::WriteAfterDropping(dropped) => {
                tracing::warn!(dropped, "lines of the log were dropped; see Log.maxLinesPerSecond");
                true
            }
            Verdict::Drop => {
                super::events::log_line_dropped();
                false
            }
        }
    }
}

/// Standard error with every control character but the line's own end escaped. One event is one write.
#[derive(Clone, Copy)]
struct EscapedStandardError;

impl<'a> MakeWriter<'a> for EscapedStandardError {
    type Writer = EscapedStandardError;

    fn make_writer(&'a self) -> EscapedStandardError {
        EscapedStandardError
    }
}

impl Write for EscapedStandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(escaped(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn escaped(line: &str) -> String {
    let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
    let mut out = String::with_capacity(line.len());
    for c in body.chars() {
        // Beyond the control characters: marks that turn the direction of text, and line separators.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push_str(end);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_line_can_end_it_or_steer_the_terminal() {
        for (line, expected) in [
            ("plain ünï\n", "plain ünï\n"),
            ("a\nINFO forged\n", "a\\nINFO forged\n"),
            ("red \u{1b}[31m\r\n", "red \\u{1b}[31m\\r\n"),
            ("c1 \u{9b} bidi \u{202e}", "c1 \\u{9b} bidi \\u{202e}"),
        ] {
            assert_eq!(escaped(line), expected);
        }
    }

    #[test]
    fn lines_above_the_bound_are_dropped_and_counted() {
        let bound = LineBound::new(2);
        let start = Instant::now();
        let asked: Vec<_> = (0..4).map(|_| bound.ask(start)).collect();
        assert_eq!(asked, [Verdict::Write, Verdict::Write, Verdict::Drop, Verdict::Drop]);
        let later = start + Duration::from_secs(1);
        assert_eq!(bound.ask(later), Verdict::WriteAfterDropping(2));
        assert_eq!(bound.ask(later), Verdict::Write);
        bound.limit.store(0, Ordering::Relaxed);
        assert_eq!(bound.ask(later), Verdict::Write);
    }

    #[test]
    fn a_module_has_its_own_level() {
        let settings = LogSettings {
            level: LogLevel::Warn,
            modules: vec![("pintle::router".to_owned(), LogLevel::Debug)],
            format: LogFormat::Text,
            max_lines_per_second: 0,
        };
        let targets = targets(&settings);
        assert!(targets.would_enable("pintle::router::transport", &tracing::Level::DEBUG));
        assert!(!targets.would_enable("pintle::gateway", &tracing::Level::INFO));
    }
}

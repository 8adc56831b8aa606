//! How a verb fails: an exit code and one line per error, each with a hint.

use std::io::Write;

/// An unsuccessful end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit code (appliance.md 1).
    pub code: u8,
    /// What went wrong, one line each.
    pub lines: Vec<String>,
    /// Nobody answered on the admin socket.
    pub no_node: bool,
}

/// Failed.
pub(super) const FAILED: u8 = 1;
/// The store is unusable for now; a restart may help.
pub(super) const UNUSABLE: u8 = 75;
/// A human is needed.
pub(super) const HUMAN: u8 = 78;

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>, hint: &str) -> Failure {
        let message = message.into();
        let line = if hint.is_empty() { message } else { format!("{message}; {hint}") };
        Failure { code, lines: vec![line], no_node: false }
    }

    pub(super) fn many(code: u8, lines: Vec<String>) -> Failure {
        Failure { code, lines, no_node: false }
    }

    /// Writes the lines to standard error. Nobody is left to tell when that fails.
    pub(super) fn tell(&self) {
        let mut error_output = std::io::stderr().lock();
        for line in &self.lines {
            drop(writeln!(error_output, "pintle: {}", super::output::printable(line)));
        }
    }
}

//! Standard output: written at once, never a panic, a closed pipe is success.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal, Write as _};

use serde::Serialize;

use super::failure::{FAILED, Failure};

/// Writes text to standard output.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(FAILED, format!("cannot write to standard output: {error}"), "")),
    }
}

/// Writes a value as indented JSON.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&format!("{text}\n")),
        Err(error) => Err(Failure::new(FAILED, format!("cannot write JSON: {error}"), "")),
    }
}

/// Adds a line to text that is being put together.
pub(super) fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}

/// Whether output may be coloured: a terminal, and nobody said no.
pub(super) fn has_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text from outside without line ends and terminal sequences.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }
}

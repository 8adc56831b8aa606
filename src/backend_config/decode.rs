//! From the text of a workspace document to a [`Workspace`] (gateway.md 11.2).
//!
//! A document is taken whole or refused whole, with every reason and its place. Nothing that is reported
//! holds a value of the document: values can be secrets.

use std::fmt;

use serde_json::Value;

use super::assemble::assemble;
use super::code_files::CodeFiles;
use super::locate::{line_and_column, locate, path_text};
use super::model::Workspace;
use super::secrets::{self, References, Replaced};
use super::shape::{self, DOCUMENT, Findings, UnknownKey};

/// Most bytes of a workspace document (security.md 2.2).
pub const MOST_DOCUMENT_BYTES: u64 = 64 << 20;

/// Something to say about a place in the workspace document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when it is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 when it is about the file as a whole.
    pub column: usize,
    /// Path of the value, such as `sources[0].enabled`; empty when it is about the whole.
    pub path: String,
    /// What is wrong; never a value of the document.
    pub message: String,
    /// How to mend it; possibly empty.
    pub hint: String,
}

impl Problem {
    pub(super) fn whole(message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { line: 0, column: 0, path: String::new(), message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

/// A document that was accepted.
pub(super) struct Decoded {
    pub(super) workspace: Workspace,
    pub(super) replaced: Replaced,
    pub(super) unknown: Vec<UnknownKey>,
    /// What the document names and this node does not have: what needs it is off, all else works.
    pub(super) missing: Vec<Missing>,
}

/// Something that the document names and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    /// What names it, with ids, for people.
    pub(super) what: String,
    /// What happens without it, and the mend.
    pub(super) hint: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

/// Decodes a document; `files` are the code and plans beside it.
pub(super) fn decode(bytes: &[u8], references: &References<'_>, files: &CodeFiles) -> Result<Decoded, Vec<Problem>> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_DOCUMENT_BYTES {
        let message = format!("is larger than {MOST_DOCUMENT_BYTES} bytes");
        return Err(vec![Problem::whole(message, "split the workspace")]);
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok());
        let (line, column) = valid.map_or((1, 1), |valid| line_and_column(valid, valid.len()));
        let message = "the file is not UTF-8 text".to_owned();
        vec![Problem { line, column, path: String::new(), message, hint: "save it as UTF-8".to_owned() }]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The parser's own bound of 128 levels stays in force: no workspace is deeper, and walking one recurses.
    let mut document: Value = serde_json::from_str(text).map_err(|error| {
        // The parser's message names what it expected, never what it found beyond one character.
        let full = error.to_string();
        let message = full.split(" at line ").next().unwrap_or(&full);
        vec![Problem {
            line: error.line().max(1),
            column: error.column().max(1),
            path: String::new(),
            message: format!("the file is not valid JSON: {message}"),
            hint: String::new(),
        }]
    })?;
    let mut replaced = secrets::replace(&mut document, references);
    let mut findings = Findings::default();
    let document = shape::bring(document, &DOCUMENT, &mut Vec::new(), &mut findings);
    if !findings.wrong.is_empty() {
        let problems = findings.wrong.into_iter().map(|wrong| {
            let (line, column) = locate(text, &wrong.steps);
            let path = path_text(&wrong.steps);
            Problem { line, column, path, message: wrong.message, hint: String::new() }
        });
        return Err(problems.collect());
    }
    let (mut workspace, missing) = assemble(document, files);
    workspace.resolved = std::mem::take(&mut replaced.found);
    Ok(Decoded { workspace, replaced, unknown: findings.unknown, missing })
}

//! The workspace file and what is beside it: signs of change, and reading it whole.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::code_files::{self, CodeFiles, Marks, Texts};
use super::decode::{Decoded, MOST_DOCUMENT_BYTES, Problem, decode};
use super::secrets::References;

/// What a file looks like from outside. Any edit or replacement changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Mark {
    /// The mark of the file; `None` when there is none. Blocks.
    pub(super) fn of(path: &Path) -> Option<Mark> {
        std::fs::metadata(path).ok().map(|metadata| Mark {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Signs of change of everything that a workspace is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Of the workspace file; `None` when there is none.
    file: Option<Mark>,
    /// Of the code and plans beside it.
    code: Marks,
}

impl Signs {
    /// The signs now. Blocks.
    pub(super) fn of(path: &Path) -> Signs {
        Signs { file: Mark::of(path), code: code_files::marks(beside(path)) }
    }
}

/// The folder in which the folders of code and plans are.
pub(super) fn beside(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// What is remembered of the document that was accepted last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Hash of its text.
    pub(super) document: u128,
    /// Hash of the code and plans beside it.
    pub(super) code: u128,
    /// Values of it stand in files or could not be had, or a file beside it could not be used: the same text can
    /// mean something else later.
    pub(super) depends_on_others: bool,
}

/// What a look at the file found.
pub(super) enum Reading {
    /// There is no file.
    Missing,
    /// The same as before.
    Unchanged,
    /// A file that cannot be used.
    Refused(Vec<Problem>),
    /// A document.
    Document(Box<Document>),
}

/// A document that was read and accepted, with the code and plans beside it.
pub(super) struct Document {
    /// Its text, with references unresolved.
    pub(super) bytes: Vec<u8>,
    /// The code and plans.
    pub(super) code: Texts,
    pub(super) known: Known,
    pub(super) decoded: Decoded,
    /// What is off or older than it could be, and why; never a value.
    pub(super) limits: Vec<String>,
}

/// How to look at a workspace.
pub(super) struct Look {
    /// The path of the workspace file; code and plans are beside it.
    pub(super) path: PathBuf,
    /// What a value begins with that names an environment variable.
    pub(super) prefix: Option<String>,
    /// What was accepted last.
    pub(super) known: Option<Known>,
    /// The code and plans in force.
    pub(super) code: Arc<Texts>,
}

impl Look {
    /// Reads and decodes the file and what is beside it. Blocks.
    pub(super) fn at_file(&self) -> Reading {
        match read(&self.path) {
            Ok(Some(bytes)) => self.at(bytes),
            Ok(None) => Reading::Missing,
            Err(problem) => Reading::Refused(vec![problem]),
        }
    }

    /// Decodes a document with what is beside the file. Blocks.
    pub(super) fn at(&self, bytes: Vec<u8>) -> Reading {
        let (code, problems) = code_files::read(beside(&self.path), &self.code);
        let (document_hash, code_hash) = (xxhash_rust::xxh3::xxh3_128(&bytes), hash_of(&code));
        let is_same = |known: Known| {
            known.document == document_hash
                && known.code == code_hash
                && !known.depends_on_others
                && problems.is_empty()
        };
        if self.known.is_some_and(is_same) {
            return Reading::Unchanged;
        }
        match accept(bytes, code, problems, self.prefix.as_deref()) {
            Ok(document) => Reading::Document(Box::new(document)),
            Err(problems) => Reading::Refused(problems),
        }
    }
}

/// Decodes a document, with secrets from the environment and from files. Blocks.
pub(super) fn accept(
    bytes: Vec<u8>,
    code: Texts,
    problems: Vec<Problem>,
    prefix: Option<&str>,
) -> Result<Document, Vec<Problem>> {
    let variable = |name: &str| std::env::var(name).ok();
    let files = CodeFiles::of(&code);
    let decoded = decode(&bytes, &References { prefix, variable: &variable }, &files)?;
    let depends_on_others =
        decoded.replaced.from_files || !decoded.replaced.unresolved.is_empty() || !problems.is_empty();
    let known = Known { document: xxhash_rust::xxh3::xxh3_128(&bytes), code: hash_of(&code), depends_on_others };
    let mut limits: Vec<String> = decoded.replaced.lines().collect();
    limits.extend(decoded.missing.iter().map(ToString::to_string));
    limits.extend(problems.iter().chain(&files.problems).map(ToString::to_string));
    Ok(Document { bytes, code, known, decoded, limits })
}

/// A hash of names and contents.
pub(super) fn hash_of(code: &Texts) -> u128 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for (path, text) in code {
        for part in [path, text] {
            hash.update(&part.len().to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.digest128()
}

/// The file's bytes; `None` when there is none. Blocks.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let failed = |error: io::Error| Problem::whole(format!("cannot be read: {error}"), "check its owner and mode");
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !metadata.is_file() {
        return Err(Problem::whole("is not a regular file", "give the path of workspaceConfig.json itself"));
    }
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the decoder sees that there is more.
    file.take(MOST_DOCUMENT_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

//! The workspace file: signs of change, and reading it whole.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::code_files::CodeFiles;
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

/// What is remembered of the document that was accepted last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Hash of its text.
    pub(super) hash: u128,
    /// Values of it stand in files or could not be had, so the same text can mean something else later.
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

/// A document that was read and accepted.
pub(super) struct Document {
    /// Its text, with references unresolved.
    pub(super) bytes: Vec<u8>,
    pub(super) known: Known,
    pub(super) decoded: Decoded,
}

/// Reads and decodes the file. Blocks.
pub(super) fn look(path: &Path, prefix: Option<&str>, known: Option<Known>) -> Reading {
    let bytes = match read(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Reading::Missing,
        Err(problem) => return Reading::Refused(vec![problem]),
    };
    let hash = xxhash_rust::xxh3::xxh3_128(&bytes);
    if known.is_some_and(|known| known.hash == hash && !known.depends_on_others) {
        return Reading::Unchanged;
    }
    match accept(bytes, prefix) {
        Ok(document) => Reading::Document(Box::new(document)),
        Err(problems) => Reading::Refused(problems),
    }
}

/// Decodes a document, with secrets from the environment and from files. Blocks.
pub(super) fn accept(bytes: Vec<u8>, prefix: Option<&str>) -> Result<Document, Vec<Problem>> {
    let variable = |name: &str| std::env::var(name).ok();
    let decoded = decode(&bytes, &References { prefix, variable: &variable }, &CodeFiles::default())?;
    let depends_on_others = decoded.replaced.from_files || !decoded.replaced.unresolved.is_empty();
    let known = Known { hash: xxhash_rust::xxh3::xxh3_128(&bytes), depends_on_others };
    Ok(Document { bytes, known, decoded })
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

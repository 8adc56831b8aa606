//! A finished file on its way to a storage: gzip, one JSON document a line, in job order (router.md 19.3).

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::object_storage::sync_directory;

/// Beyond this level gzip costs much time and saves next to nothing on events.
const LEVEL: u32 = 6;

/// A gzip file that is being written, line by line.
pub(super) struct LineFile {
    encoder: GzEncoder<BufWriter<File>>,
}

impl LineFile {
    /// Starts the file; one of the same name is replaced.
    pub(super) fn create(path: &Path) -> io::Result<LineFile> {
        let file = File::options().write(true).create(true).truncate(true).mode(0o640).open(path)?;
        Ok(LineFile { encoder: GzEncoder::new(BufWriter::with_capacity(64 << 10, file), Compression::new(LEVEL)) })
    }

    /// Appends a line, given in pieces and without its end. Raw line ends within a JSON document are blanks
    /// between tokens; they are written as blanks, so that a document stays one line of the same length.
    pub(super) fn line(&mut self, pieces: &[&[u8]]) -> io::Result<()> {
        for piece in pieces {
            let mut rest = *piece;
            while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
                let (before, after) = rest.split_at(at);
                self.encoder.write_all(before)?;
                self.encoder.write_all(b" ")?;
                rest = after.split_first().map_or(after, |(_, after)| after);
            }
            self.encoder.write_all(rest)?;
        }
        self.encoder.write_all(b"\n")
    }

    /// Ends the file and brings it to disk; returns its length.
    pub(super) fn finish(self, path: &Path) -> io::Result<u64> {
        let file = self.encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            sync_directory(folder)?;
        }
        Ok(file.metadata()?.len())
    }
}

/// Reads back the documents of a file whose lengths are known, because the store has no look-up by job.
pub(super) fn read_back(path: &Path, lengths: &[usize]) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = BufReader::new(GzDecoder::new(BufReader::new(File::open(path)?)));
    let mut documents = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let mut document = vec![0; length];
        lines.read_exact(&mut document)?;
        lines.skip_until(b'\n')?;
        documents.push(document);
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_stored_as_they_are_and_every_line_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.json.gz");
        let documents: [&[u8]; 3] = [b"{\"a\":\n1.0}", "{\"b\":\"\u{e9}\"}".as_bytes(), b"{}"];
        let mut file = LineFile::create(&path).unwrap();
        for document in documents {
            file.line(&[document]).unwrap();
        }
        let length = file.finish(&path).unwrap();
        assert_eq!(length, std::fs::metadata(&path).unwrap().len());
        let mut text = String::new();
        GzDecoder::new(BufReader::new(File::open(&path).unwrap())).read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"a\": 1.0}\n{\"b\":\"\u{e9}\"}\n{}\n");
        let lengths: Vec<usize> = documents.iter().map(|document| document.len()).collect();
        assert_eq!(read_back(&path, &lengths).unwrap(), [b"{\"a\": 1.0}", documents[1], documents[2]]);
    }
}

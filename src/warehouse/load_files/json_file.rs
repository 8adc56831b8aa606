//! JSON load files: one object with every column a line, what is missing as `null`, gzip.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;

use super::csv_file::{append_gzip, end_gzip};
use crate::destination::warehouse::Json;
use crate::event::json::push_string;
use crate::warehouse::failure::Failure;
use crate::warehouse::schema::TableSchema;

pub(super) struct JsonFile {
    path: PathBuf,
    writer: Option<GzEncoder<BufWriter<File>>>,
    line: Vec<u8>,
}

impl JsonFile {
    pub(super) fn new(path: &Path) -> JsonFile {
        JsonFile { path: path.to_owned(), writer: None, line: Vec::new() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) fn write(&mut self, columns: &TableSchema, cells: &[Option<Json<'_>>]) -> Result<(), Failure> {
        self.line.clear();
        let mut before = b'{';
        for (column, cell) in columns.keys().zip(cells) {
            self.line.push(before);
            push_string(&mut self.line, column);
            self.line.push(b':');
            match cell {
                Some(value) => value.write(&mut self.line),
                None => self.line.extend_from_slice(b"null"),
            }
            before = b',';
        }
        self.line.extend_from_slice(b"}\n");
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(append_gzip(&self.path)?),
        };
        writer.write_all(&self.line)?;
        Ok(())
    }

    pub(super) fn close(&mut self) -> Result<(), Failure> {
        match self.writer.take() {
            Some(writer) => end_gzip(writer),
            None => Ok(()),
        }
    }
}

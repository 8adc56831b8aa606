//! CSV load files: no header, `\n` at line ends, gzip. Closed files are opened again by another gzip member.

use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::row::text;
use crate::destination::warehouse::Json;
use crate::warehouse::failure::Failure;

/// A gzip file to which members are added.
pub(super) fn append_gzip(path: &Path) -> Result<GzEncoder<BufWriter<File>>, Failure> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(GzEncoder::new(BufWriter::new(file), Compression::fast()))
}

/// Ends the member and gives everything to the system.
pub(super) fn end_gzip(encoder: GzEncoder<BufWriter<File>>) -> Result<(), Failure> {
    encoder.finish()?.into_inner().map_err(|error| Failure::from(error.into_error()))?;
    Ok(())
}

pub(super) struct CsvFile {
    path: PathBuf,
    writer: Option<csv::Writer<GzEncoder<BufWriter<File>>>>,
}

impl CsvFile {
    pub(super) fn new(path: &Path) -> CsvFile {
        CsvFile { path: path.to_owned(), writer: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) fn write(&mut self, cells: &[Option<Json<'_>>]) -> Result<(), Failure> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => self.writer.insert(csv::Writer::from_writer(append_gzip(&self.path)?)),
        };
        for cell in cells {
            let field = cell.as_ref().map(text).unwrap_or_default();
            writer.write_field(&*field).map_err(|error| broken(&error))?;
        }
        writer.write_record(None::<&[u8]>).map_err(|error| broken(&error))
    }

    pub(super) fn close(&mut self) -> Result<(), Failure> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let encoder = writer.into_inner().map_err(|error| Failure::from(error.into_error()))?;
        end_gzip(encoder)
    }
}

fn broken(error: &csv::Error) -> Failure {
    match error.kind() {
        csv::ErrorKind::Io(error) => Failure::from(std::io::Error::new(error.kind(), error.to_string())),
        _ => Failure::refused(format!("cannot write a load file: {error}")),
    }
}

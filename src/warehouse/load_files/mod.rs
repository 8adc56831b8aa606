//! Staging files become load files: one file for each table of a group (warehouse.md 9).
//!
//! In: local copies of gzip files of JSON lines, the schema of the upload. Out: local files in the format of the
//! warehouse, with their rows counted. Memory is bounded by the longest line, by the open writers, and for Parquet by
//! a budget of rows that are not written yet.

mod csv_file;
pub mod grouping;
mod json_file;
mod parquet_file;
mod row;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::places::one_part;
use super::schema::{Schema, TableSchema, discards_table};
use crate::destination::warehouse::{Dialect, Json};
use csv_file::CsvFile;
use json_file::JsonFile;
use parquet_file::ParquetFile;
use row::{Line, Rows};

/// Writers of compressed files that are open at a time: each holds a compressor.
const OPEN_FILES: usize = 64;

/// Bytes of rows that wait for being written to Parquet files, over all tables.
const PARQUET_BUDGET: usize = 24 << 20;

/// The format of load files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// CSV without a header, gzip.
    Csv,
    /// JSON lines, gzip.
    Json,
    /// Parquet.
    Parquet,
}

impl Format {
    /// The format of a destination type.
    pub fn of_type(destination_type: &str) -> Format {
        match destination_type {
            "BQ" => Format::Json,
            "S3_DATALAKE" | "GCS_DATALAKE" | "AZURE_DATALAKE" | "LOCAL_DATALAKE" => Format::Parquet,
            _ => Format::Csv,
        }
    }

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Parquet => "parquet",
        }
    }

    /// The end of file names.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Csv => "csv.gz",
            Format::Json => "json.gz",
            Format::Parquet => "parquet",
        }
    }
}

/// What becomes load files.
#[derive(Clone, Debug)]
pub struct Job {
    /// Tables and columns of the upload.
    pub schema: Arc<Schema>,
    /// The format of the files.
    pub format: Format,
    /// Whose rules hold.
    pub dialect: Dialect,
    /// What `uuid_ts` is.
    pub loaded_at: Timestamp,
    /// Merge rules with long identifiers are discarded.
    pub checks_constraints: bool,
    /// Longest line of a staging file.
    pub longest_line: u64,
}

/// A finished file.
#[derive(Clone, Debug)]
pub struct Written {
    /// The table.
    pub table: String,
    /// The file.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// A row in the making: a cell for each column of the table, in order of names.
type Cells<'t> = Vec<Option<Json<'t>>>;

enum Writer {
    Csv(Box<CsvFile>),
    Json(Box<JsonFile>),
    Parquet(Box<ParquetFile>),
}

struct Table {
    writer: Writer,
    path: PathBuf,
    rows: u64,
}

struct Tables<'j> {
    job: &'j Job,
    folder: &'j Path,
    open: BTreeMap<String, Table>,
}

/// Writes the load files of a group into the folder. Blocks.
///
/// # Errors
/// A staging file cannot be read, or a file cannot be written.
pub fn write(job: &Job, staged: &[PathBuf], folder: &Path, stop: &CancellationToken) -> Result<Vec<Written>, Failure> {
    let mut tables = Tables { job, folder, open: BTreeMap::new() };
    let rows = Rows::new(job);
    let discards = discards_table(job.dialect);
    let mut line = Vec::new();
    for path in staged {
        let file = File::open(path)?;
        let mut reader = BufReader::with_capacity(64 << 10, MultiGzDecoder::new(BufReader::new(file)));
        loop {
            if stop.is_cancelled() {
                return Err(Failure::Stopped);
            }
            line.clear();
            let read = (&mut reader).take(job.longest_line.saturating_add(1)).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            if line.last() != Some(&b'\n') && u64::try_from(read).is_ok_and(|read| read > job.longest_line) {
                let message = "a line of a staging file is longer than Warehouse.maxStagingFileReadBufferCapacityInK";
                return Err(Failure::refused(message));
            }
            let Some(parsed) = std::str::from_utf8(&line).ok().and_then(Line::read) else { continue };
            let Some(columns) = job.schema.get(parsed.table()) else { continue };
            let converted = rows.convert(&parsed, columns);
            tables.write(parsed.table(), columns, converted.cells)?;
            if let (false, Some(columns)) = (converted.discards.is_empty(), job.schema.get(&discards)) {
                for discard in converted.discards {
                    tables.write(&discards, columns, rows.discard_cells(discard, columns))?;
                }
            }
        }
    }
    tables.finish()
}

impl Tables<'_> {
    fn write(&mut self, table: &str, columns: &TableSchema, cells: Cells<'_>) -> Result<(), Failure> {
        if !self.open.contains_key(table) {
            let number = self.open.len();
            let name = format!("{number}-{}.{}", short(&one_part(table)), self.job.format.extension());
            let path = self.folder.join(name);
            let writer = match self.job.format {
                Format::Csv => Writer::Csv(Box::new(CsvFile::new(&path))),
                Format::Json => Writer::Json(Box::new(JsonFile::new(&path))),
                Format::Parquet => Writer::Parquet(Box::new(ParquetFile::new(&path, columns)?)),
            };
            self.open.insert(table.to_owned(), Table { writer, path, rows: 0 });
        }
        self.make_room(table)?;
        let Some(open) = self.open.get_mut(table) else { return Ok(()) };
        open.rows += 1;
        match &mut open.writer {
            Writer::Csv(file) => file.write(&cells),
            Writer::Json(file) => file.write(columns, &cells),
            Writer::Parquet(file) => file.write(cells),
        }
    }

    /// Closes compressed files when too many are open, writes Parquet rows when too many wait.
    fn make_room(&mut self, wanted: &str) -> Result<(), Failure> {
        if self.job.format == Format::Parquet {
            let waiting: usize = self.open.values().map(Table::waiting_bytes).sum();
            if waiting > PARQUET_BUDGET {
                let mut by_size: Vec<&mut Table> = self.open.values_mut().collect();
                by_size.sort_by_key(|table| std::cmp::Reverse(table.waiting_bytes()));
                let half = by_size.len().div_ceil(2);
                for table in by_size.into_iter().take(half) {
                    table.flush()?;
                }
            }
            return Ok(());
        }
        let is_open = |table: &Table| match &table.writer {
            Writer::Csv(file) => file.is_open(),
            Writer::Json(file) => file.is_open(),
            Writer::Parquet(_) => false,
        };
        if self.open.get(wanted).is_some_and(is_open) {
            return Ok(());
        }
        if self.open.values().filter(|table| is_open(table)).count() >= OPEN_FILES {
            for table in self.open.values_mut() {
                table.flush()?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Written>, Failure> {
        let mut written = Vec::with_capacity(self.open.len());
        for (table, open) in self.open {
            let Table { writer, path, rows } = open;
            match writer {
                Writer::Csv(mut file) => file.close()?,
                Writer::Json(mut file) => file.close()?,
                Writer::Parquet(file) => file.finish()?,
            }
            let bytes = std::fs::metadata(&path)?.len();
            written.push(Written { table, path, rows, bytes });
        }
        Ok(written)
    }
}

impl Table {
    fn waiting_bytes(&self) -> usize {
        match &self.writer {
            Writer::Parquet(file) => file.waiting_bytes(),
            _ => 0,
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match &mut self.writer {
            Writer::Csv(file) => file.close(),
            Writer::Json(file) => file.close(),
            Writer::Parquet(file) => file.flush(),
        }
    }
}

/// File systems take names of 255 bytes.
fn short(name: &str) -> String {
    name.chars().take(48).collect()
}

#[cfg(test)]
mod tests;

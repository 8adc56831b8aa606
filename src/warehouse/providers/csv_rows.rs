//! Rows of CSV load files, for warehouses into which the node writes rows itself.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use flate2::read::MultiGzDecoder;

use crate::warehouse::failure::Failure;

/// A field; one that is empty but for blanks is no value.
pub(super) fn value(field: &[u8]) -> Option<&[u8]> {
    (!field.trim_ascii().is_empty()).then_some(field)
}

/// Shows every row of the files. Blocks.
///
/// # Errors
/// A file cannot be read, a row has a wrong number of fields, or `see` failed.
pub(super) fn visit(
    files: &[PathBuf],
    fields: usize,
    mut see: impl FnMut(&csv::ByteRecord) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut row = csv::ByteRecord::new();
    for path in files {
        let gzip = MultiGzDecoder::new(BufReader::new(File::open(path)?));
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(gzip);
        loop {
            let broken = |error: &csv::Error| Failure::refused(format!("cannot read a load file: {error}"));
            if !reader.read_byte_record(&mut row).map_err(|error| broken(&error))? {
                break;
            }
            if row.len() != fields {
                let message = format!("a row of a load file has {} fields instead of {fields}", row.len());
                return Err(Failure::refused(message));
            }
            see(&row)?;
        }
    }
    Ok(())
}

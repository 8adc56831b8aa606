//! A full read of every record with its checksum (`pintle store verify`).

use std::path::Path;

use super::{Family, Storage, StorageError};
use crate::settings::Settings;

/// What a full read found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Family name, records, bytes of keys and values.
    pub families: Vec<(String, u64, u64)>,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

/// Reads every record of a data directory. The node may run meanwhile; then the newest writes are not seen.
///
/// # Errors
/// When the store cannot be opened at all.
pub fn verify(directory: &Path) -> Result<VerifyReport, StorageError> {
    let storage = Storage::open_read_only(directory, &Settings::defaults().storage)?;
    let mut report = VerifyReport::default();
    for family in Family::ALL {
        let (mut records, mut bytes) = (0_u64, 0_u64);
        let mut scan = storage.scan(family, &[0x00], &[0xff; 32])?;
        loop {
            match scan.next_entry() {
                Ok(Some((key, value))) => {
                    records += 1;
                    bytes += (key.len() + value.len()) as u64;
                }
                Ok(None) => break,
                Err(error) => {
                    report.problems.push(error.to_string());
                    break;
                }
            }
        }
        report.families.push((family.name().to_owned(), records, bytes));
    }
    Ok(report)
}

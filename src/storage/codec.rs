//! How records become bytes: a version byte, then bincode 1.3.3 with `DefaultOptions` (varint, little-endian).
//!
//! The only place that names bincode (storage-design.md 5.1, 5.2). The free functions of that crate write
//! another format and must never be used.

use bincode::Options;
use serde::Serialize;
use serde::de::Deserialize;

use super::StorageError;

/// Version byte of every record so far.
pub const VERSION: u8 = 1;

/// Most bytes that decoding a record may ask for; bounds what damaged length fields can allocate.
const LIMIT: u64 = 320 << 20;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(LIMIT)
}

/// Appends version byte and record to `out`.
pub fn encode_into<T: Serialize>(out: &mut Vec<u8>, record: &T) {
    out.push(VERSION);
    // Writing to a vector cannot fail and the records hold nothing that bincode refuses; a record over the
    // limit is prevented by the bounds of a transaction.
    if let Err(error) = options().serialize_into(&mut *out, record) {
        tracing::error!(%error, "a record could not be encoded");
        debug_assert!(false, "a record could not be encoded: {error}");
    }
}

/// Version byte and record.
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_into(&mut out, record);
    out
}

/// Reads a record that takes the whole value.
///
/// # Errors
/// An unknown version, bytes missing or left over; `what` names the record in the message.
pub fn decode<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, StorageError> {
    let body = body_of(what, bytes)?;
    options()
        .deserialize(body)
        .map_err(|source| StorageError::Corrupt { what: what.to_owned(), reason: source.to_string() })
}

/// Reads a record that is followed by a raw tail, and returns it with the offset at which the tail begins.
///
/// # Errors
/// As [`decode`], but for bytes left over.
pub fn decode_head<'a, T: Deserialize<'a> + Serialize>(
    what: &str,
    bytes: &'a [u8],
) -> Result<(T, usize), StorageError> {
    let body = body_of(what, bytes)?;
    let corrupt = |source: bincode::Error| StorageError::Corrupt { what: what.to_owned(), reason: source.to_string() };
    let record: T = options().allow_trailing_bytes().deserialize(body).map_err(corrupt)?;
    let head = options().serialized_size(&record).map_err(corrupt)?;
    let head = usize::try_from(head).unwrap_or(usize::MAX);
    Ok((record, head.saturating_add(1)))
}

fn body_of<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a [u8], StorageError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => Ok(body),
        Some((version, _)) => Err(StorageError::Corrupt {
            what: what.to_owned(),
            reason: format!("record version {version} is unknown to this version of the software"),
        }),
        None => Err(StorageError::Corrupt { what: what.to_owned(), reason: "the value is empty".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_strings_and_options_have_the_documented_bytes() {
        let cases: [(Vec<u8>, &[u8]); 8] = [
            (encode(&250_u32), &[1, 0xfa]),
            (encode(&251_u32), &[1, 0xfb, 0xfb, 0x00]),
            (encode(&70_000_u32), &[1, 0xfc, 0x70, 0x11, 0x01, 0x00]),
            (encode(&1_i64), &[1, 0x02]),
            (encode(&-5_i64), &[1, 0x09]),
            (encode(&1_767_323_045_123_456_i64), &[1, 0xfd, 0x00, 0xab, 0x9d, 0xec, 0xbd, 0x8e, 0x0c, 0x00]),
            (encode(&"ab"), &[1, 0x02, 0x61, 0x62]),
            (encode(&Some(255_u8)), &[1, 0x01, 0xff]),
        ];
        for (encoded, expected) in cases {
            assert_eq!(encoded, expected);
        }
    }

    #[test]
    fn unknown_versions_and_leftover_bytes_are_errors() {
        assert!(decode::<u32>("test", &[2, 5]).is_err());
        assert!(decode::<u32>("test", &[1, 5, 5]).is_err());
        assert!(decode::<u32>("test", &[]).is_err());
        assert!(decode::<&str>("test", &[1, 0xfd, 255, 255, 255, 255, 255, 255, 255, 127]).is_err());
    }
}

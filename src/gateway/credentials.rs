//! Which source a request is from: HTTP Basic, the query, headers (gateway.md 3, security.md 3.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName};

use super::answer::Refusal;

/// Longest `Authorization` header that is looked at.
const LONGEST_HEADER: usize = 4096;

/// Bytes of user name and password that are decoded without allocation.
const USUAL_BYTES: usize = 256;

/// Uses the user name of HTTP Basic.
///
/// # Errors
/// There is no usable header, or the name is empty; or what `with` says.
pub(super) fn with_basic_user<T>(
    headers: &HeaderMap,
    with: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let header = headers.get(AUTHORIZATION).ok_or(Refusal::NoWriteKeyInHeader)?.as_bytes();
    parse_basic(header, with).ok_or(Refusal::NoWriteKeyInHeader)?
}

fn parse_basic<T>(header: &[u8], with: impl FnOnce(&str) -> T) -> Option<T> {
    if header.len() > LONGEST_HEADER {
        return None;
    }
    let (scheme, encoded) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut usual = [0; USUAL_BYTES];
    let mut long;
    let room = if base64::decoded_len_estimate(encoded.len()) <= USUAL_BYTES {
        &mut usual[..]
    } else {
        long = vec![0; base64::decoded_len_estimate(encoded.len())];
        &mut long[..]
    };
    let length = STANDARD.decode_slice(encoded, room).ok()?;
    let decoded = room.get(..length)?;
    let user = decoded.get(..memchr::memchr(b':', decoded)?)?;
    std::str::from_utf8(user).ok().filter(|user| !user.is_empty()).map(with)
}

/// The parameters of a query, decoded; a malformed escape stays as it is written.
pub(super) fn query_parameters(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    url::form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into_owned(), value.into_owned()))
}

/// The first `writeKey` of the query, when it is not empty.
///
/// # Errors
/// There is none.
pub(super) fn query_write_key(query: Option<&str>) -> Result<String, Refusal> {
    let found = query_parameters(query.unwrap_or_default()).find(|(name, _)| name == "writeKey");
    found.map(|(_, value)| value).filter(|value| !value.is_empty()).ok_or(Refusal::NoWriteKeyInQuery)
}

/// The text of a header; empty when it is absent.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> std::borrow::Cow<'a, str> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_name_of_basic_is_the_write_key() {
        for (header, user) in [
            ("Basic d2stanM6", Some("wk-js")),
            ("basic d2stanM6", Some("wk-js")),
            ("Basic d2stanM6d2hhdGV2ZXI=", Some("wk-js")),
            ("Basic Og==", None),
            ("Basic d2stanM=", None),
            ("Basic !!!", None),
            ("Basic", None),
            ("Bearer wk-js", None),
            ("", None),
        ] {
            assert_eq!(parse_basic(header.as_bytes(), str::to_owned).as_deref(), user, "{header}");
        }
        let long = format!("{}:", "k".repeat(1_000));
        let header = format!("Basic {}", STANDARD.encode(&long));
        assert_eq!(parse_basic(header.as_bytes(), str::to_owned), Some("k".repeat(1_000)));
        let longer = format!("Basic {}", STANDARD.encode(vec![b'a'; 100_000]));
        assert_eq!(parse_basic(longer.as_bytes(), str::to_owned), None);
    }

    #[test]
    fn the_query_key_is_the_first_one() {
        assert_eq!(query_write_key(Some("a=1&writeKey=wk%2Djs&writeKey=b")), Ok("wk-js".to_owned()));
        assert_eq!(query_write_key(Some("writeKey=")), Err(Refusal::NoWriteKeyInQuery));
        assert_eq!(query_write_key(None), Err(Refusal::NoWriteKeyInQuery));
    }
}

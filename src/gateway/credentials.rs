//! Which source a request is from: HTTP Basic, the query, headers (gateway.md 3, security.md 3.1).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap};

use super::answer::Refusal;

/// Longest `Authorization` header that is looked at.
const LONGEST_HEADER: usize = 4096;

/// The user name of HTTP Basic.
///
/// # Errors
/// There is no usable header, or the name is empty.
pub(super) fn basic_user(headers: &HeaderMap) -> Result<String, Refusal> {
    let header = headers.get(AUTHORIZATION).ok_or(Refusal::NoWriteKeyInHeader)?.as_bytes();
    parse_basic(header).ok_or(Refusal::NoWriteKeyInHeader)
}

fn parse_basic(header: &[u8]) -> Option<String> {
    if header.len() > LONGEST_HEADER {
        return None;
    }
    let (scheme, encoded) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let mut decoded = STANDARD.decode(encoded).ok()?;
    let colon = memchr::memchr(b':', &decoded)?;
    decoded.truncate(colon);
    String::from_utf8(decoded).ok().filter(|user| !user.is_empty())
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
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> std::borrow::Cow<'a, str> {
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
            assert_eq!(parse_basic(header.as_bytes()).as_deref(), user, "{header}");
        }
        let long = format!("Basic {}", STANDARD.encode(vec![b'a'; 100_000]));
        assert_eq!(parse_basic(long.as_bytes()), None);
    }

    #[test]
    fn the_query_key_is_the_first_one() {
        assert_eq!(query_write_key(Some("a=1&writeKey=wk%2Djs&writeKey=b")), Ok("wk-js".to_owned()));
        assert_eq!(query_write_key(Some("writeKey=")), Err(Refusal::NoWriteKeyInQuery));
        assert_eq!(query_write_key(None), Err(Refusal::NoWriteKeyInQuery));
    }
}

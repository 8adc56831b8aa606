//! From a stored payload to an HTTP request (router.md 6.1 to 6.3).
//!
//! The payload is the `REST` object of a destination transformation. It is read as slices: a JSON body goes out as
//! it was stored, byte for byte. What cannot be sent gets the code and text that the job is judged by.
//!
//! Per event this allocates the header map, the URL and the small maps of the object's members; never the body.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::Write as _;

use base64::Engine as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, Url};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error_response::ErrorAt;
use super::events;
use super::status_table::UNDECODABLE;

/// Formats of a body, in the order in which the first non-empty one is taken.
const FORMATS: [&str; 5] = ["JSON", "JSON_ARRAY", "XML", "FORM", "GZIP"];

/// Headers that only the client may set: they say where a request goes and where it ends.
const FRAMING: [&str; 9] =
    ["connection", "content-length", "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// How this node names itself to destinations.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The `User-Agent` of requests that bring none.
    pub user_agent: String,
    /// The value of `X-Rudder-Instance-Id`; `None` = not sent.
    pub instance_id: Option<String>,
}

/// A request ready to be sent.
#[derive(Clone, Debug)]
pub struct WireRequest {
    /// Its method.
    pub method: Method,
    /// Where it goes, query included.
    pub url: Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, if any.
    pub body: Option<Bytes>,
    /// A label of the endpoint, for rate limits only.
    pub endpoint_path: String,
    /// The endpoint named a user, who is in `Authorization` now.
    pub had_user_info: bool,
}

/// What a payload comes to.
#[derive(Clone, Debug)]
pub enum Wire {
    /// A request.
    Send(Box<WireRequest>),
    /// Nothing to send, which counts as sent.
    Nothing,
    /// A payload that cannot be sent.
    Refused {
        /// The code that judges the job.
        code: i32,
        /// The text that is stored.
        text: String,
        /// Where it went wrong.
        at: ErrorAt,
    },
}

impl Wire {
    fn refused(code: i32, text: impl Into<String>) -> Wire {
        Wire::Refused { code, text: text.into(), at: ErrorAt::Delivery }
    }
}

/// The members of a JSON object, in stored order, values as slices.
#[derive(Debug, Default)]
struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

/// The name of a member; a slice unless it is escaped.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(entry) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push(entry);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(serde::Deserialize)]
struct PostParameters<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    endpoint: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "endpointPath")]
    endpoint_path: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    headers: Option<Members<'a>>,
    #[serde(borrow, default)]
    params: Option<Members<'a>>,
    #[serde(borrow, default)]
    body: Option<Members<'a>>,
    #[serde(borrow, default)]
    files: Option<Members<'a>>,
}

/// Turns a stored payload into what goes over the wire.
pub fn read(payload: &Bytes, identity: &Identity) -> Wire {
    let parsed = if payload.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<PostParameters<'_>>(payload).map_err(|error| error.to_string())
    } else {
        Err("a request must be an object".to_owned())
    };
    let post = match parsed {
        Ok(post) => post,
        Err(error) => {
            let text = format!("transformer response unmarshal error: {error}");
            return Wire::Refused { code: UNDECODABLE, text, at: ErrorAt::Transformation };
        }
    };
    let has_files = post.files.is_some_and(|files| !files.0.is_empty());
    if post.kind.as_deref() != Some("REST") || has_files {
        return Wire::Nothing;
    }
    let (body, is_gzip) = match body_bytes(payload, &post.body.unwrap_or_default()) {
        Ok(body) => body,
        Err((code, text)) => return Wire::refused(code, text),
    };
    let method_name = post.method.as_deref().filter(|method| !method.is_empty()).unwrap_or("GET");
    let endpoint = post.endpoint.as_deref().unwrap_or_default();
    let cannot_construct = || {
        let text = format!("400 Unable to construct \"{method_name}\" request for URL : \"{endpoint}\"");
        Wire::refused(400, text)
    };
    let Ok(method) = Method::from_bytes(method_name.as_bytes()) else {
        return cannot_construct();
    };
    let params = texts(&post.params.unwrap_or_default());
    let Some(mut url) = url_of(endpoint, &params) else {
        return cannot_construct();
    };
    let Some(mut headers) = header_map(&post.headers.unwrap_or_default(), identity) else {
        return cannot_construct();
    };
    if is_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let had_user_info = move_user_info(&mut url, &mut headers);
    let endpoint_path = post.endpoint_path.map(Cow::into_owned).unwrap_or_default();
    Wire::Send(Box::new(WireRequest { method, url, headers, body, endpoint_path, had_user_info }))
}

/// The bytes of the first non-empty format, and whether they are gzipped.
fn body_bytes(payload: &Bytes, body: &Members<'_>) -> Result<(Option<Bytes>, bool), (i32, String)> {
    let find = |format: &str| body.0.iter().rev().find(|(name, _)| name.0 == format);
    let known = FORMATS.iter().filter_map(|format| find(format));
    let unknown = body.0.iter().filter(|(name, _)| !FORMATS.contains(&name.0.as_ref()));
    for (format, value) in known.chain(unknown) {
        let Some(inside) = value.get().strip_prefix('{') else {
            return Err((500, "500 Invalid Router Payload: body value must be a map".to_owned()));
        };
        if inside.trim_start().starts_with('}') {
            continue;
        }
        let json_list = || (400, "400 Unable to parse json list. Unexpected transformer response".to_owned());
        let bytes = match format.0.as_ref() {
            "JSON" => payload.slice_ref(value.get().as_bytes()),
            "JSON_ARRAY" => Bytes::from(text_member(value, "batch").ok_or_else(json_list)?),
            "XML" => Bytes::from(text_member(value, "payload").ok_or_else(|| {
                (400, "400 Unable to construct xml payload. Unexpected transformer response".to_owned())
            })?),
            "FORM" => Bytes::from(form(value)),
            "GZIP" => {
                let text = text_member(value, "payload").ok_or_else(json_list)?;
                let zipped =
                    gzip(text.as_bytes()).map_err(|error| (500, format!("500 Unable to compress: {error}")))?;
                return Ok((Some(Bytes::from(zipped)), true));
            }
            other => {
                let text = format!("500 Invalid Router Payload: body format must be a map found format {other}");
                return Err((500, text));
            }
        };
        return Ok((Some(bytes), false));
    }
    Ok((None, false))
}

/// The string member of an object.
fn text_member(object: &RawValue, name: &str) -> Option<String> {
    let members: Members<'_> = serde_json::from_str(object.get()).ok()?;
    let (_, value) = members.0.into_iter().rev().find(|(key, _)| key.0 == name)?;
    serde_json::from_str(value.get()).ok()
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn form(object: &RawValue) -> String {
    let members: Members<'_> = serde_json::from_str(object.get()).unwrap_or_default();
    let sorted: BTreeMap<String, String> = texts(&members).into_iter().collect();
    let pairs = sorted.iter().map(|(name, text)| (name.as_bytes(), text.as_bytes()));
    encode_pairs(pairs)
}

/// Every member as plain text; members that are null are left out, the last of equal names wins.
fn texts(members: &Members<'_>) -> Vec<(String, String)> {
    let mut texts: Vec<(String, String)> = Vec::with_capacity(members.0.len());
    for (name, value) in &members.0 {
        if let Some(text) = plain_text(value.get()) {
            texts.push((name.0.to_string(), text));
        }
    }
    if texts.len() > 1 {
        let last: BTreeMap<String, String> = texts.into_iter().collect();
        texts = last.into_iter().collect();
    }
    texts
}

/// A JSON value as query strings, forms and headers show it; `None` for null.
pub fn plain_text(json: &str) -> Option<String> {
    match json.as_bytes().first() {
        Some(b'"') => Some(serde_json::from_str(json).unwrap_or_else(|_| json.trim_matches('"').to_owned())),
        Some(b'n') => None,
        Some(b'{' | b'[') => Some(compact(json)),
        Some(b'-' | b'0'..=b'9') => Some(plain_number(json)),
        _ => Some(json.to_owned()),
    }
}

/// Whole numbers keep every digit, others lose their exponent and trailing zeros.
fn plain_number(json: &str) -> String {
    if !json.contains(['.', 'e', 'E']) {
        return json.to_owned();
    }
    json.parse::<f64>()
        .ok()
        .filter(|number| number.is_finite())
        .map_or_else(|| json.to_owned(), |number| number.to_string())
}

/// JSON without blanks between its tokens.
fn compact(json: &str) -> String {
    let mut in_string = false;
    let mut escaped = false;
    json.chars()
        .filter(|c| {
            let keep = in_string || !c.is_ascii_whitespace();
            if in_string && !escaped && *c == '\\' {
                escaped = true;
            } else {
                if *c == '"' && !escaped {
                    in_string = !in_string;
                }
                escaped = false;
            }
            keep
        })
        .collect()
}

/// Endpoints that a thread remembers.
const ENDPOINTS: usize = 8;

thread_local! {
    /// Parsed endpoints: a destination has one or few, and parsing one takes as long as reading the rest.
    static PARSED: RefCell<VecDeque<(String, Url)>> = const { RefCell::new(VecDeque::new()) };
}

/// [`url_with_query`], remembered for endpoints without parameters.
fn url_of(endpoint: &str, params: &[(String, String)]) -> Option<Url> {
    if !params.is_empty() {
        return url_with_query(endpoint, params);
    }
    PARSED.with_borrow_mut(|parsed| {
        if let Some((_, url)) = parsed.iter().find(|(known, _)| known == endpoint) {
            return Some(url.clone());
        }
        let url = url_with_query(endpoint, params)?;
        parsed.truncate(ENDPOINTS - 1);
        parsed.push_front((endpoint.to_owned(), url.clone()));
        Some(url)
    })
}

/// The endpoint with its own query and the parameters, encoded anew and sorted by key.
fn url_with_query(endpoint: &str, params: &[(String, String)]) -> Option<Url> {
    let mut url =
        Url::parse(endpoint.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = url.query().map(decode_pairs).unwrap_or_default();
    pairs.extend(params.iter().map(|(name, text)| (name.as_bytes().to_vec(), text.as_bytes().to_vec())));
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    set_query(&mut url, &pairs);
    url.set_fragment(None);
    Some(url)
}

/// Removes the pairs of the query that `unwanted` chooses by name and text.
pub fn remove_from_query(url: &mut Url, unwanted: impl Fn(&[u8], &[u8]) -> bool) {
    let mut pairs = url.query().map(decode_pairs).unwrap_or_default();
    pairs.retain(|(name, text)| !unwanted(name, text));
    set_query(url, &pairs);
}

fn set_query(url: &mut Url, pairs: &[(Vec<u8>, Vec<u8>)]) {
    let query = encode_pairs(pairs.iter().map(|(name, text)| (name.as_slice(), text.as_slice())));
    url.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
}

fn decode_pairs(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).collect::<Vec<u8>>()
    };
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    pieces
        .map(|piece| {
            let (name, text) = piece.split_once('=').unwrap_or((piece, ""));
            (decode(name), decode(text))
        })
        .collect()
}

fn encode_pairs<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut encoded = String::new();
    for (name, text) in pairs {
        if !encoded.is_empty() {
            encoded.push('&');
        }
        encode_into(&mut encoded, name);
        encoded.push('=');
        encode_into(&mut encoded, text);
    }
    encoded
}

/// Letters, digits and `-_.~` stay, a blank becomes `+`, everything else `%XX`.
fn encode_into(encoded: &mut String, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(*byte)),
            b' ' => encoded.push('+'),
            _ => encoded.push_str(percent_encoding::percent_encode_byte(*byte)),
        }
    }
}

fn header_map(members: &Members<'_>, identity: &Identity) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(members.0.len() + 3);
    for (name, value) in &members.0 {
        let Some(text) = plain_text(value.get()) else {
            continue;
        };
        let name = HeaderName::from_bytes(name.0.trim().as_bytes()).ok()?;
        if FRAMING.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            events::framing_header_dropped();
            continue;
        }
        headers.insert(name, HeaderValue::from_bytes(text.trim().as_bytes()).ok()?);
    }
    if !headers.contains_key(USER_AGENT) {
        headers.insert(USER_AGENT, HeaderValue::from_str(&identity.user_agent).ok()?);
    }
    if let Some(instance_id) = &identity.instance_id {
        headers.insert(HeaderName::from_static("x-rudder-instance-id"), HeaderValue::from_str(instance_id).ok()?);
    }
    Some(headers)
}

/// `https://user:password@host` becomes a basic `Authorization`, unless the headers bring one. Whether it was so.
fn move_user_info(url: &mut Url, headers: &mut HeaderMap) -> bool {
    if url.username().is_empty() && url.password().is_none() {
        return false;
    }
    let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let mut credentials = decode(url.username());
    credentials.push(b':');
    credentials.extend(decode(url.password().unwrap_or_default()));
    let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials));
    if let Ok(value) = HeaderValue::from_str(&basic)
        && !headers.contains_key(AUTHORIZATION)
    {
        headers.insert(AUTHORIZATION, value);
    }
    // Neither call fails on a URL that has a host.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        tracing::debug!("the user part of an endpoint could not be removed");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { user_agent: "RudderLabs".to_owned(), instance_id: None }
    }

    fn send(payload: &str) -> WireRequest {
        match read(&Bytes::copy_from_slice(payload.as_bytes()), &identity()) {
            Wire::Send(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(payload: &str) -> (i32, String) {
        match read(&Bytes::copy_from_slice(payload.as_bytes()), &identity()) {
            Wire::Send(request) => panic!("{request:?}"),
            Wire::Nothing => (200, String::new()),
            Wire::Refused { code, text, .. } => (code, text),
        }
    }

    fn body_of(body: &str) -> String {
        let request = send(&format!(r#"{{"type":"REST","method":"POST","endpoint":"http://h.test/","body":{body}}}"#));
        String::from_utf8(request.body.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn a_json_body_goes_out_as_it_was_stored() {
        let body = r#"{"n":12345678901234567890,"f":1.50,"z":1,"a":{"b":[1, 2]}}"#;
        assert_eq!(body_of(&format!(r#"{{"XML":{{}},"JSON":{body}}}"#)), body);
        assert!(send(r#"{"type":"REST","endpoint":"http://h.test"}"#).body.is_none());
    }

    #[test]
    fn other_formats_are_built_from_their_members() {
        assert_eq!(body_of(r#"{"JSON_ARRAY":{"batch":"[1]"}}"#), "[1]");
        assert_eq!(body_of(r#"{"XML":{"payload":"<a/>"}}"#), "<a/>");
        assert_eq!(
            body_of(r#"{"FORM":{"b":"2 3","a":"é*~","c":true,"d":1e6,"e":null,"f":{"x": [1]}}}"#),
            "a=%C3%A9%2A~&b=2+3&c=true&d=1000000&f=%7B%22x%22%3A%5B1%5D%7D"
        );
        let request = send(r#"{"type":"REST","endpoint":"http://h.test","body":{"GZIP":{"payload":"text"}}}"#);
        assert_eq!(request.headers.get("content-encoding").unwrap(), "gzip");
        let mut text = String::new();
        let body = request.body.unwrap();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
        assert_eq!(text, "text");
    }

    #[test]
    fn the_query_is_encoded_anew_and_sorted() {
        let url = |endpoint: &str, params: &str| {
            send(&format!(r#"{{"type":"REST","endpoint":"{endpoint}","params":{params}}}"#)).url.to_string()
        };
        assert_eq!(
            url(
                "https://h.test/p?b=2&b=1&x",
                r#"{"a":"x y","n":null,"b":3.0,"l":[1, "2"],"big":12345678901234567890}"#
            ),
            "https://h.test/p?a=x+y&b=2&b=1&b=3&big=12345678901234567890&l=%5B1%2C%222%22%5D&x="
        );
        assert_eq!(url("http://h.test/p#part", "{}"), "http://h.test/p");
    }

    #[test]
    fn headers_meet_without_case_and_the_agent_can_be_replaced() {
        let request = send(
            r#"{"type":"REST","endpoint":"http://u:p%40@h.test/","headers":{"X-A":"1","x-a":"2","User-Agent":"own/1","n":5}}"#,
        );
        assert_eq!(request.headers.get("x-a").unwrap(), "2");
        assert_eq!(request.headers.get("n").unwrap(), "5");
        assert_eq!(request.headers.get("user-agent").unwrap(), "own/1");
        assert_eq!(request.headers.get("authorization").unwrap(), "Basic dTpwQA==");
        assert_eq!(request.url.as_str(), "http://h.test/");
        assert_eq!(
            send(r#"{"type":"REST","endpoint":"http://h.test/"}"#).headers.get("user-agent").unwrap(),
            "RudderLabs"
        );
    }

    #[test]
    fn what_cannot_be_sent_gets_its_code_and_text() {
        for (payload, code, text) in [
            (r#"{"type":"GRAPHQL"}"#, 200, ""),
            (r#"{"type":"REST","files":{"f":"x"}}"#, 200, ""),
            (r#"{"type":"REST","body":{"JSON":null}}"#, 500, "500 Invalid Router Payload: body value must be a map"),
            (
                r#"{"type":"REST","body":{"YAML":{"a":1}}}"#,
                500,
                "500 Invalid Router Payload: body format must be a map found format YAML",
            ),
            (
                r#"{"type":"REST","body":{"XML":{"payload":1}}}"#,
                400,
                "400 Unable to construct xml payload. Unexpected transformer response",
            ),
            (
                r#"{"type":"REST","method":"POST","endpoint":"/x"}"#,
                400,
                r#"400 Unable to construct "POST" request for URL : "/x""#,
            ),
            (
                r#"{"type":"REST","method":"A B","endpoint":"http://h"}"#,
                400,
                r#"400 Unable to construct "A B" request for URL : "http://h""#,
            ),
        ] {
            assert_eq!(refusal(payload), (code, text.to_owned()), "{payload}");
        }
        for payload in ["[]", "5", "", r#"{"type":5}"#, r#"{"headers":[]}"#, "{"] {
            let (code, text) = refusal(payload);
            assert_eq!(code, 599, "{payload}");
            assert!(text.starts_with("transformer response unmarshal error: "), "{text}");
        }
    }

    #[test]
    fn numbers_print_plainly() {
        for (json, text) in
            [("1e6", "1000000"), ("12.50", "12.5"), ("-0.1", "-0.1"), ("1.0", "1"), ("007", "007"), ("1e999", "1e999")]
        {
            assert_eq!(plain_text(json).unwrap(), text, "{json}");
        }
    }
}

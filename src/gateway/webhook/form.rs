//! Bodies of HTML forms: URL-encoded and multipart (gateway.md 10.3, security.md 2.1).

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use multer::Multipart;
use serde_json::{Value, json};

use super::description::{Values, canonical, collect};

/// Most parts of a multipart body.
const MOST_PARTS: usize = 100;
/// Most bytes of one part's headers.
const LONGEST_HEADERS: usize = 4096;

/// Which kind of form the body is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Form,
    Multipart,
}

/// The fields of an URL-encoded body.
///
/// # Errors
/// A broken escape, or a semicolon where `&` belongs.
pub(super) fn url_encoded(body: &[u8]) -> Result<Values, Broken> {
    let mut escapes = body.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    let is_whole = |at: usize| {
        let digits = body.get(at + 1..at + 3).unwrap_or_default();
        digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)
    };
    if body.contains(&b';') || !escapes.all(|(at, _)| is_whole(at)) {
        return Err(Broken::Form);
    }
    let fields = url::form_urlencoded::parse(body);
    Ok(collect(fields.map(|(name, value)| (name.into_owned(), value.into_owned()))))
}

/// `{"Value": {name: [text]}, "File": {name: [{Filename, Header, Size}]}}`. Contents of files are not kept.
///
/// # Errors
/// No multipart body, or one beyond the limits.
pub(super) async fn multipart(content_type: &str, body: &[u8]) -> Result<Value, Broken> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| Broken::Multipart)?;
    let body = Bytes::copy_from_slice(body);
    let whole = futures_util::stream::once(async move { Ok::<_, Infallible>(body) });
    let mut parts = Multipart::new(whole, boundary);
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut files: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut count = 0;
    while let Some(part) = parts.next_field().await.map_err(|_| Broken::Multipart)? {
        count += 1;
        let header_bytes: usize =
            part.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        if count > MOST_PARTS || header_bytes > LONGEST_HEADERS {
            return Err(Broken::Multipart);
        }
        let name = part.name().map(str::to_owned).filter(|name| !name.is_empty());
        let file_name = part.file_name().map(str::to_owned);
        let mut headers = Values::new();
        for (name, value) in part.headers() {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            headers.entry(canonical(name)).or_default().push(text);
        }
        let content = part.bytes().await.map_err(|_| Broken::Multipart)?;
        let Some(name) = name else { continue };
        match file_name {
            Some(file_name) => {
                let file = json!({"Filename": file_name, "Header": headers, "Size": content.len()});
                files.entry(name).or_default().push(file);
            }
            None => values.entry(name).or_default().push(json!(String::from_utf8_lossy(&content))),
        }
    }
    Ok(json!({"Value": values, "File": files}))
}

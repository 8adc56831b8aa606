//! Signatures of calls to AWS.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Keys, as they are configured, found or assumed.
#[derive(Clone)]
pub struct Keys {
    /// Which key.
    pub id: String,
    /// What proves it.
    pub secret: String,
    /// The session that the keys belong to.
    pub token: Option<String>,
}

/// The headers of a signed `POST`: its own and those of the signature. `time` counts from the epoch.
///
/// # Errors
/// What cannot be signed, or is no header.
pub fn signed_headers(
    keys: &Keys,
    (region, service): (&str, &str),
    time: Duration,
    url: &Url,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<HeaderMap, String> {
    let text = |error: &dyn Display| error.to_string();
    let identity = Credentials::new(&keys.id, &keys.secret, keys.token.clone(), None, "configuration").into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::UNIX_EPOCH + time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| text(&error))?
        .into();
    let signable = SignableRequest::new("POST", url.as_str(), headers.iter().copied(), SignableBody::Bytes(body))
        .map_err(|error| text(&error))?;
    let (signature, _) = sign(signable, &parameters).map_err(|error| text(&error))?.into_parts();
    let mut all = HeaderMap::new();
    for (name, value) in headers.iter().copied().chain(signature.headers()) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| text(&error))?;
        all.insert(name, HeaderValue::from_str(value).map_err(|error| text(&error))?);
    }
    Ok(all)
}

//! Cross-origin rules of every path, outermost (gateway.md 2.1): origins are echoed, also on errors, because
//! a browser hides an answer without these headers from the SDK, which would then retry for ever.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, StatusCode};

use super::answer::{self, Answer};

const TRUE: HeaderValue = HeaderValue::from_static("true");

/// The answer to a preflight, when the request is one. It needs no credentials and works for every path.
pub(super) fn preflight(method: &Method, headers: &HeaderMap) -> Option<Answer> {
    let requested = headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|value| !value.is_empty())?;
    if *method != Method::OPTIONS {
        return None;
    }
    let mut answer = answer::empty(StatusCode::NO_CONTENT);
    let out = answer.headers_mut();
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
    out.insert(VARY, HeaderValue::from_static(vary));
    let granted = matches!(requested.as_bytes(), b"GET" | b"POST" | b"HEAD" | b"OPTIONS");
    if let (Some(origin), true) = (origin(headers), granted) {
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        out.insert(ACCESS_CONTROL_ALLOW_METHODS, requested.clone());
        if let Some(names) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|value| !value.is_empty()) {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        out.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("900"));
    }
    Some(answer)
}

/// The origin of a request that gets the headers of an ordinary answer.
pub(super) fn granted_origin(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let granted = matches!(*method, Method::GET | Method::POST | Method::HEAD);
    origin(headers).filter(|_| granted).cloned()
}

/// Puts the headers of an ordinary answer.
pub(super) fn decorate(answer: &mut Answer, origin: Option<HeaderValue>) {
    let out = answer.headers_mut();
    out.insert(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        out.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
}

fn origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(ORIGIN).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_preflight_echoes_what_it_grants() {
        let asked = headers(&[
            ("origin", "https://shop.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "anonymousid,authorization"),
        ]);
        let answer = preflight(&Method::OPTIONS, &asked).unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let value = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(value("access-control-allow-origin").as_deref(), Some("https://shop.example"));
        assert_eq!(value("access-control-allow-methods").as_deref(), Some("POST"));
        assert_eq!(value("access-control-allow-headers").as_deref(), Some("anonymousid,authorization"));
        assert_eq!(value("access-control-allow-credentials").as_deref(), Some("true"));
        assert_eq!(value("access-control-max-age").as_deref(), Some("900"));
    }

    #[test]
    fn a_method_that_is_not_offered_gets_no_grant() {
        let asked = headers(&[("origin", "https://shop.example"), ("access-control-request-method", "DELETE")]);
        let answer = preflight(&Method::OPTIONS, &asked).unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        assert!(answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
        assert!(answer.headers().get(VARY).is_some());
    }

    #[test]
    fn other_requests_are_no_preflight() {
        let asked = headers(&[("access-control-request-method", "POST")]);
        assert!(preflight(&Method::POST, &asked).is_none());
        assert!(preflight(&Method::OPTIONS, &headers(&[("origin", "x")])).is_none());
        assert!(granted_origin(&Method::PUT, &headers(&[("origin", "x")])).is_none());
        assert!(granted_origin(&Method::GET, &headers(&[("origin", "x")])).is_some());
    }
}

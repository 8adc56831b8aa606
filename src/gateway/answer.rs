//! Every answer that refuses something, as one table (gateway.md 4), and the form of answers (gateway.md 2).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};

/// An answer with its whole body.
pub(super) type Answer = Response<Full<Bytes>>;

/// Content type of every answer that is not JSON, HTML or an image.
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Content type of `/health` and `/version`.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Seconds after which a client should try again: short, because queues empty fast and SDKs hold their batch.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Why a request is refused. SDKs read the exact texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    NotFound,
    NoWriteKeyInHeader,
    NoWriteKeyInQuery,
    InvalidWriteKey,
    SourceDisabled,
    BodyUnreadable,
    TooLarge,
    InvalidJson,
    EmptyBatch,
    NotAnEvent,
    NoIdentity,
    NoSourceId,
    InvalidSourceId,
    InvalidReplaySource,
    NoDestinationId,
    InvalidDestinationId,
    DestinationDisabled,
    StoreTimeout,
    Unavailable,
    TooManyRequests,
    NoDatabase,
    NoRunId,
    NoStatus,
    NotCompleted,
    NotSupported,
    InvalidPage,
    NoSourceConfig,
    RateLimited { retry_after: u8 },
    BrokenForm,
    BrokenMultipart,
    SourceTransformer,
    TransformerFormat,
    TransformerError,
    NoOutput,
    OutputFormat,
    OutputJson,
}

impl Refusal {
    /// The text of the body, without its line end.
    pub(super) fn message(self) -> &'static str {
        self.row().1
    }

    /// The status.
    pub(super) fn status(self) -> StatusCode {
        self.row().0
    }

    /// The whole table.
    fn row(self) -> (StatusCode, &'static str) {
        match self {
            Refusal::NotFound => (StatusCode::NOT_FOUND, "404 page not found"),
            Refusal::NoWriteKeyInHeader => (StatusCode::UNAUTHORIZED, "failed to read writekey from header"),
            Refusal::NoWriteKeyInQuery => (StatusCode::UNAUTHORIZED, "failed to read writekey from query params"),
            Refusal::InvalidWriteKey => (StatusCode::UNAUTHORIZED, "invalid write key"),
            Refusal::SourceDisabled => (StatusCode::NOT_FOUND, "source is disabled"),
            // The client's network, not its data: a 4xx would make SDKs drop the batch.
            Refusal::BodyUnreadable => (StatusCode::INTERNAL_SERVER_ERROR, "failed to read body from request"),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "request size exceeds max limit"),
            Refusal::InvalidJson => (StatusCode::BAD_REQUEST, "invalid json"),
            Refusal::EmptyBatch => (StatusCode::BAD_REQUEST, "empty batch payload"),
            Refusal::NotAnEvent => (StatusCode::BAD_REQUEST, "event is not a valid rudder event"),
            Refusal::NoIdentity => (StatusCode::BAD_REQUEST, "request neither has anonymousId nor userId"),
            Refusal::NoSourceId => (StatusCode::UNAUTHORIZED, "failed to read source id from header"),
            Refusal::InvalidSourceId => (StatusCode::UNAUTHORIZED, "invalid source id"),
            Refusal::InvalidReplaySource => (StatusCode::UNAUTHORIZED, "invalid replay source"),
            Refusal::NoDestinationId => (StatusCode::BAD_REQUEST, "failed to read destination id from header"),
            Refusal::InvalidDestinationId => (StatusCode::BAD_REQUEST, "invalid destination id"),
            Refusal::DestinationDisabled => (StatusCode::NOT_FOUND, "destination is disabled"),
            Refusal::StoreTimeout => (StatusCode::GATEWAY_TIMEOUT, "gateway timeout"),
            Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "service unavailable"),
            Refusal::TooManyRequests => (StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
            Refusal::NoRunId => (StatusCode::BAD_REQUEST, "job_run_id not found"),
            Refusal::NoStatus => (StatusCode::NOT_FOUND, "status not found"),
            Refusal::NotCompleted => (StatusCode::BAD_REQUEST, "source not completed"),
            Refusal::NotSupported => (StatusCode::BAD_REQUEST, "rsources: operation not supported"),
            Refusal::InvalidPage => (StatusCode::BAD_REQUEST, "rsources: invalid pagination token"),
            // Not the 401 of events: some SDKs give up at once only on 400 (clients.md 5).
            Refusal::NoSourceConfig => (StatusCode::BAD_REQUEST, "invalid write key"),
            Refusal::NoDatabase => (StatusCode::SERVICE_UNAVAILABLE, "Cannot connect to db"),
            Refusal::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "max requests limit reached"),
            Refusal::BrokenForm => (StatusCode::BAD_REQUEST, "error during parsing form"),
            Refusal::BrokenMultipart => (StatusCode::BAD_REQUEST, "error during parsing multiform"),
            Refusal::SourceTransformer => (StatusCode::BAD_REQUEST, "internal server error in source transformer"),
            Refusal::TransformerFormat => {
                (StatusCode::INTERNAL_SERVER_ERROR, "invalid format of source transformer response")
            }
            Refusal::TransformerError => {
                (StatusCode::INTERNAL_SERVER_ERROR, "failed to read error from source transformer response")
            }
            Refusal::NoOutput => (StatusCode::INTERNAL_SERVER_ERROR, "output not found in source transformer response"),
            Refusal::OutputFormat => {
                (StatusCode::INTERNAL_SERVER_ERROR, "invalid output format in source transformer response")
            }
            Refusal::OutputJson => {
                (StatusCode::INTERNAL_SERVER_ERROR, "invalid output json in source transformer response")
            }
        }
    }

    /// The answer.
    pub(super) fn answer(self) -> Answer {
        let mut answer = refused(self.status(), self.message());
        if let Refusal::RateLimited { retry_after } = self {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(u16::from(retry_after)));
        }
        answer
    }
}

/// The answer that refuses something with a text, given without its line end.
pub(super) fn refused(status: StatusCode, message: &str) -> Answer {
    let mut body = String::with_capacity(64);
    body.push_str(message);
    body.push('\n');
    let mut answer = with_body(status, TEXT, body);
    let headers = answer.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    answer
}

/// An answer with a body.
pub(super) fn with_body(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// Everything was stored.
pub(super) fn ok() -> Answer {
    with_body(StatusCode::OK, TEXT, Bytes::from_static(b"ok"))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

/// The path exists, the method does not.
pub(super) fn method_not_allowed(allowed: &[&'static str]) -> Answer {
    let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
    for method in allowed {
        answer.headers_mut().append(ALLOW, HeaderValue::from_static(method));
    }
    answer
}

/// Says that the connection ends behind this answer.
pub(super) fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

//! A small S3 server for tests: buckets, objects, multipart uploads, listings, and refusals on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

/// What the server does with the next puts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes them.
    #[default]
    Kind,
    /// Answers 403.
    Denying,
    /// Takes them and answers 500, as when an answer gets lost.
    Forgetful,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) buckets: BTreeSet<String>,
    /// `bucket/key` to content.
    pub(crate) objects: BTreeMap<String, Vec<u8>>,
    parts: BTreeMap<u32, Vec<u8>>,
    pub(crate) mood: Mood,
    /// Objects put, as often as they were.
    pub(crate) puts: usize,
    /// Headers of the last put.
    pub(crate) last_encryption: Option<String>,
}

pub(crate) struct FakeS3 {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) host: String,
}

impl FakeS3 {
    /// Starts a server; it ends with the test's runtime.
    pub(crate) async fn start(buckets: &[&str]) -> FakeS3 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().buckets = buckets.iter().map(|&bucket| bucket.to_owned()).collect();
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&served);
                let service = service_fn(move |request| answer(Arc::clone(&state), request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        FakeS3 { state, host }
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let path = percent_encoding::percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
    let path = path.trim_matches('/');
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let mut state = state.lock();
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    if head.method == Method::PUT && key.is_empty() {
        state.buckets.insert(bucket.to_owned());
        return Ok(reply(200, ""));
    }
    if !state.buckets.contains(bucket) {
        return Ok(reply(404, "<Error><Code>NoSuchBucket</Code><Message>no such bucket</Message></Error>"));
    }
    let response = match (&head.method, query.get("partNumber")) {
        (&Method::PUT, Some(number)) => {
            state.parts.insert(number.parse().unwrap(), body);
            reply(200, "")
        }
        (&Method::PUT, None) => put(&mut state, path, body, &head.headers),
        (&Method::POST, _) if query.contains_key("uploads") => {
            reply(200, "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>")
        }
        (&Method::POST, _) if query.contains_key("delete") => {
            let text = String::from_utf8_lossy(&body);
            let mut deleted = String::new();
            for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
                state.objects.remove(&format!("{bucket}/{key}"));
                deleted.push_str(&["<Deleted><Key>", key, "</Key></Deleted>"].concat());
            }
            reply(200, &format!("<DeleteResult>{deleted}</DeleteResult>"))
        }
        (&Method::POST, _) => {
            let whole = std::mem::take(&mut state.parts).into_values().flatten().collect();
            put(&mut state, path, whole, &head.headers);
            reply(200, "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>")
        }
        (&Method::HEAD, _) => match state.objects.get(path) {
            Some(object) => {
                let builder = Response::builder().header("content-length", object.len()).header("etag", "\"e\"");
                builder.header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT").body(Full::default()).unwrap()
            }
            None => reply(404, ""),
        },
        (&Method::GET, _) if !key.is_empty() => match state.objects.get(path) {
            Some(object) => {
                let builder = Response::builder().header("etag", "\"e\"");
                let builder = builder.header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT");
                builder.body(Full::new(Bytes::from(object.clone()))).unwrap()
            }
            None => reply(404, ""),
        },
        (&Method::GET, _) => {
            let below = format!("{bucket}/{}", query.get("prefix").map_or("", String::as_str));
            let mut entries = String::new();
            for (name, object) in state.objects.iter().filter(|(name, _)| name.starts_with(&below)) {
                let (key, size) = (name.split_once('/').unwrap().1, object.len());
                let entry = ["<Contents><Key>", key, "</Key><Size>", &size.to_string(), "</Size>"].concat();
                entries.push_str(&entry);
                entries.push_str("<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>");
            }
            reply(200, &format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"))
        }
        _ => reply(405, ""),
    };
    Ok(response)
}

fn put(state: &mut State, path: &str, body: Vec<u8>, headers: &hyper::HeaderMap) -> Response<Full<Bytes>> {
    if state.mood == Mood::Denying {
        return reply(403, "<Error><Code>AccessDenied</Code><Message>denied</Message></Error>");
    }
    let header = headers.get("x-amz-server-side-encryption").and_then(|value| value.to_str().ok());
    state.last_encryption = header.map(str::to_owned);
    state.objects.insert(path.to_owned(), body);
    state.puts += 1;
    if state.mood == Mood::Forgetful { reply(500, "<Error><Code>InternalError</Code></Error>") } else { reply(200, "") }
}

fn reply(status: u16, body: &str) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header("etag", "\"e\"");
    builder.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

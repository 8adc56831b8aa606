//! The router's call: jobs whose transformation waited until their delivery (router.md 5.3, processor.md 9.3).

use std::time::Duration;

use bytes::Bytes;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::answer::shortened;
use super::body::DestinationText;
use super::client::{Call, Fault};
use super::remote::Remote;
use super::repeat::{Sense, sense};

/// Tries when the transformer cannot be connected to.
const ATTEMPTS: usize = 30;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);
/// Code of jobs whose transformation is to be tried again.
const AGAIN: i32 = 500;
const HEADERS: [(&str, &str); 3] =
    [("X-Feature-Gzip-Support", "?1"), ("X-Feature-Filter-Code", "?1"), ("X-Content-Format", "json+compactedv1")];

/// A job that is to be transformed.
#[derive(Clone, Debug)]
pub struct RoutedJob<'a> {
    /// Its id, also in `metadata`.
    pub job_id: u64,
    /// The event, a JSON text.
    pub message: &'a str,
    /// What is told of it.
    pub metadata: Value,
    /// Where it goes.
    pub destination: &'a DestinationText,
}

/// What became of one or more jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedAnswer {
    /// The jobs.
    pub job_ids: Vec<u64>,
    /// 200 or 0: deliver; 298: filtered; 299: nothing to deliver; else they failed with this code.
    pub code: i32,
    /// Why not.
    pub error: String,
    /// The delivery request, or a list of them, a JSON text.
    pub request: String,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, rename = "batchedRequest", default)]
    request: Option<&'a RawValue>,
    #[serde(default)]
    metadata: Vec<Metadata>,
    #[serde(rename = "statusCode", default)]
    code: i32,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(rename = "jobId")]
    job_id: u64,
}

#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow)]
    output: Vec<Written<'a>>,
}

impl Remote {
    /// Has jobs of one type transformed: raw events, or with `is_batch` deliveries that are to be joined. What comes
    /// back names every job exactly once, also when the transformer failed.
    pub async fn route(&self, kind: &str, jobs: &[RoutedJob<'_>], is_batch: bool) -> Vec<RoutedAnswer> {
        match self.ask_for_routed(kind, jobs, is_batch).await {
            Ok(answers) => answers,
            Err((code, error)) => vec![RoutedAnswer {
                job_ids: jobs.iter().map(|job| job.job_id).collect(),
                code,
                error,
                request: String::new(),
            }],
        }
    }

    async fn ask_for_routed(
        &self,
        kind: &str,
        jobs: &[RoutedJob<'_>],
        is_batch: bool,
    ) -> Result<Vec<RoutedAnswer>, (i32, String)> {
        let settings = self.settings();
        let settings = &settings.transformer;
        let Some(base) = &settings.destination_url else {
            return Err((404, format!("transformer for {kind} not available")));
        };
        let url = format!("{base}/{}", if is_batch { "batch" } else { "routerTransform" });
        let is_compacted = self.features().await.is_some_and(|features| features.takes_compacted);
        let body = Bytes::from(body(kind, jobs, is_compacted));
        let headers = if is_compacted { &HEADERS[..] } else { &HEADERS[..2] };
        let mut attempts = 1;
        let answer = loop {
            let call = Call {
                url: &url,
                headers,
                body: body.clone(),
                timeout: settings.router_timeout,
                max_bytes: settings.max_response_bytes,
            };
            match self.client.post(call).await {
                Ok(answer) => break answer,
                Err(Fault::Unreachable | Fault::CutOff) if attempts < ATTEMPTS => {
                    attempts += 1;
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                }
                Err(fault) => return Err((AGAIN, format!("transformer request failed: {fault}"))),
            }
        };
        if answer.status != StatusCode::OK {
            let code = if answer.status == StatusCode::NOT_FOUND { 404 } else { AGAIN };
            return Err((code, shortened(&String::from_utf8_lossy(&answer.body))));
        }
        if sense(answer.status, &answer.headers) != Sense::Good {
            return Err((AGAIN, "transformer speaks another version: header apiVersion is not 2".to_owned()));
        }
        read(&answer.body, jobs, is_batch).map_err(|error| (AGAIN, error))
    }
}

fn body(kind: &str, jobs: &[RoutedJob<'_>], is_compacted: bool) -> Vec<u8> {
    let mut out = b"{\"input\":[".to_vec();
    for (at, job) in jobs.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"message\":");
        out.extend_from_slice(job.message.as_bytes());
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(job.metadata.to_string().as_bytes());
        if !is_compacted {
            out.extend_from_slice(b",\"destination\":");
            out.extend_from_slice(job.destination.destination().as_bytes());
            out.extend_from_slice(b",\"connection\":");
            out.extend_from_slice(job.destination.connection().as_bytes());
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"destType\":");
    out.extend_from_slice(Value::from(kind.to_lowercase()).to_string().as_bytes());
    if is_compacted {
        let shared = |key: fn(&DestinationText) -> (String, &str)| {
            let mut members: Vec<(String, &str)> = Vec::new();
            for job in jobs {
                let member = key(job.destination);
                if !members.iter().any(|(known, _)| *known == member.0) {
                    members.push(member);
                }
            }
            let written: Vec<String> =
                members.iter().map(|(key, text)| format!("{}:{text}", Value::from(key.as_str()))).collect();
            format!("{{{}}}", written.join(","))
        };
        out.extend_from_slice(b",\"destinations\":");
        out.extend_from_slice(shared(|text| (text.id().to_owned(), text.destination())).as_bytes());
        out.extend_from_slice(b",\"connections\":");
        out.extend_from_slice(shared(|text| (text.connection_key(), text.connection())).as_bytes());
    }
    out.push(b'}');
    out
}

/// Reads an answer, which must name the jobs that were asked about and no other.
fn read(body: &[u8], jobs: &[RoutedJob<'_>], is_batch: bool) -> Result<Vec<RoutedAnswer>, String> {
    let written = if is_batch {
        serde_json::from_slice(body)
    } else {
        serde_json::from_slice(body).map(|wrapped: Wrapped<'_>| wrapped.output)
    };
    let written = written.map_err(|error| format!("transformer's answer is not as agreed: {error}"))?;
    let mut named: Vec<u64> = Vec::with_capacity(jobs.len());
    let mut answers = Vec::with_capacity(written.len());
    for item in written {
        if item.metadata.is_empty() {
            return Err("transformer's answer has a result of no job".to_owned());
        }
        let job_ids: Vec<u64> = item.metadata.iter().map(|metadata| metadata.job_id).collect();
        named.extend_from_slice(&job_ids);
        answers.push(RoutedAnswer {
            job_ids,
            code: item.code,
            error: shortened(&item.error.unwrap_or_default()),
            request: item.request.map(|request| request.get().to_owned()).unwrap_or_default(),
        });
    }
    let mut asked: Vec<u64> = jobs.iter().map(|job| job.job_id).collect();
    asked.sort_unstable();
    named.sort_unstable();
    if asked == named {
        Ok(answers)
    } else {
        Err("transformer's answer does not name the jobs that it was asked about".to_owned())
    }
}

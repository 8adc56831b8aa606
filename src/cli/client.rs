//! The other end of the admin socket.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::failure::{FAILED, Failure};
use crate::admin;
use crate::settings::Settings;

/// Longest wait for an ordinary answer.
pub(super) const SOON: Duration = Duration::from_secs(35);
/// Longest wait for a snapshot, whose files are all read.
pub(super) const LONG: Duration = Duration::from_secs(3_600);

/// Asks the running node.
#[derive(Debug)]
pub(super) struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// The node of these settings.
    pub(super) fn of(settings: &Settings) -> AdminClient {
        AdminClient { socket: admin::socket_path(settings) }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None, SOON)
    }

    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &Value, wait: Duration) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body), wait)
    }

    /// Posts what is answered without JSON.
    pub(super) fn tell(&self, path: &str, body: &Value) -> Result<(), Failure> {
        let (status, bytes) = self.exchange(Method::POST, path, Some(body), SOON)?;
        if status.is_success() { Ok(()) } else { Err(refusal(status, &bytes)) }
    }

    pub(super) fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::DELETE, path, None, SOON)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<T, Failure> {
        let (status, bytes) = self.exchange(method, path, body, wait)?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                Failure::new(
                    FAILED,
                    format!("the answer of the node is not understood: {error}"),
                    "use the version of pintle that the node runs",
                )
            });
        }
        Err(refusal(status, &bytes))
    }

    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        wait: Duration,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(FAILED, format!("cannot start: {error}"), ""))?;
        let asked = runtime.block_on(async { tokio::time::timeout(wait, self.converse(method, path, body)).await });
        asked.map_err(|_| {
            Failure::new(FAILED, format!("the node did not answer within {} s", wait.as_secs()), "see its log")
        })?
    }

    async fn converse(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(StatusCode, Bytes), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let broken = |error: hyper::Error| Failure::new(FAILED, format!("the node broke off: {error}"), "see its log");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let conversation = tokio::spawn(connection);
        let text = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(text)))
            .map_err(|error| Failure::new(FAILED, format!("{path:?} is not a path: {error}"), ""))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        conversation.abort();
        Ok((status, bytes))
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::PermissionDenied => Failure::new(
                FAILED,
                format!("{socket} may not be used by this user"),
                "use `sudo -u pintle`, or join the group pintle",
            ),
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure {
                no_node: true,
                ..Failure::new(
                    FAILED,
                    format!("no node answers on {socket}"),
                    "start it with `systemctl start pintle` or `pintle run`, or name its --data-dir",
                )
            },
            _ => Failure::new(FAILED, format!("cannot reach the node on {socket}: {error}"), ""),
        }
    }
}

/// What an error answer of the admin API says.
fn refusal(status: StatusCode, bytes: &[u8]) -> Failure {
    let body: Value = serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("error") {
        "" => Failure::new(FAILED, format!("the node answered {status}"), "see its log"),
        problem => Failure::new(FAILED, problem, text("hint")),
    }
}

/// One segment of a path, so that an id with a slash cannot name another route.
pub(super) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_carry_their_hint() {
        let failure = refusal(StatusCode::NOT_FOUND, br#"{"error":"no such thing","hint":"look elsewhere"}"#);
        assert_eq!(failure.lines, ["no such thing; look elsewhere"]);
        assert_eq!(
            refusal(StatusCode::BAD_GATEWAY, b"<html>").lines,
            ["the node answered 502 Bad Gateway; see its log"]
        );
    }

    #[test]
    fn an_absent_node_is_told_apart_from_a_refusal() {
        let client = AdminClient { socket: PathBuf::from("/nowhere/admin.sock") };
        let failure = client.get::<Value>("/v1/status").unwrap_err();
        assert!(failure.no_node);
        assert!(failure.lines[0].contains("pintle run"));
    }
}

//! A transformer for tests that answers what it is told to, call by call.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it answers.
#[derive(Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: &'static str,
    pub(super) body: String,
    /// Before the answer.
    pub(super) pause: Duration,
}

/// What it was asked: path, head in lower case, body.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) head: String,
    pub(super) body: Value,
}

pub(super) struct Stub {
    pub(super) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// As agreed.
pub(super) fn good(body: impl Into<String>) -> Reply {
    Reply { status: 200, headers: "apiVersion: 2\r\n", body: body.into(), pause: Duration::ZERO }
}

/// A status with a text.
pub(super) fn status(status: u16, body: &str) -> Reply {
    Reply { status, headers: "", body: body.to_owned(), pause: Duration::ZERO }
}

impl Stub {
    /// Answers by the number of earlier calls and by what it is asked.
    pub(super) async fn start(answer: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answer, remembered) = (Arc::new(answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&remembered));
                tokio::spawn(async move {
                    let _ended = serve(connection, &*answer, &asked).await;
                });
            }
        });
        Stub { url, asked }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut connection: TcpStream,
    answer: &(dyn Fn(usize, &Asked) -> Reply + Send + Sync),
    asked: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if connection.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let path = String::from_utf8_lossy(&read[..end]).split(' ').nth(1).unwrap_or_default().to_owned();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |length| length.trim().parse().unwrap());
        while read.len() < end + length {
            if connection.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        let body = serde_json::from_slice(&read[end..end + length]).unwrap_or_default();
        read.drain(..end + length);
        let now = Asked { path, head, body };
        let reply = {
            let mut asked = asked.lock().unwrap();
            asked.push(now.clone());
            let earlier = asked.iter().filter(|other| other.path == now.path).count() - 1;
            answer(earlier, &now)
        };
        tokio::time::sleep(reply.pause).await;
        let Reply { status, headers, body, .. } = reply;
        let answer = format!("HTTP/1.1 {status} Stub\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(answer.as_bytes()).await?;
    }
}

//! HTTP/1.1 as the generator and the sink read it: heads found in a buffer, bodies by `Content-Length`.
//!
//! Hand-written because both ends must cost little beside the server under test; anything unusual
//! (chunked bodies, folded headers) is an error, not a guess.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest head that is read.
const MAX_HEAD: usize = 64 << 10;

/// A message whose head is complete.
pub struct Message {
    /// Bytes of the head, with its empty line.
    pub head: usize,
    /// Bytes of the body.
    pub body: usize,
}

/// The first message of the buffer; `None` while its head is incomplete.
pub fn message(buffer: &[u8]) -> Result<Option<Message>> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        if buffer.len() > MAX_HEAD {
            bail!("a head of more than {MAX_HEAD} bytes");
        }
        return Ok(None);
    };
    let head = &buffer[..end + 2];
    let mut body = 0;
    let mut rest = head;
    while let Some(line_end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..line_end];
        rest = &rest[line_end + 1..];
        if let Some(value) = header_value(line, b"content-length:") {
            body = value.parse().with_context(|| format!("Content-Length {value:?}"))?;
        } else if header_value(line, b"transfer-encoding:").is_some() {
            bail!("chunked bodies are not read here");
        }
    }
    Ok(Some(Message { head: end + 4, body }))
}

fn header_value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a str> {
    if line.len() < name.len() || !line[..name.len()].eq_ignore_ascii_case(name) {
        return None;
    }
    std::str::from_utf8(&line[name.len()..]).ok().map(str::trim)
}

/// The status of a response's head.
pub fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

/// The method and target of a request's head.
pub fn request_line(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    Some((words.next()?, words.next()?))
}

/// One blocking GET over TCP: for figures asked now and then, never for load.
pub fn get(address: SocketAddr, target: &str) -> Result<Vec<u8>> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    exchange(stream, target).with_context(|| format!("GET http://{address}{target}"))
}

/// The same over a unix socket.
pub fn get_unix(socket: &Path, target: &str) -> Result<Vec<u8>> {
    let stream = std::os::unix::net::UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    exchange(stream, target).with_context(|| format!("GET {target} at {}", socket.display()))
}

fn exchange(mut stream: impl Read + Write, target: &str) -> Result<Vec<u8>> {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        if let Some(found) = message(&answer)?
            && answer.len() >= found.head + found.body
        {
            let code = status(&answer).unwrap_or(0);
            if code != 200 {
                bail!("answered {code}: {}", String::from_utf8_lossy(&answer[found.head..]).trim());
            }
            answer.truncate(found.head + found.body);
            answer.drain(..found.head);
            return Ok(answer);
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            bail!("the connection ended in the middle of an answer");
        }
        answer.extend_from_slice(&chunk[..read]);
    }
}

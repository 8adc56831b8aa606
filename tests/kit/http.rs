//! A small HTTP/1.1 client over one kept-alive connection, so that a test sees exactly what is on the wire.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one server.
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of the header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str())
    }
}

/// The `Authorization` value of an SDK with this write key.
pub fn basic_auth(write_key: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{write_key}:")))
}

impl Client {
    /// A client that connects with its first request.
    pub fn new(address: SocketAddr) -> Client {
        Client { address, connection: None }
    }

    /// Posts a JSON body to an event route.
    pub fn post(&mut self, path: &str, write_key: &str, body: &str) -> io::Result<Answer> {
        let headers = [("authorization", basic_auth(write_key)), ("content-type", "application/json".to_owned())];
        self.request("POST", path, &headers, Some(body.as_bytes()))
    }

    /// Fetches a path.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path, &[], None)
    }

    /// One request and its answer. The connection is dropped after any error.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        for (name, value) in headers {
            request.extend([*name, ": ", value, "\r\n"]);
        }
        if let Some(body) = body {
            request.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        self.raw(&bytes)
    }

    /// Sends these bytes as they are and reads one answer.
    pub fn raw(&mut self, request: &[u8]) -> io::Result<Answer> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(self.address)?),
        };
        let result = connection.get_mut().write_all(request).and_then(|()| read_answer(connection));
        let closes = result.as_ref().is_ok_and(|answer| answer.header("connection") == Some("close"));
        if result.is_err() || closes {
            self.connection = None;
        }
        result
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn read_answer(connection: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let status_line = read_line(connection)?;
    let status = status_line
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a status line: {status_line}")))?;
    let headers = read_headers(connection)?;
    let body = read_body(connection, &headers)?;
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// One line without its end; an end of stream before it is an error.
pub(super) fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The header lines up to the empty one, names in lower case.
pub(super) fn read_headers(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            return Ok(headers);
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// The body that these headers announce: by length or in chunks; none otherwise.
pub(super) fn read_body(from: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let header = |name: &str| headers.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str());
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(read_line(from)?.trim(), 16)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if size == 0 {
                read_headers(from)?;
                return Ok(body);
            }
            let begun = body.len();
            body.resize(begun + size, 0);
            from.read_exact(&mut body[begun..])?;
            read_line(from)?;
        }
    }
    let length = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    Ok(body)
}

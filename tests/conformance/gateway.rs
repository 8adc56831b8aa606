//! The vectors of the ingest port: requests in file order against one fresh node (gateway.md 15).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::report::CaseResult;

/// How long the node may take to open its port.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Runs the cases; without a node all of them fail.
pub fn run(cases: &[Value], dir: &Path) -> Vec<CaseResult> {
    let started = tempfile::tempdir().map_err(|error| error.to_string()).and_then(|data| Node::start(dir, data));
    let judge = |case: &Value| match &started {
        Ok(node) => judge(node.address, case),
        Err(problem) => Err(format!("no node: {problem}")),
    };
    cases
        .iter()
        .map(|case| {
            let verdict = judge(case);
            CaseResult {
                id: text(case, "name").to_owned(),
                by: case.get("requires").and_then(Value::as_str).unwrap_or("routes").to_owned(),
                passed: verdict.is_ok(),
                detail: verdict.err().unwrap_or_default(),
            }
        })
        .collect()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A running node, ended when dropped.
struct Node {
    process: Child,
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Node {
    fn start(dir: &Path, data: tempfile::TempDir) -> Result<Node, String> {
        let workspace = dir.join("gateway-workspaceConfig.json");
        let socket = data.path().join("admin.sock");
        let log = std::fs::File::create(data.path().join("log")).map_err(|error| error.to_string())?;
        let folder = data.path().join("data");
        std::fs::create_dir(&folder).map_err(|error| error.to_string())?;
        let process = Command::new(env!("CARGO_BIN_EXE_pintle"))
            .args(["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(&folder)
            .arg("--workspace")
            .arg(&workspace)
            .arg("--admin-socket")
            .arg(&socket)
            .env("RSERVER_BACKEND_CONFIG_CONFIG_FROM_FILE", "true")
            .env("RSERVER_BACKEND_CONFIG_CONFIG_JSONPATH", &workspace)
            .env("RSERVER_GATEWAY_INTERNAL_ENDPOINTS_ENABLED", "true")
            .env("PINTLE_STORAGE_ALLOW_UNSAFE_FS", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut node = Node { process, address: SocketAddr::from(([0, 0, 0, 0], 0)), _data: data };
        let deadline = Instant::now() + START_LIMIT;
        let addresses = folder.join("tmp").join("addresses.json");
        loop {
            if let Some(address) = std::fs::read(&addresses).ok().and_then(|bytes| gateway_address(&bytes)) {
                node.address = address;
                return Ok(node);
            }
            let exited = node.process.try_wait().map_err(|error| error.to_string())?;
            if exited.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(node._data.path().join("log")).unwrap_or_default();
                let last = log.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
                return Err(format!("it wrote no addresses.json (exit {exited:?}): {last}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn gateway_address(bytes: &[u8]) -> Option<SocketAddr> {
    let addresses: Value = serde_json::from_slice(bytes).ok()?;
    addresses.get("gateway")?.get(0)?.as_str()?.parse().ok()
}

/// An answer as it came.
struct Answer {
    status: u64,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

fn judge(address: SocketAddr, case: &Value) -> Result<(), String> {
    let answer = send(address, case)?;
    let body = String::from_utf8_lossy(&answer.body);
    let shown: String = body.chars().take(200).collect();
    let expected = case.get("expect_status").and_then(Value::as_u64).ok_or("the case names no status")?;
    if answer.status != expected {
        return Err(format!("status {} instead of {expected}: {shown:?}", answer.status));
    }
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {shown:?}")) };
    if let Some(exact) = case.get("expect_body").and_then(Value::as_str) {
        check(body == exact, "another body")?;
    }
    if let Some(encoded) = case.get("expect_body_base64").and_then(Value::as_str) {
        check(STANDARD.decode(encoded).is_ok_and(|bytes| bytes == answer.body), "other bytes")?;
    }
    let parts = match case.get("expect_body_contains") {
        Some(Value::Array(parts)) => parts.clone(),
        Some(part) => vec![part.clone()],
        None => Vec::new(),
    };
    for part in parts {
        let part = part.as_str().ok_or("expect_body_contains holds no text")?;
        check(body.contains(part), &format!("the body lacks {part:?}"))?;
    }
    if let Some(part) = case.get("expect_body_not_contains").and_then(Value::as_str) {
        check(!body.contains(part), &format!("the body holds {part:?}"))?;
    }
    if let Some(expected) = case.get("expect_body_json") {
        let given: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {shown:?}"))?;
        check(holds(&given, expected), "other members")?;
    }
    let headers = case.get("expect_headers").and_then(Value::as_object);
    for (name, expected) in headers.into_iter().flatten() {
        let given = answer.headers.get(&name.to_ascii_lowercase()).map(String::as_str);
        if given != expected.as_str() {
            return Err(format!("header {name} is {given:?} instead of {expected}"));
        }
    }
    Ok(())
}

/// Every listed member is equal; in members of members likewise.
fn holds(given: &Value, expected: &Value) -> bool {
    match expected {
        Value::Object(members) => {
            members.iter().all(|(name, member)| given.get(name).is_some_and(|given| holds(given, member)))
        }
        other => given == other,
    }
}

fn body(case: &Value) -> Result<Option<Vec<u8>>, String> {
    let bytes_of = |value: &Value| match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    };
    if let Some(encoded) = case.get("body_base64").and_then(Value::as_str) {
        return STANDARD.decode(encoded).map(Some).map_err(|error| error.to_string());
    }
    if let Some(plain) = case.get("body_gzip_of") {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&bytes_of(plain)).map_err(|error| error.to_string())?;
        return encoder.finish().map(Some).map_err(|error| error.to_string());
    }
    if let Some(repeat) = case.get("body_repeat") {
        let times = repeat.get("times").and_then(Value::as_u64).and_then(|times| usize::try_from(times).ok());
        let unit = text(repeat, "unit").repeat(times.ok_or("body_repeat names no times")?);
        return Ok(Some([text(repeat, "prefix"), &unit, text(repeat, "suffix")].concat().into_bytes()));
    }
    Ok(case.get("body").filter(|body| !body.is_null()).map(bytes_of))
}

fn send(address: SocketAddr, case: &Value) -> Result<Answer, String> {
    let mut head = format!("{} {} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n", text(case, "method"), text(case, "path"));
    for (name, value) in case.get("headers").and_then(Value::as_object).into_iter().flatten() {
        head.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap_or_default()));
    }
    let body = body(case)?;
    if body.is_some() || text(case, "method") == "POST" {
        head.push_str(&format!("Content-Length: {}\r\n", body.as_ref().map_or(0, Vec::len)));
    }
    head.push_str("\r\n");
    let request = [head.into_bytes(), body.unwrap_or_default()].concat();
    exchange(address, &request).map_err(|error| error.to_string()).and_then(|bytes| parse(&bytes))
}

fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    // A request may be refused before all of it is written; the answer is there all the same.
    let written = stream.write_all(request);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        written?;
        read?;
    }
    Ok(answer)
}

fn parse(bytes: &[u8]) -> Result<Answer, String> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n").ok_or("no whole answer came")?;
    let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let body = bytes.get(end + 4..).unwrap_or_default().to_vec();
    Ok(Answer { status: status.ok_or("the answer has no status")?, headers, body })
}

//! Real object storage servers on free ports, and what is in them: S3 (moto), Azure Blob (azurite), Google
//! (gcp-storage-emulator), as `tests/setup` installed them.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{missing_tool, tools, wait_until};

/// Longest wait for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The account that azurite has from the start, and its published key.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Starts the Google emulator.
const GOOGLE_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/gcs.py");
/// The bucket or container of the tests.
pub const BUCKET: &str = "kit-bucket";

/// A protocol with its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// S3.
    S3,
    /// Azure Blob.
    Azure,
    /// Google Cloud Storage.
    Google,
}

/// A running server. Killed when dropped.
pub struct ObjectServer {
    storage: Storage,
    address: SocketAddr,
    process: Child,
}

impl ObjectServer {
    /// Starts the server of this protocol. Panics where it is not installed.
    pub fn start(storage: Storage) -> ObjectServer {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound listener has an address");
        drop(free);
        let port = address.port().to_string();
        let (tool, arguments) = match storage {
            Storage::S3 => ("servers/bin/moto_server", vec!["-H", "127.0.0.1", "-p", &port]),
            Storage::Azure => (
                "node-servers/node_modules/.bin/azurite-blob",
                vec![
                    "--inMemoryPersistence",
                    "--disableTelemetry",
                    "--skipApiVersionCheck",
                    "--blobHost",
                    "127.0.0.1",
                    "--blobPort",
                    &port,
                ],
            ),
            Storage::Google => ("servers/bin/python", vec![GOOGLE_SCRIPT, &port, BUCKET]),
        };
        assert_eq!(missing_tool(tool), None);
        let process = Command::new(tools().expect("just looked at").join(tool))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = ObjectServer { storage, address, process };
        wait_until("the storage listens", START_LIMIT, || TcpStream::connect(address).is_ok());
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Type and config of a destination that reaches the bucket through this address.
    pub fn destination(&self, through: SocketAddr) -> (&'static str, Value) {
        match self.storage {
            Storage::S3 => (
                "MINIO",
                json!({
                    "bucketName": BUCKET, "endPoint": through.to_string(), "prefix": "kit", "useSSL": false,
                    "accessKeyID": "key", "secretAccessKey": "secret",
                }),
            ),
            Storage::Azure => (
                "AZURE_BLOB",
                json!({
                    "containerName": BUCKET, "endPoint": through.to_string(), "prefix": "kit", "disableSSL": true,
                    "forcePathStyle": true, "accountName": ACCOUNT, "accountKey": KEY,
                }),
            ),
            Storage::Google => {
                ("GCS", json!({ "bucketName": BUCKET, "endPoint": format!("http://{through}"), "prefix": "kit" }))
            }
        }
    }

    /// Every event in the bucket, by message id, with how often it is there.
    pub fn message_ids(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for key in self.keys() {
            let object = self.object(&key);
            let mut text = String::new();
            flate2::read::MultiGzDecoder::new(&*object)
                .read_to_string(&mut text)
                .unwrap_or_else(|error| panic!("{key} is not a whole gzip file: {error}"));
            assert!(text.ends_with('\n'), "{key}: the last line has no end");
            for line in text.lines() {
                let event: Value = serde_json::from_str(line).expect("a line is JSON");
                *found.entry(event["messageId"].as_str().expect("an id").to_owned()).or_default() += 1;
            }
        }
        found
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        match self.storage {
            Storage::S3 => {
                let page = self.get(&format!("/{BUCKET}"), "list-type=2&max-keys=1000");
                between(&page, "<Key>", "</Key>")
            }
            Storage::Azure => {
                let page = self.get(&format!("/{ACCOUNT}/{BUCKET}"), "comp=list&restype=container");
                between(&page, "<Name>", "</Name>")
            }
            Storage::Google => {
                let page = self.get(&format!("/storage/v1/b/{BUCKET}/o"), "");
                let page: Value = serde_json::from_slice(&page).unwrap_or_default();
                let items = page["items"].as_array().cloned().unwrap_or_default();
                items.iter().filter_map(|item| item["name"].as_str().map(str::to_owned)).collect()
            }
        }
    }

    fn object(&self, key: &str) -> Vec<u8> {
        match self.storage {
            Storage::Azure => self.get(&format!("/{ACCOUNT}/{BUCKET}/{key}"), ""),
            Storage::S3 | Storage::Google => self.get(&format!("/{BUCKET}/{key}"), ""),
        }
    }

    fn get(&self, path: &str, query: &str) -> Vec<u8> {
        let mark = if query.is_empty() { "" } else { "?" };
        let mut command = Command::new("curl");
        command.arg("-s").arg(format!("http://{}{path}{mark}{query}", self.address));
        if self.storage == Storage::S3 {
            // It wants to know who asks, and believes every signature.
            let scope = "Credential=key/20240101/us-east-1/s3/aws4_request";
            let signed = format!("Authorization: AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=none");
            command.arg("-H").arg(signed);
        }
        if self.storage == Storage::Azure {
            for header in azure_headers(path, query) {
                command.arg("-H").arg(header);
            }
        }
        command.output().expect("curl runs").stdout
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The headers of a signed request. The query is sorted by name.
fn azure_headers(path: &str, query: &str) -> Vec<String> {
    // Any recent date does: this server does not compare it with its own.
    let date = "Tue, 24 Nov 2026 12:00:00 GMT";
    let version = "2021-08-06";
    let absent = "\n".repeat(11);
    let asked: String = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .fold(String::new(), |text, pair| text + "\n" + pair.0 + ":" + pair.1);
    let text = format!("GET\n{absent}x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}{path}{asked}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).expect("the key is base64"));
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    vec![
        format!("x-ms-date: {date}"),
        format!("x-ms-version: {version}"),
        format!("Authorization: SharedKey {ACCOUNT}:{signature}"),
    ]
}

fn between(page: &[u8], start: &str, end: &str) -> Vec<String> {
    let page = String::from_utf8_lossy(page);
    page.split(start).skip(1).filter_map(|rest| rest.split(end).next().map(str::to_owned)).collect()
}

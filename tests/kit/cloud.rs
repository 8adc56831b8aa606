//! A fake cloud API: gives out tokens to who proves to be a service account, answers as a test says, and remembers
//! what it was asked.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::http::{read_body, read_headers, read_line};

/// A request that came.
#[derive(Clone, Debug)]
pub struct Call {
    /// Path and query.
    pub path: String,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Call {
    /// The value of a header, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(present, _)| present == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

type Answer = dyn Fn(&Call) -> (u16, String) + Send + Sync;

/// A running fake. Its thread ends with the test process.
pub struct Cloud {
    address: SocketAddr,
    key: Arc<RsaKeyPair>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Cloud {
    /// Starts one. Calls for tokens are answered here, the others as told.
    pub fn start(answer: impl Fn(&Call) -> (u16, String) + Send + Sync + 'static) -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let key = Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let (its_key, remembered) = (Arc::clone(&key), Arc::clone(&calls));
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (answer, calls, key) = (Arc::clone(&answer), Arc::clone(&remembered), Arc::clone(&its_key));
                // An error here is a connection that ended.
                std::thread::spawn(move || drop(serve(&connection, &*answer, &calls, &key)));
            }
        });
        Cloud { address, key, calls }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The key file of its service account.
    pub fn key_file(&self) -> String {
        let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = self.key.as_der().expect("an encoded key");
        let pem = STANDARD.encode(der.as_ref());
        json!({
            "type": "service_account", "project_id": "kit", "client_email": "kit@kit.example",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
            "token_uri": format!("{}/token", self.url()),
        })
        .to_string()
    }

    /// All calls but those for tokens.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(connection: &TcpStream, answer: &Answer, calls: &Mutex<Vec<Call>>, key: &RsaKeyPair) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    loop {
        let request_line = read_line(&mut reader)?;
        let headers = read_headers(&mut reader)?;
        let body = read_body(&mut reader, &headers)?;
        let path = request_line.split(' ').nth(1).unwrap_or_default().to_owned();
        let call = Call { path, headers, body };
        let (status, text) = if call.path == "/token" {
            token(&call, key)
        } else {
            calls.lock().unwrap_or_else(PoisonError::into_inner).push(call.clone());
            answer(&call)
        };
        let head = format!("HTTP/1.1 {status} Kit\r\ncontent-length: {}\r\n\r\n", text.len());
        writer.write_all(head.as_bytes())?;
        writer.write_all(text.as_bytes())?;
    }
}

/// A token that names what it was asked for, if the assertion is signed by the account.
fn token(call: &Call, key: &RsaKeyPair) -> (u16, String) {
    let form = String::from_utf8_lossy(&call.body).into_owned();
    let assertion = form.split('&').find_map(|pair| pair.strip_prefix("assertion=")).unwrap_or_default();
    let parts: Vec<&str> = assertion.split('.').collect();
    let [head, claims, signature] = parts[..] else { return (400, r#"{"error":"invalid_request"}"#.to_owned()) };
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    if public.verify(format!("{head}.{claims}").as_bytes(), &signature).is_err() {
        return (401, r#"{"error":"invalid_grant"}"#.to_owned());
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap_or_default()).unwrap_or_default();
    let asked = claims["scope"].as_str().or(claims["target_audience"].as_str()).unwrap_or_default();
    let answer = match claims.get("scope") {
        Some(_) => json!({"access_token": format!("access-{asked}"), "expires_in": 3600, "token_type": "Bearer"}),
        None => json!({"id_token": format!("id-{asked}")}),
    };
    (200, answer.to_string())
}

//! A fake external transformer: answers what a test says and remembers what it was asked.

use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::http::{read_body, read_headers, read_line};

/// What it answers to a path and a body: a status and a body. `None` = it never answers.
type Answer = dyn Fn(&str, &Value) -> Option<(u16, String)> + Send + Sync;

/// A running fake transformer. Its thread ends with the test process.
pub struct Transformer {
    url: String,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Transformer {
    /// Starts one.
    pub fn start(answer: impl Fn(&str, &Value) -> Option<(u16, String)> + Send + Sync + 'static) -> Transformer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let remembered = Arc::clone(&calls);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (answer, calls) = (Arc::clone(&answer), Arc::clone(&remembered));
                // An error here is a connection that ended.
                std::thread::spawn(move || drop(serve(&connection, &*answer, &calls)));
            }
        });
        Transformer { url, calls }
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Paths and bodies of all calls.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(connection: &TcpStream, answer: &Answer, calls: &Mutex<Vec<(String, Value)>>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    loop {
        let request_line = read_line(&mut reader)?;
        let headers = read_headers(&mut reader)?;
        let body: Value = serde_json::from_slice(&read_body(&mut reader, &headers)?).unwrap_or_default();
        let path = request_line.split(' ').nth(1).unwrap_or_default().to_owned();
        calls.lock().unwrap_or_else(PoisonError::into_inner).push((path.clone(), body.clone()));
        let Some((status, text)) = answer(&path, &body) else {
            // Until the other side gives up.
            let _next = read_line(&mut reader)?;
            return Ok(());
        };
        let head = format!(
            "HTTP/1.1 {status} Kit\r\napiversion: 2\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        writer.write_all(head.as_bytes())?;
        writer.write_all(text.as_bytes())?;
    }
}

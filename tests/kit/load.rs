//! Load on a node: a few clients, each with its own users, that remember what was acknowledged.
//!
//! Every event carries `properties.n`, which rises per user, and a `messageId` of its own. A request that got no 200
//! is not sent again: what it held may or may not be stored, and a later event takes the next number.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use super::http::Client;
use super::workspace::WRITE_KEY;

/// What kind of load.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// Clients, each with one connection.
    pub clients: usize,
    /// Users of each client.
    pub users: usize,
    /// Events in a request.
    pub batch: usize,
    /// Bytes of incompressible filling in each event.
    pub filling: usize,
}

impl Default for LoadPlan {
    fn default() -> LoadPlan {
        LoadPlan { clients: 4, users: 8, batch: 10, filling: 0 }
    }
}

/// Running load. Stops when dropped.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    address: Mutex<SocketAddr>,
    stopping: AtomicBool,
    acknowledged: Mutex<Vec<String>>,
    acknowledged_count: AtomicUsize,
    /// Clients pause while more than this is acknowledged; a test raises it as deliveries come in.
    allowed: AtomicUsize,
    unavailable: AtomicU64,
    refused_otherwise: Mutex<Vec<String>>,
}

impl Load {
    /// Starts the clients against the address; without [`Load::allow`] they send as fast as they are answered.
    pub fn start(address: SocketAddr, prefix: &str, plan: LoadPlan) -> Load {
        let shared = Arc::new(Shared {
            address: Mutex::new(address),
            stopping: AtomicBool::new(false),
            acknowledged: Mutex::new(Vec::new()),
            acknowledged_count: AtomicUsize::new(0),
            allowed: AtomicUsize::new(usize::MAX),
            unavailable: AtomicU64::new(0),
            refused_otherwise: Mutex::new(Vec::new()),
        });
        let clients = (0..plan.clients)
            .map(|client| {
                let shared = Arc::clone(&shared);
                let prefix = format!("{prefix}-{client}");
                std::thread::spawn(move || send_until_stopped(&shared, &prefix, plan))
            })
            .collect();
        Load { shared, clients }
    }

    /// Sends to this address from now on (a restarted node has another port).
    pub fn aim_at(&self, address: SocketAddr) {
        *self.shared.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Acknowledges at most this many events (roughly) until the next call.
    pub fn allow(&self, acknowledged: usize) {
        self.shared.allowed.store(acknowledged, Ordering::SeqCst);
    }

    /// Requests answered 503 so far.
    pub fn unavailable(&self) -> u64 {
        self.shared.unavailable.load(Ordering::SeqCst)
    }

    /// Stops the clients; the ids of every acknowledged event, and every answer that was neither 200 nor 503.
    pub fn stop(mut self) -> (Vec<String>, Vec<String>) {
        self.join();
        let take =
            |list: &Mutex<Vec<String>>| std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner));
        (take(&self.shared.acknowledged), take(&self.shared.refused_otherwise))
    }

    fn join(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            drop(client.join());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}

fn send_until_stopped(shared: &Shared, prefix: &str, plan: LoadPlan) {
    let current = || *shared.address.lock().unwrap_or_else(PoisonError::into_inner);
    let mut address = current();
    let mut client = Client::new(address);
    let mut n = 0;
    let mut noise = prefix
        .bytes()
        .fold(0x9e37_79b9_7f4a_7c15, |seed: u64, byte| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    while !shared.stopping.load(Ordering::SeqCst) {
        if shared.acknowledged_count.load(Ordering::SeqCst) > shared.allowed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        if current() != address {
            address = current();
            client = Client::new(address);
        }
        let mut ids = Vec::with_capacity(plan.batch);
        let mut events = Vec::with_capacity(plan.batch);
        for _ in 0..plan.batch {
            let user = format!("{prefix}-user-{}", n % i64::try_from(plan.users).unwrap_or(1));
            let mut event = track(&user, n);
            if plan.filling > 0 {
                event["properties"]["filling"] = Value::String(filling(&mut noise, plan.filling));
            }
            ids.push(message_id(&user, n));
            events.push(event);
            n += 1;
        }
        match client.post("/v1/batch", WRITE_KEY, &batch_body(&events)) {
            Ok(answer) if answer.status == 200 => {
                let mut acknowledged = shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                acknowledged.extend(ids);
                shared.acknowledged_count.store(acknowledged.len(), Ordering::SeqCst);
            }
            Ok(answer) if answer.status == 503 => {
                shared.unavailable.fetch_add(1, Ordering::SeqCst);
                if answer.header("retry-after").is_none() {
                    note(shared, "503 without Retry-After".to_owned());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(answer) => note(shared, format!("{}: {}", answer.status, answer.body)),
            // No node there just now.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn note(shared: &Shared, what: String) {
    shared.refused_otherwise.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

fn filling(noise: &mut u64, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        text.extend([format!("{:016x}", *noise)]);
    }
    text.truncate(bytes);
    text
}

fn message_id(user: &str, n: i64) -> String {
    format!("{user}-{n}")
}

/// Event number `n` of the user, with a `messageId` of its own.
pub fn track(user: &str, n: i64) -> Value {
    json!({
        "type": "track",
        "event": "Kit Event",
        "userId": user,
        "messageId": message_id(user, n),
        "properties": {"n": n},
    })
}

/// The body of a batch request.
pub fn batch_body(events: &[Value]) -> String {
    json!({"batch": events}).to_string()
}

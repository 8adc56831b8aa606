//! A passage to a server that can be shut, and that can keep the server's answers to itself.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait_until;

/// How often the listener looks whether it is shut.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A passage. Shut when dropped.
pub struct Gate {
    address: SocketAddr,
    server: SocketAddr,
    state: Arc<State>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    is_open: AtomicBool,
    withholds: AtomicBool,
    withheld: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
}

impl Gate {
    /// An open gate to the server, on a free port.
    pub fn to(server: SocketAddr) -> Gate {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound listener has an address");
        drop(free);
        let mut gate = Gate { address, server, state: Arc::default(), listener: None };
        gate.open();
        gate
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets connections through (again).
    pub fn open(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is still free");
        listener.set_nonblocking(true).expect("a listener can be asked without waiting");
        self.state.is_open.store(true, Ordering::SeqCst);
        let (state, server) = (Arc::clone(&self.state), self.server);
        self.listener = Some(std::thread::spawn(move || {
            while state.is_open.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((client, _)) => pass(&state, client, server),
                    Err(_) => std::thread::sleep(LOOK_EVERY),
                }
            }
        }));
    }

    /// Refuses connections and breaks those that there are.
    pub fn shut(&mut self) {
        self.state.is_open.store(false, Ordering::SeqCst);
        if let Some(listener) = self.listener.take() {
            listener.join().expect("the gate stands");
        }
        for stream in self.state.streams.lock().expect("nobody panics with it").drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// From now on requests reach the server, but no answer comes back; or the other way round.
    pub fn withhold_answers(&self, withholds: bool) {
        self.state.withholds.store(withholds, Ordering::SeqCst);
    }

    /// Waits until an answer was kept back.
    pub fn wait_for_a_withheld_answer(&self, limit: Duration) {
        wait_until("an answer is kept back", limit, || self.state.withheld.load(Ordering::SeqCst) > 0);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.is_open.store(false, Ordering::SeqCst);
    }
}

fn pass(state: &Arc<State>, client: TcpStream, server: SocketAddr) {
    let Ok(server) = TcpStream::connect(server) else { return };
    drop(client.set_nonblocking(false));
    let copies = [&client, &client, &server, &server].map(TcpStream::try_clone);
    let [Ok(from_client), Ok(to_client), Ok(from_server), Ok(to_server)] = copies else { return };
    state.streams.lock().expect("nobody panics with it").extend([client, server]);
    std::thread::spawn(move || copy(from_client, to_server, |_| true));
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        copy(from_server, to_client, |_| {
            let withholds = state.withholds.load(Ordering::SeqCst);
            if withholds {
                state.withheld.fetch_add(1, Ordering::SeqCst);
            }
            !withholds
        });
    });
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut passes: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if passes(&buffer[..length]) && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Write));
}

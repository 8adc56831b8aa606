//! One connection's state, and the set of all of them with its limits (security.md 2.1).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::alarm::Alarm;
use super::budget::Budget;
use crate::settings::GatewaySettings;

/// Bytes of an unfinished head that are not counted.
const FREE_HEAD_BYTES: u64 = 16 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Accepted, and no byte came yet.
    New = 0,
    /// Between an answer and the next request.
    Idle = 1,
    /// A request's head has begun.
    Head = 2,
    /// A request is being answered.
    Busy = 3,
}

/// How long a connection may stay in a phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    /// Longest time without progress in writing.
    pub(super) write: Duration,
}

impl Timeouts {
    pub(super) fn of(settings: &GatewaySettings) -> Timeouts {
        Timeouts {
            head: settings.read_header_timeout,
            idle: settings.idle_timeout,
            // Longer than the store's, so that its verdict still gets out.
            write: settings.write_timeout + Duration::from_secs(5),
        }
    }
}

/// What stands for the peer of a unix socket. It is this machine, whose processes are not told apart.
pub(super) const UNIX_PEER: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// State shared by the socket, the requests and the set. Socket and requests live in one task.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    /// The peer's address as events carry it.
    pub(super) address: String,
    /// Ends the waits of its requests.
    pub(super) alarm: Alarm,
    opened: Instant,
    timeouts: Timeouts,
    phase: AtomicU8,
    /// When the phase began, milliseconds after `opened`.
    since_ms: AtomicU64,
    head_bytes: AtomicU64,
    /// Several requests at a time: each has its own state, this one knows only whether there is any.
    has_streams: AtomicBool,
    streams: AtomicUsize,
    budget: Arc<Budget>,
    closing: AtomicBool,
    lingers: AtomicBool,
    waker: AtomicWaker,
}

impl Connection {
    pub(super) fn new(peer: IpAddr, timeouts: Timeouts, budget: Arc<Budget>) -> Connection {
        Connection {
            peer,
            address: match peer {
                UNIX_PEER => Ipv4Addr::LOCALHOST.to_string(),
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            },
            alarm: Alarm::default(),
            opened: Instant::now(),
            timeouts,
            phase: AtomicU8::new(Phase::New as u8),
            since_ms: AtomicU64::new(0),
            head_bytes: AtomicU64::new(0),
            has_streams: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            budget,
            closing: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::New,
            1 => Phase::Idle,
            2 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    fn enter(&self, phase: Phase, now: Instant) {
        let since = u64::try_from(now.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX);
        self.since_ms.store(since, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn since(&self) -> Instant {
        self.opened + Duration::from_millis(self.since_ms.load(Ordering::Relaxed))
    }

    /// Bytes came. False when the unfinished heads of all connections take too much memory.
    pub(super) fn received(&self, bytes: usize) -> bool {
        match self.phase() {
            Phase::Busy => return true,
            // Frames that keep a connection alive are no head; heads are bounded by the HTTP library.
            Phase::New | Phase::Idle if self.has_streams.load(Ordering::Relaxed) => return true,
            Phase::Idle => self.enter(Phase::Head, Instant::now()),
            // The first request's head has its time from the accept on.
            Phase::New => self.phase.store(Phase::Head as u8, Ordering::Relaxed),
            Phase::Head => {}
        }
        let before = self.head_bytes.load(Ordering::Relaxed);
        let after = before + bytes as u64;
        let counted = after.saturating_sub(FREE_HEAD_BYTES) - before.saturating_sub(FREE_HEAD_BYTES);
        let fits = counted == 0 || self.budget.take(counted);
        if fits {
            self.head_bytes.store(after, Ordering::Relaxed);
        }
        fits
    }

    /// A head is complete and its request begins.
    pub(super) fn request_begins(&self) {
        self.release_head();
        self.phase.store(Phase::Busy as u8, Ordering::Relaxed);
    }

    /// The answer was decided at this time.
    pub(super) fn request_ends(&self, now: Instant) {
        self.enter(Phase::Idle, now);
    }

    /// From here on the connection carries several requests at a time.
    pub(super) fn carries_streams(&self) {
        self.has_streams.store(true, Ordering::Relaxed);
    }

    /// The state of one of these requests.
    pub(super) fn of_stream(&self) -> Connection {
        Connection::new(self.peer, self.timeouts, Arc::clone(&self.budget))
    }

    pub(super) fn stream_begins(&self) {
        self.streams.fetch_add(1, Ordering::AcqRel);
        self.phase.store(Phase::Busy as u8, Ordering::Relaxed);
    }

    pub(super) fn stream_ends(&self, now: Instant) {
        if self.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.enter(Phase::Idle, now);
        }
    }

    fn release_head(&self) {
        let counted = self.head_bytes.swap(0, Ordering::Relaxed).saturating_sub(FREE_HEAD_BYTES);
        if counted > 0 {
            self.budget.give_back(counted);
        }
    }

    /// When the connection must be closed if nothing comes.
    pub(super) fn read_deadline(&self) -> Option<Instant> {
        match self.phase() {
            Phase::New | Phase::Head => Some(self.since() + self.timeouts.head),
            Phase::Idle => Some(self.since() + self.timeouts.idle),
            Phase::Busy => None,
        }
    }

    pub(super) fn write_timeout(&self) -> Duration {
        self.timeouts.write
    }

    /// The client may still be sending what nobody reads: give it time to see the answer.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    /// Whether the socket should be read empty before it is closed.
    pub(super) fn must_linger(&self) -> bool {
        self.lingers.load(Ordering::Relaxed) || self.phase() == Phase::Head
    }

    /// Asks the connection to end after the request that it is answering.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Who is to be woken when the connection is asked to end.
    pub(super) fn wake_on_close(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Waits until the connection is asked to end.
    pub(super) async fn closed(&self) {
        std::future::poll_fn(|context| {
            self.wake_on_close(context.waker());
            if self.is_closing() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Whether the connection was asked to end.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.release_head();
    }
}

/// Every open connection. Its lock is taken when one opens or ends, never by requests.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Open>,
    limit: usize,
    limit_per_peer: Option<usize>,
    /// One ended.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Open {
    by_number: HashMap<u64, Arc<Connection>>,
    by_peer: HashMap<IpAddr, usize>,
    next: u64,
    closing: bool,
}

/// A place in the set, given back when dropped.
pub(super) struct Place {
    connections: Arc<Connections>,
    number: u64,
    peer: IpAddr,
}

impl Connections {
    pub(super) fn new(limit: usize, limit_per_peer: Option<usize>) -> Connections {
        Connections { open: Mutex::default(), limit: limit.max(1), limit_per_peer, ended: Notify::new() }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.open.lock().by_number.len()
    }

    /// Waits until one more connection may be accepted; closes the one that is idle the longest for it.
    pub(super) async fn room(&self) {
        loop {
            let ended = self.ended.notified();
            if self.count() < self.limit {
                return;
            }
            self.close_idlest();
            ended.await;
        }
    }

    fn close_idlest(&self) {
        let open = self.open.lock();
        let idle = open.by_number.values().filter(|connection| connection.phase() == Phase::Idle);
        if let Some(idlest) = idle.min_by_key(|connection| connection.since()) {
            idlest.close();
        }
    }

    /// Adds a connection; `None` when its peer has too many already, or none is wanted any more.
    pub(super) fn add(self: &Arc<Connections>, connection: &Arc<Connection>) -> Option<Place> {
        let peer = connection.peer;
        let mut open = self.open.lock();
        if open.closing {
            return None;
        }
        if let Some(limit) = self.limit_per_peer.filter(|_| peer != UNIX_PEER) {
            let of_peer = open.by_peer.entry(peer).or_default();
            if *of_peer >= limit {
                return None;
            }
            *of_peer += 1;
        }
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, Arc::clone(connection));
        Some(Place { connections: Arc::clone(self), number, peer })
    }

    /// Asks all to end after what they are doing and waits for it.
    pub(super) async fn close_all(&self) {
        {
            let mut open = self.open.lock();
            open.closing = true;
            open.by_number.values().for_each(|connection| connection.close());
        }
        loop {
            let ended = self.ended.notified();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        open.by_number.remove(&self.number);
        // Counted only where there is a limit.
        if let Some(of_peer) = open.by_peer.get_mut(&self.peer) {
            *of_peer = of_peer.saturating_sub(1);
            if *of_peer == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
        drop(open);
        self.connections.ended.notify_waiters();
    }
}

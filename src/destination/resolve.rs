//! Names of destinations to addresses, on threads of their own.
//!
//! The system's resolver blocks its thread, for many seconds when a name server is dead. The pool that everything
//! else of the node blocks on must not fill up with such threads, so names are looked up here: by a few threads,
//! each name by one at a time whoever asks for it, with a bounded number of names that wait. A name that took long
//! or failed is looked up by other threads from then on, so that dead names do not hold up those that live.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Threads for names that are answered soon, and as many for those that are not.
const THREADS: usize = 4;
/// Names that may wait for a thread.
const WAITING: usize = 512;
/// A look-up that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Slow names that are remembered.
const SLOW_NAMES: usize = 4_096;

static RESOLVER: LazyLock<Resolver> =
    LazyLock::new(|| Resolver::start(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())));

/// The addresses of a host name. Waits as long as the system's resolver does; callers bound that.
///
/// # Errors
/// The name does not resolve, or too many names wait for a slow resolver.
pub async fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    RESOLVER.resolve(name).await
}

/// Where the addresses of names come from: the system, unless a test says otherwise.
#[derive(Clone, Default)]
pub struct NameSource(Option<Arc<Resolver>>);

impl NameSource {
    /// Names that a function answers for, in place of the system.
    #[cfg(test)]
    pub(crate) fn answered_by(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> NameSource {
        NameSource(Some(Arc::new(Resolver::start(look_up))))
    }

    /// As [`resolve`].
    ///
    /// # Errors
    /// As [`resolve`].
    pub async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match &self.0 {
            Some(resolver) => resolver.resolve(name).await,
            None => resolve(name).await,
        }
    }
}

impl fmt::Debug for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NameSource")
    }
}

/// Addresses, or what went wrong.
type Found = Result<Vec<IpAddr>, (io::ErrorKind, String)>;

/// A name on its way through a thread.
struct LookUp {
    name: String,
    answer: watch::Sender<Option<Arc<Found>>>,
}

#[derive(Default)]
struct Names {
    /// Under way or waiting, with what gets the answer.
    asked: HashMap<String, watch::Receiver<Option<Arc<Found>>>>,
    slow: HashSet<String>,
}

struct Resolver {
    names: Arc<Mutex<Names>>,
    quick: Sender<LookUp>,
    slow: Sender<LookUp>,
}

impl Resolver {
    fn start(look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Resolver {
        let names: Arc<Mutex<Names>> = Arc::default();
        let look_up = Arc::new(look_up);
        let lane = |lane: &str| {
            let (sender, receiver) = bounded(WAITING);
            for number in 0..THREADS {
                let (receiver, names, look_up) = (Receiver::clone(&receiver), Arc::clone(&names), Arc::clone(&look_up));
                let thread = std::thread::Builder::new().name(format!("resolve-{lane}-{number}"));
                if let Err(error) = thread.spawn(move || serve(&receiver, &names, look_up.as_ref())) {
                    tracing::error!(%error, "a thread that resolves host names could not be started");
                }
            }
            sender
        };
        Resolver { quick: lane("quick"), slow: lane("slow"), names }
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut answer = self.ask(name)?;
        let found = answer.wait_for(Option::is_some).await;
        let found = found.map_err(|_| io::Error::other("the look-up of the name ended early"))?.clone();
        match found.as_deref() {
            Some(Ok(addresses)) => Ok(addresses.clone()),
            Some(Err((kind, text))) => Err(io::Error::new(*kind, text.clone())),
            None => Err(io::Error::other("the look-up of the name ended early")),
        }
    }

    /// Joins a look-up under way, or asks for a new one.
    fn ask(&self, name: &str) -> io::Result<watch::Receiver<Option<Arc<Found>>>> {
        let mut names = self.names.lock();
        if let Some(asked) = names.asked.get(name).filter(|asked| asked.has_changed().is_ok()) {
            return Ok(asked.clone());
        }
        let lane = if names.slow.contains(name) { &self.slow } else { &self.quick };
        let (sender, receiver) = watch::channel(None);
        match lane.try_send(LookUp { name: name.to_owned(), answer: sender }) {
            Ok(()) => {
                names.asked.insert(name.to_owned(), receiver.clone());
                Ok(receiver)
            }
            Err(TrySendError::Full(_)) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "too many host names wait for the resolver"))
            }
            Err(TrySendError::Disconnected(_)) => Err(io::Error::other("no thread resolves host names")),
        }
    }
}

/// The life of a thread: one name after the other.
fn serve(
    waiting: &Receiver<LookUp>,
    names: &Mutex<Names>,
    look_up: &(dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync),
) {
    for LookUp { name, answer } in waiting {
        {
            let mut names = names.lock();
            // One receiver is the map's own: whoever asked has given up meanwhile.
            if answer.receiver_count() <= 1 {
                names.asked.remove(&name);
                continue;
            }
        }
        let started = Instant::now();
        let found = look_up(&name).map_err(|error| (error.kind(), error.to_string()));
        let is_slow = started.elapsed() >= SLOW;
        {
            let mut names = names.lock();
            names.asked.remove(&name);
            if !is_slow {
                names.slow.remove(&name);
            } else if names.slow.len() < SLOW_NAMES {
                names.slow.insert(name);
            }
        }
        answer.send_replace(Some(Arc::new(found)));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn address() -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_for_all_who_ask_meanwhile() {
        let (open, gate) = bounded::<()>(0);
        let look_ups = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&look_ups);
        let resolver = Resolver::start(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            gate.recv().map_err(io::Error::other)?;
            Ok(vec![address()])
        });
        let asked: Vec<_> = (0..50).map(|_| resolver.ask("a.test").unwrap()).collect();
        open.send(()).unwrap();
        for mut answer in asked {
            let found = answer.wait_for(Option::is_some).await.unwrap().clone();
            assert_eq!(found.unwrap().as_ref(), &Ok(vec![address()]));
        }
        assert_eq!(look_ups.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn dead_names_hold_one_thread_each_and_the_queue_is_bounded() {
        let (open, gate) = bounded::<()>(0);
        let resolver = Resolver::start(move |name| {
            if name.starts_with("dead") {
                return gate.recv().map(|()| Vec::new()).map_err(|_| io::Error::other("nobody answers"));
            }
            Ok(vec![address()])
        });
        let mut dead: Vec<_> = (0..THREADS - 1).map(|n| resolver.ask(&format!("dead{n}.test")).unwrap()).collect();
        dead.extend((0..THREADS - 1).map(|n| resolver.ask(&format!("dead{n}.test")).unwrap()));
        assert_eq!(resolver.resolve("alive.test").await.unwrap(), [address()]);
        dead.push(resolver.ask("dead-too.test").unwrap());
        let mut refused = 0;
        for n in 0..WAITING + THREADS {
            match resolver.ask(&format!("next{n}.test")) {
                Ok(answer) => dead.push(answer),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0);
        drop(open);
        for mut answer in dead {
            assert!(answer.wait_for(Option::is_some).await.is_ok());
        }
        let error = resolver.resolve("dead.test").await.unwrap_err();
        assert_eq!(error.to_string(), "nobody answers");
    }

    #[tokio::test]
    async fn a_slow_name_gives_way_to_others() {
        let resolver = Resolver::start(|_| Ok(vec![address()]));
        resolver.names.lock().slow.insert("slow.test".to_owned());
        assert_eq!(resolver.resolve("slow.test").await.unwrap(), [address()]);
        assert!(resolver.names.lock().slow.is_empty());
    }
}

//! A destination that is away for a week, with a clock that the test moves.

use std::sync::atomic::AtomicU64;

use super::*;

const EVENTS: u64 = 100_000;
const USERS: u64 = 2_000;
const DAY: Duration = Duration::from_secs(24 * 3_600);
const LIMIT: Duration = Duration::from_secs(120);

/// Takes everything; counts, and remembers the last number of each user and who was served out of order.
#[derive(Default)]
struct Counter {
    taken: AtomicU64,
    next: Mutex<HashMap<String, u64>>,
    violations: Mutex<Vec<String>>,
}

impl Counter {
    fn listen(self: &Arc<Counter>, listener: TcpListener) {
        let counter = Arc::clone(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counter = Arc::clone(&counter);
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let counter = Arc::clone(&counter);
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        counter.take(&serde_json::from_slice(&body).unwrap());
                        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::new())))
                    }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
    }

    fn take(&self, body: &Value) {
        let (user, n) = (body["user"].as_str().unwrap(), body["n"].as_u64().unwrap());
        let mut next = self.next.lock();
        let expected = next.entry(user.to_owned()).or_default();
        if n != *expected {
            self.violations.lock().push(format!("{user}: {n} instead of {expected}"));
        }
        *expected = n + 1;
        self.taken.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_week_away_costs_no_event_and_no_order() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let clock = Clock::manual(1_700_000_000_000);
    let pairs = [("Router.unreachableProbeMax", "1s"), ("Router.maxRetryBackoff", "300s")];
    let mut kit = Kit::with_clock(clock.clone(), &pairs, &[("d", true)]);
    let users: Vec<String> = (0..USERS).map(|n| format!("u{n}")).collect();
    let first_days = EVENTS / USERS / 10;
    for round in 0..10 {
        let numbers = round * first_days..(round + 1) * first_days;
        let events: Vec<(&str, u64)> = numbers.flat_map(|n| users.iter().map(move |user| (user.as_str(), n))).collect();
        kit.store("d", address, &events).await;
        if round < 7 {
            clock.advance(DAY);
            eventually("the destination pauses", || kit.state("d").state == Activity::Unreachable).await;
        }
    }
    assert_eq!((kit.pending(), kit.state("d").aborted), (EVENTS, 0));
    let counter = Arc::new(Counter::default());
    counter.listen(TcpListener::bind(address).await.unwrap());
    let deadline = Instant::now() + LIMIT;
    while kit.pending() > 0 {
        assert!(Instant::now() < deadline, "{} events are left", kit.pending());
        // Jobs that failed in the first moments wait for their time, which only passes when it is made to.
        clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(counter.taken.load(Ordering::SeqCst), EVENTS);
    assert_eq!(*counter.violations.lock(), Vec::<String>::new());
    assert_eq!((kit.state("d").aborted, kit.dead_letters()), (0, Vec::new()));
    kit.stop().await;
}

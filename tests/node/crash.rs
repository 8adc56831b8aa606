//! `kill -9` at random moments under load: nothing acknowledged is lost, no order is broken.
//!
//! `PINTLE_CRASH_CYCLES` sets the number of cycles (20), `PINTLE_CRASH_SEED` repeats the moments of an earlier run.

use std::time::{Duration, Instant};

use crate::kit::{Load, LoadPlan, NodeBuilder, Sink, Workspace};

/// A delivery whose result was not durable yet when the process died may be repeated: results ride on the next
/// flush, at most a tenth of a second later. Generous for a machine that is busy with other tests.
const IN_FLIGHT: Duration = Duration::from_secs(5);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_acknowledged_event_is_lost_by_kill_9() {
    let cycles = number("PINTLE_CRASH_CYCLES", 20);
    let seed = number("PINTLE_CRASH_SEED", u64::from(std::process::id()));
    println!("{cycles} cycles, seed {seed}");
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut up_to = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };

    let sink = Sink::start();
    sink.forget_bodies();
    let workspace = Workspace::new().webhook("hook", &sink.url());
    let mut node = NodeBuilder::new().workspace(&workspace).start();
    let load = Load::start(node.address(), "crash", LoadPlan::default());
    let mut kills = Vec::new();
    for _ in 0..cycles {
        let until = Instant::now() + Duration::from_millis(200 + up_to(1300));
        while Instant::now() < until {
            // As much ahead of the destination as makes every queue busy, not so much that the end takes hours.
            load.allow(sink.count() + 2000);
            std::thread::sleep(Duration::from_millis(10));
        }
        node.kill();
        kills.push(Instant::now());
        node.start();
        load.aim_at(node.address());
    }
    let (acknowledged, refused) = load.stop();
    assert_eq!(refused, Vec::<String>::new(), "only 200 and 503 are answered under load");
    assert!(
        acknowledged.len() > 20 * usize::try_from(cycles).expect("small"),
        "the load was real: {}",
        acknowledged.len()
    );

    let missing = || {
        let arrived = sink.message_ids();
        acknowledged.iter().filter(|id| !arrived.contains(*id)).count()
    };
    let begun = Instant::now();
    while missing() > 0 && begun.elapsed() < Duration::from_mins(3) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let duplicates = sink.duplicates();
    println!(
        "{} kills, {} acknowledged, {} delivered, {} missing, {} duplicates, {} order violations",
        kills.len(),
        acknowledged.len(),
        sink.count(),
        missing(),
        duplicates.len(),
        sink.order_violations().len()
    );
    assert_eq!(missing(), 0, "acknowledged events that never arrived");
    assert_eq!(sink.order_violations(), Vec::<String>::new());
    for (id, arrivals) in &duplicates {
        for repeated in arrivals.windows(2) {
            let in_flight = kills.iter().any(|kill| repeated[1] > *kill && repeated[0] + IN_FLIGHT > *kill);
            assert!(in_flight, "{id} was delivered again, though no kill came shortly after its delivery");
        }
    }
}

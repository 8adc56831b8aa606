//! The send times of an open loop: fixed in advance, told by a thread of its own.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Send times that may be told and not yet taken.
const AHEAD: usize = 1 << 16;

/// So many requests a second for so long.
#[derive(Clone, Copy, Debug)]
pub struct Phase {
    /// Requests per second.
    pub rate: f64,
    /// Length, seconds.
    pub secs: f64,
}

/// Tells each send time of the phases, one phase after the other, when it has come.
pub fn send_times(phases: Vec<Phase>, began: Instant) -> mpsc::Receiver<Instant> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        // A thread, because the timers of the runtime are rounded up to a millisecond.
        let mut phase_began = began;
        for phase in phases {
            for number in 0..(phase.rate * phase.secs) as u64 {
                let intended = phase_began + Duration::from_secs_f64(number as f64 / phase.rate);
                let now = Instant::now();
                if intended > now {
                    std::thread::sleep(intended - now);
                }
                if sender.blocking_send(intended).is_err() {
                    return;
                }
            }
            phase_began += Duration::from_secs_f64(phase.secs);
        }
    });
    receiver
}

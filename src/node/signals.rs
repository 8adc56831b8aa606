//! Signals of the operating system: SIGTERM and SIGINT stop, a second one ends at once; SIGHUP reloads.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code of an end by the second signal.
const CUT_OFF: i32 = 1;

/// Cancels the returned token at the first stop signal and ends the process at the second.
pub(super) fn stop_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        info!("stopping; another signal ends the node at once");
        told.cancel();
        either(&mut terminate, &mut interrupt).await;
        warn!("ended by a second signal; what was acknowledged is in the store");
        std::process::exit(CUT_OFF);
    });
    Ok(stop)
}

/// The signal that asks for a reload.
pub(super) fn reload_signal() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

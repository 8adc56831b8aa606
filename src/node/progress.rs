//! Watches that the node makes progress: the committer answers, the ingest listener answers.
//!
//! Each probe is an empty transaction, which takes the whole way through the committer and writes nothing, so
//! an idle disk stays quiet; and one `/health` request on loopback. Only a probe that succeeds feeds the
//! service manager's watchdog (appliance.md 1, security.md 12).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{events, systemd};
use crate::admin::Vitals;
use crate::gateway::OwnPort;
use crate::jobsdb::{Durability, JobsDb, JobsDbError, Tx};

/// Time between two probes.
const INTERVAL: Duration = Duration::from_secs(5);
/// Longest wait of one probe.
const PATIENCE: Duration = Duration::from_secs(10);

/// Probes until `stop`.
pub(super) async fn watch(jobs: JobsDb, gateway: OwnPort, vitals: Arc<Vitals>, stop: CancellationToken) {
    let watchdog = systemd::watchdog();
    let mut ticks = interval(watchdog.map_or(INTERVAL, |every| INTERVAL.min(every / 3)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let began = Instant::now();
        let probed = tokio::select! {
            () = stop.cancelled() => return,
            probed = probe(&jobs, &gateway) => probed,
        };
        match probed {
            Ok(()) => {
                vitals.progressed();
                if watchdog.is_some() {
                    systemd::alive();
                }
            }
            Err(reason) => {
                vitals.stalled(began, reason);
                events::stalled(reason);
            }
        }
    }
}

async fn probe(jobs: &JobsDb, gateway: &OwnPort) -> Result<(), &'static str> {
    match timeout(PATIENCE, jobs.commit(Tx::new(Durability::Lazy))).await {
        // A committer without room is busy, not stalled: it answered.
        Ok(Ok(_) | Err(JobsDbError::Unavailable(_))) => {}
        Ok(Err(_)) | Err(_) => return Err("storage: no commit"),
    }
    match timeout(PATIENCE, ask_health(gateway)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err("the ingest listener does not answer"),
    }
}

/// Any answer will do, 503 included: the listener is at work.
async fn ask_health(gateway: &OwnPort) -> std::io::Result<()> {
    let mut stream = gateway.connect().await?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    stream.flush().await?;
    let mut head = [0_u8; 5];
    stream.read_exact(&mut head).await?;
    // Read to the end, so that the listener sees an orderly close.
    let mut rest = Vec::new();
    stream.take(16 << 10).read_to_end(&mut rest).await?;
    if &head == b"HTTP/" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

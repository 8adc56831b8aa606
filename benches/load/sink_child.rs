//! A sink in a process of its own, as the suite sees it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ledger::Seen;
use crate::process::Running;
use crate::sink::PathStats;
use crate::wire;

/// A running sink.
pub struct SinkChild {
    running: Running,
    address: SocketAddr,
}

impl SinkChild {
    /// Starts one on a free port.
    pub fn start() -> Result<SinkChild> {
        let running = Running::start_self("sink", &["sink"])?;
        let line = running.line(Duration::from_secs(10))?;
        let address = line.strip_prefix("listening ").context("no address")?.parse()?;
        Ok(SinkChild { running, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of one destination.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Distinct deliveries over all paths.
    pub fn delivered(&self) -> Result<u64> {
        let answer = wire::get(self.address, "/delivered")?;
        Ok(String::from_utf8_lossy(&answer).trim().parse()?)
    }

    /// Figures by path.
    pub fn stats(&self) -> Result<BTreeMap<String, PathStats>> {
        Ok(serde_json::from_slice(&wire::get(self.address, "/stats")?)?)
    }

    /// Figures of one path; all zero when nothing came there.
    pub fn path_stats(&self, path: &str) -> Result<PathStats> {
        Ok(self.stats()?.remove(path).unwrap_or_default())
    }

    /// Events that a path has received.
    pub fn seen(&self, path: &str) -> Result<Seen> {
        Ok(Seen::from_bytes(&wire::get(self.address, &format!("/seen?path={path}"))?))
    }

    /// Starts the latency figures anew.
    pub fn mark(&self) -> Result<()> {
        wire::get(self.address, "/mark").map(drop)
    }

    /// Changes how a path answers; `orders` as in `status=500&hang_ms=30000`, empty for at once and 200.
    pub fn control(&self, path: &str, orders: &str) -> Result<()> {
        wire::get(self.address, &format!("/control?path={path}&{orders}")).map(drop)
    }

    /// Waits until every event of `acked` has arrived at the path, as long as more arrive within `patience`.
    /// How many have not.
    pub fn wait_for(&self, path: &str, acked: &Seen, patience: Duration) -> Result<u64> {
        let (mut least, mut until) = (u64::MAX, Instant::now() + patience);
        loop {
            let missing = acked.missing_from(&self.seen(path)?);
            if missing < least {
                (least, until) = (missing, Instant::now() + patience);
            }
            if missing == 0 || Instant::now() >= until {
                return Ok(missing);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until so many events have arrived over the paths together; false when they have not in time.
    pub fn wait_for_count(&self, paths: &[String], count: u64, within: Duration) -> Result<bool> {
        let until = Instant::now() + within;
        loop {
            let stats = self.stats()?;
            let arrived: u64 = paths.iter().filter_map(|path| stats.get(path)).map(|stats| stats.distinct).sum();
            if arrived >= count {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

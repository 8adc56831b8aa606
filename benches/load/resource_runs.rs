//! R1, R4 and R5, and R2 in the small profile: memory, an idle node, the time to start.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::gateway_runs::USUAL;
use crate::measure::{Counted, Load, Watched, median_of};
use crate::node::{self, Node, Setup};
use crate::process;
use crate::report::Target;
use crate::suite::Bench;

const MIB: f64 = 1_048_576.0;
/// Memory is read this long after the node was ready.
const IDLE: Duration = Duration::from_mins(1);
/// Start-up work is over and the idle costs begin to count.
const SETTLED: Duration = Duration::from_secs(5);

/// R5: from start to ready on an empty directory.
pub fn start_time(bench: &mut Bench) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..bench.plan.windows {
        let setup = bench.setup(&[])?;
        let node = Node::start(&setup)?;
        times.push(node.ready.as_secs_f64());
        node.stop()?;
        setup.forget();
    }
    let target = Target::at_most("start to ready, empty directory, s", median_of(times), 1.0, 0.2);
    bench.enter_figures("R5", "-", Vec::new(), vec![target]);
    Ok(())
}

/// R2 in the small profile: resident memory under the load of G1.
pub fn small_profile(bench: &mut Bench) -> Result<()> {
    let mut setup = bench.setup(&[])?;
    setup.environment.push(("PINTLE_PROFILE".to_owned(), "small".to_owned()));
    let node = Node::start(&setup)?;
    let load = Load { connections: USUAL, secs: bench.plan.window_secs, windows: 2, ..Load::new(node.url()) };
    let watched = Watched { server: Some(node.pid()), ..Watched::default() };
    bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?;
    let rss = process::rss_peak_bytes(node.pid()) as f64 / MIB;
    bench.enter_figures("R2", "small", Vec::new(), vec![Target::at_most("RSS in G1, MiB", rss, 224.0, 128.0)]);
    node.stop()?;
    setup.forget();
    Ok(())
}

struct IdleNode {
    node: Node,
    setup: Setup,
    variant: &'static str,
    ready_at: Instant,
}

/// Nodes that do nothing while the suite runs.
pub struct IdleNodes(Vec<IdleNode>);

impl IdleNodes {
    /// Starts one in each profile.
    pub fn start(bench: &mut Bench) -> Result<IdleNodes> {
        let mut nodes = Vec::new();
        for variant in ["default", "small"] {
            let mut setup = bench.setup(&[])?;
            setup.environment.push(("PINTLE_PROFILE".to_owned(), variant.to_owned()));
            let node = Node::start(&setup)?;
            nodes.push(IdleNode { node, setup, variant, ready_at: Instant::now() });
        }
        Ok(IdleNodes(nodes))
    }

    /// Reads memory, and what doing nothing costs.
    pub fn finish(self, bench: &mut Bench) -> Result<()> {
        for idle in &self.0 {
            let wait = IDLE.saturating_sub(idle.ready_at.elapsed());
            std::thread::sleep(wait);
            let pid = idle.node.pid();
            let (rss, pss) = (process::rss_bytes(pid) as f64 / MIB, process::pss_bytes(pid) as f64 / MIB);
            if bench.wants("R1") {
                let (floor, goal) = if idle.variant == "small" { (64.0, 40.0) } else { (96.0, 48.0) };
                let target = Target::at_most("RSS idle, MiB", rss, floor, goal);
                bench.enter_figures("R1", idle.variant, vec![format!("Pss {pss:.1} MiB")], vec![target]);
            }
        }
        if bench.wants("R4")
            && let Some(idle) = self.0.first()
        {
            let socket = idle.node.admin_socket();
            std::thread::sleep(SETTLED.saturating_sub(idle.ready_at.elapsed()));
            let (cpu, flushes, began) = (process::cpu_secs(idle.node.pid())?, node::flushes(socket)?, Instant::now());
            std::thread::sleep(Duration::from_secs(10));
            let cpu = process::cpu_secs(idle.node.pid())? - cpu;
            let flushes = node::flushes(socket)? - flushes;
            let secs = began.elapsed().as_secs_f64();
            let targets = vec![
                Target::at_most("idle CPU, % of a core", cpu / secs * 100.0, 1.0, 0.2),
                Target::at_most("flushes per 10 s when idle", flushes / secs * 10.0, 1.0, 0.0),
            ];
            bench.enter_figures("R4", "default", Vec::new(), targets);
        }
        for idle in self.0 {
            idle.node.stop()?;
            idle.setup.forget();
        }
        Ok(())
    }
}

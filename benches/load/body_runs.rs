//! G5 and G6: bodies that cost the gateway more than plain ones, and requests that it should refuse for next to
//! nothing.

use anyhow::Result;

use crate::anchors::FRESH;
use crate::gateway_runs::{USUAL, busy_counts, throughput};
use crate::measure::{About, Counted, Load, Watched, median};
use crate::node::Node;
use crate::report::{Rep, Target};
use crate::suite::Bench;

/// Seconds before each counted window of G5: two loads take turns, so each begins anew.
const TURN_RAMP: f64 = 1.0;

/// G5: gzip bodies and the same ones plain, in turn against the same node.
pub fn compressed(bench: &mut Bench) -> Result<()> {
    for (plain, compressed, connections) in [("track-1k", "track-1k-gzip", USUAL), ("batch-20", "batch-20-gzip", 64)] {
        bench.check_disk()?;
        let setup = bench.setup(&[])?;
        let node = Node::start(&setup)?;
        // One not counted, for a node that has met both.
        turn(bench, &node, compressed, connections)?;
        let (mut plain_reps, mut compressed_reps) = (Vec::new(), Vec::new());
        for _ in 0..bench.plan.windows {
            plain_reps.extend(turn(bench, &node, plain, connections)?);
            compressed_reps.extend(turn(bench, &node, compressed, connections)?);
        }
        node.stop()?;
        setup.forget();
        let ratio = median(&compressed_reps).rate / median(&plain_reps).rate;
        let targets = vec![Target::at_least("rate / uncompressed", ratio, 0.80, 0.90)];
        bench.enter("G5", &format!("{plain} plain"), plain_reps, About::Rate, Vec::new());
        bench.enter("G5", &format!("{plain} gzip"), compressed_reps, About::Rate, targets);
    }
    Ok(())
}

fn turn(bench: &mut Bench, node: &Node, corpus: &str, connections: usize) -> Result<Vec<Rep>> {
    let load = Load { ramp: TURN_RAMP, windows: 1, ..throughput(bench, node, corpus, connections) };
    let watched = Watched { server: Some(node.pid()), ..Watched::default() };
    Ok(bench.load(load, &watched, Counted::Acknowledged, |_| Ok(()))?.reps)
}

/// Something that every client is refused for.
struct Refused {
    variant: &'static str,
    corpus: &'static str,
    write_key: Option<&'static str>,
    status: &'static [u16],
    /// Whether the connection ends with the answer.
    ends_connection: bool,
}

const REFUSED: [Refused; 3] = [
    Refused {
        variant: "wrong key",
        corpus: "track-1k",
        write_key: Some("bench-key-999"),
        status: &[401],
        ends_connection: false,
    },
    Refused { variant: "empty", corpus: "empty", write_key: None, status: &[400], ends_connection: false },
    Refused { variant: "oversized", corpus: "oversized", write_key: None, status: &[413], ends_connection: true },
];

/// G6: requests that are refused, each with the one status that it must be answered with.
///
/// A body that is announced as too large is answered before it has come, after which the connection is of no use
/// (RFC 9112, 9.3): the client connects anew each time, so the anchor does too. Who sends it goes on sending at the
/// pace of a client's line until the answer is there.
pub fn refused(bench: &mut Bench) -> Result<()> {
    for connections in busy_counts(bench) {
        for refused in &REFUSED {
            let kept = format!("c{connections}");
            let anchor = if refused.ends_connection { format!("{kept}{FRESH}") } else { kept.clone() };
            let a1_rate = bench.anchors.figure("A1", &anchor, "rps")?;
            bench.check_disk()?;
            let setup = bench.setup(&[])?;
            let node = Node::start(&setup)?;
            let mut load = throughput(bench, &node, refused.corpus, connections);
            load.expected = refused.status;
            if let Some(write_key) = refused.write_key {
                write_key.clone_into(&mut load.write_key);
            }
            let watched = Watched { server: Some(node.pid()), ..Watched::default() };
            let measured = bench.load(load, &watched, Counted::Answered, |_| Ok(()))?;
            node.stop()?;
            setup.forget();
            let rate = median(&measured.reps).rate;
            let mut notes = Vec::new();
            let mut metric = "refusals/s / A1";
            if refused.ends_connection {
                metric = "refusals/s / A1, a connection each";
                let kept_rate = bench.anchors.figure("A1", &kept, "rps")?;
                notes.push(format!("{:.2} of A1 with connections that are kept", rate / kept_rate));
            }
            let targets = vec![Target::at_least(metric, rate / a1_rate, 0.80, 0.95)];
            let variant = format!("{} {kept}", refused.variant);
            bench.enter_noted("G6", &variant, measured.reps, About::Rate, notes, targets);
        }
    }
    Ok(())
}

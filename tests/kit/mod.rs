//! The kit that the end-to-end tests are built from: a real node, fake destinations, a small HTTP client, load,
//! the real SDKs.
//!
//! In: what a test wants to exist. Out: handles that stop what they started when they are dropped. No fixed port,
//! no folder outside a temporary one, and no waiting but for a condition with a deadline.

mod aws;
mod cloud;
mod control_plane;
mod files;
mod gate;
mod http;
mod kafka;
mod load;
mod mosquitto;
mod nats;
mod node;
mod object_server;
mod process;
mod received;
mod redis;
mod sdk;
mod sink;
mod transformer;
mod workspace;

use std::time::{Duration, Instant};

pub use aws::Aws;
pub use cloud::Cloud;
pub use control_plane::ControlPlane;
pub use files::messages_below;
pub use gate::Gate;
pub use http::{Answer, Client, basic_auth};
pub use kafka::{Kafka, MockKafka, PASSWORD, USER};
pub use load::{Load, LoadPlan, batch_body, track};
pub use mosquitto::{MQTT_PASSWORD, MQTT_USER, Mosquitto};
pub use nats::Nats;
pub use node::{Node, NodeBuilder, pintle};
pub use object_server::{ObjectServer, Storage};
pub use received::Received;
pub use redis::Redis;
pub use sdk::{Sdk, missing_sdk, missing_tool, tools};
pub use sink::{Behaviour, Sink};
pub use transformer::Transformer;
pub use workspace::{WRITE_KEY, Workspace};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until the condition holds.
///
/// Panics when it still does not hold after `limit`, naming `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, &mut condition), "waited {limit:?} in vain: {what}");
}

/// Whether the condition comes to hold within the limit.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether this process has the powers of root (loop mounts, chroot).
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Prints why a test is not run; it then counts as passed.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
}

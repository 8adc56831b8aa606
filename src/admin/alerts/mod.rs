//! Alerts: what is wrong is told once, and when it is over (appliance.md 7).
//!
//! In: the node's own status, looked at every few seconds. Out: JSON to a webhook and to a program, the list of what
//! holds in the status. A message that nobody takes is tried again for an hour.

mod conditions;
mod episodes;
mod targets;

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::status::gather;
use super::{Deps, events};
use crate::settings::AlertSettings;

pub use episodes::ActiveAlert;
use episodes::{Episodes, Message};

/// How often the status is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Wait before a message is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// A message is given up after this time.
const GIVE_UP: Duration = Duration::from_secs(3_600);
/// Messages that wait; the oldest goes first when there are more.
const WAITING: usize = 256;

/// What was told and still holds; shared with the status.
#[derive(Debug, Default)]
pub struct Alerts(Mutex<Vec<ActiveAlert>>);

impl Alerts {
    /// The alerts that hold.
    pub fn active(&self) -> Vec<ActiveAlert> {
        self.0.lock().clone()
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Webhook,
    Program,
}

/// A message on its way.
struct Outgoing {
    target: Target,
    text: String,
    first_tried: Instant,
    next: Instant,
}

/// Watches and tells until the stop.
pub async fn run(deps: Deps, stop: CancellationToken) {
    let mut episodes = Episodes::default();
    let mut waiting: VecDeque<Outgoing> = VecDeque::new();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looking = deps.clone();
        let Ok(status) = tokio::task::spawn_blocking(move || gather(&looking)).await else { continue };
        let settings = deps.settings.load();
        let now_ms = deps.clock.now_ms();
        let now = conditions::conditions(&status, &settings.alert, now_ms);
        for message in episodes.turn(now, settings.alert.repeat_after, now_ms) {
            events::alert(message.alert.alert.as_str(), &message.alert.subject, message.state, &message.alert.text);
            queue(&mut waiting, &message, &settings.alert);
        }
        *deps.alerts.0.lock() = episodes.active();
        if stop.run_until_cancelled(send_all(&mut waiting, &settings.alert)).await.is_none() {
            return;
        }
    }
}

fn queue(waiting: &mut VecDeque<Outgoing>, message: &Message, settings: &AlertSettings) {
    let text = match serde_json::to_string(message) {
        Ok(text) => text,
        Err(error) => return tracing::error!(%error, "an alert cannot be written"),
    };
    let targets = [(Target::Webhook, settings.webhook.is_some()), (Target::Program, settings.exec.is_some())];
    let now = Instant::now();
    for (target, _) in targets.into_iter().filter(|(_, is_set)| *is_set) {
        if waiting.len() >= WAITING {
            waiting.pop_front();
        }
        waiting.push_back(Outgoing { target, text: text.clone(), first_tried: now, next: now });
    }
}

/// Sends what is due, in order; one that fails holds up those behind it for the same target, so that an end is never
/// told before its beginning.
async fn send_all(waiting: &mut VecDeque<Outgoing>, settings: &AlertSettings) {
    let mut held_up: Vec<Target> = Vec::new();
    for mut outgoing in std::mem::take(waiting) {
        let now = Instant::now();
        if held_up.contains(&outgoing.target) || outgoing.next > now {
            held_up.push(outgoing.target);
            waiting.push_back(outgoing);
            continue;
        }
        let sent = match (outgoing.target, &settings.webhook, &settings.exec) {
            (Target::Webhook, Some(url), _) => targets::post(url, &outgoing.text).await,
            (Target::Program, _, Some(program)) => targets::run(program, &outgoing.text).await,
            // Switched off meanwhile.
            _ => continue,
        };
        let target = if outgoing.target == Target::Webhook { "webhook" } else { "exec" };
        events::alert_sent(target, sent.as_ref().copied().map_err(String::as_str));
        if sent.is_err() && outgoing.first_tried.elapsed() < GIVE_UP {
            held_up.push(outgoing.target);
            outgoing.next = Instant::now() + TRY_AGAIN;
            waiting.push_back(outgoing);
        }
    }
}

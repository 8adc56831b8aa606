//! What is wrong with the node now, read from its status: a pure function.

use std::time::Duration;

use crate::admin::{ComponentState, DestinationStatus, NodeStatus};
use crate::settings::AlertSettings;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// Its kind, part of the interface: `destination_down`, `backlog_age`, ...
    pub(super) kind: &'static str,
    /// What it is about; empty for the node itself.
    pub(super) subject: String,
    /// In words.
    pub(super) text: String,
    /// How long it must hold before it is told.
    pub(super) after: Duration,
}

/// Everything that is wrong at `now_ms`.
pub(super) fn conditions(status: &NodeStatus, settings: &AlertSettings, now_ms: i64) -> Vec<Condition> {
    let at_once =
        |kind, subject: &str, text| Condition { kind, subject: subject.to_owned(), text, after: Duration::ZERO };
    let mut found = Vec::new();
    if let Some(text) = disk(status, settings) {
        found.push(at_once("disk", "", text));
    }
    if status.gate == "poisoned" {
        found.push(at_once("store", "", status.reason.clone()));
    }
    if let Some(error) = &status.configuration.last_error {
        found.push(at_once("configuration", "", error.clone()));
    }
    for component in status.components.iter().filter(|component| component.state == ComponentState::Restarting) {
        let error = component.last_error.as_deref().unwrap_or("it ended");
        found.push(at_once("component", &component.name, format!("{} is being restarted: {error}", component.name)));
    }
    for destination in
        status.destinations.iter().filter(|destination| destination.enabled && destination.paused.is_none())
    {
        if let Some(text) = down(destination) {
            let kind = "destination_down";
            found.push(Condition { kind, subject: destination.id.clone(), text, after: settings.destination_down });
        }
        let age_ms = destination.oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        if !settings.backlog_age.is_zero() && age >= settings.backlog_age {
            let waiting = destination.rt.pending + destination.batch_rt.pending;
            let text = format!("{waiting} events wait, the oldest for up to {} minutes", age.as_secs() / 60);
            found.push(at_once("backlog_age", &destination.id, text));
        }
    }
    found
}

fn disk(status: &NodeStatus, settings: &AlertSettings) -> Option<String> {
    if matches!(status.gate.as_str(), "ingestClosed" | "processorClosed") {
        return Some(status.reason.clone());
    }
    let disk = status.disk.as_ref()?;
    let free_percent = disk.free_bytes.saturating_mul(100).checked_div(disk.total_bytes)?;
    (free_percent < settings.disk_free_percent).then(|| format!("{free_percent} % of the disk are free"))
}

/// Why the destination cannot be delivered to.
fn down(destination: &DestinationStatus) -> Option<String> {
    let (delivery, files) = (destination.delivery.as_ref(), destination.files.as_ref());
    let error = if delivery.is_some_and(|delivery| delivery.state == "unreachable") {
        delivery.and_then(|delivery| delivery.last_error.as_ref())
    } else if files.is_some_and(|files| files.breaker != "closed") {
        files.and_then(|files| files.last_error.as_ref())
    } else {
        return None;
    };
    let error = error.map_or_else(String::new, |error| format!(": {} {}", error.code, error.text));
    Some(format!("{} cannot be delivered to{error}", destination.kind))
}

//! `pintle status`: what the running node says about itself.

use super::client::AdminClient;
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output;
use super::table::{Align, Table};
use super::units;
use crate::admin::{ComponentState, DestinationStatus, NodeStatus};
use crate::clock::Clock;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let settings = arguments.flags.load()?.settings;
    let client = AdminClient::of(&settings);
    if arguments.json {
        return output::print_json(&client.get::<serde_json::Value>("/v1/status")?);
    }
    let status: NodeStatus = client.get("/v1/status")?;
    output::print(&render(&status, Clock::system().now_ms(), output::has_colour()))
}

/// Most parts of the configuration that do not work as written, in the status for people.
const MOST_LIMITS: usize = 10;

/// The status as text.
fn render(status: &NodeStatus, now_ms: i64, colour: bool) -> String {
    let mut text = String::new();
    let ready =
        if status.ready { "accepting events".to_owned() } else { format!("not accepting events: {}", status.reason) };
    let ready = emphasised(&output::printable(&ready), status.ready, colour);
    let version = output::printable(&status.version);
    output::line(&mut text, format_args!("pintle {version}, up {}, {ready}", units::age(status.uptime_seconds)));
    let listeners =
        if status.listeners.gateway.is_empty() { "-".to_owned() } else { status.listeners.gateway.join(", ") };
    output::line(&mut text, format_args!("  ingest         {listeners}"));
    output::line(&mut text, format_args!("  data           {}", output::printable(&status.data_dir)));
    if let Some(disk) = &status.disk {
        let (free, total) = (units::bytes(disk.free_bytes), units::bytes(disk.total_bytes));
        output::line(&mut text, format_args!("  disk           {free} free of {total}, gate {}", status.gate));
    }
    if let Some(resident) = status.resident_bytes {
        output::line(&mut text, format_args!("  memory         {}", units::bytes(resident)));
    }
    output::line(&mut text, format_args!("  configuration  {}", configuration(status, now_ms)));
    if let Some(problem) = &status.configuration.last_error {
        let problem = format!("refused: {}", output::printable(problem));
        output::line(&mut text, format_args!("                 {}", emphasised(&problem, false, colour)));
    }
    let limits = &status.configuration.limits;
    for limit in limits.iter().take(MOST_LIMITS) {
        let limit = format!("limited: {}", output::printable(limit));
        output::line(&mut text, format_args!("                 {}", emphasised(&limit, false, colour)));
    }
    if limits.len() > MOST_LIMITS {
        let more = limits.len() - MOST_LIMITS;
        output::line(&mut text, format_args!("                 and {more} more limits; --json lists all"));
    }
    for alert in &status.alerts {
        let age = units::since(alert.since_ms, now_ms);
        let (kind, subject) = (output::printable(&alert.alert), output::printable(&alert.subject));
        let line = format!("{kind} {subject}, for {age}: {}", output::printable(&alert.text));
        output::line(&mut text, format_args!("  alert          {}", emphasised(&line, false, colour)));
    }
    text.push('\n');
    text.push_str(&queues(status, now_ms));
    if !status.destinations.is_empty() {
        text.push('\n');
        text.push_str(&destinations(&status.destinations, now_ms));
    }
    let troubled: Vec<_> = status.components.iter().filter(|component| component.last_error.is_some()).collect();
    if !troubled.is_empty() {
        text.push('\n');
        for component in troubled {
            let state = match component.state {
                ComponentState::Running => "running again",
                ComponentState::Restarting => "being restarted",
                ComponentState::Stopped => "stopped",
                ComponentState::Off => "off",
            };
            let error = output::printable(component.last_error.as_deref().unwrap_or_default());
            let line = format!("{}: {state}, {} restarts, last error: {error}", component.name, component.restarts);
            output::line(
                &mut text,
                format_args!("{}", emphasised(&line, component.state == ComponentState::Running, colour)),
            );
        }
    }
    text
}

fn configuration(status: &NodeStatus, now_ms: i64) -> String {
    let configuration = &status.configuration;
    if !configuration.known {
        return "none yet".to_owned();
    }
    let from = match (configuration.mode.as_str(), configuration.from_last_good) {
        ("EMBEDDED", _) => "embedded default".to_owned(),
        (_, true) => "last good copy".to_owned(),
        (mode, false) => configuration.path.as_deref().map_or_else(|| mode.to_owned(), output::printable),
    };
    format!(
        "{from}, {} sources, {} destinations, changed {} ago",
        configuration.sources,
        configuration.destinations,
        units::since(configuration.changed_ms, now_ms)
    )
}

fn queues(status: &NodeStatus, now_ms: i64) -> String {
    let mut table = Table::new(&[
        ("QUEUE", Align::Left),
        ("WAITING", Align::Right),
        ("BYTES", Align::Right),
        ("OLDEST", Align::Right),
        ("LAST ID", Align::Right),
    ]);
    for queue in &status.queues {
        table.row([
            queue.queue.clone(),
            queue.pending.to_string(),
            units::bytes(queue.pending_bytes),
            queue.oldest_ms.map_or_else(|| "-".to_owned(), |oldest_ms| units::since(oldest_ms, now_ms)),
            queue.last_job_id.to_string(),
        ]);
    }
    table.render()
}

/// The table of destinations, also that of `pintle destination ls`.
pub(super) fn destinations(destinations: &[DestinationStatus], now_ms: i64) -> String {
    let mut table = Table::new(&[
        ("DESTINATION", Align::Left),
        ("NAME", Align::Left),
        ("TYPE", Align::Left),
        ("STATE", Align::Left),
        ("WAITING", Align::Right),
        ("OLDEST", Align::Right),
        ("RETRY", Align::Right),
        ("PER S", Align::Right),
        ("DONE", Align::Right),
        ("GIVEN UP", Align::Right),
        ("LAST ERROR", Align::Left),
    ]);
    for destination in destinations {
        let (rt, files) = (&destination.rt, &destination.batch_rt);
        let delivery = destination.delivery.as_ref();
        let delivered = delivery.map_or(0, |delivery| delivery.delivered);
        let filed = destination.files.as_ref().map_or(0, |files| files.jobs);
        table.row([
            destination.id.clone(),
            destination.name.clone(),
            destination.kind.clone(),
            state(destination, now_ms),
            (rt.pending + files.pending).to_string(),
            destination.oldest_ms.map_or_else(|| "-".to_owned(), |oldest_ms| units::since(oldest_ms, now_ms)),
            (rt.delayed + rt.blocked + files.delayed + files.blocked).to_string(),
            format!("{:.1}", destination.done_per_second),
            (delivered + filed).to_string(),
            delivery.map_or(0, |delivery| delivery.aborted).to_string(),
            last_error(destination, now_ms),
        ]);
    }
    table.render()
}

fn state(destination: &DestinationStatus, now_ms: i64) -> String {
    if let Some(pause) = &destination.paused {
        return match pause.until_ms {
            Some(until_ms) => format!("paused, {} left", units::since(now_ms, until_ms)),
            None => format!("paused for {}", units::since(pause.since_ms, now_ms)),
        };
    }
    if destination.name.is_empty() && !destination.enabled {
        return "not configured".to_owned();
    }
    if !destination.enabled {
        return "off".to_owned();
    }
    if let Some(files) = destination.files.as_ref().filter(|files| files.breaker != "closed") {
        return if files.breaker == "trial" { "on trial".to_owned() } else { "failing".to_owned() };
    }
    destination.delivery.as_ref().map_or_else(|| "ready".to_owned(), |delivery| delivery.state.clone())
}

fn last_error(destination: &DestinationStatus, now_ms: i64) -> String {
    let of_files = destination.files.as_ref().and_then(|files| files.last_error.as_ref());
    let of_delivery = destination.delivery.as_ref().and_then(|delivery| delivery.last_error.as_ref());
    let newest = of_files.into_iter().chain(of_delivery).max_by_key(|error| error.at_ms);
    newest.map_or_else(String::new, |error| {
        let age = error.at_ms.map_or_else(String::new, |at_ms| format!("{} ago: ", units::since(at_ms, now_ms)));
        format!("{age}{} {}", error.code, error.text)
    })
}

/// Green for good, red for bad, where colours are wanted.
fn emphasised(text: &str, is_good: bool, colour: bool) -> String {
    match (colour, is_good) {
        (false, _) => text.to_owned(),
        (true, true) => format!("\u{1b}[32m{text}\u{1b}[0m"),
        (true, false) => format!("\u{1b}[31m{text}\u{1b}[0m"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> NodeStatus {
        let zero = json!({"pending": 0, "pendingBytes": 0, "leased": 0, "delayed": 0, "blocked": 0, "importing": 0});
        serde_json::from_value(json!({
            "version": "0.1.0", "startedMs": 0, "uptimeSeconds": 3_700, "ready": true, "reason": "ready",
            "gate": "open", "dataDir": "/d",
            "listeners": {"gateway": ["127.0.0.1:8080"], "adminSocket": "/d/admin.sock"},
            "disk": {"totalBytes": 10_u64 << 30, "freeBytes": 5_u64 << 30}, "residentBytes": 100 << 20,
            "configuration": {"known": true, "changedMs": 0, "workspaces": 1, "sources": 2, "destinations": 1,
                "mode": "JSON", "path": "/w.json", "lastError": null, "fromLastGood": false,
                "limits": ["library \"l\" has no code here"]},
            "queues": [{"queue": "gw", "pending": 7, "pendingBytes": 2048, "oldestMs": 0, "lastJobId": 9, "datasets": 1}],
            "destinations": [{
                "id": "d1", "name": "Hook", "type": "WEBHOOK", "enabled": true, "paused": null,
                "rt": {"pending": 5, "pendingBytes": 1, "leased": 1, "delayed": 2, "blocked": 1, "importing": 0},
                "batchRt": zero,
                "oldestMs": 40_000, "donePerSecond": 2.5, "delivery": {"state": "unreachable", "sinceMs": 0, "nextRetryMs": null, "delivered": 3, "filtered": 0,
                    "failed": 2, "aborted": 1, "lastError": {"code": "504", "text": "con\u{1b}nect: refused", "atMs": 40_000}},
                "files": null
            }],
            "alerts": [{"alert": "disk", "subject": "", "text": "5 % of the disk are free", "sinceMs": 0}],
            "components": [{"name": "router", "state": "restarting", "sinceMs": 0, "restarts": 2, "lastError": "it broke"}]
        }))
        .unwrap()
    }

    #[test]
    fn the_status_names_what_waits_and_what_is_wrong() {
        let text = render(&status(), 100_000, false);
        for expected in [
            "pintle 0.1.0, up 1 h 1 min, accepting events\n",
            "5.0 GiB free of 10 GiB, gate open",
            "/w.json, 2 sources, 1 destinations, changed 1 min 40 s ago",
            "gw           7  2.0 KiB  1 min 40 s        9",
            "unreachable        5  1 min 0 s      3    2.5     3         1  1 min 0 s ago: 504 con nect: refused",
            "alert          disk , for 1 min 40 s: 5 % of the disk are free",
            "router: being restarted, 2 restarts, last error: it broke",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn colours_only_mark_what_is_good_and_bad() {
        let mut status = status();
        status.ready = false;
        status.reason = "disk: full".to_owned();
        let text = render(&status, 100_000, true);
        assert!(text.contains("\u{1b}[31mnot accepting events: disk: full\u{1b}[0m"), "{text}");
    }

    #[test]
    fn a_destination_shows_its_most_telling_state() {
        let mut destination = status().destinations.remove(0);
        assert_eq!(state(&destination, 0), "unreachable");
        destination.enabled = false;
        assert_eq!(state(&destination, 0), "off");
        destination.name.clear();
        assert_eq!(state(&destination, 0), "not configured");
        destination.paused = Some(crate::admin::PauseStatus { since_ms: 0, until_ms: Some(61_000) });
        assert_eq!(state(&destination, 0), "paused, 1 min 1 s left");
    }
}

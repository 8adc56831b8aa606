//! `pintle tail`: live events as they pass (appliance.md 2).

use serde_json::Value;

use super::client::AdminClient;
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output::{self, printable};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only events of this source
    #[arg(long, value_name = "ID")]
    source: Option<String>,
    /// Only deliveries to this destination
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Only events of this type (track, identify, ...)
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only events of this user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only records with this state (accepted, succeeded, filtered, failed, aborted) or code
    #[arg(long, value_name = "STATE")]
    status: Option<String>,
    /// End after so many records
    #[arg(long, value_name = "COUNT")]
    count: Option<usize>,
    /// Print one JSON document a line, payloads included
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let client = AdminClient::of(&arguments.flags.load()?.settings);
    let mut filter = url::form_urlencoded::Serializer::new(String::new());
    let parts = [
        ("source", &arguments.source),
        ("destination", &arguments.destination),
        ("type", &arguments.kind),
        ("user", &arguments.user),
        ("status", &arguments.status),
    ];
    for (name, value) in parts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        filter.append_pair(name, value);
    }
    let filter = filter.finish();
    let mut page: Value = client.get(&format!("/v1/live?{filter}"))?;
    if !arguments.json {
        output::print("watching; events from now on appear below (end with Ctrl-C)\n")?;
    }
    let mut left = arguments.count.unwrap_or(usize::MAX);
    loop {
        let next = page.get("next").and_then(Value::as_u64).unwrap_or(0);
        page = client.get(&format!("/v1/live?{filter}&after={next}"))?;
        let lost = page.get("lost").and_then(Value::as_u64).unwrap_or(0);
        if lost > 0 && !arguments.json {
            output::print(&format!("... {lost} records passed too fast to be shown\n"))?;
        }
        for record in page.get("items").and_then(Value::as_array).into_iter().flatten() {
            let text = if arguments.json { record.to_string() } else { line(record) };
            output::print(&format!("{text}\n"))?;
            left = left.saturating_sub(1);
            if left == 0 {
                return Ok(());
            }
        }
    }
}

/// One record for people.
fn line(record: &Value) -> String {
    let text = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let at = record.get("atMs").and_then(Value::as_i64).and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
    let way = match text("destinationId") {
        "" => text("sourceId").to_owned(),
        destination => format!("{} -> {destination}", text("sourceId")),
    };
    let at = at.map(|at| format!("{at:.3}")).unwrap_or_default();
    let parts = [
        at.as_str(),
        text("stage"),
        text("jobState"),
        text("errorCode"),
        &way,
        text("eventType"),
        text("eventName"),
        text("userId"),
        text("messageId"),
        text("error"),
    ];
    let parts: Vec<String> = parts.iter().filter(|part| !part.is_empty()).map(|part| printable(part)).collect();
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_tells_when_where_what_and_why() {
        let record = json!({
            "atMs": 0, "stage": "router", "jobState": "failed", "errorCode": "500", "sourceId": "s",
            "destinationId": "d", "eventType": "track", "eventName": "Buy\u{1b}", "userId": "u", "messageId": "m",
            "error": "no",
        });
        assert_eq!(line(&record), "1970-01-01T00:00:00.000Z  router  failed  500  s -> d  track  Buy   u  m  no");
    }
}

//! `pintle dead`: events that failed and deliveries that were given up (jobsdb.md 8.1).

use serde_json::{Map, Value, json};

use super::client::{AdminClient, SOON};
use super::failure::Failure;
use super::flags::SettingsFlags;
use super::table::{Align, Table};
use super::{output, units};
use crate::admin::{DeadChange, DeadLetter, DeadLetters};
use crate::clock::Clock;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List dead letters, oldest first.
    Ls {
        #[command(flatten)]
        filter: Filter,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Show one dead letter with its event.
    Show {
        /// Its id
        id: u64,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Send dead letters on their way again.
    Replay(Changing),
    /// Remove dead letters for good.
    Drop(Changing),
}

#[derive(Debug, clap::Args)]
struct Changing {
    /// Ids
    ids: Vec<u64>,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only those of this destination
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Only those of this source
    #[arg(long, value_name = "ID")]
    source: Option<String>,
    /// Only those of this type of destination (WEBHOOK)
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only those that failed there (event_filter, dest_transformer, tracking_plan_validator, router, batch_router)
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only those with this status code
    #[arg(long, value_name = "CODE")]
    status: Option<i64>,
    /// Only those whose error holds this text
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those of this event
    #[arg(long = "message-id", value_name = "ID")]
    message_id: Option<String>,
    /// Only those older than this (90s, 30m, 2h, 3d)
    #[arg(long = "older-than", value_name = "TIME", value_parser = units::parse_span)]
    older_than: Option<std::time::Duration>,
    /// At most so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Only those behind this id
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

impl Filter {
    /// As the admin API takes it.
    fn body(&self, now_ms: i64) -> Map<String, Value> {
        let before =
            self.older_than.map(|age| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        let members = [
            ("destination", json!(self.destination)),
            ("source", json!(self.source)),
            ("kind", json!(self.kind)),
            ("stage", json!(self.stage)),
            ("status", json!(self.status)),
            ("error", json!(self.error)),
            ("messageId", json!(self.message_id)),
            ("beforeMs", json!(before)),
            ("limit", json!(self.limit)),
            ("after", json!(self.after)),
        ];
        members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Ls { mut filter, json: as_json, flags } => {
            filter.limit.get_or_insert(50);
            let now_ms = Clock::system().now_ms();
            let body = Value::Object(filter.body(now_ms));
            let found: DeadLetters = AdminClient::of(&flags.load()?.settings).post("/v1/dead/list", &body, SOON)?;
            if as_json { output::print_json(&found) } else { output::print(&table(&found, now_ms)) }
        }
        Verb::Show { id, flags } => {
            let found: Value = AdminClient::of(&flags.load()?.settings).get(&format!("/v1/dead/{id}"))?;
            output::print_json(&found)
        }
        Verb::Replay(changing) => change(changing, "replay", "replayed"),
        Verb::Drop(changing) => change(changing, "drop", "dropped"),
    }
}

fn change(changing: Changing, verb: &str, done: &str) -> Result<(), Failure> {
    let client = AdminClient::of(&changing.flags.load()?.settings);
    let mut body = changing.filter.body(Clock::system().now_ms());
    body.insert("ids".to_owned(), json!(changing.ids));
    body.insert("all".to_owned(), json!(changing.all));
    let mut total = DeadChange::default();
    loop {
        let step: DeadChange = client.post(&format!("/v1/dead/{verb}"), &Value::Object(body.clone()), SOON)?;
        total.changed += step.changed;
        total.kept = step.kept;
        total.reasons = step.reasons;
        // A bound is for the whole; without progress the rest stays.
        if !step.unfinished || step.changed == 0 || changing.filter.limit.is_some() {
            break;
        }
    }
    let kept = if total.kept > 0 { format!(", {} kept", total.kept) } else { String::new() };
    let mut text = format!("{} {done}{kept}\n", total.changed);
    for reason in &total.reasons {
        output::line(&mut text, format_args!("  {}", output::printable(reason)));
    }
    output::print(&text)
}

fn table(found: &DeadLetters, now_ms: i64) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("AGE", Align::Left),
        ("STAGE", Align::Left),
        ("DESTINATION", Align::Left),
        ("TYPE", Align::Left),
        ("CODE", Align::Right),
        ("EVENT", Align::Left),
        ("MESSAGE ID", Align::Left),
        ("ERROR", Align::Left),
    ]);
    for letter in &found.items {
        table.row(row(letter, now_ms));
    }
    let mut text = table.render();
    if let Some(next) = found.next {
        output::line(&mut text, format_args!("more: --after {next}"));
    }
    output::line(&mut text, format_args!("{} dead letters in all", found.pending));
    text
}

fn row(letter: &DeadLetter, now_ms: i64) -> [String; 9] {
    let text = |name: &str| letter.parameters.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let code = letter.parameters.get("status_code").map(Value::to_string).unwrap_or_default();
    let event = match text("event_name") {
        name if name.is_empty() => text("event_type"),
        name => name,
    };
    [
        letter.id.to_string(),
        units::since(letter.at_ms, now_ms),
        text("stage"),
        letter.destination_id.clone(),
        letter.kind.clone(),
        code,
        event,
        text("message_id"),
        text("error"),
    ]
}

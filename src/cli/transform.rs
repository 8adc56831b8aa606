//! `pintle transform test`: run a transformation on events from a file, as the node would, without a node.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::failure::{FAILED, Failure};
use super::flags::SettingsFlags;
use super::output;
use crate::settings::Live;
use crate::transform::{Batch, Code, Contract, Engine, Event, Library, Origin, Reply, Verdict, camel_case};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Run a transformation on events from a file and show what comes of each.
    Test {
        /// The code, a JavaScript file
        code: PathBuf,
        /// Events: a JSON array, one event, or one event a line
        #[arg(long, value_name = "FILE")]
        events: PathBuf,
        /// A library that the code imports, by its name (repeatable)
        #[arg(long = "library", value_name = "NAME=FILE")]
        libraries: Vec<String>,
        /// A credential that the code asks for (repeatable)
        #[arg(long = "credential", value_name = "KEY=VALUE")]
        credentials: Vec<String>,
        /// The contract that the code is written for: 1, or 0 for old scripts
        #[arg(long, value_name = "N", default_value = "1", value_parser = ["0", "1"])]
        code_version: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let Verb::Test { code, events, libraries, credentials, code_version, json: as_json, flags } = arguments.verb;
    let settings = flags.load()?.settings;
    let contract = if code_version == "0" { Contract::Script } else { Contract::Module };
    let mut known = Vec::new();
    for library in &libraries {
        let (name, file) = pair(library, "NAME=FILE")?;
        known.push(Library { specifier: specifier(name), text: read(Path::new(file))? });
    }
    let mut secrets = Vec::new();
    for credential in &credentials {
        let (key, value) = pair(credential, "KEY=VALUE")?;
        secrets.push((key.to_owned(), value.to_owned()));
    }
    let name = code.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let code = Arc::new(Code::new(&name, &name, contract, read(&code)?, known, secrets));
    let events: Vec<Event> = parse_events(&read(&events)?)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(FAILED, format!("cannot start: {error}"), ""))?;
    let most = settings.transform.batch_size;
    let mut failed = 0;
    let mut shown = Vec::new();
    runtime.block_on(async {
        let engine = Engine::new(Live::new(settings));
        for chunk in events.chunks(most) {
            let started = Instant::now();
            let batch = Batch { code: Arc::clone(&code), events: chunk.into(), lane: 0, keeps_logs: true };
            let reply = engine.run(batch).await;
            let took = started.elapsed();
            failed += reply.results.iter().filter(|result| matches!(result.verdict, Verdict::Failed { .. })).count();
            shown.push(Shown { reply, first: shown.len() * most, milliseconds: took.as_secs_f64() * 1000.0 });
        }
    });
    if as_json {
        output::print_json(&shown.iter().map(|call| call.as_json(&events)).collect::<Vec<Value>>())?;
    } else {
        output::print(&shown.iter().map(|call| call.as_text(&events)).collect::<String>())?;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::new(FAILED, format!("{failed} results are failures"), "")) }
}

/// One call of the code.
struct Shown {
    reply: Reply,
    /// Place of its first event in the file.
    first: usize,
    milliseconds: f64,
}

impl Shown {
    fn of(&self, origin: &Origin, events: &[Event]) -> String {
        let id = |at: usize| events.get(self.first + at).map(|event| event.message_id.clone()).unwrap_or_default();
        match origin {
            Origin::Event(at) => id(*at),
            Origin::Fresh { message_id } => format!("{message_id} (new)"),
            Origin::All => "all events".to_owned(),
        }
    }

    fn as_json(&self, events: &[Event]) -> Value {
        let results = self.reply.results.iter().map(|result| {
            let mut shown = json!({ "event": self.of(&result.origin, events), "statusCode": result.verdict.status() });
            let (key, value) = match &result.verdict {
                Verdict::Output(text) => ("output", serde_json::from_str(text).unwrap_or_default()),
                Verdict::Failed { error, .. } => ("error", Value::from(error.as_str())),
                Verdict::Dropped => return shown,
            };
            if let Some(members) = shown.as_object_mut() {
                members.insert(key.to_owned(), value);
            }
            shown
        });
        json!({ "results": results.collect::<Vec<Value>>(), "logs": self.reply.logs, "milliseconds": self.milliseconds })
    }

    fn as_text(&self, events: &[Event]) -> String {
        let mut text = String::new();
        for result in &self.reply.results {
            let event = output::printable(&self.of(&result.origin, events));
            match &result.verdict {
                Verdict::Output(json) => output::line(&mut text, format_args!("{event}: {json}")),
                Verdict::Dropped => output::line(&mut text, format_args!("{event}: dropped")),
                Verdict::Failed { status, error } => {
                    let error: Vec<String> = error.lines().map(output::printable).collect();
                    output::line(&mut text, format_args!("{event}: failed ({status}): {}", error.join("\n    ")));
                }
            }
        }
        for log in &self.reply.logs {
            output::line(&mut text, format_args!("{}", output::printable(log)));
        }
        // Writing to a String cannot fail.
        writeln!(text, "{} results in {:.1} ms", self.reply.results.len(), self.milliseconds).unwrap_or_default();
        text
    }
}

/// What the code imports the library by: a name in the form that it is given in the workspace, or a specifier.
fn specifier(name: &str) -> String {
    if name.starts_with('@') { name.to_owned() } else { camel_case(name) }
}

fn pair<'a>(text: &'a str, form: &str) -> Result<(&'a str, &'a str), Failure> {
    text.split_once('=').ok_or_else(|| Failure::new(FAILED, format!("{text:?} has no \"=\""), &format!("write {form}")))
}

pub(super) fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(FAILED, format!("{}: {error}", path.display()), "check the path"))
}

/// Events in every usual form: a list, one event, or one event a line.
pub(super) fn values(text: &str) -> Result<Vec<Value>, Failure> {
    let unreadable = |error: serde_json::Error| {
        Failure::new(FAILED, format!("the events are no JSON: {error}"), "give an array of events or one event a line")
    };
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.map_err(unreadable)? {
            Value::Array(events) => values.extend(events),
            event => values.push(event),
        }
    }
    Ok(values)
}

/// Events with the metadata that follows from them.
fn parse_events(text: &str) -> Result<Vec<Event>, Failure> {
    let event = |(at, mut value): (usize, Value)| {
        let Some(members) = value.as_object_mut() else {
            return Err(Failure::new(FAILED, format!("event {} is no object", at + 1), ""));
        };
        let id = members.entry("messageId").or_insert_with(|| Value::from(format!("event-{}", at + 1)));
        let message_id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        let metadata =
            json!({ "messageId": message_id, "eventName": members.get("event"), "eventType": members.get("type") });
        Ok(Event { metadata: metadata.to_string(), message: value.to_string(), message_id })
    };
    values(text)?.into_iter().enumerate().map(event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_every_usual_form() {
        let ids = |text: &str| -> Vec<String> {
            parse_events(text).unwrap().into_iter().map(|event| event.message_id).collect()
        };
        assert_eq!(ids(r#"[{"messageId":"a"},{}]"#), ["a", "event-2"]);
        assert_eq!(ids("{\"messageId\":\"a\"}\n{\"messageId\":\"b\"}\n"), ["a", "b"]);
        assert!(parse_events("[5]").is_err() && parse_events("{").is_err());
    }
}

//! `pintle send`: a test event through the running node, the whole way that an SDK's event takes.

use std::io::Read;

use serde_json::{Map, Value, json};

use super::client::{AdminClient, SOON};
use super::failure::{FAILED, Failure};
use super::flags::SettingsFlags;
use super::output;
use crate::admin::Sent;

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Type of the event
    #[arg(value_parser = ["track", "identify", "page", "screen", "group", "alias"], default_value = "track")]
    kind: String,
    /// Id or name of the source [default: the first event stream]
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Name of the event (track), or of the page or screen
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// userId of the event
    #[arg(long, value_name = "ID")]
    user_id: Option<String>,
    /// Members of the event as JSON, or - to read them from standard input
    #[arg(long, value_name = "JSON")]
    event: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let settings = arguments.flags.load()?.settings;
    let body = body(&arguments)?;
    let sent: Sent = AdminClient::of(&settings).post("/v1/send", &body, SOON)?;
    if sent.status != 200 {
        let message = format!("the ingest port answered {} {}", sent.status, sent.answer);
        return Err(Failure::new(FAILED, message, "`pintle status` tells more"));
    }
    if arguments.json {
        return output::print_json(&sent);
    }
    output::print(&format!("accepted by source {}: messageId {}\n", sent.source_id, sent.message_id))
}

/// What is asked of the node.
fn body(arguments: &Args) -> Result<Value, Failure> {
    let mut event = match arguments.event.as_deref() {
        None => Map::new(),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::new(FAILED, format!("cannot read standard input: {error}"), ""))?;
            parse(&text)?
        }
        Some(text) => parse(text)?,
    };
    event.insert("type".to_owned(), json!(arguments.kind));
    if let Some(source) = &arguments.source {
        event.insert("source".to_owned(), json!(source));
    }
    if let Some(name) = &arguments.name {
        let member = if arguments.kind == "track" { "event" } else { "name" };
        event.insert(member.to_owned(), json!(name));
    }
    if let Some(user_id) = &arguments.user_id {
        event.insert("userId".to_owned(), json!(user_id));
    }
    Ok(Value::Object(event))
}

fn parse(text: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::new(FAILED, format!("the event is not a JSON object: {error}"), "see --help"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(kind: &str, event: Option<&str>) -> Args {
        Args {
            kind: kind.to_owned(),
            source: Some("s1".to_owned()),
            name: Some("Hello".to_owned()),
            user_id: None,
            event: event.map(str::to_owned),
            json: false,
            flags: SettingsFlags::default(),
        }
    }

    #[test]
    fn flags_and_json_make_one_event() {
        let made = body(&arguments("track", Some(r#"{"userId":"u1","properties":{"a":1}}"#))).unwrap();
        let expected = json!({
            "userId": "u1", "properties": {"a": 1}, "type": "track", "source": "s1", "event": "Hello"
        });
        assert_eq!(made, expected);
        assert_eq!(body(&arguments("page", None)).unwrap()["name"], "Hello");
        assert!(body(&arguments("track", Some("[]"))).is_err());
    }
}

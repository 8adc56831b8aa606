//! `pintle run`: the node in the foreground.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::failure::Failure;
use super::flags::SettingsFlags;
use super::output;
use crate::backend_config::{Destination, Source};
use crate::gateway::reachable;
use crate::node::{self, Started};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    flags: SettingsFlags,
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    let loaded = arguments.flags.load()?;
    let sources = arguments.flags.sources()?;
    node::run(sources, loaded, |started| {
        if started.is_embedded_default {
            // A node whose welcome nobody reads works all the same.
            drop(output::print(&welcome(started)));
        }
    })
    .map_err(|error| Failure::new(error.exit_code(), error.to_string(), ""))
}

/// What a newcomer needs to see a first event arrive (appliance.md 2.1).
fn welcome(started: &Started) -> String {
    let mut sources: Vec<&Source> = started.configuration.source_by_id.values().map(AsRef::as_ref).collect();
    sources.sort_by(|a, b| a.id.cmp(&b.id));
    let mut text = String::from("\nThere is no workspace file, so this node uses a small one of its own.\n");
    for source in sources.into_iter().filter(|source| source.enabled) {
        let mut line = |name: &str, value: &str| output::line(&mut text, format_args!("  {name:<15} {value}"));
        line("source", &source.name);
        line("write key", &source.write_key);
        if let Some(&address) = started.gateway.first() {
            let scheme = if started.is_tls { "https" } else { "http" };
            line("send one", &curl(&source.write_key, scheme, &reachable(address).to_string()));
        }
        for destination in source.destinations.iter().filter(|destination| destination.enabled) {
            let place = match destination.definition.name.as_str() {
                "LOCAL" => folder(&started.data_dir, &destination.id),
                "LOCAL_DATALAKE" => tables(&started.data_dir, destination),
                _ => continue,
            };
            line(&destination.name.to_lowercase(), &place);
        }
        line("archive", &folder(&started.data_dir, "gw"));
        line("status", &format!("pintle status --admin-socket {}", absolute(&started.admin_socket).display()));
    }
    text.push('\n');
    text
}

fn curl(write_key: &str, scheme: &str, address: &str) -> String {
    format!(
        "curl -u {write_key}: -H 'Content-Type: application/json' -d '{{\"userId\":\"u1\",\"event\":\"Hello\"}}' {scheme}://{address}/v1/track"
    )
}

fn folder(data_dir: &Path, name: &str) -> String {
    absolute(&data_dir.join("archive").join(name)).display().to_string()
}

/// Where the tables of the embedded warehouse lie.
fn tables(data_dir: &Path, destination: &Destination) -> String {
    let namespace = destination.config.get("namespace").and_then(Value::as_str).unwrap_or_default();
    absolute(&data_dir.join("warehouse/tables").join(namespace)).display().to_string()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend_config::{DestinationDefinition, Snapshot, Workspace};

    #[test]
    fn a_newcomer_is_told_the_key_a_curl_line_and_the_folders() {
        let destination = Destination {
            id: "local-files".to_owned(),
            name: "Local files".to_owned(),
            enabled: true,
            definition: DestinationDefinition { name: "LOCAL".to_owned(), ..DestinationDefinition::default() },
            ..Destination::default()
        };
        let warehouse = Destination {
            name: "Local warehouse".to_owned(),
            enabled: true,
            config: [("namespace".to_owned(), Value::from("my_app"))].into_iter().collect(),
            definition: DestinationDefinition { name: "LOCAL_DATALAKE".to_owned(), ..DestinationDefinition::default() },
            ..Destination::default()
        };
        let source = Source {
            id: "my-app".to_owned(),
            name: "My app".to_owned(),
            write_key: "KEY".to_owned(),
            enabled: true,
            destinations: vec![Arc::new(destination), Arc::new(warehouse)],
            ..Source::default()
        };
        let workspace = Workspace { sources: vec![Arc::new(source)], ..Workspace::default() };
        let text = welcome(&Started {
            gateway: vec!["0.0.0.0:8080".parse().unwrap()],
            is_tls: false,
            admin: None,
            admin_socket: PathBuf::from("/d/admin.sock"),
            data_dir: PathBuf::from("/d"),
            configuration: Arc::new(Snapshot::new(vec![workspace], 0)),
            is_embedded_default: true,
        });
        for expected in [
            "write key       KEY",
            "curl -u KEY: ",
            "http://127.0.0.1:8080/v1/track",
            "/d/archive/local-files",
            "local warehouse /d/warehouse/tables/my_app",
            "/d/archive/gw",
            "--admin-socket /d/admin.sock",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}

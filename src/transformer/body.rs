//! Requests to a transformer, written once per call from what was written once per destination.

use serde_json::{Value, json};

use crate::backend_config::{Account, Connection, Destination, Workspace};
use crate::destination;

/// A destination as the transformer knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationText {
    /// Its type, in lower case.
    pub kind: String,
    id: String,
    source_id: String,
    destination: String,
    connection: String,
}

/// A user transformation as the transformer knows it: by ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserText {
    /// Whether it is written in Python.
    pub is_python: bool,
    /// Its version.
    pub version_id: String,
    /// What each event carries besides itself, a part of a JSON object.
    members: String,
}

impl DestinationText {
    /// A destination and its connection to a source.
    pub fn new(source_id: &str, destination: &std::sync::Arc<Destination>, workspace: &Workspace) -> DestinationText {
        let told = destination::without_filtered_config(destination);
        let connection = workspace
            .connections
            .values()
            .find(|connection| connection.source_id == source_id && connection.destination_id == destination.id);
        DestinationText {
            kind: destination.definition.name.to_lowercase(),
            id: destination.id.clone(),
            source_id: source_id.to_owned(),
            destination: destination_object(&told).to_string(),
            connection: connection_object(source_id, &destination.id, connection).to_string(),
        }
    }

    /// The destination's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Stands for the connection in a compacted body.
    pub(super) fn connection_key(&self) -> String {
        format!("{}:{}", self.source_id, self.id)
    }

    /// The destination, a JSON object.
    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    /// The connection, a JSON object.
    pub(super) fn connection(&self) -> &str {
        &self.connection
    }

    /// Events (message, metadata), each with everything.
    pub(super) fn plain<'e>(&self, events: impl Iterator<Item = (&'e str, &'e str)>) -> Vec<u8> {
        list(events, |out| {
            out.extend_from_slice(b",\"destination\":");
            out.extend_from_slice(self.destination.as_bytes());
            out.extend_from_slice(b",\"connection\":");
            out.extend_from_slice(self.connection.as_bytes());
            out.extend_from_slice(b",\"libraries\":null,\"credentials\":null");
        })
    }

    /// Events with what they share written once.
    pub(super) fn compacted<'e>(&self, events: impl Iterator<Item = (&'e str, &'e str)>) -> Vec<u8> {
        let mut out = b"{\"input\":".to_vec();
        out.extend(list(events, |_| {}));
        let connection = Value::from(self.connection_key());
        out.extend_from_slice(b",\"destinations\":{");
        out.extend_from_slice(Value::from(self.id.as_str()).to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(self.destination.as_bytes());
        out.extend_from_slice(b"},\"connections\":{");
        out.extend_from_slice(connection.to_string().as_bytes());
        out.push(b':');
        out.extend_from_slice(self.connection.as_bytes());
        out.extend_from_slice(b"}}");
        out
    }
}

impl UserText {
    /// The version of a transformation in a workspace.
    pub fn new(version_id: &str, is_python: bool, workspace: &Workspace) -> UserText {
        let mut members = format!(",\"destination\":{}", json!({ "Transformations": [{ "VersionID": version_id }] }));
        if !workspace.libraries.is_empty() {
            let libraries: Vec<Value> =
                workspace.libraries.iter().map(|library| json!({ "VersionID": library.version_id })).collect();
            members.push_str(",\"libraries\":");
            members.push_str(&Value::from(libraries).to_string());
        }
        if !workspace.credentials.is_empty() {
            let credentials: Vec<Value> = workspace
                .credentials
                .iter()
                .map(|known| json!({"id": known.id, "key": known.key, "value": known.value, "isSecret": known.is_secret}))
                .collect();
            members.push_str(",\"credentials\":");
            members.push_str(&Value::from(credentials).to_string());
        }
        UserText { is_python, version_id: version_id.to_owned(), members }
    }

    /// Events (message, metadata) of one source for one destination.
    pub(super) fn body<'e>(&self, events: impl Iterator<Item = (&'e str, &'e str)>) -> Vec<u8> {
        list(events, |out| out.extend_from_slice(self.members.as_bytes()))
    }
}

fn list<'e>(events: impl Iterator<Item = (&'e str, &'e str)>, more: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![b'['];
    for (at, (message, metadata)) in events.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"message\":");
        out.extend_from_slice(message.as_bytes());
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(metadata.as_bytes());
        more(&mut out);
        out.push(b'}');
    }
    out.push(b']');
    out
}

fn destination_object(destination: &Destination) -> Value {
    let transformations: Vec<Value> = destination
        .transformations
        .iter()
        .map(|known| {
            json!({"VersionID": known.version_id, "ID": known.id, "Config": known.config, "Language": known.language})
        })
        .collect();
    let mut object = json!({
        "ID": destination.id,
        "Name": destination.name,
        "DestinationDefinition": {
            "ID": destination.definition.id,
            "Name": destination.definition.name,
            "DisplayName": destination.definition.display_name,
            "Config": destination.definition.config,
        },
        "Config": destination.config,
        "Enabled": destination.enabled,
        "WorkspaceID": destination.workspace_id,
        "Transformations": transformations,
        "IsProcessorEnabled": destination.is_processor_enabled,
        "RevisionID": destination.revision_id,
        "hasDynamicConfig": destination.has_dynamic_config,
    });
    if let Some(members) = object.as_object_mut() {
        if !destination.original_id.is_empty() {
            members.insert("originalId".to_owned(), destination.original_id.clone().into());
        }
        let accounts =
            [("deliveryAccount", &destination.delivery_account), ("deleteAccount", &destination.delete_account)];
        for (key, account) in accounts {
            if let Some(account) = account {
                members.insert(key.to_owned(), account_object(account));
            }
        }
    }
    object
}

fn account_object(account: &Account) -> Value {
    let definition = account.definition.as_ref().map(|definition| {
        json!({
            "name": definition.name,
            "config": definition.config,
            "authenticationType": definition.authentication_type,
        })
    });
    json!({
        "id": account.id,
        "accountDefinitionName": account.definition_name,
        "options": account.options,
        "secret": account.secret,
        "accountDefinition": definition,
    })
}

fn connection_object(source_id: &str, destination_id: &str, connection: Option<&Connection>) -> Value {
    json!({
        "sourceId": source_id,
        "destinationId": destination_id,
        "enabled": connection.is_none_or(|connection| connection.enabled),
        "config": connection.map(|connection| connection.config.clone()).filter(Value::is_object).unwrap_or_else(|| json!({})),
        "processorEnabled": connection.is_none_or(|connection| connection.processor_enabled),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::backend_config::{Credential, DestinationDefinition, Library};

    fn read(body: &[u8]) -> Value {
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn a_destination_is_told_under_the_names_that_transformers_know() {
        let destination = Arc::new(Destination {
            id: "d".to_owned(),
            has_dynamic_config: true,
            config: json!({"a": 1, "hidden": 2}).as_object().unwrap().clone(),
            definition: DestinationDefinition {
                name: "GA4".to_owned(),
                config: json!({"configFilters": ["hidden"]}).as_object().unwrap().clone(),
                ..DestinationDefinition::default()
            },
            ..Destination::default()
        });
        let text = DestinationText::new("s", &destination, &Workspace::default());
        assert_eq!(text.kind, "ga4");
        let events = [("{\"x\":1}", "{\"jobId\":1}"), ("{}", "{}")];
        let plain = read(&text.plain(events.into_iter()));
        assert_eq!(plain[0]["message"], json!({"x": 1}));
        assert_eq!(plain[0]["destination"]["Config"], json!({"a": 1}));
        assert_eq!(plain[1]["connection"]["destinationId"], "d");
        assert_eq!(
            (&plain[0]["libraries"], &plain[0]["destination"]["hasDynamicConfig"]),
            (&Value::Null, &json!(true))
        );
        let compacted = read(&text.compacted(events.into_iter()));
        assert_eq!(compacted["input"][0], json!({"message": {"x": 1}, "metadata": {"jobId": 1}}));
        assert_eq!(compacted["destinations"]["d"], plain[0]["destination"]);
        assert_eq!(compacted["connections"]["s:d"], plain[0]["connection"]);
    }

    #[test]
    fn a_user_transformation_is_told_with_all_libraries_and_credentials_or_without_the_member() {
        let bare = read(&UserText::new("v1", false, &Workspace::default()).body([("{}", "{}")].into_iter()));
        assert_eq!(
            bare,
            json!([{"message": {}, "metadata": {}, "destination": {"Transformations": [{"VersionID": "v1"}]}}])
        );
        let workspace = Workspace {
            libraries: vec![Arc::new(Library::new("l1", "Lib", "", String::new()))],
            credentials: vec![Credential {
                id: "c".to_owned(),
                key: "K".to_owned(),
                value: "V".to_owned(),
                is_secret: true,
            }],
            ..Workspace::default()
        };
        let full = read(&UserText::new("v1", false, &workspace).body([("{}", "{}")].into_iter()));
        assert_eq!(full[0]["libraries"], json!([{"VersionID": "l1"}]));
        assert_eq!(full[0]["credentials"], json!([{"id": "c", "key": "K", "value": "V", "isSecret": true}]));
    }
}

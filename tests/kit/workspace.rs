//! Builds a workspace document: one source and perhaps webhook sources, connected to destinations.

use serde_json::{Value, json};

/// The write key of the source.
pub const WRITE_KEY: &str = "kit-write-key-000000000000";

/// The id of the source.
pub const SOURCE_ID: &str = "kit-source";

/// A workspace in the making.
#[derive(Clone, Debug)]
pub struct Workspace {
    destinations: Vec<Value>,
    webhook_sources: Vec<(String, String, Value)>,
}

impl Default for Workspace {
    fn default() -> Workspace {
        Workspace::new()
    }
}

impl Workspace {
    /// A workspace with a source and no destination.
    pub fn new() -> Workspace {
        Workspace { destinations: Vec::new(), webhook_sources: Vec::new() }
    }

    /// Adds a WEBHOOK destination that posts to the URL.
    pub fn webhook(self, id: &str, url: &str) -> Workspace {
        self.destination(id, "WEBHOOK", json!({"webhookUrl": url, "webhookMethod": "POST", "headers": []}))
    }

    /// Adds a LOCAL destination that writes files below the folder.
    pub fn local(self, id: &str, folder: &std::path::Path) -> Workspace {
        self.destination(id, "LOCAL", json!({"path": folder.display().to_string()}))
    }

    /// Adds a destination of any type.
    pub fn destination(mut self, id: &str, kind: &str, config: Value) -> Workspace {
        self.destinations.push(json!({
            "id": id,
            "name": id,
            "enabled": true,
            "workspaceId": "kit-workspace",
            "revisionId": "1",
            "isProcessorEnabled": true,
            "transformations": [],
            "config": config,
            "destinationDefinition": {
                "id": format!("definition-{kind}"),
                "name": kind,
                "displayName": kind,
                "config": {
                    "transformAtV1": "processor",
                    "supportedMessageTypes": ["alias", "group", "identify", "page", "screen", "track"],
                },
            },
        }));
        self
    }

    /// Gives the destination that was added last a user transformation.
    #[allow(dead_code, reason = "not every test transforms")]
    pub fn transformed(mut self, code: &str) -> Workspace {
        if let Some(destination) = self.destinations.last_mut() {
            let id = destination["id"].as_str().unwrap_or_default().to_owned();
            destination["transformations"] = json!([{
                "id": format!("transformation-{id}"),
                "versionId": format!("version-{id}"),
                "config": {},
                "language": "javascript",
                "code": code,
            }]);
        }
        self
    }

    /// Sets members of the definition's config of a destination.
    pub fn define(&mut self, id: &str, members: Value) {
        let destination = self.destinations.iter_mut().find(|destination| destination["id"] == id);
        let config = &mut destination.expect("the destination was added")["destinationDefinition"]["config"];
        for (key, value) in members.as_object().expect("an object") {
            config[key] = value.clone();
        }
    }

    /// Adds a webhook source of this definition, connected to the same destinations.
    pub fn webhook_source(mut self, write_key: &str, definition: &str, config: Value) -> Workspace {
        self.webhook_sources.push((write_key.to_owned(), definition.to_owned(), config));
        self
    }

    /// The document.
    pub fn document(&self) -> Value {
        let mut document = self.with_the_app();
        let sources = document["sources"].as_array_mut().expect("sources are a list");
        for (write_key, definition, config) in &self.webhook_sources {
            let mut source = sources[0].clone();
            source["id"] = format!("source-{write_key}").into();
            source["writeKey"] = write_key.as_str().into();
            source["config"] = config.clone();
            source["sourceDefinition"] =
                json!({"id": format!("definition-{definition}"), "name": definition, "category": "webhook"});
            sources.push(source);
        }
        document
    }

    fn with_the_app(&self) -> Value {
        json!({
            "workspaceId": "kit-workspace",
            "enableMetrics": false,
            "libraries": [],
            "settings": {},
            "sources": [{
                "id": SOURCE_ID,
                "name": "Kit app",
                "writeKey": WRITE_KEY,
                "enabled": true,
                "workspaceId": "kit-workspace",
                "config": {},
                "sourceDefinition": {"id": "definition-js", "name": "Javascript", "category": null, "type": "web"},
                "transient": false,
                "destinations": self.destinations,
            }],
        })
    }
}

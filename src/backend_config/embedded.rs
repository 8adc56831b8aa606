//! The embedded default workspace (appliance.md 2.1): one source that writes to local files and
//! to a local warehouse.

use serde_json::json;
use uuid::Uuid;

/// Length of a write key.
const WRITE_KEY_CHARACTERS: usize = 27;

/// A new default document, with a write key of its own. Also what `init` writes as a file.
pub fn default_document() -> String {
    let document = json!({
        "workspaceId": "local",
        "sources": [{
            "id": "my-app",
            "name": "My app",
            "writeKey": new_write_key(),
            "enabled": true,
            "workspaceId": "local",
            "config": {},
            "sourceDefinition": { "id": "event-stream", "name": "HTTP", "category": null, "type": "cloud" },
            "destinations": [{
                "id": "local-files",
                "name": "Local files",
                "enabled": true,
                "workspaceId": "local",
                "revisionId": "1",
                "isProcessorEnabled": true,
                "transformations": [],
                "config": {},
                "destinationDefinition": {
                    "id": "local", "name": "LOCAL", "displayName": "Local files", "config": {}
                }
            }, {
                "id": "local-warehouse",
                "name": "Local warehouse",
                "enabled": true,
                "workspaceId": "local",
                "revisionId": "1",
                "isProcessorEnabled": true,
                "transformations": [],
                "config": { "namespace": "my_app", "syncFrequency": "0" },
                "destinationDefinition": {
                    "id": "local-datalake", "name": "LOCAL_DATALAKE", "displayName": "Local warehouse", "config": {}
                }
            }]
        }],
        "connections": {
            "my-app:local-files": {
                "sourceId": "my-app", "destinationId": "local-files", "enabled": true, "processorEnabled": true,
                "config": {}
            },
            "my-app:local-warehouse": {
                "sourceId": "my-app", "destinationId": "local-warehouse", "enabled": true, "processorEnabled": true,
                "config": {}
            }
        },
        "libraries": [],
        "settings": {}
    });
    format!("{document:#}\n")
}

/// A random key of letters and digits.
fn new_write_key() -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut key = String::with_capacity(WRITE_KEY_CHARACTERS);
    while key.len() < WRITE_KEY_CHARACTERS {
        for (at, byte) in Uuid::new_v4().into_bytes().into_iter().enumerate() {
            // Bytes 6 and 8 hold the version and variant; bytes from 248 on would favour some characters.
            let is_random = at != 6 && at != 8 && byte < 248;
            if let (true, Some(&character)) =
                (is_random && key.len() < WRITE_KEY_CHARACTERS, ALPHABET.get(usize::from(byte) % 62))
            {
                key.push(char::from(character));
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::super::code_files::CodeFiles;
    use super::super::decode::decode;
    use super::super::secrets::References;
    use super::*;

    #[test]
    fn the_default_is_a_workspace_with_a_source_that_writes_local_files_and_rows() {
        let text = default_document();
        let decoded = decode(text.as_bytes(), &References { prefix: None, variable: &|_| None }, &CodeFiles::default())
            .ok()
            .unwrap();
        let source = &decoded.workspace.sources[0];
        assert_eq!((source.name.as_str(), source.enabled, source.definition.category.as_str()), ("My app", true, ""));
        assert_eq!(source.write_key.len(), 27);
        assert!(source.write_key.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let destination = &source.destinations[0];
        assert_eq!((destination.definition.name.as_str(), destination.name.as_str()), ("LOCAL", "Local files"));
        assert!(destination.enabled && destination.is_processor_enabled);
        let warehouse = &source.destinations[1];
        assert_eq!(
            (warehouse.definition.name.as_str(), warehouse.name.as_str()),
            ("LOCAL_DATALAKE", "Local warehouse")
        );
        assert!(warehouse.enabled && warehouse.is_processor_enabled);
        assert_eq!(
            (&warehouse.config["namespace"], &warehouse.config["syncFrequency"]),
            (&json!("my_app"), &json!("0"))
        );
        assert!(decoded.unknown.is_empty());
    }

    #[test]
    fn every_default_has_its_own_write_key() {
        assert_ne!(new_write_key(), new_write_key());
    }
}

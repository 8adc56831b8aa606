//! What a transformer says of itself (processor.md 9.4).

use std::collections::HashSet;

use serde_json::Value;

/// What it can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    router_types: HashSet<String>,
    /// Takes each destination and connection once for a whole request.
    pub takes_compacted: bool,
}

impl Features {
    /// What is assumed of a transformer that does not say.
    pub(super) fn unsaid() -> Features {
        let router_types = ["MARKETO", "HS"].into_iter().map(str::to_owned).collect();
        Features { router_types, takes_compacted: false }
    }

    /// From the answer to `/features`; `None` when it is no object.
    pub(super) fn read(body: &[u8]) -> Option<Features> {
        let document: Value = serde_json::from_slice(body).ok().filter(Value::is_object)?;
        let says = |value: Option<&Value>| value == Some(&Value::Bool(true));
        let types = document.get("routerTransform").and_then(Value::as_object);
        Some(Features {
            router_types: types
                .into_iter()
                .flatten()
                .filter(|(_, value)| says(Some(value)))
                .map(|(name, _)| name.to_uppercase())
                .collect(),
            takes_compacted: says(document.get("supportDestTransformCompactedPayloadV1")),
        })
    }

    /// Whether events of this type can be transformed when they are delivered.
    pub fn transforms_in_router(&self, type_name: &str) -> bool {
        self.router_types.contains(&type_name.to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_taken_and_nothing_else() {
        let said = Features::read(
            br#"{"routerTransform":{"HS":true,"GA":false,"BRAZE":1},"supportDestTransformCompactedPayloadV1":true,"x":{}}"#,
        )
        .unwrap();
        assert!(said.transforms_in_router("hs") && said.takes_compacted);
        assert!(!said.transforms_in_router("GA") && !said.transforms_in_router("BRAZE"));
        assert_eq!(Features::read(b"{}"), Some(Features::default()));
        assert_eq!((Features::read(b"[]"), Features::read(b"<html>")), (None, None));
        assert!(Features::unsaid().transforms_in_router("MARKETO"));
    }
}

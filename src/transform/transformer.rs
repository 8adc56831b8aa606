//! What transforms the events of a destination, from the workspace (processor.md 7.1, 7.3, 7.9).

use std::sync::Arc;

use super::code::{Code, Contract, Library, Refusal, Transformer, camel_case};
use crate::backend_config::{Destination, Workspace};

/// The transformer of a destination; `None` when its events are not transformed. The first transformation counts.
pub fn of_destination(destination: &Destination, workspace: &Workspace) -> Option<Transformer> {
    let transformation = destination.transformations.first()?;
    let refusal = |status, error: String| Some(Err(Refusal { status, error }));
    if transformation.version_id.is_empty() {
        return refusal(400, "Transformation VersionID not found".to_owned());
    }
    if !is_javascript(&transformation.language) {
        return refusal(400, "Unsupported language".to_owned());
    }
    let Some(code) = &transformation.code else {
        let error =
            format!("Transformation not found: this node has no code for version {}", transformation.version_id);
        return refusal(404, error);
    };
    let libraries = workspace.libraries.iter().map(|library| Library {
        specifier: if library.import_name.is_empty() { camel_case(&library.name) } else { library.import_name.clone() },
        text: library.text.clone(),
    });
    let credentials = workspace.credentials.iter().map(|credential| (credential.key.clone(), credential.value.clone()));
    let contract = if code.code_version == "0" { Contract::Script } else { Contract::Module };
    Some(Ok(Arc::new(Code::new(
        &code.name,
        &transformation.version_id,
        contract,
        code.text.clone(),
        libraries.collect(),
        credentials.collect(),
    ))))
}

/// Whether code in this language runs here.
pub fn is_javascript(language: &str) -> bool {
    language.is_empty() || language.eq_ignore_ascii_case("javascript")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::{Transformation, TransformationCode};

    #[test]
    fn a_transformation_without_code_or_in_another_language_refuses_every_event() {
        let code = TransformationCode::new("v1", "Mine", "", "x".to_owned());
        let given = |version_id: &str, language: &str, code: Option<TransformationCode>| Transformation {
            version_id: version_id.to_owned(),
            language: language.to_owned(),
            code: code.map(Arc::new),
            ..Transformation::default()
        };
        let table = [
            (given("", "javascript", Some(code.clone())), Some((400, "Transformation VersionID not found"))),
            (given("v1", "pythonfaas", Some(code.clone())), Some((400, "Unsupported language"))),
            (given("v1", "", None), Some((404, "Transformation not found"))),
            (given("v1", "javascript", Some(code)), None),
        ];
        for (transformation, expected) in table {
            let destination = Destination { transformations: vec![transformation], ..Destination::default() };
            let transformer = of_destination(&destination, &Workspace::default()).unwrap();
            match (transformer, expected) {
                (Ok(code), None) => assert_eq!((code.name(), code.version_id()), ("Mine", "v1")),
                (Err(refusal), Some((status, error))) => {
                    assert!(refusal.status == status && refusal.error.starts_with(error), "{refusal:?}");
                }
                (transformer, expected) => panic!("{transformer:?} is not {expected:?}"),
            }
        }
        assert!(of_destination(&Destination::default(), &Workspace::default()).is_none());
    }
}

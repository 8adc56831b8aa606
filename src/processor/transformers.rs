//! Who transforms the events that were gathered: the engine of this node, or an external transformer for user
//! transformations and destinations that the node cannot do itself (processor.md 7.2, 7.9, 9.2, 9.5).

use std::sync::Arc;

use super::accounting::Stage;
use super::user_transform::Chunk;
use crate::backend_config::{Destination, Workspace};
use crate::destination::{is_batch, is_native};
use crate::settings::{Settings, TransformerSettings};
use crate::transform::{self, Code, Engine, Event, Origin, Refusal, Reply, Transformed, Verdict};
use crate::transformer::{DestinationText, Failed, Given, Item, Place, Remote, UserText, What};

/// Who transforms events of one connection.
#[derive(Clone, Debug)]
pub(super) enum Transformer {
    /// Code of the user's, here.
    Here(Arc<Code>),
    /// Code of the user's, elsewhere.
    User(Arc<UserText>),
    /// The destination transformation, elsewhere.
    Destination(Arc<DestinationText>),
}

/// Who runs the user transformation of a destination, if it has one.
pub(super) fn of_user(
    destination: &Destination,
    workspace: &Workspace,
    settings: &TransformerSettings,
) -> Option<Result<Transformer, Refusal>> {
    let refusal = match transform::of_destination(destination, workspace)? {
        Ok(code) => return Some(Ok(Transformer::Here(code))),
        Err(refusal) => refusal,
    };
    let transformation = destination.transformations.first()?;
    let is_python = is_python(&transformation.language);
    // Where code in JavaScript is kept that the node does not have, only the user knows.
    let is_elsewhere = (is_python && settings.python_url.is_some())
        || (transform::is_javascript(&transformation.language)
            && transformation.code.is_none()
            && settings.has_own_user_url);
    if transformation.version_id.is_empty() || !is_elsewhere {
        return Some(Err(refusal));
    }
    let text = UserText::new(&transformation.version_id, is_python, workspace);
    Some(Ok(Transformer::User(Arc::new(text))))
}

/// Who transforms events for a destination, where the node does not.
pub(super) fn of_destination(
    source_id: &str,
    destination: &Arc<Destination>,
    workspace: &Workspace,
    settings: &TransformerSettings,
) -> Option<Transformer> {
    let kind = &destination.definition.name;
    if settings.destination_url.is_none() || !may_go_elsewhere(kind) {
        return None;
    }
    Some(Transformer::Destination(Arc::new(DestinationText::new(source_id, destination, workspace))))
}

/// Whether events for destinations of this type are delivered, here or with the help of the external transformer.
pub fn is_delivered(type_name: &str, settings: &TransformerSettings) -> bool {
    is_native(type_name) || (settings.destination_url.is_some() && may_go_elsewhere(type_name))
}

/// Whether user transformations in this language are run, here or elsewhere.
pub fn is_run(language: &str, settings: &TransformerSettings) -> bool {
    transform::is_javascript(language) || (is_python(language) && settings.python_url.is_some())
}

/// Whether an external transformer can make events of this type deliverable. Types that are delivered in files need
/// more than a transformation.
fn may_go_elsewhere(type_name: &str) -> bool {
    !is_native(type_name) && !is_batch(type_name) && !type_name.is_empty()
}

fn is_python(language: &str) -> bool {
    language.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("python"))
}

impl Transformer {
    /// The stage of the pipeline that this is.
    pub(super) fn stage(&self) -> Stage {
        match self {
            Transformer::Here(_) | Transformer::User(_) => Stage::UserTransformer,
            Transformer::Destination(_) => Stage::DestTransformer,
        }
    }

    /// Whether it takes as long as somebody else takes.
    pub(super) fn is_elsewhere(&self) -> bool {
        !matches!(self, Transformer::Here(_))
    }

    /// Most events of one call.
    pub(super) fn most_events(&self, settings: &Settings) -> usize {
        match self {
            Transformer::Here(_) | Transformer::User(_) => settings.transform.batch_size,
            Transformer::Destination(_) => settings.transformer.destination_batch_size,
        }
    }
}

/// Has a chunk transformed by whom it is for.
pub(super) async fn run(chunk: &Chunk, engine: &Engine, remote: &Remote) -> Reply {
    let what = match &chunk.by {
        Transformer::Here(code) => return engine.run(chunk.batch(code)).await,
        Transformer::User(text) => What::User(text),
        Transformer::Destination(text) => What::Destination(text),
    };
    let given: Vec<Given<'_>> =
        chunk.events.iter().zip(&chunk.held).map(|(event, held)| given(event, held.job_id)).collect();
    reply(remote.transform(what, &given).await, chunk.events.len())
}

fn given(event: &Event, job_id: u64) -> Given<'_> {
    Given { message: &event.message, metadata: &event.metadata, job_id, message_id: &event.message_id }
}

/// What an answer means for this many events. Those that it does not name were dropped (processor.md 7.10).
fn reply(answer: Result<Vec<Item>, Failed>, events: usize) -> Reply {
    let items = match answer {
        Ok(items) => items,
        Err(Failed { status, error }) => {
            let failed = |at| Transformed {
                origin: Origin::Event(at),
                verdict: Verdict::Failed { status, error: error.clone() },
            };
            return Reply { results: (0..events).map(failed).collect(), logs: Vec::new() };
        }
    };
    let named: std::collections::HashSet<usize> = items
        .iter()
        .filter_map(|item| match item.place {
            Place::Given(at) => Some(at),
            Place::Fresh(_) => None,
        })
        .collect();
    let unnamed = (0..events)
        .filter(|at| !named.contains(at))
        .map(|at| Transformed { origin: Origin::Event(at), verdict: Verdict::Dropped });
    let results = items.into_iter().map(|item| {
        let origin = match item.place {
            Place::Given(at) => Origin::Event(at),
            Place::Fresh(message_id) => Origin::Fresh { message_id },
        };
        let verdict = match (item.status, item.output) {
            (200, Some(output)) => Verdict::Output(output),
            (298, _) => Verdict::Dropped,
            (status, _) => Verdict::Failed { status, error: item.error },
        };
        Transformed { origin, verdict }
    });
    Reply { results: unnamed.chain(results).collect(), logs: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_config::{Transformation, TransformationCode};

    #[test]
    fn only_what_the_node_cannot_run_goes_elsewhere_and_only_where_there_is_an_elsewhere() {
        let mut settings = Settings::defaults().transformer;
        let by = |language: &str, code: bool, settings: &TransformerSettings| {
            let code = code.then(|| Arc::new(TransformationCode::new("v1", "Mine", "", "x".to_owned())));
            let (version_id, language) = ("v1".to_owned(), language.to_owned());
            let transformation = Transformation { version_id, language, code, ..Transformation::default() };
            let destination = Destination { transformations: vec![transformation], ..Destination::default() };
            match of_user(&destination, &Workspace::default(), settings).unwrap() {
                Ok(Transformer::Here(_)) => "here".to_owned(),
                Ok(Transformer::User(text)) if text.is_python => "python".to_owned(),
                Ok(_) => "elsewhere".to_owned(),
                Err(refusal) => format!("{} {}", refusal.status, refusal.error.split(':').next().unwrap()),
            }
        };
        assert_eq!(by("pythonfaas", true, &settings), "400 Unsupported language");
        settings.python_url = Some("http://a".to_owned());
        settings.user_url = settings.python_url.clone();
        assert_eq!(by("pythonfaas", false, &settings), "python");
        assert_eq!(by("Python", true, &settings), "python");
        assert_eq!(by("ruby", true, &settings), "400 Unsupported language");
        assert_eq!(by("javascript", true, &settings), "here");
        assert_eq!(by("javascript", false, &settings), "404 Transformation not found");
        settings.has_own_user_url = true;
        assert_eq!(by("", false, &settings), "elsewhere");
        assert_eq!(by("", true, &settings), "here");
    }

    #[test]
    fn native_types_and_those_in_files_never_go_elsewhere() {
        for (kind, expected) in [("GA4", true), ("WEBHOOK", false), ("S3", false), ("ELOQUA", false), ("", false)] {
            assert_eq!(may_go_elsewhere(kind), expected, "{kind}");
        }
    }

    #[test]
    fn events_that_an_answer_does_not_name_were_dropped_and_a_refused_call_fails_all() {
        let item = |place, status, output: Option<&str>| Item {
            place,
            status,
            output: output.map(str::to_owned),
            error: "E".to_owned(),
        };
        let items = vec![
            item(Place::Given(2), 200, Some("{}")),
            item(Place::Given(1), 400, None),
            item(Place::Fresh("new".to_owned()), 200, Some("{}")),
        ];
        let told: Vec<(Origin, u16)> =
            reply(Ok(items), 3).results.into_iter().map(|result| (result.origin, result.verdict.status())).collect();
        let fresh = Origin::Fresh { message_id: "new".to_owned() };
        assert_eq!(told, [(Origin::Event(0), 298), (Origin::Event(2), 200), (Origin::Event(1), 400), (fresh, 200)]);
        let failed = reply(Err(Failed { status: 909, error: "E".to_owned() }), 2);
        assert!(failed.results.iter().all(|result| result.verdict.status() == 909) && failed.results.len() == 2);
    }
}

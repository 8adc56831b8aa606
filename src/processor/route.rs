//! Routes: a source's destinations with everything that does not depend on the event, made once per read.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::archive;
use super::choose::{Candidate, candidates};
use super::filter::EventFilter;
use super::lookups::Lookups;
use super::parameters;
use super::rows::Rows;
use super::tracking_plan::SourcePlan;
use super::transform_at::TransformAt;
use super::transformers::{self, Transformer};
use crate::backend_config::{Snapshot, Source, Workspace};
use crate::destination::{Plan, is_batch};
use crate::jobsdb::Queue;
use crate::settings::Settings;
use crate::transform::Refusal;

/// A source and the ways that its events may take.
pub(super) struct SourceRoutes {
    pub(super) source: Arc<Source>,
    pub(super) routes: Vec<Route>,
    /// Whether there is an archive for this workspace.
    pub(super) has_archive: bool,
    /// Reverse-ETL sources carry members that are not for destinations.
    pub(super) is_reverse_etl: bool,
    /// What its events are held against.
    pub(super) plan: Option<SourcePlan>,
}

/// The way to one destination.
pub(super) struct Route {
    pub(super) candidate: Candidate,
    pub(super) transform_at: TransformAt,
    /// The user transformation, if there is one.
    pub(super) transformer: Option<Result<Transformer, Refusal>>,
    /// Who transforms for the destination, where that is not `plan`.
    pub(super) elsewhere: Option<Transformer>,
    pub(super) filter: EventFilter,
    pub(super) plan: Plan,
    /// How events become rows, for warehouses; instead of `plan`.
    pub(super) rows: Option<Rows>,
    /// Where the jobs go.
    pub(super) queue: Queue,
    /// The beginning of every job's parameters.
    pub(super) parameters: Vec<u8>,
}

impl SourceRoutes {
    /// The routes of a source; `None` when the workspace does not know it.
    pub(super) fn of(
        source_id: &str,
        snapshot: &Snapshot,
        settings: &Settings,
        lookups: &Lookups,
    ) -> Option<SourceRoutes> {
        let source = Arc::clone(snapshot.source_by_id.get(source_id)?);
        let workspace = snapshot.workspaces.get(&source.workspace_id);
        let workspace_settings: Option<&Map<String, Value>> = workspace.map(|workspace| &workspace.settings);
        let nothing = Workspace::default();
        let workspace = workspace.map_or(&nothing, |workspace| workspace);
        let route = |candidate| Route::new(&source, candidate, workspace, settings);
        let routes = candidates(&source).into_iter().map(route).collect();
        Some(SourceRoutes {
            routes,
            has_archive: archive::exists(&settings.archival, workspace_settings),
            plan: lookups.plan_of(&source, snapshot),
            is_reverse_etl: source.definition.category == "warehouse",
            source,
        })
    }
}

impl SourceRoutes {
    /// Whether nothing can come of this source's events, whatever is in them.
    pub(super) fn lead_nowhere(&self) -> bool {
        self.routes.is_empty() && !self.has_archive
    }
}

impl Route {
    fn new(source: &Source, candidate: Candidate, workspace: &Workspace, settings: &Settings) -> Route {
        let destination = &candidate.destination;
        let transform_at = TransformAt::of(&settings.processor, destination);
        Route {
            transform_at,
            transformer: transformers::of_user(destination, workspace, &settings.transformer),
            elsewhere: if transform_at == TransformAt::Processor {
                transformers::of_destination(&source.id, destination, workspace, &settings.transformer)
            } else {
                None
            },
            filter: EventFilter::new(source, destination, transform_at),
            plan: Plan::new(destination),
            rows: Rows::new(destination, settings),
            queue: if is_batch(&destination.definition.name) { Queue::BatchRt } else { Queue::Rt },
            parameters: parameters::of_connection(source, destination, transform_at.name()),
            candidate,
        }
    }
}

//! What events are held against and that outlives a read: compiled tracking plans, and the GeoIP database.

use std::sync::Arc;

use super::geo_file::GeoFile;
use super::tracking_plan::{Plans, SourcePlan};
use crate::backend_config::{Snapshot, Source};

/// Shared by all workers.
#[derive(Default)]
pub struct Lookups {
    plans: Plans,
    pub(super) geo: GeoFile,
}

impl Lookups {
    /// The plan of a source with every version of it that the node has; `None` for a source without one.
    pub(super) fn plan_of(&self, source: &Source, snapshot: &Snapshot) -> Option<SourcePlan> {
        let wanted = source.tracking_plan.as_ref()?;
        let mut plan = SourcePlan::new(&wanted.id, wanted.version, &wanted.config, wanted.merged_config.as_ref());
        let workspace = snapshot.workspaces.get(&source.workspace_id);
        let stored = workspace.into_iter().flat_map(|workspace| workspace.tracking_plans.values());
        let versions = stored.filter(|stored| stored.id == wanted.id).map(Arc::clone).chain(wanted.plan.clone());
        for version in versions {
            plan = plan.with_version(&self.plans, version.version, version.hash, &version.document);
        }
        Some(plan)
    }
}

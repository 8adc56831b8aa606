//! Which upload is worked on next (warehouse.md 14.2).
//!
//! Uploads of one namespace of a destination run one at a time, the oldest of those whose time has come first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::records::Upload;
use super::{Shared, events, upload};

/// What an upload that is worked on keeps others from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    id: u64,
    kind: String,
    destination_id: String,
    namespace: String,
    source_id: String,
}

/// Uploads that are worked on.
#[derive(Default)]
pub(super) struct Running {
    tasks: JoinSet<Result<(), Failure>>,
    taken: HashMap<Id, Taken>,
}

impl Running {
    /// Whether the upload is worked on.
    pub(super) fn has(&self, upload_id: u64) -> bool {
        self.taken.values().any(|taken| taken.id == upload_id)
    }

    /// Starts work on every upload whose turn it is.
    pub(super) fn pick_up(&mut self, shared: &Arc<Shared>, stop: &CancellationToken) {
        let open = shared.ledger.open_uploads();
        events::open_uploads(open.len(), self.taken.len());
        let now_ms = shared.clock.now_ms();
        let mut candidates: Vec<Upload> = open
            .into_iter()
            .filter(|upload| !upload.status.is_final() && upload.next_retry_ms <= now_ms && !self.has(upload.id))
            .collect();
        candidates.sort_by(|one, other| {
            (one.priority, &one.first_event_at, one.id).cmp(&(other.priority, &other.first_event_at, other.id))
        });
        let settings = shared.settings.load();
        for upload in candidates {
            let of_type = settings.warehouse.of_type(&upload.destination_type);
            let count = |fits: &dyn Fn(&Taken) -> bool| self.taken.values().filter(|taken| fits(taken)).count();
            let of_namespace =
                |taken: &Taken| taken.destination_id == upload.destination_id && taken.namespace == upload.namespace;
            let is_full = count(&|taken| taken.kind == upload.destination_type) >= of_type.workers
                || count(&of_namespace) >= of_type.uploads_of_namespace
                || count(&|taken| of_namespace(taken) && taken.source_id == upload.source_id) >= 1;
            if is_full {
                continue;
            }
            let taken = Taken {
                id: upload.id,
                kind: upload.destination_type,
                destination_id: upload.destination_id,
                namespace: upload.namespace,
                source_id: upload.source_id,
            };
            let task = self.tasks.spawn(upload::work(Arc::clone(shared), upload.id, stop.clone()));
            shared.working.lock().insert(upload.id);
            self.taken.insert(task.id(), taken);
        }
    }

    /// The next upload that is not worked on any more; `None` when there is none.
    pub(super) async fn ended(&mut self, shared: &Shared) -> Option<Result<(), Failure>> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(error.into())),
        };
        if let Some(taken) = self.taken.remove(&id) {
            shared.working.lock().remove(&taken.id);
        }
        Some(result)
    }

    /// Waits for the uploads in hand; what takes longer is dropped and taken up again at the next start.
    pub(super) async fn wait(mut self, shared: &Shared, patience: Duration) {
        let all = async { while self.ended(shared).await.is_some() {} };
        if tokio::time::timeout(patience, all).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

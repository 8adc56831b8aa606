//! Where the files of one cut go: the storage of the destination, opened once per configuration, and the layout of
//! dates that each source's folder has.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::backend_config::Destination;
use crate::destination::warehouse::FileStorage;
use crate::object_storage::{Store, StoreContext, StoreError, key_prefix};
use crate::settings::Settings;

use super::drain::Moment;
use super::object_key::{DateLayout, LISTED_OBJECTS, Listing, folder_key};
use super::worker::Worker;

/// Where the jobs of a cut go. Found out before any of them is in memory: a storage that hangs keeps nothing
/// that other destinations wait for.
pub(super) enum Target {
    /// Nothing is asked of a storage.
    Nowhere,
    /// There, with the date layout of every source that had jobs waiting.
    Store(Opened, HashMap<String, DateLayout>),
    /// The storage cannot be used.
    Broken(StoreError),
}

/// An open storage.
#[derive(Clone)]
pub(super) struct Opened {
    /// The destination as it was then.
    of: Arc<Destination>,
    pub(super) store: Arc<Store>,
    /// The folder of a warehouse that has no bucket.
    pub(super) is_own_folder: bool,
    /// The provider by whose rule keys are joined.
    pub(super) provider: String,
}

impl Target {
    /// Whether a job of the source can be decided about.
    pub(super) fn knows(&self, source_id: &str) -> bool {
        match self {
            Target::Store(_, layouts) => layouts.contains_key(source_id),
            Target::Nowhere | Target::Broken(_) => true,
        }
    }
}

impl Worker {
    /// Opens the storage and finds out the layouts of its folders.
    pub(super) async fn target(&mut self, moment: &Moment) -> Target {
        let enabled = moment.destination.as_ref().filter(|destination| destination.enabled);
        let Some(destination) = enabled.filter(|_| !moment.settings.batch_router.disable_egress) else {
            return Target::Nowhere;
        };
        let opened = match self.open_store(moment, destination).await {
            Ok(opened) => opened,
            Err(error) => return Target::Broken(error),
        };
        let active = self.active();
        let sources: BTreeSet<&str> = active.iter().map(|active| active.partition.source_id.as_str()).collect();
        let mut layouts = HashMap::new();
        let mut answers = true;
        for source_id in sources {
            let layout = self.layout(moment, destination, &opened, source_id, &mut answers).await;
            layouts.insert(source_id.to_owned(), layout);
        }
        if !answers {
            self.breaker.record(false, Instant::now());
            self.show_error("the storage did not answer a listing in time");
        }
        Target::Store(opened, layouts)
    }

    pub(super) async fn open_store(
        &mut self,
        moment: &Moment,
        destination: &Arc<Destination>,
    ) -> Result<Opened, StoreError> {
        if let Some(opened) = &self.store
            && (Arc::ptr_eq(&opened.of, destination) || opened.of.config == destination.config)
        {
            return Ok(opened.clone());
        }
        let context = StoreContext {
            data_dir: self.shared.data_dir.clone(),
            destination_id: self.destination_id.clone(),
            workspace_id: destination.workspace_id.clone(),
            timeout: moment.of_type.storage_timeout,
            region_hint: moment.settings.batch_router.s3_region_hint.clone(),
            block_private_ips: moment.settings.batch_router.block_private_ips,
        };
        let opening = async {
            let (kind, config) = (self.destination_type.as_str(), &destination.config);
            if self.is_warehouse {
                Store::of_warehouse(kind, config, &context).await
            } else {
                Store::open(kind, config, &context).await.map(|store| (store, false))
            }
        };
        let Ok(opened) = tokio::time::timeout(context.timeout, opening).await else {
            let timeout_s = context.timeout.as_secs();
            return Err(StoreError::Refused(format!("the storage did not answer within {timeout_s} s")));
        };
        let (store, is_own_folder) = opened?;
        let provider = if self.is_warehouse {
            match FileStorage::of_warehouse(&self.destination_type, &destination.config) {
                Ok(FileStorage::Provider(provider)) => provider.to_owned(),
                Ok(FileStorage::Local) | Err(_) => "LOCAL".to_owned(),
            }
        } else {
            self.destination_type.clone()
        };
        let opened = Opened { of: Arc::clone(destination), store: Arc::new(store), is_own_folder, provider };
        self.store = Some(opened.clone());
        self.layouts.clear();
        Ok(opened)
    }

    /// The folder of the destination's files below the configured prefix.
    pub(super) fn folder<'s>(&self, settings: &'s Settings) -> &'s str {
        if self.is_warehouse { &settings.warehouse_rows.staging_folder } else { &settings.batch_router.bucket_folder }
    }

    /// The date layout for the source: chosen by the operator, or as its bucket has it. A bucket that let the time
    /// of one listing pass is asked no more; `answers` tells.
    async fn layout(
        &mut self,
        moment: &Moment,
        destination: &Destination,
        opened: &Opened,
        source_id: &str,
        answers: &mut bool,
    ) -> DateLayout {
        let settings = &moment.settings.batch_router;
        let chosen = settings.date_prefix_override(&destination.workspace_id, &self.destination_id);
        if let Some(layout) = DateLayout::chosen(&chosen) {
            return layout;
        }
        if let Some(layout) = self.layouts.get(source_id) {
            return *layout;
        }
        let prefix = key_prefix(&destination.config);
        let folder = folder_key(&opened.provider, &prefix, self.folder(&moment.settings), source_id);
        if !*answers {
            return DateLayout::of_listing(&folder, Listing::Failed);
        }
        // A little shorter than what the client waits, whose error would not tell silence from a refusal.
        let patience = moment.of_type.storage_timeout.mul_f64(0.9);
        match tokio::time::timeout(patience, opened.store.list(&folder, LISTED_OBJECTS)).await {
            Ok(Ok(keys)) => {
                let layout = DateLayout::of_listing(&folder, Listing::Keys(&keys));
                self.layouts.insert(source_id.to_owned(), layout);
                layout
            }
            Ok(Err(_)) => DateLayout::of_listing(&folder, Listing::Failed),
            Err(_) => {
                *answers = false;
                DateLayout::of_listing(&folder, Listing::Failed)
            }
        }
    }
}

//! From the jobs of one cut to files on their way: each is written, its manifest stored, its upload started.
//!
//! Staging files of warehouses have no manifest. Loading goes by their records, and a record is stored in the one
//! transaction that ends the jobs; an object without one, left by a crash, is never read (router.md 19.7).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinError};
use uuid::Uuid;

use crate::backend_config::Destination;
use crate::jobsdb::{Durability, JobsDbError, Partition, Queue, Tx};
use crate::object_storage::{Store, StoreError, key_prefix, one_component};

use super::cut::{cuts, files};
use super::drain::{Moment, Picked};
use super::manifest::{Manifest, ranges};
use super::object_key::{DateLayout, KeyParts, day_in_zone, file_name, object_key};
use super::result::{RetryLimit, Verdict};
use super::staging::{Staged, by_hour, record_of, write_rows};
use super::target::{Opened, Target};
use super::upload::{BatchFile, FileEnd, HeldLeases, Limits, Outline, deliver, settle_unwritten, write_jobs};
use super::worker::Worker;

/// Uploads that run when the node stops get this long.
const STOP_PATIENCE: Duration = Duration::from_secs(6);

/// Most bytes that the end of one row takes in a transaction, roughly: all rows of a staging file end in one.
const BYTES_PER_END: u64 = 1_024;

/// What became of a file.
pub(super) type Delivery = Result<FileEnd, JobsDbError>;

/// A finished local file, and what a restart is to know of it.
type Written = (BatchFile, Option<Manifest>);

/// The jobs of one file, and the hour that they belong to where files are made by the hour.
type Part = (Option<String>, Vec<Picked>);

impl Worker {
    /// Turns jobs into files and starts their uploads, which take the leases over.
    pub(super) async fn send(
        &mut self,
        moment: &Moment,
        destination: &Arc<Destination>,
        target: Target,
        jobs: Vec<Picked>,
        leases: HeldLeases,
    ) -> Result<(), JobsDbError> {
        let limits = self.limits(moment);
        if moment.settings.batch_router.disable_egress {
            settle_unwritten(&self.shared, jobs, Verdict::EgressDisabled, limits).await?;
            leases.decided();
            return Ok(());
        }
        let (opened, layouts) = match target {
            Target::Store(opened, layouts) => (opened, layouts),
            // Nothing is decided about them: their leases go back.
            Target::Nowhere => return Ok(()),
            Target::Broken(error) => {
                let text = error.to_string();
                self.show_error(&text);
                let verdict = match &error {
                    StoreError::Unsupported(provider) => Verdict::Unsupported(provider),
                    other => Verdict::Failed { error: &text, unreachable: other.is_unreachable() },
                };
                if !matches!(verdict, Verdict::Unsupported(_)) {
                    self.breaker.record(false, Instant::now());
                }
                settle_unwritten(&self.shared, jobs, verdict, limits).await?;
                leases.decided();
                return Ok(());
            }
        };

        let mut written: Vec<Written> = Vec::new();
        for cut in cuts(jobs, self.most_jobs_of_file(moment)) {
            for (hour, jobs) in self.parts(cut).await? {
                match self.write(moment, destination, &opened, &layouts, limits, (hour, jobs)).await {
                    Ok(file) => written.push(file),
                    Err(problem) => {
                        tracing::error!(destination = %self.destination_id, %problem, "cannot write a file for upload");
                        self.show_error(&problem);
                        self.breaker.record(false, Instant::now());
                        for (file, _) in written {
                            self.shared.remove_work_path(file.path).await;
                        }
                        return Ok(());
                    }
                }
            }
        }
        let mut tx = Tx::new(Durability::Durable);
        for (file, manifest) in &written {
            if let Some(manifest) = manifest {
                tx.journal_put(Queue::BatchRt, manifest.to_record(file.op, file.picked_ms));
            }
        }
        if !tx.is_empty()
            && let Err(error) = self.shared.jobs.commit(tx).await
        {
            // A commit of unknown fate may have stored them; what is left is found and decided at the next start.
            if let JobsDbError::Failed(_) = error {
                return Err(error);
            }
            self.show_error(&error.to_string());
            self.breaker.record(false, Instant::now());
            return Ok(());
        }
        leases.decided();
        for (mut file, manifest) in written {
            let leases = file.outlines.iter().map(|outline| outline.lease).collect();
            file.leases = HeldLeases::new(&self.shared.jobs, leases);
            self.start(moment, &opened.store, file, manifest);
        }
        Ok(())
    }

    fn limits(&self, moment: &Moment) -> Limits {
        let of_type = &moment.of_type;
        Limits {
            of_events: RetryLimit { attempts: of_type.max_failed_count, window: of_type.retry_time_window },
            of_runs: RetryLimit { attempts: of_type.run_max_failed_count, window: of_type.run_retry_time_window },
            of_records: self.is_warehouse.then_some(RetryLimit { attempts: 0, window: of_type.record_retry_time }),
        }
    }

    /// Jobs that cut a batch. The rows of a staging file end in one transaction, whatever the operator chose.
    fn most_jobs_of_file(&self, moment: &Moment) -> usize {
        let fit = usize::try_from(moment.settings.storage.max_tx_bytes / BYTES_PER_END).unwrap_or(usize::MAX);
        if self.is_warehouse { moment.of_type.max_events.min(fit).max(1) } else { moment.of_type.max_events }
    }

    /// Splits one cut into files.
    async fn parts(&self, cut: Vec<Picked>) -> Result<Vec<Part>, JobsDbError> {
        if self.is_data_lake {
            let split = tokio::task::spawn_blocking(move || by_hour(cut)).await;
            return split.map_err(|error| JobsDbError::Failed(error.to_string()));
        }
        Ok(files(cut, |picked| picked.job.partition.id).into_iter().map(|(_, jobs)| (None, jobs)).collect())
    }

    fn start(&mut self, moment: &Moment, store: &Arc<Store>, file: BatchFile, manifest: Option<Manifest>) {
        let (op, picked_ms) = (file.op, file.picked_ms);
        let shared = Arc::clone(&self.shared);
        let store = Arc::clone(store);
        let of_type = self.shared.uploads_of_type(&self.destination_type, moment.of_type.upload_limit);
        let room = [Arc::clone(&self.room), of_type];
        let timeout = moment.of_type.storage_timeout;
        let task = self.uploads.spawn(async move { deliver(&shared, &store, file, room, timeout).await });
        if let Some(manifest) = manifest {
            self.running.insert(task.id(), (op, picked_ms, manifest));
        }
    }

    /// Writes the jobs of one source into a file in the work folder.
    async fn write(
        &self,
        moment: &Moment,
        destination: &Arc<Destination>,
        opened: &Opened,
        layouts: &HashMap<String, DateLayout>,
        limits: Limits,
        (hour, jobs): Part,
    ) -> Result<Written, String> {
        let Some(first) = jobs.first() else { return Err("there are no jobs to write".to_owned()) };
        let partition: Arc<Partition> = Arc::clone(&first.job.partition);
        let source_id = partition.source_id.as_str();
        let Some(&layout) = layouts.get(source_id) else {
            return Err(format!("the folder layout of source {source_id} is not known"));
        };
        let settings = &moment.settings.batch_router;
        let picked_ms = self.shared.clock.now_ms();
        let (date, unknown_zone) = day_in_zone(picked_ms, &settings.time_zone(&destination.workspace_id));
        if let Some(zone) = unknown_zone {
            tracing::error!(workspace = %destination.workspace_id, zone, "unknown time zone for object keys; UTC is used");
        }
        let uuid = Uuid::new_v4();
        let started_s = picked_ms.div_euclid(1000);
        let key = object_key(&KeyParts {
            provider: &opened.provider,
            prefix: &key_prefix(&destination.config),
            folder: self.folder(&moment.settings),
            source_id,
            custom_date_prefix: &moment.of_type.custom_date_prefix,
            date,
            layout,
            started_s,
            uuid,
        });
        let name = file_name(started_s, &one_component(source_id), uuid);
        let path = self.shared.work_file(&name);
        let job_ids = ranges(jobs.iter().map(|picked| picked.job.id));
        let record = self.is_warehouse.then(|| {
            let mut record = record_of(first, destination, &key, hour);
            record.use_rudder_storage = opened.is_own_folder;
            record.server_instance_id.clone_from(&moment.settings.archival.instance_id);
            record
        });
        let (writing, rules) = (path.clone(), Arc::clone(&self.merge_rules));
        let written = tokio::task::spawn_blocking(move || {
            let mut outlines: Vec<Outline> = jobs.iter().map(|picked| Outline::of(picked, limits, picked_ms)).collect();
            let Some(record) = record else { return Ok((write_jobs(&writing, &jobs)?, outlines, None)) };
            let rows = write_rows(&writing, &jobs, record, &rules)?;
            for (outline, is_written) in outlines.iter_mut().zip(&rows.is_written) {
                outline.is_written = *is_written;
            }
            let staged = Staged { record: rows.record, new_rules: rows.new_rules, rules };
            Ok::<_, std::io::Error>((rows.bytes, outlines, Some(Box::new(staged))))
        })
        .await;
        let (bytes, outlines, staged) = match written {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => {
                let text = format!("cannot write {}: {error}", path.display());
                self.shared.remove_work_path(path).await;
                return Err(text);
            }
            Err(error) => return Err(format!("internal error while writing {}: {error}", path.display())),
        };
        let manifest = staged.is_none().then(|| Manifest {
            destination_id: self.destination_id.clone(),
            destination_type: self.destination_type.clone(),
            source_id: source_id.to_owned(),
            key: key.clone(),
            bytes,
            file: name,
            jobs: job_ids,
        });
        let file = BatchFile {
            partition: Arc::clone(&partition),
            destination: Arc::clone(destination),
            key,
            path,
            bytes,
            op: self.shared.next_op(),
            picked_ms,
            outlines,
            staged,
            record_limit: limits.of_records,
            leases: HeldLeases::new(&self.shared.jobs, Vec::new()),
        };
        Ok((file, manifest))
    }

    pub(super) fn upload_ended(&mut self, ended: Result<(Id, Delivery), JoinError>) -> Result<(), JobsDbError> {
        let now_ms = self.shared.clock.now_ms();
        match ended {
            Ok((id, delivery)) => {
                self.running.remove(&id);
                let end = delivery?;
                self.breaker.record(end.result.is_ok(), Instant::now());
                match end.result {
                    Ok(location) => self.shared.board.destination(&self.destination_id, |figures| {
                        figures.last_location = Some(location);
                        figures.last_upload_ms = Some(now_ms);
                        figures.last_error = None;
                        figures.last_error_ms = None;
                        figures.files += 1;
                        figures.jobs += end.jobs;
                    }),
                    Err(error) => self.show_error(&error.to_string()),
                }
            }
            Err(error) => {
                // Its object may have arrived: the manifest tells, as after a crash. Jobs without one are back in the
                // queue.
                if let Some((op, start_ms, manifest)) = self.running.remove(&error.id()) {
                    self.recovery.add(&self.shared, op, start_ms, manifest);
                }
                self.breaker.record(false, Instant::now());
                tracing::error!(destination = %self.destination_id, %error, "an upload ended by an internal error");
                self.show_error("an upload ended by an internal error");
            }
        }
        Ok(())
    }

    /// Lets running uploads end within a bound; what is cut off is decided at the next start.
    pub(super) async fn wind_down(mut self) -> Result<(), JobsDbError> {
        let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
        loop {
            match tokio::time::timeout_at(deadline, self.uploads.join_next_with_id()).await {
                Ok(Some(ended)) => self.upload_ended(ended)?,
                Ok(None) => break,
                Err(_) => {
                    self.uploads.shutdown().await;
                    break;
                }
            }
        }
        Ok(())
    }
}

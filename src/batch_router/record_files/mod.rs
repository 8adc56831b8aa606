//! Files of records for servers that take whole files (router.md 22): SFTP.
//!
//! In: jobs of one destination, `record` events of reverse-ETL runs. Out: a CSV or JSON file for each run and upload,
//! its parts numbered from 1. The server answers at once, so nothing is ever `importing` here.
//!
//! Promises: as for object storages, a record in one file only, also when the node dies between an upload and the
//! states of its jobs ([`super::manifest`]); what the server refuses is given up, what did not reach it waits.
//!
//! Unlike the peer nothing is gathered in a local file meanwhile: jobs wait in the queue, and those that do not fit
//! into one file go into the next.

mod content;
mod parts;
mod place;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_config::Destination;
use crate::jobsdb::{Durability, JobsDbError, Limits as FetchLimits, Queue, Select, Tx};
use crate::object_storage::{Store, StoreContext, StoreError, one_component};
use crate::settings::BatchRouterTypeSettings;

use super::Shared;
use super::breaker::{Breaker, Pace};
use super::cut::{CutTimer, files};
use super::drain::{Absence, Moment, Picked, drain};
use super::manifest::{Manifest, ranges};
use super::pickup::JobParameters;
use super::recovery::Recovery;
use super::result::{RetryLimit, Verdict};
use super::upload::{HeldLeases, Limits, commit_surely, settle_success, settle_unwritten, upload_and_verify};

use content::Format;
use parts::Part;

/// Destination types that are served here.
pub(super) const TYPES: [&str; 1] = ["SFTP"];

/// Why an event that is no record is given up.
const NO_RECORD: &str = "only events of type record, with fields, can be written into files of records";

/// The worker of one destination.
pub(super) struct RecordWorker {
    shared: Arc<Shared>,
    destination_id: String,
    destination_type: String,
    waker: Arc<Notify>,
    timer: CutTimer,
    breaker: Breaker,
    recovery: Recovery,
    absence: Absence,
}

impl RecordWorker {
    pub(super) fn new(
        shared: &Arc<Shared>,
        destination_id: &str,
        destination_type: &str,
        recovery: Recovery,
    ) -> RecordWorker {
        let of_type = shared.settings.load().batch_router.of_type(destination_type);
        RecordWorker {
            shared: Arc::clone(shared),
            destination_id: destination_id.to_owned(),
            destination_type: destination_type.to_owned(),
            waker: shared.jobs.waker(Queue::BatchRt, &Select::destination(destination_id)),
            timer: CutTimer::new(Instant::now(), of_type.async_upload_timeout),
            breaker: Breaker::default(),
            recovery,
            absence: Absence::default(),
        }
    }

    /// Serves the destination until the stop. Ends early when the destination is neither configured nor has jobs.
    ///
    /// # Errors
    /// The job store failed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), JobsDbError> {
        parts::forget_old(&self.shared.jobs, &self.destination_id, self.shared.clock.now_ms()).await?;
        let mut look_at = Some(Instant::now());
        loop {
            let now = Instant::now();
            let of_type = self.shared.settings.load().batch_router.of_type(&self.destination_type);
            let interval = self.interval(&of_type);
            self.timer.shorten(now, interval);
            let pace = self.breaker.pace(of_type.max_consecutive_failures, of_type.breaker_open, now);
            self.show(pace);
            let planned = look_at.map_or(self.timer.next(), |at| at.min(self.timer.next()));
            let wake_at = match pace {
                Pace::OpenUntil(until) => planned.max(until),
                Pace::Closed | Pace::Trial => planned,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.waker.notified(), if look_at.is_none() => {
                    look_at = Some(now + of_type.ping_frequency);
                    continue;
                }
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
            look_at = None;
            if self.is_abandoned() {
                self.shared.board.forget_destination(&self.destination_id);
                return Ok(());
            }
            let (waiting, bytes) = self.waiting();
            let is_due = Instant::now() >= self.timer.next() || bytes >= of_type.max_payload_bytes;
            if waiting == 0 && self.recovery.is_empty() || !is_due && self.recovery.is_empty() {
                if waiting == 0 {
                    self.timer.restart(Instant::now(), interval);
                }
                continue;
            }
            self.timer.restart(Instant::now(), interval);
            // Cut short by a stop it is done again at the next start: the manifest tells how far it came.
            let Some(turn) = stop.run_until_cancelled(Box::pin(self.turn(&of_type))).await else { return Ok(()) };
            if turn? {
                look_at = Some(Instant::now());
            }
        }
    }

    /// The destination's own interval in minutes, else that of the settings.
    fn interval(&self, of_type: &BatchRouterTypeSettings) -> Duration {
        let snapshot = self.shared.config.borrow().clone();
        let destination = snapshot.and_then(|snapshot| snapshot.destination_by_id.get(&self.destination_id).cloned());
        let minutes = destination.and_then(|destination| match destination.config.get("uploadInterval")? {
            Value::String(text) => text.trim().parse::<u64>().ok(),
            number => number.as_u64(),
        });
        minutes.filter(|minutes| *minutes > 0).map_or(of_type.async_upload_timeout, |m| Duration::from_secs(m * 60))
    }

    fn waiting(&self) -> (u64, u64) {
        let mut active = self.shared.jobs.active(Queue::BatchRt);
        active.retain(|active| active.partition.destination_id == self.destination_id);
        active.iter().fold((0, 0), |sum, active| (sum.0 + active.pending, sum.1 + active.pending_bytes))
    }

    fn is_abandoned(&self) -> bool {
        let snapshot = self.shared.config.borrow().clone();
        let configured = snapshot.is_none_or(|snapshot| snapshot.destination_by_id.contains_key(&self.destination_id));
        !configured && self.recovery.is_empty() && self.waiting().0 == 0
    }

    fn show(&self, pace: Pace) {
        let left = self.timer.next().saturating_duration_since(Instant::now());
        let left_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
        let next_cut_ms = self.shared.clock.now_ms().saturating_add(left_ms);
        self.shared.board.destination(&self.destination_id, |figures| {
            figures.destination_type.clone_from(&self.destination_type);
            figures.next_cut_ms = Some(next_cut_ms);
            figures.breaker = pace.into();
            figures.failures_in_a_row = self.breaker.failures();
            figures.undecided_uploads = self.recovery.undecided();
        });
    }

    fn failed(&mut self, error: &str) {
        self.breaker.record(false, Instant::now());
        self.shared.show_error(&self.destination_id, error);
    }

    /// `None` while no configuration is known, and while a destination that left it is given time to come back.
    async fn moment(&mut self, of_type: &BatchRouterTypeSettings) -> Result<Option<Arc<Moment>>, JobsDbError> {
        let (settings, of_type) = (self.shared.settings.load(), Arc::new(of_type.clone()));
        let moment = Moment::of(&self.shared, &self.destination_id, settings, of_type).await?;
        Ok(moment.filter(|moment| !self.absence.is_short(moment, self.shared.clock.now_ms())))
    }

    /// Decides about interrupted uploads, then makes and sends one file for each run. Whether more may wait.
    async fn turn(&mut self, of_type: &BatchRouterTypeSettings) -> Result<bool, JobsDbError> {
        let Some(moment) = self.moment(of_type).await?.filter(|moment| !moment.paused) else { return Ok(false) };
        let enabled = moment.destination.clone().filter(|destination| destination.enabled);
        let store = match &enabled {
            Some(destination) => Some(self.open(&moment, destination).await),
            None => None,
        };
        if self.recovery.undecided() > 0 {
            let open = store.as_ref().and_then(|store| store.as_ref().ok());
            let retention = moment.settings.batch_router.manifest_retention;
            if !self.recovery.ask(&self.shared, open, of_type.storage_timeout, retention).await? {
                self.failed("the server does not tell whether an interrupted upload arrived");
                return Ok(false);
            }
        }
        let limits = FetchLimits { jobs: of_type.query_size, events: 0, bytes: of_type.max_payload_bytes };
        let select = Select::destination(&self.destination_id);
        let page = self.shared.jobs.fetch_async(Queue::BatchRt, &select, limits).await?;
        let more = page.limits_reached;
        let held = HeldLeases::new(&self.shared.jobs, page.jobs.iter().map(|job| job.lease).collect());
        let jobs = self.recovery.keep_aside(page.jobs);
        let leases = HeldLeases::new(&self.shared.jobs, jobs.iter().map(|job| job.lease).collect());
        held.decided();
        self.recovery.settle(&self.shared, !more).await?;
        let jobs = drain(&self.shared, &self.destination_id, &moment, jobs).await?;
        let (Some(destination), Some(store)) = (enabled, store) else { return Ok(more) };
        let limits = retry_limits(of_type);
        if moment.settings.batch_router.disable_egress {
            settle_unwritten(&self.shared, jobs, Verdict::EgressDisabled, limits).await?;
            leases.decided();
            return Ok(more);
        }
        let mut sent_all = true;
        for (_, of_run) in files(jobs, |picked| (picked.job.partition.id, run_id(picked))) {
            sent_all &= self.send(&destination, &store, of_type, of_run, limits).await?;
        }
        leases.decided();
        Ok(more && sent_all)
    }

    async fn open(&self, moment: &Moment, destination: &Destination) -> Result<Store, StoreError> {
        let context = StoreContext {
            data_dir: self.shared.data_dir.clone(),
            destination_id: self.destination_id.clone(),
            workspace_id: destination.workspace_id.clone(),
            timeout: moment.of_type.storage_timeout,
            region_hint: String::new(),
            block_private_ips: moment.settings.batch_router.block_private_ips,
        };
        Store::open(&self.destination_type, &destination.config, &context).await
    }

    /// One file of one run: written, sent, its jobs settled. `false` = the server could not be reached.
    async fn send(
        &mut self,
        destination: &Destination,
        store: &Result<Store, StoreError>,
        of_type: &BatchRouterTypeSettings,
        jobs: Vec<Picked>,
        limits: Limits,
    ) -> Result<bool, JobsDbError> {
        let mut records = Vec::with_capacity(jobs.len());
        let (mut written, mut others) = (Vec::with_capacity(jobs.len()), Vec::new());
        for picked in jobs {
            match content::record_of(&picked.job.payload) {
                Some(record) => {
                    records.push(record);
                    written.push(picked);
                }
                None => others.push(picked),
            }
        }
        settle_unwritten(&self.shared, others, Verdict::Rejected(NO_RECORD), limits).await?;
        let Some(first) = written.first() else { return Ok(true) };
        let (run, source_id) = (run_id(first), first.job.partition.source_id.clone());

        let path = destination.config.get("filePath").and_then(Value::as_str).unwrap_or_default();
        let path = place::checked(path).map_err(StoreError::Misconfigured);
        let (store, path) = match (store, path) {
            (Ok(store), Ok(path)) => (store, path),
            (Err(error), _) => return self.settle_failure(written, &error.clone(), limits).await,
            (_, Err(error)) => return self.settle_failure(written, &error, limits).await,
        };
        let now_ms = self.shared.clock.now_ms();
        let part = parts::read(&self.shared.jobs, &self.destination_id, &run).await?;
        let part = part.unwrap_or_else(|| Part {
            path: place::expanded(path, &self.destination_id, &run, now_ms),
            next: 1,
            written_ms: now_ms,
        });
        let key = place::numbered(&part.path, part.next);
        let name = format!("{}.{}", one_component(&self.destination_id), Uuid::new_v4());
        let bytes = match self.write(&name, records, format_of(destination)).await {
            Ok(bytes) => bytes,
            Err(problem) => {
                self.failed(&problem);
                self.shared.jobs.release(&written.iter().map(|picked| picked.job.lease).collect::<Vec<_>>());
                return Ok(false);
            }
        };
        let manifest = Manifest {
            destination_id: self.destination_id.clone(),
            destination_type: self.destination_type.clone(),
            source_id,
            key: key.clone(),
            bytes,
            file: name.clone(),
            jobs: ranges(written.iter().map(|picked| picked.job.id)),
        };
        let op = self.shared.next_op();
        commit_surely(&self.shared.jobs, || {
            let mut tx = Tx::new(Durability::Durable);
            tx.journal_put(Queue::BatchRt, manifest.to_record(op, now_ms));
            parts::put_next(&mut tx, &self.destination_id, &run, &part, now_ms);
            tx
        })
        .await?;
        let sent = upload_and_verify(store, &key, &self.shared.work_file(&name), bytes, of_type.storage_timeout).await;
        let reached = match sent {
            Ok(location) => {
                let count = u64::try_from(written.len()).unwrap_or(u64::MAX);
                settle_success(&self.shared, &written, op).await?;
                self.breaker.record(true, Instant::now());
                self.shared.board.destination(&self.destination_id, |figures| {
                    figures.last_location = Some(location);
                    figures.last_upload_ms = Some(now_ms);
                    figures.last_error = None;
                    figures.last_error_ms = None;
                    figures.files += 1;
                    figures.jobs += count;
                });
                true
            }
            Err(error) => {
                commit_surely(&self.shared.jobs, || {
                    let mut tx = Tx::new(Durability::Lazy);
                    tx.journal_delete(Queue::BatchRt, op);
                    tx
                })
                .await?;
                self.settle_failure(written, &error, limits).await?
            }
        };
        self.shared.remove_work_file(&name).await;
        Ok(reached)
    }

    /// What did not reach the server waits; what it refused is given up. Whether it was reached.
    async fn settle_failure(
        &mut self,
        jobs: Vec<Picked>,
        error: &StoreError,
        limits: Limits,
    ) -> Result<bool, JobsDbError> {
        let text = error.to_string();
        self.failed(&text);
        let unreachable = error.is_unreachable();
        let verdict =
            if unreachable { Verdict::Failed { error: &text, unreachable } } else { Verdict::Rejected(&text) };
        settle_unwritten(&self.shared, jobs, verdict, limits).await?;
        Ok(!unreachable)
    }

    /// Writes the file and brings it to disk.
    async fn write(&self, name: &str, records: Vec<Map<String, Value>>, format: Format) -> Result<u64, String> {
        let path = self.shared.work_file(name);
        let writing = tokio::task::spawn_blocking(move || {
            let content = content::encode(&records, format)?;
            let written = std::fs::write(&path, &content).and_then(|()| std::fs::File::open(&path)?.sync_all());
            written.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Ok(u64::try_from(content.len()).unwrap_or(u64::MAX))
        });
        writing.await.map_err(|error| error.to_string())?
    }
}

fn run_id(picked: &Picked) -> String {
    JobParameters::of(&picked.job).source_job_run_id.to_string()
}

fn format_of(destination: &Destination) -> Format {
    let config = &destination.config;
    if config.get("fileFormat").and_then(Value::as_str).is_some_and(|format| format.eq_ignore_ascii_case("csv")) {
        Format::Csv { sorted: config.get("sortColumnNames") == Some(&Value::Bool(true)) }
    } else {
        Format::Json
    }
}

fn retry_limits(of_type: &BatchRouterTypeSettings) -> Limits {
    Limits {
        of_events: RetryLimit { attempts: of_type.max_failed_count, window: of_type.retry_time_window },
        of_runs: RetryLimit { attempts: of_type.run_max_failed_count, window: of_type.run_retry_time_window },
        of_records: None,
    }
}

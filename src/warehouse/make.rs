//! Making uploads of pending staging files (warehouse.md 14.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::connection::Connection;
use super::events;
use super::ledger::Pending;
use super::pickup::Running;
use super::records::{ASKED_PRIORITY, PRIORITY, Upload};
use super::schedule::{History, Rules, Timetable, is_due};
use super::schema::Schema;
use super::state::State;
use super::{Pair, Shared};
use crate::jobsdb::JobsDbError;

/// Longest wait of a new upload where new ones wait a little. Milliseconds.
const MOST_JITTER_MS: u64 = 15_000;

/// Makes the uploads of every connection that is due.
pub(super) async fn due_uploads(shared: &Arc<Shared>, running: &Running) -> Result<(), JobsDbError> {
    let pending = shared.ledger.blocking(super::ledger::Ledger::pending).await?;
    events::pending_files(pending.len());
    let mut by_connection: BTreeMap<Pair, Vec<Pending>> = BTreeMap::new();
    for file in pending {
        let pair = (file.batch_destination.source.id.clone(), file.batch_destination.destination.id.clone());
        by_connection.entry(pair).or_default().push(file);
    }
    let Some(snapshot) = shared.config.borrow().clone() else { return Ok(()) };
    let settings = shared.settings.load();
    for (pair, files) in by_connection {
        let Some(connection) = Connection::find(&snapshot, &settings, &pair.0, &pair.1) else { continue };
        of_connection(shared, running, &connection, &pair, files).await?;
    }
    Ok(())
}

async fn of_connection(
    shared: &Arc<Shared>,
    running: &Running,
    connection: &Connection,
    pair: &Pair,
    mut files: Vec<Pending>,
) -> Result<(), JobsDbError> {
    let settings = shared.settings.load();
    let rules = &settings.warehouse;
    let now_ms = shared.clock.now_ms();
    let (source, destination) = pair.clone();
    let record = shared.ledger.blocking(move |ledger| ledger.connection(&source, &destination)).await?;
    let is_triggered = shared.triggers.lock().contains(pair);
    let history = History {
        made_here_ms: shared.made_here.lock().get(pair).copied(),
        newest_ms: record.as_ref().map(|record| record.created_ms),
        is_triggered,
    };
    let due = Rules {
        frequency: rules.upload_frequency,
        ignores_timetables: rules.ignores_sync_frequency,
        always: shared.is_always(),
    };
    if !is_due(now_ms, &Timetable::read(&connection.config), history, due) {
        return Ok(());
    }
    let of_connection: Vec<Upload> = shared
        .ledger
        .open_uploads()
        .into_iter()
        .filter(|upload| upload.source_id == pair.0 && upload.destination_id == pair.1)
        .collect();
    // One upload finds out when the warehouse is back; until then staging files wait, and go into few uploads.
    if !is_triggered && of_connection.iter().any(|upload| upload.was_unreachable && upload.next_retry_ms > now_ms) {
        return Ok(());
    }
    let newest = of_connection.into_iter().max_by_key(|upload| upload.id);
    let replaced = newest.filter(|upload| upload.is_untouched() && !running.has(upload.id));
    let mut priority = if is_triggered { ASKED_PRIORITY } else { PRIORITY };
    if let Some(replaced) = &replaced {
        priority = priority.min(replaced.priority);
        let id = replaced.id;
        files.extend(shared.ledger.blocking(move |ledger| ledger.staged_ids(id)).await?);
        files.sort_by_key(|file| file.id);
    }
    let namespace = connection.namespace(record.as_ref().map(|record| record.namespace.as_str()));
    let mut uploads = Vec::new();
    for files in cut(files, rules.files_of_upload) {
        let jitter_ms = if rules.has_jitter { jitter_ms() } else { 0 };
        let Some(mut upload) = new_upload(shared.ledger.next_upload_id(), connection, &namespace, &files, now_ms)
        else {
            continue;
        };
        upload.priority = priority;
        upload.next_retry_ms = now_ms.saturating_add(jitter_ms);
        events::upload_made(&upload);
        uploads.push((upload, files.iter().map(|file| file.id).collect()));
    }
    shared.ledger.create(uploads, replaced).await?;
    shared.made_here.lock().insert(pair.clone(), now_ms);
    shared.triggers.lock().remove(pair);
    Ok(())
}

/// Cuts files into uploads: at most so many, all in the same storage.
fn cut(files: Vec<Pending>, most: usize) -> Vec<Vec<Pending>> {
    let mut uploads: Vec<Vec<Pending>> = Vec::new();
    for file in files {
        match uploads.last_mut() {
            Some(last)
                if last.len() < most
                    && last.last().is_some_and(|before| before.use_rudder_storage == file.use_rudder_storage) =>
            {
                last.push(file);
            }
            _ => uploads.push(vec![file]),
        }
    }
    uploads
}

fn new_upload(id: u64, connection: &Connection, namespace: &str, files: &[Pending], now_ms: i64) -> Option<Upload> {
    let (first, last) = (files.first()?, files.last()?);
    Some(Upload {
        id,
        source_id: connection.source.id.clone(),
        destination_id: connection.destination.id.clone(),
        destination_type: connection.kind().to_owned(),
        workspace_id: connection.destination.workspace_id.clone(),
        namespace: namespace.to_owned(),
        status: State::Waiting,
        schema: Schema::new(),
        error: BTreeMap::new(),
        error_category: String::new(),
        first_event_at: first.first_event_at.clone(),
        last_event_at: last.last_event_at.clone(),
        total_events: files.iter().map(|file| file.total_events).sum(),
        start_staging_file_id: first.id,
        end_staging_file_id: last.id,
        staging_files: files.len() as u64,
        timings: vec![(State::Waiting, now_ms)],
        last_exec_ms: 0,
        next_retry_ms: now_ms,
        was_unreachable: false,
        window_start_ms: now_ms,
        priority: PRIORITY,
        retried: false,
        use_rudder_storage: first.use_rudder_storage,
        source_task_run_id: first.source_task_run_id.clone(),
        source_job_id: first.source_job_id.clone(),
        source_job_run_id: first.source_job_run_id.clone(),
        load_file_type: connection.format().name().to_owned(),
        archived: false,
        created_ms: now_ms,
        updated_ms: now_ms,
    })
}

fn jitter_ms() -> i64 {
    let random = uuid::Uuid::new_v4().as_u64_pair().0;
    i64::try_from(random % MOST_JITTER_MS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_cut_by_number_and_storage() {
        let file = |id, use_rudder_storage| Pending { id, use_rudder_storage, ..Pending::default() };
        let files = vec![file(1, true), file(2, true), file(3, true), file(4, false), file(5, true)];
        let cut: Vec<Vec<u64>> =
            cut(files, 2).into_iter().map(|files| files.into_iter().map(|file| file.id).collect()).collect();
        assert_eq!(cut, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }
}

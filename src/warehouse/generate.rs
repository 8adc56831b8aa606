//! The step in which staging files become load files in the object storage (warehouse.md 9).
//!
//! Nothing of it is stored before all of it is done: the records of the load files come with the end of the step, and
//! those of an earlier attempt go. Files of data lakes are the tables themselves, so their names depend on nothing but
//! the staging files: another attempt puts them in the same places.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use md5::{Digest, Md5};
use uuid::Uuid;

use super::failure::Failure;
use super::ledger;
use super::load_files::grouping::{Sized, groups};
use super::load_files::{self, Job, Written};
use super::places::{Place, one_part, window_folder};
use super::records::LoadFile;
use super::upload::{Worker, delete};
use crate::jobsdb::{Durability, StagingFile, Tx};
use crate::settings::WarehouseSettings;

/// What all groups of one generation share.
struct Generation {
    /// In the keys of its files, so that those of another one are never taken for its own.
    id: Uuid,
    job: Job,
    staging_place: Place,
    load_place: Place,
    rules: WarehouseSettings,
    folder: PathBuf,
}

/// Makes the load files of an upload.
pub(super) async fn load_files(worker: &Worker) -> Result<Tx, Failure> {
    let id = worker.upload.id;
    let read = move |ledger: &ledger::Ledger| Ok((ledger.staging_files(id)?, ledger.load_files(id)?));
    let (staged, old) = worker.shared.ledger.blocking(read).await?;
    let folder = worker.work_folder().join("generate");
    let made = generate(worker, staged, folder.clone()).await;
    if let Err(error) = tokio::fs::remove_dir_all(&folder).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "a work folder stays until the next start");
    }
    let (files, load_place) = made?;
    #[cfg(test)]
    worker.shared.may_die(super::Death::AfterStoringFiles).await;
    let keys: HashSet<&str> = files.iter().map(|file| file.key.as_str()).collect();
    let stale: Vec<&str> = old.iter().map(|file| file.key.as_str()).filter(|key| !keys.contains(key)).collect();
    if worker.provider.files_are_tables() || worker.connection.keeps_own_files(worker.upload.use_rudder_storage) {
        delete(&load_place, &stale).await;
    }
    let mut tx = Tx::new(Durability::Lazy);
    for file in &old {
        ledger::delete_load_file(&mut tx, file);
    }
    for file in &files {
        ledger::put_load_file(&mut tx, file);
    }
    Ok(tx)
}

async fn generate(
    worker: &Worker,
    staged: Vec<(u64, StagingFile)>,
    folder: PathBuf,
) -> Result<(Vec<LoadFile>, Place), Failure> {
    let rules = worker.shared.settings.load().warehouse.clone();
    let around = worker.shared.around();
    let is_own = worker.upload.use_rudder_storage;
    let (connection, upload) = (&worker.connection, &worker.upload);
    let generation = Generation {
        id: Uuid::new_v4(),
        job: Job {
            schema: Arc::new(upload.schema.clone()),
            format: connection.format(),
            dialect: connection.dialect,
            loaded_at: worker.shared.clock.now(),
            checks_constraints: rules.checks_constraints,
            longest_line: rules.longest_line,
        },
        staging_place: connection.staging_place(is_own, &around).await?,
        load_place: connection.load_place(is_own, &around).await?,
        rules,
        folder,
    };
    let sized = staged.iter().enumerate().map(|(index, (_, file))| Sized {
        kind: (file.destination_revision_id.clone(), file.time_window.clone()),
        index,
        bytes_of_table: file
            .bytes_per_table
            .iter()
            .map(|(table, bytes)| (table.clone(), bytes.as_u64().unwrap_or(0)))
            .collect(),
    });
    let groups = groups(sized.collect(), generation.rules.group_bytes);
    let files = groups.into_iter().enumerate().map(|(number, members)| {
        let members: Vec<&StagingFile> =
            members.iter().filter_map(|index| staged.get(*index)).map(|(_, file)| file).collect();
        one_group(worker, &generation, number, members)
    });
    let limit = generation.rules.load_file_workers;
    let files: Vec<Vec<LoadFile>> = stream::iter(files).buffer_unordered(limit).try_collect().await?;
    let mut files: Vec<LoadFile> = files.into_iter().flatten().collect();
    let first = worker.shared.ledger.ids(files.len()).await?;
    for (id, file) in (first..).zip(&mut files) {
        file.id = id;
    }
    Ok((files, generation.load_place))
}

/// Fetches the staging files of a group, converts them, and stores the load files.
async fn one_group(
    worker: &Worker,
    generation: &Generation,
    number: usize,
    members: Vec<&StagingFile>,
) -> Result<Vec<LoadFile>, Failure> {
    let folder = generation.folder.join(number.to_string());
    let Ok(_turn) = worker.shared.group_workers.acquire().await else { return Err(Failure::Stopped) };
    tokio::fs::create_dir_all(&folder).await?;
    let mut local = Vec::with_capacity(members.len());
    for (place, file) in members.iter().enumerate() {
        if let Some(path) = generation.staging_place.file(&file.location) {
            local.push(path);
            continue;
        }
        let path = folder.join(format!("staged-{place}"));
        let download = generation.staging_place.store.download(&file.location, &path);
        match tokio::time::timeout(generation.rules.storage_timeout, download).await {
            Ok(result) => result.map_err(Failure::from)?,
            Err(_) => {
                let message = format!("object storage: no copy of {} in time", file.location);
                return Err(Failure::Unreachable(message));
            }
        };
        local.push(path);
    }
    let (job, into, stop) = (generation.job.clone(), folder.clone(), worker.stop.clone());
    let written = tokio::task::spawn_blocking(move || load_files::write(&job, &local, &into, &stop))
        .await?
        .map_err(|failure| failure.during("making load files"))?;
    let base = members.first().map(|file| base_name(&file.location)).unwrap_or_default();
    let seed: String = members.iter().map(|file| file.location.as_str()).collect();
    let window = members.first().map(|file| file.time_window.clone()).unwrap_or_default();
    let names = Names { base, seed, window };
    let stored = written.into_iter().map(|written| store(worker, generation, &names, written));
    let files: Vec<LoadFile> =
        stream::iter(stored).buffer_unordered(generation.rules.load_file_uploads).try_collect().await?;
    tokio::fs::remove_dir_all(&folder).await?;
    Ok(files)
}

/// What the keys of a group's files are made of.
struct Names {
    /// The first staging file's name without its end.
    base: String,
    /// Where the staging files lie.
    seed: String,
    /// The hour that their events belong to.
    window: String,
}

fn base_name(location: &str) -> String {
    let name = location.rsplit('/').next().unwrap_or_default();
    name.trim_end_matches(".json.gz").to_owned()
}

async fn store(worker: &Worker, generation: &Generation, names: &Names, written: Written) -> Result<LoadFile, Failure> {
    let upload = &worker.upload;
    let key = key(worker, generation, names, &written.table);
    let place = &generation.load_place;
    let stored = tokio::time::timeout(generation.rules.storage_timeout, place.store.upload(&key, &written.path)).await;
    let location = match stored {
        Ok(result) => result?,
        Err(_) => return Err(Failure::Unreachable(format!("object storage: {key} was not stored in time"))),
    };
    tokio::fs::remove_file(&written.path).await?;
    Ok(LoadFile {
        id: 0,
        upload_id: upload.id,
        table_name: written.table,
        key,
        location,
        total_events: written.rows,
        content_length: written.bytes,
        use_rudder_storage: upload.use_rudder_storage,
    })
}

fn key(worker: &Worker, generation: &Generation, names: &Names, table: &str) -> String {
    let upload = &worker.upload;
    let extension = generation.job.format.extension();
    let (folder, source) = (one_part(table), one_part(&upload.source_id));
    let Names { base, seed, window } = names;
    if !worker.provider.files_are_tables() {
        let name = format!("{base}.{source}.{}.{extension}", Uuid::new_v4());
        let below = format!("{}/{folder}/{source}/{}-{folder}/{name}", generation.rules.load_folder, generation.id);
        return generation.load_place.key(&below);
    }
    let digest = Md5::new().chain_update(seed).chain_update([0]).chain_update(table).finalize();
    let same_for_same_files = uuid::Builder::from_md5_bytes(digest.into()).into_uuid();
    let name = format!("{base}.{source}.{same_for_same_files}.{extension}");
    let namespace = one_part(&upload.namespace);
    let suffix = worker.connection.config.get("tableSuffix").and_then(serde_json::Value::as_str).unwrap_or_default();
    let suffix = if worker.connection.kind() == "GCS_DATALAKE" && !suffix.is_empty() {
        format!("{}/", one_part(suffix))
    } else {
        String::new()
    };
    let below = format!("{namespace}/{folder}/{suffix}{}/{name}", window_folder(window));
    if worker.connection.kind() == "LOCAL_DATALAKE" {
        below
    } else {
        generation.load_place.key(&format!("{}/{below}", generation.rules.lake_folder))
    }
}

/// Load files by table.
pub(super) fn by_table(files: Vec<LoadFile>) -> BTreeMap<String, Vec<LoadFile>> {
    let mut tables: BTreeMap<String, Vec<LoadFile>> = BTreeMap::new();
    for file in files {
        tables.entry(file.table_name.clone()).or_default().push(file);
    }
    tables
}

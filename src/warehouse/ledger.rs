//! The book of uploads: every record of the warehouse, read and written here and nowhere else.
//!
//! A staging file is pending while its record lies where the batch router put it. An upload takes it over in one
//! transaction: the record moves below the upload's id, so that looking for pending files costs what is pending.
//! Uploads that are not at an end are also in memory, and only this process changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::records::{ConnectionRecord, HeldSchema, LoadFile, TableUpload, Upload};
use crate::clock::Clock;
use crate::jobsdb::{BatchDestination, Durability, JobsDb, JobsDbError, Namespace, StagingFile, Tx};

/// First bytes of keys under [`Namespace::WarehouseIndex`].
const OPEN: u8 = 0x01;
const CONNECTION: u8 = 0x02;
const STAGED: u8 = 0x03;
const LAST_UPLOAD: u8 = 0x04;
const LAST_ID: u8 = 0x05;
const ARCHIVED_TO: u8 = 0x06;

/// Ids of tables and load files that are set aside at once.
const IDS_AT_ONCE: u64 = 256;

/// A pending staging file, without its schema.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub struct Pending {
    /// Its id.
    #[serde(skip)]
    pub id: u64,
    /// Its connection.
    pub batch_destination: BatchDestination,
    /// Its rows.
    pub total_events: u64,
    /// Reception of the first.
    pub first_event_at: String,
    /// Reception of the last.
    pub last_event_at: String,
    /// It lies in the node's own storage.
    pub use_rudder_storage: bool,
    /// Its workspace.
    #[serde(rename = "WorkspaceID")]
    pub workspace_id: String,
    /// The task run of its first job.
    #[serde(rename = "SourceTaskRunID")]
    pub source_task_run_id: String,
    /// The job of its first job.
    #[serde(rename = "SourceJobID")]
    pub source_job_id: String,
    /// The job run of its first job.
    #[serde(rename = "SourceJobRunID")]
    pub source_job_run_id: String,
}

/// The book.
pub struct Ledger {
    jobs: JobsDb,
    clock: Clock,
    open: Mutex<BTreeMap<u64, Upload>>,
    last_upload: Mutex<u64>,
    /// The last id that was given out, and the last that was set aside.
    ids: tokio::sync::Mutex<(u64, u64)>,
}

impl Ledger {
    /// Reads what is not at an end. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn open(jobs: JobsDb, clock: Clock) -> Result<Ledger, JobsDbError> {
        let number = |key: u8| -> Result<u64, JobsDbError> {
            let bytes = jobs.get(Namespace::WarehouseIndex, &[key])?;
            Ok(bytes.and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?))).unwrap_or(0))
        };
        let (last_upload, last_id) = (number(LAST_UPLOAD)?, number(LAST_ID)?);
        let mut open = BTreeMap::new();
        for (key, _) in jobs.scan(Namespace::WarehouseIndex, &[OPEN])? {
            let Some(id) = id_at(&key, 1) else { continue };
            match read::<Upload>(&jobs, Namespace::WarehouseUploads, &id.to_be_bytes())? {
                Some(upload) => {
                    open.insert(id, upload);
                }
                None => tracing::error!(upload = id, "the record of an upload is missing or cannot be read"),
            }
        }
        Ok(Ledger {
            jobs,
            clock,
            open: Mutex::new(open),
            last_upload: Mutex::new(last_upload),
            ids: tokio::sync::Mutex::new((last_id, last_id)),
        })
    }

    /// The queue store beneath.
    pub fn jobs(&self) -> &JobsDb {
        &self.jobs
    }

    /// Uploads that are not at an end, by id.
    pub fn open_uploads(&self) -> Vec<Upload> {
        self.open.lock().values().cloned().collect()
    }

    /// Looks at an upload that is not at an end.
    pub fn open_upload(&self, id: u64) -> Option<Upload> {
        self.open.lock().get(&id).cloned()
    }

    /// Runs a read on a thread that may block.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Ledger>,
        work: impl FnOnce(&Ledger) -> Result<T, JobsDbError> + Send + 'static,
    ) -> Result<T, JobsDbError> {
        let ledger = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&ledger)).await {
            Ok(result) => result,
            Err(error) => Err(JobsDbError::Failed(error.to_string())),
        }
    }

    /// Pending staging files, by id. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn pending(&self) -> Result<Vec<Pending>, JobsDbError> {
        let mut files = Vec::new();
        self.jobs.visit(Namespace::WarehouseStaging, &[], |key, value| {
            match (id_at(key, 0), serde_json::from_slice::<Pending>(value)) {
                (Some(id), Ok(mut file)) => {
                    file.id = id;
                    files.push(file);
                }
                _ => tracing::error!(key = ?key, "the record of a staging file cannot be read"),
            }
            ControlFlow::Continue(())
        })?;
        Ok(files)
    }

    /// The id of the next upload; only one task makes uploads.
    pub fn next_upload_id(&self) -> u64 {
        let mut last = self.last_upload.lock();
        *last += 1;
        *last
    }

    /// Stores new uploads, with the staging files that they take over, and forgets an untouched one whose files they
    /// take too.
    ///
    /// # Errors
    /// The store failed, or a file is not pending any more.
    pub async fn create(
        self: &Arc<Ledger>,
        uploads: Vec<(Upload, Vec<u64>)>,
        replaced: Option<Upload>,
    ) -> Result<(), JobsDbError> {
        let prepared = self
            .blocking(move |ledger| {
                let mut tx = Tx::new(Durability::Lazy);
                let returned = match &replaced {
                    Some(upload) => ledger.staged_of(upload.id)?,
                    None => Vec::new(),
                };
                let mut returned: BTreeMap<u64, Vec<u8>> = returned.into_iter().collect();
                if let Some(upload) = &replaced {
                    tx.delete(Namespace::WarehouseUploads, upload.id.to_be_bytes().to_vec());
                    tx.delete(Namespace::WarehouseIndex, key(OPEN, upload.id, &[]));
                    for id in returned.keys() {
                        tx.delete(Namespace::WarehouseIndex, key(STAGED, upload.id, &id.to_be_bytes()));
                    }
                }
                for (upload, files) in &uploads {
                    for id in files {
                        let record = match returned.remove(id) {
                            Some(record) => Some(record),
                            None => {
                                tx.delete(Namespace::WarehouseStaging, id.to_be_bytes().to_vec());
                                ledger.jobs.get(Namespace::WarehouseStaging, &id.to_be_bytes())?
                            }
                        };
                        let Some(record) = record else { continue };
                        tx.put(Namespace::WarehouseIndex, key(STAGED, upload.id, &id.to_be_bytes()), record);
                    }
                    put_upload(&mut tx, upload);
                    tx.put(Namespace::WarehouseIndex, vec![LAST_UPLOAD], upload.id.to_be_bytes().to_vec());
                    let record = ConnectionRecord {
                        upload_id: upload.id,
                        created_ms: upload.created_ms,
                        namespace: upload.namespace.clone(),
                    };
                    tx.put(
                        Namespace::WarehouseIndex,
                        connection_key(&upload.source_id, &upload.destination_id),
                        json(&record),
                    );
                }
                Ok((tx, uploads, replaced))
            })
            .await?;
        let (tx, uploads, replaced) = prepared;
        self.jobs.commit(tx).await?;
        let mut open = self.open.lock();
        if let Some(replaced) = replaced {
            open.remove(&replaced.id);
        }
        for (upload, _) in uploads {
            open.insert(upload.id, upload);
        }
        Ok(())
    }

    /// Staging files of an upload as they are stored, by id. Blocks on the store.
    fn staged_of(&self, upload_id: u64) -> Result<Vec<(u64, Vec<u8>)>, JobsDbError> {
        let found = self.jobs.scan(Namespace::WarehouseIndex, &key(STAGED, upload_id, &[]))?;
        Ok(found.into_iter().filter_map(|(key, value)| Some((id_at(&key, 9)?, value))).collect())
    }

    /// Ids of the staging files of an upload. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn staged_ids(&self, upload_id: u64) -> Result<Vec<Pending>, JobsDbError> {
        let read = |(id, bytes): (u64, Vec<u8>)| {
            let mut file = serde_json::from_slice::<Pending>(&bytes).ok()?;
            file.id = id;
            Some(file)
        };
        Ok(self.staged_of(upload_id)?.into_iter().filter_map(read).collect())
    }

    /// Staging files of an upload, by id. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn staging_files(&self, upload_id: u64) -> Result<Vec<(u64, StagingFile)>, JobsDbError> {
        let parse = |(id, bytes): (u64, Vec<u8>)| match serde_json::from_slice(&bytes) {
            Ok(file) => Some((id, file)),
            Err(error) => {
                tracing::error!(id, %error, "the record of a staging file cannot be read");
                None
            }
        };
        Ok(self.staged_of(upload_id)?.into_iter().filter_map(parse).collect())
    }

    /// Stores an upload as it is now. A durable change is on disk when this returns.
    ///
    /// # Errors
    /// The store failed.
    pub async fn save(&self, upload: &mut Upload, durability: Durability) -> Result<(), JobsDbError> {
        self.save_with(upload, Tx::new(durability)).await
    }

    /// The same in one transaction with other changes.
    ///
    /// # Errors
    /// The store failed.
    pub async fn save_with(&self, upload: &mut Upload, mut tx: Tx) -> Result<(), JobsDbError> {
        upload.updated_ms = self.clock.now_ms();
        put_upload(&mut tx, upload);
        self.jobs.commit(tx).await?;
        let mut open = self.open.lock();
        if upload.status.is_final() {
            open.remove(&upload.id);
        } else {
            open.insert(upload.id, upload.clone());
        }
        Ok(())
    }

    /// Any upload. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn upload(&self, id: u64) -> Result<Option<Upload>, JobsDbError> {
        read(&self.jobs, Namespace::WarehouseUploads, &id.to_be_bytes())
    }

    /// Shows uploads by ascending id, from one on. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn visit_uploads(&self, from: u64, mut see: impl FnMut(Upload) -> ControlFlow<()>) -> Result<(), JobsDbError> {
        let mut from = from;
        loop {
            let page = self.jobs.scan_between(Namespace::WarehouseUploads, &from.to_be_bytes(), &[0xff; 9], 256)?;
            let Some(last) = page.last().and_then(|(key, _)| id_at(key, 0)) else { return Ok(()) };
            for (_, value) in page {
                if let Ok(upload) = serde_json::from_slice(&value)
                    && see(upload).is_break()
                {
                    return Ok(());
                }
            }
            from = last.saturating_add(1);
        }
    }

    /// What is remembered of a connection. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn connection(&self, source_id: &str, destination_id: &str) -> Result<Option<ConnectionRecord>, JobsDbError> {
        read(&self.jobs, Namespace::WarehouseIndex, &connection_key(source_id, destination_id))
    }

    /// So many ids in a row; the first is returned. Given once, whatever happens.
    ///
    /// # Errors
    /// The store failed.
    pub async fn ids(&self, count: usize) -> Result<u64, JobsDbError> {
        let count = u64::try_from(count).unwrap_or(u64::MAX / 2);
        let mut ids = self.ids.lock().await;
        let first = ids.0 + 1;
        let last = ids.0 + count;
        if last > ids.1 {
            let set_aside = last + IDS_AT_ONCE;
            let mut tx = Tx::new(Durability::Lazy);
            tx.put(Namespace::WarehouseIndex, vec![LAST_ID], set_aside.to_be_bytes().to_vec());
            self.jobs.commit(tx).await?;
            ids.1 = set_aside;
        }
        ids.0 = last;
        Ok(first)
    }

    /// Tables of an upload, by name. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn tables(&self, upload_id: u64) -> Result<Vec<TableUpload>, JobsDbError> {
        read_all(&self.jobs, Namespace::WarehouseTableUploads, upload_id)
    }

    /// Load files of an upload, by id. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn load_files(&self, upload_id: u64) -> Result<Vec<LoadFile>, JobsDbError> {
        read_all(&self.jobs, Namespace::WarehouseLoadFiles, upload_id)
    }

    /// Stores tables of an upload.
    ///
    /// # Errors
    /// The store failed.
    pub async fn save_tables(&self, tables: &[TableUpload], durability: Durability) -> Result<(), JobsDbError> {
        let mut tx = Tx::new(durability);
        for table in tables {
            put_table(&mut tx, table);
        }
        self.jobs.commit(tx).await.map(|_| ())
    }

    /// What a namespace of a destination holds, as it was seen last. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn held_schema(&self, destination_id: &str, namespace: &str) -> Result<Option<HeldSchema>, JobsDbError> {
        read(&self.jobs, Namespace::WarehouseSchemas, &schema_key(destination_id, namespace))
    }

    /// Every namespace of a destination that something is known of. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn held_schemas(&self, destination_id: &str) -> Result<Vec<(String, HeldSchema)>, JobsDbError> {
        let prefix = schema_key(destination_id, "");
        let found = self.jobs.scan(Namespace::WarehouseSchemas, &prefix)?;
        let read = |(key, value): (Vec<u8>, Vec<u8>)| {
            let namespace = String::from_utf8_lossy(key.get(prefix.len()..)?).into_owned();
            Some((namespace, serde_json::from_slice(&value).ok()?))
        };
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Stores what a namespace holds.
    ///
    /// # Errors
    /// The store failed.
    pub async fn save_schema(
        &self,
        destination_id: &str,
        namespace: &str,
        held: &HeldSchema,
    ) -> Result<(), JobsDbError> {
        let mut tx = Tx::new(Durability::Lazy);
        tx.put(Namespace::WarehouseSchemas, schema_key(destination_id, namespace), json(held));
        self.jobs.commit(tx).await.map(|_| ())
    }

    /// The upload up to which records of files are gone. Blocks on the store.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn archived_to(&self) -> Result<u64, JobsDbError> {
        let bytes = self.jobs.get(Namespace::WarehouseIndex, &[ARCHIVED_TO])?;
        Ok(bytes.and_then(|bytes| id_at(&bytes, 0)).unwrap_or(0))
    }
}

/// Puts an upload in a transaction.
fn put_upload(tx: &mut Tx, upload: &Upload) {
    tx.put(Namespace::WarehouseUploads, upload.id.to_be_bytes().to_vec(), json(upload));
    let open = key(OPEN, upload.id, &[]);
    if upload.status.is_final() {
        tx.delete(Namespace::WarehouseIndex, open);
    } else {
        tx.put(Namespace::WarehouseIndex, open, Vec::new());
    }
}

/// Puts a table of an upload in a transaction.
pub fn put_table(tx: &mut Tx, table: &TableUpload) {
    let key = [&table.upload_id.to_be_bytes(), table.table_name.as_bytes()].concat();
    tx.put(Namespace::WarehouseTableUploads, key, json(table));
}

/// Puts a load file in a transaction.
pub fn put_load_file(tx: &mut Tx, file: &LoadFile) {
    tx.put(Namespace::WarehouseLoadFiles, load_file_key(file), json(file));
}

/// Removes a load file in a transaction.
pub fn delete_load_file(tx: &mut Tx, file: &LoadFile) {
    tx.delete(Namespace::WarehouseLoadFiles, load_file_key(file));
}

/// Removes the records of an upload's staging files in a transaction.
pub fn delete_staged(tx: &mut Tx, upload_id: u64, ids: &BTreeSet<u64>) {
    for id in ids {
        tx.delete(Namespace::WarehouseIndex, key(STAGED, upload_id, &id.to_be_bytes()));
    }
}

/// Forgets an upload and its tables in a transaction.
pub fn delete_upload(tx: &mut Tx, upload_id: u64, tables: &[TableUpload]) {
    tx.delete(Namespace::WarehouseUploads, upload_id.to_be_bytes().to_vec());
    for table in tables {
        let key = [&upload_id.to_be_bytes(), table.table_name.as_bytes()].concat();
        tx.delete(Namespace::WarehouseTableUploads, key);
    }
}

/// Notes in a transaction up to which upload records of files are gone.
pub fn put_archived_to(tx: &mut Tx, upload_id: u64) {
    tx.put(Namespace::WarehouseIndex, vec![ARCHIVED_TO], upload_id.to_be_bytes().to_vec());
}

fn load_file_key(file: &LoadFile) -> Vec<u8> {
    [file.upload_id.to_be_bytes(), file.id.to_be_bytes()].concat()
}

fn connection_key(source_id: &str, destination_id: &str) -> Vec<u8> {
    [&[CONNECTION], destination_id.as_bytes(), &[0], source_id.as_bytes(), &[0]].concat()
}

fn schema_key(destination_id: &str, namespace: &str) -> Vec<u8> {
    [destination_id.as_bytes(), &[0], namespace.as_bytes()].concat()
}

fn key(kind: u8, upload_id: u64, rest: &[u8]) -> Vec<u8> {
    [&[kind], &upload_id.to_be_bytes()[..], rest].concat()
}

fn id_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Records are maps with text keys, which always have a JSON form.
fn json<T: serde::Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

fn read<T: DeserializeOwned>(jobs: &JobsDb, namespace: Namespace, key: &[u8]) -> Result<Option<T>, JobsDbError> {
    let Some(bytes) = jobs.get(namespace, key)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            tracing::error!(?namespace, ?key, %error, "a record of the warehouse cannot be read");
            Ok(None)
        }
    }
}

fn read_all<T: DeserializeOwned>(jobs: &JobsDb, namespace: Namespace, upload_id: u64) -> Result<Vec<T>, JobsDbError> {
    let found = jobs.scan(namespace, &upload_id.to_be_bytes())?;
    Ok(found.iter().filter_map(|(_, value)| serde_json::from_slice(value).ok()).collect())
}

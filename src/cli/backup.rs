//! `pintle backup`: snapshots, made by the running node or, when it is stopped, by this verb.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::{AdminClient, LONG, segment};
use super::failure::{FAILED, Failure, HUMAN, UNUSABLE};
use super::flags::SettingsFlags;
use super::table::{Align, Table};
use super::{output, units};
use crate::admin::{self, BackupError, Extent, Manifest};
use crate::clock::Clock;
use crate::settings::Settings;
use crate::storage::{self, Storage};

/// Arguments of the verb.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a snapshot of the data directory, while the node runs or while it is stopped.
    ///
    /// Copying a running data directory file by file is not a backup: the copy is of no moment.
    Create {
        /// Move the snapshot to this new directory, for example on another disk
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// With the tables of the embedded warehouses
        #[arg(long)]
        tables: bool,
        /// With the files of local destinations and the gateway archive
        #[arg(long)]
        archive: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Snapshots in the data directory.
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Compare every file of a snapshot with its checksum.
    Verify {
        /// Name in the data directory, or folder of a snapshot
        snapshot: PathBuf,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Remove a snapshot from the data directory.
    Rm {
        /// Its name
        name: String,
        #[command(flatten)]
        flags: SettingsFlags,
    },
    /// Bring a snapshot back as the new directory that --data-dir names.
    Restore {
        /// Folder of a snapshot
        snapshot: PathBuf,
        #[command(flatten)]
        flags: SettingsFlags,
    },
}

pub(super) fn run(arguments: Args) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Create { to, tables, archive, json: as_json, flags } => {
            create(&flags.load()?.settings, to.as_deref(), Extent { tables, archive }, as_json)
        }
        Verb::List { json: as_json, flags } => {
            let manifests = admin::list(&flags.load()?.settings.data_dir).map_err(failure)?;
            if as_json {
                return output::print_json(&manifests);
            }
            output::print(&render_list(&manifests))
        }
        Verb::Verify { snapshot, flags } => {
            let folder = find(&flags.load()?.settings, &snapshot)?;
            let manifest = admin::verify_files(&folder).map_err(failure)?;
            output::print(&format!(
                "{}: {} files, {}, every checksum agrees\n",
                output::printable(&manifest.name),
                manifest.files.len(),
                units::bytes(manifest.bytes)
            ))
        }
        Verb::Rm { name, flags } => {
            let settings = flags.load()?.settings;
            let removed: Result<Value, Failure> =
                AdminClient::of(&settings).delete(&format!("/v1/backups/{}", segment(&name)));
            match removed {
                Err(absent) if absent.no_node => admin::remove(&settings.data_dir, &name).map_err(failure)?,
                other => drop(other?),
            }
            output::print(&format!("{}: removed\n", output::printable(&name)))
        }
        Verb::Restore { snapshot, flags } => {
            let settings = flags.load()?.settings;
            let manifest = admin::restore(&snapshot, &settings.data_dir).map_err(failure)?;
            output::print(&render_restored(&manifest, &settings.data_dir))
        }
    }
}

fn create(settings: &Settings, to: Option<&Path>, extent: Extent, as_json: bool) -> Result<(), Failure> {
    if let Some(to) = to {
        // Told before the work is done, not after it.
        admin::refuse_non_empty(to).map_err(failure)?;
    }
    let body = json!({ "tables": extent.tables, "archive": extent.archive });
    let manifest = match AdminClient::of(settings).post::<Manifest>("/v1/backups", &body, LONG) {
        Err(absent) if absent.no_node => create_offline(settings, extent)?,
        other => other?,
    };
    let mut folder = settings.data_dir.join("snapshots").join(&manifest.name);
    if let Some(to) = to {
        admin::copy_to(&folder, to).map_err(failure)?;
        admin::verify_files(to).map_err(failure)?;
        admin::remove(&settings.data_dir, &manifest.name).map_err(failure)?;
        to.clone_into(&mut folder);
    }
    if as_json {
        return output::print_json(&json!({ "path": folder, "manifest": manifest }));
    }
    output::print(&render_created(&manifest, &folder))
}

/// The node is stopped: the store is opened here, under its lock, for the time of the copy.
fn create_offline(settings: &Settings, extent: Extent) -> Result<Manifest, Failure> {
    if !storage::is_data_directory(&settings.data_dir) {
        let message = format!("{} holds no store", settings.data_dir.display());
        return Err(Failure::new(FAILED, message, "name another --data-dir"));
    }
    let clock = Clock::system();
    let storage = Storage::open(&settings.data_dir, &settings.storage, &clock)
        .map_err(|error| super::store::store_failure(&error))?;
    admin::create_from(&settings.data_dir, settings, &clock, extent, |target| Ok(storage.checkpoint(target)?))
        .map_err(failure)
}

/// A snapshot by its folder or by its name in the data directory.
fn find(settings: &Settings, snapshot: &Path) -> Result<PathBuf, Failure> {
    let named = settings.data_dir.join("snapshots").join(snapshot);
    [snapshot.to_owned(), named]
        .into_iter()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| failure(BackupError::Unknown { name: snapshot.display().to_string() }))
}

fn failure(error: BackupError) -> Failure {
    let code = match &error {
        BackupError::Store(error) if error.needs_human() => HUMAN,
        BackupError::Store(_) => UNUSABLE,
        _ => FAILED,
    };
    Failure::new(code, error.to_string(), "")
}

fn render_list(manifests: &[Manifest]) -> String {
    let mut table = Table::new(&[
        ("SNAPSHOT", Align::Left),
        ("MADE", Align::Left),
        ("BY", Align::Left),
        ("BYTES", Align::Right),
        ("FILES", Align::Right),
        ("WAITING", Align::Right),
    ]);
    for manifest in manifests {
        table.row([
            manifest.name.clone(),
            units::time(manifest.created_ms),
            manifest.version.clone(),
            units::bytes(manifest.bytes),
            manifest.files.len().to_string(),
            waiting(manifest).to_string(),
        ]);
    }
    table.render()
}

fn render_created(manifest: &Manifest, folder: &Path) -> String {
    format!(
        "{}: {} files, {}, {} jobs are waiting in it\nIt holds events, and secrets that stand in the workspace file: keep it as safe as the node.\n",
        folder.display(),
        manifest.files.len(),
        units::bytes(manifest.bytes),
        waiting(manifest)
    )
}

fn render_restored(manifest: &Manifest, data_dir: &Path) -> String {
    let mut text = format!(
        "{}: restored from {}, {} jobs are waiting\nWhat was delivered after the snapshot was made will be delivered again.\n",
        data_dir.display(),
        output::printable(&manifest.name),
        waiting(manifest)
    );
    if data_dir.join("workspace").is_dir() {
        output::line(
            &mut text,
            format_args!(
                "The workspace of that time is in {}; copy it to where the node reads it.",
                data_dir.join("workspace").display()
            ),
        );
    }
    if rustix::process::geteuid().is_root() {
        output::line(
            &mut text,
            format_args!(
                "The files belong to root: chown -R them to the user of the node (chown -R pintle:pintle {}).",
                data_dir.display()
            ),
        );
    }
    text
}

fn waiting(manifest: &Manifest) -> u64 {
    manifest.queues.iter().map(|queue| queue.pending).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::QueueCount;

    #[test]
    fn lists_and_reports_count_what_waits() {
        let manifest = Manifest {
            name: "20260102T030405Z".to_owned(),
            version: "0.1.0".to_owned(),
            created_ms: 0,
            queues: vec![
                QueueCount { queue: "gw".to_owned(), pending: 2, last_job_id: 9 },
                QueueCount { queue: "rt".to_owned(), pending: 3, last_job_id: 9 },
            ],
            bytes: 2048,
            files: Vec::new(),
        };
        let list = render_list(std::slice::from_ref(&manifest));
        assert!(list.contains("20260102T030405Z  1970-01-01 00:00:00 UTC  0.1.0  2.0 KiB      0        5"), "{list}");
        assert!(render_created(&manifest, Path::new("/b")).contains("/b: 0 files, 2.0 KiB, 5 jobs"));
        assert!(render_restored(&manifest, Path::new("/d")).contains("5 jobs are waiting"));
    }
}

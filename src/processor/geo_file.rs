//! The GeoIP database on disk: read when it is there, read again when it is replaced (processor.md 3.4).
//!
//! A file that cannot be read leaves the database in force. Nothing is ever fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio_util::sync::CancellationToken;

use super::events;
use super::geo::Database;
use crate::settings::Live;

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Largest database that is read into memory.
const MOST_BYTES: u64 = 512 << 20;

/// The database in force, if any.
#[derive(Default)]
pub struct GeoFile(ArcSwapOption<Database>);

/// What tells one file from another under the same path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    /// `None` when there is no such file.
    file: Option<(u64, Option<SystemTime>)>,
}

impl GeoFile {
    /// The database in force.
    pub(super) fn current(&self) -> Option<Arc<Database>> {
        self.0.load_full()
    }

    /// Looks at the file once; `seen` is what was there last.
    fn look(&self, path: Option<&Path>, seen: &mut Option<Seen>) {
        let Some(path) = path else {
            self.0.store(None);
            *seen = None;
            return;
        };
        let metadata = std::fs::metadata(path).ok();
        let file = metadata.map(|metadata| (metadata.len(), metadata.modified().ok()));
        let now = Some(Seen { path: path.to_owned(), file });
        if *seen == now {
            return;
        }
        let is_other_path = seen.as_ref().is_none_or(|seen| seen.path != path);
        *seen = now;
        match read(path) {
            Ok(database) => {
                events::geo_database(path, Ok(database.metadata().build_epoch));
                self.0.store(Some(Arc::new(database)));
            }
            Err(problem) => {
                events::geo_database(path, Err(&problem));
                if is_other_path {
                    self.0.store(None);
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<Database, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MOST_BYTES {
        return Err(format!("{length} bytes are more than {MOST_BYTES}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    Database::from_source(bytes).map_err(|error| error.to_string())
}

/// Follows the file that the settings name until stopped.
pub(super) async fn follow(lookups: Arc<super::lookups::Lookups>, settings: Live, stop: CancellationToken) {
    let mut seen = None;
    loop {
        let in_force = settings.load();
        let path = if in_force.processor.geo.enabled { in_force.processor.geo.database.clone() } else { None };
        // Without a file nothing is done, not even a look.
        if path.is_some() || seen.is_some() {
            let shared = Arc::clone(&lookups);
            let look = tokio::task::spawn_blocking(move || {
                shared.geo.look(path.as_deref(), &mut seen);
                seen
            });
            match look.await {
                Ok(now) => seen = now,
                Err(lost) => {
                    events::worker_lost("geolocation", &lost.to_string());
                    return;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::geo::{self, tests::small_database};
    use super::*;
    use crate::destination::Message;

    fn city(file: &GeoFile) -> Option<String> {
        let database = file.current()?;
        let mut event = Message::parse("{}").unwrap();
        geo::enrich(&mut event, "\"1.2.3.4\"", &database);
        Some(event.object("context")?.object("geo")?.text("city")?.into_owned())
    }

    #[test]
    fn a_replaced_database_takes_over_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("city.mmdb");
        let (file, mut seen) = (GeoFile::default(), None);
        file.look(Some(&path), &mut seen);
        assert_eq!(city(&file), None);
        std::fs::write(&path, small_database("Oxford")).unwrap();
        file.look(Some(&path), &mut seen);
        assert_eq!(city(&file).as_deref(), Some("Oxford"));
        std::fs::write(&path, small_database("Cambridge")).unwrap();
        file.look(Some(&path), &mut seen);
        assert_eq!(city(&file).as_deref(), Some("Cambridge"));
        std::fs::write(&path, "no database").unwrap();
        file.look(Some(&path), &mut seen);
        assert_eq!(city(&file).as_deref(), Some("Cambridge"));
        file.look(None, &mut seen);
        assert_eq!(city(&file), None);
    }
}

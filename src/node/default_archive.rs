//! The gateway archive of the embedded default workspace: `<data>/archive/gw` (appliance.md 2.1).
//!
//! A workspace of the operator's own has an archive only where it, or `archival.localPath`, names one.

use crate::backend_config::Mode;
use crate::settings::Settings;

/// The settings with the archive that belongs to the workspace in force. A workspace file that takes over from
/// the default later on finds the folder in use until the next reload.
pub(super) fn complete(mut settings: Settings, mode: Mode) -> Settings {
    if mode == Mode::Embedded && settings.archival.local_path.is_none() {
        settings.archival.local_path = Some(settings.data_dir.join("archive").join("gw"));
    }
    settings
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn only_the_embedded_default_has_an_archive_that_nobody_asked_for() {
        let settings = |local_path: Option<&str>| {
            let mut settings = Settings::defaults();
            settings.data_dir = PathBuf::from("/d");
            settings.archival.local_path = local_path.map(PathBuf::from);
            settings
        };
        for (mode, set, archive) in [
            (Mode::Embedded, None, Some("/d/archive/gw")),
            (Mode::Embedded, Some("/a"), Some("/a")),
            (Mode::File, None, None),
        ] {
            assert_eq!(complete(settings(set), mode).archival.local_path.as_deref(), archive.map(Path::new));
        }
    }
}

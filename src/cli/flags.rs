//! Flags that stand for settings, and how they become [`Settings`].

use std::path::PathBuf;

use super::failure::{Failure, HUMAN};
use crate::settings::{self, Loaded, Sources};

/// The settings file of an installed node.
const SETTINGS_FILE: &str = "/etc/pintle/pintle.toml";

/// Flags of every verb that needs to know the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct SettingsFlags {
    /// The settings file [default: /etc/pintle/pintle.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data directory
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The workspace file
    #[arg(long, value_name = "FILE")]
    pub workspace: Option<PathBuf>,
    /// An address of the ingest port; may be given several times
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// The address of the admin API
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<String>,
    /// The path of the admin socket
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
}

impl SettingsFlags {
    /// Where settings come from, these flags strongest.
    pub(super) fn sources(&self) -> Result<Sources, Failure> {
        let mut flags = Vec::new();
        for (key, path) in [
            ("dataDir", &self.data_dir),
            ("BackendConfig.configJSONPath", &self.workspace),
            ("Admin.socket", &self.admin_socket),
        ] {
            if let Some(path) = path {
                let Some(text) = path.to_str() else {
                    let message = format!("{} is not valid UTF-8", path.display());
                    return Err(Failure::new(HUMAN, message, "use another path"));
                };
                flags.push((key.to_owned(), text.to_owned()));
            }
        }
        flags.extend(self.listen.iter().map(|address| ("Gateway.listen".to_owned(), address.clone())));
        flags.extend(self.admin.iter().map(|address| ("Admin.listen".to_owned(), address.clone())));
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(Sources {
            file: Some(self.config.clone().unwrap_or_else(|| PathBuf::from(SETTINGS_FILE))),
            file_is_explicit: self.config.is_some(),
            environment: environment.collect(),
            flags,
        })
    }

    /// The settings in force, or every error in them.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        settings::load(self.sources()?)
            .map_err(|errors| Failure::many(HUMAN, errors.iter().map(ToString::to_string).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn flags_are_the_strongest_origin_of_their_settings() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pintle.toml");
        std::fs::write(&file, "dataDir = \"/file\"\n[Gateway]\nlisten = [\"127.0.0.1:9\"]\n").unwrap();
        let flags = SettingsFlags {
            config: Some(file),
            data_dir: Some(PathBuf::from("/flag")),
            workspace: Some(PathBuf::from("/w.json")),
            listen: vec!["127.0.0.1:1".to_owned(), "[::1]:2".to_owned()],
            admin: Some("127.0.0.1:3".to_owned()),
            admin_socket: Some(PathBuf::from("/a.sock")),
        };
        let settings = flags.load().unwrap().settings;
        assert_eq!(settings.data_dir, Path::new("/flag"));
        assert_eq!(settings.backend_config.path, Path::new("/w.json"));
        assert_eq!(settings.gateway.listen, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        assert_eq!(settings.admin.listen, Some("127.0.0.1:3".parse().unwrap()));
        assert_eq!(settings.admin.socket.as_deref(), Some(Path::new("/a.sock")));
    }
}

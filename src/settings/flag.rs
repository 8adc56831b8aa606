//! The keys that command-line flags override, so that `cli` names none (appliance.md 2, `run`).

/// A flag of the command line that stands for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `--data-dir`
    DataDir,
    /// `--workspace`
    Workspace,
    /// `--listen`, repeatable
    Listen,
    /// `--admin`
    Admin,
    /// `--admin-socket`
    AdminSocket,
}

impl Flag {
    /// The key that the flag overrides.
    pub fn key(self) -> String {
        match self {
            Flag::DataDir => "dataDir",
            Flag::Workspace => "BackendConfig.configJSONPath",
            Flag::Listen => "Gateway.listen",
            Flag::Admin => "Admin.listen",
            Flag::AdminSocket => "Admin.socket",
        }
        .to_owned()
    }
}

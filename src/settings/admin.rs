//! The admin listener (appliance.md 4).

use std::net::SocketAddr;
use std::path::PathBuf;

use super::catalogue::{Key, Kind};
use super::raw::Reader;

pub(super) const KEYS: &[Key] = &[
    Key::new(
        "Admin.socket",
        Kind::Text,
        "",
        "Path of the admin unix socket; empty = /run/pintle/admin.sock when that folder exists, else <data>/admin.sock.",
    ),
    Key::new("Admin.listen", Kind::Text, "127.0.0.1:8081", "Address of the admin TCP listener; empty = off."),
];

/// Settings of the admin API.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Path of the unix socket; `None` = chosen by what exists.
    pub socket: Option<PathBuf>,
    /// Address of the TCP listener; `None` = off.
    pub listen: Option<SocketAddr>,
}

impl AdminSettings {
    pub(super) fn read(r: &Reader<'_>) -> AdminSettings {
        AdminSettings {
            socket: Some(r.text("Admin.socket")).filter(|path| !path.is_empty()).map(PathBuf::from),
            listen: r.addresses("Admin.listen").first().copied(),
        }
    }
}

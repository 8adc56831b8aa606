//! The admin sockets: a unix socket that the mode of its file protects, and TCP that the token protects
//! (security.md 3.3, 3.5, appliance.md 4).

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingUnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use tracing::error;

use super::token::Token;
use crate::settings::Settings;

/// Why the admin API cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The unix socket cannot be made.
    #[error("admin socket {}: {source}; choose another path with --admin-socket", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers on the unix socket.
    #[error("admin socket {} belongs to a running node; stop it, or choose another path with --admin-socket", path.display())]
    SocketInUse {
        /// Its path.
        path: PathBuf,
    },
    /// Something else is where the socket should be.
    #[error("{} is not a socket of this user; remove it, or choose another path with --admin-socket", path.display())]
    NotASocket {
        /// Its path.
        path: PathBuf,
    },
    /// The TCP address can be reached from elsewhere, and nothing encrypts it.
    #[error("the admin address {address} is not a loopback address; choose 127.0.0.1 and reach it through a tunnel")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// A listener failed.
    #[error("admin listener failed: {source}")]
    Accept {
        /// Why.
        source: io::Error,
    },
}

impl AdminError {
    /// Whether a restart cannot help.
    pub fn needs_human(&self) -> bool {
        matches!(self, AdminError::NotLoopback { .. } | AdminError::NotASocket { .. } | AdminError::Socket { .. })
    }
}

/// The bound sockets.
#[derive(Debug)]
pub struct Listeners {
    pub(super) unix: UnixListener,
    pub(super) socket_path: PathBuf,
    pub(super) tcp: Option<(TcpListener, SocketAddr, Token)>,
    pub(super) tcp_problem: Option<String>,
}

impl Listeners {
    /// The path of the unix socket.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// The bound TCP address; `None` when it is off.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, address, _)| *address)
    }

    /// Why TCP is off although it was asked for.
    pub fn tcp_problem(&self) -> Option<&str> {
        self.tcp_problem.as_deref()
    }
}

/// Where the admin socket of these settings is: as set; beside the installed data directory under `/run`;
/// else in the data directory, so that a node with a directory of its own writes nowhere else.
pub fn socket_path(settings: &Settings) -> PathBuf {
    if let Some(path) = &settings.admin.socket {
        return path.clone();
    }
    let runtime = Path::new("/run/pintle");
    if settings.data_dir == Path::new("/var/lib/pintle") && runtime.is_dir() {
        return runtime.join("admin.sock");
    }
    settings.data_dir.join("admin.sock")
}

/// Binds the sockets. A TCP address or token that cannot be used leaves the unix socket alone, with the reason.
///
/// # Errors
/// When the unix socket cannot be made, or the TCP address is not on loopback.
pub async fn bind(settings: &Settings) -> Result<Listeners, AdminError> {
    if let Some(address) = settings.admin.listen
        && !address.ip().is_loopback()
    {
        return Err(AdminError::NotLoopback { address });
    }
    let path = socket_path(settings);
    let unix = bind_unix(&path)?;
    let (tcp, tcp_problem) = match settings.admin.listen {
        None => (None, None),
        Some(address) => match bind_tcp(address, &settings.data_dir).await {
            Ok(tcp) => (Some(tcp), None),
            Err(problem) => {
                error!(%problem, "the admin API is served on its unix socket only");
                (None, Some(problem))
            }
        },
    };
    Ok(Listeners { unix, socket_path: path, tcp, tcp_problem })
}

async fn bind_tcp(address: SocketAddr, data_dir: &Path) -> Result<(TcpListener, SocketAddr, Token), String> {
    let token = Token::load_or_create(data_dir).map_err(|problem| problem.to_string())?;
    let failed = |source: io::Error| format!("cannot listen on {address} (Admin.listen): {source}");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound, token))
}

/// Binds under a temporary name and renames, so that the socket never has a wider mode under its own name
/// and a stale one is replaced in one step.
fn bind_unix(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Socket { path: path.to_owned(), source };
    refuse_foreign(path)?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary).map_err(failed)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    fs::rename(&temporary, path).map_err(failed)?;
    Ok(listener)
}

/// Lets a path be used that is free, or a socket of ours on which nobody answers.
fn refuse_foreign(path: &Path) -> Result<(), AdminError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(AdminError::Socket { path: path.to_owned(), source }),
    };
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(AdminError::NotASocket { path: path.to_owned() });
    }
    match BlockingUnixStream::connect(path) {
        Ok(_) => Err(AdminError::SocketInUse { path: path.to_owned() }),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let first = bind_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert!(matches!(bind_unix(&path), Err(AdminError::SocketInUse { .. })));
        drop(first);
        let second = bind_unix(&path).unwrap();
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file of the operator").unwrap();
        assert!(matches!(bind_unix(&path), Err(AdminError::NotASocket { .. })));
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::defaults();
        settings.data_dir = dir.path().to_owned();
        settings.admin.listen = Some("0.0.0.0:0".parse().unwrap());
        assert!(matches!(bind(&settings).await, Err(AdminError::NotLoopback { .. })));
    }

    #[tokio::test]
    async fn a_loose_token_turns_off_tcp_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("admin.token"), "x".repeat(43)).unwrap();
        fs::set_permissions(dir.path().join("admin.token"), fs::Permissions::from_mode(0o644)).unwrap();
        let mut settings = Settings::defaults();
        settings.data_dir = dir.path().to_owned();
        settings.admin.listen = Some("127.0.0.1:0".parse().unwrap());
        let listeners = bind(&settings).await.unwrap();
        assert_eq!(listeners.address(), None);
        assert!(listeners.tcp_problem().unwrap().contains("0644"));
    }

    #[test]
    fn a_node_with_its_own_directory_keeps_its_socket_there() {
        let mut settings = Settings::defaults();
        settings.data_dir = PathBuf::from("/srv/events");
        assert_eq!(socket_path(&settings), Path::new("/srv/events/admin.sock"));
        settings.admin.socket = Some(PathBuf::from("/tmp/a.sock"));
        assert_eq!(socket_path(&settings), Path::new("/tmp/a.sock"));
    }
}

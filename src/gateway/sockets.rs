//! The sockets of the ingest port: addresses of the settings, a unix socket, and those that the service manager
//! opened before the node started (appliance.md 1), which stay open while the node restarts.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::GatewayError;
use super::tls::Tls;
use crate::settings::Settings;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 4096;
/// The service user and its group may connect.
const SOCKET_MODE: u32 = 0o660;

/// Sockets that are bound and listen; nothing is accepted before [`super::serve`].
#[derive(Debug)]
pub struct Listeners {
    pub(super) sockets: Vec<Socket>,
    addresses: Vec<SocketAddr>,
    unix_path: Option<PathBuf>,
    pub(super) tls: Option<Arc<Tls>>,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listeners {
    /// The TCP addresses that were bound; ports that were given as 0 are filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The path of the unix socket, when there is one.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix_path.as_deref()
    }

    /// Whether the TCP addresses speak TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

/// Sockets that the service manager opened. A copy of each is handed out whenever the port is opened, so that a
/// gateway that is started again has them too.
#[derive(Clone, Debug, Default)]
pub struct Inherited(Arc<Mutex<Vec<InheritedSocket>>>);

#[derive(Debug)]
enum InheritedSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Inherited {
    /// Takes the sockets that were passed to this process. Call it once, before there are other threads.
    ///
    /// # Errors
    /// One of them is neither a listening TCP socket nor a listening unix socket.
    pub fn take() -> io::Result<Inherited> {
        let mut passed = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            if let Ok(Some(socket)) = passed.take_tcp_listener(index) {
                sockets.push(InheritedSocket::Tcp(socket));
            } else if let Some(socket) = passed.take_unix_listener(index)? {
                sockets.push(InheritedSocket::Unix(socket));
            }
        }
        Ok(Inherited(Arc::new(Mutex::new(sockets))))
    }

    fn copies(&self) -> io::Result<Vec<Socket>> {
        let sockets = self.0.lock();
        sockets
            .iter()
            .map(|socket| match socket {
                InheritedSocket::Tcp(socket) => {
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket.try_clone()?).map(Socket::Tcp)
                }
                InheritedSocket::Unix(socket) => {
                    socket.set_nonblocking(true)?;
                    UnixListener::from_std(socket.try_clone()?).map(Socket::Unix)
                }
            })
            .collect()
    }
}

/// Binds every address of `Gateway.listen` and `Gateway.socket`. Sockets that the service manager passed take the
/// place of `Gateway.listen`. Clients can connect from here on, so call it once a configuration is known.
///
/// # Errors
/// Names the first address that cannot be bound, or the file that TLS cannot be made of.
#[allow(clippy::unused_async, reason = "sockets belong to the runtime that they are bound in")]
pub async fn bind(settings: &Settings, inherited: &Inherited) -> Result<Listeners, GatewayError> {
    let tls = settings.listener.tls.as_ref().map(|files| Tls::load(files, &settings.listener)).transpose()?;
    let mut listeners =
        Listeners { sockets: Vec::new(), addresses: Vec::new(), unix_path: None, tls: tls.map(Arc::new) };
    for socket in inherited.copies().map_err(GatewayError::Inherited)? {
        if let Socket::Tcp(socket) = &socket {
            listeners.addresses.push(socket.local_addr().map_err(GatewayError::Inherited)?);
        }
        listeners.sockets.push(socket);
    }
    if listeners.sockets.is_empty() {
        for &address in &settings.gateway.listen {
            let bound = listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
            let (actual, socket) = bound.map_err(|source| GatewayError::Bind { address, source })?;
            listeners.addresses.push(actual);
            listeners.sockets.push(Socket::Tcp(socket));
        }
    }
    if let Some(path) = &settings.listener.socket {
        let socket = listen_unix(path).map_err(|source| GatewayError::BindUnix { path: path.clone(), source })?;
        listeners.unix_path = Some(path.clone());
        listeners.sockets.push(Socket::Unix(socket));
    }
    if listeners.sockets.is_empty() { Err(GatewayError::NoAddress) } else { Ok(listeners) }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds under a temporary name and renames, so that the socket never has a wider mode under its own name and
/// a stale one is replaced in one step.
fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    refuse_foreign(path)?;
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Lets a path be used that is free, or a socket of this user on which nobody answers.
fn refuse_foreign(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket of this user"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers on it")),
        Err(_) => Ok(()),
    }
}

/// Removes the file of the unix socket; what stays behind is replaced at the next start.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the unix socket of the ingest port stays behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ingest.sock");
        let first = listen_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        assert_eq!(listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(listen_unix(&path).unwrap());
        remove(&path);
        fs::write(&path, "a file of the operator").unwrap();
        assert_eq!(listen_unix(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
}

//! Files on a server that is reached over SFTP (router.md 22.2).
//!
//! Every operation has a session of its own: files are few and far between. A file appears under its name only when
//! it is whole: it is put beside it under a temporary name and renamed.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use russh::Disconnect;
use russh::client::{self, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, decode_secret_key};
use russh_sftp::client::SftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::addresses::AddressRule;
use super::configured::Configured;
use super::{StoreContext, StoreError};
use crate::destination::private_address::AddressRefused;

/// Longest time to open a connection, capped by the time of the operation.
const CONNECT: Duration = Duration::from_secs(10);

/// A server and the account on it.
pub struct SftpStore {
    host: String,
    port: u16,
    user: String,
    proof: Proof,
    /// Fingerprint of the server's key; empty = any key.
    host_key: String,
    rule: AddressRule,
    timeout: Duration,
}

enum Proof {
    Password(String),
    Key(Arc<PrivateKey>),
}

impl fmt::Debug for SftpStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpStore").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// A session; it ends when it is dropped.
struct Session {
    files: SftpSession,
    connection: Handle<ServerKey>,
}

/// Judges the key that a server shows.
struct ServerKey(String);

impl client::Handler for ServerKey {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let fingerprint = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.fingerprint(HashAlg::Sha256),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.public_key().fingerprint(HashAlg::Sha256),
        };
        Ok(self.0.is_empty() || fingerprint.to_string() == self.0)
    }
}

impl SftpStore {
    pub(super) fn of_destination(config: &Configured<'_>, context: &StoreContext) -> Result<SftpStore, StoreError> {
        let misconfigured = |text: &str| StoreError::Misconfigured(text.to_owned());
        let (host, user) = (config.text("host"), config.text("username"));
        if host.is_empty() || user.is_empty() {
            return Err(misconfigured("host and username are needed"));
        }
        let port = match config.text("port").as_str() {
            "" => 22,
            text => text.parse().map_err(|_| misconfigured("port is no number from 1 to 65535"))?,
        };
        let proof = match config.text("authMethod").as_str() {
            "keyAuth" => {
                let key = decode_secret_key(&config.text("privateKey"), None);
                Proof::Key(Arc::new(
                    key.map_err(|error| misconfigured(&format!("privateKey cannot be read: {error}")))?,
                ))
            }
            "passwordAuth" => Proof::Password(config.text("password")),
            _ => return Err(misconfigured("authMethod is neither passwordAuth nor keyAuth")),
        };
        let host_key = config.text("hostKeyFingerprint");
        let rule = AddressRule::new(context.block_private_ips);
        Ok(SftpStore { host, port, user, proof, host_key, rule, timeout: context.timeout })
    }

    pub(super) async fn upload(&self, key: &str, file: &Path) -> Result<String, StoreError> {
        let mut source = tokio::fs::File::open(file)
            .await
            .map_err(|error| StoreError::Refused(format!("cannot read the finished file: {error}")))?;
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
        let temporary = if folder.is_empty() { format!(".{name}.part") } else { format!("{folder}/.{name}.part") };
        let session = self.open().await?;
        session.make_folders(folder).await?;
        let mut target = session.files.create(temporary.as_str()).await.map_err(|error| fault(&error))?;
        let copied = async {
            tokio::io::copy(&mut source, &mut target).await?;
            target.shutdown().await
        };
        copied.await.map_err(|error| StoreError::Unreachable(format!("the transfer broke off: {error}")))?;
        session.remove(key).await?;
        session.files.rename(temporary, key).await.map_err(|error| fault(&error))?;
        session.close().await;
        self.location(key)
    }

    pub(super) async fn length(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let session = self.open().await?;
        let found = session.files.metadata(key).await;
        session.close().await;
        match found {
            Ok(facts) => Ok(Some(facts.size.unwrap_or(0))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(fault(&error)),
        }
    }

    pub(super) async fn list(&self, folder: &str, at_most: usize) -> Result<Vec<String>, StoreError> {
        let session = self.open().await?;
        let mut keys = Vec::new();
        let mut folders = vec![folder.trim_end_matches('/').to_owned()];
        while let Some(folder) = folders.pop().filter(|_| keys.len() < at_most) {
            let entries = match session.files.read_dir(folder.as_str()).await {
                Ok(entries) => entries,
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(fault(&error)),
            };
            for entry in entries {
                let path = format!("{folder}/{}", entry.file_name());
                if entry.file_type().is_dir() {
                    folders.push(path);
                } else if keys.len() < at_most {
                    keys.push(path);
                }
            }
        }
        session.close().await;
        Ok(keys)
    }

    pub(super) async fn download(&self, key: &str, file: &Path) -> Result<u64, StoreError> {
        let session = self.open().await?;
        let mut source = session.files.open(key).await.map_err(|error| fault(&error))?;
        let cannot = |error: std::io::Error| StoreError::Refused(format!("cannot copy {key} here: {error}"));
        let mut target = tokio::fs::File::create(file).await.map_err(cannot)?;
        let length = tokio::io::copy(&mut source, &mut target).await.map_err(cannot)?;
        target.flush().await.map_err(cannot)?;
        session.close().await;
        Ok(length)
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let session = self.open().await?;
        let removed = session.remove(key).await;
        session.close().await;
        removed
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the other storages, whose keys may be refused")]
    pub(super) fn location(&self, key: &str) -> Result<String, StoreError> {
        Ok(format!("sftp://{}:{}/{}", self.host, self.port, key.trim_start_matches('/')))
    }

    async fn open(&self) -> Result<Session, StoreError> {
        match tokio::time::timeout(self.timeout, self.log_in()).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unreachable(format!("no session within {} s", self.timeout.as_secs()))),
        }
    }

    async fn log_in(&self) -> Result<Session, StoreError> {
        let stream = self.connect().await?;
        let settings = client::Config { inactivity_timeout: Some(self.timeout), ..client::Config::default() };
        let connected = client::connect_stream(Arc::new(settings), stream, ServerKey(self.host_key.clone())).await;
        let mut connection = connected.map_err(|error| match error {
            russh::Error::UnknownKey => {
                StoreError::Misconfigured("the server shows another key than hostKeyFingerprint says".to_owned())
            }
            error => StoreError::Unreachable(format!("no SSH connection: {error}")),
        })?;
        let broken = |error: russh::Error| StoreError::Unreachable(format!("the SSH connection broke off: {error}"));
        let answer = match &self.proof {
            Proof::Password(password) => connection.authenticate_password(&self.user, password).await,
            Proof::Key(key) => {
                let hash = connection.best_supported_rsa_hash().await.map_err(broken)?.flatten();
                let key = PrivateKeyWithHashAlg::new(Arc::clone(key), hash);
                connection.authenticate_publickey(&self.user, key).await
            }
        };
        if !answer.map_err(broken)?.success() {
            return Err(StoreError::Misconfigured(format!("the server does not let {:?} in", self.user)));
        }
        let channel = connection.channel_open_session().await.map_err(broken)?;
        channel.request_subsystem(true, "sftp").await.map_err(broken)?;
        let files = SftpSession::new(channel.into_stream()).await.map_err(|error| fault(&error))?;
        Ok(Session { files, connection })
    }

    /// A connection to an address that was judged, judged again once it stands.
    async fn connect(&self) -> Result<TcpStream, StoreError> {
        let addresses: Vec<IpAddr> = self.rule.resolve(&self.host).await.map_err(|error| {
            let text = format!("{}: {error}", self.host);
            if error.is::<AddressRefused>() { StoreError::Misconfigured(text) } else { StoreError::Unreachable(text) }
        })?;
        let mut last = "the name has no address".to_owned();
        for address in addresses {
            let address = SocketAddr::new(address, self.port);
            match tokio::time::timeout(self.timeout.min(CONNECT), TcpStream::connect(address)).await {
                Ok(Ok(stream)) if stream.peer_addr().is_ok_and(|peer| self.rule.allows(peer.ip())) => {
                    return Ok(stream);
                }
                Ok(Ok(_)) => return Err(StoreError::Misconfigured(AddressRefused.to_string())),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => "no answer in time".clone_into(&mut last),
            }
        }
        Err(StoreError::Unreachable(format!("cannot connect to {}:{}: {last}", self.host, self.port)))
    }
}

impl Session {
    /// Makes the folder and those above it, as far as they are not there.
    async fn make_folders(&self, folder: &str) -> Result<(), StoreError> {
        let mut path = String::new();
        for (at, part) in folder.split('/').enumerate() {
            if at > 0 {
                path.push('/');
            }
            path.push_str(part);
            if part.is_empty() || self.files.metadata(path.as_str()).await.is_ok() {
                continue;
            }
            if let Err(error) = self.files.create_dir(path.as_str()).await
                && self.files.metadata(path.as_str()).await.is_err()
            {
                return Err(fault(&error));
            }
        }
        Ok(())
    }

    /// Removes the file; none there is fine.
    async fn remove(&self, key: &str) -> Result<(), StoreError> {
        match self.files.remove_file(key).await {
            Err(error) if !is_absent(&error) => Err(fault(&error)),
            _ => Ok(()),
        }
    }

    /// Says good-bye; whatever the server makes of it, the work is done.
    async fn close(self) {
        drop(self.files.close().await);
        drop(self.connection.disconnect(Disconnect::ByApplication, "", "").await);
    }
}

fn is_absent(error: &SftpError) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

/// An answer of the server is a refusal; anything else is a connection that does not work.
fn fault(error: &SftpError) -> StoreError {
    match error {
        SftpError::Status(status) => {
            StoreError::Refused(format!("the server refuses: {} {}", status.status_code, status.error_message))
        }
        other => StoreError::Unreachable(format!("the SFTP session broke off: {other}")),
    }
}

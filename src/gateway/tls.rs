//! TLS of the ingest port (security.md 3.6): certificate and key from files, read again when they change, so that
//! a renewed certificate needs no restart. A pair that cannot be used leaves the old one in force.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, version};
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use super::{certificate_end, events};
use crate::clock::Clock;
use crate::settings::{ListenerSettings, TlsFiles};

/// Handshakes at a time: each costs a signature.
const MOST_HANDSHAKES: usize = 512;
/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long before its end a certificate is complained about.
const EXPIRY_WARNING_MS: i64 = 14 * 24 * 3_600_000;
/// A key that these may read is refused.
const OTHERS: u32 = 0o007;

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it and how to mend it.
    pub problem: String,
}

/// The certificate in force, and what a handshake may take.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    http2: bool,
    handshake_timeout: Duration,
    handshakes: Semaphore,
    current: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
    signature: Signature,
    /// When the leaf ends, milliseconds since the epoch.
    not_after_ms: i64,
}

/// What tells one version of the files from another.
type Signature = [Option<(u64, i64, i64, u64)>; 2];

/// A finished handshake.
pub(super) struct Secured<S> {
    pub(super) stream: TlsStream<S>,
    /// The client chose HTTP/2.
    pub(super) is_http2: bool,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub(super) fn load(files: &TlsFiles, settings: &ListenerSettings) -> Result<Tls, TlsError> {
        let loaded = Loaded::read(files, settings.http2)?;
        Ok(Tls {
            files: files.clone(),
            http2: settings.http2,
            handshake_timeout: settings.handshake_timeout,
            handshakes: Semaphore::new(MOST_HANDSHAKES),
            current: ArcSwap::from_pointee(loaded),
        })
    }

    /// The certificate in force.
    pub(super) fn leaf(&self) -> CertificateDer<'static> {
        self.current.load().leaf.clone()
    }

    /// The handshake of a connection; `None` when it failed, took too long, or is not wanted any more. The wait for
    /// its turn is part of its time.
    pub(super) async fn handshake<S>(&self, stream: S, connection: &Connection) -> Option<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.current.load().config);
        let handshake = async {
            let _turn = self.handshakes.acquire().await.ok()?;
            TlsAcceptor::from(config).accept(stream).await.ok()
        };
        let stream = tokio::select! {
            () = connection.closed() => None,
            done = tokio::time::timeout(self.handshake_timeout, handshake) => done.ok().flatten(),
        };
        if stream.is_none() {
            events::handshake_failed();
        }
        let stream = stream?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Some(Secured { stream, is_http2 })
    }

    /// Keeps what the files hold in force, for ever.
    pub(super) async fn follow(&self, clock: &Clock) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut refused = None;
        loop {
            ticks.tick().await;
            let files = self.files.clone();
            let Ok(seen) = tokio::task::spawn_blocking(move || signature(&files)).await else { continue };
            if seen != self.current.load().signature && refused != Some(seen) {
                let (files, http2) = (self.files.clone(), self.http2);
                match tokio::task::spawn_blocking(move || Loaded::read(&files, http2)).await {
                    Ok(Ok(loaded)) => {
                        refused = None;
                        self.current.store(Arc::new(loaded));
                        events::certificate_read();
                    }
                    Ok(Err(error)) => {
                        refused = Some(seen);
                        events::certificate_refused(&error);
                    }
                    Err(_) => {}
                }
            }
            let not_after_ms = self.current.load().not_after_ms;
            events::certificate(not_after_ms, not_after_ms.saturating_sub(clock.now_ms()) < EXPIRY_WARNING_MS);
        }
    }
}

fn signature(files: &TlsFiles) -> Signature {
    [&files.cert_file, &files.key_file].map(|path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
    })
}

impl Loaded {
    fn read(files: &TlsFiles, http2: bool) -> Result<Loaded, TlsError> {
        // Before the content: what changes while it is read is then read again.
        let signature = signature(files);
        let in_file = |file: &Path, problem: String| TlsError { file: file.to_owned(), problem };
        let of_certificate = |problem: String| in_file(&files.cert_file, problem);
        let of_key = |problem: String| in_file(&files.key_file, problem);
        let pem = fs::read(&files.cert_file).map_err(|error| of_certificate(cannot_read(&error)))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| of_certificate(format!("is no PEM: {error}; write the chain as PEM, leaf first")))?;
        let leaf = chain
            .first()
            .ok_or_else(|| of_certificate("holds no certificate; write the chain as PEM, leaf first".to_owned()))?;
        let not_after_ms = not_after_ms(leaf).map_err(of_certificate)?;
        let leaf = leaf.clone();
        let found = fs::metadata(&files.key_file).map_err(|error| of_key(cannot_read(&error)))?;
        let mode = found.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(of_key(format!("other users may read the private key (mode {mode:04o}); chmod 0640 it")));
        }
        let key = PrivateKeyDer::from_pem_file(&files.key_file)
            .map_err(|error| of_key(format!("holds no usable private key: {error}; write it as PEM, not encrypted")))?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        let mut config = config.map_err(|error| of_key(format!("does not go with the certificate: {error}")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if http2 {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        // Early data could be sent again by anybody who saw it.
        config.max_early_data_size = 0;
        Ok(Loaded { config: Arc::new(config), leaf, signature, not_after_ms })
    }
}

fn cannot_read(error: &io::Error) -> String {
    format!("cannot be read: {error}; let the service user read it")
}

fn not_after_ms(leaf: &CertificateDer<'_>) -> Result<i64, String> {
    certificate_end::of(leaf)
        .map(jiff::Timestamp::as_millisecond)
        .ok_or_else(|| "the first certificate cannot be understood; is it X.509?".to_owned())
}

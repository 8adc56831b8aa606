//! The node as a client of its own ingest port: the watchdog's probe and test events take the way that clients take,
//! through TLS where that is on. The certificate is known, so exactly that one is accepted, whatever name it is for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsLibraryError, SignatureScheme,
};

use super::sockets::Listeners;
use super::tls::Tls;

/// A connection to the own port.
pub trait OwnConnection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> OwnConnection for S {}

/// Where the own ingest port is, once it is open. Clones know the same.
#[derive(Clone, Debug, Default)]
pub struct OwnPort(Arc<ArcSwapOption<Place>>);

#[derive(Debug)]
struct Place {
    address: Option<SocketAddr>,
    unix_path: Option<PathBuf>,
    tls: Option<Arc<Tls>>,
}

impl OwnPort {
    /// Notes where the port is now.
    pub fn is_at(&self, listeners: &Listeners) {
        let place = Place {
            address: listeners.addresses().first().copied().map(reachable),
            unix_path: listeners.unix_path().map(std::path::Path::to_owned),
            tls: listeners.tls.clone(),
        };
        self.0.store(Some(Arc::new(place)));
    }

    /// Connects as a client would.
    ///
    /// # Errors
    /// The port is not open, or does not answer.
    pub async fn connect(&self) -> io::Result<Box<dyn OwnConnection>> {
        let place = self.0.load_full().ok_or(io::ErrorKind::NotConnected)?;
        match (place.address, &place.tls, &place.unix_path) {
            (Some(address), None, _) => Ok(Box::new(TcpStream::connect(address).await?)),
            (Some(address), Some(tls), _) => {
                let connector = TlsConnector::from(Arc::new(only(tls.leaf())?));
                let name = ServerName::from(address.ip());
                Ok(Box::new(connector.connect(name, TcpStream::connect(address).await?).await?))
            }
            (None, _, Some(path)) => Ok(Box::new(UnixStream::connect(path).await?)),
            (None, _, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// The address that reaches a listener of this machine: loopback instead of "all interfaces".
pub fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

fn only(leaf: CertificateDer<'static>) -> io::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let verifier = Arc::new(OnlyThis { leaf, algorithms });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Accepts one certificate, byte by byte.
#[derive(Debug)]
struct OnlyThis {
    leaf: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OnlyThis {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsLibraryError> {
        if end_entity.as_ref() == self.leaf.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsLibraryError> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsLibraryError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_interfaces_are_reached_through_loopback() {
        for (bound, reached) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:8080", "[::1]:8080"),
            ("10.1.2.3:8080", "10.1.2.3:8080"),
            ("127.0.0.1:1", "127.0.0.1:1"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
